//! Owns noticing that something was opened or read. Must not own what may be.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use walkdir::WalkDir;

/// Watches that must stay silent.
#[derive(Debug)]
pub struct Canary {
    queue: OwnedFd,
}

impl Canary {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// If the kernel gives no queue.
    pub fn new() -> Result<Self> {
        Ok(Self { queue: init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)? })
    }

    /// Watches `path` itself, a symlink not followed; in a directory also each name that is there or comes.
    ///
    /// # Errors
    /// If it cannot be watched.
    pub fn watch(&self, path: &Path) -> Result<()> {
        let flags = WatchFlags::OPEN | WatchFlags::ACCESS | WatchFlags::DONT_FOLLOW;
        add_watch(&self.queue, path, flags).with_context(|| path.display().to_string())?;
        Ok(())
    }

    /// Watches `root` and every directory below it.
    ///
    /// # Errors
    /// If one cannot be watched.
    pub fn watch_all(&self, root: &Path) -> Result<()> {
        let directories: Vec<_> = WalkDir::new(root).into_iter().collect::<Result<_, _>>()?;
        directories.iter().filter(|entry| entry.file_type().is_dir()).try_for_each(|entry| self.watch(entry.path()))
    }

    /// Fails if anything was opened or read, or if it cannot be told.
    ///
    /// # Errors
    /// If so.
    pub fn is_untouched(&self) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        match Reader::new(&self.queue, &mut buffer).next() {
            Err(Errno::AGAIN) => Ok(()),
            Ok(event) => {
                let name = event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_owned()));
                bail!("opened or read: {:?} {}", event.events(), name.unwrap_or_default().display())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_touched_by_a_look_inside_alone() {
        let place = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(place.path().join("inner")).expect("a directory");
        std::fs::write(place.path().join("inner/file"), "x").expect("a file");
        let canary = Canary::new().expect("a queue");
        canary.watch_all(place.path()).expect("watches");
        std::fs::metadata(place.path().join("inner/file")).expect("a look at it");
        canary.is_untouched().expect("not inside");
        std::fs::read(place.path().join("inner/file")).expect("a look inside");
        canary.is_untouched().expect_err("inside");
    }
}
