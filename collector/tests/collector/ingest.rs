//! What happens to a batch: sequences, epochs, snapshots, refusals.

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode};
use driftlock_collector::clock::Timestamp;
use driftlock_collector::store::sqlite::Limits;
use driftlock_collector::store::{Applied, HostQuery, Lifetime, Store as _};
use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{
    Answer, BATCH_MEDIA_TYPE, Body, ConditionBody, Event, Snapshot, Verified, sequence_text,
};

use crate::kit::{Collector, FakeAgent, TARGET, TIME, TOKEN, finding, manifest, part_named, post_request};

fn answer(accepted: u64, duplicates: u64, ack: u64, resync: bool) -> Answer {
    Answer { accepted, duplicates, rejected: Vec::new(), ack, resync }
}

/// An agent whose first snapshot is taken, so that answers ask for none.
async fn settled(collector: &Collector) -> FakeAgent {
    let mut agent = FakeAgent::new(1);
    let snapshot = agent.snapshot(0, true, &[]);
    assert_eq!(collector.post(&[snapshot]).await, answer(1, 0, 1, false));
    agent
}

#[tokio::test]
async fn what_was_acknowledged_is_a_duplicate_for_ever() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let events = [agent.opened("a"), agent.opened("b"), agent.resolved("a")];
    assert_eq!(collector.post(&events).await, answer(3, 0, 4, false));
    assert_eq!(collector.post(&events).await, answer(0, 3, 4, false));
    let collector = collector.restarted();
    assert_eq!(collector.post(&events[..1]).await, answer(0, 1, 4, false));
    assert_eq!(collector.open_paths().await, ["b"]);
    assert_eq!(collector.store.totals().await.unwrap().events, 4);
}

#[tokio::test]
async fn a_batch_out_of_order_is_put_in_order() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let (open, close) = (agent.opened("a"), agent.resolved("a"));
    assert_eq!(collector.post(&[close.clone(), open, close]).await, answer(2, 1, 3, false));
    assert!(collector.open_paths().await.is_empty());
}

#[tokio::test]
async fn opening_twice_is_one_finding_and_resolving_the_unknown_is_fine() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let events = [agent.resolved("never"), agent.opened("a"), agent.opened("a")];
    assert_eq!(collector.post(&events).await, answer(3, 0, 4, false));
    let updated = agent.event(Body::FindingUpdated(finding(b"a", 7)));
    collector.post(&[updated]).await;
    let open = collector.findings(Lifetime::Open).await;
    assert_eq!(open.len(), 1);
    assert_eq!((open[0].count, open[0].host.as_str()), (7, "web-1"));
}

#[tokio::test]
async fn a_finding_that_comes_back_begins_anew() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let events = [agent.opened("a"), agent.opened("b"), agent.resolved("a")];
    collector.post(&events).await;
    let again = agent.opened("a");
    collector.post(&[again]).await;
    let open = collector.findings(Lifetime::Open).await;
    assert_eq!(open.iter().map(|f| f.finding.path.as_str()).collect::<Vec<_>>(), ["a", "b"], "the newest first");
    assert!(collector.findings(Lifetime::Resolved).await.is_empty());
}

#[tokio::test]
async fn a_gap_is_taken_and_asks_for_everything() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let _lost = agent.opened("lost");
    let next = agent.opened("b");
    assert_eq!(collector.post(&[next]).await, answer(1, 0, 3, true));
    let hosts = collector.json("/v1/hosts").await;
    assert_eq!(hosts["hosts"][0]["lost"], 1);
    assert_eq!(hosts["hosts"][0]["state"], "drifted");
    let snapshot = agent.snapshot(0, true, &["b", "lost"]);
    assert_eq!(collector.post(&[snapshot]).await, answer(1, 0, 4, false));
    assert_eq!(collector.open_paths().await, ["b", "lost"]);
}

