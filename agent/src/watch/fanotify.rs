//! Owns watching by fanotify(7): one mark for each whole file system, in one group for all targets, which a thread reads that
//! waits for nobody. Must not own what an event means to a target (`tree`), or the ways of watching that are tried instead.
//!
//! A mark on a mount would see nothing of what happens in another mount namespace, and marks on directories would race with
//! new ones; a mark on a file system misses no path to it. All of what happens on the host comes in then, so that it has to
//! cost little to find it to be outside: once for the process, not once for each target.

pub mod decode;
mod directories;
mod inode;
mod tree;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use driftlock_common::coverage::{BlindSpot, WatchMode};
use nix::errno::Errno;
use nix::libc;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{fstat, major, minor};

use self::decode::Events;
use self::directories::Seen;
use self::tree::Tree;
use super::stop::{Going, Stop, stop};
use super::{Armed, HintSender, Rung, Watched, Watcher, Why};
use crate::host::file_system::Kind;
use crate::scan::Root;

/// Room for some two thousand events for each system call.
const BUFFER: usize = 256 * 1024;

/// How long nobody waits for events after some were read. Whoever changes something wakes a thread that waits, at his own
/// expense, and what he does until it has run is another event each time; what changes within this time is one wake, and
/// one event for each object. The first change after a rest is read at once.
const GATHER: Duration = Duration::from_millis(1);

/// What is told of. Not `FAN_MODIFY`: it would cost every write of the host 700 ns, where this costs 4 (Linux 6.18).
const CHANGES: MaskFlags = MaskFlags::FAN_CLOSE_WRITE
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_CREATE)
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_ONDIR);

/// What is asked of the kernel: of each the first that it grants. That is tried, since versions say little.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// What an event tells. No descriptor of the process (`FAN_REPORT_PIDFD`): the kernel would make one for each event of the
    /// host and the thread close it again, 2 µs each, nearly all for nothing, and those that are kept would fill the table of
    /// descriptors. The number of the process is enough to look at it at once, and whoever keeps it compares the start time.
    reports: &'static [u32],
    /// How many events may wait.
    queues: &'static [InitFlags],
    /// How renames are told of.
    renames: &'static [MaskFlags],
}

impl Terms {
    const ALL: Self = Self {
        // Directory, name and the object; before Linux 5.17 the object only where it stays.
        reports: &[libc::FAN_REPORT_DFID_NAME_TARGET, libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID],
        // All; in a user namespace as many as the host allows.
        queues: &[InitFlags::FAN_UNLIMITED_QUEUE, InitFlags::empty()],
        // Both ends at once; before Linux 5.17 each on its own.
        renames: &[MaskFlags::FAN_RENAME, MaskFlags::FAN_MOVE],
    };
}

/// What gives no hint to a mark on a file system.
pub(super) const BLIND: [BlindSpot; 4] =
    [BlindSpot::HeldDescriptor, BlindSpot::Truncate, BlindSpot::Mapping, BlindSpot::Device];

/// Why a root is not watched by fanotify.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// No group can be made.
    #[error(transparent)]
    Group(Errno),
    /// Its file system cannot be marked.
    #[error(transparent)]
    Mark(Errno),
    /// Directories cannot be found by their handles.
    #[error("directories cannot be opened by their handles")]
    Handles,
    /// The root, or what is mounted inside it, cannot be told.
    #[error("the root cannot be looked at: {0}")]
    Root(io::Error),
    /// No thread can be started.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

impl Refusal {
    fn of_handles(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM) => Self::Handles,
            Some(Errno::EOPNOTSUPP) => Self::Mark(Errno::EOPNOTSUPP),
            _ => Self::Root(error),
        }
    }
}

/// A group, and the targets that its events are for.
#[derive(Debug)]
struct Group {
    kernel: Fanotify,
    renames: &'static [MaskFlags],
    trees: Mutex<Vec<(u64, Tree)>>,
    next: AtomicU64,
    /// Whether nobody reads it any more, because it cannot be read.
    has_failed: AtomicBool,
}

/// A group while somebody reads it.
#[derive(Debug)]
struct Running {
    group: Arc<Group>,
    _going: Going,
}

/// Keeps a target in a group.
#[derive(Debug)]
struct Member {
    running: Arc<Running>,
    id: u64,
}

/// The group of this process. There is a limit to how many a user may have, and each would be told of everything.
static SHARED: Mutex<Weak<Running>> = Mutex::new(Weak::new());

/// Watches a root from now on: a change after this returns gives a hint, but for what the mode is blind to.
///
/// # Errors
/// Why it cannot be watched so. Nothing is watched then.
pub(super) fn arm(target: &Arc<str>, watched: Watched, root: &Arc<Root>, hints: &HintSender) -> Result<Rung, Refusal> {
    let mut shared = lock(&SHARED);
    let running = match shared.upgrade().filter(|running| !running.group.has_failed.load(Ordering::Relaxed)) {
        Some(running) => running,
        None => {
            let running = Running::start(Group::new(&Terms::ALL)?)?;
            *shared = Arc::downgrade(&running);
            running
        }
    };
    drop(shared);
    join(running, target, watched, root, hints)
}

