//! Owns the system calls on names below a directory descriptor: none of them leaves that directory or follows a link.
//! Must not own what is compared.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use driftlock_common::gap::Reason;
use driftlock_common::node::{Device, FileType};
use driftlock_common::path::TreePath;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, readlinkat_raw, statx};
use rustix::io::Errno;

/// What the kernel says of an inode, as far as a node needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) file_type: FileType,
    /// `st_mode & 07777`.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Seconds and nanoseconds.
    pub(super) ctime: (i64, u32),
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Numbers of a device node.
    pub(super) device: Device,
    /// How many names it has.
    pub(super) links: u32,
    /// Which mount it was reached through; `None` before Linux 5.8.
    mount: Option<u64>,
}

/// Why a name could not be established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is not there.
    Gone,
    /// It became something else between two looks.
    Moved,
    /// It is a mount point.
    Mount,
    /// The scan is to end.
    Interrupted,
    /// It cannot be told.
    Gap(Reason),
}

/// Whether mount points may be crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crossing {
    Allowed,
    Refused,
}

// === impl Stat ===

impl Stat {
    fn new(statx: &Statx) -> Result<Self, Errno> {
        let file_type = match rustix::fs::FileType::from_raw_mode(statx.stx_mode.into()) {
            rustix::fs::FileType::RegularFile => FileType::File,
            rustix::fs::FileType::Directory => FileType::Directory,
            rustix::fs::FileType::Symlink => FileType::Symlink,
            rustix::fs::FileType::CharacterDevice => FileType::Char,
            rustix::fs::FileType::BlockDevice => FileType::Block,
            rustix::fs::FileType::Fifo => FileType::Fifo,
            rustix::fs::FileType::Socket => FileType::Socket,
            rustix::fs::FileType::Unknown => return Err(Errno::IO),
        };
        let has_mount = statx.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Ok(Self {
            file_type,
            mode: statx.stx_mode & 0o7777,
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            size: statx.stx_size,
            mtime: (statx.stx_mtime.tv_sec, statx.stx_mtime.tv_nsec),
            ctime: (statx.stx_ctime.tv_sec, statx.stx_ctime.tv_nsec),
            dev: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
            ino: statx.stx_ino,
            device: Device { major: statx.stx_rdev_major, minor: statx.stx_rdev_minor },
            links: statx.stx_nlink,
            mount: has_mount.then_some(statx.stx_mnt_id),
        })
    }

    /// Whether both are the same inode.
    pub(super) fn same_inode(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.file_type) == (other.dev, other.ino, other.file_type)
    }

    /// Whether nothing that a write or a change of attributes moves has moved.
    pub(super) fn same_moment(&self, other: &Self) -> bool {
        self.same_inode(other) && (self.size, self.mtime, self.ctime) == (other.size, other.mtime, other.ctime)
    }

    /// Whether it is what was there `before`, and at most longer.
    pub(super) fn only_grew(&self, before: &Self) -> bool {
        self.same_inode(before) && self.size >= before.size
    }

    /// The number of the mount it was reached through; `None` before Linux 5.8.
    pub(super) const fn mount(&self) -> Option<u64> {
        self.mount
    }

    /// Whether both were reached through the same mount. Without mount ids devices are compared, which misses a bind
    /// mount of the same file system (`openat2` still refuses it where it exists).
    pub(super) fn same_mount(&self, other: &Self) -> bool {
        match (self.mount, other.mount) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => self.dev == other.dev,
        }
    }
}

// === impl Trouble ===

impl Trouble {
    /// As the reason of a gap.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Gap(reason) => reason,
            Self::Gone | Self::Moved => Reason::Unstable,
            Self::Mount => Reason::Mount,
            Self::Interrupted => Reason::Interrupted,
        }
    }
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        match error {
            // A name that the file system cannot hold is not there.
            Errno::NOENT | Errno::NAMETOOLONG => Self::Gone,
            // A link or another type where something else was expected, or a race that openat2 noticed.
            Errno::LOOP | Errno::NOTDIR | Errno::AGAIN | Errno::NXIO => Self::Moved,
            Errno::XDEV => Self::Mount,
            Errno::ACCESS | Errno::PERM => Self::Gap(Reason::Denied),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => Self::Gap(Reason::Resources),
            _ => Self::Gap(Reason::Io),
        }
    }
}

const STAT_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// What `name` is, a link itself and not its target.
pub(super) fn stat_at(directory: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(directory, name, flags, STAT_MASK).and_then(|statx| Stat::new(&statx))
}

/// What an open descriptor is.
pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    let answer = statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, STAT_MASK);
    answer.and_then(|statx| Stat::new(&statx)).map_err(of_opened)
}

