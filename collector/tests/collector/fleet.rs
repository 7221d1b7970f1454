//! The fleet as a whole: who is absent, quiet, cloned or new, when the collector could hear, and what is the same drift on
//! many hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axum::http::StatusCode;
use driftlock_collector::clock::Timestamp;
use driftlock_collector::fleet::arrival::Arrival;
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use driftlock_collector::store::{Applied, Delivery, FindingQuery, GroupKey, GroupOrder, GroupQuery, Lifetime, Store};
use driftlock_common::drift::Change;
use driftlock_common::event::{Body, Event, FindingResolved, Running};
use driftlock_common::fleet::Fleet;
use driftlock_common::policy::{Ruling, Severity};
use proptest::prelude::*;

use crate::kit::{Collector, FakeAgent, TARGET, judged};

async fn apply(store: &SqliteStore, host: &str, from: Option<&str>, at: i64, events: &[Event]) -> Applied {
    let batch = driftlock_collector::batch::decode(&serde_json::to_vec(events).unwrap()).unwrap();
    assert!(batch.rejected.is_empty(), "{:?}", batch.rejected);
    let from = from.map(|address| address.parse::<IpAddr>().unwrap());
    let received_at = Timestamp::from_millis(at * 1000);
    store.apply(Delivery { host: host.into(), received_at, from, batch }).await.unwrap()
}

#[tokio::test]
async fn who_is_expected_is_absent_until_it_is_heard() {
    let collector = Collector::new();
    let fleet =
        "expected = [\"web-1\", \"gone\"]\n[[quiet]]\nhosts = \"g*\"\nat = \"00:00\"\nfor = \"24h\"\nreason = \"<b>\"";
    collector.state.replace_fleet(Fleet::parse(fleet.as_bytes()).unwrap());
    let states = |list: &serde_json::Value| -> Vec<(String, String)> {
        let hosts = list["hosts"].as_array().unwrap().iter();
        hosts.map(|host| (host["host"].as_str().unwrap().into(), host["state"].as_str().unwrap().into())).collect()
    };
    let absent = |host: &str| (host.to_owned(), "absent".to_owned());
    assert_eq!(states(&collector.json("/v1/hosts").await), [absent("gone"), absent("web-1")]);
    let agent = FakeAgent::new(1);
    collector.post(&[agent.heartbeat(&[])]).await;
    let hosts = collector.json("/v1/hosts").await;
    assert_eq!(states(&hosts), [absent("gone"), ("web-1".into(), "blind".into())]);
    let gone = &hosts["hosts"][0];
    assert_eq!(
        (&gone["quiet"]["reason"], gone.get("last_seen"), &gone["labels"]),
        (&"<b>".into(), None, &serde_json::json!({}))
    );
    assert_eq!(gone["reasons"], serde_json::json!(["it is expected, and was never heard of"]));
    for (query, expected) in [
        ("state=absent", vec!["gone"]),
        ("host=gone", vec!["gone"]),
        ("name=EXAMPLE", vec!["web-1"]),
        ("label=role%3Dweb", vec!["web-1"]),
        ("label=role%3Ddb", vec![]),
        ("limit=1", vec!["gone"]),
        ("limit=1&cursor=gone", vec!["web-1"]),
    ] {
        let found = states(&collector.json(&format!("/v1/hosts?{query}")).await);
        assert_eq!(found.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>(), expected, "{query}");
    }
    assert_eq!(collector.get("/v1/hosts?state=odd").await.0, StatusCode::BAD_REQUEST);
    let (_, metrics) = collector.get("/metrics").await;
    assert!(metrics.contains("driftlock_collector_hosts{state=\"absent\"} 1\n"), "{metrics}");
    let (_, page) = collector.get("/host?name=gone").await;
    assert!(page.contains("Never heard of") && page.contains("quiet time: &#60;b&#62;"), "{page}");
    assert_eq!(collector.get("/host?name=nobody").await.0, StatusCode::NOT_FOUND);
}

/// A heartbeat of an agent's start.
fn beat(agent: &FakeAgent, starts: u64, boot: &str) -> Event {
    let mut event = agent.heartbeat(&[]);
    if let Body::Heartbeat(heartbeat) = &mut event.body {
        heartbeat.agent = Some(Running {
            binary: None,
            config: None,
            started_at: format!("2026-01-02T03:00:{starts:02}Z"),
            starts,
            stopped_before: None,
            boot: Some(boot.into()),
        });
    }
    event
}

