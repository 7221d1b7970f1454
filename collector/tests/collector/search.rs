//! Random findings, read part by part in random orders under random filters while others come and go, against lists that are
//! sorted and folded naively.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use driftlock_collector::store::{FOLD, FindingQuery, Order, Store as _};
use driftlock_common::drift::Change;
use driftlock_common::event::Body;
use driftlock_common::policy::Severity;
use proptest::prelude::*;

use crate::kit::{Collector, FakeAgent, judged};

/// What a finding is like; its path is its directory and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Like {
    severity: Option<Severity>,
    directory: u8,
    change: Change,
    rule: u8,
}

#[derive(Clone, Copy, Debug)]
struct Filter {
    alerts: Option<bool>,
    severity: Option<(Severity, bool)>,
    directory: Option<u8>,
    change: Option<Change>,
    rule: Option<u8>,
}

fn severity() -> impl Strategy<Value = Severity> {
    prop::sample::select(Severity::ALL.to_vec())
}

fn change() -> impl Strategy<Value = Change> {
    prop::sample::select(vec![Change::Added, Change::Changed])
}

prop_compose! {
    fn like()(severity in prop::option::weighted(0.8, severity()), directory in 0..3_u8, change in change(), rule in 0..2_u8)
        -> Like {
        Like { severity, directory, change, rule }
    }
}

/// Few kinds, so that there are many of some.
fn alike() -> impl Strategy<Value = Like> {
    let loud = prop_oneof![Just(None), Just(Some(Severity::High)), Just(Some(Severity::Critical))];
    (loud, 0..2_u8).prop_map(|(severity, directory)| Like { severity, directory, change: Change::Added, rule: 0 })
}

prop_compose! {
    fn filter()(
        alerts in prop::option::weighted(0.4, any::<bool>()),
        severity in prop::option::weighted(0.3, (severity(), any::<bool>())),
        directory in prop::option::weighted(0.2, 0..3_u8),
        change in prop::option::weighted(0.2, change()),
        rule in prop::option::weighted(0.2, 0..2_u8),
    ) -> Filter {
        Filter { alerts, severity, directory, change, rule }
    }
}

impl Filter {
    fn takes(&self, like: &Like) -> bool {
        self.alerts.is_none_or(|alerts| like.severity.is_some() == alerts)
            && self.severity.is_none_or(|(least, louder)| {
                like.severity.is_some_and(|severity| if louder { severity >= least } else { severity == least })
            })
            && self.directory.is_none_or(|directory| directory == like.directory)
            && self.change.is_none_or(|change| change == like.change)
            && self.rule.is_none_or(|rule| rule == like.rule)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut and = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                write!(text, "&{key}={value}").unwrap();
            }
        };
        and("verdict", self.alerts.map(|alerts| if alerts { "alert".into() } else { "tolerated".into() }));
        and("severity", self.severity.map(|(least, louder)| format!("{least}{}", if louder { ".." } else { "" })));
        and("directory", self.directory.map(|directory| format!("d{directory}")));
        and("change", self.change.map(|change| change.name().to_owned()));
        and("rule", self.rule.map(|rule| format!("r{rule}")));
        text
    }
}

/// What is open at the collector, in the order in which it was opened.
struct Opened {
    collector: Collector,
    agent: FakeAgent,
    likes: Vec<Like>,
}

impl Opened {
    async fn new(likes: &[Like]) -> Self {
        let mut opened = Self { collector: Collector::new(), agent: FakeAgent::new(1), likes: Vec::new() };
        opened.open(likes).await;
        opened
    }

    async fn open(&mut self, likes: &[Like]) {
        let mut events = Vec::new();
        for like in likes {
            let mut body = judged(&self.path(self.likes.len(), like), like.severity, &format!("r{}", like.rule));
            body.finding.change = like.change;
            events.push(self.agent.event(Body::FindingOpened(body)));
            self.likes.push(*like);
        }
        self.collector.post(&events).await;
    }

    async fn resolve(&mut self, number: usize) {
        let event = self.agent.resolved(self.path(number, &self.likes[number]));
        self.collector.post(&[event]).await;
    }

    #[expect(clippy::unused_self, reason = "a path is of what was opened")]
    fn path(&self, number: usize, like: &Like) -> String {
        format!("d{}/{number}", like.directory)
    }

