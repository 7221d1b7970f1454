//! Owns which sealed paths are names of an inode. Must not own finding that out: the scanner notes it.

use std::sync::Arc;

use driftlock_common::path::TreePath;

use crate::baseline::Baseline;
use crate::scan::Inodes;

/// What is sealed, by inode.
#[derive(Clone, Debug)]
pub struct Names {
    baseline: Arc<Baseline>,
    inodes: Arc<Inodes>,
}

impl Names {
    /// Of the entries of `baseline`, as far as `inodes`, which is of them, knows.
    pub const fn new(baseline: Arc<Baseline>, inodes: Arc<Inodes>) -> Self {
        Self { baseline, inodes }
    }

    /// The sealed paths that an inode was found at.
    pub(super) fn of(&self, inode: u64) -> Vec<TreePath> {
        let tree = &self.baseline.manifest().tree;
        self.inodes.find(inode).into_iter().filter_map(|index| tree.at(index)).map(|id| tree.path(id)).collect()
    }
}