/// The error of a call on something that is open: it is there, and what it is, whatever its file system says.
pub(super) const fn of_opened(error: Errno) -> Errno {
    match error {
        Errno::ACCESS | Errno::PERM | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => error,
        _ => Errno::IO,
    }
}

/// Opens a regular file for reading. Whether it is one must be looked up before (a device may act on being opened), and
/// again on the descriptor.
pub(super) fn open_file(directory: BorrowedFd<'_>, name: &CStr, crossing: Crossing) -> Result<OwnedFd, Errno> {
    open_beneath(directory, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, crossing)
}

/// How a directory is opened to list it.
const LISTED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NONBLOCK);

/// Opens a directory to list it.
pub(super) fn open_directory(directory: BorrowedFd<'_>, name: &CStr, crossing: Crossing) -> Result<OwnedFd, Errno> {
    open_beneath(directory, name, LISTED, crossing)
}

/// Opens the directory at a path of any length below `root`, to list it.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &TreePath, crossing: Crossing) -> Result<OwnedFd, Errno> {
    /// The longest path handed to the kernel at once, in bytes: below `PATH_MAX`.
    const LEG: usize = 4000;
    match open_in_legs(root, path.as_bytes(), LEG, |from, leg, flags| openat2_beneath(from, leg, flags, crossing)) {
        // Without openat2 only a single name is safe from links.
        Err(Errno::NOSYS | Errno::PERM) => {
            open_in_legs(root, path.as_bytes(), 0, |from, name, flags| open_beneath(from, name, flags, crossing))
        }
        answer => answer,
    }
}

/// Opens a directory by legs of its path: as many names as fit into `most` bytes, one at least.
fn open_in_legs(
    root: BorrowedFd<'_>,
    path: &[u8],
    most: usize,
    open: impl Fn(BorrowedFd<'_>, &CStr, OFlags) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let mut reached: Option<OwnedFd> = None;
    let mut rest = path;
    while !rest.is_empty() {
        let within = rest.get(..most).and_then(|leg| leg.iter().rposition(|byte| *byte == b'/'));
        let end = match within {
            _ if rest.len() <= most => rest.len(),
            Some(end) => end,
            None => rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len()),
        };
        let leg = CString::new(&rest[..end]).expect("a path of a tree has no NUL");
        rest = rest.get(end + 1..).unwrap_or_default();
        let from = reached.as_ref().map_or(root, |fd| fd.as_fd());
        reached = Some(open(from, &leg, if rest.is_empty() { LISTED } else { OFlags::PATH | OFlags::DIRECTORY })?);
    }
    reached.map_or_else(|| reopen_directory(root), Ok)
}

/// Opens a directory only to go on from it.
pub(super) fn open_waypoint(directory: BorrowedFd<'_>, name: &CStr, crossing: Crossing) -> Result<OwnedFd, Errno> {
    open_beneath(directory, name, OFlags::PATH | OFlags::DIRECTORY, crossing)
}

/// Set once the kernel is known to have no `openat2` (before 5.6).
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

fn open_beneath(directory: BorrowedFd<'_>, name: &CStr, flags: OFlags, crossing: Crossing) -> Result<OwnedFd, Errno> {
    // `name` is one component, so without openat2 only mount points are not refused here; statx tells them.
    let plain = || openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match openat2_beneath(directory, name, flags, crossing) {
        // Old seccomp filters answer EPERM to system calls that they do not know.
        Err(Errno::NOSYS | Errno::PERM) => plain(),
        answer => answer,
    }
}

/// Opens a path of any number of components; `NOSYS` where the kernel cannot promise what it has to.
fn openat2_beneath(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    crossing: Crossing,
) -> Result<OwnedFd, Errno> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if crossing == Crossing::Refused {
        resolve |= ResolveFlags::NO_XDEV;
    }
    let answer = openat2(directory, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve);
    if matches!(answer, Err(Errno::NOSYS)) {
        NO_OPENAT2.store(true, Ordering::Relaxed);
    }
    answer
}

/// The target of a link, at most `PATH_MAX` bytes, which is the most that Linux stores.
pub(super) fn read_link(directory: BorrowedFd<'_>, name: &CStr) -> Result<Box<[u8]>, Trouble> {
    let mut buffer = [0; 4097];
    match readlinkat_raw(directory, name, &mut buffer) {
        Ok(len) if len < buffer.len() => Ok(buffer[..len].into()),
        Ok(_) => Err(Trouble::Gap(Reason::TooDeep)),
        // No longer a link.
        Err(Errno::INVAL) => Err(Trouble::Moved),
        Err(error) => Err(error.into()),
    }
}

/// Opens the directory behind `fd` anew, for reading names: an `O_PATH` descriptor cannot, and a listed one is at its end.
pub(super) fn reopen_directory(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    open_directory(fd.as_fd(), c".", Crossing::Refused)
}
