//! Owns the list of all hosts, those that report and those that should, each with its state: numbers, filters, order. Must
//! not own judging, or what a host's own page shows.

use std::collections::BTreeMap;

use driftlock_common::host_name::HostName;

use crate::app::AppState;
use crate::fleet::{HostState, Outlook, Verdict};
use crate::store::{HostFacts, Page, StoreError};

/// Every host in order of its key.
#[derive(Debug)]
pub struct Roster {
    entries: Vec<Entry>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub host: String,
    /// Its name as the agent says; empty if it was never heard of.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its last reports mean.
    pub verdict: Verdict,
}

/// Which hosts. An absent field does not narrow.
#[derive(Clone, Debug, Default)]
pub struct RosterQuery {
    /// Only this one.
    pub host: Option<String>,
    /// In this state.
    pub state: Option<HostState>,
    /// With this label, and with this value if one is given.
    pub label: Option<(String, Option<String>)>,
    /// A part of key or name, whatever its case.
    pub name: Option<String>,
    /// Which first, and where to begin.
    pub order: RosterOrder,
    /// The most to give.
    pub limit: usize,
}

/// In which order hosts are listed, and where a part of the list begins: behind the one that is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RosterOrder {
    /// By key.
    Key(Option<String>),
    /// By state in order of precedence, then by key.
    Worst(Option<(HostState, String)>),
}

impl Default for RosterOrder {
    fn default() -> Self {
        Self::Key(None)
    }
}

impl RosterOrder {
    fn is_behind(&self, entry: &Entry) -> bool {
        match self {
            Self::Key(after) => after.as_ref().is_none_or(|after| entry.host > *after),
            Self::Worst(after) => {
                after.as_ref().is_none_or(|(state, host)| (entry.verdict.state, &entry.host) > (*state, host))
            }
        }
    }

    fn behind(&self, last: &Entry) -> Self {
        match self {
            Self::Key(_) => Self::Key(Some(last.host.clone())),
            Self::Worst(_) => Self::Worst(Some((last.verdict.state, last.host.clone()))),
        }
    }
}

impl RosterQuery {
    fn takes(&self, entry: &Entry) -> bool {
        let part = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
        self.host.as_ref().is_none_or(|host| entry.host == *host)
            && self.state.is_none_or(|state| entry.verdict.state == state)
            && self.label.as_ref().is_none_or(|(key, value)| {
                entry.labels.get(key).is_some_and(|has| value.as_ref().is_none_or(|value| has == value))
            })
            && self.name.as_ref().is_none_or(|name| part(&entry.host, name) || part(&entry.name, name))
    }
}

