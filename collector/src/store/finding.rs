//! Owns findings over time: open once, updated, resolved, begun anew. Must not own which event says so.

use driftlock_common::event::FindingBody;
use rusqlite::{OptionalExtension as _, params};

use super::apply::{signed, unsigned};
use super::effect::Context;
use super::fold::stands_alone;
use super::group::GroupKey;
use super::read::{finding_of, loudness, to_json};
use super::{Changed, FindingRecord, Lifetime, NO_RULE, StoreError, directory_of};
use crate::clock::Timestamp;

/// An open finding keeps its beginning and its id; one that was resolved begins anew.
pub(super) fn open_finding(context: &mut Context<'_>, body: &FindingBody, time: Timestamp) -> Result<(), StoreError> {
    let Some(path) = body.finding.tree_path() else { return Ok(()) };
    let finding = to_json(&body.finding)?;
    let claimed_start = Timestamp::parse(&body.opened_at).map_or(time, |at| context.bounded(at));
    let loudness = loudness(body.finding.severity());
    let alone = stands_alone(&body.finding);
    let drift = GroupKey::of(&body.finding)?;
    let rule = body.finding.rule.as_deref().unwrap_or(NO_RULE);
    let (connection, host) = (context.connection, context.host);
    let old = connection
        .prepare_cached(
            "SELECT id, opened_at, count, finding, flapping FROM findings
             WHERE host = ?1 AND target = ?2 AND path = ?3 AND state = 'open'",
        )?
        .query_row(params![host, body.target, path.as_bytes()], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                Timestamp::from_millis(row.get(1)?),
                unsigned(row.get(2)?),
                row.get::<_, String>(3)?,
                row.get::<_, Option<i64>>(4)?.map(unsigned),
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
        flapping: body.flapping,
        received_at: context.received_at,
    };
    if let Some((id, opened_at, count, old_finding, flapping)) = old {
        let counted = body.count <= count && body.flapping == flapping;
        let unchanged = old_finding == finding && counted && claimed_start >= opened_at;
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
                     received_at = ?7, severity = ?8, rule = ?9, alone = ?10, flapping = ?11, drift = ?12
                 WHERE id = ?1",
            )?
            .execute(params![
                id,
                body.finding.change.name(),
                finding,
                record.opened_at.millis(),
                time.millis(),
                signed(record.count),
                context.received_at.millis(),
                loudness,
                rule,
                alone,
                record.flapping.map(signed),
                drift.as_bytes()
            ])?;
    } else {
        connection
            .prepare_cached("DELETE FROM findings WHERE host = ?1 AND target = ?2 AND path = ?3")?
            .execute(params![host, body.target, record.path])?;
        connection
            .prepare_cached(
                "INSERT INTO findings (host, target, path, change, finding, state, opened_at, updated_at, count,
                     received_at, severity, rule, alone, directory, flapping, drift)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
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
                context.received_at.millis(),
                loudness,
                rule,
                alone,
                directory_of(&record.path),
                record.flapping.map(signed),
                drift.as_bytes()
            ])?;
        record.id = connection.last_insert_rowid();
    }
    forget_digest(context, &body.target)?;
    context.changes.push(Changed::Finding(Box::new(record)));
    Ok(())
}

/// Which open findings of a target are over.
#[derive(Clone, Copy)]
pub(super) enum Resolve<'a> {
    Path(&'a [u8]),
    NotInSnapshot,
    All,
}

pub(super) fn resolve_findings(
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
