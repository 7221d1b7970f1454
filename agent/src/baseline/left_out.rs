//! Owns what of a root does not matter: what the baseline leaves out, and what the configuration does. Must not own the
//! walk: the scanner knows what is sealed where it is.

use std::sync::Arc;

use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::Tree;

use super::Baseline;

/// What is neither scanned nor watched.
#[derive(Clone, Debug, Default)]
pub struct LeftOut {
    baseline: Option<Arc<Baseline>>,
    local: Excludes,
}

impl LeftOut {
    /// What `baseline` leaves out, if there is one, and everything that `local` excludes, sealed or not.
    pub const fn new(baseline: Option<Arc<Baseline>>, local: Excludes) -> Self {
        Self { baseline, local }
    }

    /// What is sealed, if anything is known of it.
    pub fn sealed(&self) -> Option<&Tree> {
        self.baseline.as_ref().map(|baseline| &baseline.manifest().tree)
    }

    /// Whether `path` is left out.
    pub fn has(&self, path: &TreePath) -> bool {
        self.local.excludes(path) || self.baseline.as_ref().is_some_and(|baseline| baseline.leaves_out(path))
    }
}