impl Roster {
    /// All of them, as things are.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn read(state: &AppState, outlook: &Outlook) -> Result<Self, StoreError> {
        Ok(Self::new(state.store.facts().await?, outlook))
    }

    /// Of the hosts that report, in order of their keys.
    pub fn new(known: Vec<HostFacts>, outlook: &Outlook) -> Self {
        let mut missing = outlook.fleet.expected.iter().map(HostName::as_str).peekable();
        let mut entries = Vec::with_capacity(known.len());
        let absent = |host: &str| Entry {
            host: host.to_owned(),
            name: String::new(),
            labels: BTreeMap::new(),
            verdict: outlook.absent(host),
        };
        for HostFacts { host, name, labels, facts } in known {
            while let Some(host) = missing.next_if(|expected| **expected < *host) {
                entries.push(absent(host));
            }
            missing.next_if(|expected| **expected == *host);
            let verdict = outlook.judge(&host, &labels, &facts);
            entries.push(Entry { host, name, labels, verdict });
        }
        entries.extend(missing.map(absent));
        Self { entries }
    }

    /// How many there are in each state.
    pub fn numbers(&self) -> BTreeMap<HostState, u64> {
        let mut numbers: BTreeMap<_, u64> = HostState::ALL.into_iter().map(|state| (state, 0)).collect();
        for entry in &self.entries {
            *numbers.entry(entry.verdict.state).or_default() += 1;
        }
        numbers
    }

    /// A part of the list, and of how many.
    pub fn page(&self, query: &RosterQuery) -> (Page<&Entry, RosterOrder>, usize) {
        let mut found: Vec<&Entry> = self.entries.iter().filter(|entry| query.takes(entry)).collect();
        let number = found.len();
        found.retain(|entry| query.order.is_behind(entry));
        if matches!(query.order, RosterOrder::Worst(_)) {
            found.sort_by(|a, b| (a.verdict.state, &a.host).cmp(&(b.verdict.state, &b.host)));
        }
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| more).map(|last| query.order.behind(last));
        (Page { items: found, next }, number)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use driftlock_common::fleet::Fleet;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::fleet::hearing::Hearing;
    use crate::fleet::{Facts, TargetFacts};

    fn outlook(expected: &str) -> Outlook {
        let fleet = Fleet::parse(format!("expected = [{expected}]").as_bytes()).unwrap();
        Outlook { now: Timestamp::from_millis(1_000_000), hearing: Hearing::default(), fleet: Arc::new(fleet) }
    }

    fn host(host: &str, drift: u64, seen: i64) -> HostFacts {
        let targets = vec![TargetFacts { sealed: true, looked_at: true, ..TargetFacts::default() }];
        let last_seen = Timestamp::from_millis(1_000_000 - seen * 1000);
        HostFacts {
            host: host.to_owned(),
            name: format!("{host}.Example"),
            labels: [("role".to_owned(), host.chars().take(1).collect())].into(),
            facts: Facts { open_drift: drift, last_seen, targets, ..Facts::default() },
        }
    }

    fn keys<'a>(page: &Page<&'a Entry, RosterOrder>) -> Vec<&'a str> {
        page.items.iter().map(|entry| entry.host.as_str()).collect()
    }

    #[test]
    fn who_is_expected_and_was_never_heard_of_stands_among_the_others() {
        let known = vec![host("b", 0, 0), host("d", 1, 0), host("f", 0, 500)];
        let roster = Roster::new(known, &outlook("\"g\", \"a\", \"c\", \"d\""));
        let (all, number) = roster.page(&RosterQuery { limit: 9, ..RosterQuery::default() });
        assert_eq!((keys(&all), number), (vec!["a", "b", "c", "d", "f", "g"], 6));
        assert_eq!(
            roster.numbers().into_iter().map(|(state, number)| (state.name(), number)).collect::<Vec<_>>(),
            [("silent", 1), ("absent", 3), ("drifted", 1), ("blind", 0), ("clean", 1), ("retired", 0),]
        );
        let worst = RosterQuery { order: RosterOrder::Worst(None), limit: 9, ..RosterQuery::default() };
        assert_eq!(keys(&roster.page(&worst).0), ["f", "a", "c", "g", "d", "b"]);
    }

    #[test]
    fn filters() {
        let roster = Roster::new(vec![host("b", 0, 0), host("d", 1, 0), host("d2", 0, 0)], &outlook("\"x\""));
        let label = |key: &str, value: Option<&str>| Some((key.to_owned(), value.map(str::to_owned)));
        for (query, expected) in [
            (RosterQuery { state: Some(HostState::Clean), ..RosterQuery::default() }, vec!["b", "d2"]),
            (RosterQuery { state: Some(HostState::Absent), ..RosterQuery::default() }, vec!["x"]),
            (RosterQuery { label: label("role", Some("d")), ..RosterQuery::default() }, vec!["d", "d2"]),
            (RosterQuery { label: label("role", None), ..RosterQuery::default() }, vec!["b", "d", "d2"]),
            (RosterQuery { label: label("role", Some("")), ..RosterQuery::default() }, vec![]),
            (RosterQuery { name: Some("2.eXample".into()), ..RosterQuery::default() }, vec!["d2"]),
            (RosterQuery { name: Some("X".into()), ..RosterQuery::default() }, vec!["b", "d", "d2", "x"]),
        ] {
            let (page, number) = roster.page(&RosterQuery { limit: 9, ..query.clone() });
            assert_eq!((keys(&page), number), (expected.clone(), expected.len()), "{query:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_list_that_is_read_part_by_part_is_the_whole_list(
            hosts in prop::collection::btree_map("[a-d]{1,3}", (0..2_u64, prop_oneof![Just(0), Just(500)]), 0..20),
            expected in prop::collection::btree_set("[a-d]{1,3}", 0..10), limit in 1..5_usize, worst in any::<bool>(),
        ) {
            let known = hosts.iter().map(|(name, (drift, seen))| host(name, *drift, *seen)).collect();
            let names: Vec<String> = expected.iter().map(|name| format!("{name:?}")).collect();
            let roster = Roster::new(known, &outlook(&names.join(",")));
            let mut order = if worst { RosterOrder::Worst(None) } else { RosterOrder::Key(None) };
            let mut read = Vec::new();
            loop {
                let query = RosterQuery { order, limit, ..RosterQuery::default() };
                let (page, _) = roster.page(&query);
                read.extend(page.items.into_iter().cloned());
                match page.next {
                    Some(next) => order = next,
                    None => break,
                }
            }
            let mut all: Vec<&str> = hosts.keys().chain(&expected).map(String::as_str).collect();
            all.sort_unstable();
            all.dedup();
            let state = |entry: &Entry| if worst { Some(entry.verdict.state) } else { None };
            prop_assert!(read.is_sorted_by(|a, b| (state(a), &a.host) < (state(b), &b.host)));
            let mut keys: Vec<&str> = read.iter().map(|entry| entry.host.as_str()).collect();
            keys.sort_unstable();
            prop_assert_eq!(keys, all);
        }
    }
}
