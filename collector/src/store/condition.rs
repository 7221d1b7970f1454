//! Owns conditions over time, the agent's and the collector's own. Must not own which event says so.

use driftlock_common::event::ConditionBody;
use rusqlite::{OptionalExtension as _, params};

use super::effect::{Context, know_target};
use super::read::{condition_of, to_json};
use super::{Changed, StoreError};
use crate::clock::Timestamp;

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
        "INSERT INTO conditions (host, key, target, reason, path, detail, origin, state, opened_at, updated_at, received_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'open', ?8, ?8, ?9)
         ON CONFLICT (host, key) DO UPDATE SET detail = ?6, updated_at = ?8, received_at = ?9 RETURNING {}",
        super::read::CONDITION_COLUMNS
    );
    let record = connection.prepare_cached(&sql)?.query_row(
        params![
            host,
            key,
            body.target,
            body.reason.name(),
            body.path,
            body.detail,
            origin.name(),
            time.millis(),
            context.received_at.millis()
        ],
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
        "UPDATE conditions SET state = 'resolved', resolved_at = ?3, updated_at = ?3, received_at = ?4
         WHERE host = ?1 AND key = ?2 AND state = 'open' RETURNING {}",
        super::read::CONDITION_COLUMNS
    );
    let record = context
        .connection
        .prepare_cached(&sql)?
        .query_row(params![context.host, key, time.millis(), context.received_at.millis()], |row| Ok(condition_of(row)))
        .optional()?
        .transpose()?;
    context.changes.extend(record.map(Box::new).map(Changed::Condition));
    Ok(())
}

/// Resolves the agent's conditions of a target (`None`: of the whole agent) that are not in `kept`.
pub(super) fn resolve_conditions_of(
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
