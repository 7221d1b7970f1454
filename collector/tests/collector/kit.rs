//! A fake agent that makes events, and a collector without a socket. No assertions of product rules.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body as HttpBody, to_bytes};
use axum::http::{Request, StatusCode};
use driftlock_collector::app::{AppState, app};
use driftlock_collector::auth::{AllowedHosts, HostTokens};
use driftlock_collector::clock::Timestamp;
use driftlock_collector::gate::GateLimits;
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use driftlock_collector::store::{Applied, Delivery, FindingQuery, FindingRecord, Lifetime, Store};
use driftlock_common::condition::ConditionReason;
use driftlock_common::coverage::Coverage;
use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::drift::{Attribute, Change};
use driftlock_common::event::{
    Answer, BATCH_MEDIA_TYPE, Body, ConditionBody, Event, FindingBody, FindingResolved, Heartbeat, Snapshot, Stopped,
    TargetBeat, sequence_text,
};
use driftlock_common::finding::{Finding, ManifestView, NodeView, open_digest, path_fields};
use driftlock_common::policy::{Ruling, Severity};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

pub(crate) const TOKEN: &str = "token-of-web-1-0123456789";
pub(crate) const OTHER_TOKEN: &str = "token-of-web-2-0123456789";
pub(crate) const TARGET: &str = "app";
pub(crate) const TIME: &str = "2026-01-02T03:04:05.000Z";

/// Makes the events of one epoch, sequences counting up.
pub(crate) struct FakeAgent {
    pub(crate) epoch: String,
    pub(crate) sequence: u64,
}

impl FakeAgent {
    pub(crate) fn new(epoch: u8) -> Self {
        Self { epoch: format!("{epoch:032x}"), sequence: 0 }
    }

    pub(crate) fn event(&mut self, body: Body) -> Event {
        self.sequence += 1;
        self.event_at(self.sequence, body)
    }

    pub(crate) fn event_at(&self, sequence: u64, body: Body) -> Event {
        Event {
            specversion: "1.0".into(),
            id: format!("{}-{}", self.epoch, sequence_text(sequence)),
            source: "urn:driftlock:host:claimed".into(),
            time: TIME.into(),
            epoch: self.epoch.clone(),
            sequence: Some(sequence_text(sequence)),
            datacontenttype: "application/json".into(),
            body,
        }
    }

    pub(crate) fn opened(&mut self, path: impl AsRef<[u8]>) -> Event {
        self.event(Body::FindingOpened(finding(path.as_ref(), 1)))
    }

    pub(crate) fn resolved(&mut self, path: impl AsRef<[u8]>) -> Event {
        let (path, path_b64) = path_fields(path.as_ref());
        self.event(Body::FindingResolved(FindingResolved { target: TARGET.into(), path, path_b64 }))
    }

    pub(crate) fn snapshot(&mut self, part: u32, last: bool, paths: &[&str]) -> Event {
        let findings = paths.iter().map(|path| finding(path.as_bytes(), 1)).collect();
        self.event(Body::TargetSnapshot(Snapshot {
            target: TARGET.into(),
            manifest: Some(manifest()),
            part,
            last,
            findings,
            conditions: Vec::new(),
        }))
    }

    pub(crate) fn condition(&mut self, open: bool, target: Option<&str>, reason: ConditionReason) -> Event {
        let body = ConditionBody { target: target.map(Into::into), reason, path: None, detail: "it is so".into() };
        self.event(if open { Body::ConditionOpened(body) } else { Body::ConditionResolved(body) })
    }

    pub(crate) fn stopped(&mut self, ephemeral: bool) -> Event {
        let event = self.event(Body::Stopped(Stopped { reason: "SIGTERM".into(), ephemeral }));
        Event { time: Timestamp::now().to_string(), ..event }
    }

