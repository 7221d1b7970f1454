//! Owns the thread that writes: work that waits is committed together, and answered after that.
//! Must not own what a work does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Changed, StoreError};

/// Work that may wait for the thread. Who comes then waits with its request.
pub(super) const QUEUE: usize = 256;
/// How long a commit collects work that is waiting already. It never waits for more to come.
const GROUP: Duration = Duration::from_millis(20);

/// Something to write, and where its answer goes.
pub(super) trait Job: Send {
    /// Writes; what changed is appended to `changes`. An error takes back what was written.
    fn run(&mut self, connection: &Connection, changes: &mut Vec<Changed>) -> Result<(), StoreError>;
    /// Answers, once it is known whether it is on disk.
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

/// A job that is a function.
pub(super) struct Work<T, F> {
    run: Option<F>,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Work<T, F> {
    /// `run` as a job, and where its answer comes.
    pub(super) fn new(run: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { run: Some(run), value: None, answer }, receiver)
    }
}

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnOnce(&Connection, &mut Vec<Changed>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, connection: &Connection, changes: &mut Vec<Changed>) -> Result<(), StoreError> {
        let run = self.run.take().ok_or(StoreError::Closed)?;
        self.value = Some(run(connection, changes)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), StoreError>) {
        let Self { value, answer, .. } = *self;
        let result = result.and_then(|()| value.ok_or(StoreError::Closed));
        // The request may be gone; what is committed stays, and its repetition is known as one.
        let _gone = answer.send(result);
    }
}

struct Done {
    job: Box<dyn Job>,
    result: Result<(), StoreError>,
    changes: Vec<Changed>,
}

impl Done {
    /// What could not be tried.
    fn untried(job: Box<dyn Job>) -> Self {
        Self { job, result: Err(StoreError::Closed), changes: Vec::new() }
    }
}

/// Writes until every sender is gone.
pub(super) fn run(
    mut connection: Connection,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
    published: &broadcast::Sender<Arc<Changed>>,
) {
    while let Some(job) = jobs.blocking_recv() {
        let mut group = Vec::new();
        match commit_group(&mut connection, job, &mut jobs, &mut group) {
            Ok(()) => group.into_iter().for_each(|done| finish(done, published)),
            Err(error) => {
                let text = crate::failure::chain(&error);
                for Done { job, .. } in group {
                    job.answer(Err(StoreError::Commit(text.clone())));
                }
            }
        }
    }
    // Only for when it is known to have been there: nothing follows from it for what was kept.
    if let Err(error) = super::run::go_on(&connection, crate::clock::Timestamp::now()) {
        tracing::warn!(error = %crate::failure::chain(&error), "when the collector ended is not known");
    }
}

/// Runs `first` and what waits behind it in one transaction. On an error nothing of the group is kept.
fn commit_group(
    connection: &mut Connection,
    first: Box<dyn Job>,
    jobs: &mut mpsc::Receiver<Box<dyn Job>>,
    group: &mut Vec<Done>,
) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut next = Some(first);
    let mut transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            group.extend(next.map(Done::untried));
            return Err(error.into());
        }
    };
    while let Some(mut job) = next {
        let mut changes = Vec::new();
        let result = run_one(&mut transaction, &mut *job, &mut changes);
        group.push(Done { job, result, changes });
        if transaction.is_autocommit() {
            // A full disk and the like make SQLite roll everything back by itself.
            return match group.pop() {
                Some(Done { job, result: Err(error), .. }) => {
                    group.push(Done::untried(job));
                    Err(error)
                }
                _ => Err(StoreError::Commit("rolled back".to_owned())),
            };
        }
        next = if started.elapsed() < GROUP { jobs.try_recv().ok() } else { None };
    }
    transaction.commit()?;
    Ok(())
}

/// A job that fails takes only itself back.
fn run_one(
    transaction: &mut rusqlite::Transaction<'_>,
    job: &mut dyn Job,
    changes: &mut Vec<Changed>,
) -> Result<(), StoreError> {
    let savepoint = transaction.savepoint()?;
    job.run(&savepoint, changes)?;
    savepoint.commit()?;
    Ok(())
}

fn finish(done: Done, published: &broadcast::Sender<Arc<Changed>>) {
    let Done { job, result, changes } = done;
    if result.is_ok() {
        for change in changes {
            // Nobody may be listening.
            let _unheard = published.send(Arc::new(change));
        }
    }
    job.answer(result);
}
