//! Owns asking a thread that waits in the kernel to end. Must not own what the thread waits for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Watcher;

/// The thread's end.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<Asked>);

/// The end of whoever wants the thread to go on. Dropping it asks the thread to end.
#[derive(Debug)]
pub(super) struct Going(Arc<Asked>);

#[derive(Debug)]
struct Asked {
    asked: AtomicBool,
    wake: OwnedFd,
}

/// Both ends.
pub(super) fn stop() -> rustix::io::Result<(Going, Stop)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC)?;
    let asked = Arc::new(Asked { asked: AtomicBool::new(false), wake });
    Ok((Going(asked.clone()), Stop(asked)))
}

impl Stop {
    pub(super) fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Waits until there is something to read, or the thread is to end.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>) {
        self.wait_for(fd, PollFlags::IN);
    }

    /// As [`Stop::wait`], for something else than to read.
    pub(super) fn wait_for(&self, fd: BorrowedFd<'_>, news: PollFlags) {
        let mut fds = [PollFd::from_borrowed_fd(fd, news), PollFd::new(&self.0.wake, PollFlags::IN)];
        // After an interruption the caller looks once more.
        let _woken = poll(&mut fds, None);
    }

    /// Lets time pass, unless the thread is to end.
    pub(super) fn rest(&self, time: Duration) {
        let timeout = Timespec::try_from(time).ok();
        let _woken = poll(&mut [PollFd::new(&self.0.wake, PollFlags::IN)], timeout.as_ref());
    }
}

impl Watcher for Going {}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.asked.store(true, Ordering::Relaxed);
        // It cannot be full: it is written once.
        let _written = rustix::io::write(self.0.wake.as_fd(), &1_u64.to_ne_bytes());
    }
}
