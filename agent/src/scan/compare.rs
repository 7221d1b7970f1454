//! Owns comparing a root with a manifest: what a walk finds becomes drifts. Must not own the walk, or what becomes of a drift.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use driftlock_common::compared::Compared;
use driftlock_common::drift::{Attributes, Delta, Drift, Sealed};
use driftlock_common::finding::Unjudged;
use driftlock_common::gap::Reason;
use driftlock_common::manifest::Manifest;
use driftlock_common::node::FileType;
use driftlock_common::path::TreePath;
use driftlock_common::tree::{EntryId, Origin, Tree};
use rustix::io::fcntl_dupfd_cloexec;

use super::collapse::Collapse;
use super::content::Wanted;
use super::directory::Budget;
use super::growing::Growth;
use super::look::{Look, Seen};
use super::open::Crossing;
use super::readers::Readers;
use super::walk::{Met, Sink, Walk};
use super::{Mounts, Options, Outcome, Root, Scope, Stats};
use crate::judge::Judge;
use crate::pool::Pool;
use crate::process::Process;

/// What a root is compared with.
pub trait Expected: Sync {
    /// The tree, and the terms that it was sealed under.
    fn manifest(&self) -> &Manifest;

    /// Where an entry of the tree came from, for showing it.
    fn origin(&self, id: EntryId) -> Origin;

    /// Which of several manifests sealed an entry of the tree.
    fn part(&self, id: EntryId) -> usize;

    /// Whether one of several manifests specifies more than the terms have.
    fn is_narrowed(&self) -> bool;
}

impl Expected for Manifest {
    fn manifest(&self) -> &Manifest {
        self
    }

    fn origin(&self, id: EntryId) -> Origin {
        self.tree.origin(id)
    }

    fn part(&self, _id: EntryId) -> usize {
        0
    }

    fn is_narrowed(&self) -> bool {
        false
    }
}

