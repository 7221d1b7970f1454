//! Owns when a collector had this store open: each run, from its opening to the last that was written. Must not own what
//! follows for hosts.

use rusqlite::{Connection, params};

use super::StoreError;
use super::read::rows;
use crate::clock::Timestamp;
use crate::fleet::hearing::{Hearing, Run};

/// Runs that are remembered.
const RUNS: i64 = 100;

/// Begins a run.
pub(super) fn begin(connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
    connection.execute("INSERT INTO runs (begun_at, alive_at) VALUES (?1, ?1)", [now.millis()])?;
    connection.execute("DELETE FROM runs WHERE id <= (SELECT max(id) FROM runs) - ?1", [RUNS])?;
    Ok(())
}

/// The run goes on, or it was closed.
pub(super) fn go_on(connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE runs SET alive_at = ?1 WHERE id = (SELECT max(id) FROM runs) AND alive_at < ?1")?
        .execute(params![now.millis()])?;
    Ok(())
}

/// Every run, in order.
pub(super) fn hearing(connection: &Connection) -> Result<Hearing, StoreError> {
    let runs = rows(connection, "SELECT begun_at, alive_at FROM runs ORDER BY id", Vec::new(), |row| {
        let time = |column| Ok::<_, StoreError>(Timestamp::from_millis(row.get(column)?));
        Ok(Run { from: time(0)?, until: time(1)? })
    })?;
    Ok(Hearing::new(runs))
}
