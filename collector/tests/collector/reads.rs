//! The reading side of the API: shapes, pages of lists, refused queries, the stream, metrics.

use axum::body::{Body as HttpBody, BodyDataStream};
use axum::http::{Request, StatusCode};
use driftlock_common::condition::ConditionReason;
use futures_util::stream::StreamExt as _;
use tower::ServiceExt as _;

use crate::kit::{Collector, FakeAgent, TARGET};

#[tokio::test]
async fn the_shape_of_a_finding() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events = [agent.opened(b"usr/\xff")];
    collector.post(&events).await;
    let mut list = collector.json("/v1/findings?state=open").await;
    let received = list["findings"][0].as_object_mut().unwrap().remove("received_at").unwrap();
    assert!(received.as_str().unwrap().ends_with('Z'));
    assert_eq!(
        list,
        serde_json::json!({"findings": [{
            "host": "web-1", "target": "app", "path": "usr/\\xff", "path_b64": "dXNyL/8=", "change": "changed",
            "attributes": ["mode"],
            "expected": {"type": "file", "size": 5, "mode": "0755", "uid": 0, "gid": 0},
            "observed": {"type": "file", "size": 5, "mode": "4755", "uid": 0, "gid": 0},
            "manifest": "/etc/base.manifest", "layer": 1, "meta_layer": 2, "step": "RUN make install", "state": "open", "opened_at": "2026-01-02T03:04:05.000Z",
            "updated_at": "2026-01-02T03:04:05.000Z", "count": 1
        }], "next": null})
    );
}

#[tokio::test]
async fn the_shape_of_hosts_and_conditions() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events = [agent.snapshot(0, true, &["a"]), agent.condition(true, Some(TARGET), ConditionReason::WatchDegraded)];
    collector.post(&events).await;
    collector.post(&[agent.heartbeat(&["a"])]).await;
    let hosts = collector.json("/v1/hosts").await;
    let host = &hosts["hosts"][0];
    for (key, value) in [
        ("host", serde_json::json!("web-1")),
        ("name", "web-1.example".into()),
        ("claimed_id", "claimed".into()),
        ("state", "drifted".into()),
        ("reasons", serde_json::json!(["1 alert"])),
        ("labels", serde_json::json!({"role": "web"})),
        ("open_findings", 1.into()),
        // Where there is no policy, everything is an alert of medium severity.
        ("alerts", serde_json::json!({"critical": 0, "high": 0, "medium": 1, "low": 0, "info": 0})),
        ("tolerated", 0.into()),
        ("open_conditions", serde_json::json!(["watch_degraded"])),
        ("ack", 2.into()),
        ("lost", 0.into()),
    ] {
        assert_eq!(host[key], value, "{key}");
    }
    let target = &host["targets"][0];
    assert_eq!(
        (&target["target"], &target["root"], &target["resync"]),
        (&"app".into(), &"/srv/app".into(), &false.into())
    );
    assert_eq!(target["manifest"]["origin"], "image");
    assert_eq!(target["coverage"]["watch_mode"], "inotify");
    let conditions = collector.json("/v1/conditions?state=open&host=web-1.example").await;
    let condition = &conditions["conditions"][0];
    assert_eq!((&condition["reason"], &condition["state"]), (&"watch_degraded".into(), &"open".into()));
    assert_eq!(condition["meaning"], "part of the target is found by sweeps only");
}

#[tokio::test]
async fn lists_are_read_part_by_part_and_nothing_is_missed() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events: Vec<_> = (0..25).map(|n| agent.opened(format!("f{n:02}"))).collect();
    collector.post(&events).await;
    let mut paths = Vec::new();
    let mut cursor = String::new();
    loop {
        let part = collector.json(&format!("/v1/findings?state=open&limit=10&cursor={cursor}")).await;
        paths.extend(part["findings"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap().to_owned()));
        match part["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25).rev().map(|n| format!("f{n:02}")).collect();
    assert_eq!(paths, expected);
}

#[tokio::test]
async fn filters() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events = [agent.opened("a"), agent.opened("b"), agent.opened(b"\xff"), agent.resolved("b")];
    collector.post(&events).await;
    collector.post(&[agent.heartbeat(&["a"])]).await;
    for (query, count) in [
        ("", 3),
        ("state=open", 2),
        ("state=resolved", 1),
        ("state=&host=&target=&path=", 3),
        ("host=web-1", 3),
        ("host=web-1.example", 3),
        ("host=web-2", 0),
        ("target=app&state=open", 2),
        ("target=other", 0),
        ("path=a", 1),
        ("path=A", 0),
        ("path_b64=/w==", 1),
        ("path_b64=%2Fw%3D%3D", 1),
    ] {
        let list = collector.json(&format!("/v1/findings?{query}")).await;
        assert_eq!(list["findings"].as_array().unwrap().len(), count, "{query}");
    }
}

