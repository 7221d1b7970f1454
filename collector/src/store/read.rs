//! Owns queries: rows to records. Must not own writing.

use driftlock_common::condition::ConditionReason;
use driftlock_common::drift::Change;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::apply::unsigned;
use super::{
    ConditionQuery, ConditionRecord, FindingQuery, FindingRecord, HostQuery, HostRecord, Lifetime, Page, StoreError,
    TargetRecord, Totals,
};
use crate::clock::Timestamp;

/// What [`finding_of`] reads.
pub(super) const FINDING_COLUMNS: &str =
    "id, host, target, path, finding, state, opened_at, updated_at, resolved_at, count, received_at";
/// What [`condition_of`] reads.
pub(super) const CONDITION_COLUMNS: &str =
    "id, host, target, reason, path, detail, state, opened_at, updated_at, resolved_at";

/// A value as it is stored.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Damaged { what: "value", source })
}

/// A stored value.
pub(super) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Damaged { what, source })
}

/// A word of a closed table, in the spelling of its JSON.
fn word<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_value(text.into()).map_err(|source| StoreError::Damaged { what, source })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

fn lifetime(row: &Row<'_>, column: usize) -> rusqlite::Result<Lifetime> {
    Ok(if row.get_ref(column)?.as_str()? == Lifetime::Open.name() { Lifetime::Open } else { Lifetime::Resolved })
}

/// A row of [`FINDING_COLUMNS`].
pub(super) fn finding_of(row: &Row<'_>) -> Result<FindingRecord, StoreError> {
    Ok(FindingRecord {
        id: row.get(0)?,
        host: row.get(1)?,
        target: row.get(2)?,
        path: row.get(3)?,
        finding: from_json("finding", row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?)?,
        state: lifetime(row, 5)?,
        opened_at: time(row, 6)?,
        updated_at: time(row, 7)?,
        resolved_at: optional_time(row, 8)?,
        count: unsigned(row.get(9)?),
        received_at: time(row, 10)?,
    })
}

/// A row of [`CONDITION_COLUMNS`].
pub(super) fn condition_of(row: &Row<'_>) -> Result<ConditionRecord, StoreError> {
    Ok(ConditionRecord {
        id: row.get(0)?,
        host: row.get(1)?,
        target: row.get(2)?,
        reason: word("condition", row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
        path: row.get(4)?,
        detail: row.get(5)?,
        state: lifetime(row, 6)?,
        opened_at: time(row, 7)?,
        updated_at: time(row, 8)?,
        resolved_at: optional_time(row, 9)?,
    })
}

/// Conditions of a query put together, so that each combination has its own plan and index.
struct Where {
    clauses: Vec<&'static str>,
    values: Vec<Value>,
}

impl Where {
    const fn new() -> Self {
        Self { clauses: Vec::new(), values: Vec::new() }
    }

    fn and(&mut self, clause: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.clauses.push(clause);
            self.values.push(value.into());
        }
    }

    fn and_state(&mut self, state: Option<Lifetime>) {
        // A literal, because a partial index is only used when its own words are in the query.
        match state {
            Some(Lifetime::Open) => self.clauses.push("state = 'open'"),
            Some(Lifetime::Resolved) => self.clauses.push("state = 'resolved'"),
            None => {}
        }
    }

    fn and_host(&mut self, host: Option<String>) {
        if let Some(host) = host {
            self.clauses.push("host IN (SELECT host FROM hosts WHERE host = ? OR name = ?)");
            self.values.extend([Value::from(host.clone()), Value::from(host)]);
        }
    }

    fn sql(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!("WHERE {}", self.clauses.join(" AND ")) }
    }
}

/// One more than asked tells whether there is a next part.
fn page<T>(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> i64) -> Page<T, i64> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(id);
    Page { items, next }
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    values: Vec<Value>,
    read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(read(row)?);
    }
    Ok(items)
}

/// Findings, the newest first.
pub(super) fn findings(connection: &Connection, query: FindingQuery) -> Result<Page<FindingRecord, i64>, StoreError> {
    let mut filter = Where::new();
    filter.and_state(query.state);
    filter.and_host(query.host);
    filter.and("target = ?", query.target);
    filter.and("path = ?", query.path);
    filter.and("id < ?", query.before);
    let sql = format!(
        "SELECT {FINDING_COLUMNS} FROM findings {} ORDER BY id DESC LIMIT {}",
        filter.sql(),
        query.limit.saturating_add(1)
    );
    let items = rows(connection, &sql, filter.values, finding_of)?;
    Ok(page(items, query.limit, |finding| finding.id))
}

