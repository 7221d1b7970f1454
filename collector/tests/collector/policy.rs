//! What a policy says, at the collector: only alerts make a host drifted, what is tolerated is counted beside them, and
//! nobody tolerates what is not known.

use driftlock_common::drift::{Attribute, Change};
use driftlock_common::event::{Body, Event, FindingBody};
use driftlock_common::finding::{PolicyView, Unjudged};
use driftlock_common::gap::Reason;
use driftlock_common::policy::Severity;
use driftlock_common::policy::Severity::{Critical, High, Info, Low, Medium};
use serde_json::{Value, json};

use crate::kit::{Collector, FakeAgent, finding, judged, manifest};

/// A collector to which an agent with these open findings reported everything.
async fn with(bodies: &[FindingBody]) -> (Collector, FakeAgent) {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let mut events = vec![agent.snapshot(0, true, &[])];
    events.extend(bodies.iter().map(|body| agent.event(Body::FindingOpened(body.clone()))));
    collector.post(&events).await;
    let open: Vec<_> = bodies.iter().map(|body| body.finding.clone()).collect();
    let answer = collector.post(&[agent.heartbeat_of(vec![FakeAgent::beat(&open)])]).await;
    assert!(!answer.resync, "both sides speak of the same findings");
    (collector, agent)
}

async fn host(collector: &Collector) -> Value {
    collector.json("/v1/hosts").await["hosts"][0].take()
}

#[tokio::test]
async fn only_alerts_make_a_host_drifted() {
    let (collector, mut agent) = with(&[judged("var/log/app.log", None, "logs")]).await;
    let tolerating = host(&collector).await;
    assert_eq!((&tolerating["state"], &tolerating["reasons"]), (&json!("clean"), &json!([])));
    assert_eq!((&tolerating["open_findings"], &tolerating["tolerated"]), (&json!(1), &json!(1)));
    assert_eq!(tolerating["alerts"], json!({"critical": 0, "high": 0, "medium": 0, "low": 0, "info": 0}));

    let event = agent.event(Body::FindingOpened(judged("etc/motd", Some(Info), "motd")));
    collector.post(&[event]).await;
    let drifted = host(&collector).await;
    assert_eq!((&drifted["state"], &drifted["reasons"]), (&json!("drifted"), &json!(["1 alert"])));
    assert_eq!((&drifted["alerts"]["info"], &drifted["tolerated"]), (&json!(1), &json!(1)));
    assert_eq!(drifted["targets"][0]["alerts"], drifted["alerts"]);
    assert_eq!(drifted["targets"][0]["tolerated"], 1);

    let resolved = agent.resolved("etc/motd");
    collector.post(&[resolved]).await;
    assert_eq!(host(&collector).await["state"], "clean");
}

#[tokio::test]
async fn another_verdict_is_the_same_finding() {
    let (collector, mut agent) = with(&[judged("a", Some(Critical), "strict")]).await;
    for (severity, state) in [(None, "clean"), (Some(Low), "drifted"), (Some(High), "drifted"), (None, "clean")] {
        let body = judged("a", severity, "other");
        let event = agent.event(Body::FindingUpdated(body));
        collector.post(&[event]).await;
        let host = host(&collector).await;
        assert_eq!(host["state"], state, "{severity:?}");
        assert_eq!(host["tolerated"], u64::from(severity.is_none()));
        for (known, number) in host["alerts"].as_object().unwrap() {
            assert_eq!(*number, u64::from(severity.map(Severity::name) == Some(known)), "{known}, {severity:?}");
        }
        let list = collector.json("/v1/findings?rule=other").await;
        assert_eq!(list["findings"].as_array().unwrap().len(), 1);
        assert_eq!(collector.json("/v1/findings?rule=strict").await["findings"], json!([]));
    }
}

/// Everything that an agent may call tolerated although nobody can.
fn impossible() -> Vec<FindingBody> {
    let with = |path: &str, change: fn(&mut FindingBody)| {
        let mut body = judged(path, None, "anything");
        change(&mut body);
        body
    };
    vec![
        with("unreadable", |body| {
            body.finding.change = Change::Unverifiable;
            body.finding.attributes = [].into_iter().collect();
            body.finding.observed = None;
            body.finding.reason = Some(Reason::Denied);
            body.finding.covers = Some(7);
        }),
        with("partly", |body| {
            body.finding.unverified = [Attribute::Content].into_iter().collect();
            body.finding.reason = Some(Reason::Io);
        }),
        with("collapsed", |body| {
            body.finding.change = Change::Added;
            body.finding.attributes = [].into_iter().collect();
            body.finding.expected = None;
            body.finding.collapsed = Some(20_000);
        }),
        with("nameless", |body| body.finding.rule = None),
    ]
}

