//! Owns what is known of every host, as little of it as judging takes, read in one pass. Must not own judging.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row};

use super::apply::unsigned;
use super::read::{from_json, time, word};
use super::{HostFacts, StoreError};
use crate::fleet::{Facts, TargetFacts};

/// The facts of every host, in order of their keys. Every statement gives its rows in that order too.
pub(super) fn facts(connection: &Connection) -> Result<Vec<HostFacts>, StoreError> {
    let mut all = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT h.host, h.last_seen, h.interval_s, h.ephemeral, h.stopped_at IS NOT NULL, h.name, h.labels, i.labels
         FROM hosts h LEFT JOIN identities i ON i.host = h.host ORDER BY h.host",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let facts = Facts {
            last_seen: time(row, 1)?,
            interval_s: unsigned(row.get(2)?),
            ephemeral: row.get(3)?,
            stopped: row.get(4)?,
            ..Facts::default()
        };
        let mut labels = labels(row, 6)?;
        // Those of the token that the host joined with count, whatever its agent says.
        labels.extend(self::labels(row, 7)?);
        all.push(HostFacts { host: row.get(0)?, name: row.get(5)?, labels, facts });
    }
    let targets = "SELECT host, sealed, coalesce(swept_at, verified_at) IS NOT NULL, unverifiable, resync
         FROM targets INDEXED BY targets_facts ORDER BY host";
    add(connection, &mut all, targets, |facts, row| {
        facts.targets.push(TargetFacts {
            sealed: row.get(1)?,
            looked_at: row.get(2)?,
            unverifiable: unsigned(row.get(3)?),
            resync: row.get(4)?,
        });
        Ok(())
    })?;
    let alerts = "SELECT host, change = 'unverifiable', number FROM tallies WHERE severity > 0 ORDER BY host";
    add(connection, &mut all, alerts, |facts, row| {
        let open = if row.get(1)? { &mut facts.open_unverifiable } else { &mut facts.open_drift };
        *open += unsigned(row.get(2)?);
        Ok(())
    })?;
    let conditions = "SELECT DISTINCT host, reason FROM conditions INDEXED BY conditions_open WHERE state = 'open'
         ORDER BY host, reason";
    add(connection, &mut all, conditions, |facts, row| {
        let reason = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        facts.conditions.push(word("condition", reason)?);
        Ok(())
    })?;
    Ok(all)
}

fn labels(row: &Row<'_>, column: usize) -> Result<BTreeMap<String, String>, StoreError> {
    match row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)? {
        None | Some("{}") => Ok(BTreeMap::new()),
        Some(labels) => from_json("label", labels),
    }
}

/// Adds to each host the rows that are its.
fn add(
    connection: &Connection,
    all: &mut [HostFacts],
    sql: &str,
    add: impl Fn(&mut Facts, &Row<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut hosts = all.iter_mut().peekable();
    while let Some(row) = rows.next()? {
        let host = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        while hosts.next_if(|known| known.host.as_str() < host).is_some() {}
        if let Some(known) = hosts.peek_mut().filter(|known| known.host == host) {
            add(&mut known.facts, row)?;
        }
    }
    Ok(())
}