/// Conditions, the newest first.
pub(super) fn conditions(
    connection: &Connection,
    query: ConditionQuery,
) -> Result<Page<ConditionRecord, i64>, StoreError> {
    let mut filter = Where::new();
    filter.and_state(query.state);
    filter.and_host(query.host);
    filter.and("id < ?", query.before);
    let sql = format!(
        "SELECT {CONDITION_COLUMNS} FROM conditions {} ORDER BY id DESC LIMIT {}",
        filter.sql(),
        query.limit.saturating_add(1)
    );
    let items = rows(connection, &sql, filter.values, condition_of)?;
    Ok(page(items, query.limit, |condition| condition.id))
}

/// Hosts in order of their key, each with its targets and the reasons of its open conditions.
pub(super) fn hosts(connection: &Connection, query: HostQuery) -> Result<Page<HostRecord, String>, StoreError> {
    let mut filter = Where::new();
    filter.and("h.host = ?", query.host);
    filter.and("h.host > ?", query.after);
    let sql = format!(
        "SELECT h.host, h.name, h.claimed, h.labels, h.version, h.ephemeral, h.interval_s, h.epoch, e.ack, e.lost,
             h.first_seen, h.last_seen, h.stopped_at
         FROM hosts h JOIN epochs e ON e.host = h.host AND e.epoch = h.epoch {} ORDER BY h.host LIMIT {}",
        filter.sql(),
        query.limit.saturating_add(1)
    );
    let mut items = rows(connection, &sql, filter.values, |row| {
        Ok(HostRecord {
            host: row.get(0)?,
            name: row.get(1)?,
            claimed: row.get(2)?,
            labels: from_json("label", row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
            version: row.get(4)?,
            ephemeral: row.get(5)?,
            interval_s: unsigned(row.get(6)?),
            epoch: row.get(7)?,
            ack: unsigned(row.get(8)?),
            lost: unsigned(row.get(9)?),
            first_seen: time(row, 10)?,
            last_seen: time(row, 11)?,
            stopped_at: optional_time(row, 12)?,
            targets: Vec::new(),
            conditions: Vec::new(),
        })
    })?;
    let more = items.len() > query.limit;
    items.truncate(query.limit);
    for host in &mut items {
        host.targets = targets(connection, &host.host)?;
        host.conditions = rows(
            connection,
            "SELECT DISTINCT reason FROM conditions WHERE host = ? AND state = 'open' ORDER BY reason",
            vec![host.host.clone().into()],
            |row| word("condition", row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?),
        )?;
    }
    let next = items.last().filter(|_| more).map(|host| host.host.clone());
    Ok(Page { items, next })
}

fn targets(connection: &Connection, host: &str) -> Result<Vec<TargetRecord>, StoreError> {
    const OPEN: &str = "SELECT count(*) FROM findings f INDEXED BY findings_open_of_target
        WHERE f.host = t.host AND f.target = t.target AND f.state = 'open'";
    let sql = format!(
        "SELECT target, root, manifest, coverage, verified_at, resync,
             ({OPEN} AND f.change <> 'unverifiable'), ({OPEN} AND f.change = 'unverifiable')
         FROM targets t WHERE host = ? ORDER BY target"
    );
    rows(connection, &sql, vec![host.to_owned().into()], |row| {
        let json = |column| row.get::<_, Option<String>>(column);
        Ok(TargetRecord {
            target: row.get(0)?,
            root: row.get(1)?,
            manifest: json(2)?.map(|text| from_json("manifest", &text)).transpose()?,
            coverage: json(3)?.map(|text| from_json("coverage", &text)).transpose()?,
            verified_at: optional_time(row, 4)?,
            resync: row.get(5)?,
            open_drift: unsigned(row.get(6)?),
            open_unverifiable: unsigned(row.get(7)?),
        })
    })
}

/// How many of each.
pub(super) fn totals(connection: &Connection) -> Result<Totals, StoreError> {
    let findings = rows(
        connection,
        "SELECT change, count(*) FROM findings WHERE state = 'open' GROUP BY change ORDER BY change",
        Vec::new(),
        |row| Ok((word::<Change>("change", &row.get::<_, String>(0)?)?, unsigned(row.get(1)?))),
    )?;
    let conditions = rows(
        connection,
        "SELECT reason, count(*) FROM conditions WHERE state = 'open' GROUP BY reason ORDER BY reason",
        Vec::new(),
        |row| Ok((word::<ConditionReason>("condition", &row.get::<_, String>(0)?)?, unsigned(row.get(1)?))),
    )?;
    // Events are never deleted, so the highest id is their number; counting would read them all.
    let events: Option<i64> =
        connection.query_row("SELECT max(id) FROM events", params![], |row| row.get(0)).optional()?.flatten();
    Ok(Totals { findings, conditions, events: unsigned(events.unwrap_or(0)) })
}