#[tokio::test]
async fn a_new_epoch_takes_over_and_has_to_send_everything() {
    let collector = Collector::new();
    let mut old = settled(&collector).await;
    let events = [old.opened("stays"), old.opened("goes")];
    collector.post(&events).await;
    let mut new = FakeAgent::new(2);
    let opened = new.opened("stays");
    assert_eq!(collector.post(&[opened]).await, answer(1, 0, 1, true));
    assert_eq!(collector.open_paths().await, ["goes", "stays"], "nothing is resolved by forgetting");
    let snapshot = new.snapshot(0, true, &["stays"]);
    assert_eq!(collector.post(&[snapshot]).await, answer(1, 0, 2, false));
    assert_eq!(collector.open_paths().await, ["stays"]);
}

#[tokio::test]
async fn two_agents_with_one_identity_are_told_apart_by_their_epochs() {
    let collector = Collector::new();
    let mut old = settled(&collector).await;
    let acknowledged = old.opened("a");
    collector.post(std::slice::from_ref(&acknowledged)).await;
    let mut new = FakeAgent::new(2);
    let snapshot = new.snapshot(0, true, &[]);
    collector.post(&[snapshot]).await;

    assert_eq!(collector.post(&[acknowledged]).await, answer(0, 1, 2, false), "what it had delivered stays delivered");
    assert!(collector.open_conditions().await.is_empty());
    for events in [vec![old.opened("x")], vec![old.heartbeat(&[])]] {
        let (status, problem) = collector.post_bytes(serde_json::to_vec(&events).unwrap()).await;
        assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &"identity_conflict".into()));
    }
    assert_eq!(collector.open_conditions().await, ["identity_conflict"]);
    assert!(collector.open_paths().await.is_empty(), "nothing of a refused batch is kept");
    // The newer one goes on, and its snapshot does not talk the collector's condition away.
    let more = [new.opened("b"), new.snapshot(0, true, &["b"])];
    assert_eq!(collector.post(&more).await, answer(2, 0, 3, false));
    assert_eq!(collector.open_conditions().await, ["identity_conflict"]);
    // It is over when the other one is not heard for a while.
    let later = Timestamp::from_millis(Timestamp::now().millis() + 301_000);
    let mut heartbeat = new.heartbeat(&["b"]);
    heartbeat.time = later.to_string();
    collector.apply_at(&[heartbeat], later).await;
    assert!(collector.open_conditions().await.is_empty());
}

#[tokio::test]
async fn a_copied_state_directory_is_noticed_by_its_sequences() {
    let collector = Collector::new();
    let mut original = settled(&collector).await;
    let mut copy = FakeAgent { epoch: original.epoch.clone(), sequence: original.sequence };
    let (mine, other) = (original.opened("a"), copy.opened("b"));
    collector.post(std::slice::from_ref(&mine)).await;
    let (status, _) = collector.post_bytes(serde_json::to_vec(&[other]).unwrap()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(collector.open_conditions().await, ["identity_conflict"]);
    let spaced = serde_json::to_string_pretty(&[mine]).unwrap();
    assert_eq!(collector.post_bytes(spaced).await.0, StatusCode::OK, "the same event in other spacing is a duplicate");
}

#[tokio::test]
async fn a_snapshot_in_parts_resolves_at_its_last_part() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let before = [agent.opened("gone"), agent.opened("kept")];
    collector.post(&before).await;
    let first = agent.snapshot(0, false, &["kept"]);
    collector.post(&[first]).await;
    assert_eq!(collector.open_paths().await, ["gone", "kept"]);
    // The collector restarts in the middle, and something opens meanwhile.
    let collector = collector.restarted();
    let between = agent.opened("new");
    let last = agent.snapshot(1, true, &["more"]);
    assert_eq!(collector.post(&[between, last]).await, answer(2, 0, 6, false));
    assert_eq!(collector.open_paths().await, ["kept", "more", "new"]);
}

