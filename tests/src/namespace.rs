//! Owns work in a mount namespace of its own: what is mounted there only that work and the processes it starts see, and
//! it is gone with them, however the test ends. Must not own what is mounted.

use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` on a thread in a mount namespace of its own. Threads and processes that it starts are in the same one.
///
/// # Errors
/// If there can be no such namespace, and those of `work`.
pub fn within<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        // Nothing mounted here may come to the namespace that this one is a copy of.
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&Path>, "/", None::<&str>, flags, None::<&str>).context("make mounts private")?;
        work()
    };
    thread::scope(|scope| scope.spawn(run).join().map_err(|_| anyhow!("the thread in the namespace panicked"))?)
}

/// Shows what is at `from` at `at` too, which is of the same type.
///
/// # Errors
/// If the kernel refuses.
pub fn bind(from: &Path, at: &Path) -> Result<()> {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("bind {}", at.display()))
}

/// Mounts an empty file system in memory.
///
/// # Errors
/// If the kernel refuses.
pub fn tmpfs(at: &Path) -> Result<()> {
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount a tmpfs on {}", at.display()))
}

/// Unmounts what is uppermost at `at`, even if it is in use.
///
/// # Errors
/// If the kernel refuses.
pub fn unmount(at: &Path) -> Result<()> {
    umount2(at, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", at.display()))
}

/// Why there can be no namespace; `None` if there can be one.
pub fn missing() -> Option<String> {
    within(|| Ok(())).err().map(|error| format!("needs a mount namespace: {error:#}"))
}
