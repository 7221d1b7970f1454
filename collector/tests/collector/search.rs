//! Random findings, read part by part in random orders under random filters while others come and go, against lists that are
//! sorted and folded naively.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use driftlock_collector::store::{FOLD, FindingQuery, Order, Store as _};
use driftlock_common::drift::Change;
use driftlock_common::event::Body;
use driftlock_common::policy::{Ruling, Severity};
use proptest::prelude::*;

use crate::kit::{Collector, FakeAgent, judged};

/// Some are below others, some only begin with the same bytes.
const DIRECTORIES: [&str; 7] = ["", "a", "a/b", "a/b/c", "a-b", "a0", "d/e"];

/// What a finding is like; its path is its directory and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Like {
    severity: Option<Severity>,
    directory: usize,
    change: Change,
    rule: u8,
    /// Whether it gives rights.
    set_id: bool,
}

#[derive(Clone, Copy, Debug)]
struct Filter {
    alerts: Option<bool>,
    severity: Option<(Severity, bool)>,
    directory: Option<usize>,
    below: Option<usize>,
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
    fn like()(
        severity in prop::option::weighted(0.8, severity()),
        directory in 0..DIRECTORIES.len(),
        change in change(),
        rule in 0..2_u8,
    ) -> Like {
        Like { severity, directory, change, rule, set_id: false }
    }
}

/// Few kinds, so that there are many of some.
fn alike() -> impl Strategy<Value = Like> {
    let severity = prop_oneof![4 => Just(None), 4 => Just(Some(Severity::High)), 1 => Just(Some(Severity::Critical))];
    (severity, 0..DIRECTORIES.len(), prop::bool::weighted(0.05)).prop_map(|(severity, directory, set_id)| Like {
        severity,
        directory,
        change: Change::Changed,
        rule: 0,
        set_id,
    })
}

prop_compose! {
    fn filter()(
        alerts in prop::option::weighted(0.4, any::<bool>()),
        severity in prop::option::weighted(0.3, (severity(), any::<bool>())),
        (directory, below) in prop_oneof![
            6 => Just((None, None)),
            1 => (0..DIRECTORIES.len()).prop_map(|directory| (Some(directory), None)),
            2 => (0..DIRECTORIES.len()).prop_map(|below| (None, Some(below))),
        ],
        change in prop::option::weighted(0.2, change()),
        rule in prop::option::weighted(0.2, 0..2_u8),
    ) -> Filter {
        Filter { alerts, severity, directory, below, change, rule }
    }
}

impl Filter {
    fn takes(&self, like: &Like) -> bool {
        self.alerts.is_none_or(|alerts| like.severity.is_some() == alerts)
            && self.severity.is_none_or(|(least, louder)| {
                like.severity.is_some_and(|severity| if louder { severity >= least } else { severity == least })
            })
            && self.directory.is_none_or(|directory| directory == like.directory)
            && self.below.is_none_or(|below| is_below(DIRECTORIES[like.directory], DIRECTORIES[below]))
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
        let name =
            |directory: usize| Some(DIRECTORIES[directory]).filter(|name| !name.is_empty()).unwrap_or(".").to_owned();
        and("directory", self.directory.map(name));
        and("below", self.below.map(name));
        and("change", self.change.map(|change| change.name().to_owned()));
        and("rule", self.rule.map(|rule| format!("r{rule}")));
        text
    }
}

/// Whether a directory is another or lies below it, by their names.
fn is_below(directory: &str, above: &str) -> bool {
    let mut names = directory.split('/').filter(|name| !name.is_empty());
    above.split('/').filter(|name| !name.is_empty()).all(|name| names.next() == Some(name))
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
            let mut body = judged(&path(self.likes.len(), like), like.severity, &format!("r{}", like.rule));
            body.finding.change = like.change;
            if like.set_id {
                body.finding.observed.as_mut().unwrap().mode = Some("4755".into());
            }
            events.push(self.agent.event(Body::FindingOpened(body)));
            self.likes.push(*like);
        }
        self.collector.post(&events).await;
    }

    async fn resolve(&mut self, number: usize) {
        let event = self.agent.resolved(path(number, &self.likes[number]));
        self.collector.post(&[event]).await;
    }

    /// Numbers of findings in the order of a list.
    fn sorted(&self, loudest: bool, takes: impl Fn(&Like) -> bool) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.likes.len()).filter(|number| takes(&self.likes[*number])).collect();
        numbers.sort_by_key(|number| std::cmp::Reverse((loudest.then(|| self.likes[*number].severity), *number)));
        numbers
    }
}