    /// Numbers of findings in the order of a list.
    fn sorted(&self, loudest: bool, takes: impl Fn(&Like) -> bool) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.likes.len()).filter(|number| takes(&self.likes[*number])).collect();
        numbers.sort_by_key(|number| std::cmp::Reverse((loudest.then(|| self.likes[*number].severity), *number)));
        numbers
    }
}

fn number_of(path: &str) -> usize {
    path.split('/').next_back().unwrap().parse().unwrap()
}

/// Reads everything part by part; after each part something is resolved and something opened.
async fn read(likes: Vec<Like>, filter: Filter, loudest: bool, limit: usize, moves: Vec<(usize, Like)>) {
    let mut opened = Opened::new(&likes).await;
    let expected = opened.sorted(loudest, |like| filter.takes(like));
    let mut moves = moves.into_iter();
    let mut moved: BTreeSet<usize> = BTreeSet::new();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let sort = if loudest { "severity" } else { "newest" };
        let uri = format!("/v1/findings?state=open&sort={sort}&limit={limit}{}&cursor={cursor}", filter.text());
        let part = opened.collector.json(&uri).await;
        seen.extend(part["findings"].as_array().unwrap().iter().map(|f| number_of(f["path"].as_str().unwrap())));
        let Some(next) = part["next"].as_str() else { break };
        next.clone_into(&mut cursor);
        if let Some((place, like)) = moves.next() {
            let number = place % likes.len();
            opened.resolve(number).await;
            moved.extend([number, opened.likes.len()]);
            opened.open(&[like]).await;
        }
    }
    let stayed = |numbers: &[usize]| -> Vec<usize> {
        numbers.iter().copied().filter(|number| !moved.contains(number)).collect()
    };
    assert_eq!(stayed(&seen), stayed(&expected), "{filter:?}, loudest {loudest}, {limit} at a time");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "nothing comes twice: {seen:?}");
}

/// Reads lines part by part.
async fn fold(likes: Vec<Like>, alerts: Option<bool>, loudest: bool, limit: usize) {
    let opened = Opened::new(&likes).await;
    let takes = |like: &Like| alerts.is_none_or(|alerts| like.severity.is_some() == alerts);
    let mut kinds: BTreeMap<Like, Vec<usize>> = BTreeMap::new();
    for (number, like) in likes.iter().enumerate().filter(|(_, like)| takes(like)) {
        kinds.entry(*like).or_default().push(number);
    }
    let expected: Vec<(usize, u64)> = opened
        .sorted(loudest, takes)
        .into_iter()
        .filter_map(|number| {
            let like = &likes[number];
            let same = &kinds[like];
            let count = u64::try_from(same.len()).unwrap();
            if count < FOLD || like.severity == Some(Severity::Critical) {
                return Some((number, 1));
            }
            (same.last() == Some(&number)).then_some((number, count))
        })
        .collect();
    let mut order = if loudest { Order::Loudest(None) } else { Order::Newest(None) };
    let mut seen = Vec::new();
    loop {
        let verdict = alerts.map(|alerts| {
            use driftlock_common::policy::Ruling;
            if alerts { Ruling::Alert } else { Ruling::Tolerated }
        });
        let query = FindingQuery { verdict, order, limit, ..FindingQuery::default() };
        let part = opened.collector.store.lines(query).await.unwrap();
        seen.extend(part.items.iter().map(|line| (number_of(&line.newest.finding.path), line.number)));
        match part.next {
            Some(next) => order = next,
            None => break,
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(
        seen.iter().map(|(_, count)| count).sum::<u64>(),
        u64::try_from(likes.iter().filter(|l| takes(l)).count()).unwrap()
    );
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_read_part_by_part_is_the_whole_list_in_order(
        likes in prop::collection::vec(like(), 1..40),
        filter in filter(),
        loudest in any::<bool>(),
        limit in 1..8_usize,
        moves in prop::collection::vec((0..40_usize, like()), 0..6),
    ) {
        block_on(read(likes, filter, loudest, limit, moves));
    }

    #[test]
    fn lines_stand_for_every_finding_once(
        likes in prop::collection::vec(alike(), 0..160),
        alerts in prop::option::of(any::<bool>()),
        loudest in any::<bool>(),
        limit in 1..30_usize,
    ) {
        block_on(fold(likes, alerts, loudest, limit));
    }
}
