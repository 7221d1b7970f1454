//! Owns the floors under a scan: the same walk with as little done as can be, and nothing compared. A task for each
//! directory, opened from the one above, and for each large file. Must not own what a scan must do besides.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use rayon::Scope;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, openat, statx};
use rustix::io::{Errno, read};

use crate::table::Amount;

/// What is done with every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// A look at its attributes, unopened.
    Stat,
    /// Read to its end as well.
    Read,
    /// Hashed with BLAKE3 as well.
    Hash,
}

/// Read at once.
const BUFFER: usize = 128 * 1024;
/// Names are read in pieces of this.
const NAMES: usize = 32 * 1024;
/// A file from this size on is a task of its own.
const LARGE: u64 = 8 << 20;

thread_local! {
    static CONTENT: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
    static LISTING: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(NAMES));
}

struct Walk {
    floor: Floor,
    files: AtomicU64,
    bytes: AtomicU64,
    failed: Mutex<Option<Errno>>,
}

/// Goes through everything below `root`; what it went through.
///
/// # Errors
/// If anything cannot be read.
pub fn run(root: &Path, floor: Floor, pool: &rayon::ThreadPool) -> Result<Amount> {
    let walk = Walk { floor, files: AtomicU64::new(0), bytes: AtomicU64::new(0), failed: Mutex::new(None) };
    let fd = openat(CWD, root, DIRECTORY, Mode::empty()).with_context(|| root.display().to_string())?;
    pool.install(|| rayon::scope(|tasks| walk.inside(tasks, fd)));
    let failed = walk.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err).with_context(|| root.display().to_string())?;
    Ok(Amount { files: walk.files.into_inner(), bytes: walk.bytes.into_inner() })
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Walk {
    fn inside<'s>(&'s self, tasks: &Scope<'s>, fd: OwnedFd) {
        let fd = Arc::new(fd);
        let listed = LISTING.with_borrow_mut(|buffer| {
            let mut names = RawDir::new(fd.as_fd(), buffer.spare_capacity_mut());
            while let Some(entry) = names.next() {
                let entry = entry?;
                let name = entry.file_name();
                if !matches!(name.to_bytes(), b"." | b"..") {
                    self.entry(tasks, &fd, name)?;
                }
            }
            Ok(())
        });
        self.note(listed);
    }

    fn entry<'s>(&'s self, tasks: &Scope<'s>, directory: &Arc<OwnedFd>, name: &CStr) -> Result<(), Errno> {
        let stat = statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => {
                let (directory, name) = (Arc::clone(directory), Box::<CStr>::from(name));
                tasks.spawn(move |tasks| match openat(&directory, &*name, DIRECTORY, Mode::empty()) {
                    Ok(fd) => self.inside(tasks, fd),
                    Err(error) => self.note(Err(error)),
                });
            }
            FileType::RegularFile => {
                self.files.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(stat.stx_size, Ordering::Relaxed);
                if self.floor == Floor::Stat {
                    return Ok(());
                }
                let fd = openat(directory, name, FILE, Mode::empty())?;
                if stat.stx_size < LARGE {
                    return self.content(fd.as_fd(), stat.stx_size);
                }
                tasks.spawn(move |_| self.note(self.content(fd.as_fd(), stat.stx_size)));
            }
            _ => {}
        }
        Ok(())
    }

    fn content(&self, fd: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
        let mut hasher = (self.floor == Floor::Hash).then(blake3::Hasher::new);
        CONTENT.with_borrow_mut(|buffer| {
            let mut sum = 0;
            loop {
                let len = match read(fd, &mut buffer[..]) {
                    Ok(len) => len,
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error),
                };
                if let Some(hasher) = &mut hasher {
                    hasher.update(&buffer[..len]);
                }
                sum += len as u64;
                if len == 0 || (len < BUFFER && sum == size) {
                    break;
                }
            }
            if let Some(hasher) = hasher {
                std::hint::black_box(hasher.finalize());
            }
            Ok(())
        })
    }

    fn note(&self, done: Result<(), Errno>) {
        if let Err(error) = done {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_floor_goes_through_every_file_once() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("a/b")).unwrap();
        for (name, size) in [("one", 1), ("a/two", BUFFER), ("a/b/three", BUFFER + 1), ("a/b/none", 0)] {
            fs::write(temp.path().join(name), vec![7; size]).unwrap();
        }
        fs::File::create(temp.path().join("large")).unwrap().set_len(LARGE).unwrap();
        std::os::unix::fs::symlink("one", temp.path().join("link")).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for floor in [Floor::Stat, Floor::Read, Floor::Hash] {
            let Amount { files, bytes } = run(temp.path(), floor, &pool).unwrap();
            assert_eq!((files, bytes), (5, LARGE + 2 * BUFFER as u64 + 2), "{floor:?}");
        }
        assert!(run(&temp.path().join("absent"), Floor::Stat, &pool).is_err());
    }
}
