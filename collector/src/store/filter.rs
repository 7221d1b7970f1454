//! Owns the conditions of a query put together, so that each combination has its own plan and index. Must not own what
//! is asked of which table.

use rusqlite::types::Value;

use super::{Lifetime, Page};

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

    pub(super) fn and_host(&mut self, host: Option<String>) {
        if let Some(host) = host {
            let host = Value::from(host);
            self.and_all("host IN (SELECT host FROM hosts WHERE host = ? OR name = ?)", [host.clone(), host]);
        }
    }

    pub(super) fn sql(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!("WHERE {}", self.clauses.join(" AND ")) }
    }

    pub(super) fn into_values(self) -> Vec<Value> {
        self.values
    }
}

/// A part of a list: one more than asked tells whether there is a next part.
pub(super) fn page<T, C>(mut items: Vec<T>, limit: usize, behind: impl Fn(&T) -> C) -> Page<T, C> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(behind);
    Page { items, next }
}
