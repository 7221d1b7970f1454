//! The promises of the trait, one function each, for any store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftlock_collector::batch::decode;
use driftlock_collector::clock::Timestamp;
use driftlock_collector::store::{
    Applied, Changed, ConditionQuery, Delivery, FindingQuery, FindingRecord, HoleKind, HoleQuery, HostQuery, Keep,
    Lifetime, Order, Store, Trimmed,
};
use driftlock_common::condition::ConditionReason;
use driftlock_common::drift::Change;
use driftlock_common::event::{Answer, Body, Event};
use driftlock_common::policy::Severity;

use super::Stores;
use crate::kit::{FakeAgent, judged};

/// When everything here is received, unless it says otherwise.
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const DAY: i64 = 86_400_000;

fn days_later(days: i64) -> Timestamp {
    Timestamp::from_millis(NOW.millis() + days * DAY)
}

async fn deliver(store: &dyn Store, host: &str, events: &[Event], received_at: Timestamp) -> Applied {
    let batch = decode(&serde_json::to_vec(events).unwrap()).unwrap();
    store.apply(Delivery { host: host.into(), received_at, from: None, batch }).await.unwrap()
}

async fn answer(store: &dyn Store, host: &str, events: &[Event]) -> Answer {
    match deliver(store, host, events, NOW).await {
        Applied::Answer(answer) => answer,
        Applied::Conflict => panic!("refused as another agent's"),
    }
}

async fn list(store: &dyn Store, query: FindingQuery) -> Vec<FindingRecord> {
    let mut all = Vec::new();
    let mut order = query.order;
    loop {
        let page = store.findings(FindingQuery { order, ..query.clone() }).await.unwrap();
        assert!(page.items.len() <= query.limit);
        all.extend(page.items);
        match page.next {
            Some(next) => order = next,
            None => return all,
        }
    }
}

/// Hosts and paths of the findings in a state, sorted.
async fn paths(store: &dyn Store, state: Lifetime) -> Vec<String> {
    let query = FindingQuery { state: Some(state), limit: 7, ..FindingQuery::default() };
    let mut paths: Vec<String> =
        list(store, query).await.into_iter().map(|found| format!("{} {}", found.host, found.finding.path)).collect();
    paths.sort();
    paths
}

async fn events(store: &dyn Store) -> u64 {
    store.totals().await.unwrap().events
}

/// Ranges of the holes of a host, the newest first.
async fn holes(store: &dyn Store, host: &str) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = store.holes(HoleQuery { host: Some(host.into()), before, limit: 2 }).await.unwrap();
        assert!(page.items.iter().all(|hole| hole.host == host && hole.kind == HoleKind::Lost && hole.noted_at == NOW));
        all.extend(page.items.into_iter().map(|hole| hole.sequences.into_inner()));
        match page.next {
            Some(next) => before = Some(next),
            None => return all,
        }
    }
}

async fn lost(store: &dyn Store, host: &str) -> u64 {
    let query = HostQuery { host: Some(host.into()), limit: 1, ..HostQuery::default() };
    store.hosts(query).await.unwrap().items[0].lost
}

pub(crate) async fn what_was_answered_is_there_when_it_is_opened_again(stores: &dyn Stores) {
    let mut agent = FakeAgent::new(1);
    let store = stores.open();
    let events = [agent.opened("a"), agent.opened("b"), agent.condition(true, None, ConditionReason::Overflow)];
    assert_eq!(answer(&*store, "h", &events).await.accepted, 3);
    answer(&*store, "h", &[agent.heartbeat(&["a", "b"])]).await;
    let before = store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap();
    drop(store);
    let store = stores.open();
    assert_eq!(paths(&*store, Lifetime::Open).await, ["h a", "h b"]);
    let conditions = store.conditions(ConditionQuery { limit: 9, ..ConditionQuery::default() }).await.unwrap();
    assert!(conditions.items.iter().any(|condition| condition.reason == ConditionReason::Overflow));
    let after = store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
}

