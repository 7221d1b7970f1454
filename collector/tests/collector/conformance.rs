//! What every store promises, held against the one in a file. Another one is held to the same by a factory of its own.

mod promises;

use std::sync::{Arc, Mutex};

use driftlock_collector::store::Store;
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use tempfile::TempDir;

/// Makes stores of one kind.
pub(crate) trait Stores {
    /// A new one, or, once the one before is dropped, the same again.
    fn open(&self) -> Arc<dyn Store>;
}

/// One in a directory.
struct Sqlite(Mutex<TempDir>);

impl Stores for Sqlite {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.0.lock().unwrap().path(), Limits::default()).unwrap())
    }
}

/// A test for each promise.
macro_rules! sqlite_keeps {
    ($($promise:ident),* $(,)?) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            promises::$promise(&Sqlite(Mutex::new(tempfile::tempdir().unwrap()))).await;
        }
    )* };
}

sqlite_keeps! {
    what_was_answered_is_there_when_it_is_opened_again,
    what_was_taken_once_is_a_duplicate_for_ever,
    batches_that_come_together_are_each_answered_for_themselves,
    what_never_came_is_a_hole_until_it_comes,
    a_refused_event_takes_its_sequence,
    hosts_do_not_meet,
    a_superseded_epoch_may_repeat_and_not_go_on,
    a_snapshot_resolves_what_it_does_not_hold,
    lists_are_read_part_by_part_in_their_order,
    a_host_is_asked_for_by_its_key_before_its_name,
    totals_and_facts_are_those_of_the_lists,
    changes_are_told_after_their_commit_in_its_order,
    what_is_over_is_forgotten_and_what_is_open_is_not,
    what_was_forgotten_is_still_a_duplicate,
    a_bound_of_bytes_forgets_the_oldest_first,
    nobody_waits_long_while_something_is_forgotten,
}
