//! Owns the conditions of a query put together, so that each combination has its own plan and index. Must not own what
//! is asked of which table.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::read::to_json;
use super::{Lifetime, Page, StoreError};

/// The most hosts that are found by one name.
const NAMESAKES: i64 = 1000;

/// Clauses, and the values of their placeholders in order.
#[derive(Clone)]
pub(super) struct Where {
    clauses: Vec<&'static str>,
    values: Vec<Value>,
}

impl Where {
    pub(super) const fn new() -> Self {
        Self { clauses: Vec::new(), values: Vec::new() }
    }

    pub(super) fn and(&mut self, clause: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.and_all(clause, [value.into()]);
        }
    }

    pub(super) fn and_all(&mut self, clause: &'static str, values: impl IntoIterator<Item = Value>) {
        self.clauses.push(clause);
        self.values.extend(values);
    }

    pub(super) fn and_state(&mut self, state: Option<Lifetime>) {
        // A literal, because a partial index is only used when its own words are in the query.
        match state {
            Some(Lifetime::Open) => self.and_all("state = 'open'", []),
            Some(Lifetime::Resolved) => self.and_all("state = 'resolved'", []),
            None => {}
        }
    }

    pub(super) fn and_host(&mut self, connection: &Connection, host: Option<String>) -> Result<(), StoreError> {
        if let Some(host) = host {
            // One value, so that the statement stays the same however many they are.
            let keys = to_json(&hosts_named(connection, &host)?)?;
            self.and_all("host IN (SELECT value FROM json_each(?))", [keys.into()]);
        }
        Ok(())
    }

    pub(super) fn sql(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!("WHERE {}", self.clauses.join(" AND ")) }
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }
}

/// A host by its key, or by what its agent calls itself where no host has that key: no agent gets into the list of another
/// host by its name, not even of one that has joined and reported nothing yet.
pub(super) fn hosts_named(connection: &Connection, name: &str) -> Result<Vec<String>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT host FROM hosts WHERE host = ?1
         UNION ALL SELECT host FROM hosts WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM hosts WHERE host = ?1)
             AND NOT EXISTS (SELECT 1 FROM identities WHERE host = ?1)
         LIMIT ?2",
    )?;
    let keys = statement.query_map(params![name, NAMESAKES], |row| row.get(0))?;
    Ok(keys.collect::<Result<_, _>>()?)
}

/// A part of a list: one more than asked tells whether there is a next part.
pub(super) fn page<T, C>(mut items: Vec<T>, limit: usize, behind: impl Fn(&T) -> C) -> Page<T, C> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(behind);
    Page { items, next }
}
