//! What an agent says of its watching and of itself: stored, answered, shown, and refused where it cannot be.

use axum::http::StatusCode;
use driftlock_common::coverage::{BlindSpot, Coverage, Unverified};
use driftlock_common::event::{Body, Event, Running};
use serde_json::{Value, json};

use crate::kit::{Collector, FakeAgent, TIME, manifest};

fn coverage() -> Coverage {
    Coverage {
        watch_mode: "inotify".into(),
        blind: vec![BlindSpot::HeldDescriptor.name().into(), "of_a_later_version".into()],
        last_sweep: Some(TIME.into()),
        last_full: Some(TIME.into()),
        unverifiable: 1203,
        gaps: [("denied".to_owned(), 3), ("mount".to_owned(), 1200)].into(),
        oldest_unverified: Some(Unverified { path: "srv/a\\x0ab".into(), since: TIME.into() }),
        overflows: 2,
        unwatched: 1,
        clock_steps: 1,
        transient: 5,
        put_back: 4,
        ..Coverage::default()
    }
}

fn running() -> Running {
    Running {
        binary: Some(manifest().tree),
        config: Some(manifest().tree),
        started_at: TIME.into(),
        starts: 7,
        stopped_before: Some(false),
        boot: Some("0123456789abcdef".into()),
    }
}

fn heartbeat(agent: &FakeAgent, coverage: Coverage, running: Option<Running>) -> Event {
    let mut beat = FakeAgent::beat(&[]);
    beat.coverage = coverage;
    let mut event = agent.heartbeat_of(vec![beat]);
    if let Body::Heartbeat(heartbeat) = &mut event.body {
        heartbeat.agent = running;
    }
    event
}

async fn host(collector: &Collector) -> Value {
    collector.json("/v1/hosts").await["hosts"][0].take()
}

#[tokio::test]
async fn what_an_agent_vouches_for_is_answered_and_shown() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let opened = agent.opened("a");
    collector.post(&[opened, heartbeat(&agent, coverage(), Some(running()))]).await;
    let host = host(&collector).await;
    assert_eq!(host["targets"][0]["coverage"], serde_json::to_value(coverage()).unwrap());
    assert_eq!(host["agent"], serde_json::to_value(running()).unwrap());
    let (_, page) = collector.get("/host?name=web-1").await;
    for text in [
        "every file read since <time",
        "<span class=\"path\">srv/a<span class=\"escape\">\\x0a</span>b</span> waits for a verdict since <time",
        "1\u{202f}203 not established: denied 3, mount 1\u{202f}200",
        "<div>2 times events were lost</div>",
        "<div>1 directory by sweep only</div>",
        "<div>1 time the clock was set</div>",
        "<div class=\"quiet\">5 paths came and were gone</div>",
        "<div class=\"quiet\">4 paths were put back</div>",
        "<summary>2 not seen at once</summary><ul><li>written through a descriptor that stays open</li>\
         <li>of_a_later_version</li></ul>",
        ", 7 starts, the last one after a stop without a word",
        &format!("<dt>Its binary</dt><dd><code title=\"{}\">", manifest().tree),
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    // What is not said any more is not shown any more.
    collector.post(&[heartbeat(&agent, Coverage::default(), None)]).await;
    let (_, page) = collector.get("/host?name=web-1").await;
    for text in ["every file read", "waits for", "established", "not seen at once", "<dt>Agent"] {
        assert!(!page.contains(text), "{text} is still in\n{page}");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let long = "x".repeat(100_000);
    let many = |n: usize| (0..n).map(|n| n.to_string());
    let odd = [
        Coverage { last_full: Some("yesterday".into()), ..coverage() },
        Coverage { oldest_unverified: Some(Unverified { path: "a".into(), since: String::new() }), ..coverage() },
        Coverage { oldest_unverified: Some(Unverified { path: long.repeat(4), since: TIME.into() }), ..coverage() },
        Coverage { watch_mode: long.clone(), ..coverage() },
        Coverage { blind: vec![long.clone()], ..coverage() },
        Coverage { blind: many(9).collect(), ..coverage() },
        Coverage { gaps: many(10).map(|reason| (reason, 1)).collect(), ..coverage() },
        Coverage { gaps: [(long, 1)].into(), ..coverage() },
    ];
    let agent = FakeAgent::new(1);
    let started = Some(Running { started_at: "now".into(), ..running() });
    let events = odd.into_iter().map(|odd| heartbeat(&agent, odd, None));
    for event in events.chain([heartbeat(&agent, coverage(), started)]) {
        let collector = Collector::new();
        let (status, answer) = collector.post_bytes(serde_json::to_vec(&json!([event])).unwrap()).await;
        assert_eq!((status, &answer["accepted"]), (StatusCode::OK, &json!(0)), "{answer}");
        assert_eq!(answer["rejected"].as_array().map(Vec::len), Some(1), "{answer}");
    }
}