    /// A heartbeat that claims these open findings, everything given so far being delivered.
    pub(crate) fn heartbeat(&self, open: &[&str]) -> Event {
        let open: Vec<Finding> = open.iter().map(|path| finding(path.as_bytes(), 1).finding).collect();
        self.heartbeat_of(vec![Self::beat(&open)])
    }

    /// What a heartbeat says of the target that has these open findings.
    pub(crate) fn beat(open: &[Finding]) -> TargetBeat {
        TargetBeat {
            target: TARGET.into(),
            root: "/srv/app".into(),
            manifest: Some(manifest()),
            policy: None,
            open_findings: open.len() as u64,
            open_digest: OciDigest::blake3(open_digest(open)),
            coverage: Coverage { watch_mode: "inotify".into(), last_sweep: Some(TIME.into()), ..Coverage::default() },
        }
    }

    pub(crate) fn heartbeat_of(&self, targets: Vec<TargetBeat>) -> Event {
        let body = Body::Heartbeat(Heartbeat {
            host: "web-1.example".into(),
            labels: [("role".to_owned(), "web".to_owned())].into(),
            ephemeral: false,
            version: "0.1.0".into(),
            interval_s: 30,
            sequence: self.sequence,
            agent: None,
            targets,
        });
        let mut event = self.event_at(1, body);
        event.id = format!("{}-h1", self.epoch);
        // Not spooled, so it is as old as its way was long.
        event.time = Timestamp::now().to_string();
        event.sequence = None;
        event
    }
}

pub(crate) fn manifest() -> ManifestView {
    ManifestView {
        tree: OciDigest::blake3(Digest::blake3(b"tree")),
        sha256: Digest::sha256(b"manifest"),
        trust: "unsigned".into(),
        key: None,
        origin: "image".into(),
        parts: Vec::new(),
    }
}

/// One of several manifests, as JSON.
pub(crate) fn part_named(name: &str) -> serde_json::Value {
    let ManifestView { tree, sha256, trust, origin, .. } = manifest();
    serde_json::json!({
        "name": name, "tree": tree, "sha256": sha256, "trust": trust, "origin": origin, "profile": "portable",
    })
}

pub(crate) fn finding(path: &[u8], count: u64) -> FindingBody {
    let (path, path_b64) = path_fields(path);
    let side = |mode: &str| NodeView {
        file_type: "file".into(),
        size: Some(5),
        mode: Some(mode.into()),
        uid: Some(0),
        gid: Some(0),
        ..NodeView::default()
    };
    let finding = Finding {
        path,
        path_b64,
        change: Change::Changed,
        attributes: [Attribute::Mode].into_iter().collect(),
        expected: Some(side("0755")),
        observed: Some(side("4755")),
        manifest: Some("/etc/base.manifest".into()),
        layer: Some(1),
        meta_layer: Some(2),
        step: Some("RUN make install".into()),
        unverified: [].into_iter().collect(),
        reason: None,
        covers: None,
        collapsed: None,
        verdict: None,
        severity: None,
        rule: None,
        explanation: None,
    };
    FindingBody { target: TARGET.into(), finding, opened_at: TIME.into(), count, flapping: None }
}

/// A finding of which a policy says this: an alert of a severity, or that a rule tolerates it.
pub(crate) fn judged(path: &str, severity: Option<Severity>, rule: &str) -> FindingBody {
    let mut body = finding(path.as_bytes(), 1);
    body.finding.observed.as_mut().unwrap().mode = Some("0700".into());
    body.finding.verdict = Some(severity.map_or(Ruling::Tolerated, |_| Ruling::Alert));
    body.finding.severity = severity;
    body.finding.rule = Some(rule.to_owned());
    body.finding.explanation = Some(format!("because of {rule}"));
    body
}

/// The tokens of `web-1`, and of another host.
fn tokens() -> HostTokens {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("web-1 {TOKEN}\nweb-2 {OTHER_TOKEN}\n")).unwrap();
    HostTokens::load(file.path()).unwrap()
}

