//! Owns taking a root as it is, to seal it. Must not own the manifest made of it.

use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use driftlock_common::compared::Compared;
use driftlock_common::digest::Algorithm;
use driftlock_common::drift::Attributes;
use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Node};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::{EntryId, Origin, Tree, TreeBuilder};
use rayon::slice::ParallelSliceMut as _;
use rustix::io::fcntl_dupfd_cloexec;

use super::content::Wanted;
use super::directory::Budget;
use super::ids::IdMap;
use super::look::{Look, Seen};
use super::open::{Crossing, Trouble, reopen_directory};
use super::readers::Readers;
use super::walk::{Met, Sink, Walk};
use super::{Options, Root, Scope, Stats};
use crate::pool::Pool;

/// What is recorded of each entry.
#[derive(Clone, Debug)]
pub struct ObserveTerms {
    /// Which attributes.
    pub profile: Profile,
    /// What content is hashed with.
    pub content: Algorithm,
    /// What is left out.
    pub excludes: Excludes,
    /// Record the SHA-256 of each file beside a BLAKE3 digest.
    pub sha256: bool,
}

/// A root as it is.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Everything that is there, with the root specified as the profile allows. A mount point is a node of which
    /// nothing but the type is specified.
    pub tree: Tree,
    /// What could not be established, in path order: missing in the tree, or there with an attribute unspecified.
    pub gaps: Vec<(TreePath, Reason)>,
    /// Where what the kernel makes is mounted, in path order: mount points as any other, and no gaps.
    pub virtual_mounts: Vec<TreePath>,
    /// What was done.
    pub stats: Stats,
}

/// Takes everything below `root` that `terms` do not leave out, on one file system.
pub fn observe(root: &Root, terms: &ObserveTerms, pool: &Pool) -> Observation {
    let started = Instant::now();
    let nothing = Tree::from_sorted([]).unwrap_or_else(|_| TreeBuilder::new().finish());
    let sink = Taken { sha256: terms.sha256, entries: Mutex::default(), gaps: Mutex::default() };
    let options = Options::default();
    let never = AtomicBool::new(false);
    let digests = Wanted { algorithm: terms.content, sha256: terms.sha256 && terms.content == Algorithm::Blake3 };
    let compared = Compared::all(terms.profile);
    let (crossing, table, ids) = (Crossing::Refused, root.mount_table(), IdMap::default());
    let look = Look {
        compared,
        digests,
        crossing,
        top: root.stat(),
        mounts: &table,
        ids: &ids,
        pace: None,
        cancel: &never,
        progress: None,
    };
    let walk = Walk {
        // Compared with nothing, everything is there in addition.
        tree: &nothing,
        excludes: &terms.excludes,
        options: &options,
        sweep: None,
        growth: None,
        look,
        budget: Budget::of_process(pool.threads()),
        readers: Readers::of(pool),
        sink: &sink,
        met: Met::default(),
    };
    let mut top = look.of_stat(root.stat());
    match reopen_directory(root.as_fd()) {
        Ok(fd) => top = look.directory(fd.as_fd(), root.stat(), terms.profile.allows(FileType::Directory)),
        Err(error) => sink.gap(TreePath::root(), Trouble::from(error).reason()),
    }
    sink.take(TreePath::root(), top);
    match fcntl_dupfd_cloexec(root.as_fd(), 0) {
        Ok(fd) => pool.run(|| walk.run(fd, &Scope::All)),
        Err(_) => sink.gap(TreePath::root(), Reason::Resources),
    }
    if root.check_same().is_err() {
        sink.gap(TreePath::root(), Reason::RootLost);
    }
    let met = walk.met;
    let mut entries = sink.entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut gaps = sink.gaps.into_inner().unwrap_or_else(PoisonError::into_inner);
    pool.run(|| entries.par_sort_unstable_by(|a, b| a.0.cmp(&b.0)));
    let mut builder = TreeBuilder::new();
    for (path, node, origin) in entries {
        // A name that a directory gave twice while it was changed, or one whose directory was replaced meanwhile.
        if builder.push(&path, node, origin).is_err() {
            gaps.push((path, Reason::Unstable));
        }
    }
    gaps.sort_by(|a, b| a.0.cmp(&b.0));
    gaps.dedup_by(|a, b| a.0 == b.0);
    let mut virtual_mounts = met.virtual_mounts.into_inner().unwrap_or_else(PoisonError::into_inner);
    virtual_mounts.sort();
    virtual_mounts.dedup();
    let stats = Stats {
        entries: met.entries.into_inner(),
        remembered: 0,
        files_hashed: met.files_hashed.into_inner(),
        bytes_hashed: met.bytes_hashed.into_inner(),
        duration: started.elapsed(),
        waited: Duration::ZERO,
    };
    Observation { tree: builder.finish(), gaps, virtual_mounts, stats }
}

/// Takes everything down.
struct Taken {
    sha256: bool,
    entries: Mutex<Vec<(TreePath, Node, Origin)>>,
    gaps: Mutex<Vec<(TreePath, Reason)>>,
}

impl Taken {
    fn take(&self, path: TreePath, seen: Seen) {
        if let Some(unverified) = seen.unverified {
            self.gap(path.clone(), unverified.reason);
        }
        let origin = Origin { sha256: seen.sha256.filter(|_| self.sha256), ..Origin::default() };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push((path, seen.node, origin));
    }

    fn gap(&self, path: TreePath, reason: Reason) {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner).push((path, reason));
    }
}

impl Sink for Taken {
    fn added(&self, path: TreePath, seen: Seen) {
        self.take(path, seen);
    }

    fn changed(&self, path: TreePath, _id: EntryId, _attributes: Attributes, seen: Seen) {
        // Nothing is specified of the only sealed entry, the root, so nothing of it differs.
        debug_assert!(path.is_root(), "only the root is sealed");
        drop(seen);
    }

    fn removed(&self, _id: EntryId) {
        debug_assert!(false, "nothing is sealed that could be missing");
    }

    fn unverifiable(&self, path: TreePath, reason: Reason, _covers: u64, _id: Option<EntryId>) {
        self.gap(path, reason);
    }

    fn virtual_mount(&self, path: TreePath, seen: Seen) {
        self.take(path, seen);
    }
}