#[tokio::test]
async fn a_snapshot_with_a_hole_resolves_nothing() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let before = [agent.opened("a"), agent.opened("b")];
    collector.post(&before).await;
    let first = agent.snapshot(0, false, &["a"]);
    collector.post(&[first]).await;
    let _lost = agent.snapshot(1, false, &["b"]);
    let last = agent.snapshot(2, true, &[]);
    assert_eq!(collector.post(&[last]).await, answer(1, 0, 6, true));
    assert_eq!(collector.open_paths().await, ["a", "b"]);
    // A first part begins it anew.
    let again = [agent.snapshot(0, false, &["b"]), agent.snapshot(0, false, &["a"]), agent.snapshot(1, true, &[])];
    assert_eq!(collector.post(&again).await, answer(3, 0, 9, false));
    assert_eq!(collector.open_paths().await, ["a"]);
}

#[tokio::test]
async fn a_snapshot_lists_the_conditions_too() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let events = [
        agent.condition(true, Some(TARGET), ConditionReason::Overflow),
        agent.condition(true, Some("other"), ConditionReason::RootLost),
        agent.condition(true, None, ConditionReason::SpoolFailed),
        agent.condition(true, None, ConditionReason::ClockStep),
        agent.condition(false, None, ConditionReason::ClockStep),
    ];
    collector.post(&events).await;
    assert_eq!(collector.open_conditions().await, ["overflow", "root_lost", "spool_failed"]);
    let kept =
        ConditionBody { target: None, reason: ConditionReason::ConfigRefused, path: None, detail: String::new() };
    let snapshot = agent.event(Body::TargetSnapshot(Snapshot {
        target: TARGET.into(),
        manifest: Some(manifest()),
        part: 0,
        last: true,
        findings: Vec::new(),
        conditions: vec![kept],
    }));
    collector.post(&[snapshot]).await;
    assert_eq!(collector.open_conditions().await, ["config_refused", "root_lost"], "another target's stay");
}

#[tokio::test]
async fn a_heartbeat_that_disagrees_asks_for_everything() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let opened = agent.opened("a");
    collector.post(&[opened, agent.heartbeat(&["a"])]).await;
    assert_eq!(collector.post(&[agent.heartbeat(&["a"])]).await, answer(1, 0, 2, false));
    assert_eq!(collector.post(&[agent.heartbeat(&["a", "b"])]).await, answer(1, 0, 2, true));
    let snapshot = agent.snapshot(0, true, &["a", "b"]);
    assert_eq!(collector.post(&[snapshot, agent.heartbeat(&["a", "b"])]).await, answer(2, 0, 3, false));
    // While something is on its way, nothing can be compared.
    let on_its_way = agent.opened("c");
    assert_eq!(collector.post(&[agent.heartbeat(&["a", "b", "c"])]).await, answer(1, 0, 3, false));
    assert_eq!(collector.post(&[on_its_way, agent.heartbeat(&["a", "b", "c"])]).await, answer(2, 0, 4, false));
}

#[tokio::test]
async fn a_target_that_is_watched_no_more_has_nothing_open() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let events = [agent.opened("a"), agent.condition(true, Some(TARGET), ConditionReason::Overflow)];
    collector.post(&events).await;
    collector.post(&[agent.heartbeat_of(Vec::new())]).await;
    assert!(collector.open_paths().await.is_empty());
    assert!(collector.open_conditions().await.is_empty());
}

