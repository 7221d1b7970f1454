//! Owns snapshots: all open findings of a target, in parts; what no part held is over at the last one.

use driftlock_common::event::{FindingBody, Snapshot};
use rusqlite::params;

use super::StoreError;
use super::condition::{Origin, open_condition, resolve_conditions_of};
use super::effect::{Context, host_changed, know_target, set_manifest};
use super::finding::{Resolve, open_finding, resolve_findings};
use crate::clock::Timestamp;

/// The parts are collected in the store, so that a restart between two of them loses nothing.
pub(super) fn snapshot(
    context: &mut Context<'_>,
    part: &Snapshot,
    sequence: u64,
    time: Timestamp,
) -> Result<(), StoreError> {
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

pub(super) fn note_in_snapshot(context: &Context<'_>, body: &FindingBody) -> Result<(), StoreError> {
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

pub(super) fn end_snapshot(context: &Context<'_>, target: &str) -> Result<(), StoreError> {
    let Context { connection, host, .. } = context;
    connection
        .prepare_cached("DELETE FROM snapshot_paths WHERE host = ?1 AND target = ?2")?
        .execute(params![host, target])?;
    connection
        .prepare_cached("UPDATE targets SET snapshot_next = NULL WHERE host = ?1 AND target = ?2")?
        .execute(params![host, target])?;
    Ok(())
}
