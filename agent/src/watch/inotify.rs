//! Owns watching by inotify(7): one watch for each directory below a root, added through the directory's own descriptor,
//! opened as the scanner opens it: never through a link, never into a mount, however long its path. Must not own deciding
//! what a hint leads to, or the names of the directories (`directories`).
//!
//! A new directory is watched first and hinted after, so that what came into it before its watch is found by looking. After
//! an overflow everything is armed anew, from nothing: the events that were lost may have been new directories.
//!
//! Where there are not enough watches, what matters most is watched (`priority`), then what is nearest to the root.

mod priority;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::thread;

use driftlock_common::coverage::{BlindSpot, WatchMode};
use driftlock_common::path::TreePath;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify as Kernel, InotifyEvent, WatchDescriptor};
use rustix::fs::{FileType, RawDir};

use super::channel::{HintSender, Seen};
use super::directories::{Directories, Id};
use super::place::Place;
use super::stop::{Stop, stop};
use super::{Armed, Hint, Rung, Watched, Why};
use crate::scan::{MountTable, Root, Unopened};

/// What happens to an entry of a directory. Neither opens nor reads: the scanner's own would come back as hints.
const ENTRY: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE);
/// What moves the root away from under the watches.
const SELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);
/// What puts another directory in the place of the root. The root itself does not tell that it was removed while somebody
/// holds it, as the agent does.
const PLACE: AddWatchFlags = AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_DELETE).union(AddWatchFlags::IN_MOVE);
/// What changes an entry without making it another one.
const CHANGE: AddWatchFlags =
    AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_ATTRIB).union(AddWatchFlags::IN_CLOSE_WRITE);
/// `IN_EXCL_UNLINK`: nothing of files that are deleted and still written. The crate has no name for it.
const EXCL_UNLINK: AddWatchFlags = AddWatchFlags::from_bits_retain(0x0400_0000);
/// Room for some hundred names for each system call.
const LISTING: usize = 16 * 1024;

/// What the watching thread works with.
#[derive(Debug)]
struct Watch {
    target: Arc<str>,
    watched: Watched,
    root: Arc<Root>,
    mounts: MountTable,
    hints: HintSender,
    kernel: Kernel,
    directories: Directories<WatchDescriptor>,
    /// The root's own. What lies under another top is on its way, and nobody knows where.
    top: Option<Id>,
    /// The watch of the directory that the root lies in, and the root's name there.
    place: Option<(WatchDescriptor, Box<[u8]>)>,
    /// Directories that were moved away, until it is known where to.
    moving: Vec<Moving>,
    shortfall: Shortfall,
    stop: Stop,
}

/// A directory that was taken out of its place by a rename.
#[derive(Debug)]
struct Moving {
    /// Of the rename: it came to where an event of the same says.
    cookie: u32,
    /// Its watch, which is never another's.
    directory: WatchDescriptor,
    /// Where it was: the watch of the directory above, and the name there.
    from: (WatchDescriptor, Box<[u8]>),
}

/// What a directory lies in.
#[derive(Clone, Copy, Debug)]
enum Above {
    /// Nothing: it is the root.
    Nothing,
    Watched(Id),
    Unwatched,
}

/// Which directory of those that wait is watched next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The deepest: the fewest wait.
    Deepest,
    /// The nearest to the root: for where the watches may not be enough.
    Nearest,
}

/// What gives no hint to the watches of directories.
pub(super) const BLIND: [BlindSpot; 5] =
    [BlindSpot::ForeignLink, BlindSpot::LowerLayer, BlindSpot::Remote, BlindSpot::Mapping, BlindSpot::Device];

/// What is not watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shortfall {
    directories: u64,
    /// Why, of the first.
    reason: Option<&'static str>,
    /// Whether there were no more watches for one of them.
    out_of_watches: bool,
}

