//! Owns the directory that a scan is confined to. Must not own walking below it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::open::{self, Stat};
use crate::failure::Failure;

/// An opened root. The descriptor names the directory itself, whatever happens to its path.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    stat: Stat,
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
        Ok(Self { path, fd, stat })
    }

    /// Opens the same path again.
    ///
    /// # Errors
    /// [`RootError::Lost`] if it is gone or another directory (by device and inode), others if that cannot be told.
    pub fn reopen_same(&self) -> Result<Self, RootError> {
        match Self::open(&self.path) {
            Ok(root) if root.identity() == self.identity() => Ok(root),
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

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode.
    pub const fn identity(&self) -> (u64, u64) {
        (self.stat.dev, self.stat.ino)
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
