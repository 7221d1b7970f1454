//! Owns what a batch does to an epoch: what is a duplicate, what is missing, who speaks with whose identity.
//! What an event then does to findings, conditions and targets is in [`effect`].

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{Answer, Body, ConditionBody, Event};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::arrival::{Twins, last_heard_from};
use super::condition::{Origin, open_condition, resolve_condition};
use super::effect::{self, Context};
use super::hole::{fill, note_hole};
use super::{Applied, Changed, Delivery, HoleKind, StoreError};
use crate::batch::Sequenced;
use crate::clock::Timestamp;

/// An identity conflict is over when the other agent was not heard for this long.
const CONFLICT_QUIET_S: u64 = 300;

/// The epochs of a host that are known beside its newest: of an older one it is no longer known what was taken.
const MAX_EPOCHS: i64 = 1000;

/// What the store knows of the batch's epoch.
struct Epoch {
    ack: u64,
    /// Whether it is the newest one of its host.
    current: bool,
    /// Whether nothing of it was taken since the store was restored, so that what was acknowledged meanwhile is missing.
    restored: bool,
}

/// Applies a batch inside the transaction of `connection`; what changed is appended to `changes`.
///
/// # Errors
/// If SQLite refuses. Then the caller rolls back.
pub(super) fn apply(
    connection: &Connection,
    delivery: &Delivery,
    changes: &mut Vec<Changed>,
) -> Result<Applied, StoreError> {
    let Delivery { host, received_at, from, batch } = delivery;
    let mut answer = Answer { rejected: batch.rejected.clone(), ..Answer::default() };
    let Some(epoch) = batch.epoch.as_deref() else { return Ok(Applied::Answer(answer)) };
    let from = from.map(|address| address.to_string());
    let context = &mut Context { connection, host, received_at: *received_at, from: from.as_deref(), changes };
    super::run::go_on(connection, *received_at)?;

    let known = find_or_begin_epoch(context, epoch)?;
    if is_conflict(context, epoch, &known, delivery)? {
        let twins = Twins { before: last_heard_from(context)?, now: from.clone() };
        note_conflict(context, &twins)?;
        return Ok(Applied::Conflict);
    }

    answer.ack = known.ack;
    let taken_before = known.ack;
    for Sequenced { sequence, event } in &batch.sequenced {
        if *sequence <= answer.ack {
            let filled = *sequence <= taken_before && fill(context, epoch, *sequence)?;
            match event {
                // What comes late is evidence. What it says is older than what was taken since, and the snapshot that was
                // asked for then says how it is now.
                Some(event) if filled => {
                    append(context, epoch, *sequence, event)?;
                    answer.accepted += 1;
                }
                Some(_) => answer.duplicates += 1,
                // A refused event is listed as rejected every time, and is no duplicate of anything.
                None => {}
            }
            continue;
        }
        if *sequence > answer.ack + 1 {
            let restored = known.restored && answer.ack == taken_before;
            let kind = if restored { HoleKind::Restore } else { HoleKind::Lost };
            note_hole(context, epoch, answer.ack + 1, *sequence - 1, kind)?;
            // Whatever was said there is not known, so every target has to be sent again.
            forget_certainty(context)?;
        }
        if let Some(event) = event {
            append(context, epoch, *sequence, event)?;
            effect::apply(context, *sequence, event)?;
            answer.accepted += 1;
        }
        answer.ack = *sequence;
    }
    if known.current {
        for beat in &batch.heartbeats {
            effect::heartbeat(context, beat, answer.ack)?;
            answer.accepted += 1;
        }
        end_conflict(context)?;
        touch_host(context, &batch.source)?;
    }
    if answer.ack > taken_before {
        connection
            .prepare_cached(
                "UPDATE epochs SET ack = ?3, generation = (SELECT generation FROM store) WHERE host = ?1 AND epoch = ?2",
            )?
            .execute(params![host, epoch, signed(answer.ack)])?;
    }
    answer.resync = known.current && wants_snapshot(context)?;
    Ok(Applied::Answer(answer))
}

