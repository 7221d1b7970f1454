//! Owns the thread that writes: batches that wait are committed together, and answered after that.
//! Must not own what a batch does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::apply::apply;
use super::{Applied, Changed, Delivery, StoreError};

/// Batches and others that may wait for the thread. Who comes then waits with its request.
pub(super) const QUEUE: usize = 256;
/// How long a commit collects batches that are waiting already. It never waits for more to come.
const GROUP: Duration = Duration::from_millis(20);

/// A batch and where its answer goes.
pub(super) struct Job {
    pub(super) delivery: Delivery,
    pub(super) answer: oneshot::Sender<Result<Applied, StoreError>>,
}

/// What the thread does.
pub(super) enum Work {
    /// A batch.
    Apply(Job),
    /// Anything else that writes, in a transaction of its own.
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
}

struct Done {
    answer: oneshot::Sender<Result<Applied, StoreError>>,
    result: Result<Applied, StoreError>,
    changes: Vec<Changed>,
}

/// Writes until every sender is gone.
pub(super) fn run(
    mut connection: Connection,
    mut queue: mpsc::Receiver<Work>,
    published: &broadcast::Sender<Arc<Changed>>,
) {
    let mut behind = None;
    while let Some(work) = behind.take().or_else(|| queue.blocking_recv()) {
        let job = match work {
            Work::Apply(job) => job,
            Work::Run(run) => {
                run(&mut connection);
                continue;
            }
        };
        let mut group = Vec::new();
        match commit_group(&mut connection, job, &mut queue, &mut behind, &mut group) {
            Ok(()) => group.into_iter().for_each(|done| finish(done, published)),
            Err(error) => {
                let text = crate::failure::chain(&error);
                for Done { answer, .. } in group {
                    send(answer, Err(StoreError::Commit(text.clone())));
                }
            }
        }
    }
    // Only for when it is known to have been there: nothing follows from it for what was kept.
    if let Err(error) = super::run::go_on(&connection, crate::clock::Timestamp::now()) {
        tracing::warn!(error = %crate::failure::chain(&error), "when the collector ended is not known");
    }
}

/// Applies `first` and the batches that wait behind it in one transaction; other work that comes between ends it, and is
/// put into `behind`. On an error nothing of the group is kept.
fn commit_group(
    connection: &mut Connection,
    first: Job,
    queue: &mut mpsc::Receiver<Work>,
    behind: &mut Option<Work>,
    group: &mut Vec<Done>,
) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            group.push(Done { answer: first.answer, result: Err(StoreError::Closed), changes: Vec::new() });
            return Err(error.into());
        }
    };
    let mut next = Some(first);
    while let Some(Job { delivery, answer }) = next.take() {
        let mut changes = Vec::new();
        let result = apply_one(&mut transaction, &delivery, &mut changes);
        group.push(Done { answer, result, changes });
        if transaction.is_autocommit() {
            // A full disk and the like make SQLite roll everything back by itself.
            return match group.pop() {
                Some(Done { answer, result: Err(error), .. }) => {
                    group.push(Done { answer, result: Err(StoreError::Closed), changes: Vec::new() });
                    Err(error)
                }
                _ => Err(StoreError::Commit("rolled back".to_owned())),
            };
        }
        if started.elapsed() < GROUP {
            match queue.try_recv() {
                Ok(Work::Apply(job)) => next = Some(job),
                other => *behind = other.ok(),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// A batch that fails takes only itself back.
fn apply_one(
    transaction: &mut rusqlite::Transaction<'_>,
    delivery: &Delivery,
    changes: &mut Vec<Changed>,
) -> Result<Applied, StoreError> {
    let savepoint = transaction.savepoint()?;
    let applied = apply(&savepoint, delivery, changes)?;
    savepoint.commit()?;
    Ok(applied)
}

fn finish(done: Done, published: &broadcast::Sender<Arc<Changed>>) {
    let Done { answer, result, changes } = done;
    if result.is_ok() {
        for change in changes {
            // Nobody may be listening.
            let _unheard = published.send(Arc::new(change));
        }
    }
    send(answer, result);
}

fn send(answer: oneshot::Sender<Result<Applied, StoreError>>, result: Result<Applied, StoreError>) {
    // The request may be gone; what is committed stays, and its repetition is a duplicate.
    let _gone = answer.send(result);
}