pub(crate) async fn what_was_taken_once_is_a_duplicate_for_ever(stores: &dyn Stores) {
    let mut agent = FakeAgent::new(1);
    let batch = [agent.opened("a"), agent.resolved("a"), agent.opened("b")];
    let mut store = stores.open();
    assert_eq!(answer(&*store, "h", &batch).await, Answer { accepted: 3, ack: 3, resync: true, ..Answer::default() });
    for _ in 0..2 {
        let again = answer(&*store, "h", &batch).await;
        assert_eq!((again.accepted, again.duplicates, again.ack), (0, 3, 3));
        let one = answer(&*store, "h", &batch[..1]).await;
        assert_eq!((one.accepted, one.duplicates, one.ack), (0, 1, 3));
        assert_eq!((paths(&*store, Lifetime::Open).await, events(&*store).await), (vec!["h b".to_owned()], 3));
        drop(store);
        store = stores.open();
    }
}

pub(crate) async fn batches_that_come_together_are_each_answered_for_themselves(stores: &dyn Stores) {
    let store = stores.open();
    let mut tasks = tokio::task::JoinSet::new();
    for host in 0..40_u8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut agent = FakeAgent::new(host);
            let name = format!("h{host}");
            for round in 1..=5 {
                let taken = answer(&*store, &name, &[agent.opened(format!("f{round}"))]).await;
                assert_eq!((taken.accepted, taken.ack), (1, round));
            }
        });
    }
    tasks.join_all().await;
    assert_eq!((paths(&*store, Lifetime::Open).await.len(), events(&*store).await), (200, 200));
}

pub(crate) async fn what_never_came_is_a_hole_until_it_comes(stores: &dyn Stores) {
    let mut agent = FakeAgent::new(1);
    let made: Vec<Event> = (1..=9).map(|n| agent.opened(format!("f{n}"))).collect();
    let mut store = stores.open();
    answer(&*store, "h", &made[..1]).await;
    answer(&*store, "h", &made[5..6]).await;
    let taken = answer(&*store, "h", &[made[6].clone(), made[8].clone()]).await;
    assert_eq!((taken.accepted, taken.ack, taken.resync), (2, 9, true));
    assert_eq!((holes(&*store, "h").await, lost(&*store, "h").await), (vec![(8, 8), (2, 5)], 5));
    drop(store);
    store = stores.open();
    // It is evidence when it comes, and says nothing of how it is now.
    let open = paths(&*store, Lifetime::Open).await;
    let late = answer(&*store, "h", &[made[2].clone(), made[5].clone()]).await;
    assert_eq!((late.accepted, late.duplicates, late.ack), (1, 1, 9));
    assert_eq!((paths(&*store, Lifetime::Open).await, events(&*store).await), (open, 5));
    let mut found = holes(&*store, "h").await;
    found.sort_unstable();
    assert_eq!((found, lost(&*store, "h").await), (vec![(2, 2), (4, 5), (8, 8)], 4));
    let again = answer(&*store, "h", &made).await;
    assert_eq!((again.accepted, again.duplicates, again.ack), (4, 5, 9));
    assert_eq!((holes(&*store, "h").await, lost(&*store, "h").await, events(&*store).await), (vec![], 0, 9));
    assert_eq!(answer(&*store, "h", &made).await.duplicates, 9);
    // However many there are.
    let mut other = FakeAgent::new(2);
    let every_second: Vec<Event> = (0..500).map(|n| other.event_at(2 * n + 2, Body::Stopped(stopped()))).collect();
    other.sequence = 1000;
    answer(&*store, "h", &every_second).await;
    assert_eq!((holes(&*store, "h").await.len(), lost(&*store, "h").await), (500, 500));
    let huge = other.event_at(i64::MAX.cast_unsigned(), Body::Stopped(stopped()));
    assert_eq!(answer(&*store, "h", &[huge]).await.ack, i64::MAX.cast_unsigned());
}

fn stopped() -> driftlock_common::event::Stopped {
    driftlock_common::event::Stopped { reason: "SIGTERM".into(), ephemeral: false }
}

pub(crate) async fn a_refused_event_takes_its_sequence(stores: &dyn Stores) {
    let store = stores.open();
    let mut agent = FakeAgent::new(1);
    let mut batch = [agent.opened("a"), agent.opened("b"), agent.opened("c")];
    batch[1].time = "yesterday".into();
    let taken = answer(&*store, "h", &batch).await;
    assert_eq!((taken.accepted, taken.rejected.len(), taken.ack), (2, 1, 3));
    assert_eq!(
        (paths(&*store, Lifetime::Open).await, holes(&*store, "h").await),
        (vec!["h a".into(), "h c".into()], vec![])
    );
}

