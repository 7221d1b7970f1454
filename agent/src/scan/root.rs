//! Owns the directory that a scan is confined to: one that a path names, or the root of a process. Must not own walking
//! below it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use driftlock_common::gap::Reason;
use driftlock_common::path::TreePath;
use rustix::fs::{CWD, FsWord, Mode, OFlags, fstatfs, fstatvfs, openat};
use rustix::io::Errno;

use super::Mounts;
use super::ids::{IdMap, IdView};
use super::mount_table::MountTable;
use super::open::{self, Crossing, Stat, Trouble};
use crate::failure::Failure;
use crate::host::mountinfo::Mount;
use crate::process::Process;

/// An opened root. The descriptor names the directory itself, whatever happens to its path.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    stat: Stat,
    /// Whose root it is, if it is one of a process.
    process: Option<Process>,
}

/// Why a directory below a root is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// It is not there, or is something else.
    Gone,
    /// Something is mounted there, or above it.
    Mount,
    /// It cannot be opened.
    Gap(Reason),
}

/// Why a path is not a root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// It cannot be opened.
    #[error("{}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// It is something else.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// It is a link, which may lead anywhere by the next scan.
    #[error("{} is a symbolic link: give the directory it leads to", .0.display())]
    Symlink(PathBuf),
    /// It is gone, or another directory than before.
    #[error("{} is gone or is another directory than before", .0.display())]
    Lost(PathBuf),
}

impl Root {
    /// Opens `path` without following a link in its last component.
    ///
    /// # Errors
    /// If it is not a directory that can be opened.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        // Without this a slash at the end would follow a link.
        let path: PathBuf = path.components().collect();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = |error: Errno| RootError::Open(path.clone(), error.into());
        let fd = match openat(CWD, &path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
                return Err(if link { RootError::Symlink(path) } else { RootError::NotDirectory(path) });
            }
            Err(error) => return Err(fail(error)),
        };
        let stat = open::stat_fd(fd.as_fd()).map_err(fail)?;
        Ok(Self { path, fd, stat, process: None })
    }

    /// The root of a process, for as long as it lives.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn of_process(process: Process) -> Result<Self, RootError> {
        let path = PathBuf::from(format!("/proc/{}/root", process.pid()));
        let fd = process.root().try_clone_to_owned();
        let opened = fd.and_then(|fd| Ok((open::stat_fd(fd.as_fd())?, fd)));
        match opened {
            Ok((stat, fd)) => Ok(Self { path, fd, stat, process: Some(process) }),
            Err(error) => Err(RootError::Open(path, error)),
        }
    }

    /// How ids below the root are called in a view.
    pub fn ids(&self, view: &IdView) -> IdMap {
        match (view, &self.process) {
            (IdView::Auto, Some(process)) => process.ids().clone(),
            (IdView::Mapped(map), _) => map.clone(),
            (IdView::Auto, None) | (IdView::AsSeen, _) => IdMap::default(),
        }
    }

    /// Whether the root's name still leads to it.
    ///
    /// # Errors
    /// [`RootError::Lost`] if it is gone or another directory (by device and inode), or if its process ended; others if
    /// that cannot be told.
    pub fn check_same(&self) -> Result<(), RootError> {
        if let Some(process) = &self.process {
            return if process.keeps_root() { Ok(()) } else { Err(RootError::Lost(self.path.clone())) };
        }
        match Self::open(&self.path) {
            Ok(root) if root.identity() == self.identity() => Ok(()),
            Ok(_) | Err(RootError::NotDirectory(_) | RootError::Symlink(_) | RootError::Lost(_)) => {
                Err(RootError::Lost(self.path.clone()))
            }
            Err(RootError::Open(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(RootError::Lost(self.path.clone()))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the directory's names can be read at all.
    ///
    /// # Errors
    /// The error of opening it for reading.
    pub fn check_readable(&self) -> Result<(), RootError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.fd, c".", flags, Mode::empty())
            .map(drop)
            .map_err(|error| RootError::Open(self.path.clone(), error.into()))
    }

    /// Opens a directory below the root, for listing: never through a link, into a mount only if `mounts` says so, and
    /// never into what `table` calls virtual.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open_directory(&self, path: &TreePath, mounts: Mounts, table: &MountTable) -> Result<OwnedFd, Unopened> {
        let opened = match path.parent() {
            Some(parent) if mounts == Mounts::Cross => self.open_crossing(&parent, path.name(), table),
            _ => open::open_below(self.fd.as_fd(), path, Crossing::Refused).map_err(Trouble::from),
        };
        opened.map_err(|trouble| match trouble {
            Trouble::Gone | Trouble::Moved | Trouble::Interrupted => Unopened::Gone,
            Trouble::Mount => Unopened::Mount,
            Trouble::Gap(reason) => Unopened::Gap(reason),
        })
    }

    /// Looked at before it is opened: opening what is mounted on demand would mount it.
    fn open_crossing(&self, parent: &TreePath, name: &[u8], table: &MountTable) -> Result<OwnedFd, Trouble> {
        let parent = open::open_below(self.fd.as_fd(), parent, Crossing::Allowed)?;
        let name = CString::new(name).expect("a path of a tree has no NUL");
        let stat = open::stat_at(parent.as_fd(), &name)?;
        if !stat.same_mount(&self.stat) && table.is_virtual(&stat) {
            return Err(Trouble::Mount);
        }
        Ok(open::open_directory(parent.as_fd(), &name, Crossing::Allowed)?)
    }

    /// What is mounted inside the root is looked up in a table of its own for each scan or watching: it does not change.
    pub fn mount_table(&self) -> MountTable {
        MountTable::of(self.process.as_ref())
    }

    /// What is mounted where the root is, and elsewhere, as it is now.
    ///
    /// # Errors
    /// Why that cannot be told, one line.
    pub fn mounts(&self) -> Result<Vec<Mount>, String> {
        self.mount_table().read()
    }

    /// The directory that a root lies in; `None` for what lies in none, or in one that cannot be read.
    pub fn open_parent(&self) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(&self.fd, c"..", flags, Mode::empty()).ok()?;
        // The parent of the topmost directory is that directory itself.
        let is_other = open::stat_fd(parent.as_fd()).is_ok_and(|stat| (stat.dev, stat.ino) != self.identity());
        is_other.then_some(parent)
    }

    /// The process whose root it is; `None` for one that a path names.
    pub const fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode.
    pub const fn identity(&self) -> (u64, u64) {
        (self.stat.dev, self.stat.ino)
    }

    /// What names its file system: type and id.
    pub(super) fn file_system(&self) -> (Option<FsWord>, Option<u64>) {
        let file_type = fstatfs(&self.fd).map(|statfs| statfs.f_type);
        let id = fstatvfs(&self.fd).map(|statvfs| statvfs.f_fsid);
        (file_type.ok(), id.ok())
    }

    pub(super) const fn stat(&self) -> &Stat {
        &self.stat
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<RootError> for Failure {
    fn from(error: RootError) -> Self {
        match error {
            RootError::Open(path, error) => Self::input(path.display(), error),
            RootError::NotDirectory(_) | RootError::Symlink(_) | RootError::Lost(_) => Self::new(Exit::NoInput, error),
        }
    }
}