#[tokio::test]
async fn queries_that_mean_nothing_are_refused() {
    let collector = Collector::new();
    for uri in [
        "/v1/findings?state=closed",
        "/v1/findings?limit=0",
        "/v1/findings?limit=1001",
        "/v1/findings?limit=ten",
        "/v1/findings?cursor=x",
        "/v1/findings?sate=open",
        "/v1/findings?state=open&state=open",
        "/v1/findings?path=a&path_b64=YQ==",
        "/v1/findings?path_b64=%25",
        "/v1/findings?directory=a&directory_b64=YQ==",
        "/v1/findings?below=a&below_b64=YQ==",
        "/v1/findings?below=a&directory=a",
        "/v1/findings?change=new",
        "/v1/findings?verdict=all",
        "/v1/findings?severity=loud",
        "/v1/findings?severity=..high",
        "/v1/findings?severity=..",
        "/v1/findings?sort=oldest",
        "/v1/findings?sort=newest&cursor=high.1",
        "/v1/findings?sort=severity&cursor=1",
        "/v1/findings?sort=severity&cursor=high.",
        "/v1/findings?sort=severity&cursor=loud.1",
        "/v1/conditions?state=no",
        "/v1/conditions?target=x",
        "/v1/hosts?limit=-1",
        "/findings?state=closed",
        "/findings?verdict=none",
    ] {
        let (status, body) = collector.get(uri).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["code"], "query", "{uri}");
    }
    for (uri, status) in [("/v1/nothing", 404), ("/assets/../secret", 404), ("/assets/x", 404), ("/v1/events", 405)] {
        assert_eq!(collector.get(uri).await.0.as_u16(), status, "{uri}");
    }
}

#[tokio::test]
async fn metrics_and_health() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events = [agent.opened("secret-path"), agent.condition(true, None, ConditionReason::SpoolFailed)];
    collector.post(&events).await;
    collector.post(&events).await;
    collector.post_bytes("{").await;
    // Two events that never came, and requests that nobody can answer.
    agent.sequence += 2;
    collector.post(&[agent.opened("other-path")]).await;
    collector.get("/no-such-place").await;
    collector.get("/v1/hosts?limit=secret-word").await;
    let (_, text) = collector.get("/metrics").await;
    for line in [
        "driftlock_collector_hosts{state=\"drifted\"} 1",
        "driftlock_collector_hosts{state=\"clean\"} 0",
        "driftlock_collector_open_findings{change=\"changed\",verdict=\"alert\",severity=\"medium\"} 2",
        "driftlock_collector_open_findings{change=\"changed\",verdict=\"alert\",severity=\"critical\"} 0",
        "driftlock_collector_open_findings{change=\"changed\",verdict=\"tolerated\"} 0",
        "driftlock_collector_open_conditions{reason=\"spool_failed\"} 1",
        "driftlock_collector_events_total{result=\"accepted\"} 3",
        "driftlock_collector_events_total{result=\"duplicate\"} 2",
        "driftlock_collector_batches_total{result=\"refused\"} 1",
        "driftlock_collector_stored_events 3",
        "driftlock_collector_holes{kind=\"lost\"} 1",
        "driftlock_collector_holes{kind=\"restore\"} 0",
        "driftlock_collector_missing_events{kind=\"lost\"} 2",
        "driftlock_collector_requests_refused_total{code=\"json\"} 1",
        "driftlock_collector_requests_refused_total{code=\"not_found\"} 1",
        "driftlock_collector_requests_refused_total{code=\"query\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("secret") && !text.contains("no-such") && !text.contains("web-1"));
    // Asked for by address, without a name that is allowed.
    for uri in ["/healthz", "/readyz"] {
        let request = Request::get(uri).header("host", "10.1.2.3:80").body(HttpBody::empty()).unwrap();
        assert_eq!(collector.send(request).await.0, StatusCode::OK, "{uri}");
    }
}

async fn next_event(stream: &mut BodyDataStream) -> String {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn the_stream_tells_what_is_committed() {
    let collector = Collector::new();
    let request = Request::get("/v1/stream").header("host", "localhost").body(HttpBody::empty()).unwrap();
    let response = collector.app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let mut agent = FakeAgent::new(1);
    let events = [agent.opened("a\nevent: forged"), agent.condition(true, None, ConditionReason::Overflow)];
    collector.post(&events).await;
    assert_eq!(next_event(&mut stream).await, "event: host\ndata: {\"host\":\"web-1\"}\n\n");
    let finding = next_event(&mut stream).await;
    let data = finding.strip_prefix("event: finding\ndata: ").unwrap().trim_end();
    assert_eq!(data.lines().count(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(data).unwrap()["path"], "a\\x0aevent: forged");
    assert!(
        next_event(&mut stream)
            .await
            .starts_with("event: condition\ndata: {\"host\":\"web-1\",\"reason\":\"overflow\"")
    );
}