/// Watches a root from now on: a change after this returns gives a hint. Blocks for as long as it takes to walk all
/// directories. What could not be watched is said, and is no error.
///
/// # Errors
/// If nothing can be watched: what the kernel says.
pub(super) fn arm(target: &Arc<str>, watched: Watched, root: &Arc<Root>, hints: &HintSender) -> io::Result<Rung> {
    let kernel = Kernel::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let (going, stop) = stop()?;
    let mut watch = Watch {
        target: target.clone(),
        watched,
        root: root.clone(),
        mounts: root.mount_table(),
        hints: hints.clone(),
        kernel,
        directories: Directories::new(),
        top: None,
        place: None,
        moving: Vec::new(),
        shortfall: Shortfall::default(),
        stop,
    };
    watch.place = watch.watch_place();
    watch.cover(None, b"", Order::Deepest);
    if watch.shortfall.out_of_watches {
        watch.cover_what_matters_first()?;
    }
    // What is removed can still be watched, to no use.
    if root.check_same().is_err() {
        watch.shortfall.count("the root is not there");
    }
    let armed = watch.shortfall.armed();
    let _ends_by_itself = thread::Builder::new().name("inotify".to_owned()).spawn(move || watch.run())?;
    Ok((Box::new(going), armed))
}

impl Watch {
    fn run(mut self) {
        while !self.stop.is_asked() {
            match self.kernel.read_events() {
                Ok(events) => events.iter().for_each(|event| self.event(event)),
                Err(Errno::EAGAIN) => {
                    // Everything that was written is read: what was moved away and did not come back is outside.
                    for moving in std::mem::take(&mut self.moving) {
                        if let Some(gone) = self.still_away(&moving).filter(|_| !self.is_back(&moving)) {
                            self.forget(gone);
                        }
                    }
                    self.stop.wait(self.kernel.as_fd());
                }
                Err(Errno::EINTR) => {}
                Err(_) => {
                    self.hint(Hint::Everything(Why::Failed));
                    return;
                }
            }
        }
    }

    fn hint(&self, hint: Hint) {
        self.hints.send(&self.target, Seen::Hint(hint, None));
    }

