//! Owns what one event does to findings, conditions and targets. Must not own sequences: what is here is applied once.

use driftlock_common::digest::OciDigest;
use driftlock_common::event::{Body, ConditionBody, FindingBody, Heartbeat, Snapshot, Stopped, TargetBeat};
use driftlock_common::finding::{Finding, ManifestView, open_digest};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::apply::{signed, unsigned};
use super::read::{condition_of, finding_of, from_json, to_json};
use super::{Changed, FindingRecord, Lifetime, StoreError};
use crate::batch::{Beat, Kept, resolved_path};
use crate::clock::Timestamp;

/// What every effect needs: the transaction, whose events these are, and where to say what changed.
pub(super) struct Context<'a> {
    pub(super) connection: &'a Connection,
    pub(super) host: &'a str,
    pub(super) received_at: Timestamp,
    pub(super) changes: &'a mut Vec<Changed>,
}

/// Who found a condition: an agent's list of its conditions says nothing about the collector's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Agent,
    Collector,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Collector => "collector",
        }
    }
}

/// Applies a sequenced event.
pub(super) fn apply(context: &mut Context<'_>, sequence: u64, event: &Kept) -> Result<(), StoreError> {
    let time = event.time;
    match &event.body {
        Body::FindingOpened(body) | Body::FindingUpdated(body) => {
            know_target(context, &body.target)?;
            open_finding(context, body, time)?;
            // A snapshot under way was begun before this: what is newer than it must survive its end.
            note_in_snapshot(context, body)
        }
        Body::FindingResolved(body) => {
            know_target(context, &body.target)?;
            let path = resolved_path(body).unwrap_or_default();
            resolve_findings(context, &body.target, time, Resolve::Path(path.as_bytes()))
        }
        Body::ConditionOpened(body) => open_condition(context, body, time, Origin::Agent),
        Body::ConditionResolved(body) => resolve_condition(context, body, time),
        Body::TargetSnapshot(body) => snapshot(context, body, sequence, time),
        Body::TargetVerified(body) => {
            know_target(context, &body.target)?;
            set_manifest(context, &body.target, Some(&body.summary.manifest))?;
            context
                .connection
                .prepare_cached("UPDATE targets SET verified_at = ?3 WHERE host = ?1 AND target = ?2")?
                .execute(params![context.host, body.target, time.millis()])?;
            host_changed(context);
            Ok(())
        }
        Body::Stopped(body) => stopped(context, body, time),
        // Heartbeats have no sequence and do not come this way.
        Body::Heartbeat(_) => Ok(()),
    }
}

/// Applies a heartbeat, `ack` being the highest sequence taken of its epoch.
pub(super) fn heartbeat(context: &mut Context<'_>, beat: &Beat, ack: u64) -> Result<(), StoreError> {
    let Heartbeat { host, labels, ephemeral, version, interval_s, sequence, targets } = &beat.heartbeat;
    context
        .connection
        .prepare_cached(
            "UPDATE hosts SET name = ?2, labels = ?3, version = ?4, ephemeral = ?5, interval_s = ?6, beat_time = ?7,
                 stopped_at = NULL
             WHERE host = ?1",
        )?
        .execute(params![
            context.host,
            host,
            to_json(labels)?,
            version,
            ephemeral,
            signed(*interval_s),
            beat.time.millis()
        ])?;
    // What is still on its way to here is in no finding yet, so only then both sides speak of the same state.
    let delivered = *sequence == ack;
    for target in targets {
        know_target(context, &target.target)?;
        beat_target(context, target)?;
        if delivered && !agrees(context, target)? {
            context
                .connection
                .prepare_cached("UPDATE targets SET resync = 1 WHERE host = ?1 AND target = ?2")?
                .execute(params![context.host, target.target])?;
        }
    }
    if delivered {
        forget_other_targets(context, targets, beat.time)?;
    }
    host_changed(context);
    Ok(())
}

fn beat_target(context: &Context<'_>, beat: &TargetBeat) -> Result<(), StoreError> {
    set_manifest(context, &beat.target, beat.manifest.as_ref())?;
    context
        .connection
        .prepare_cached("UPDATE targets SET root = ?3, coverage = ?4 WHERE host = ?1 AND target = ?2")?
        .execute(params![context.host, beat.target, beat.root, to_json(&beat.coverage)?])?;
    Ok(())
}

