//! Owns which open findings are the same drift, on however many hosts, and lists of that. A finding's key is kept with it,
//! and the numbers of each group by triggers: see the schema. Must not own lists of single findings.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use driftlock_common::digest::Digest;
use driftlock_common::drift::Change;
use driftlock_common::finding::Finding;
use driftlock_common::policy::{Ruling, Severity};
use rusqlite::types::Value;
use rusqlite::{Connection, Row};

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

/// A row of the table: key, hosts, findings, when the first and the last came, severity.
type Numbers = (GroupKey, u64, u64, Timestamp, Timestamp, i64);

/// Groups in the order of the query. They are kept in order for each severity and change apart, so a part of the list is
/// the beginnings of those, whatever the filter: no list reads more than it gives, but for these few.
pub(super) fn groups(connection: &Connection, query: GroupQuery) -> Result<Page<GroupRecord, GroupOrder>, StoreError> {
    let limit = query.limit;
    let found = match query.key {
        Some(key) => {
            let sql = "SELECT key, hosts, findings, first_at, last_at, severity FROM drifts WHERE key = ?";
            rows(connection, sql, vec![blob(key)], numbers_of)?
        }
        None => beginnings(connection, &query)?,
    };
    let mut items = Vec::with_capacity(found.len());
    for (key, hosts, findings, first_at, last_at, _) in found {
        let sql = format!("SELECT {FINDING_COLUMNS} FROM findings WHERE drift = ? AND state = 'open' LIMIT 1");
        // A group without a finding is none; the triggers leave no such.
        if let Some(example) = rows(connection, &sql, vec![blob(key)], finding_of)?.pop() {
            items.push(GroupRecord { key, hosts, findings, first_at, last_at, example });
        }
    }
    Ok(page(items, limit, |group| query.order.behind(group)))
}

/// One more than asked, if there are as many.
fn beginnings(connection: &Connection, query: &GroupQuery) -> Result<Vec<Numbers>, StoreError> {
    let limit = query.limit.saturating_add(1);
    let severities = [None].into_iter().chain(Severity::ALL.map(Some));
    let severities = severities.filter(|severity| {
        let wanted = match query.verdict {
            Some(Ruling::Alert) => severity.is_some(),
            Some(Ruling::Tolerated) => severity.is_none(),
            None => true,
        };
        wanted && query.severity.as_ref().is_none_or(|range| severity.is_some_and(|severity| range.contains(&severity)))
    });
    let mut found: Vec<Numbers> = Vec::new();
    for severity in severities.map(loudness) {
        let behind = match query.order {
            GroupOrder::Widest(behind) => behind,
            GroupOrder::Loudest(Some((before, ..))) if severity > loudness(before) => continue,
            GroupOrder::Loudest(Some((before, hosts, key))) if severity == loudness(before) => Some((hosts, key)),
            GroupOrder::Loudest(_) => None,
        };
        for change in Change::ALL.into_iter().filter(|change| query.change.is_none_or(|wanted| wanted == *change)) {
            let mut filter = Where::new();
            filter.and("severity = ?", Some(severity));
            filter.and("change = ?", Some(change.name().to_owned()));
            if let Some((hosts, key)) = behind {
                filter.and_all("(hosts, key) < (?, ?)", [super::apply::signed(hosts).into(), blob(key)]);
            }
            let sql = format!(
                "SELECT key, hosts, findings, first_at, last_at, severity FROM drifts {}
                 ORDER BY hosts DESC, key DESC LIMIT {limit}",
                filter.sql()
            );
            found.extend(rows(connection, &sql, filter.into_values(), numbers_of)?);
        }
    }
    let loudest = matches!(query.order, GroupOrder::Loudest(_));
    let place = |(key, hosts, .., severity): &Numbers| (if loudest { *severity } else { 0 }, *hosts, *key);
    found.sort_by_key(|numbers| std::cmp::Reverse(place(numbers)));
    found.truncate(limit);
    Ok(found)
}

fn numbers_of(row: &Row<'_>) -> Result<Numbers, StoreError> {
    let time = |column| Ok::<_, StoreError>(Timestamp::from_millis(row.get(column)?));
    Ok((GroupKey(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?), time(3)?, time(4)?, row.get(5)?))
}

fn blob(key: GroupKey) -> Value {
    Value::from(key.0.to_vec())
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