#[tokio::test]
async fn one_bad_event_is_rejected_and_the_rest_goes_on() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let good = agent.opened("a");
    let mut bad: Vec<serde_json::Value> = Vec::new();
    let mut spoil = |agent: &mut FakeAgent, change: &dyn Fn(&mut serde_json::Value)| {
        let mut event = serde_json::to_value(agent.opened("x")).unwrap();
        change(&mut event);
        bad.push(event);
    };
    spoil(&mut agent, &|e| e["type"] = "dev.driftlock.finding.exploded.v9".into());
    spoil(&mut agent, &|e| e["data"]["finding"]["path"] = "../x".into());
    spoil(&mut agent, &|e| e["data"]["finding"]["path_b64"] = "eA==".into());
    spoil(&mut agent, &|e| e["data"]["target"] = "".into());
    spoil(&mut agent, &|e| e["data"]["opened_at"] = "yesterday".into());
    spoil(&mut agent, &|e| e["data"]["finding"]["manifest"] = "x".repeat(256).into());
    spoil(&mut agent, &|e| e["data"]["finding"]["step"] = "x".repeat(513).into());
    spoil(&mut agent, &|e| e["time"] = "now".into());
    spoil(&mut agent, &|e| e["specversion"] = "2.0".into());
    spoil(&mut agent, &|e| e["data"] = 7.into());
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let deep = format!("{{\"data\":{},{}", String::from_utf8(deep).unwrap(), {
        let event = serde_json::to_string(&agent.opened("x")).unwrap();
        event.replace("\"data\"", "\"other\"").split_off(1)
    });
    let rejected = bad.len() + 1;
    let last = agent.opened("b");
    let mut batch = vec![serde_json::to_value(&good).unwrap()];
    batch.extend(bad);
    batch.push(serde_json::to_value(&last).unwrap());
    // These cannot be told apart from others by a sequence.
    for nameless in [serde_json::json!(null), serde_json::json!({"epoch": 1}), serde_json::json!("<script>")] {
        batch.push(nameless);
    }
    let mut texts: Vec<String> = batch.iter().map(ToString::to_string).collect();
    texts.insert(rejected, deep);
    let (status, answer) = collector.post_bytes(format!("[{}]", texts.join(","))).await;
    let answer: Answer = serde_json::from_value(answer).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!((answer.accepted, answer.ack, answer.resync), (2, agent.sequence, false), "{answer:?}");
    assert_eq!(answer.rejected.len(), rejected + 3, "{:#?}", answer.rejected);
    assert!(answer.rejected[..rejected].iter().all(|r| r.id.starts_with(&agent.epoch) && !r.reason.is_empty()));
    assert_eq!(collector.open_paths().await, ["a", "b"]);
}

#[tokio::test]
async fn a_manifest_of_too_many_parts_or_with_too_long_a_name_is_rejected() {
    let collector = Collector::new();
    let agent = settled(&collector).await;
    for (count, len, rejected) in [(16, 255, 0), (17, 1, 1), (1, 256, 1)] {
        let mut beat = serde_json::to_value(agent.heartbeat(&[])).unwrap();
        let parts = vec![part_named(&"x".repeat(len)); count];
        beat["data"]["targets"][0]["manifest"]["parts"] = parts.into();
        let (_, answer) = collector.post_bytes(serde_json::to_vec(&[beat]).unwrap()).await;
        assert_eq!(answer["rejected"].as_array().map_or(0, Vec::len), rejected, "{count} {len}: {answer}");
    }
}

#[tokio::test]
async fn events_of_another_epoch_are_not_mixed_in() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let events = [agent.opened("a"), FakeAgent::new(9).opened("b")];
    let answer = collector.post(&events).await;
    assert_eq!((answer.accepted, answer.rejected.len(), answer.ack), (1, 1, 2));
    assert_eq!(collector.open_paths().await, ["a"]);
}

#[tokio::test]
async fn identity_is_the_credential() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let mut event = agent.opened("a");
    event.source = "urn:driftlock:host:somebody-else".into();
    collector.post(&[event]).await;
    let hosts = collector.json("/v1/hosts").await;
    assert_eq!(hosts["hosts"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&hosts["hosts"][0]["host"], &hosts["hosts"][0]["claimed_id"]),
        (&"web-1".into(), &"somebody-else".into())
    );
}

