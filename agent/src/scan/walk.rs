//! Owns the way through a root: one task for each directory, and for each 64 names of one with more. Must not own what
//! becomes of a difference; a [`Sink`] does.

mod descend;
mod judge;
mod large;

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use driftlock_common::drift::{Attribute, Attributes};
use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Kind};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::{EntryId, Tree};

use super::directory::{Budget, Directory};
use super::growing::Growth;
use super::list::{self, Last, Listing};
use super::look::{Look, Seen};
use super::open::{Stat, Trouble, open_directory, reopen_directory, stat_at, stat_fd};
use super::readers::{Group, Readers};
use super::state::Sweep;
use super::{Options, Scope};
use large::Large;

/// Names in a task.
const CHUNK: usize = 64;
/// Looks at a name that moves under each of them, before it is `unstable`.
const TRIES: usize = 3;

/// What becomes of differences. Called from many threads.
pub(super) trait Sink: Sync {
    /// On disk, not sealed.
    fn added(&self, path: TreePath, seen: Seen);
    /// Different; `attributes` is not empty.
    fn changed(&self, path: TreePath, id: EntryId, attributes: Attributes, seen: Seen);
    /// Sealed, not on disk, nor is anything below it.
    fn removed(&self, id: EntryId);
    /// Not established; `covers` sealed entries.
    fn unverifiable(&self, path: TreePath, reason: Reason, covers: u64, id: Option<EntryId>);
    /// Left out as the kernel's own; `seen` has nothing but its type. Nothing is to be said of it.
    fn virtual_mount(&self, _path: TreePath, _seen: Seen) {}
}

/// One walk.
pub(super) struct Walk<'a> {
    pub(super) tree: &'a Tree,
    pub(super) excludes: &'a Excludes,
    pub(super) options: &'a Options,
    /// What is remembered of earlier walks.
    pub(super) sweep: Option<Sweep<'a>>,
    /// What is remembered of files that grow.
    pub(super) growth: Option<&'a Growth<'a>>,
    pub(super) look: Look<'a>,
    pub(super) budget: Arc<Budget>,
    pub(super) readers: Readers<Step>,
    pub(super) sink: &'a dyn Sink,
    pub(super) met: Met,
}

/// What a walk met.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub(super) entries: AtomicU64,
    pub(super) remembered: AtomicU64,
    pub(super) files_hashed: AtomicU64,
    pub(super) bytes_hashed: AtomicU64,
    /// Files left unread by the policy, and their bytes.
    pub(super) unjudged: AtomicU64,
    pub(super) unjudged_bytes: AtomicU64,
    pub(super) unreached: AtomicU64,
    pub(super) interrupted: AtomicBool,
    pub(super) mounts: Mutex<Vec<TreePath>>,
    pub(super) virtual_mounts: Mutex<Vec<TreePath>>,
    pub(super) own_state: Mutex<Option<TreePath>>,
}

/// Where tasks are made: what waits for them, to the pool and to its threads.
#[derive(Clone, Copy)]
pub(super) struct Tasks<'a, 's> {
    pub(super) scope: &'a rayon::Scope<'s>,
    pub(super) group: &'a Arc<Group>,
}

/// What a task does.
#[derive(Debug)]
pub(super) enum Step {
    /// Enters a directory, whose parent is given.
    Enter(Arc<Directory>, Ahead),
    /// Looks at the names from one to another of a directory.
    Names(Arc<Directory>, Arc<Listing>, usize, usize),
}

/// A directory that is still to be entered.
#[derive(Clone, Debug)]
pub(super) struct Ahead {
    name: Box<CStr>,
    sealed: Option<EntryId>,
    stat: Stat,
}

impl<'s> Walk<'s> {
    /// Walks `scope` to its end.
    pub(super) fn run(&'s self, top: OwnedFd, scope: &Scope) {
        let directory = Directory::top(top, *self.look.top);
        let group = Arc::default();
        rayon::scope(|all| {
            let tasks = Tasks { scope: all, group: &group };
            match scope {
                Scope::All => self.enter_top(tasks, directory),
                Scope::Subtree(path) if path.is_root() => self.enter_top(tasks, directory),
                Scope::Entry(path) if path.is_root() => self.look_at_top(&directory),
                Scope::Subtree(path) => self.enter_at(tasks, directory, path, true),
                Scope::Entry(path) => self.enter_at(tasks, directory, path, false),
            }
        });
    }

    fn enter_top(&'s self, tasks: Tasks<'_, 's>, directory: Arc<Directory>) {
        match directory.with_fd(self.look.crossing, reopen_directory) {
            Ok(Ok(fd)) => self.inside(tasks, directory, fd, Some(EntryId::ROOT)),
            Ok(Err(error)) => self.unreadable(&directory, Some(EntryId::ROOT), Trouble::from(error).reason()),
            Err(trouble) => self.unreadable(&directory, Some(EntryId::ROOT), trouble.reason()),
        }
    }