pub(crate) async fn hosts_do_not_meet(stores: &dyn Stores) {
    let store = stores.open();
    let (mut one, mut other) = (FakeAgent::new(1), FakeAgent::new(1));
    answer(&*store, "one", &[one.snapshot(0, true, &["a", "b"])]).await;
    // The same epoch, target and paths.
    answer(&*store, "two", &[other.snapshot(0, true, &["b"]), other.resolved("b"), other.resolved("a")]).await;
    answer(&*store, "two", &[other.heartbeat_of(Vec::new())]).await;
    assert_eq!(paths(&*store, Lifetime::Open).await, ["one a", "one b"]);
    assert_eq!(paths(&*store, Lifetime::Resolved).await, ["two b"]);
    let hosts = store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap().items;
    let acks: Vec<_> = hosts.iter().map(|host| (host.host.as_str(), host.ack, host.targets.len())).collect();
    assert_eq!(acks, [("one", 1, 1), ("two", 3, 0)]);
}

pub(crate) async fn a_superseded_epoch_may_repeat_and_not_go_on(stores: &dyn Stores) {
    let store = stores.open();
    let (mut old, mut new) = (FakeAgent::new(1), FakeAgent::new(2));
    let first = old.opened("a");
    answer(&*store, "h", std::slice::from_ref(&first)).await;
    let taken = answer(&*store, "h", &[new.opened("b")]).await;
    assert_eq!((taken.ack, taken.resync), (1, true));
    assert_eq!(answer(&*store, "h", &[first]).await.duplicates, 1);
    assert_eq!(deliver(&*store, "h", &[old.opened("c")], NOW).await, Applied::Conflict);
    assert_eq!(paths(&*store, Lifetime::Open).await, ["h a", "h b"]);
    let open = ConditionQuery { state: Some(Lifetime::Open), limit: 9, ..ConditionQuery::default() };
    let reasons: Vec<_> = store.conditions(open).await.unwrap().items.into_iter().map(|c| c.reason).collect();
    assert_eq!(reasons, [ConditionReason::IdentityConflict]);
}

pub(crate) async fn a_snapshot_resolves_what_it_does_not_hold(stores: &dyn Stores) {
    let mut agent = FakeAgent::new(1);
    let store = stores.open();
    let taken = answer(&*store, "h", &[agent.opened("a"), agent.opened("b"), agent.snapshot(0, false, &["b"])]).await;
    assert!(taken.resync);
    assert_eq!(paths(&*store, Lifetime::Open).await, ["h a", "h b"]);
    drop(store);
    let store = stores.open();
    let taken = answer(&*store, "h", &[agent.opened("c"), agent.snapshot(1, true, &["d"])]).await;
    assert!(!taken.resync);
    assert_eq!(paths(&*store, Lifetime::Open).await, ["h b", "h c", "h d"]);
    assert_eq!(paths(&*store, Lifetime::Resolved).await, ["h a"]);
}