/// Whether the agent's open findings of a target are the stored ones.
fn agrees(context: &Context<'_>, beat: &TargetBeat) -> Result<bool, StoreError> {
    let Context { connection, host, .. } = context;
    let cached: Option<String> = connection
        .prepare_cached("SELECT open_digest FROM targets WHERE host = ?1 AND target = ?2")?
        .query_row(params![host, beat.target], |row| row.get(0))?;
    let digest = match cached {
        Some(digest) => digest,
        None => {
            let mut statement = connection
                .prepare_cached("SELECT finding FROM findings WHERE host = ?1 AND target = ?2 AND state = 'open'")?;
            let rows = statement.query_map(params![host, beat.target], |row| row.get::<_, String>(0))?;
            let mut findings: Vec<Finding> = Vec::new();
            for row in rows {
                findings.push(from_json("finding", &row?)?);
            }
            // The count is bound in the digest: two lists of different length have different bytes.
            let digest = OciDigest::blake3(open_digest(&findings)).to_string();
            connection
                .prepare_cached("UPDATE targets SET open_digest = ?3 WHERE host = ?1 AND target = ?2")?
                .execute(params![host, beat.target, digest])?;
            digest
        }
    };
    Ok(digest == beat.open_digest.to_string())
}

/// A target that the agent no longer has is watched by nobody: nothing of it can be open.
fn forget_other_targets(context: &mut Context<'_>, kept: &[TargetBeat], time: Timestamp) -> Result<(), StoreError> {
    let known: Vec<String> = context
        .connection
        .prepare_cached("SELECT target FROM targets WHERE host = ?1")?
        .query_map([context.host], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for target in known.iter().filter(|known| kept.iter().all(|beat| beat.target != **known)) {
        resolve_findings(context, target, time, Resolve::All)?;
        resolve_conditions_of(context, Some(target), &[], time)?;
        end_snapshot(context, target)?;
        context
            .connection
            .prepare_cached("DELETE FROM targets WHERE host = ?1 AND target = ?2")?
            .execute(params![context.host, target])?;
    }
    Ok(())
}

/// A stop that was spooled may arrive after the heartbeat of the next start.
fn stopped(context: &mut Context<'_>, body: &Stopped, time: Timestamp) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached(
            "UPDATE hosts SET stopped_at = ?2, ephemeral = ?3
             WHERE host = ?1 AND (beat_time IS NULL OR beat_time <= ?2)",
        )?
        .execute(params![context.host, time.millis(), body.ephemeral])?;
    host_changed(context);
    Ok(())
}

// === findings ===

/// An open finding keeps its beginning and its id; one that was resolved begins anew.
fn open_finding(context: &mut Context<'_>, body: &FindingBody, time: Timestamp) -> Result<(), StoreError> {
    let Some(path) = body.finding.tree_path() else { return Ok(()) };
    let finding = to_json(&body.finding)?;
    let claimed_start = Timestamp::parse(&body.opened_at).unwrap_or(time);
    let (connection, host) = (context.connection, context.host);
    let old = connection
        .prepare_cached(
            "SELECT id, opened_at, count, finding FROM findings
             WHERE host = ?1 AND target = ?2 AND path = ?3 AND state = 'open'",
        )?
        .query_row(params![host, body.target, path.as_bytes()], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                Timestamp::from_millis(row.get(1)?),
                unsigned(row.get(2)?),
                row.get::<_, String>(3)?,
            ))
        })
        .optional()?;
    let mut record = FindingRecord {
        id: 0,
        host: host.to_owned(),
        target: body.target.clone(),
        path: path.as_bytes().to_vec(),
        finding: body.finding.clone(),
        state: Lifetime::Open,
        opened_at: claimed_start,
        updated_at: time,
        resolved_at: None,
        count: body.count.max(1),
        received_at: context.received_at,
    };
    if let Some((id, opened_at, count, old_finding)) = old {
        let unchanged = old_finding == finding && body.count <= count && claimed_start >= opened_at;
        if unchanged {
            return Ok(());
        }
        record.id = id;
        // An agent whose state was made anew counts from the beginning; the store knows better.
        record.opened_at = opened_at.min(claimed_start);
        record.count = record.count.max(count);
        connection
            .prepare_cached(
                "UPDATE findings SET change = ?2, finding = ?3, opened_at = ?4, updated_at = ?5, count = ?6,
                     received_at = ?7
                 WHERE id = ?1",
            )?
            .execute(params![
                id,
                body.finding.change.name(),
                finding,
                record.opened_at.millis(),
                time.millis(),
                signed(record.count),
                context.received_at.millis()
            ])?;
    } else {
        connection
            .prepare_cached("DELETE FROM findings WHERE host = ?1 AND target = ?2 AND path = ?3")?
            .execute(params![host, body.target, record.path])?;
        connection
            .prepare_cached(
                "INSERT INTO findings (host, target, path, change, finding, state, opened_at, updated_at, count,
                     received_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                host,
                body.target,
                record.path,
                body.finding.change.name(),
                finding,
                record.opened_at.millis(),
                time.millis(),
                signed(record.count),
                context.received_at.millis()
            ])?;
        record.id = connection.last_insert_rowid();
    }
    forget_digest(context, &body.target)?;
    context.changes.push(Changed::Finding(Box::new(record)));
    Ok(())
}

