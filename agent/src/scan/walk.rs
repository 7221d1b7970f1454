//! Owns the way through a root: one task for each directory, and for each 64 names of a large one. Must not own what becomes
//! of a difference; a [`Sink`] does.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use driftlock_common::drift::{Attribute, Attributes, Unverified, differences};
use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Kind, Node, Presence};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::{EntryId, Tree};
use rayon::Scope as Tasks;

use super::directory::{Budget, Directory};
use super::list::Listing;
use super::look::{Look, Seen};
use super::open::{Stat, Trouble, open_directory, reopen_directory, stat_at, stat_fd};
use super::{Mounts, Options, Scope};

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
}

/// One walk.
pub(super) struct Walk<'a> {
    pub(super) tree: &'a Tree,
    pub(super) excludes: &'a Excludes,
    pub(super) options: &'a Options,
    pub(super) look: Look<'a>,
    pub(super) budget: Arc<Budget>,
    pub(super) sink: &'a dyn Sink,
    pub(super) met: Met,
}

/// What a walk met.
#[derive(Debug, Default)]
pub(super) struct Met {
    pub(super) entries: AtomicU64,
    pub(super) files_hashed: AtomicU64,
    pub(super) bytes_hashed: AtomicU64,
    pub(super) unreached: AtomicU64,
    pub(super) interrupted: AtomicBool,
    pub(super) mounts: Mutex<Vec<TreePath>>,
    pub(super) own_state: Mutex<Option<TreePath>>,
}

/// A directory that is still to be entered.
#[derive(Clone)]
struct Ahead {
    name: Box<CStr>,
    sealed: Option<EntryId>,
    stat: Stat,
}

impl<'s> Walk<'s> {
    /// Walks `scope` to its end.
    pub(super) fn run(&'s self, top: OwnedFd, scope: &Scope) {
        let directory = Directory::top(top, *self.look.top);
        rayon::scope(|tasks| match scope {
            Scope::All => self.enter_top(tasks, directory),
            Scope::Subtree(path) if path.is_root() => self.enter_top(tasks, directory),
            Scope::Entry(path) if path.is_root() => self.look_at_top(&directory),
            Scope::Subtree(path) => self.enter_at(tasks, directory, path, true),
            Scope::Entry(path) => self.enter_at(tasks, directory, path, false),
        });
    }

    fn enter_top(&'s self, tasks: &Tasks<'s>, directory: Arc<Directory>) {
        match directory.with_fd(self.look.crossing, reopen_directory) {
            Ok(Ok(fd)) => self.inside(tasks, directory, fd, Some(EntryId::ROOT)),
            Ok(Err(error)) => self.unreadable(&directory, Some(EntryId::ROOT), Trouble::from(error).reason()),
            Err(trouble) => self.unreadable(&directory, Some(EntryId::ROOT), trouble.reason()),
        }
    }

    fn look_at_top(&'s self, directory: &Arc<Directory>) {
        let opened = directory.with_fd(self.look.crossing, reopen_directory);
        let want = self.want(Some(EntryId::ROOT), FileType::Directory);
        let seen = match opened {
            Ok(Ok(fd)) => self.look.directory(fd.as_fd(), directory.stat(), want),
            Ok(Err(error)) => self.directory_unopened(directory.stat(), want, Trouble::from(error).reason()),
            Err(trouble) => self.directory_unopened(directory.stat(), want, trouble.reason()),
        };
        self.judge(&|| TreePath::root(), Some(EntryId::ROOT), seen);
    }

    fn directory_unopened(&self, stat: &Stat, want: Presence, reason: Reason) -> Seen {
        let mut seen = self.look.of_stat(stat);
        seen.miss_all(want, reason);
        seen
    }

    /// Goes down to `path` and looks there.
    fn enter_at(&'s self, tasks: &Tasks<'s>, top: Arc<Directory>, path: &TreePath, below: bool) {
        if self.excludes.excludes(path) || self.options.local_excludes.excludes(path) {
            return;
        }
        let sealed = self.tree.find(path);
        let names: Vec<CString> =
            path.components().map(|name| CString::new(name).expect("a path of a tree holds no NUL")).collect();
        let Some((last, above)) = names.split_last() else { return };
        let mut directory = top;
        let mut id = Some(EntryId::ROOT);
        for name in above {
            id = id.and_then(|id| self.tree.child(id, name.to_bytes()));
            match self.go_down(&directory, name, id) {
                Ok(next) => directory = next,
                Err(true) => return self.gone(sealed),
                Err(false) => return,
            }
        }
        let found = directory.with_fd(self.look.crossing, |fd| self.entry(&directory, fd, last, sealed));
        match found {
            Ok(Some(ahead)) => {
                let as_sealed = sealed.is_some_and(|id| self.tree.node(id).file_type() == FileType::Directory);
                if below || !as_sealed {
                    self.enter(tasks, &directory, ahead);
                } else {
                    self.directory_alone(&directory, &ahead);
                }
            }
            Ok(None) => {}
            Err(trouble) => self.out_of_reach(&directory, last, sealed, trouble),
        }
    }