pub(crate) async fn lists_are_read_part_by_part_in_their_order(stores: &dyn Stores) {
    let store = stores.open();
    let mut agent = FakeAgent::new(1);
    let loud = [None, Some(Severity::Low), Some(Severity::Critical), Some(Severity::High)];
    let events: Vec<Event> = (0..40)
        .map(|n| agent.event(Body::FindingOpened(judged(&format!("d{}/f{n:02}", n % 3), loud[n % 4], "r"))))
        .collect();
    answer(&*store, "h", &events).await;
    let numbers = |found: Vec<FindingRecord>| -> Vec<usize> {
        found.iter().map(|record| record.finding.path[4..].parse().unwrap()).collect()
    };
    for limit in [1, 7, 100] {
        let all = FindingQuery { limit, ..FindingQuery::default() };
        assert_eq!(numbers(list(&*store, all.clone()).await), (0..40).rev().collect::<Vec<_>>());
        let loudest = FindingQuery { order: Order::Loudest(None), ..all.clone() };
        let mut expected: Vec<usize> = (0..40).collect();
        expected.sort_by_key(|n| std::cmp::Reverse((loud[n % 4], *n)));
        assert_eq!(numbers(list(&*store, loudest).await), expected);
        let directory = FindingQuery { directory: Some(b"d1".to_vec()), state: Some(Lifetime::Open), ..all };
        assert_eq!(numbers(list(&*store, directory).await), (0..40).rev().filter(|n| n % 3 == 1).collect::<Vec<_>>());
    }
    let mut hosts = Vec::new();
    for n in 0..5_u8 {
        answer(&*store, &format!("host-{n}"), &[FakeAgent::new(n).heartbeat(&[])]).await;
    }
    let mut after = None;
    loop {
        let page = store.hosts(HostQuery { after, limit: 2, ..HostQuery::default() }).await.unwrap();
        hosts.extend(page.items.into_iter().map(|host| host.host));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(hosts, ["h", "host-0", "host-1", "host-2", "host-3", "host-4"]);
}

pub(crate) async fn a_host_is_asked_for_by_its_key_before_its_name(stores: &dyn Stores) {
    let store = stores.open();
    let called = |agent: &FakeAgent, name: &str| {
        let mut event = agent.heartbeat(&[]);
        if let Body::Heartbeat(heartbeat) = &mut event.body {
            heartbeat.host = name.into();
        }
        event
    };
    for (number, (key, name)) in [("a", "x"), ("b", "a"), ("c", "x")].into_iter().enumerate() {
        let mut agent = FakeAgent::new(u8::try_from(number).unwrap());
        let events = [agent.opened(key), agent.condition(true, None, ConditionReason::Overflow)];
        answer(&*store, key, &events).await;
        let _hole = agent.opened("never");
        let behind = agent.opened(format!("{key}2"));
        answer(&*store, key, &[behind, called(&agent, name)]).await;
    }
    for (asked, hosts) in [("a", "aa"), ("b", "bb"), ("x", "ccaa"), ("y", "")] {
        let host = || Some(asked.to_owned());
        let found = list(&*store, FindingQuery { host: host(), limit: 9, ..FindingQuery::default() }).await;
        let mut keys: Vec<String> = found.iter().map(|found| found.host.clone()).collect();
        assert_eq!(keys.concat(), hosts, "{asked}");
        keys.dedup();
        let open = ConditionQuery { state: Some(Lifetime::Open), host: host(), limit: 9, before: None };
        let of_agents = |c: &driftlock_collector::store::ConditionRecord| c.reason == ConditionReason::Overflow;
        let conditions = store.conditions(open).await.unwrap().items;
        assert_eq!(conditions.iter().filter(|c| of_agents(c)).map(|c| c.host.as_str()).collect::<Vec<_>>(), keys);
        let holes = store.holes(HoleQuery { host: host(), limit: 9, before: None }).await.unwrap().items;
        assert_eq!(holes.iter().map(|hole| hole.host.as_str()).collect::<Vec<_>>(), keys);
    }
}

pub(crate) async fn totals_and_facts_are_those_of_the_lists(stores: &dyn Stores) {
    let store = stores.open();
    let check = async || {
        let open = FindingQuery { state: Some(Lifetime::Open), limit: 100, ..FindingQuery::default() };
        let open = list(&*store, open).await;
        let mut counted: BTreeMap<(Change, Option<Severity>), u64> = BTreeMap::new();
        for record in &open {
            *counted.entry((record.finding.change, record.finding.severity())).or_default() += 1;
        }
        let mut totals = store.totals().await.unwrap().findings;
        totals.sort_unstable();
        assert_eq!(totals, counted.into_iter().map(|((change, loud), n)| (change, loud, n)).collect::<Vec<_>>());
        let hosts = store.hosts(HostQuery { limit: 100, ..HostQuery::default() }).await.unwrap().items;
        let expected: Vec<_> = hosts.iter().map(|host| (host.host.clone(), format!("{:?}", host.facts()))).collect();
        let facts = store.facts().await.unwrap();
        let facts: Vec<_> = facts.into_iter().map(|known| (known.host, format!("{:?}", known.facts))).collect();
        assert_eq!(facts, expected);
        for host in &hosts {
            let of_host = open.iter().filter(|record| record.host == host.host).count() as u64;
            assert_eq!(host.open().total(), of_host, "{}", host.host);
        }
    };
    check().await;
    let loud = [None, Some(Severity::Low), Some(Severity::High)];
    let changes = [Change::Added, Change::Changed, Change::Removed, Change::Unverifiable];
    for host in 0..3_u8 {
        let name = format!("h{host}");
        let mut agent = FakeAgent::new(host);
        let mut step = 0;
        for path in ["a", "b", "c", "d", "a", "b", "e", "a"] {
            step += usize::from(host) + 1;
            let mut body = judged(path, loud[step % 3], "r");
            body.finding.change = changes[step % 4];
            let event = agent.event(Body::FindingOpened(body));
            answer(&*store, &name, &[event]).await;
        }
        check().await;
        answer(&*store, &name, &[agent.resolved("b"), agent.condition(true, None, ConditionReason::Overflow)]).await;
        check().await;
        let again = agent.event(Body::FindingOpened(judged("b", loud[2], "r")));
        answer(&*store, &name, &[again, agent.heartbeat(&["a"])]).await;
        check().await;
        answer(&*store, &name, &[agent.snapshot(0, true, &["a", "x"])]).await;
        check().await;
    }
    let mut agent = FakeAgent::new(9);
    answer(&*store, "h0", &[agent.heartbeat_of(Vec::new())]).await;
    check().await;
    let stop = agent.stopped(true);
    answer(&*store, "h0", &[stop]).await;
    check().await;
}

pub(crate) async fn changes_are_told_after_their_commit_in_its_order(stores: &dyn Stores) {
    let store = stores.open();
    let mut changes = store.changes();
    let mut agent = FakeAgent::new(1);
    answer(&*store, "h", &[agent.opened("a"), agent.opened("b"), agent.resolved("a")]).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Changed::Finding(record) = &*changes.recv().await.unwrap() {
            told.push((record.finding.path.clone(), record.state));
            if told.len() == 1 {
                assert_eq!(paths(&*store, Lifetime::Open).await, ["h b"]);
            }
        }
    }
    let expected = [("a", Lifetime::Open), ("b", Lifetime::Open), ("a", Lifetime::Resolved)];
    assert_eq!(told, expected.map(|(path, state)| (path.to_owned(), state)));
}

