//! Owns the hashing threads and the only bridge between tokio and rayon. Must not own the content of any job.

use std::num::NonZeroUsize;
use std::thread;

use rustix::process::{Resource, getrlimit};
use tokio::sync::oneshot;

use crate::scan::FILES_FOR_EACH_THREAD;
use crate::sys;

/// More threads than this wait for each other, even for a fast disk.
const MOST: usize = 16;

/// Threads that hash. Never rayon's global pool.
#[derive(Debug)]
pub struct Pool {
    threads: rayon::ThreadPool,
    cores: usize,
}

impl Pool {
    /// `threads` of them. `None` is one for each core, and more for a job that waits for a disk (see [`Pool::cores`]), as
    /// far as open files allow.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(threads: Option<NonZeroUsize>) -> Result<Self, rayon::ThreadPoolBuildError> {
        if let Some(threads) = threads {
            return Self::with(threads.get(), threads.get());
        }
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let most = files.map_or(MOST, |files| (files / 2 / FILES_FOR_EACH_THREAD).min(MOST));
        Self::with(cores, most.max(cores))
    }

    /// `threads` of them, whose reading comes after everybody else's where the disk's scheduler knows such a difference.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn of_low_priority(threads: NonZeroUsize) -> Result<Self, rayon::ThreadPoolBuildError> {
        Self::build(threads.get(), threads.get(), |index| {
            let answer = sys::set_idle_io();
            // What holds for one thread holds for all.
            if let Err(error) = answer
                && index == 0
            {
                tracing::debug!(%error, "reading has the priority of everybody else");
            }
        })
    }

    /// `threads`, of which a job is to use `cores` unless it waits for a disk.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub(crate) fn with(cores: usize, threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        Self::build(cores, threads, |_| ())
    }

    fn build(
        cores: usize,
        threads: usize,
        started: impl Fn(usize) + Send + Sync + 'static,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("hash-{n}"));
        Ok(Self { threads: builder.start_handler(started).build()?, cores })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// How many of them can compute at a time.
    pub const fn cores(&self) -> usize {
        self.cores
    }

    /// Runs `job` on the pool and waits for it. Not for async code.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        self.threads.install(job)
    }

    /// Runs `job` on the pool; the answer comes through the channel. The bridge for async code.
    pub fn spawn<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.threads.spawn(move || {
            // The receiver may be gone at shutdown; then nobody wants the answer.
            let _unwanted = sender.send(job());
        });
        receiver
    }
}