/// Which open findings of a target are over.
#[derive(Clone, Copy)]
enum Resolve<'a> {
    Path(&'a [u8]),
    NotInSnapshot,
    All,
}

fn resolve_findings(
    context: &mut Context<'_>,
    target: &str,
    time: Timestamp,
    which: Resolve<'_>,
) -> Result<(), StoreError> {
    let (condition, path) = match which {
        Resolve::Path(path) => ("AND path = ?5", Some(path)),
        Resolve::NotInSnapshot => (
            "AND ?5 IS NULL AND NOT EXISTS (SELECT 1 FROM snapshot_paths s
                 WHERE s.host = findings.host AND s.target = findings.target AND s.path = findings.path)",
            None,
        ),
        Resolve::All => ("AND ?5 IS NULL", None),
    };
    let sql = format!(
        "UPDATE findings SET state = 'resolved', resolved_at = ?3, updated_at = ?3, received_at = ?4
         WHERE host = ?1 AND target = ?2 AND state = 'open' {condition} RETURNING {}",
        super::read::FINDING_COLUMNS
    );
    let mut statement = context.connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![context.host, target, time.millis(), context.received_at.millis(), path])?;
    let before = context.changes.len();
    while let Some(row) = rows.next()? {
        context.changes.push(Changed::Finding(Box::new(finding_of(row)?)));
    }
    if context.changes.len() > before { forget_digest(context, target) } else { Ok(()) }
}

fn forget_digest(context: &Context<'_>, target: &str) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached("UPDATE targets SET open_digest = NULL WHERE host = ?1 AND target = ?2")?
        .execute(params![context.host, target])?;
    Ok(())
}

// === snapshots ===

/// The parts are collected in the store, so that a restart between two of them loses nothing.
fn snapshot(context: &mut Context<'_>, part: &Snapshot, sequence: u64, time: Timestamp) -> Result<(), StoreError> {
    let (connection, host, target) = (context.connection, context.host, &part.target);
    know_target(context, target)?;
    if part.part == 0 {
        end_snapshot(context, target)?;
        set_manifest(context, target, part.manifest.as_ref())?;
        for condition in &part.conditions {
            open_condition(context, condition, time, Origin::Agent)?;
        }
        resolve_conditions_of(context, Some(target), &part.conditions, time)?;
        resolve_conditions_of(context, None, &part.conditions, time)?;
    }
    for finding in &part.findings {
        open_finding(context, finding, time)?;
    }
    let expected: Option<i64> = connection
        .prepare_cached("SELECT snapshot_next FROM targets WHERE host = ?1 AND target = ?2")?
        .query_row(params![host, target], |row| row.get(0))?;
    if part.part != 0 && expected != Some(i64::from(part.part)) {
        // A part before this one never came: the list has a hole, and nothing may be resolved by it.
        tracing::warn!(host, target, part = part.part, sequence, "snapshot with a missing part");
        end_snapshot(context, target)?;
        connection
            .prepare_cached("UPDATE targets SET resync = 1 WHERE host = ?1 AND target = ?2")?
            .execute(params![host, target])?;
        return Ok(());
    }
    connection
        .prepare_cached("UPDATE targets SET snapshot_next = ?3 WHERE host = ?1 AND target = ?2")?
        .execute(params![host, target, i64::from(part.part) + 1])?;
    for finding in &part.findings {
        note_in_snapshot(context, finding)?;
    }
    if part.last {
        resolve_findings(context, target, time, Resolve::NotInSnapshot)?;
        end_snapshot(context, target)?;
        connection
            .prepare_cached("UPDATE targets SET resync = 0 WHERE host = ?1 AND target = ?2")?
            .execute(params![host, target])?;
        host_changed(context);
    }
    Ok(())
}

fn note_in_snapshot(context: &Context<'_>, body: &FindingBody) -> Result<(), StoreError> {
    let Some(path) = body.finding.tree_path() else { return Ok(()) };
    context
        .connection
        .prepare_cached(
            "INSERT OR IGNORE INTO snapshot_paths (host, target, path) SELECT host, target, ?3 FROM targets
             WHERE host = ?1 AND target = ?2 AND snapshot_next IS NOT NULL",
        )?
        .execute(params![context.host, body.target, path.as_bytes()])?;
    Ok(())
}