/// An epoch never seen before is the newest: the agent's state was made anew, or the store is an older one.
fn find_or_begin_epoch(context: &mut Context<'_>, epoch: &str) -> Result<Epoch, StoreError> {
    let (connection, host) = (context.connection, context.host);
    let known = connection
        .prepare_cached(
            "SELECT e.ack, e.epoch = h.epoch, e.generation <> (SELECT generation FROM store)
             FROM epochs e JOIN hosts h ON h.host = e.host WHERE e.host = ?1 AND e.epoch = ?2",
        )?
        .query_row(params![host, epoch], |row| {
            Ok(Epoch { ack: unsigned(row.get(0)?), current: row.get(1)?, restored: row.get(2)? })
        })
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let restored: bool = connection
        .prepare_cached(
            "SELECT s.restored_at IS NOT NULL AND NOT EXISTS (
                 SELECT 1 FROM epochs e WHERE e.host = ?1 AND e.generation = s.generation) FROM store s",
        )?
        .query_row([host], |row| row.get(0))?;
    let now = context.received_at.millis();
    connection
        .prepare_cached(
            "INSERT INTO epochs (host, epoch, first_seen, generation)
             SELECT ?1, ?2, ?3, CASE WHEN ?4 THEN '' ELSE generation END FROM store",
        )?
        .execute(params![host, epoch, now, restored])?;
    connection
        .prepare_cached(
            "INSERT INTO hosts (host, epoch, first_seen, last_seen) VALUES (?1, ?2, ?3, ?3)
             ON CONFLICT (host) DO UPDATE SET epoch = ?2, beat_sequence = NULL, stop_sequence = NULL,
                 stopped_at = NULL",
        )?
        .execute(params![host, epoch, now])?;
    forget_certainty(context)?;
    connection.prepare_cached("UPDATE targets SET verified_at = NULL WHERE host = ?1")?.execute([host])?;
    forget_old_epochs(context)?;
    context.changes.push(Changed::Host(host.to_owned()));
    Ok(Epoch { ack: 0, current: true, restored })
}

/// An agent without a lasting state makes an epoch with each start, and a hostile one as many as it may.
fn forget_old_epochs(context: &Context<'_>) -> Result<(), StoreError> {
    let Context { connection, host, .. } = context;
    for table in ["holes", "epochs"] {
        let sql = format!(
            "DELETE FROM {table} WHERE host = ?1 AND epoch IN (
                 SELECT epoch FROM epochs WHERE host = ?1 AND epoch <> (SELECT epoch FROM hosts WHERE host = ?1)
                 ORDER BY first_seen DESC, epoch LIMIT -1 OFFSET ?2)"
        );
        connection.prepare_cached(&sql)?.execute(params![host, MAX_EPOCHS])?;
    }
    Ok(())
}

/// Every target has to be sent again; snapshots under way are of no use.
fn forget_certainty(context: &Context<'_>) -> Result<(), StoreError> {
    let Context { connection, host, .. } = context;
    connection
        .prepare_cached("UPDATE targets SET resync = 1, snapshot_next = NULL WHERE host = ?1")?
        .execute([host])?;
    connection.prepare_cached("DELETE FROM snapshot_paths WHERE host = ?1")?.execute([host])?;
    Ok(())
}