#[tokio::test]
async fn what_nobody_can_tolerate_is_an_alert_whatever_an_agent_says() {
    let bodies = impossible();
    let (collector, mut agent) = with(&bodies).await;
    let host_then = host(&collector).await;
    assert_eq!((&host_then["state"], &host_then["tolerated"]), (&json!("drifted"), &json!(0)));
    assert_eq!(host_then["alerts"]["medium"], 4);
    for finding in collector.json("/v1/findings").await["findings"].as_array().unwrap() {
        assert_eq!((&finding["verdict"], &finding["severity"]), (&json!("alert"), &json!("medium")), "{finding}");
        let why = finding["explanation"].as_str().unwrap();
        assert!(why.starts_with("reported as tolerated, which it cannot be: "), "{why}");
    }
    assert_eq!(collector.json("/v1/findings?verdict=tolerated").await["findings"], json!([]));

    // The same in a snapshot.
    let mut events: Vec<Event> = vec![agent.snapshot(0, true, &[])];
    if let Body::TargetSnapshot(part) = &mut events[0].body {
        part.findings = bodies;
    }
    collector.post(&events).await;
    let list = collector.json("/v1/findings?state=open&verdict=alert").await;
    assert_eq!(list["findings"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_gap_alone_never_leaves_a_host_clean() {
    let (collector, _) = with(&impossible()[..1]).await;
    let host = host(&collector).await;
    assert_eq!((&host["state"], &host["reasons"]), (&json!("blind"), &json!(["1 path that could not be verified"])));
}

#[tokio::test]
async fn what_an_agent_says_at_length_is_refused() {
    let collector = Collector::new();
    for change in
        [(|body: &mut FindingBody| body.finding.rule = Some("r".repeat(129))) as fn(&mut FindingBody), |body| {
            body.finding.explanation = Some("e".repeat(16 * 1024 + 1))
        }]
    {
        let mut agent = FakeAgent::new(1);
        let mut body = judged("a", None, "logs");
        change(&mut body);
        let event = agent.event(Body::FindingOpened(body));
        let answer = collector.post(&[event]).await;
        assert!(answer.rejected[0].reason.contains(" is longer than "), "{answer:?}");
    }
    let mut beat = FakeAgent::beat(&[]);
    beat.policy = Some(PolicyView { name: "n".repeat(129), digest: manifest().tree });
    let answer = collector.post(&[FakeAgent::new(1).heartbeat_of(vec![beat])]).await;
    assert_eq!(answer.rejected[0].reason, "the name of a policy is longer than 128 bytes");
}

#[tokio::test]
async fn the_policy_and_what_it_leaves_unjudged_are_shown() {
    let (collector, agent) = with(&[]).await;
    let digest = manifest().tree;
    let mut beat = FakeAgent::beat(&[]);
    beat.policy = Some(PolicyView { name: "debian-host".into(), digest });
    beat.coverage.unjudged = Unjudged { entries: 1234, bytes: 5_678_901 };
    collector.post(&[agent.heartbeat_of(vec![beat])]).await;
    let target = host(&collector).await["targets"][0].take();
    assert_eq!(target["policy"], json!({"name": "debian-host", "digest": digest}));
    assert_eq!(target["coverage"]["unjudged"], json!({"entries": 1234, "bytes": 5_678_901}));
    let (_, page) = collector.get("/host?name=web-1").await;
    assert!(page.contains(&format!("policy debian-host <code class=\"quiet\" title=\"{digest}\">")), "{page}");
    assert!(page.contains("1\u{202f}234 entries (5\u{202f}678\u{202f}901 B) not judged"), "{page}");

    // A target that has none any more says so.
    collector.post(&[agent.heartbeat_of(vec![FakeAgent::beat(&[])])]).await;
    assert_eq!(host(&collector).await["targets"][0].get("policy"), None);
    let (_, page) = collector.get("/host?name=web-1").await;
    assert!(!page.contains("policy ") && !page.contains("not judged"), "{page}");
}

#[tokio::test]
async fn filters() {
    let mut added = judged("etc/new", Some(High), "etc");
    added.finding.change = Change::Added;
    let (collector, mut agent) = with(&[
        finding(b"unruled", 1),
        judged("etc/a", Some(Info), "etc"),
        judged("etc/b", Some(Critical), "etc"),
        judged("etc/ssl/c", Some(High), "keys"),
        judged("etc/ssl/d", None, "keys"),
        judged("var/log/e", None, "logs"),
        added,
    ])
    .await;
    let resolved = agent.resolved("etc/b");
    collector.post(&[resolved]).await;
    for (query, expected) in [
        ("", "etc/new var/log/e etc/ssl/d etc/ssl/c etc/b etc/a unruled"),
        ("sort=newest", "etc/new var/log/e etc/ssl/d etc/ssl/c etc/b etc/a unruled"),
        ("sort=severity", "etc/b etc/new etc/ssl/c unruled etc/a var/log/e etc/ssl/d"),
        ("sort=severity&state=open", "etc/new etc/ssl/c unruled etc/a var/log/e etc/ssl/d"),
        ("verdict=alert&state=open", "etc/new etc/ssl/c etc/a unruled"),
        ("verdict=tolerated", "var/log/e etc/ssl/d"),
        ("verdict=tolerated&severity=info..", ""),
        ("severity=high", "etc/new etc/ssl/c"),
        ("severity=high..", "etc/new etc/ssl/c etc/b"),
        ("severity=medium", "unruled"),
        ("severity=low", ""),
        ("severity=info..", "etc/new etc/ssl/c etc/b etc/a unruled"),
        ("severity=critical..", "etc/b"),
        (
            "severity=&verdict=&rule=&change=&directory=&sort=",
            "etc/new var/log/e etc/ssl/d etc/ssl/c etc/b etc/a unruled",
        ),
        ("rule=keys", "etc/ssl/d etc/ssl/c"),
        ("rule=key", ""),
        ("rule=-", "unruled"),
        ("change=added", "etc/new"),
        ("change=removed", ""),
        ("directory=etc", "etc/new etc/b etc/a"),
        ("directory=etc/ssl&verdict=tolerated", "etc/ssl/d"),
        ("directory=.", "unruled"),
        ("directory_b64=dmFyL2xvZw==", "var/log/e"),
        ("directory=var", ""),
        ("below=etc", "etc/new etc/ssl/d etc/ssl/c etc/b etc/a"),
        ("below=etc/ssl", "etc/ssl/d etc/ssl/c"),
        ("below=et", ""),
        ("below=etc/a", ""),
        ("below=.", "etc/new var/log/e etc/ssl/d etc/ssl/c etc/b etc/a unruled"),
        ("below_b64=dmFy", "var/log/e"),
    ] {
        let list = collector.json(&format!("/v1/findings?{query}")).await;
        let paths: Vec<_> = list["findings"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
        assert_eq!(paths.join(" "), expected, "{query}");
    }
    let found = collector.json("/v1/findings?path=etc/ssl/d").await["findings"][0].take();
    for (key, value) in [("verdict", "tolerated"), ("rule", "keys"), ("explanation", "because of keys")] {
        assert_eq!(found[key], value);
    }
    assert_eq!(found.get("severity"), None);
    let found = collector.json("/v1/findings?path=unruled").await["findings"][0].take();
    for key in ["verdict", "severity", "rule", "explanation"] {
        assert_eq!(found.get(key), None, "what nobody judged is shown as nobody judged it");
    }
}

#[tokio::test]
async fn metrics_tell_alerts_and_what_is_tolerated_apart() {
    let (collector, _) = with(&[
        judged("a", Some(Critical), "a"),
        judged("b", Some(Medium), "a"),
        finding(b"c", 1),
        judged("d", None, "a"),
        judged("e", None, "a"),
    ])
    .await;
    let (_, text) = collector.get("/metrics").await;
    for (labels, number) in [
        ("verdict=\"alert\",severity=\"critical\"", 1),
        ("verdict=\"alert\",severity=\"high\"", 0),
        ("verdict=\"alert\",severity=\"medium\"", 2),
        ("verdict=\"tolerated\"", 2),
    ] {
        let line = format!("driftlock_collector_open_findings{{change=\"changed\",{labels}}} {number}");
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_path_that_flaps_says_how_often_it_changed_unsaid() {
    let (collector, mut agent) = with(&[judged("etc/motd", Some(Low), "motd")]).await;
    for flapping in [Some(0), Some(7), None] {
        let body = FindingBody { flapping, ..judged("etc/motd", Some(Low), "motd") };
        let event = agent.event(Body::FindingUpdated(body));
        collector.post(&[event]).await;
        let finding = collector.json("/v1/findings").await["findings"][0].take();
        assert_eq!(finding.get("flapping").and_then(Value::as_u64), flapping);
        let (_, page) = collector.get("/findings").await;
        let said =
            page.split("It flaps").nth(1).map(|said| said.contains(&format!("{} changes", flapping.unwrap_or(9))));
        assert_eq!(said, flapping.map(|_| true), "{page}");
    }
}
