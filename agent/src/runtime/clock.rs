//! Owns being told that the clock was set, at once and also if only by little. Must not own what follows from it.

use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

use crate::scan::ClockWatch;
use crate::sys;

/// Tells when the clock was set.
#[derive(Debug)]
pub(super) struct ClockSet {
    watch: ClockWatch,
    ready: Option<AsyncFd<OwnedFd>>,
}

impl ClockSet {
    pub(super) fn new() -> Self {
        let watch = ClockWatch::new();
        Self { ready: watch.descriptor().and_then(|descriptor| sys::when_readable(descriptor).ok()), watch }
    }

    /// Waits until the clock was set since this was asked last. Dropping the future loses nothing. Where the kernel does not
    /// tell, the monitor still compares its two clocks.
    pub(super) async fn set(&self) {
        if let Some(ready) = &self.ready {
            while let Ok(mut ready) = ready.readable().await {
                let set = self.watch.stepped();
                ready.clear_ready();
                if set {
                    return;
                }
            }
        }
        std::future::pending().await
    }
}
