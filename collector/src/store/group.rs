//! Owns which open findings are the same drift, on however many hosts, and lists of that. A finding's key is kept with it,
//! and the numbers of each group by triggers: see the schema. Must not own lists of single findings.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use driftlock_common::digest::Digest;
use driftlock_common::drift::Change;
use driftlock_common::finding::Finding;
use driftlock_common::policy::{Ruling, Severity};
use rusqlite::Connection;
use rusqlite::types::Value;

use super::apply::unsigned;
use super::filter::{Where, page};
use super::read::{FINDING_COLUMNS, finding_of, loudness, rows, to_json};
use super::{FindingRecord, Page, StoreError};
use crate::clock::Timestamp;

/// What open findings have in common that are the same drift: path, difference, both sides, and how loudly it is said.
/// Text form: 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey([u8; 16]);

/// Which groups. An absent field does not narrow.
#[derive(Clone, Debug, Default)]
pub struct GroupQuery {
    /// Only this one.
    pub key: Option<GroupKey>,
    /// What kind of difference.
    pub change: Option<Change>,
    /// Whether somebody is to know.
    pub verdict: Option<Ruling>,
    /// How loudly it is said. What is tolerated is never within.
    pub severity: Option<RangeInclusive<Severity>>,
    /// Which first, and where to begin.
    pub order: GroupOrder,
    /// The most to give.
    pub limit: usize,
}

/// In which order groups are listed, and where a part of the list begins: behind the one that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOrder {
    /// Those on the most hosts first.
    Widest(Option<(u64, GroupKey)>),
    /// The loudest first, what is tolerated last; of one severity the widest first.
    Loudest(Option<(Option<Severity>, u64, GroupKey)>),
}

/// Open findings that are the same drift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// What they have in common.
    pub key: GroupKey,
    /// On how many hosts.
    pub hosts: u64,
    /// How many findings: a host may have it in several targets.
    pub findings: u64,
    /// When the first of them came, by the collector's clock.
    pub first_at: Timestamp,
    /// When the last of them came, by the collector's clock.
    pub last_at: Timestamp,
    /// One of them.
    pub example: FindingRecord,
}

impl GroupKey {
    /// The key of a finding.
    ///
    /// # Errors
    /// If it has no JSON form.
    pub fn of(finding: &Finding) -> Result<Self, StoreError> {
        // What follows from where it was sealed, or is said for people, makes no other drift; nor does how much a
        // directory stands for, which grows.
        let common = to_json(&(
            (&finding.path, &finding.path_b64, finding.change, &finding.attributes),
            (&finding.expected, &finding.observed),
            (&finding.unverified, finding.reason, finding.severity()),
        ))?;
        let digest = Digest::blake3(common.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest.as_bytes()[..16]);
        Ok(Self(key))
    }

    /// As it is stored.
    pub(super) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for GroupKey {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut key = [0; 16];
        hex::decode_to_slice(text, &mut key)?;
        Ok(Self(key))
    }
}

impl Default for GroupOrder {
    fn default() -> Self {
        Self::Widest(None)
    }
}

impl GroupOrder {
    /// Where the list goes on behind `last`.
    fn behind(self, last: &GroupRecord) -> Self {
        match self {
            Self::Widest(_) => Self::Widest(Some((last.hosts, last.key))),
            Self::Loudest(_) => Self::Loudest(Some((last.example.finding.severity(), last.hosts, last.key))),
        }
    }
}

