//! Owns turning SIGINT and SIGTERM into an early end of the scan. Must not own what that means for the result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use driftlock_common::exit::Exit;
use nix::sys::signal::{SigSet, Signal};

use crate::failure::Failure;

static CANCEL: AtomicBool = AtomicBool::new(false);

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process as if nothing was set up. To be called while
/// there is one thread only.
///
/// # Errors
/// If the signals cannot be blocked or the thread that waits for them cannot be started.
pub(super) fn cancel_on_signals() -> Result<&'static AtomicBool, Failure> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.thread_block().map_err(|error| Failure::new(Exit::Io, error))?;
    let wait = move || {
        // Waiting fails only for signals that do not exist.
        let Ok(_signal) = set.wait() else { return };
        CANCEL.store(true, Ordering::Relaxed);
        // This thread takes the next one, with its usual meaning: a scan may hang in the kernel.
        let Ok(()) = set.thread_unblock() else { return };
        loop {
            thread::park();
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map_err(|error| Failure::new(Exit::Io, error))?;
    Ok(&CANCEL)
}