    /// Makes a task of a step.
    fn spawn(&'s self, tasks: Tasks<'_, 's>, step: Step) {
        tasks.group.announce();
        let group = Arc::clone(tasks.group);
        tasks.scope.spawn(move |scope| {
            self.readers.work(step, &group, |step| self.step(Tasks { scope, group: &group }, step));
        });
    }

    fn step(&'s self, tasks: Tasks<'_, 's>, step: Step) {
        match step {
            Step::Enter(parent, ahead) => self.enter(tasks, &parent, ahead),
            Step::Names(directory, listing, low, high) => self.chunks(tasks, directory, listing, low, high),
        }
    }

    /// A directory and, by further tasks, what is in it.
    fn enter(&'s self, tasks: Tasks<'_, 's>, parent: &Arc<Directory>, mut ahead: Ahead) {
        for _ in 0..TRIES {
            if self.stopped(ahead.sealed) {
                return;
            }
            let crossing = self.look.crossing;
            let opened = parent.with_fd(crossing, |fd| open_directory(fd, &ahead.name, crossing)).map(|fd| {
                let fd = fd?;
                let stat = stat_fd(fd.as_fd())?;
                Ok::<_, rustix::io::Errno>((fd, stat))
            });
            let trouble = match opened {
                Ok(Ok((_, stat))) if self.look.is_mount(&stat) => Trouble::Mount,
                Ok(Ok((fd, stat))) => {
                    let directory = Directory::below(Arc::clone(parent), &ahead.name, stat);
                    if self.is_own_state(&stat) {
                        return self.meet_own_state(directory.path());
                    }
                    return self.inside(tasks, directory, fd, ahead.sealed);
                }
                Ok(Err(error)) => error.into(),
                Err(trouble) => return self.out_of_reach(parent, &ahead.name, ahead.sealed, trouble),
            };
            match trouble {
                Trouble::Gone => return self.gone(ahead.sealed),
                Trouble::Mount => {
                    return self.mount_point(parent, &ahead.name, ahead.sealed, FileType::Directory);
                }
                Trouble::Moved => {
                    // It was a directory a moment ago: look again at what it is now.
                    let again = parent.with_fd(crossing, |fd| self.entry(parent, fd, &ahead.name, ahead.sealed));
                    match again {
                        Ok(Some(next)) => ahead = next,
                        Ok(None) => return,
                        Err(trouble) => return self.out_of_reach(parent, &ahead.name, ahead.sealed, trouble),
                    }
                }
                Trouble::Interrupted | Trouble::Gap(_) => {
                    let directory = Directory::below(Arc::clone(parent), &ahead.name, ahead.stat);
                    return self.unreadable(&directory, ahead.sealed, trouble.reason());
                }
            }
        }
        self.gap(parent.path_of(&ahead.name), ahead.sealed, Reason::Unstable, self.covers(ahead.sealed));
    }

    /// An opened directory.
    fn inside(&'s self, tasks: Tasks<'_, 's>, directory: Arc<Directory>, fd: OwnedFd, sealed: Option<EntryId>) {
        let (mut whole, mut large) = (Listing::default(), None);
        let listed = list::read(fd.as_fd(), |part, last| {
            if let Some(pace) = self.look.pace {
                pace.listed(part.len(), self.look.cancel);
            }
            match &mut large {
                None if last == Last::Yes => {
                    whole = part;
                    Ok(())
                }
                None => large.insert(Large::begin(self, &directory, fd.as_fd(), sealed)?).part(part),
                Some(large) => large.part(part),
            }
        });
        if let Some(large) = large {
            return large.finish(listed);
        }
        let as_directory = sealed.filter(|id| self.tree.file_type(*id) == FileType::Directory);
        let too_deep = whole.longest() > directory.room();
        whole.drop_longer(directory.room());
        let listed = listed.and_then(|()| as_directory.map_or(Ok(()), |id| whole.merge(self.tree, id)));
        if let Err(error) = listed {
            return self.unreadable(&directory, sealed, Trouble::from(error).reason());
        }
        if too_deep || !self.is_as_remembered(sealed, directory.stat()) {
            let want = self.want(sealed, FileType::Directory);
            let mut seen = self.look.directory(fd.as_fd(), directory.stat(), want);
            if too_deep {
                seen.miss(Attribute::Content, Reason::TooDeep);
            }
            self.judge(&|| directory.path(), sealed, seen);
        }
        let listing = whole;
        if listing.len() > CHUNK {
            directory.keep(fd, &self.budget);
            let listing = Arc::new(listing);
            let len = listing.len();
            return self.chunks(tasks, directory, listing, 0, len);
        }
        let ahead = self.names(&directory, fd.as_fd(), &listing, 0, listing.len());
        if !ahead.is_empty() {
            directory.keep(fd, &self.budget);
            self.spawn_all(tasks, directory, ahead);
        }
    }

