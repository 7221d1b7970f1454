//! Owns queries: rows to records. Must not own writing.

use std::collections::BTreeMap;

use driftlock_common::condition::ConditionReason;
use driftlock_common::drift::Change;
use driftlock_common::policy::Severity;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::apply::unsigned;
use super::filter::{Where, page};
use super::{
    ConditionQuery, ConditionRecord, FindingRecord, HoleKind, HostQuery, HostRecord, Lifetime, Page, StoreError,
    TargetRecord, Totals,
};
use crate::clock::Timestamp;
use crate::tally::Tally;

/// What [`finding_of`] reads.
pub(super) const FINDING_COLUMNS: &str =
    "id, host, target, path, finding, state, opened_at, updated_at, resolved_at, count, received_at, flapping";
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
pub(super) fn word<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_value(text.into()).map_err(|source| StoreError::Damaged { what, source })
}

/// The number of a severity: see the schema.
pub(super) fn loudness(severity: Option<Severity>) -> i64 {
    let place = severity.and_then(|severity| Severity::ALL.iter().position(|known| *known == severity));
    place.and_then(|place| i64::try_from(place).ok()).map_or(0, |place| place + 1)
}

/// The severity of a number.
pub(super) fn severity(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Severity>> {
    let number: i64 = row.get(column)?;
    let place = usize::try_from(number.saturating_sub(1)).ok();
    Ok(place.and_then(|place| Severity::ALL.get(place).copied()))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

pub(super) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize, what: &'static str) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| from_json(what, &text)).transpose()
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
        flapping: row.get::<_, Option<i64>>(11)?.map(unsigned),
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

pub(super) fn rows<T>(
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

/// Conditions, the newest first.
pub(super) fn conditions(
    connection: &Connection,
    query: ConditionQuery,
) -> Result<Page<ConditionRecord, i64>, StoreError> {
    let mut filter = Where::new();
    filter.and_state(query.state);
    filter.and_host(connection, query.host)?;
    filter.and("id < ?", query.before);
    let sql = format!(
        "SELECT {CONDITION_COLUMNS} FROM conditions {} ORDER BY id DESC LIMIT {}",
        filter.sql(),
        query.limit.saturating_add(1)
    );
    let items = rows(connection, &sql, filter.into_values(), condition_of)?;
    Ok(page(items, query.limit, |condition| condition.id))
}

/// Hosts in order of their key, each with its targets and the reasons of its open conditions.
pub(super) fn hosts(connection: &Connection, query: HostQuery) -> Result<Page<HostRecord, String>, StoreError> {
    let mut filter = Where::new();
    filter.and("h.host = ?", query.host);
    let keys = query.keys.map(|keys| to_json(&keys)).transpose()?;
    filter.and("h.host IN (SELECT value FROM json_each(?))", keys);
    filter.and("h.host > ?", query.after);
    let sql = format!(
        "SELECT h.host, h.name, h.claimed, h.labels, h.version, h.ephemeral, h.interval_s, h.epoch, e.ack, e.lost,
             h.first_seen, h.last_seen, h.stopped_at, h.agent, i.labels
         FROM hosts h JOIN epochs e ON e.host = h.host AND e.epoch = h.epoch
             LEFT JOIN identities i ON i.host = h.host {} ORDER BY h.host LIMIT {}",
        filter.sql(),
        query.limit.saturating_add(1)
    );
    let items = rows(connection, &sql, filter.into_values(), |row| {
        Ok(HostRecord {
            host: row.get(0)?,
            name: row.get(1)?,
            claimed: row.get(2)?,
            labels: labels(row)?,
            version: row.get(4)?,
            ephemeral: row.get(5)?,
            interval_s: unsigned(row.get(6)?),
            epoch: row.get(7)?,
            ack: unsigned(row.get(8)?),
            lost: unsigned(row.get(9)?),
            first_seen: time(row, 10)?,
            last_seen: time(row, 11)?,
            stopped_at: optional_time(row, 12)?,
            agent: json(row, 13, "agent")?,
            targets: Vec::new(),
            conditions: Vec::new(),
        })
    })?;
    let mut page = page(items, query.limit, |host| host.host.clone());
    // One statement for all of them; each gives its rows in the order of the hosts.
    let keys = to_json(&page.items.iter().map(|host| &host.host).collect::<Vec<_>>())?;
    add_targets(connection, &mut page.items, &keys)?;
    let reasons = "SELECT DISTINCT host, reason FROM conditions INDEXED BY conditions_open
         WHERE state = 'open' AND host IN (SELECT value FROM json_each(?)) ORDER BY host, reason";
    let reasons = rows(connection, reasons, vec![keys.into()], |row| {
        Ok((row.get(0)?, word("condition", row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?))
    })?;
    add(&mut page.items, reasons, |host, reason| host.conditions.push(reason));
    Ok(page)
}

/// Adds to each host what is its, where both are in the order of the hosts.
fn add<T>(hosts: &mut [HostRecord], items: Vec<(String, T)>, add: impl Fn(&mut HostRecord, T)) {
    let mut hosts = hosts.iter_mut().peekable();
    for (key, item) in items {
        while hosts.next_if(|host| host.host < key).is_some() {}
        if let Some(host) = hosts.peek_mut().filter(|host| host.host == key) {
            add(host, item);
        }
    }
}

/// What the agent says of the host, and over it what the token says that the host joined with.
fn labels(row: &rusqlite::Row<'_>) -> Result<serde_json::Value, StoreError> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let mut labels: serde_json::Value = from_json("label", text(3)?)?;
    let granted: Option<BTreeMap<String, String>> = json(row, 14, "label")?;
    if let (Some(labels), Some(granted)) = (labels.as_object_mut(), granted) {
        labels.extend(granted.into_iter().map(|(key, value)| (key, value.into())));
    }
    Ok(labels)
}

fn add_targets(connection: &Connection, hosts: &mut [HostRecord], keys: &str) -> Result<(), StoreError> {
    let mut open: BTreeMap<(String, String), Tally> = BTreeMap::new();
    let counts = rows(
        connection,
        "SELECT host, target, severity, change = 'unverifiable', number FROM tallies
         WHERE host IN (SELECT value FROM json_each(?))",
        vec![keys.to_owned().into()],
        |row| Ok(((row.get(0)?, row.get(1)?), severity(row, 2)?, row.get(3)?, unsigned(row.get(4)?))),
    )?;
    for (target, severity, unverifiable, number) in counts {
        open.entry(target).or_default().add(severity, unverifiable, number);
    }
    let targets = rows(
        connection,
        "SELECT host, target, root, manifest, policy, coverage, verified_at, resync, swept_at FROM targets
         WHERE host IN (SELECT value FROM json_each(?)) ORDER BY host, target",
        vec![keys.to_owned().into()],
        |row| {
            let target = TargetRecord {
                target: row.get(1)?,
                root: row.get(2)?,
                manifest: json(row, 3, "manifest")?,
                policy: json(row, 4, "policy")?,
                coverage: json(row, 5, "coverage")?,
                verified_at: optional_time(row, 6)?,
                resync: row.get(7)?,
                swept_at: optional_time(row, 8)?,
                open: Tally::default(),
            };
            Ok((row.get::<_, String>(0)?, target))
        },
    )?;
    add(hosts, targets, |host, mut target| {
        target.open = open.get(&(host.host.clone(), target.target.clone())).copied().unwrap_or_default();
        host.targets.push(target);
    });
    Ok(())
}

/// How many of each.
pub(super) fn totals(connection: &Connection) -> Result<Totals, StoreError> {
    let findings = rows(
        connection,
        "SELECT change, severity, sum(number) FROM tallies GROUP BY change, severity",
        Vec::new(),
        |row| Ok((word::<Change>("change", &row.get::<_, String>(0)?)?, severity(row, 1)?, unsigned(row.get(2)?))),
    )?;
    let conditions = rows(
        connection,
        "SELECT reason, count(*) FROM conditions WHERE state = 'open' GROUP BY reason ORDER BY reason",
        Vec::new(),
        |row| Ok((word::<ConditionReason>("condition", &row.get::<_, String>(0)?)?, unsigned(row.get(1)?))),
    )?;
    let holes =
        rows(connection, "SELECT kind, count(*), sum(last - first + 1) FROM holes GROUP BY kind", vec![], |row| {
            let kind: String = row.get(0)?;
            let known = HoleKind::ALL.into_iter().find(|known| known.name() == kind);
            Ok((known.unwrap_or(HoleKind::Lost), unsigned(row.get(1)?), unsigned(row.get(2)?)))
        })?;
    // Only the oldest are ever deleted, so their ids have no gaps; counting would read them all.
    let events: i64 = connection.query_row(
        "SELECT coalesce((SELECT max(id) FROM events) - (SELECT min(id) FROM events) + 1, 0)",
        params![],
        |row| row.get(0),
    )?;
    Ok(Totals { findings, conditions, holes, events: unsigned(events) })
}
