//! Owns showing how far a scan is, on a terminal, once it takes longer than a second. Must not own the counting.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows until dropped, then clears its line.
#[derive(Debug)]
pub(super) struct Shown {
    /// Closing it is the word to stop.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Shows `done` of about `total` entries, if stderr is a terminal.
pub(super) fn show(total: u64, done: Arc<AtomicU64>) -> Shown {
    let (stop, stopped) = sync_channel(0);
    let thread = std::io::stderr()
        .is_terminal()
        .then(|| thread::Builder::new().name("progress".into()).spawn(move || draw(&stopped, total, &done)));
    // Without the thread there is no progress to see, which no scan should fail for.
    Shown { stop: Some(stop), thread: thread.and_then(Result::ok) }
}

fn draw(stopped: &Receiver<()>, total: u64, done: &AtomicU64) {
    const PATIENCE: Duration = Duration::from_secs(1);
    const REFRESH: Duration = Duration::from_millis(100);
    let waits = |time| matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout));
    if !waits(PATIENCE) {
        return;
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("scanning {wide_bar} {pos}/{len} entries, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    while waits(REFRESH) {
        bar.set_position(done.load(Ordering::Relaxed).min(total));
    }
    bar.finish_and_clear();
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only draws; there is nothing to learn from how it ended.
            let _ended = thread.join();
        }
    }
}
