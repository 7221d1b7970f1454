//! Owns noticing that the process of a root ended. Must not own what follows from it.

use std::io;
use std::os::fd::AsFd as _;
use std::thread;

use super::Watcher;
use super::stop::stop;
use crate::process::Process;

/// Calls `ended` once the process has ended, until the watcher is dropped.
///
/// # Errors
/// If there is no descriptor or no thread to be had.
pub fn when_ended(process: &Process, ended: impl FnOnce() + Send + 'static) -> io::Result<Box<dyn Watcher>> {
    let pidfd = process.pidfd().try_clone_to_owned()?;
    let (going, stop) = stop()?;
    let wait = move || {
        while !stop.is_asked() {
            if Process::has_ended(pidfd.as_fd()) {
                return ended();
            }
            stop.wait(pidfd.as_fd());
        }
    };
    thread::Builder::new().name("process-end".to_owned()).spawn(wait)?;
    Ok(Box::new(going))
}