    /// Enters an ancestor of the scope. `Err(true)` if what is below it cannot be there, `Err(false)` if that was reported
    /// as something else.
    fn go_down(&'s self, directory: &Arc<Directory>, name: &CStr, id: Option<EntryId>) -> Result<Arc<Directory>, bool> {
        let path = || directory.path_of(name);
        for _ in 0..TRIES {
            let opened = directory.with_fd(self.look.crossing, |fd| open_directory(fd, name, self.look.crossing));
            let trouble = match opened {
                Ok(Ok(fd)) => match stat_fd(fd.as_fd()) {
                    Ok(stat) if self.look.is_mount(&stat) => Trouble::Mount,
                    Ok(stat) if self.is_own_state(&stat) => {
                        self.meet_own_state(path());
                        return Err(false);
                    }
                    Ok(stat) => {
                        let entered = Directory::below(Arc::clone(directory), name, stat);
                        entered.keep(fd, &self.budget);
                        return Ok(entered);
                    }
                    Err(error) => error.into(),
                },
                Ok(Err(error)) => error.into(),
                Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Gone => return Err(true),
                Trouble::Moved => {
                    // Another type, as far as a look can tell: then nothing can be below it.
                    let stat = directory.with_fd(self.look.crossing, |fd| stat_at(fd, name));
                    if matches!(stat, Ok(Ok(stat)) if stat.file_type != FileType::Directory) {
                        return Err(true);
                    }
                }
                Trouble::Mount => {
                    self.mount_point(path(), id, FileType::Directory);
                    return Err(false);
                }
                Trouble::Interrupted | Trouble::Gap(_) => {
                    self.gap(path(), id, trouble.reason(), self.covers(id));
                    return Err(false);
                }
            }
        }
        self.gap(path(), id, Reason::Unstable, self.covers(id));
        Err(false)
    }

    /// A sealed directory itself, without what is in it.
    fn directory_alone(&'s self, parent: &Arc<Directory>, ahead: &Ahead) {
        let want = self.want(ahead.sealed, FileType::Directory);
        let mut seen = self.look.of_stat(&ahead.stat);
        if want.contains(Presence::XATTRS) {
            let opened = parent.with_fd(self.look.crossing, |fd| open_directory(fd, &ahead.name, self.look.crossing));
            seen = match opened {
                Ok(Ok(fd)) => self.look.directory(fd.as_fd(), &ahead.stat, want),
                Ok(Err(error)) => self.directory_unopened(&ahead.stat, want, Trouble::from(error).reason()),
                Err(trouble) => self.directory_unopened(&ahead.stat, want, trouble.reason()),
            };
        }
        self.judge(&|| parent.path_of(&ahead.name), ahead.sealed, seen);
    }