#[tokio::test]
async fn what_is_no_batch_is_refused_with_the_right_word() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let good = serde_json::to_vec(&[agent.opened("a")]).unwrap();
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let many: Vec<_> = (0..501).map(|_| agent.opened("a")).collect();
    let bomb = zstd(&vec![b' '; 64 << 20]);
    assert!(bomb.len() < 64 << 10);
    let mut wide = zstd::stream::Encoder::new(Vec::new(), 19).unwrap();
    wide.window_log(27).unwrap();
    wide.long_distance_matching(true).unwrap();
    std::io::Write::write_all(&mut wide, &good).unwrap();
    let wide = wide.finish().unwrap();
    let plain = |bytes: &[u8]| (vec![], bytes.to_vec());
    let packed = |bytes: &[u8]| (vec![("content-encoding", "zstd")], bytes.to_vec());
    type Case = (&'static str, (Vec<(&'static str, &'static str)>, Vec<u8>), u16, &'static str);
    let cases: Vec<Case> = vec![
        ("garbage", plain(b"\x00\xff{"), 400, "json"),
        ("not an array", plain(b"{}"), 400, "json"),
        ("nothing", plain(b""), 400, "json"),
        ("two arrays", plain(b"[][]"), 400, "json"),
        ("not zstd", packed(&good), 400, "compression"),
        ("cut zstd", packed(&zstd(&good)[..40]), 400, "compression"),
        ("window of 128 MiB", packed(&wide), 400, "compression"),
        ("bomb", packed(&bomb), 413, "too_large"),
        ("large", plain(&vec![b' '; 2 << 20]), 413, "too_large"),
        ("many", plain(&serde_json::to_vec(&many).unwrap()), 413, "too_large"),
        ("gzip", (vec![("content-encoding", "gzip")], good.clone()), 415, "content_encoding"),
        ("media type", (vec![("content-type", "application/json")], good.clone()), 415, "media_type"),
        ("wrong token", (vec![("authorization", "Bearer wrong-wrong-wrong")], good.clone()), 401, "unauthorized"),
        ("no token", (vec![("authorization", "")], good.clone()), 401, "unauthorized"),
    ];
    for (name, (headers, body), status, code) in cases {
        let mut request = post_request().body(HttpBody::from(body)).unwrap();
        for (key, value) in headers {
            request.headers_mut().insert(key, value.parse().unwrap());
        }
        let (found, headers, body) = collector.send(request).await;
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((found.as_u16(), &problem["code"]), (status, &code.into()), "{name}: {problem}");
        assert_eq!(headers["content-type"], "application/problem+json", "{name}");
    }
    // A body of unknown length is cut off as well.
    let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65536]));
    let (status, _) = collector.post_bytes(HttpBody::from_stream(endless)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(collector.store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap().items.is_empty());

    // A good one is taken under whatever name: it has a credential.
    let request = Request::post("/v1/events")
        .header("host", "collector.behind.a.proxy")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", format!("{BATCH_MEDIA_TYPE}; charset=utf-8"))
        .header("content-encoding", "zstd")
        .body(HttpBody::from(zstd(&good)))
        .unwrap();
    assert_eq!(collector.send(request).await.0, StatusCode::OK);
    assert_eq!(collector.open_paths().await, ["a"]);
}

#[tokio::test]
async fn an_empty_batch_changes_nothing() {
    let collector = Collector::new();
    assert_eq!(collector.post(&[]).await, answer(0, 0, 0, false));
    assert_eq!(collector.json("/v1/hosts").await["hosts"], serde_json::json!([]));
}