/// Everything that can be forgotten at once.
async fn trim(store: &dyn Store, keep: Keep, now: Timestamp) -> Trimmed {
    let mut sum = Trimmed::default();
    loop {
        let Trimmed { events, findings, conditions, holes, more } = store.trim(keep, now).await.unwrap();
        sum.events += events;
        sum.findings += findings;
        sum.conditions += conditions;
        sum.holes += holes;
        if !more {
            return sum;
        }
    }
}

async fn conditions(store: &dyn Store) -> Vec<(ConditionReason, Lifetime)> {
    let query = ConditionQuery { limit: 99, ..ConditionQuery::default() };
    let mut found: Vec<_> =
        store.conditions(query).await.unwrap().items.into_iter().map(|c| (c.reason, c.state)).collect();
    found.sort();
    found
}

pub(crate) async fn what_is_over_is_forgotten_and_what_is_open_is_not(stores: &dyn Stores) {
    let store = stores.open();
    let mut agent = FakeAgent::new(1);
    let old = [
        agent.opened("open"),
        agent.opened("over"),
        agent.resolved("over"),
        agent.condition(true, None, ConditionReason::Overflow),
        agent.condition(true, None, ConditionReason::SpoolFailed),
        agent.condition(false, None, ConditionReason::SpoolFailed),
    ];
    answer(&*store, "h", &old).await;
    let _hole = agent.opened("never");
    let new = [agent.opened("later"), agent.resolved("later")];
    deliver(&*store, "h", &new, days_later(20)).await;
    let keep = Keep { days: Some(30), bytes: None };
    assert_eq!(trim(&*store, keep, days_later(29)).await, Trimmed::default());
    assert_eq!(trim(&*store, Keep::default(), days_later(9999)).await, Trimmed::default());
    let expected = Trimmed { events: 6, findings: 1, conditions: 1, holes: 0, more: false };
    assert_eq!(trim(&*store, keep, days_later(31)).await, expected);
    assert_eq!(paths(&*store, Lifetime::Open).await, ["h open"]);
    assert_eq!(paths(&*store, Lifetime::Resolved).await, ["h later"]);
    assert_eq!(conditions(&*store).await, [(ConditionReason::Overflow, Lifetime::Open)]);
    assert_eq!(events(&*store).await, 2);
    let expected = Trimmed { events: 2, findings: 1, conditions: 0, holes: 1, more: false };
    assert_eq!(trim(&*store, keep, days_later(9999)).await, expected);
    assert_eq!((paths(&*store, Lifetime::Open).await, events(&*store).await), (vec!["h open".to_owned()], 0));
    // Many more than a step takes, and what comes afterwards is counted from there.
    let mut other = FakeAgent::new(2);
    for _ in 0..3 {
        let many: Vec<Event> = (0..500).map(|_| other.stopped(false)).collect();
        answer(&*store, "h2", &many).await;
    }
    assert_eq!(trim(&*store, keep, days_later(31)).await.events, 1500);
    answer(&*store, "h2", &[other.opened("z")]).await;
    assert_eq!(events(&*store).await, 1);
}

