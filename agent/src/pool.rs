//! Owns the hashing threads and the only bridge between tokio and rayon. Must not own the content of any job.

use std::num::NonZeroUsize;
use std::thread;

use tokio::sync::oneshot;

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
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.map_or_else(cores, NonZeroUsize::get))
            .thread_name(|n| format!("hash-{n}"))
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
