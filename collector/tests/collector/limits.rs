//! What a host may not: send too much, take all the room, say what time it is, write or read what is another's.

use std::io;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::http::{HeaderMap, StatusCode};
use driftlock_collector::clock::Timestamp;
use driftlock_collector::gate::GateLimits;
use driftlock_collector::store::sqlite::Limits;
use driftlock_collector::store::{Lifetime, Store as _};
use driftlock_common::event::{Body, Event, Verified};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::sync::oneshot;

use crate::kit::{Collector, FakeAgent, OTHER_TOKEN, finding, post_request};

fn with_gate(rate: u32, bytes: usize) -> Collector {
    Collector::with_gate(tempfile::tempdir().unwrap(), Limits::default(), GateLimits { rate, bytes })
}

fn retry_after(headers: &HeaderMap) -> u64 {
    headers["retry-after"].to_str().unwrap().parse().unwrap()
}

async fn refused(collector: &Collector, body: HttpBody) -> (StatusCode, String, HeaderMap) {
    let (status, headers, body) = collector.send(post_request().body(body).unwrap()).await;
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (status, problem["code"].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned(), headers)
}

#[tokio::test]
async fn a_host_that_sends_too_much_waits_and_the_others_do_not() {
    let collector = with_gate(1, 1 << 24);
    let mut agent = FakeAgent::new(1);
    let events: Vec<Event> = (0..250).map(|n| agent.opened(format!("f{n}"))).collect();
    collector.post(&events).await;
    let next = agent.opened("next");
    let body = serde_json::to_vec(std::slice::from_ref(&next)).unwrap();
    let (status, code, headers) = refused(&collector, body.into()).await;
    assert_eq!((status, code.as_str()), (StatusCode::TOO_MANY_REQUESTS, "rate"));
    // 250 events and a request of 200 at most.
    assert!((45..=60).contains(&retry_after(&headers)), "{headers:?}");
    assert_eq!(collector.findings(Lifetime::Open).await.len(), 250);
    let mut other = FakeAgent::new(2);
    let opened = other.opened("a");
    assert_eq!(collector.post_as_other(&[opened]).await.accepted, 1);
    let (_, text) = collector.get("/metrics").await;
    assert!(text.contains("batches_total{result=\"delayed\"} 1\n"), "{text}");
}

#[tokio::test]
async fn nonsense_is_paid_for() {
    let collector = with_gate(1, 1 << 24);
    assert_eq!(refused(&collector, "{".into()).await.0, StatusCode::BAD_REQUEST);
    let (status, code, headers) = refused(&collector, "{".into()).await;
    assert_eq!((status, code.as_str()), (StatusCode::TOO_MANY_REQUESTS, "rate"));
    assert!(retry_after(&headers) > 250);
}

/// A body of which this much comes, and then nothing; `arrived` is told when that has been taken.
fn stuck(bytes: usize, arrived: oneshot::Sender<()>) -> HttpBody {
    let first = stream::iter([Ok::<_, io::Error>(vec![b' '; bytes])]);
    let rest = stream::once(async {
        arrived.send(()).unwrap();
        std::future::pending().await
    });
    HttpBody::from_stream(first.chain(rest))
}

