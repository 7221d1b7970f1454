//! Owns what is kept of who reported as a host: the agent that does and those before, and a short history of what came
//! between. What it means is judged by [`crate::fleet::arrival`]. Must not own conflicts, but for saying that there is one.

use driftlock_common::event::Running;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;
use super::effect::Context;
use super::read::{from_json, rows, to_json};
use crate::clock::Timestamp;
use crate::fleet::arrival::{Arrival, Known, Start, meet};

/// The most that is remembered of a host.
const HISTORY: i64 = 100;

/// Something that came between two reports of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrivalRecord {
    /// What.
    pub what: Arrival,
    /// When it was heard of, by the collector's clock.
    pub at: Timestamp,
    /// From where, if that is known.
    pub from: Option<String>,
}

/// Two agents that report with one identity: from where each does, as far as it is known.
pub(super) struct Twins {
    pub(super) before: Option<String>,
    pub(super) now: Option<String>,
}

/// Notes who reports, of a heartbeat; gives the two, if they are two.
pub(super) fn note(context: &Context<'_>, running: &Running) -> Result<Option<Twins>, StoreError> {
    let Context { connection, host, received_at, .. } = context;
    let epoch: String =
        connection.prepare_cached("SELECT epoch FROM hosts WHERE host = ?1")?.query_row([host], |row| row.get(0))?;
    let said = Start {
        epoch,
        number: running.starts,
        at: running.started_at.clone(),
        boot: running.boot.clone(),
        enrolment: enrolment(context)?,
        from: context.from.map(str::to_owned),
    };
    let known = known(context)?;
    let (arrival, now_known) = meet(known.as_ref(), &said, *received_at);
    if known.as_ref() != Some(&now_known) {
        connection
            .prepare_cached("UPDATE hosts SET known = ?2 WHERE host = ?1")?
            .execute(params![host, to_json(&now_known)?])?;
    }
    if let Some(arrival) = arrival {
        remember(context, arrival)?;
    }
    let before = known.filter(|_| arrival == Some(Arrival::Cloned));
    Ok(before.map(|known| Twins { before: known.current.from, now: said.from }))
}

/// What joined the host to the collector: the time of it, which no two enrolments of a host have in common.
fn enrolment(context: &Context<'_>) -> Result<Option<String>, StoreError> {
    let enrolled_at: Option<i64> = context
        .connection
        .prepare_cached("SELECT enrolled_at FROM identities WHERE host = ?1")?
        .query_row([context.host], |row| row.get(0))
        .optional()?;
    Ok(enrolled_at.map(|at| Timestamp::from_millis(at).to_string()))
}

/// From where the host was last heard.
pub(super) fn last_heard_from(context: &Context<'_>) -> Result<Option<String>, StoreError> {
    Ok(known(context)?.and_then(|known| known.current.from))
}

fn known(context: &Context<'_>) -> Result<Option<Known>, StoreError> {
    let known: Option<String> = context
        .connection
        .prepare_cached("SELECT known FROM hosts WHERE host = ?1")?
        .query_row([context.host], |row| row.get(0))
        .optional()?
        .flatten();
    known.map(|known| from_json("arrival", &known)).transpose()
}

fn remember(context: &Context<'_>, arrival: Arrival) -> Result<(), StoreError> {
    let Context { connection, host, received_at, from, .. } = context;
    connection
        .prepare_cached("INSERT INTO arrivals (host, what, at, source) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![host, arrival.name(), received_at.millis(), from])?;
    connection
        .prepare_cached(
            "DELETE FROM arrivals WHERE host = ?1 AND id <=
                 (SELECT id FROM arrivals WHERE host = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![host, HISTORY])?;
    Ok(())
}

/// What is remembered of a host, the newest first.
pub(super) fn arrivals(connection: &Connection, host: String) -> Result<Vec<ArrivalRecord>, StoreError> {
    let sql = "SELECT what, at, source FROM arrivals WHERE host = ? ORDER BY id DESC";
    let found = rows(connection, sql, vec![host.into()], |row| {
        let what = Arrival::from_name(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?);
        Ok((what, Timestamp::from_millis(row.get(1)?), row.get(2)?))
    })?;
    // A word of a later version is of no use here.
    Ok(found.into_iter().filter_map(|(what, at, from)| Some(ArrivalRecord { what: what?, at, from })).collect())
}