fn path(number: usize, like: &Like) -> String {
    format!("{}/{number}", DIRECTORIES[like.directory]).trim_start_matches('/').to_owned()
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

/// What is in or below a directory and in no line further down; a line is noted for all of its numbers.
fn unfolded(
    directory: &str,
    alike: &[(usize, Like)],
    floor: Option<&str>,
    lines: &mut Vec<(String, Vec<usize>)>,
) -> Vec<usize> {
    let mut here = Vec::new();
    let mut further_down = Vec::new();
    for (index, name) in DIRECTORIES.into_iter().enumerate() {
        if name == directory {
            here.extend(alike.iter().filter(|(_, like)| like.directory == index).map(|(number, _)| *number));
        }
    }
    // Every directory that is one level down, also one that holds nothing itself.
    let one_down: BTreeSet<String> = DIRECTORIES
        .into_iter()
        .filter(|name| *name != directory && is_below(name, directory))
        .map(|name| {
            let depth = directory.split('/').filter(|name| !name.is_empty()).count();
            name.split('/').take(depth + 1).collect::<Vec<_>>().join("/")
        })
        .collect();
    for name in one_down {
        further_down.extend(unfolded(&name, alike, floor, lines));
    }
    let (mut these, scattered) =
        if directory.is_empty() { (here, further_down) } else { ([here, further_down].concat(), Vec::new()) };
    if these.len() >= usize::try_from(FOLD).unwrap() && floor != Some(directory) {
        lines.push((directory.to_owned(), std::mem::take(&mut these)));
    }
    [these, scattered].concat()
}

/// Reads lines part by part.
async fn fold(likes: Vec<Like>, alerts: Option<bool>, below: Option<usize>, loudest: bool, limit: usize) {
    let opened = Opened::new(&likes).await;
    let floor = below.map(|below| DIRECTORIES[below]);
    let takes = |like: &Like| {
        alerts.is_none_or(|alerts| like.severity.is_some() == alerts)
            && floor.is_none_or(|floor| is_below(DIRECTORIES[like.directory], floor))
    };
    let mut kinds: BTreeMap<Option<Severity>, Vec<(usize, Like)>> = BTreeMap::new();
    for (number, like) in likes.iter().enumerate().filter(|(_, like)| takes(like)) {
        if !like.set_id && like.severity != Some(Severity::Critical) {
            kinds.entry(like.severity).or_default().push((number, *like));
        }
    }
    let mut lines = Vec::new();
    for alike in kinds.values() {
        unfolded(floor.unwrap_or_default(), alike, floor, &mut lines);
    }
    let newest: BTreeMap<usize, (String, usize)> =
        lines.iter().map(|(name, these)| (*these.iter().max().unwrap(), (name.clone(), these.len()))).collect();
    let folded: BTreeSet<usize> = lines.into_iter().flat_map(|(_, these)| these).collect();
    let expected: Vec<(usize, Option<(String, usize)>)> = opened
        .sorted(loudest, takes)
        .into_iter()
        .filter(|number| !folded.contains(number) || newest.contains_key(number))
        .map(|number| (number, newest.get(&number).cloned()))
        .collect();
    let verdict = alerts.map(|alerts| if alerts { Ruling::Alert } else { Ruling::Tolerated });
    let below = floor.map(|floor| floor.as_bytes().to_vec());
    let mut query = FindingQuery { verdict, below, limit, ..FindingQuery::default() };
    query.order = if loudest { Order::Loudest(None) } else { Order::Newest(None) };
    let mut seen = Vec::new();
    loop {
        let part = opened.collector.store.lines(query.clone()).await.unwrap();
        seen.extend(part.items.into_iter().map(|line| {
            let fold = line
                .fold
                .map(|fold| (String::from_utf8(fold.directory).unwrap(), usize::try_from(fold.number).unwrap()));
            (number_of(&line.newest.finding.path), fold)
        }));
        match part.next {
            Some(next) => query.order = next,
            None => break,
        }
    }
    assert_eq!(seen, expected);
    let stands_for = |(_, fold): &(usize, Option<(String, usize)>)| fold.as_ref().map_or(1, |(_, number)| *number);
    assert_eq!(seen.iter().map(stands_for).sum::<usize>(), likes.iter().filter(|like| takes(like)).count());
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
        likes in prop::collection::vec(alike(), 0..200),
        alerts in prop::option::of(any::<bool>()),
        below in prop::option::weighted(0.3, 0..DIRECTORIES.len()),
        loudest in any::<bool>(),
        limit in 1..30_usize,
    ) {
        block_on(fold(likes, alerts, below, loudest, limit));
    }
}