pub(crate) async fn what_was_forgotten_is_still_a_duplicate(stores: &dyn Stores) {
    let store = stores.open();
    let mut agent = FakeAgent::new(1);
    let batch = [agent.opened("a"), agent.resolved("a")];
    answer(&*store, "h", &batch).await;
    trim(&*store, Keep { days: Some(1), bytes: None }, days_later(2)).await;
    let again = answer(&*store, "h", &batch).await;
    assert_eq!((again.accepted, again.duplicates, again.ack), (0, 2, 2));
    assert_eq!((events(&*store).await, paths(&*store, Lifetime::Open).await.len()), (0, 0));
}

pub(crate) async fn a_bound_of_bytes_forgets_the_oldest_first(stores: &dyn Stores) {
    let store = stores.open();
    let mut agent = FakeAgent::new(1);
    answer(&*store, "h", &[agent.opened("open"), agent.opened("over"), agent.resolved("over")]).await;
    for _ in 0..6 {
        let many: Vec<Event> = (0..500).map(|_| agent.stopped(false)).collect();
        answer(&*store, "h", &many).await;
    }
    let keep = Keep { days: None, bytes: Some(1 << 30) };
    assert_eq!(trim(&*store, keep, NOW).await, Trimmed::default());
    // Some of them are enough.
    let trimmed = trim(&*store, Keep { bytes: Some(1 << 20), ..keep }, NOW).await;
    assert!(trimmed.events > 0 && trimmed.events < 3000, "{trimmed:?}");
    assert_eq!(paths(&*store, Lifetime::Resolved).await, ["h over"]);
    // Nothing that may be forgotten is left, and it ends.
    let trimmed = trim(&*store, Keep { bytes: Some(1), ..keep }, NOW).await;
    assert_eq!((events(&*store).await, trimmed.findings), (0, 1));
    assert_eq!(paths(&*store, Lifetime::Open).await, ["h open"]);
}

pub(crate) async fn nobody_waits_long_while_something_is_forgotten(stores: &dyn Stores) {
    let store = stores.open();
    let mut agent = FakeAgent::new(1);
    for _ in 0..20 {
        let many: Vec<Event> = (0..500).map(|_| agent.stopped(false)).collect();
        answer(&*store, "old", &many).await;
    }
    let trimming = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { trim(&*store, Keep { days: Some(1), bytes: None }, days_later(2)).await })
    };
    // Batches get their turn between its steps: it is far from its end when many have been answered.
    let mut other = FakeAgent::new(2);
    let mut answered_meanwhile = 0;
    let started = Instant::now();
    while !trimming.is_finished() && started.elapsed() < Duration::from_secs(60) {
        let event = other.stopped(false);
        deliver(&*store, "new", &[event], days_later(2)).await;
        answered_meanwhile += 1;
    }
    assert_eq!(trimming.await.unwrap().events, 10_000);
    assert!(answered_meanwhile >= 10, "{answered_meanwhile} batches in 20 steps");
    assert_eq!(events(&*store).await, answered_meanwhile);
}