/// Compares what is below `root` with `expected`, within `scope`, and hands every drift to `found`: from many threads, in
/// order of discovery, one for each path. What was removed comes last, once it is certain that the root is still there.
///
/// Ends early once `cancel` is set, which it does itself when the process of the root has ended.
pub fn compare(
    root: &Root,
    expected: &dyn Expected,
    options: &Options,
    scope: &Scope,
    pool: &Pool,
    cancel: &AtomicBool,
    found: &(dyn Fn(Drift) + Sync),
) -> Outcome {
    let started = Instant::now();
    let manifest = expected.manifest();
    let compared = options.compared(manifest.header.profile);
    let walked = AtomicBool::new(false);
    let found = |drift: Drift| {
        if options.transition.as_ref().is_some_and(|transition| transition.covers(&drift, compared)) {
            return;
        }
        // What is taken apart after the end of a process is not what it ran with. After the walk it is known whether it
        // lived until then.
        if walked.load(Ordering::Relaxed) || root.process().is_none_or(Process::is_alive) {
            found(drift);
        } else {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let growing = options.growing.as_deref().zip(options.policy.as_deref());
    let growth = growing.map(|(growing, policy)| growing.begin(root, policy, manifest.header.content));
    let growth = growth.as_ref();
    let sink = Found {
        expected,
        tree: &manifest.tree,
        options,
        judge: options.judge(),
        growth,
        found: &found,
        removed: Mutex::default(),
        top: Mutex::default(),
        collapse: options.collapse.map(|limit| Mutex::new(Collapse::new(limit))),
        gaps: AtomicU64::new(0),
    };
    let digests = Wanted { algorithm: manifest.header.content, sha256: false };
    let crossing = if options.mounts == Mounts::Cross { Crossing::Allowed } else { Crossing::Refused };
    let table = root.mount_table();
    let ids = root.ids(&options.id_view);
    let look = Look {
        compared,
        digests,
        crossing,
        top: root.stat(),
        mounts: &table,
        ids: &ids,
        pace: options.pace.as_deref(),
        cancel,
        progress: options.progress.as_deref(),
    };
    let walk = Walk {
        tree: &manifest.tree,
        excludes: &manifest.header.excludes,
        options,
        sweep: options.state.as_ref().map(|(state, rely)| state.sweep(root, *rely)),
        growth,
        look,
        budget: Budget::of_process(pool.threads()),
        readers: Readers::of(pool),
        sink: &sink,
        met: Met::default(),
    };
    let still_there = || root.check_same().is_ok();
    let mut root_lost = !still_there();
    if !root_lost {
        match fcntl_dupfd_cloexec(root.as_fd(), 0) {
            Ok(top) => pool.run(|| walk.run(top, scope)),
            Err(_) => sink.unverifiable(TreePath::root(), Reason::Resources, sink.all(), Some(EntryId::ROOT)),
        }
        root_lost = !still_there();
    }
    walked.store(true, Ordering::Relaxed);
    if let Some(sweep) = &walk.sweep
        && !root_lost
        && !walk.met.interrupted.load(Ordering::Relaxed)
    {
        sweep.came_to_its_end();
    }
    let met = walk.met;
    let mut mounts = met.mounts.into_inner().unwrap_or_else(PoisonError::into_inner);
    mounts.sort();
    mounts.dedup();
    let mut virtual_mounts = met.virtual_mounts.into_inner().unwrap_or_else(PoisonError::into_inner);
    virtual_mounts.sort();
    virtual_mounts.dedup();
    let own_state = met.own_state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let gaps = sink.finish(root_lost);
    if let Some(growth) = growth
        && *scope == Scope::All
        && !root_lost
        && !met.interrupted.load(Ordering::Relaxed)
    {
        growth.finish();
    }
    Outcome {
        stats: Stats {
            entries: met.entries.into_inner(),
            remembered: met.remembered.into_inner(),
            files_hashed: met.files_hashed.into_inner(),
            bytes_hashed: met.bytes_hashed.into_inner(),
            duration: started.elapsed(),
            waited: options.pace.as_ref().map_or(Duration::ZERO, |pace| pace.take_waited()),
        },
        root_lost,
        // Of a root that is lost nothing was looked at.
        interrupted: met.interrupted.into_inner() && !root_lost,
        unreached: if root_lost { 0 } else { met.unreached.into_inner() },
        gaps,
        unjudged: Unjudged { entries: met.unjudged.into_inner(), bytes: met.unjudged_bytes.into_inner() },
        partial: !options.local_excludes.is_empty()
            || options.transition.is_some()
            || compared != Compared::all(manifest.header.profile)
            || expected.is_narrowed()
            || own_state.is_some()
            || !virtual_mounts.is_empty()
            || mounts.iter().any(|path| options.wants_mount(path)),
        mounts,
        virtual_mounts,
        own_state,
    }
}

/// Makes drifts of differences.
struct Found<'a> {
    expected: &'a dyn Expected,
    tree: &'a Tree,
    options: &'a Options,
    judge: Judge<'a>,
    growth: Option<&'a Growth<'a>>,
    found: &'a (dyn Fn(Drift) + Sync),
    /// Held back until the root is known to be there: if it is not, nothing of this is true.
    removed: Mutex<Vec<EntryId>>,
    /// The drift of the root itself, held back likewise.
    top: Mutex<Option<Drift>>,
    collapse: Option<Mutex<Collapse>>,
    gaps: AtomicU64,
}

impl Found<'_> {
    fn sealed(&self, id: EntryId) -> Sealed {
        Sealed { node: self.tree.node(id), origin: self.expected.origin(id), part: self.expected.part(id) }
    }

    fn emit(&self, drift: Drift) {
        if drift.has_gap() {
            self.gaps.fetch_add(1, Ordering::Relaxed);
        }
        (self.found)(drift);
    }

    /// A drift of what is sealed or where something is known to be wrong, other than an added path.
    fn emit_own(&self, drift: Drift) {
        if let Some(collapse) = &self.collapse {
            collapse.lock().unwrap_or_else(PoisonError::into_inner).occupy(&drift.path);
        }
        if drift.path.is_root() {
            *self.top.lock().unwrap_or_else(PoisonError::into_inner) = Some(drift);
        } else {
            self.emit(drift);
        }
    }

    /// All sealed entries, the root's too; those left out locally are not counted.
    fn all(&self) -> u64 {
        let local = &self.options.local_excludes;
        let tree = self.tree;
        tree.iter().filter(|id| local.is_empty() || !local.excludes(&tree.path(*id))).count() as u64
    }

    /// Emits what was held back; the number of gaps.
    fn finish(mut self, root_lost: bool) -> u64 {
        let top = std::mem::take(self.top.get_mut().unwrap_or_else(PoisonError::into_inner));
        let gone = std::mem::take(self.removed.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(collapse) = self.collapse.take() {
            collapse.into_inner().unwrap_or_else(PoisonError::into_inner).finish().for_each(|drift| self.emit(drift));
        }
        let tree = self.tree;
        if root_lost {
            let expected = Some(self.sealed(EntryId::ROOT));
            let delta = Delta::Unverifiable { reason: Reason::RootLost, covers: self.all(), expected };
            self.emit(Drift { path: TreePath::root(), delta });
        } else {
            top.into_iter().for_each(|drift| self.emit(drift));
            for id in gone.into_iter().flat_map(|id| tree.subtree(id)) {
                let drift = Drift { path: tree.path(id), delta: Delta::Removed { expected: self.sealed(id) } };
                if !self.options.local_excludes.excludes(&drift.path) {
                    if let Some(growth) = self.growth {
                        growth.gone(&drift.path, &tree.node(id));
                    }
                    self.emit(drift);
                }
            }
        }
        self.gaps.into_inner()
    }
}

impl Sink for Found<'_> {
    fn added(&self, path: TreePath, seen: Seen) {
        let Seen { node: observed, unverified, .. } = seen;
        let drift = Drift { path, delta: Delta::Added { observed, unverified, collapsed: None } };
        let Some(collapse) = &self.collapse else { return self.emit(drift) };
        let tolerated = self.judge.verdict(&drift).is_some_and(|verdict| !verdict.is_alert());
        let mut collapse = collapse.lock().unwrap_or_else(PoisonError::into_inner);
        if !tolerated {
            return collapse.add(drift);
        }
        if drift.observed().is_some_and(|node| node.file_type() == FileType::Directory) {
            collapse.occupy(&drift.path);
        }
        drop(collapse);
        self.emit(drift);
    }

    fn changed(&self, path: TreePath, id: EntryId, attributes: Attributes, seen: Seen) {
        let Seen { node: observed, unverified, .. } = seen;
        let expected = self.sealed(id);
        self.emit_own(Drift { path, delta: Delta::Changed { attributes, expected, observed, unverified } });
    }

    fn removed(&self, id: EntryId) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn unverifiable(&self, path: TreePath, reason: Reason, covers: u64, id: Option<EntryId>) {
        let expected = id.map(|id| self.sealed(id));
        self.emit_own(Drift { path, delta: Delta::Unverifiable { reason, covers, expected } });
    }
}
