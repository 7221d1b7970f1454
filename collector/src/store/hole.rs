//! Owns which sequences of an epoch never came: noted as ranges, filled by what comes late, listed. Must not own what is
//! done about it.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::apply::{signed, unsigned};
use super::effect::Context;
use super::filter::{Where, page};
use super::read::rows;
use super::{HoleKind, HoleQuery, HoleRecord, Page, StoreError};
use crate::clock::Timestamp;

/// The most holes of an epoch whose ranges are kept; what is lost beyond is only counted. An agent that leaves out every
/// second sequence would else make one with each event.
const MAX_HOLES: i64 = 1000;

struct Hole {
    id: i64,
    first: u64,
    last: u64,
    lost: bool,
    noted_at: i64,
}

/// Notes that the sequences from `first` to `last` were passed over.
pub(super) fn note_hole(
    context: &Context<'_>,
    epoch: &str,
    first: u64,
    last: u64,
    kind: HoleKind,
) -> Result<(), StoreError> {
    let Context { connection, host, received_at, .. } = context;
    if kind == HoleKind::Lost {
        count_lost(context, epoch, signed((last - first).saturating_add(1)))?;
    }
    let number: i64 = connection
        .prepare_cached("SELECT count(*) FROM holes WHERE host = ?1 AND epoch = ?2")?
        .query_row(params![host, epoch], |row| row.get(0))?;
    if number < MAX_HOLES {
        insert(context, epoch, first, last, kind.name(), received_at.millis())?;
    }
    Ok(())
}

/// Takes a sequence out of the hole that it lies in; whether it did.
pub(super) fn fill(context: &Context<'_>, epoch: &str, sequence: u64) -> Result<bool, StoreError> {
    let Context { connection, host, .. } = context;
    let hole = connection
        .prepare_cached(
            "SELECT id, first, last, kind, noted_at FROM holes WHERE host = ?1 AND epoch = ?2 AND first <= ?3
             ORDER BY first DESC LIMIT 1",
        )?
        .query_row(params![host, epoch, signed(sequence)], |row| {
            Ok(Hole {
                id: row.get(0)?,
                first: unsigned(row.get(1)?),
                last: unsigned(row.get(2)?),
                lost: row.get_ref(3)?.as_str()? == HoleKind::Lost.name(),
                noted_at: row.get(4)?,
            })
        })
        .optional()?;
    let Some(hole) = hole.filter(|hole| sequence <= hole.last) else { return Ok(false) };
    connection.prepare_cached("DELETE FROM holes WHERE id = ?1")?.execute([hole.id])?;
    let kind = if hole.lost { HoleKind::Lost } else { HoleKind::Restore };
    for (first, last) in [(hole.first, sequence - 1), (sequence + 1, hole.last)] {
        if first <= last {
            insert(context, epoch, first, last, kind.name(), hole.noted_at)?;
        }
    }
    if hole.lost {
        count_lost(context, epoch, -1)?;
    }
    Ok(true)
}

fn insert(
    context: &Context<'_>,
    epoch: &str,
    first: u64,
    last: u64,
    kind: &str,
    noted_at: i64,
) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached("INSERT INTO holes (host, epoch, first, last, kind, noted_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![context.host, epoch, signed(first), signed(last), kind, noted_at])?;
    Ok(())
}

fn count_lost(context: &Context<'_>, epoch: &str, more: i64) -> Result<(), StoreError> {
    context
        .connection
        // A hostile agent may skip more than the column holds.
        .prepare_cached(
            "UPDATE epochs SET lost = max(0, min(lost + min(?3, 1 << 60), 1 << 60)) WHERE host = ?1 AND epoch = ?2",
        )?
        .execute(params![context.host, epoch, more])?;
    Ok(())
}

/// Holes, the newest first.
pub(super) fn holes(connection: &Connection, query: HoleQuery) -> Result<Page<HoleRecord, i64>, StoreError> {
    let mut filter = Where::new();
    filter.and_host(connection, query.host)?;
    filter.and("id < ?", query.before);
    let sql = format!(
        "SELECT id, host, epoch, first, last, kind, noted_at FROM holes {} ORDER BY id DESC LIMIT {}",
        filter.sql(),
        query.limit.saturating_add(1)
    );
    let items = rows(connection, &sql, filter.into_values(), |row| {
        Ok(HoleRecord {
            id: row.get(0)?,
            host: row.get(1)?,
            epoch: row.get(2)?,
            sequences: unsigned(row.get(3)?)..=unsigned(row.get(4)?),
            kind: if row.get_ref(5)?.as_str().map_err(rusqlite::Error::from)? == HoleKind::Restore.name() {
                HoleKind::Restore
            } else {
                HoleKind::Lost
            },
            noted_at: Timestamp::from_millis(row.get(6)?),
        })
    })?;
    Ok(page(items, query.limit, |hole| hole.id))
}