/// Groups in the order of the query.
pub(super) fn groups(connection: &Connection, query: GroupQuery) -> Result<Page<GroupRecord, GroupOrder>, StoreError> {
    let GroupQuery { key, change, verdict, severity: severities, order, limit } = query;
    let blob = |key: GroupKey| Value::from(key.0.to_vec());
    let number = |hosts: u64| Value::from(super::apply::signed(hosts));
    let mut filter = Where::new();
    filter.and("key = ?", key.map(blob));
    filter.and("change = ?", change.map(|change| change.name().to_owned()));
    match verdict {
        Some(Ruling::Alert) => filter.and_all("severity > 0", []),
        Some(Ruling::Tolerated) => filter.and_all("severity = 0", []),
        None => {}
    }
    if let Some(severities) = severities {
        let ends = [severities.start(), severities.end()].map(|severity| Value::from(loudness(Some(*severity))));
        filter.and_all("severity BETWEEN ? AND ?", ends);
    }
    match order {
        GroupOrder::Widest(Some((hosts, key))) => filter.and_all("(hosts, key) < (?, ?)", [number(hosts), blob(key)]),
        GroupOrder::Loudest(Some((severity, hosts, key))) => {
            filter.and_all("(severity, hosts, key) < (?, ?, ?)", [loudness(severity).into(), number(hosts), blob(key)])
        }
        GroupOrder::Widest(None) | GroupOrder::Loudest(None) => {}
    }
    let by = match order {
        GroupOrder::Widest(_) => "hosts DESC, key DESC",
        GroupOrder::Loudest(_) => "severity DESC, hosts DESC, key DESC",
    };
    let sql = format!(
        "SELECT key, hosts, findings, first_at, last_at FROM drifts {} ORDER BY {by} LIMIT {}",
        filter.sql(),
        limit.saturating_add(1)
    );
    let found = rows(connection, &sql, filter.into_values(), |row| {
        let numbers = (unsigned(row.get(1)?), unsigned(row.get(2)?));
        let times = (Timestamp::from_millis(row.get(3)?), Timestamp::from_millis(row.get(4)?));
        Ok((GroupKey(row.get(0)?), numbers, times))
    })?;
    let mut items = Vec::with_capacity(found.len());
    for (key, (hosts, findings), (first_at, last_at)) in found {
        let sql = format!("SELECT {FINDING_COLUMNS} FROM findings WHERE drift = ? AND state = 'open' LIMIT 1");
        // A group without a finding is none; the triggers leave no such.
        if let Some(example) = rows(connection, &sql, vec![blob(key)], finding_of)?.pop() {
            items.push(GroupRecord { key, hosts, findings, first_at, last_at, example });
        }
    }
    Ok(page(items, limit, |group| order.behind(group)))
}

/// Gives every open finding that an earlier schema kept its key.
pub(super) fn give_keys(connection: &Connection) -> Result<(), StoreError> {
    let mut ids = connection.prepare(
        "SELECT id, finding FROM findings INDEXED BY findings_open_of_drift WHERE state = 'open' AND drift IS NULL LIMIT 1000",
    )?;
    let mut set = connection.prepare("UPDATE findings SET drift = ?2 WHERE id = ?1")?;
    loop {
        let mut found = ids.query([])?;
        let mut keys = Vec::new();
        while let Some(row) = found.next()? {
            let finding = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
            keys.push((row.get::<_, i64>(0)?, GroupKey::of(&super::read::from_json("finding", finding)?)?));
        }
        if keys.is_empty() {
            return Ok(());
        }
        for (id, key) in keys {
            set.execute(rusqlite::params![id, key.0])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_another_drift_and_what_does_not() {
        let key = |json: &str| GroupKey::of(&serde_json::from_str(json).unwrap()).unwrap();
        let base = r#"{"path":"a","change":"changed","attributes":["mode"],"expected":{"type":"file","mode":"0755"},"observed":{"type":"file","mode":"4755"},"severity":"high","rule":"r"}"#;
        for (from, to, same) in [
            ("\"rule\":\"r\"", "\"rule\":\"other\",\"explanation\":\"x\",\"step\":\"RUN\",\"layer\":3", true),
            ("\"path\":\"a\"", "\"path\":\"b\"", false),
            ("\"path\":\"a\"", "\"path\":\"a\",\"path_b64\":\"YQ==\"", false),
            ("4755", "4750", false),
            ("0755", "0750", false),
            ("\"change\":\"changed\"", "\"change\":\"unverifiable\"", false),
            ("\"attributes\":[\"mode\"]", "\"attributes\":[\"mode\",\"uid\"]", false),
            ("\"severity\":\"high\"", "\"severity\":\"low\"", false),
            ("\"severity\":\"high\"", "\"verdict\":\"tolerated\"", false),
            ("\"severity\":\"high\"", "\"severity\":\"high\",\"reason\":\"io\"", false),
        ] {
            let other = base.replace(from, to);
            assert_ne!(other, base);
            assert_eq!(key(&other) == key(base), same, "{other}");
        }
        let text = key(base).to_string();
        assert_eq!((text.len(), text.parse()), (32, Ok(key(base))));
        for wrong in ["", "00", &"g".repeat(32), &"0".repeat(34)] {
            assert!(wrong.parse::<GroupKey>().is_err(), "{wrong}");
        }
    }
}
