//! Owns where a directory lies, by its handle: below the root, and where, or outside. Must not own what happened there.
//!
//! An answer is remembered, also that it is outside: most of what happens on a host does. It holds until a directory is moved
//! to, from or within the root ([`Directories::moved`]).

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::decode::Object;
use crate::sys::handle::{Handle, open_handle};

/// Directories whose places are remembered, twice: those asked for lately, and those asked for before them. One costs some
/// 100 bytes: 2 MB on a busy host.
const REMEMBERED: usize = 8 * 1024;
/// Bytes of their paths, twice as well.
const PATHS: usize = 1024 * 1024;
/// How often a path is read again that is moved while it is read.
const TRIES: usize = 16;
/// Names that are gone up at once from where a path is too long to be told.
const LEAP: usize = 64;
/// Leaps before it is given up to tell where a directory is: deeper than 260,000 names.
const LEAPS: usize = 4096;

/// A file system, as it is seen from the root.
#[derive(Debug)]
pub(super) struct Seen {
    /// As it is called in events.
    pub(super) fsid: u64,
    /// Where it is mounted inside the root, relative to it; nothing is the root itself.
    pub(super) at: Box<[u8]>,
    /// The directory there.
    pub(super) top: OwnedFd,
}

/// Where a directory lies in the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// At this path, relative to the root.
    At(Box<[u8]>),
    /// Somewhere below it: its own path is longer than the kernel tells.
    Below(Box<[u8]>),
}

impl Spot {
    fn path(&self) -> &[u8] {
        match self {
            Self::At(path) | Self::Below(path) => path,
        }
    }
}

/// Places by handles. Through several mounts a directory is at several places; outside, it is at none.
#[derive(Debug, Default)]
pub(super) struct Directories {
    lately: HashMap<Box<[u8]>, Box<[Spot]>>,
    before: HashMap<Box<[u8]>, Box<[Spot]>>,
    /// Bytes of paths in `lately`.
    paths: usize,
    /// Used again for each look.
    key: Vec<u8>,
}

impl Directories {
    /// Where a directory lies.
    ///
    /// # Errors
    /// If that cannot be told.
    pub(super) fn spots(&mut self, seen: &[Seen], directory: &Object<'_>) -> io::Result<&[Spot]> {
        self.key.clear();
        self.key.extend_from_slice(&directory.fsid.to_ne_bytes());
        self.key.extend_from_slice(&directory.kind.to_ne_bytes());
        self.key.extend_from_slice(directory.handle);
        if !self.lately.contains_key(&*self.key) {
            let spots = match self.before.remove(&*self.key) {
                Some(spots) => spots,
                None => look_up(seen, directory)?,
            };
            if self.lately.len() >= REMEMBERED || self.paths >= PATHS {
                self.before = std::mem::take(&mut self.lately);
                self.paths = 0;
            }
            self.paths += spots.iter().map(|spot| spot.path().len()).sum::<usize>();
            self.lately.insert(self.key.as_slice().into(), spots);
        }
        Ok(self.lately.get(&*self.key).map(|spots| &**spots).unwrap_or_default())
    }

    /// A directory was moved to, from or within the root, and everything below it with it.
    pub(super) fn moved(&mut self) {
        self.lately.clear();
        self.before.clear();
        self.paths = 0;
    }
}

fn look_up(seen: &[Seen], directory: &Object<'_>) -> io::Result<Box<[Spot]>> {
    let mut spots = Vec::new();
    for mount in seen.iter().filter(|mount| mount.fsid == directory.fsid) {
        let handle = Handle { kind: directory.kind, bytes: directory.handle };
        let opened = match open_handle(mount.top.as_fd(), handle) {
            Ok(opened) => opened,
            // It is gone, and where it was an event told of that.
            Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => continue,
            Err(error) => return Err(error),
        };
        spots.extend(spot(mount, &opened)?);
    }
    Ok(spots.into())
}

/// Where an opened directory lies, seen through a mount; `None` outside, and of what is removed.
fn spot(mount: &Seen, directory: &OwnedFd) -> io::Result<Option<Spot>> {
    for _ in 0..TRIES {
        // Whoever moves the root moves all paths below it.
        let top = path(mount.top.as_fd())?;
        let (path, is_whole) = match path(directory.as_fd()) {
            Ok(path) => (path, true),
            Err(error) if is_too_long(&error) => match path_above(directory.as_fd()) {
                Ok(path) => (path, false),
                // There is no way up from what lies outside of the part that is mounted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if path.ends_with(b" (deleted)") && fstat(directory)?.st_nlink == 0 {
            return Ok(None);
        }
        if let Some(below) = below(&top, &path) {
            let at = join(&mount.at, below).into();
            return Ok(Some(if is_whole { Spot::At(at) } else { Spot::Below(at) }));
        }
        if self::path(mount.top.as_fd())? == top {
            return Ok(None);
        }
    }
    Err(Errno::AGAIN.into())
}

/// What `path` is relative to `top`, if it lies there.
fn below<'a>(top: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(top.strip_suffix(b"/").unwrap_or(top))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
}

/// A name in a directory, or the directory if the name is empty.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() || name.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

/// Where a descriptor leads to, from the top of all that it can be reached from.
pub(super) fn path(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(link.into_os_string().into_vec())
}

/// The path of the nearest directory above one whose own path is too long.
fn path_above(directory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let leap = CString::new(vec![".."; LEAP].join("/"))?;
    let mut at = directory.try_clone_to_owned()?;
    for _ in 0..LEAPS {
        let above = up(&at, &leap)?;
        match path(above.as_fd()) {
            Err(error) if is_too_long(&error) => at = above,
            Err(error) => return Err(error),
            // The nearest one lies somewhere on the leap.
            Ok(_) => break,
        }
    }
    for _ in 0..LEAP {
        at = up(&at, c"..")?;
        match path(at.as_fd()) {
            Err(error) if is_too_long(&error) => {}
            answer => return answer,
        }
    }
    Err(Errno::NAMETOOLONG.into())
}

fn up(from: &OwnedFd, dots: &CStr) -> io::Result<OwnedFd> {
    Ok(openat(from, dots, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NAMETOOLONG.raw_os_error())
}