fn end_snapshot(context: &Context<'_>, target: &str) -> Result<(), StoreError> {
    let Context { connection, host, .. } = context;
    connection
        .prepare_cached("DELETE FROM snapshot_paths WHERE host = ?1 AND target = ?2")?
        .execute(params![host, target])?;
    connection
        .prepare_cached("UPDATE targets SET snapshot_next = NULL WHERE host = ?1 AND target = ?2")?
        .execute(params![host, target])?;
    Ok(())
}

// === conditions ===

/// What makes two conditions one.
fn condition_key(body: &ConditionBody) -> Result<String, StoreError> {
    to_json(&(&body.target, body.reason, &body.path))
}

/// Opens a condition, or updates an open one.
pub(super) fn open_condition(
    context: &mut Context<'_>,
    body: &ConditionBody,
    time: Timestamp,
    origin: Origin,
) -> Result<(), StoreError> {
    if let Some(target) = &body.target {
        know_target(context, target)?;
    }
    let key = condition_key(body)?;
    let (connection, host) = (context.connection, context.host);
    connection
        .prepare_cached("DELETE FROM conditions WHERE host = ?1 AND key = ?2 AND state = 'resolved'")?
        .execute(params![host, key])?;
    let sql = format!(
        "INSERT INTO conditions (host, key, target, reason, path, detail, origin, state, opened_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'open', ?8, ?8)
         ON CONFLICT (host, key) DO UPDATE SET detail = ?6, updated_at = ?8 RETURNING {}",
        super::read::CONDITION_COLUMNS
    );
    let record = connection.prepare_cached(&sql)?.query_row(
        params![host, key, body.target, body.reason.name(), body.path, body.detail, origin.name(), time.millis()],
        |row| Ok(condition_of(row)),
    )??;
    context.changes.push(Changed::Condition(Box::new(record)));
    Ok(())
}

/// Resolves a condition; one that is not open is as it should be.
pub(super) fn resolve_condition(
    context: &mut Context<'_>,
    body: &ConditionBody,
    time: Timestamp,
) -> Result<(), StoreError> {
    resolve_condition_key(context, &condition_key(body)?, time)
}

fn resolve_condition_key(context: &mut Context<'_>, key: &str, time: Timestamp) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE conditions SET state = 'resolved', resolved_at = ?3, updated_at = ?3
         WHERE host = ?1 AND key = ?2 AND state = 'open' RETURNING {}",
        super::read::CONDITION_COLUMNS
    );
    let record = context
        .connection
        .prepare_cached(&sql)?
        .query_row(params![context.host, key, time.millis()], |row| Ok(condition_of(row)))
        .optional()?
        .transpose()?;
    context.changes.extend(record.map(Box::new).map(Changed::Condition));
    Ok(())
}

/// Resolves the agent's conditions of a target (`None`: of the whole agent) that are not in `kept`.
fn resolve_conditions_of(
    context: &mut Context<'_>,
    target: Option<&str>,
    kept: &[ConditionBody],
    time: Timestamp,
) -> Result<(), StoreError> {
    let kept: Vec<String> = kept.iter().map(condition_key).collect::<Result<_, _>>()?;
    let open: Vec<String> = context
        .connection
        .prepare_cached(
            "SELECT key FROM conditions WHERE host = ?1 AND target IS ?2 AND state = 'open' AND origin = 'agent'",
        )?
        .query_map(params![context.host, target], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for key in open.iter().filter(|key| !kept.contains(key)) {
        resolve_condition_key(context, key, time)?;
    }
    Ok(())
}

// === targets and hosts ===

/// A target first heard of has to be sent completely.
fn know_target(context: &Context<'_>, target: &str) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached("INSERT OR IGNORE INTO targets (host, target) VALUES (?1, ?2)")?
        .execute(params![context.host, target])?;
    Ok(())
}

fn set_manifest(context: &Context<'_>, target: &str, manifest: Option<&ManifestView>) -> Result<(), StoreError> {
    let manifest = manifest.map(to_json).transpose()?;
    context
        .connection
        .prepare_cached("UPDATE targets SET manifest = ?3 WHERE host = ?1 AND target = ?2")?
        .execute(params![context.host, target, manifest])?;
    Ok(())
}

/// At most one for a batch.
fn host_changed(context: &mut Context<'_>) {
    let changed = Changed::Host(context.host.to_owned());
    if !context.changes.contains(&changed) {
        context.changes.push(changed);
    }
}