#[tokio::test]
async fn what_has_arrived_takes_room_and_who_finds_none_is_told_to_come_again() {
    let collector = Arc::new(with_gate(500, 1 << 20));
    let mut stuck_ones = Vec::new();
    for _ in 0..2 {
        let collector = Arc::clone(&collector);
        let (arrived, taken) = oneshot::channel();
        let request = post_request().body(stuck(500 * 1024, arrived)).unwrap();
        stuck_ones.push(tokio::spawn(async move { collector.send(request).await }));
        taken.await.unwrap();
    }
    let mut agent = FakeAgent::new(1);
    let event = agent.opened("a");
    let large = serde_json::to_vec(&[finding(&vec![b'x'; 40_000], 1).finding]).unwrap();
    let mut request = post_request().body(HttpBody::from(large)).unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {OTHER_TOKEN}").parse().unwrap());
    let (status, headers, body) = collector.send(request).await;
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("busy")));
    assert!((1..=4).contains(&retry_after(&headers)));
    // The host itself has as many under way as it may.
    let body = serde_json::to_vec(&[event]).unwrap();
    let (status, code, headers) = refused(&collector, body.clone().into()).await;
    assert_eq!((status, code.as_str(), retry_after(&headers)), (StatusCode::TOO_MANY_REQUESTS, "under_way", 1));
    // Who hangs up gives everything back.
    for task in stuck_ones {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    assert_eq!(collector.post_bytes(body).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_clock_that_is_wrong_forges_no_future_and_is_told() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let before = Timestamp::now();
    let future = |event: Event| Event { time: "2126-01-02T03:04:05.000Z".into(), ..event };
    let mut body = finding(b"a", 1);
    body.opened_at = "2126-01-02T03:04:05.000Z".into();
    let opened = future(agent.event(Body::FindingOpened(body)));
    collector.post(&[opened]).await;
    let open = collector.findings(Lifetime::Open).await;
    let after = Timestamp::now();
    assert!((before..=after).contains(&open[0].opened_at) && (before..=after).contains(&open[0].updated_at));
    // What is long ago may have waited in a spool.
    let old = agent.opened("b");
    collector.post(std::slice::from_ref(&old)).await;
    let open = collector.findings(Lifetime::Open).await;
    assert_eq!(open[0].opened_at.to_string(), old.time);

    assert!(collector.open_conditions().await.is_empty());
    let mut heartbeat = agent.heartbeat(&["a", "b"]);
    for (time, words) in [("2126-01-02T03:04:05.000Z", "days ahead of"), ("2016-01-02T03:04:05.000Z", "days behind")] {
        heartbeat.time = time.into();
        if let Body::Heartbeat(heartbeat) = &mut heartbeat.body {
            heartbeat.targets[0].coverage.last_sweep = Some(time.into());
        }
        collector.post(std::slice::from_ref(&heartbeat)).await;
        let conditions = collector.json("/v1/conditions?state=open").await;
        assert_eq!(conditions["conditions"][0]["reason"], "clock_skew");
        let detail = conditions["conditions"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{detail}");
    }
    // Nothing is fresh because it is said to be from next century.
    heartbeat.time = "2126-01-02T03:04:05.000Z".into();
    let verified = json!({
        "complete": true, "scope": "full", "profile": "portable", "added": 0, "removed": 0, "changed": 0,
        "unverifiable": 0, "entries": 1, "files_hashed": 1, "bytes_hashed": 1, "duration_ms": 1,
        "manifest": crate::kit::manifest(), "excluded": {"manifest": [], "local": []},
    });
    let summary = serde_json::from_value(verified).unwrap();
    let verified = future(agent.event(Body::TargetVerified(Verified { target: "app".into(), summary })));
    collector.post(&[verified]).await;
    let hosts = collector.json("/v1/hosts").await;
    let verified_at = hosts["hosts"][0]["targets"][0]["verified_at"].as_str().unwrap().to_owned();
    assert!(verified_at <= Timestamp::now().to_string(), "{verified_at}");
    // A clock that is right again is no condition.
    collector.post(&[agent.heartbeat(&["a", "b"])]).await;
    assert!(collector.open_conditions().await.is_empty());
}

#[tokio::test]
async fn a_host_writes_and_resolves_nothing_of_another() {
    let collector = Collector::new();
    let (mut mine, mut theirs) = (FakeAgent::new(1), FakeAgent::new(2));
    let events = [mine.snapshot(0, true, &["a", "b"]), mine.condition(true, None, REASON)];
    collector.post(&events).await;
    // The other speaks of the same target and the same paths, as the same source, and in the same epoch.
    let mut copy = FakeAgent { epoch: mine.epoch.clone(), sequence: 0 };
    let forged =
        [copy.resolved("a"), copy.snapshot(0, true, &[]), copy.condition(false, None, REASON), copy.opened("x")];
    let answer = collector.post_as_other(&forged).await;
    assert_eq!((answer.accepted, answer.ack), (4, 4));
    collector.post_as_other(&[copy.heartbeat_of(Vec::new())]).await;
    let stopped = theirs.stopped(true);
    collector.post_as_other(&[stopped]).await;
    assert_eq!(collector.open_conditions().await, ["clock_step"]);
    let mut of_mine: Vec<_> =
        collector.findings(Lifetime::Open).await.into_iter().filter(|f| f.host == "web-1").collect();
    of_mine.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(of_mine.iter().map(|f| f.finding.path.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    // And its sequences are its own.
    let next = mine.opened("c");
    assert_eq!(collector.post(&[next]).await.ack, 3);
    let hosts = collector.json("/v1/hosts").await;
    let states: Vec<_> = hosts["hosts"].as_array().unwrap().iter().map(|host| host["state"].clone()).collect();
    assert_eq!(states[0], "drifted", "{hosts:#}");
}

const REASON: driftlock_common::condition::ConditionReason = driftlock_common::condition::ConditionReason::ClockStep;

#[tokio::test]
async fn a_host_does_not_get_into_the_list_of_another_by_its_name() {
    let collector = Collector::new();
    let (mut mine, mut theirs) = (FakeAgent::new(1), FakeAgent::new(2));
    let opened = mine.opened("mine");
    collector.post(&[opened]).await;
    let events = [theirs.opened("theirs"), theirs.condition(true, None, REASON)];
    collector.post_as_other(&events).await;
    let mut shadow = theirs.heartbeat(&["theirs"]);
    if let Body::Heartbeat(heartbeat) = &mut shadow.body {
        heartbeat.host = "web-1".into();
    }
    collector.post_as_other(&[shadow]).await;
    let list = collector.json("/v1/findings?host=web-1").await;
    let paths: Vec<_> = list["findings"].as_array().unwrap().iter().map(|f| f["path"].clone()).collect();
    assert_eq!(paths, ["mine"]);
    let list = collector.json("/v1/conditions?host=web-1").await;
    assert_eq!(list["conditions"], json!([]));
    assert_eq!(collector.store.totals().await.unwrap().findings.len(), 1);
}
