//! Owns the threads that read, each with its own connection. Must not own SQL.
//!
//! Threads of their own, because a list of all hosts takes memory that its thread keeps: of four there are four times as
//! much, of as many as a runtime has for whatever blocks many times as much.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{StoreError, sqlite};

/// Queries that run at one time; more wait.
const READERS: usize = 4;

/// A query, given a connection or why there is none.
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>) + Send>;

/// Those who read. Dropping them ends them after what was asked, and closes their connections.
#[derive(Debug)]
pub(super) struct Readers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Of the store in `file`, which each opens when it is asked for the first time.
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut readers = Self { jobs: Some(jobs), threads: Vec::new() };
        for _ in 0..READERS {
            let (file, queue) = (file.to_owned(), Arc::clone(&queue));
            readers.threads.push(thread::Builder::new().name("reader".to_owned()).spawn(move || serve(file, &queue))?);
        }
        Ok(readers)
    }

    /// Runs a query on a connection that cannot write, as one look at one state.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever is gone needs no answer.
            if !answer.is_closed() {
                let _gone = answer.send(connection.and_then(|connection| look(connection, query)));
            }
        });
        self.jobs.as_ref().ok_or(StoreError::Closed)?.send(job).map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Panics of queries are caught, and have been reported.
            let _ended = thread.join();
        }
    }
}

/// Answers until nobody can ask.
fn serve(file: PathBuf, queue: &Mutex<Receiver<Job>>) {
    let mut kept: Option<Connection> = None;
    loop {
        // Bound to a name, or the lock would be held while the query runs.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        let connection = kept.take().map_or_else(|| sqlite::open_to_read(&file), Ok);
        // A panic is that of one query; another connection serves the next one.
        kept = catch_unwind(AssertUnwindSafe(move || {
            match connection {
                Ok(connection) => {
                    job(Ok(&connection));
                    // What could not be ended is not gone on with.
                    connection.is_autocommit().then_some(connection)
                }
                Err(error) => {
                    job(Err(error));
                    None
                }
            }
        }))
        .unwrap_or(None);
    }
}

/// One look at one state, though it takes several statements.
fn look<T>(connection: &Connection, query: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
    connection.execute_batch("BEGIN")?;
    let result = query(connection);
    connection.execute_batch("COMMIT")?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers() -> (tempfile::TempDir, Readers) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("store");
        Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (7)").unwrap();
        let readers = Readers::new(&file).unwrap();
        (directory, readers)
    }

    fn number(connection: &Connection) -> Result<i64, StoreError> {
        Ok(connection.query_row("SELECT n FROM t", [], |row| row.get(0))?)
    }

    #[tokio::test]
    async fn a_query_that_fails_or_panics_ends_nobody_else() {
        let (_directory, readers) = readers();
        for _ in 0..2 * READERS {
            let failed = readers.ask(|_| Err::<(), _>(StoreError::Closed)).await;
            assert!(matches!(failed, Err(StoreError::Closed)));
            let panicked = readers.ask(|_| -> Result<(), _> { panic!("a bug of one query") }).await;
            assert!(matches!(panicked, Err(StoreError::Closed)));
            let left_open = readers.ask(|connection| Ok(connection.execute_batch("COMMIT")?)).await;
            assert!(left_open.is_err(), "its own transaction was taken from it");
            assert_eq!(readers.ask(number).await.unwrap(), 7);
        }
    }

    #[tokio::test]
    async fn nothing_is_written() {
        let (_directory, readers) = readers();
        let written = readers.ask(|connection| Ok(connection.execute_batch("INSERT INTO t VALUES (8)")?)).await;
        assert!(matches!(written, Err(StoreError::Engine(_))), "{written:?}");
    }

    #[tokio::test]
    async fn whoever_is_gone_is_not_worked_for() {
        let (_directory, readers) = readers();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let busy: Vec<_> = (0..READERS)
            .map(|_| {
                let held = Arc::clone(&held);
                readers.ask(move |_| Ok(held.lock().unwrap().recv().is_ok()))
            })
            .collect();
        let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let noted = Arc::clone(&ran);
        let mut gone = Box::pin(readers.ask(move |_| {
            noted.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }));
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        let mut busy: Vec<_> = busy.into_iter().map(Box::pin).collect();
        for asked in &mut busy {
            assert!(asked.as_mut().poll(&mut context).is_pending());
        }
        assert!(gone.as_mut().poll(&mut context).is_pending());
        drop(gone);
        for _ in 0..READERS {
            release.send(()).unwrap();
        }
        for asked in busy {
            assert!(asked.await.unwrap());
        }
        assert_eq!(readers.ask(number).await.unwrap(), 7);
        assert!(!ran.load(std::sync::atomic::Ordering::Relaxed));
    }
}
