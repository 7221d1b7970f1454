//! Owns the root that a target's scans and watches share: opened once, so that another directory in its place is noticed;
//! let go when it is lost or its process ended, so that what is there next is a new root. Must not own when it is needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Location;
use crate::failure::Failure;
use crate::process::{Process, ProcessError};
use crate::scan::{Root, RootError};

/// A root, as soon as there was one.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold(Arc<Mutex<Option<Arc<Root>>>>);

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl Hold {
    /// The root at `location`: the one that was first opened, until it is let go.
    ///
    /// # Errors
    /// Why there is none, in one line.
    pub(super) fn root(&self, location: &Location) -> Result<Arc<Root>, String> {
        let mut held = self.lock();
        if let Some(root) = &*held {
            return Ok(root.clone());
        }
        let root = Arc::new(open(location).map_err(|error| Failure::from(error).to_string())?);
        *held = Some(root.clone());
        Ok(root)
    }

    pub(super) fn let_go(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Root>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(location: &Location) -> Result<Root, HoldError> {
    let root = match location {
        Location::Directory(path) => Root::open(path)?,
        Location::Process(selector) => Root::of_process(Process::find(selector)?)?,
    };
    root.check_readable()?;
    Ok(root)
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Root(error) => error.into(),
            HoldError::Process(error) => error.into(),
        }
    }
}