/// A collector behind its router, with the hosts `web-1` and `web-2`.
pub(crate) struct Collector {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) state: Arc<AppState>,
    pub(crate) app: Router,
    pub(crate) directory: Option<TempDir>,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap(), Limits::default())
    }

    pub(crate) fn open(directory: TempDir, limits: Limits) -> Self {
        Self::with_gate(directory, limits, GateLimits::default())
    }

    pub(crate) fn with_gate(directory: TempDir, limits: Limits, gate: GateLimits) -> Self {
        let store = Arc::new(SqliteStore::open(directory.path(), limits).unwrap());
        let state = AppState::new(
            Arc::<SqliteStore>::clone(&store),
            tokens(),
            None,
            AllowedHosts::new("127.0.0.1".parse().unwrap(), &[]),
            CancellationToken::new(),
            gate,
        );
        Self { store, app: app(Arc::clone(&state)), state, directory: Some(directory) }
    }

    /// Closes it and opens its store again.
    pub(crate) fn restarted(mut self) -> Self {
        let directory = self.directory.take().unwrap();
        drop(self);
        Self::open(directory, Limits::default())
    }

    pub(crate) async fn send(&self, request: Request<HttpBody>) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap().to_vec())
    }

    pub(crate) async fn get(&self, uri: &str) -> (StatusCode, String) {
        let request = Request::get(uri).header("host", "localhost").body(HttpBody::empty()).unwrap();
        let (status, _, body) = self.send(request).await;
        (status, String::from_utf8(body).unwrap())
    }

    pub(crate) async fn json(&self, uri: &str) -> serde_json::Value {
        let (status, body) = self.get(uri).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Posts a body with the host's token.
    pub(crate) async fn post_bytes(&self, bytes: impl Into<HttpBody>) -> (StatusCode, serde_json::Value) {
        let request = post_request().body(bytes.into()).unwrap();
        let (status, _, body) = self.send(request).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Posts a body with the other host's token.
    pub(crate) async fn post_as_other(&self, events: &[Event]) -> Answer {
        let mut request = post_request().body(serde_json::to_vec(events).unwrap().into()).unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {OTHER_TOKEN}").parse().unwrap());
        let (status, _, body) = self.send(request).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).unwrap()
    }

    /// Posts events that must be taken.
    pub(crate) async fn post(&self, events: &[Event]) -> Answer {
        let (status, answer) = self.post_bytes(serde_json::to_vec(events).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        serde_json::from_value(answer).unwrap()
    }

    /// Applies events past HTTP, at a time.
    pub(crate) async fn apply_at(&self, events: &[Event], received_at: Timestamp) -> Applied {
        let batch = driftlock_collector::batch::decode(&serde_json::to_vec(events).unwrap()).unwrap();
        self.store.apply(Delivery { host: "web-1".into(), received_at, from: None, batch }).await.unwrap()
    }

    pub(crate) async fn findings(&self, state: Lifetime) -> Vec<FindingRecord> {
        let query = FindingQuery { state: Some(state), limit: 100_000, ..FindingQuery::default() };
        self.store.findings(query).await.unwrap().items
    }

    /// Paths of the open findings, sorted.
    pub(crate) async fn open_paths(&self) -> Vec<String> {
        let mut paths: Vec<String> =
            self.findings(Lifetime::Open).await.into_iter().map(|record| record.finding.path).collect();
        paths.sort();
        paths
    }

    /// Words of the open conditions, sorted.
    pub(crate) async fn open_conditions(&self) -> Vec<String> {
        let list = self.json("/v1/conditions?state=open&limit=1000").await;
        let mut reasons: Vec<String> = list["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|condition| condition["reason"].as_str().unwrap().to_owned())
            .collect();
        reasons.sort();
        reasons
    }
}

/// A post of a batch with the host's token.
pub(crate) fn post_request() -> axum::http::request::Builder {
    Request::post("/v1/events")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", BATCH_MEDIA_TYPE)
}