    fn event(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.hint(Hint::Everything(Why::Overflow));
            return;
        }
        if let Some((watch, name)) = &self.place
            && *watch == event.wd
        {
            if event.name.as_ref().is_some_and(|changed| changed.as_bytes() == &**name) {
                self.hint(Hint::Everything(Why::RootMoved));
            }
            return;
        }
        // Of a watch that was given up there may still be events.
        let Some(id) = self.directories.of(event.wd) else { return };
        let top = self.top == Some(id);
        if top && event.mask.intersects(SELF | AddWatchFlags::IN_UNMOUNT | AddWatchFlags::IN_IGNORED) {
            self.hint(Hint::Everything(Why::RootMoved));
        } else if event.mask.contains(AddWatchFlags::IN_UNMOUNT) {
            // What it lay in is there again, and what is watched is gone: that is said next.
            self.hint_at(self.directories.path(id, b""), event.mask);
        } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // Removed, of which the directory above tells, or unmounted.
            self.forget(id);
        } else if let Some(name) = &event.name {
            self.entry(id, name.as_bytes(), event.mask, event.cookie);
        } else if top {
            self.hint_at(self.directories.path(id, b""), event.mask);
        }
    }

    /// Something happened to `name` in a directory.
    fn entry(&mut self, directory: Id, name: &[u8], mask: AddWatchFlags, cookie: u32) {
        let placed = self.is_placed(directory);
        if mask.contains(AddWatchFlags::IN_ISDIR) {
            let known = self.directories.child(directory, name);
            if mask.contains(AddWatchFlags::IN_MOVED_FROM) {
                if let Some(known) = known {
                    self.directories.detach(known);
                    let from = (self.directories.watch(directory), name.into());
                    self.moving.push(Moving { cookie, directory: self.directories.watch(known), from });
                }
            } else if mask.contains(AddWatchFlags::IN_DELETE) {
                known.into_iter().for_each(|known| self.forget(known));
            } else if placed && mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
                // One that was moved here has the watch that it had, under which it is known: so has all below it.
                let before = self.shortfall.clone();
                self.cover(Some(directory), name, Order::Deepest);
                for moving in std::mem::take(&mut self.moving) {
                    if self.still_away(&moving).is_some() && (moving.cookie != cookie || !self.is_back(&moving)) {
                        self.moving.push(moving);
                    }
                }
                if self.shortfall != before {
                    self.hints.send(&self.target, Seen::Degraded(self.shortfall.armed()));
                }
            }
        }
        if placed {
            self.hint_at(self.directories.path(directory, name), mask);
        }
    }

    /// Whether it is known where a directory is. What happens in one that is on its way is found where it comes to.
    fn is_placed(&self, directory: Id) -> bool {
        self.top == Some(self.directories.top(directory))
    }

    /// The directory that was taken out of its place, if it came to no other yet.
    fn still_away(&self, moving: &Moving) -> Option<Id> {
        self.directories.of(moving.directory).filter(|id| self.directories.is_top(*id))
    }

    /// Whether a directory that was taken out of its place is there all the same: where two were exchanged, each is put where
    /// it came to before it is told that the other one left there.
    fn is_back(&mut self, moving: &Moving) -> bool {
        let (above, name) = &moving.from;
        let Some(above) = self.directories.of(*above).filter(|above| self.is_placed(*above)) else { return false };
        self.cover(Some(above), name, Order::Deepest);
        let back = self.still_away(moving).is_none();
        if back {
            // What happened in it meanwhile was told of no place.
            self.hint_at(self.directories.path(above, name), AddWatchFlags::IN_MOVED_TO);
        }
        back
    }

    fn hint_at(&self, path: Vec<u8>, mask: AddWatchFlags) {
        match self.watched.place(&path) {
            Place::At(at) if mask.difference(CHANGE | AddWatchFlags::IN_ISDIR).is_empty() => {
                self.hint(Hint::Touched(at));
            }
            Place::At(at) | Place::Below(at) => self.hint(Hint::Subtree(at)),
            Place::Ignored => {}
        }
    }

    /// Begins anew, now that it is known that the watches are not enough for all.
    fn cover_what_matters_first(&mut self) -> io::Result<()> {
        let Some(sealed) = self.watched.left_out.sealed() else { return Ok(()) };
        let first = priority::first(sealed);
        // With the instance go all watches that it has.
        self.kernel = Kernel::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        self.directories = Directories::new();
        self.shortfall = Shortfall::default();
        self.place = self.watch_place();
        let mut watched = BTreeMap::new();
        for path in [TreePath::root()].into_iter().chain(first) {
            if self.shortfall.out_of_watches || self.stop.is_asked() {
                break;
            }
            let above = match path.parent() {
                None => Above::Nothing,
                Some(parent) => watched.get(&parent).map_or(Above::Unwatched, |id| Above::Watched(*id)),
            };
            // What fails here fails again below, and is counted there.
            if let Ok(directory) = self.root.open_directory(&path, self.watched.mounts, &self.mounts)
                && let Place::At(_) = self.watched.place(path.as_bytes())
                && let Ok(id) = self.add(&directory, above, path.as_bytes())
            {
                watched.insert(path, id);
            }
        }
        self.shortfall = Shortfall::default();
        self.cover(None, b"", Order::Nearest);
        Ok(())
    }

    /// Watches the directory at `name` in `parent` (`None`: the root) and every one below it.
    fn cover(&mut self, parent: Option<Id>, name: &[u8], order: Order) {
        let path = parent.map(|parent| self.directories.path(parent, name)).unwrap_or_default();
        let mut pending = VecDeque::from([(parent.map_or(Above::Nothing, Above::Watched), path)]);
        let next = match order {
            Order::Deepest => VecDeque::pop_back,
            Order::Nearest => VecDeque::pop_front,
        };
        while let Some((above, path)) = next(&mut pending) {
            if self.stop.is_asked() {
                return;
            }
            let place = match self.watched.place(&path) {
                Place::At(place) => place,
                Place::Ignored => continue,
                Place::Below(_) => {
                    self.shortfall.count("deeper than the format allows");
                    continue;
                }
            };
            let directory = match self.root.open_directory(&place, self.watched.mounts, &self.mounts) {
                Ok(directory) => directory,
                // A mount has a life of its own; what is gone, or became something else, gives an event.
                Err(Unopened::Gone | Unopened::Mount) => continue,
                Err(Unopened::Gap(reason)) => {
                    self.shortfall.count(reason.name());
                    continue;
                }
            };
            let below = match self.add(&directory, above, &path) {
                Ok(id) => Above::Watched(id),
                Err(reason) => {
                    self.shortfall.count(reason);
                    Above::Unwatched
                }
            };
            let mut each = |name: &[u8]| {
                pending.push_back((below, if path.is_empty() { name.into() } else { [&path, name].join(&b'/') }))
            };
            match list(&directory, &mut each) {
                // Removed meanwhile, which gives an event.
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(_) => self.shortfall.count("its names cannot be read"),
            }
        }
    }

    /// Watches the place of a root that a path names. Without it a removal is found by the next sweep.
    fn watch_place(&self) -> Option<(WatchDescriptor, Box<[u8]>)> {
        let name = self.root.path().file_name().filter(|_| self.root.process().is_none())?;
        let above = self.root.open_parent()?;
        let own = format!("/proc/self/fd/{}", above.as_raw_fd());
        let watch = self.kernel.add_watch(own.as_str(), PLACE | AddWatchFlags::IN_ONLYDIR).ok()?;
        Some((watch, name.as_bytes().into()))
    }

    /// Watches one directory; why not, if that cannot be.
    fn add(&mut self, directory: &OwnedFd, above: Above, path: &[u8]) -> Result<Id, &'static str> {
        let (parent, mask) = match above {
            Above::Nothing => (None, ENTRY | SELF),
            Above::Watched(id) => (Some(id), ENTRY),
            // It has no place in the tree, and the reason is one that holds for it too.
            Above::Unwatched => return Err("the directory above is not watched"),
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // The descriptor's own name: whatever happens to the path, this directory is watched.
        let own = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let mask = mask | AddWatchFlags::IN_ONLYDIR | EXCL_UNLINK;
        let watch = self.kernel.add_watch(own.as_str(), mask).map_err(|error| match error {
            Errno::ENOSPC => {
                self.shortfall.out_of_watches = true;
                "the limit of inotify watches is reached: raise fs.inotify.max_user_watches"
            }
            Errno::ENOENT => "/proc is not mounted",
            Errno::EACCES => "not permitted",
            _ => "the kernel refuses the watch",
        })?;
        let (id, before) = self.directories.put(parent, name, watch);
        self.let_go(before);
        if parent.is_none() {
            self.top = Some(id);
        }
        Ok(id)
    }

    /// Gives up the watches of a directory and of all below it.
    fn forget(&mut self, top: Id) {
        let watches = self.directories.remove(top);
        self.let_go(watches);
    }

    fn let_go(&self, watches: Vec<WatchDescriptor>) {
        for watch in watches {
            // The kernel may have removed it by itself.
            let _gone = self.kernel.rm_watch(watch);
        }
    }
}

/// Hands over the names of what is, or may be, a directory.
fn list(directory: &OwnedFd, each: &mut dyn FnMut(&[u8])) -> rustix::io::Result<()> {
    let mut buffer = Vec::with_capacity(LISTING);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) && name != b"." && name != b".." {
            each(name);
        }
    }
    Ok(())
}

impl Shortfall {
    fn count(&mut self, reason: &'static str) {
        self.directories += 1;
        self.reason.get_or_insert(reason);
    }

    fn armed(&self) -> Armed {
        let degraded = match (self.directories, self.reason) {
            (0, _) | (_, None) => String::new(),
            (1, Some(reason)) => format!("1 directory could not be watched: {reason}"),
            (count, Some(reason)) => format!("{count} directories could not be watched: {reason}"),
        };
        let unwatched = self.directories;
        Armed { mode: WatchMode::Inotify, blind: BLIND.to_vec(), unwatched, degraded, refused: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