/// Two agents with one identity: an epoch that was superseded goes on, or one sequence was given to two events
/// (a copied state directory). What was acknowledged before stays a duplicate.
fn is_conflict(context: &Context<'_>, epoch: &str, known: &Epoch, delivery: &Delivery) -> Result<bool, StoreError> {
    let batch = &delivery.batch;
    if !known.current {
        let goes_on = batch.sequenced.iter().any(|event| event.sequence > known.ack);
        return Ok(goes_on || !batch.heartbeats.is_empty());
    }
    let mut statement = context
        .connection
        .prepare_cached("SELECT json FROM events WHERE host = ?1 AND epoch = ?2 AND sequence = ?3")?;
    for Sequenced { sequence, event } in &batch.sequenced {
        let Some(event) = event.as_ref().filter(|_| *sequence <= known.ack) else { continue };
        let stored: Option<String> =
            statement.query_row(params![context.host, epoch, signed(*sequence)], |row| row.get(0)).optional()?;
        if stored.is_some_and(|stored| stored != event.json && !same_event(&stored, &event.json)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether two texts are one event, whatever the spacing.
fn same_event(a: &str, b: &str) -> bool {
    match (serde_json::from_str::<Event>(a), serde_json::from_str::<Event>(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn conflict(detail: String) -> ConditionBody {
    ConditionBody { target: None, reason: ConditionReason::IdentityConflict, path: None, detail }
}

/// Says from where each of the two reports, as far as that is known.
pub(super) fn note_conflict(context: &mut Context<'_>, twins: &Twins) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached("UPDATE hosts SET conflict_at = ?2 WHERE host = ?1")?
        .execute(params![context.host, context.received_at.millis()])?;
    let whence = match twins {
        Twins { before: Some(before), now: Some(now) } if before == now => format!("both from {now}"),
        Twins { before: Some(before), now: Some(now) } => format!("from {before} and from {now}"),
        Twins { now: Some(now), .. } => format!("the other from {now}"),
        Twins { .. } => "from where is not known".to_owned(),
    };
    let detail = format!(
        "two agents report with this host's credential, {whence}: a clone, or a snapshot that was put back; give each host \
         its own credential and its own state directory"
    );
    let now = context.received_at;
    open_condition(context, &conflict(detail), now, Origin::Collector)
}

fn end_conflict(context: &mut Context<'_>) -> Result<(), StoreError> {
    let conflict_at: Option<i64> = context
        .connection
        .prepare_cached("SELECT conflict_at FROM hosts WHERE host = ?1")?
        .query_row([context.host], |row| row.get(0))?;
    let now = context.received_at;
    match conflict_at.map(Timestamp::from_millis) {
        Some(at) if now.seconds_since(at) >= CONFLICT_QUIET_S => {
            context
                .connection
                .prepare_cached("UPDATE hosts SET conflict_at = NULL WHERE host = ?1")?
                .execute([context.host])?;
            resolve_condition(context, &conflict(String::new()), now)
        }
        _ => Ok(()),
    }
}

fn append(context: &Context<'_>, epoch: &str, sequence: u64, event: &crate::batch::Kept) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached(
            "INSERT INTO events (host, epoch, sequence, type, time, received_at, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            context.host,
            epoch,
            signed(sequence),
            type_name(&event.body),
            context.bounded(event.time).millis(),
            context.received_at.millis(),
            event.json
        ])?;
    Ok(())
}

const fn type_name(body: &Body) -> &'static str {
    match body {
        Body::FindingOpened(_) => "finding.opened.v1",
        Body::FindingUpdated(_) => "finding.updated.v1",
        Body::FindingResolved(_) => "finding.resolved.v1",
        Body::ConditionOpened(_) => "condition.opened.v1",
        Body::ConditionResolved(_) => "condition.resolved.v1",
        Body::TargetSnapshot(_) => "target.snapshot.v1",
        Body::TargetVerified(_) => "target.verified.v1",
        Body::Heartbeat(_) => "agent.heartbeat.v1",
        Body::Stopped(_) => "agent.stopped.v1",
    }
}

fn touch_host(context: &Context<'_>, source: &str) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached(
            "UPDATE hosts SET last_seen = ?2, claimed = CASE WHEN ?3 = '' THEN claimed ELSE ?3 END WHERE host = ?1",
        )?
        .execute(params![context.host, context.received_at.millis(), source])?;
    Ok(())
}

/// Also while no target is known: then nothing is.
fn wants_snapshot(context: &Context<'_>) -> Result<bool, StoreError> {
    let wanted = context
        .connection
        .prepare_cached("SELECT coalesce(max(resync), 1) FROM targets WHERE host = ?1")?
        .query_row([context.host], |row| row.get(0))?;
    Ok(wanted)
}

/// Sequences are checked to fit when a batch is read; larger values only occur as differences, and are cut.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Stored counts are never negative.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
