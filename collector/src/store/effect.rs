//! Owns what one event does to targets and hosts, and which of [`finding`](super::finding),
//! [`condition`](super::condition) and [`snapshot`](super::snapshot) it goes to. Must not own sequences: what is here is applied once.

use driftlock_common::condition::ConditionReason;
use driftlock_common::digest::OciDigest;
use driftlock_common::event::{Body, ConditionBody, Heartbeat, Stopped, TargetBeat, Verified};
use driftlock_common::finding::{Finding, ManifestView, open_digest};
use rusqlite::{Connection, params};

use super::apply::{note_conflict, signed};
use super::condition::{Origin, open_condition, resolve_condition, resolve_conditions_of};
use super::finding::{Resolve, open_finding, resolve_findings};
use super::read::{from_json, to_json};
use super::snapshot::{end_snapshot, note_in_snapshot, snapshot};
use super::{Changed, StoreError, arrival};
use crate::batch::{Beat, Kept, resolved_path};
use crate::clock::Timestamp;
use crate::fleet::duration;

/// What every effect needs: the transaction, whose events these are, and where to say what changed.
pub(super) struct Context<'a> {
    pub(super) connection: &'a Connection,
    pub(super) host: &'a str,
    pub(super) received_at: Timestamp,
    /// From where it came.
    pub(super) from: Option<&'a str>,
    pub(super) changes: &'a mut Vec<Changed>,
}

/// Clocks that differ by less are the same, in seconds: what Kerberos allows.
const MAX_SKEW_S: u64 = 300;

impl Context<'_> {
    /// A time that an agent says, as it counts: nothing was seen after it was told. A time that is long ago stays, because a
    /// spool holds for long; the event itself is kept as it was said.
    pub(super) fn bounded(&self, time: Timestamp) -> Timestamp {
        time.min(self.received_at)
    }
}

/// Applies a sequenced event.
pub(super) fn apply(context: &mut Context<'_>, sequence: u64, event: &Kept) -> Result<(), StoreError> {
    let time = context.bounded(event.time);
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
        Body::TargetVerified(body) => verified(context, body, time),
        Body::Stopped(body) => stopped(context, body, sequence, time),
        // Heartbeats have no sequence and do not come this way.
        Body::Heartbeat(_) => Ok(()),
    }
}

/// A look that left something open vouches for nothing.
fn verified(context: &mut Context<'_>, body: &Verified, time: Timestamp) -> Result<(), StoreError> {
    know_target(context, &body.target)?;
    set_manifest(context, &body.target, Some(&body.summary.manifest))?;
    if body.summary.complete {
        context
            .connection
            .prepare_cached("UPDATE targets SET verified_at = ?3 WHERE host = ?1 AND target = ?2")?
            .execute(params![context.host, body.target, time.millis()])?;
    }
    host_changed(context);
    Ok(())
}

/// Applies a heartbeat, `ack` being the highest sequence taken of its epoch.
pub(super) fn heartbeat(context: &mut Context<'_>, beat: &Beat, ack: u64) -> Result<(), StoreError> {
    let Heartbeat { host, labels, ephemeral, version, interval_s, sequence, agent, targets } = &beat.heartbeat;
    context
        .connection
        .prepare_cached(
            "UPDATE hosts SET name = ?2, labels = ?3, version = ?4, ephemeral = ?5, interval_s = ?6, agent = ?8,
                 beat_sequence = max(?7, coalesce(beat_sequence, 0)), stopped_at = iif(?7 < stop_sequence, stopped_at, NULL)
             WHERE host = ?1",
        )?
        .execute(params![
            context.host,
            host,
            to_json(labels)?,
            version,
            ephemeral,
            signed(*interval_s),
            signed(*sequence),
            agent.as_ref().map(to_json).transpose()?
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
    let time = context.bounded(beat.time);
    if delivered {
        forget_other_targets(context, targets, time)?;
    }
    if let Some(running) = agent
        && let Some(twins) = arrival::note(context, running)?
    {
        note_conflict(context, &twins)?;
    }
    compare_clocks(context, beat.time)?;
    host_changed(context);
    Ok(())
}

/// A heartbeat is not spooled, so it is as old as its way was long. The condition ends with the next that is right.
fn compare_clocks(context: &mut Context<'_>, said: Timestamp) -> Result<(), StoreError> {
    let now = context.received_at;
    let (ahead, behind) = (said.seconds_since(now), now.seconds_since(said));
    let body = |detail: String| ConditionBody { target: None, reason: ConditionReason::ClockSkew, path: None, detail };
    match (ahead, behind) {
        (_, behind) if behind > MAX_SKEW_S => {
            let detail = format!("the host's clock is {} behind the collector's", duration(behind));
            open_condition(context, &body(detail), now, Origin::Collector)
        }
        (ahead, _) if ahead > MAX_SKEW_S => {
            let detail = format!("the host's clock is {} ahead of the collector's", duration(ahead));
            open_condition(context, &body(detail), now, Origin::Collector)
        }
        _ => resolve_condition(context, &body(String::new()), now),
    }
}

fn beat_target(context: &Context<'_>, beat: &TargetBeat) -> Result<(), StoreError> {
    set_manifest(context, &beat.target, beat.manifest.as_ref())?;
    let policy = beat.policy.as_ref().map(to_json).transpose()?;
    let swept_at = beat.coverage.last_sweep.as_deref().and_then(Timestamp::parse);
    context
        .connection
        .prepare_cached(
            "UPDATE targets SET root = ?3, policy = ?4, coverage = ?5, swept_at = ?6, unverifiable = ?7
             WHERE host = ?1 AND target = ?2",
        )?
        .execute(params![
            context.host,
            beat.target,
            beat.root,
            policy,
            to_json(&beat.coverage)?,
            swept_at.map(|at| context.bounded(at).millis()),
            signed(beat.coverage.unverifiable)
        ])?;
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

/// A stop that was spooled may arrive after the heartbeat of the next start, and a heartbeat that was sent before it may
/// arrive after it. Which of them came later on the host is known by sequences, whatever its clock says: of the agent's
/// epoch, as another one begins without a stop.
fn stopped(context: &mut Context<'_>, body: &Stopped, sequence: u64, time: Timestamp) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached(
            "UPDATE hosts SET stopped_at = ?2, stop_sequence = ?3, ephemeral = ?4
             WHERE host = ?1 AND (beat_sequence IS NULL OR beat_sequence < ?3)",
        )?
        .execute(params![context.host, time.millis(), signed(sequence), body.ephemeral])?;
    host_changed(context);
    Ok(())
}

// === targets and hosts ===

/// A target first heard of has to be sent completely.
pub(super) fn know_target(context: &Context<'_>, target: &str) -> Result<(), StoreError> {
    context
        .connection
        .prepare_cached("INSERT OR IGNORE INTO targets (host, target) VALUES (?1, ?2)")?
        .execute(params![context.host, target])?;
    Ok(())
}

pub(super) fn set_manifest(
    context: &Context<'_>,
    target: &str,
    manifest: Option<&ManifestView>,
) -> Result<(), StoreError> {
    let manifest = manifest.map(to_json).transpose()?;
    context
        .connection
        .prepare_cached("UPDATE targets SET manifest = ?3, sealed = ?3 IS NOT NULL WHERE host = ?1 AND target = ?2")?
        .execute(params![context.host, target, manifest])?;
    Ok(())
}

/// At most one for a batch.
pub(super) fn host_changed(context: &mut Context<'_>) {
    let changed = Changed::Host(context.host.to_owned());
    if !context.changes.contains(&changed) {
        context.changes.push(changed);
    }
}
