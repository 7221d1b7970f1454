//! Owns work in a mount namespace of its own: what is mounted there only that work and the processes it starts see, and
//! it is gone with them, however the test ends. Must not own what is mounted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::wait::eventually;

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

/// A command that runs another one as root of a user namespace of its own, where every id is what it is outside, and at
/// most `watches` directories may be watched by inotify. Arguments of the other one follow. Once it is started,
/// [`map_ids`] lets it go on.
pub fn with_watches(mut command: Command, watches: u32, program: &Path) -> Command {
    // Ids are mapped from outside; only a program that is started after that has the rights of root there.
    let script = format!(
        "until read -r map < /proc/self/uid_map && [ -n \"$map\" ]; do sleep 0.01; done\n\
         exec sh -c 'echo {watches} > /proc/sys/user/max_inotify_watches && exec \"$@\"' sh \"$@\""
    );
    command.args(["--user", "sh", "-c", &script, "sh"]).arg(program);
    command
}

/// Gives the user namespace of a process every id that there is.
///
/// # Errors
/// If the kernel refuses, or the process does not come to have one.
pub fn map_ids(process: u32) -> Result<()> {
    let own = fs::read_link("/proc/self/ns/user")?;
    let link = format!("/proc/{process}/ns/user");
    eventually("a user namespace", || {
        let is = fs::read_link(&link)?;
        ensure!(is != own, "still the test's own");
        Ok::<_, anyhow::Error>(())
    })?;
    for map in ["gid_map", "uid_map"] {
        let file = format!("/proc/{process}/{map}");
        fs::write(&file, "0 0 4294967295").with_context(|| file)?;
    }
    Ok(())
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
    tmpfs_of(at, "")
}

/// As [`tmpfs`], with options such as `size=1m`.
///
/// # Errors
/// If the kernel refuses.
pub fn tmpfs_of(at: &Path, options: &str) -> Result<()> {
    mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some(options))
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