/// What is said of two agents with one identity, if anything is.
async fn conflict(collector: &Collector) -> Option<String> {
    let list = collector.json("/v1/conditions?state=open").await;
    let conditions = list["conditions"].as_array().unwrap();
    // The agents' clocks stand still, which is said too.
    let found = conditions.iter().find(|condition| condition["reason"] == "identity_conflict")?;
    Some(found["detail"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_came_between_two_reports_is_told_and_two_of_one_identity_are_found() {
    let collector = Collector::new();
    let store = &collector.store;
    let (one, two) = (FakeAgent::new(1), FakeAgent::new(2));
    let steps = [
        (0, "10.0.0.1", beat(&one, 1, "b1"), Some(Arrival::First)),
        (30, "10.0.0.1", beat(&one, 1, "b1"), None),
        (60, "10.0.0.1", beat(&one, 2, "b1"), Some(Arrival::Restarted)),
        (90, "10.0.0.2", beat(&one, 3, "b2"), Some(Arrival::Rebooted)),
        (120, "10.0.0.2", beat(&two, 1, "b2"), Some(Arrival::Reinstalled)),
        // A copy of it, made before it was started: the last word of nobody, as both go on.
        (150, "10.0.0.9", beat(&two, 2, "b9"), Some(Arrival::Rebooted)),
        (180, "10.0.0.2", beat(&two, 1, "b2"), None),
        (240, "10.0.0.2", beat(&two, 1, "b2"), Some(Arrival::Cloned)),
    ];
    let mut expected = Vec::new();
    for (at, from, event, arrival) in steps {
        assert_eq!(conflict(&collector).await, None, "before {at}");
        assert!(matches!(apply(store, "web-1", Some(from), at, &[event]).await, Applied::Answer(_)));
        expected.extend(arrival.map(|what| (what, at, from.to_owned())));
        let found = store.arrivals("web-1".into()).await.unwrap();
        let found: Vec<_> = found
            .into_iter()
            .rev()
            .map(|record| (record.what, record.at.millis() / 1000, record.from.unwrap()))
            .collect();
        assert_eq!(found, expected);
    }
    let detail = conflict(&collector).await.unwrap();
    assert!(detail.contains("from 10.0.0.9 and from 10.0.0.2"), "{detail}");
    let (_, page) = collector.get("/host?name=web-1").await;
    assert!(page.contains("<span class=\"arrival cloned\">cloned</span>") && page.contains("from 10.0.0.9"), "{page}");
    // An agent of a state directory that was superseded is one too, and both are named.
    let mut old = FakeAgent::new(1);
    let event = old.opened("a");
    assert_eq!(apply(store, "web-1", Some("10.0.0.7"), 300, &[event]).await, Applied::Conflict);
    let detail = conflict(&collector).await.unwrap();
    assert!(detail.contains("from 10.0.0.2 and from 10.0.0.7"), "{detail}");
    // The one that is left is heard alone for five minutes.
    apply(store, "web-1", Some("10.0.0.2"), 601, &[beat(&two, 1, "b2")]).await;
    assert_eq!(conflict(&collector).await, None);
}

#[tokio::test]
async fn a_hostile_agent_fills_no_history() {
    let collector = Collector::new();
    for number in 0..300 {
        apply(
            &collector.store,
            "web-1",
            None,
            number,
            &[beat(&FakeAgent::new(1), u64::try_from(number).unwrap() % 50 + 1, &number.to_string())],
        )
        .await;
    }
    assert_eq!(collector.store.arrivals("web-1".into()).await.unwrap().len(), 100);
}

#[tokio::test]
async fn the_store_knows_when_a_collector_had_it() {
    let before = Timestamp::now();
    let collector = Collector::new();
    let agent = FakeAgent::new(1);
    collector.post(&[agent.heartbeat(&[])]).await;
    assert_eq!(collector.store.hearing().await.unwrap().came_back(), None);
    let collector = collector.restarted();
    let back = collector.store.hearing().await.unwrap().came_back().unwrap();
    assert!(back >= before && back <= Timestamp::now());
    // Nobody is silent for what was missed: a host heard just before it went has time to come back.
    let host = &collector.json("/v1/hosts").await["hosts"][0];
    assert_ne!(host["state"], "silent", "{host}");
    let (_, page) = collector.get("/").await;
    assert!(page.contains("This collector came back"), "{page}");
}

/// What happens to one path of one target of one host.
#[derive(Clone, Debug)]
struct Step {
    host: usize,
    target: bool,
    path: usize,
    /// The mode found and how loudly that is said; absent if it is as sealed again.
    is: Option<(usize, Option<Severity>)>,
}

fn step() -> impl Strategy<Value = Step> {
    let severity = prop_oneof![Just(None), Just(Some(Severity::Low)), Just(Some(Severity::High))];
    let is = prop::option::weighted(0.7, (0..2_usize, severity));
    (0..3_usize, any::<bool>(), 0..2_usize, is).prop_map(|(host, target, path, is)| Step { host, target, path, is })
}

fn event_of(agent: &mut FakeAgent, step: &Step) -> Event {
    let target = if step.target { TARGET } else { "other" };
    let path = format!("path-{}", step.path);
    agent.event(match step.is {
        None => Body::FindingResolved(FindingResolved { target: target.into(), path, path_b64: None }),
        Some((mode, severity)) => {
            let mut body = judged(&path, severity, "rule");
            body.target = target.into();
            body.finding.observed.as_mut().unwrap().mode = Some(format!("070{mode}"));
            if mode == 1 {
                body.finding.change = Change::Unverifiable;
                // Of what is not known nobody can say that it is tolerated.
                body.finding.verdict = Some(Ruling::Alert);
                body.finding.severity = severity.or(Some(Severity::Low));
            }
            Body::FindingOpened(body)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn groups_are_what_grouping_the_open_findings_gives(
        steps in prop::collection::vec(step(), 1..40), limit in 1..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(directory.path(), Limits::default()).unwrap();
            let mut agents = [FakeAgent::new(1), FakeAgent::new(2), FakeAgent::new(3)];
            for (time, steps) in steps.chunks(7).enumerate() {
                for (host, agent) in agents.iter_mut().enumerate() {
                    let events: Vec<_> =
                        steps.iter().filter(|step| step.host == host).map(|step| event_of(agent, step)).collect();
                    apply(&store, &format!("h{host}"), None, i64::try_from(time).unwrap(), &events).await;
                }
                let all = FindingQuery { state: Some(Lifetime::Open), limit: 1000, ..FindingQuery::default() };
                let open = store.findings(all.clone()).await.unwrap().items;
                let mut expected: BTreeMap<GroupKey, (BTreeSet<String>, u64)> = BTreeMap::new();
                for record in &open {
                    let group = expected.entry(GroupKey::of(&record.finding).unwrap()).or_default();
                    group.0.insert(record.host.clone());
                    group.1 += 1;
                }
                for (loudest, change, verdict) in [
                    (false, None, None), (true, None, None), (true, None, Some(Ruling::Alert)),
                    (false, Some(Change::Unverifiable), None), (false, None, Some(Ruling::Tolerated)),
                ] {
                    let mut order = if loudest { GroupOrder::Loudest(None) } else { GroupOrder::Widest(None) };
                    let mut read = Vec::new();
                    loop {
                        let query = GroupQuery { change, verdict, order, limit, ..GroupQuery::default() };
                        let page = store.groups(query).await.unwrap();
                        read.extend(page.items);
                        match page.next {
                            Some(next) => order = next,
                            None => break,
                        }
                    }
                    let place = |group: &driftlock_collector::store::GroupRecord| {
                        let severity = group.example.finding.severity().filter(|_| loudest);
                        (severity, group.hosts, group.key)
                    };
                    assert!(read.is_sorted_by(|a, b| place(a) > place(b)), "{read:?}");
                    for group in &read {
                        assert_eq!(GroupKey::of(&group.example.finding).unwrap(), group.key);
                        let (hosts, findings) = &expected[&group.key];
                        assert_eq!((group.hosts, group.findings), (hosts.len() as u64, *findings), "{group:?}");
                        let query = FindingQuery { group: Some(group.key), ..all.clone() };
                        let each = store.findings(query).await.unwrap().items;
                        assert_eq!(each.len() as u64, *findings);
                        assert!(each.iter().all(|record| GroupKey::of(&record.finding).unwrap() == group.key));
                    }
                    let wanted = open.iter().filter(|record| {
                        let finding = &record.finding;
                        change.is_none_or(|change| finding.change == change)
                            && verdict.is_none_or(|verdict| (verdict == Ruling::Alert) == finding.severity().is_some())
                    });
                    let keys: BTreeSet<_> = wanted.map(|record| GroupKey::of(&record.finding).unwrap()).collect();
                    assert_eq!(read.iter().map(|group| group.key).collect::<BTreeSet<_>>(), keys);
                    assert_eq!(read.len(), keys.len());
                }
            }
        });
    }
}