    /// The names from `low` to `high` of a large directory. Halves are split off until one chunk is left, so
    /// that few tasks wait however large the directory is.
    fn chunks(
        &'s self,
        tasks: Tasks<'_, 's>,
        directory: Arc<Directory>,
        listing: Arc<Listing>,
        low: usize,
        mut high: usize,
    ) {
        while high - low > CHUNK {
            let middle = low + ((high - low) / 2).next_multiple_of(CHUNK);
            let (directory, listing) = (Arc::clone(&directory), Arc::clone(&listing));
            self.spawn(tasks, Step::Names(directory, listing, middle, high));
            high = middle;
        }
        let ahead = directory.with_fd(self.look.crossing, |fd| self.names(&directory, fd, &listing, low, high));
        match ahead {
            Ok(ahead) => self.spawn_all(tasks, directory, ahead),
            Err(trouble) => (low..high).for_each(|index| {
                let (name, sealed) = listing.get(index);
                self.out_of_reach(&directory, name, sealed, trouble);
            }),
        }
    }

    fn spawn_all(&'s self, tasks: Tasks<'_, 's>, directory: Arc<Directory>, ahead: Vec<Ahead>) {
        // A thread takes its newest task first, so this order is that of the names.
        for next in ahead.into_iter().rev() {
            self.spawn(tasks, Step::Enter(Arc::clone(&directory), next));
        }
    }

    /// Looks at names; what is a directory is still to be entered.
    fn names(
        &self,
        directory: &Directory,
        fd: BorrowedFd<'_>,
        listing: &Listing,
        low: usize,
        high: usize,
    ) -> Vec<Ahead> {
        (low..high)
            .filter_map(|index| {
                let (name, sealed) = listing.get(index);
                if self.is_excluded(directory, name, sealed) { None } else { self.entry(directory, fd, name, sealed) }
            })
            .collect()
    }

    /// One name, until it holds still; `Some` if it is a directory.
    fn entry(&self, directory: &Directory, fd: BorrowedFd<'_>, name: &CStr, sealed: Option<EntryId>) -> Option<Ahead> {
        if let Some(pace) = self.look.pace {
            pace.entry(self.look.cancel);
        }
        if self.stopped(sealed) {
            return None;
        }
        let path = || directory.path_of(name);
        let mut last = None;
        for _ in 0..TRIES {
            let stat = match stat_at(fd, name).map_err(Trouble::from) {
                Ok(stat) => stat,
                Err(Trouble::Gone) => {
                    self.gone(sealed);
                    return None;
                }
                Err(trouble) => {
                    self.gap(path(), sealed, trouble.reason(), self.covers(sealed));
                    return None;
                }
            };
            if self.look.is_mount(&stat) {
                self.mount_point(directory, name, sealed, stat.file_type);
                return None;
            }
            if stat.file_type == FileType::Directory {
                return Some(Ahead { name: name.into(), sealed, stat });
            }
            self.note(sealed, &stat);
            if self.is_as_remembered(sealed, &stat) {
                return None;
            }
            let wish = self.wish(&path, sealed, &stat);
            let grower = self.grower(&path, sealed, &stat);
            match self.look.entry(fd, name, &stat, wish, grower.as_ref()) {
                Ok(seen) => {
                    self.judge(&path, sealed, seen);
                    return None;
                }
                Err(Trouble::Moved) => last = Some((stat, wish.want)),
                Err(Trouble::Gone) => {
                    self.gone(sealed);
                    return None;
                }
                Err(Trouble::Mount) => {
                    self.mount_point(directory, name, sealed, stat.file_type);
                    return None;
                }
                Err(Trouble::Interrupted) => {
                    self.unreached(sealed);
                    return None;
                }
                Err(Trouble::Gap(reason)) => {
                    self.gap(path(), sealed, reason, self.covers(sealed));
                    return None;
                }
            }
        }
        match last {
            // What does not move with the content can still be told.
            Some((stat, want)) if stat.file_type == FileType::File => {
                let mut seen = self.look.of_stat(&stat);
                seen.node.kind = Kind::File { size: None, content: None };
                seen.node.mtime = None;
                seen.miss_all(want, Reason::Unstable);
                self.judge(&path, sealed, seen);
            }
            _ => self.gap(path(), sealed, Reason::Unstable, self.covers(sealed)),
        }
        None
    }
}
