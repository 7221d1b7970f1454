//! Owns finding out what the kernel grants, by calling: versions say little, kernels are patched and filtered. Whatever
//! is made for a probe is gone when it returns. Must not own what the answers are good for.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// What the kernel said.
pub type Answer = Result<(), Errno>;

/// `RWF_DONTCACHE` of linux/fs.h.
const DONTCACHE: u32 = 0x80;

/// What does not depend on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// An inotify instance, the kind of watching that this version uses.
    pub inotify: Answer,
    /// A fanotify group that is told names and processes.
    pub fanotify: Answer,
    /// Opening a name without leaving a file system: `openat2` with `RESOLVE_NO_XDEV`.
    pub openat2: Answer,
    /// Telling mounts of one file system apart: `statx` with `STATX_MNT_ID`.
    pub mount_ids: Answer,
    /// The kernel's measure of how busy a host is: `/proc/pressure`.
    pub pressure: Answer,
}

/// What depends on the file system of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootProbes {
    /// A fanotify mark on its whole file system.
    pub fanotify: Answer,
    /// An inotify watch on the directory itself.
    pub inotify: Answer,
    /// Reading a file without leaving it in the page cache; `None` if no file was found to try it on.
    pub dontcache: Option<Answer>,
}

impl Probes {
    /// Asks.
    pub fn ask() -> Self {
        Self {
            inotify: inotify::init(CreateFlags::CLOEXEC).map(drop),
            fanotify: group().map(drop),
            openat2: beneath(),
            mount_ids: mount_ids(),
            pressure: pressure(),
        }
    }
}

impl RootProbes {
    /// Asks about the directory `root`. `file` is a regular file of the same file system, opened for reading.
    pub fn ask(root: BorrowedFd<'_>, file: Option<BorrowedFd<'_>>) -> Self {
        Self { fanotify: mark(root), inotify: watch(root), dontcache: file.map(dontcache) }
    }
}

/// Such as `Operation not permitted`, without the number that the standard library adds.
pub fn words(error: impl Into<std::io::Error>) -> String {
    let text = error.into().to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn from_nix(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// What the watching of whole file systems asks for, and what it makes do with before Linux 5.17.
const REPORTS: [u32; 2] = [libc::FAN_REPORT_DFID_NAME_TARGET, libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID];
const RENAMES: [MaskFlags; 2] = [MaskFlags::FAN_RENAME, MaskFlags::FAN_MOVE];

fn group() -> Result<Fanotify, Errno> {
    either(REPORTS, |reports| {
        // What is not named is known to the kernel all the same.
        let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::from_bits_retain(reports);
        Fanotify::init(flags, EventFFlags::O_RDONLY)
    })
}

/// The first, or, where the kernel does not know what that asks for, the second.
fn either<A, T>([first, second]: [A; 2], ask: impl Fn(A) -> nix::Result<T>) -> Result<T, Errno> {
    match ask(first) {
        Err(nix::errno::Errno::EINVAL) => ask(second),
        answer => answer,
    }
    .map_err(from_nix)
}

fn mark(root: BorrowedFd<'_>) -> Answer {
    let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
    let mask = MaskFlags::FAN_CLOSE_WRITE
        | MaskFlags::FAN_ATTRIB
        | MaskFlags::FAN_CREATE
        | MaskFlags::FAN_DELETE
        | MaskFlags::FAN_ONDIR;
    let group = group()?;
    // With a name the descriptor may be one that only names the directory.
    either(RENAMES, |renames| group.mark(flags, mask | renames, root, Some(".")))
}

/// An inotify watch on the directory `root`.
pub(crate) fn watch(root: BorrowedFd<'_>) -> Answer {
    let instance = inotify::init(CreateFlags::CLOEXEC)?;
    // The directory itself, whatever its path leads to by now.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&root));
    inotify::add_watch(instance, path, WatchFlags::CREATE | WatchFlags::ONLYDIR).map(drop)
}

fn beneath() -> Answer {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve).map(drop)
}

fn mount_ids() -> Answer {
    let found = statx(CWD, c"/", AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID)?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 { Err(Errno::NOTSUP) } else { Ok(()) }
}

fn pressure() -> Answer {
    match std::fs::read("/proc/pressure/io") {
        Ok(_) => Ok(()),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

fn dontcache(file: BorrowedFd<'_>) -> Answer {
    let mut byte = [0];
    let flags = ReadWriteFlags::from_bits_retain(DONTCACHE);
    preadv2(file.as_fd(), &mut [IoSliceMut::new(&mut byte)], 0, flags).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_answer_and_leave_nothing_behind() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        // Other tests of this process open files too: only a leak is there every time.
        let leaked = (0..20).all(|_| {
            let before = open();
            let found = (Probes::ask(), RootProbes::ask(root.as_fd(), Some(file.as_file().as_fd())));
            assert_eq!((found.0.inotify, found.1.inotify), (Ok(()), Ok(())));
            assert!(found.1.dontcache.is_some());
            open() > before
        });
        assert!(!leaked);
    }

    #[test]
    fn a_mark_needs_a_group() {
        let root = std::fs::File::open("/").unwrap();
        let answers = RootProbes::ask(root.as_fd(), None);
        assert_eq!(answers.dontcache, None);
        assert!(answers.fanotify.is_err() || Probes::ask().fanotify.is_ok(), "{answers:?}");
    }

    #[test]
    fn errors_have_words() {
        assert_eq!(words(Errno::PERM), "Operation not permitted");
        assert_eq!(words(Errno::XDEV), "Invalid cross-device link");
    }
}