#[tokio::test]
async fn a_stop_is_undone_by_the_next_heartbeat_only() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let post_and_see = async |event: Event, stopped: bool| {
        collector.post(&[event]).await;
        let host = &collector.json("/v1/hosts").await["hosts"][0];
        assert_eq!(host["stopped_at"].is_string(), stopped, "{host}");
    };
    post_and_see(agent.heartbeat(&[]), false).await;
    let on_its_way = agent.heartbeat(&[]);
    post_and_see(agent.stopped(true), true).await;
    // It was sent before, and came after.
    post_and_see(on_its_way, true).await;
    // Of the next start, by a clock that was set back in between.
    let mut next = agent.heartbeat(&[]);
    next.time = TIME.into();
    post_and_see(next, false).await;
    // The stop is still in the spool when the next start has said something.
    let late = agent.stopped(true);
    post_and_see(agent.heartbeat(&[]), false).await;
    post_and_see(late, false).await;
    // An epoch counts from its begin.
    let mut agent = FakeAgent::new(77);
    post_and_see(agent.heartbeat(&[]), false).await;
    post_and_see(agent.stopped(true), true).await;
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing() {
    let collector = Collector::open(tempfile::tempdir().unwrap(), Limits { max_pages: Some(60) });
    let mut agent = FakeAgent::new(1);
    let mut acknowledged = 0;
    let mut full = false;
    for round in 0..200 {
        let event = agent.opened(format!("{round}/{}", "x".repeat(4000)));
        let (status, answer) = collector.post_bytes(serde_json::to_vec(&[event]).unwrap()).await;
        if status == StatusCode::OK {
            acknowledged = answer["ack"].as_u64().unwrap();
        } else {
            assert_eq!((status, &answer["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"store_unavailable".into()));
            full = true;
            break;
        }
    }
    assert!(full && acknowledged > 0);
    // With room again it goes on where it was.
    let collector = collector.restarted();
    assert_eq!(collector.open_paths().await.len() as u64, acknowledged);
    let again = agent.event_at(acknowledged + 1, Body::FindingOpened(finding(b"again", 1)));
    assert_eq!(collector.post(&[again]).await.ack, acknowledged + 1);
}

#[tokio::test]
async fn a_sequence_of_any_size_does_no_harm() {
    let collector = Collector::new();
    let agent = settled(&collector).await;
    let mut far = agent.event_at(i64::MAX.cast_unsigned(), Body::FindingOpened(finding(b"far", 1)));
    let answer = collector.post(std::slice::from_ref(&far)).await;
    assert_eq!((answer.accepted, answer.ack, answer.resync), (1, i64::MAX.cast_unsigned(), true));
    for sequence in [0, u64::MAX] {
        far.sequence = Some(sequence_text(sequence));
        assert_eq!(collector.post(std::slice::from_ref(&far)).await.rejected.len(), 1, "{sequence}");
    }
    let batch = driftlock_collector::batch::decode(b"[]").unwrap();
    let delivery =
        driftlock_collector::store::Delivery { host: "x".into(), received_at: Timestamp::now(), from: None, batch };
    assert!(matches!(collector.store.apply(delivery).await, Ok(Applied::Answer(_))));
}

#[tokio::test]
async fn a_complete_look_vouches_for_its_epoch() {
    let collector = Collector::new();
    let mut agent = settled(&collector).await;
    let summary = |complete: bool| {
        serde_json::from_value(serde_json::json!({
            "complete": complete, "scope": "full", "profile": "portable", "added": 0, "removed": 0, "changed": 0,
            "unverifiable": 0, "entries": 1, "files_hashed": 1, "bytes_hashed": 1, "duration_ms": 1,
            "manifest": manifest(), "excluded": {"manifest": [], "local": []},
        }))
        .unwrap()
    };
    let state = async |collector: &Collector| collector.json("/v1/hosts").await["hosts"][0]["state"].clone();
    for (complete, expected) in [(false, "blind"), (true, "clean")] {
        let look = agent.event(Body::TargetVerified(Verified { target: TARGET.into(), summary: summary(complete) }));
        collector.post(&[look]).await;
        assert_eq!(state(&collector).await, expected);
    }
    let mut new = FakeAgent::new(2);
    let snapshot = new.snapshot(0, true, &[]);
    collector.post(&[snapshot]).await;
    assert_eq!(state(&collector).await, "blind", "what was seen before says nothing about now");
}
