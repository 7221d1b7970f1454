//! Owns what is accepted of a configured target: its keys, its assignment and its manifest, together. Must not own what
//! becomes of it when it is not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use driftlock_common::exit::Exit;
use driftlock_common::trust::{Mark, Timestamp};

use crate::anchor_file::{self, AnchorFileError};
use crate::assigned::{self, Assigned, AssignedError, Assignee, Serials};
use crate::baseline::{Accept, Baseline, BaselineError, Terms};
use crate::config::{Manifests, State, Target};
use crate::failure::Failure;
use crate::known_time::{self, KnownTime};
use crate::supply::kept::Kept;

/// What a target is compared with, and why that may be.
#[derive(Debug)]
pub struct Admitted {
    /// What it is compared with.
    pub baseline: Baseline,
    /// The assignment that said so, to be kept before it counts.
    pub mark: Option<Mark>,
}

/// Why a target has nothing to be compared with.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Its keys.
    #[error(transparent)]
    Anchors(#[from] AnchorFileError),
    /// Its assignment.
    #[error(transparent)]
    Assigned(#[from] AssignedError),
    /// Its manifest.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// Neither keys nor the wish to do without.
    #[error("target {0}: nobody is trusted with its manifest, and allow_unsigned is false")]
    Nobody(String),
    /// What the collector has was never had.
    #[error("target {0}: nothing was had from the collector yet")]
    NothingHad(String),
}

/// Reads what a target is to be compared with. What is in memory of earlier assignments is in `serials`.
///
/// # Errors
/// If any of its files is refused.
pub fn admit(
    target: &Target,
    labels: &BTreeMap<String, String>,
    serials: &mut Serials,
    now: Timestamp,
) -> Result<Admitted, AdmitError> {
    if target.manifests.files().is_empty() {
        return Err(AdmitError::NothingHad(target.name.clone()));
    }
    let Some(anchors) = anchor_file::load(&target.trust)? else {
        if !target.allow_unsigned {
            return Err(AdmitError::Nobody(target.name.clone()));
        }
        let baseline = Baseline::load_all(target.manifests.files(), &Accept::Unsigned)?;
        return Ok(Admitted { baseline, mark: None });
    };
    let to = Assignee { target: &target.name, labels };
    let assigned =
        target.assignment.as_deref().map(|path| assigned::take(path, to, &anchors, serials, now)).transpose()?;
    let terms = Terms { anchors: Arc::new(anchors), now, assigned };
    let baseline = Baseline::load_all(&bundles(target, assigned), &Accept::Signed(terms))?;
    Ok(Admitted { baseline, mark: assigned.map(Assigned::mark) })
}

/// A directory stands for the bundle in it that the assignment names.
fn bundles(target: &Target, assigned: Option<Assigned>) -> Vec<PathBuf> {
    let named = |path: &PathBuf| match assigned {
        Some(assigned) if path.is_dir() => path.join(format!("{}.bundle", assigned.manifest())),
        _ => path.clone(),
    };
    target.manifests.files().iter().map(named).collect()
}

/// As [`admit`], for a command: the serials and the time of the agent are looked at and never written.
///
/// # Errors
/// As [`admit`].
pub fn look(target: &Target, labels: &BTreeMap<String, String>, state: &State) -> Result<Baseline, AdmitError> {
    let (mut serials, kept, now) = match state {
        State::Directory(directory) => (
            Serials::of(&target.name, directory),
            Kept::of(&target.name, directory).accepted(),
            KnownTime::peek(directory),
        ),
        State::Memory => (Serials::none(), None, known_time::now()),
    };
    let target = match (&target.manifests, kept) {
        (Manifests::Collector { .. }, Some(set)) => &set.of(target),
        _ => target,
    };
    admit(target, labels, &mut serials, now).map(|admitted| admitted.baseline)
}

impl AdmitError {
    /// Whether only time made it so.
    pub const fn is_expiry(&self) -> bool {
        match self {
            Self::Assigned(error) => error.is_expiry(),
            Self::Baseline(error) => error.is_expiry(),
            Self::Anchors(_) | Self::Nobody(_) | Self::NothingHad(_) => false,
        }
    }
}

impl From<AdmitError> for Failure {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Anchors(error) => error.into(),
            AdmitError::Assigned(error) => error.into(),
            AdmitError::Baseline(error) => error.into(),
            AdmitError::Nobody(_) => Self::new(Exit::Refused, error),
            AdmitError::NothingHad(_) => Self::new(Exit::NoInput, error),
        }
    }
}