    /// A task: a directory and, by further tasks, what is in it.
    fn enter(&'s self, tasks: &Tasks<'s>, parent: &Arc<Directory>, mut ahead: Ahead) {
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
            let path = || parent.path_of(&ahead.name);
            match trouble {
                Trouble::Gone => return self.gone(ahead.sealed),
                Trouble::Mount => return self.mount_point(path(), ahead.sealed, FileType::Directory),
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
    fn inside(&'s self, tasks: &Tasks<'s>, directory: Arc<Directory>, fd: OwnedFd, sealed: Option<EntryId>) {
        let as_directory = sealed.filter(|id| self.tree.node(*id).file_type() == FileType::Directory);
        let listing = Listing::read(fd.as_fd()).and_then(|mut listing| {
            let too_deep = listing.longest() > directory.room();
            if too_deep {
                listing.drop_longer(directory.room());
            }
            if let Some(id) = as_directory {
                listing.merge(self.tree, id)?;
            }
            Ok((listing, too_deep))
        });
        let (listing, too_deep) = match listing {
            Ok(listing) => listing,
            Err(error) => return self.unreadable(&directory, sealed, Trouble::from(error).reason()),
        };
        let want = self.want(sealed, FileType::Directory);
        let mut seen = self.look.directory(fd.as_fd(), directory.stat(), want);
        if too_deep {
            seen.miss(Attribute::Content, Reason::TooDeep);
        }
        self.judge(&|| directory.path(), sealed, seen);
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

    /// A task: the names from `low` to `high` of a large directory. Halves are split off until one chunk is left, so
    /// that few tasks wait however large the directory is.
    fn chunks(
        &'s self,
        tasks: &Tasks<'s>,
        directory: Arc<Directory>,
        listing: Arc<Listing>,
        low: usize,
        mut high: usize,
    ) {
        while high - low > CHUNK {
            let middle = low + ((high - low) / 2).next_multiple_of(CHUNK);
            let (directory, listing) = (Arc::clone(&directory), Arc::clone(&listing));
            let end = high;
            tasks.spawn(move |tasks| self.chunks(tasks, directory, listing, middle, end));
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

    fn spawn_all(&'s self, tasks: &Tasks<'s>, directory: Arc<Directory>, ahead: Vec<Ahead>) {
        // A thread takes its newest task first, so this order is that of the names.
        for next in ahead.into_iter().rev() {
            let directory = Arc::clone(&directory);
            tasks.spawn(move |tasks| self.enter(tasks, &directory, next));
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
                if self.is_excluded(directory, name) { None } else { self.entry(directory, fd, name, sealed) }
            })
            .collect()
    }

    /// One name, until it holds still; `Some` if it is a directory.
    fn entry(&self, directory: &Directory, fd: BorrowedFd<'_>, name: &CStr, sealed: Option<EntryId>) -> Option<Ahead> {
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
                self.mount_point(path(), sealed, stat.file_type);
                return None;
            }
            if stat.file_type == FileType::Directory {
                return Some(Ahead { name: name.into(), sealed, stat });
            }
            let want = self.want(sealed, stat.file_type);
            match self.look.entry(fd, name, &stat, want, self.limit(sealed, &stat)) {
                Ok(seen) => {
                    self.judge(&path, sealed, seen);
                    return None;
                }
                Err(Trouble::Moved) => last = Some((stat, want)),
                Err(Trouble::Gone) => {
                    self.gone(sealed);
                    return None;
                }
                Err(Trouble::Mount) => {
                    self.mount_point(path(), sealed, stat.file_type);
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

    /// Compares what is there with what was sealed there.
    fn judge(&self, path: &dyn Fn() -> TreePath, sealed: Option<EntryId>, seen: Seen) {
        if sealed != Some(EntryId::ROOT) {
            self.met.entries.fetch_add(1, Ordering::Relaxed);
            if let Some(looked_at) = &self.options.looked_at {
                looked_at.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(bytes) = seen.hashed {
            self.met.files_hashed.fetch_add(1, Ordering::Relaxed);
            self.met.bytes_hashed.fetch_add(bytes, Ordering::Relaxed);
        }
        let Some(id) = sealed else { return self.sink.added(path(), seen) };
        let narrowed;
        let mut expected = self.tree.node(id);
        if self.options.profile.is_some() {
            narrowed = expected.clone().masked(self.look.profile.allows(expected.file_type()));
            expected = &narrowed;
        }
        let attributes = differences(expected, &seen.node);
        if attributes.contains(Attribute::Type) {
            self.tree.children(id).for_each(|child| self.sink.removed(child));
        } else if attributes.is_empty() {
            if let Some(Unverified { reason, .. }) = seen.unverified {
                self.gap(path(), sealed, reason, 1);
            }
            return;
        }
        self.sink.changed(path(), id, attributes, seen);
    }

    /// A directory whose names cannot be read.
    fn unreadable(&self, directory: &Directory, sealed: Option<EntryId>, reason: Reason) {
        let want = self.want(sealed, FileType::Directory);
        let mut seen = self.directory_unopened(directory.stat(), want, reason);
        seen.miss(Attribute::Content, reason);
        let same = |id| {
            let expected: Node = self.tree.node(id).clone();
            let presence = self.look.profile.allows(expected.file_type());
            differences(&expected.masked(presence), &seen.node).is_empty()
        };
        match sealed {
            Some(id) if same(id) => self.gap(directory.path(), sealed, reason, self.covers(sealed)),
            Some(id) if self.tree.node(id).file_type() == FileType::Directory => {
                // One finding for each path: the directory's own differences are known, what is in it is not.
                for child in self.tree.children(id) {
                    let path = self.tree.path(child);
                    if !self.options.local_excludes.excludes_entry(&path) {
                        self.gap(path, Some(child), reason, self.covers(Some(child)));
                    }
                }
                self.judge(&|| directory.path(), sealed, seen);
            }
            Some(_) | None => self.judge(&|| directory.path(), sealed, seen),
        }
    }

    /// A name whose directory cannot be found again.
    fn out_of_reach(&self, directory: &Directory, name: &CStr, sealed: Option<EntryId>, trouble: Trouble) {
        if !self.is_excluded(directory, name) {
            match trouble {
                Trouble::Gone => self.gone(sealed),
                Trouble::Moved | Trouble::Mount | Trouble::Interrupted | Trouble::Gap(_) => {
                    self.gap(directory.path_of(name), sealed, trouble.reason(), self.covers(sealed));
                }
            }
        }
    }

    fn mount_point(&self, path: TreePath, sealed: Option<EntryId>, file_type: FileType) {
        let wanted = self.options.mounts == Mounts::Skip || self.options.mounts_allowed.contains(&path);
        self.met.mounts.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        match sealed {
            _ if wanted => {}
            Some(_) => self.gap(path, sealed, Reason::Mount, self.covers(sealed)),
            // That something unsealed is there is certain; what it is, the mount hides.
            None => {
                let kind = match file_type {
                    FileType::Directory => Kind::Directory,
                    FileType::File | FileType::Symlink => Kind::File { size: None, content: None },
                    FileType::Char => Kind::Char(None),
                    FileType::Block => Kind::Block(None),
                    FileType::Fifo => Kind::Fifo,
                    FileType::Socket => Kind::Socket,
                };
                let mut seen = Seen { node: Node::bare(kind), sha256: None, unverified: None, hashed: None };
                seen.miss(Attribute::Content, Reason::Mount);
                self.judge(&|| path.clone(), None, seen);
            }
        }
    }

    fn gap(&self, path: TreePath, sealed: Option<EntryId>, reason: Reason, covers: u64) {
        self.sink.unverifiable(path, reason, covers, sealed);
    }

    fn gone(&self, sealed: Option<EntryId>) {
        if let Some(id) = sealed {
            self.sink.removed(id);
        }
    }

    /// Whether the scan is to end; what was to be looked at is then counted.
    fn stopped(&self, sealed: Option<EntryId>) -> bool {
        let stop = self.look.cancel.load(Ordering::Relaxed);
        if stop {
            self.unreached(sealed);
        }
        stop
    }

    fn unreached(&self, sealed: Option<EntryId>) {
        self.met.interrupted.store(true, Ordering::Relaxed);
        self.met.unreached.fetch_add(self.covers(sealed), Ordering::Relaxed);
    }

    /// How many sealed entries are at and below one, those left out locally not counted.
    fn covers(&self, sealed: Option<EntryId>) -> u64 {
        let local = &self.options.local_excludes;
        sealed.map_or(0, |id| {
            let subtree = self.tree.subtree(id);
            if local.is_empty() {
                subtree.len() as u64
            } else {
                subtree.filter(|id| !local.excludes(&self.tree.path(*id))).count() as u64
            }
        })
    }

    /// What must be established beyond stat: what was sealed, or everything if that is not known.
    fn want(&self, sealed: Option<EntryId>, file_type: FileType) -> Presence {
        let allowed = self.look.profile.allows(file_type);
        match sealed.map(|id| self.tree.node(id)) {
            Some(node) if node.file_type() == file_type => allowed.intersection(node.presence()),
            Some(_) | None => allowed,
        }
    }

    /// How much of a file is hashed: everything if it may be as sealed.
    fn limit(&self, sealed: Option<EntryId>, stat: &Stat) -> Option<u64> {
        match sealed.map(|id| &self.tree.node(id).kind) {
            Some(Kind::File { size, .. }) if size.is_none_or(|size| size == stat.size) => None,
            _ => self.options.hash_limit,
        }
    }

    fn is_excluded(&self, directory: &Directory, name: &CStr) -> bool {
        let local = &self.options.local_excludes;
        if self.excludes.is_empty() && local.is_empty() {
            return false;
        }
        let path = directory.path_of(name);
        self.excludes.excludes_entry(&path) || local.excludes_entry(&path)
    }

    fn is_own_state(&self, stat: &Stat) -> bool {
        self.options.own_state == Some((stat.dev, stat.ino))
    }

    fn meet_own_state(&self, path: TreePath) {
        *self.met.own_state.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }
}