/// Makes a target one of a group.
fn join(
    running: Arc<Running>,
    target: &Arc<str>,
    watched: Watched,
    root: &Arc<Root>,
    hints: &HintSender,
) -> Result<Rung, Refusal> {
    let tree = Tree::new(target, watched, root, hints).map_err(Refusal::of_handles)?;
    let id = running.group.next.fetch_add(1, Ordering::Relaxed);
    {
        // Together, so that nobody who leaves meanwhile takes a mark along.
        let mut trees = lock(&running.group.trees);
        tree.mounts().iter().try_for_each(|mount| running.group.mark(mount))?;
        trees.push((id, tree));
    }
    let member = Member { running, id };
    for (_, tree) in lock(&member.running.group.trees).iter().filter(|(known, _)| *known == id) {
        // What moved the root before that was told to nobody.
        if !tree.is_where_it_was(root) {
            tree.everything(Why::RootMoved);
        }
    }
    let mut armed = Armed { mode: WatchMode::Fanotify, blind: BLIND.to_vec(), ..Armed::nothing() };
    match kind(root) {
        Kind::Overlay => armed.blind.push(BlindSpot::LowerLayer),
        Kind::Network | Kind::User => armed.blind.push(BlindSpot::Remote),
        Kind::Local | Kind::Kernel => {}
    }
    // What is removed can still be marked, to no use.
    if root.check_same().is_err() {
        armed.unwatched = 1;
        armed.degraded = "the root is not there".to_owned();
    }
    Ok((Box::new(member), armed))
}

impl Group {
    fn new(terms: &Terms) -> Result<Self, Refusal> {
        let always = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let mut refusal = Errno::EINVAL;
        for reports in terms.reports {
            for queue in terms.queues {
                // What the crate has no names for the kernel knows all the same.
                let flags = always | *queue | InitFlags::from_bits_retain(*reports);
                match Fanotify::init(flags, EventFFlags::O_RDONLY) {
                    Ok(kernel) => {
                        let (trees, next, has_failed) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
                        return Ok(Self { kernel, renames: terms.renames, trees, next, has_failed });
                    }
                    Err(error) => refusal = error,
                }
            }
            if refusal != Errno::EINVAL {
                break;
            }
        }
        Err(Refusal::Group(refusal))
    }

    /// Marks the file system of a directory.
    fn mark(&self, mount: &Seen) -> Result<(), Refusal> {
        let mut refusal = Errno::EINVAL;
        for renames in self.renames {
            let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
            // With a name the descriptor may be one that only names the directory.
            match self.kernel.mark(flags, CHANGES | *renames, &mount.top, Some(".")) {
                Ok(()) => return Ok(()),
                Err(Errno::EINVAL) => {}
                Err(error) => {
                    refusal = error;
                    break;
                }
            }
        }
        Err(Refusal::Mark(refusal))
    }

    fn unmark(&self, mount: &Seen) {
        for renames in self.renames {
            let flags = MarkFlags::FAN_MARK_REMOVE | MarkFlags::FAN_MARK_FILESYSTEM;
            // What cannot be removed costs a little until the group ends.
            let _removed = self.kernel.mark(flags, CHANGES | *renames, &mount.top, Some("."));
        }
    }

    /// Lets a target go, and the marks that were for it alone.
    fn leave(&self, id: u64) {
        let mut trees = lock(&self.trees);
        let Some(at) = trees.iter().position(|(known, _)| *known == id) else { return };
        let (_, gone) = trees.swap_remove(at);
        let is_needed = |mount: &Seen| {
            let mut needed = trees.iter().flat_map(|(_, tree)| tree.mounts());
            needed.any(|other| other.fsid == mount.fsid)
        };
        gone.mounts().iter().filter(|mount| !is_needed(mount)).for_each(|mount| self.unmark(mount));
    }

    /// Hands events to the targets until it is to end, or cannot go on.
    fn run(&self, stop: &Stop) {
        let mut buffer = vec![0; BUFFER];
        while !stop.is_asked() {
            match rustix::io::read(&self.kernel, &mut buffer) {
                Ok(len) => {
                    let mut trees = lock(&self.trees);
                    for event in Events::new(&buffer[..len]) {
                        match event {
                            Ok(event) if event.mask & libc::FAN_Q_OVERFLOW != 0 => everything(&trees, Why::Overflow),
                            Ok(event) => trees.iter_mut().for_each(|(_, tree)| tree.event(&event)),
                            Err(decode::Malformed) => everything(&trees, Why::Failed),
                        }
                    }
                }
                Err(rustix::io::Errno::AGAIN) => {
                    stop.rest(GATHER);
                    stop.wait(self.kernel.as_fd());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.has_failed.store(true, Ordering::Relaxed);
                    return everything(&lock(&self.trees), Why::Failed);
                }
            }
        }
    }
}

impl Running {
    fn start(group: Group) -> Result<Arc<Self>, Refusal> {
        let (going, stop) = stop().map_err(|error| Refusal::Thread(error.into()))?;
        let group = Arc::new(group);
        let read = group.clone();
        let thread = thread::Builder::new().name("fanotify".to_owned()).spawn(move || read.run(&stop));
        let _ends_by_itself = thread.map_err(Refusal::Thread)?;
        Ok(Arc::new(Self { group, _going: going }))
    }
}

impl Watcher for Member {}

impl Drop for Member {
    fn drop(&mut self) {
        self.running.group.leave(self.id);
    }
}

fn everything(trees: &[(u64, Tree)], why: Why) {
    trees.iter().for_each(|(_, tree)| tree.everything(why));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What kind of file system a root lies on.
fn kind(root: &Root) -> Kind {
    let device = fstat(root.as_fd()).map(|stat| (major(stat.st_dev), minor(stat.st_dev)));
    let table = root.mounts().unwrap_or_default();
    let mount = table.iter().find(|mount| device == Ok(mount.device));
    mount.map_or(Kind::Local, |mount| Kind::of(&mount.fs_type))
}

#[cfg(test)]
mod tests;
