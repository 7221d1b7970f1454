//! Owns forgetting: what is over and too old, or too much, in steps that hold up no batch. Nothing open is forgotten, and no
//! sequence that was taken is taken again. Must not own when.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::apply::unsigned;
use super::{Keep, StoreError, Trimmed};
use crate::clock::Timestamp;

/// The most rows of each kind that a step deletes: a few milliseconds.
const STEP: i64 = 500;
/// Milliseconds of a day.
const DAY: i64 = 86_400_000;

/// One step.
pub(super) fn step(connection: &Connection, keep: Keep, now: Timestamp) -> Result<Trimmed, StoreError> {
    let mut trimmed = Trimmed::default();
    if let Some(days) = keep.days {
        let cut = now.millis().saturating_sub(i64::from(days).saturating_mul(DAY));
        trimmed.events = events(connection, cut)?;
        trimmed.findings = findings(connection, cut)?;
        trimmed.conditions = conditions(connection, cut)?;
        trimmed.holes = delete(
            connection,
            "DELETE FROM holes WHERE id IN (SELECT id FROM holes ORDER BY id LIMIT ?2) AND noted_at < ?1",
            cut,
        )?;
        trimmed.more = trimmed.is_full();
    }
    if let Some(bytes) = keep.bytes
        && !trimmed.more
        && used(connection)? > bytes
    {
        // What is oldest is of least use; what happened goes before what was wrong.
        trimmed.events += events(connection, i64::MAX)?;
        if trimmed.events == 0 {
            trimmed.findings += findings(connection, i64::MAX)?;
            trimmed.conditions += conditions(connection, i64::MAX)?;
        }
        let some = trimmed.events + trimmed.findings + trimmed.conditions > 0;
        trimmed.more = some && used(connection)? > bytes;
    }
    Ok(trimmed)
}

impl Trimmed {
    /// Whether one of the kinds has as many as a step takes.
    fn is_full(&self) -> bool {
        [self.events, self.findings, self.conditions, self.holes].iter().any(|number| *number >= unsigned(STEP))
    }
}

/// Ends before the first that is newer, wherever the clock was set to: the ids of what is kept have no gaps, by which they
/// are counted.
fn events(connection: &Connection, cut: i64) -> Result<u64, StoreError> {
    let oldest = "SELECT id, received_at FROM events ORDER BY id LIMIT ?2";
    let newer: Option<i64> = connection
        .prepare_cached(&format!("SELECT id FROM ({oldest}) WHERE received_at >= ?1 LIMIT 1"))?
        .query_row(params![cut, STEP], |row| row.get(0))
        .optional()?;
    let deleted = connection
        .prepare_cached("DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?2) AND id < ?1")?
        .execute(params![newer.unwrap_or(i64::MAX), STEP])?;
    Ok(deleted as u64)
}

fn findings(connection: &Connection, cut: i64) -> Result<u64, StoreError> {
    delete(
        connection,
        "DELETE FROM findings WHERE id IN (SELECT id FROM findings INDEXED BY findings_resolved
             WHERE state = 'resolved' AND received_at < ?1 ORDER BY received_at LIMIT ?2)",
        cut,
    )
}

fn conditions(connection: &Connection, cut: i64) -> Result<u64, StoreError> {
    delete(
        connection,
        "DELETE FROM conditions WHERE id IN (SELECT id FROM conditions INDEXED BY conditions_resolved
             WHERE state = 'resolved' AND received_at < ?1 ORDER BY received_at LIMIT ?2)",
        cut,
    )
}

fn delete(connection: &Connection, sql: &str, cut: i64) -> Result<u64, StoreError> {
    Ok(connection.prepare_cached(sql)?.execute(params![cut, STEP])? as u64)
}

/// The bytes that hold something: what was deleted is free for what comes, and the file does not become smaller.
fn used(connection: &Connection) -> Result<u64, StoreError> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(unsigned(pages.saturating_mul(pragma("page_size")?)))
}
