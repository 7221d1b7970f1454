//! Owns the hashing threads and the only bridge between tokio and rayon. Must not own the content of any job.

use std::num::NonZeroUsize;
use std::thread;

use tokio::sync::oneshot;

use crate::sys;

/// Threads that hash. Never rayon's global pool.
#[derive(Debug)]
pub struct Pool(rayon::ThreadPool);

impl Pool {
    /// `threads` of them; `None` is one for each core.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Self, rayon::ThreadPoolBuildError> {
        let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::build(threads.map_or_else(cores, NonZeroUsize::get), |_| ())
    }

    /// `threads` of them, whose reading comes after everybody else's where the disk's scheduler knows such a difference.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn of_low_priority(threads: NonZeroUsize) -> Result<Self, rayon::ThreadPoolBuildError> {
        Self::build(threads.get(), |index| {
            let answer = sys::set_idle_io();
            // What holds for one thread holds for all.
            if let Err(error) = answer
                && index == 0
            {
                tracing::debug!(%error, "reading has the priority of everybody else");
            }
        })
    }

    fn build(
        threads: usize,
        started: impl Fn(usize) + Send + Sync + 'static,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("hash-{n}"))
            .start_handler(started)
            .build()
            .map(Self)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `job` on the pool and waits for it. Not for async code.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.0.install(job)
    }

    /// Runs `job` on the pool; the answer comes through the channel. The bridge for async code.
    pub fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.0.spawn(move || {
            // The receiver may be gone at shutdown; then nobody wants the answer.
            let _unwanted = sender.send(job());
        });
        receiver
    }
}
