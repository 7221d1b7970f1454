//! Owns what a simulated host knows: what is open there, what it has to report, what was acknowledged, and what its state is.
//! It is the test's own word, against which the collector's is held. Must not own connections, or any of the product's code
//! but the shape of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use blake3::Hash;
use driftlock_common::condition::ConditionReason;
use driftlock_common::coverage::Coverage;
use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::drift::{Attribute, Change};
use driftlock_common::event::{
    Answer, Body, ConditionBody, Event, FindingBody, FindingResolved, Heartbeat, Running, Snapshot, Stopped,
    TargetBeat, sequence_text,
};
use driftlock_common::finding::{Finding, ManifestView, NodeView, open_digest, path_fields};
use driftlock_common::gap::Reason;
use driftlock_common::policy::{Ruling, Severity};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::random::Random;

/// The target that every host has.
pub const TARGET: &str = "app";
/// Findings in a part of a snapshot: few, so that most have several.
const PART: usize = 3;
/// Clocks that differ by more seconds are told by the collector.
const SKEW_S: i64 = 300;

/// A difference that a host has, as far as its state depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An alert.
    Drift,
    /// What could not be established.
    Unverifiable,
    /// What a policy tolerates.
    Tolerated,
}

/// What is seen to differ, by path: the kind of difference, and the size on disk.
pub type Differences = BTreeMap<Vec<u8>, (String, Option<u64>)>;

/// An event that waits to be delivered.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its place in the epoch.
    pub sequence: u64,
    /// As it is sent.
    pub json: String,
}

/// Events that go together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// A JSON array.
    pub json: Vec<u8>,
    /// The sequences in it; nothing but heartbeats if absent.
    pub sequences: Option<(u64, u64)>,
    /// How many events, heartbeats too.
    pub events: u64,
}

/// Who says something: a state directory and a process that runs on it.
#[derive(Clone, Debug)]
pub struct Life {
    /// 32 hexadecimal digits.
    pub epoch: String,
    /// The last sequence that was given.
    pub last: u64,
    /// Everything up to here was acknowledged.
    pub acknowledged: u64,
    /// BLAKE3 of each event that was given, by sequence: what is acknowledged has to be there, as it was said.
    pub given: Vec<Hash>,
}

/// What a host knows.
#[derive(Clone, Debug)]
pub struct Model {
    /// The name in its certificate.
    pub host: String,
    /// What its agent calls it.
    pub name: String,
    /// What it says now.
    pub life: Life,
    /// Lives before: their state directories are lost, and what they had not delivered.
    pub earlier: Vec<Life>,
    /// What waits, in order.
    pub waiting: VecDeque<Waiting>,
    /// What is open.
    pub open: BTreeMap<Vec<u8>, (Kind, FindingBody)>,
    /// What is wrong with the watching.
    pub conditions: BTreeSet<ConditionReason>,
    /// Seconds that its clock is ahead.
    pub skew_s: i64,
    /// Seconds between heartbeats, as it says.
    pub interval_s: u64,
    /// Whether a clean stop retires it.
    pub ephemeral: bool,
    /// Whether its agent was stopped.
    pub stopped: bool,
    /// Whether it was not heard for longer than it may be.
    pub gone: bool,
    /// How often its agent was started.
    starts: u64,
    started_at: String,
    beats: u64,
}

/// Conditions that a host may have, and whether nothing is vouched for then.
pub const CONDITIONS: [(ConditionReason, bool); 4] = [
    (ConditionReason::CoverageStale, true),
    (ConditionReason::Overflow, true),
    (ConditionReason::WatchDegraded, false),
    (ConditionReason::SinkFailed, false),
];

impl Life {
    fn new(random: &mut Random) -> Self {
        let epoch = format!("{:016x}{:016x}", random.next(), random.next());
        Self { epoch, last: 0, acknowledged: 0, given: Vec::new() }
    }
}

impl Model {
    /// A host that says nothing yet. Its first event will be a snapshot.
    pub fn new(host: &str, random: &mut Random) -> Self {
        let mut model = Self {
            host: host.to_owned(),
            name: format!("{host}.example"),
            life: Life::new(random),
            earlier: Vec::new(),
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
            conditions: BTreeSet::new(),
            skew_s: 0,
            interval_s: 30,
            ephemeral: false,
            stopped: false,
            gone: false,
            starts: 0,
            started_at: String::new(),
            beats: 0,
        };
        model.start();
        model
    }

    // === what happens on the host ===

    /// Its agent is started, again or for the first time.
    pub fn start(&mut self) {
        self.stopped = false;
        self.starts += 1;
        self.started_at = self.now();
        self.snapshot();
    }

    /// Its agent stops as asked. Nothing is said from then on but what waits.
    pub fn stop(&mut self) {
        self.stopped = true;
        let ephemeral = self.ephemeral;
        self.say(Body::Stopped(Stopped { reason: "SIGTERM".to_owned(), ephemeral }));
    }

    /// Its state directory is lost: what waits is lost with it, and what it knows it finds anew.
    pub fn lose_state(&mut self, random: &mut Random) {
        self.waiting.clear();
        let life = std::mem::replace(&mut self.life, Life::new(random));
        self.earlier.push(life);
        self.starts = 0;
        self.start();
    }

    /// A path differs, or differs otherwise than before.
    pub fn differs(&mut self, path: &[u8], kind: Kind, size: u64) {
        let now = self.now();
        let (opened_at, count, known) = match self.open.get(path) {
            Some((_, body)) => (body.opened_at.clone(), body.count + 1, true),
            None => (now, 1, false),
        };
        let finding = finding(path, kind, size);
        let body = FindingBody { target: TARGET.to_owned(), finding, opened_at, count, flapping: None };
        self.open.insert(path.to_vec(), (kind, body.clone()));
        self.say(if known { Body::FindingUpdated(body) } else { Body::FindingOpened(body) });
    }

    /// A path is as sealed again.
    pub fn is_as_sealed(&mut self, path: &[u8]) {
        if self.open.remove(path).is_some() {
            let (path, path_b64) = path_fields(path);
            self.say(Body::FindingResolved(FindingResolved { target: TARGET.to_owned(), path, path_b64 }));
        }
    }

    /// Something becomes wrong with the watching, or right again.
    pub fn condition(&mut self, reason: ConditionReason) {
        if self.conditions.insert(reason) {
            self.say(Body::ConditionOpened(condition(reason)));
        } else {
            self.conditions.remove(&reason);
            self.say(Body::ConditionResolved(condition(reason)));
        }
    }

    /// Everything that is open is said, in parts.
    pub fn snapshot(&mut self) {
        let findings: Vec<FindingBody> = self.open.values().map(|(_, body)| body.clone()).collect();
        let conditions: Vec<ConditionBody> = self.conditions.iter().map(|reason| condition(*reason)).collect();
        let parts: Vec<&[FindingBody]> = if findings.is_empty() { vec![&[]] } else { findings.chunks(PART).collect() };
        let last = parts.len() - 1;
        for (number, part) in parts.into_iter().enumerate() {
            self.say(Body::TargetSnapshot(Snapshot {
                target: TARGET.to_owned(),
                manifest: Some(manifest()),
                part: u32::try_from(number).expect("few parts"),
                last: number == last,
                findings: part.to_vec(),
                conditions: if number == 0 { conditions.clone() } else { Vec::new() },
            }));
        }
    }

    /// An event gets its sequence when it is in the spool.
    fn say(&mut self, body: Body) {
        self.life.last += 1;
        let sequence = self.life.last;
        let id = format!("{}-{}", self.life.epoch, sequence_text(sequence));
        let json = self.event(id, Some(sequence_text(sequence)), body);
        self.life.given.push(blake3::hash(json.as_bytes()));
        self.waiting.push_back(Waiting { sequence, json });
    }

    fn event(&self, id: String, sequence: Option<String>, body: Body) -> String {
        let event = Event {
            specversion: "1.0".to_owned(),
            id,
            source: format!("urn:driftlock:host:{}", self.host),
            time: self.now(),
            epoch: self.life.epoch.clone(),
            sequence,
            datacontenttype: "application/json".to_owned(),
            body,
        };
        serde_json::to_string(&event).expect("an event is JSON")
    }

    /// Now, by the host's own clock.
    fn now(&self) -> String {
        let now = OffsetDateTime::now_utc() + Duration::seconds(self.skew_s);
        let now = now.replace_millisecond(now.millisecond()).expect("a millisecond");
        now.format(&Rfc3339).expect("a time of these centuries")
    }

    // === what is said ===

    /// A sign of life.
    pub fn heartbeat(&mut self) -> String {
        self.beats += 1;
        let open: Vec<&Finding> = self.open.values().map(|(_, body)| &body.finding).collect();
        let beat = Heartbeat {
            host: self.name.clone(),
            labels: [("role".to_owned(), "simulated".to_owned())].into(),
            ephemeral: self.ephemeral,
            version: "0.1.0".to_owned(),
            interval_s: self.interval_s,
            sequence: self.life.last,
            agent: Some(Running {
                binary: None,
                config: None,
                started_at: self.started_at.clone(),
                starts: self.starts,
                stopped_before: (self.starts > 1).then_some(true),
                boot: None,
            }),
            targets: vec![TargetBeat {
                target: TARGET.to_owned(),
                root: "/srv/app".to_owned(),
                manifest: Some(manifest()),
                policy: None,
                open_findings: open.len() as u64,
                open_digest: OciDigest::blake3(open_digest(open)),
                coverage: Coverage {
                    watch_mode: "inotify".to_owned(),
                    last_sweep: Some(self.now()),
                    ..Coverage::default()
                },
            }],
        };
        let id = format!("{}-h{}", self.life.epoch, self.beats);
        self.event(id, None, Body::Heartbeat(beat))
    }

    /// The next batch, with at most `most` of what waits, and a heartbeat at its end if it is wanted and the agent runs.
    pub fn batch(&mut self, most: usize, with_heartbeat: bool) -> Batch {
        let beat = (with_heartbeat && !self.stopped).then(|| self.heartbeat());
        let sequenced: Vec<&Waiting> = self.waiting.iter().take(most).collect();
        let sequences = sequenced.first().zip(sequenced.last()).map(|(first, last)| (first.sequence, last.sequence));
        batch(sequenced.iter().map(|waiting| &waiting.json).chain(&beat), sequences)
    }

    /// A batch of a part of what waits, alone.
    pub fn part(&self, from: usize, to: usize) -> Batch {
        let part: Vec<&Waiting> = self.waiting.iter().take(to).skip(from).collect();
        let sequences = part.first().zip(part.last()).map(|(first, last)| (first.sequence, last.sequence));
        batch(part.iter().map(|waiting| &waiting.json), sequences)
    }

    /// Takes an answer to batches that were all answered: up to its `ack` nothing waits any more. A wanted snapshot is said.
    pub fn take(&mut self, answer: &Answer) {
        self.life.acknowledged = self.life.acknowledged.max(answer.ack);
        while self.waiting.front().is_some_and(|waiting| waiting.sequence <= answer.ack) {
            self.waiting.pop_front();
        }
        if answer.resync && !self.stopped {
            self.snapshot();
        }
    }

    // === what must be so ===

    /// The state that the collector has to show once everything is delivered.
    pub fn state(&self) -> &'static str {
        let has = |wanted: Kind| self.open.values().any(|(kind, _)| *kind == wanted);
        let is_blind = CONDITIONS.iter().any(|(reason, blinds)| *blinds && self.conditions.contains(reason));
        match (self.stopped, self.ephemeral) {
            (true, true) => "retired",
            (true, false) => "silent",
            (false, _) if self.gone => "silent",
            (false, _) if has(Kind::Drift) => "drifted",
            (false, _) if is_blind || has(Kind::Unverifiable) => "blind",
            (false, _) => "clean",
        }
    }

    /// The conditions that the collector has to show then: the host's own, and what the collector sees of its clock.
    pub fn conditions(&self) -> BTreeSet<String> {
        let skewed = (self.skew_s.abs() > SKEW_S).then_some(ConditionReason::ClockSkew);
        let all = self.conditions.iter().copied().chain(skewed);
        all.map(|reason| word(&json!(reason))).collect()
    }

    /// The open findings that it has to show.
    pub fn findings(&self) -> Differences {
        let shown = |body: &FindingBody| {
            let size = body.finding.observed.as_ref().and_then(|observed| observed.size);
            (word(&json!(body.finding.change)), size)
        };
        self.open.iter().map(|(path, (_, body))| (path.clone(), shown(body))).collect()
    }
}

fn word(value: &Value) -> String {
    value.as_str().expect("a word").to_owned()
}

/// Events as they are sent.
pub fn batch<'a>(events: impl Iterator<Item = &'a String>, sequences: Option<(u64, u64)>) -> Batch {
    let (mut json, mut number) = (vec![b'['], 0);
    for event in events {
        if number > 0 {
            json.push(b',');
        }
        json.extend_from_slice(event.as_bytes());
        number += 1;
    }
    json.push(b']');
    Batch { json, sequences, events: number }
}

fn condition(reason: ConditionReason) -> ConditionBody {
    ConditionBody { target: None, reason, path: None, detail: "simulated".to_owned() }
}

/// What every host is compared with.
pub fn manifest() -> ManifestView {
    ManifestView {
        tree: OciDigest::blake3(Digest::blake3(b"a simulated tree")),
        sha256: Digest::sha256(b"a simulated manifest"),
        trust: "unsigned".into(),
        key: None,
        origin: "image".into(),
        parts: Vec::new(),
    }
}

/// A difference at a path.
pub fn finding(path: &[u8], kind: Kind, size: u64) -> Finding {
    let (path, path_b64) = path_fields(path);
    let side = |size| NodeView {
        file_type: "file".into(),
        size: Some(size),
        mode: Some("0644".to_owned()),
        uid: Some(0),
        gid: Some(0),
        ..NodeView::default()
    };
    let is_known = kind != Kind::Unverifiable;
    let verdict = (kind == Kind::Tolerated).then_some(Ruling::Tolerated);
    Finding {
        path,
        path_b64,
        change: if is_known { Change::Changed } else { Change::Unverifiable },
        attributes: is_known.then_some(Attribute::Content).into_iter().collect(),
        expected: Some(side(1)),
        observed: is_known.then(|| side(size)),
        manifest: None,
        layer: Some(0),
        meta_layer: None,
        step: None,
        unverified: [].into_iter().collect(),
        reason: (!is_known).then_some(Reason::Denied),
        covers: (!is_known).then_some(1),
        collapsed: None,
        verdict,
        severity: (kind == Kind::Drift).then_some(Severity::High),
        rule: verdict.map(|_| "tolerated".to_owned()),
        explanation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model::new("web-1", &mut Random::new(1))
    }

    fn taken(model: &mut Model, ack: u64) {
        model.take(&Answer { ack, ..Answer::default() });
    }

    #[test]
    fn the_state_is_what_the_documents_say_whatever_the_collector_does() {
        let mut host = model();
        assert_eq!(host.state(), "clean");
        host.differs(b"a", Kind::Tolerated, 1);
        host.condition(ConditionReason::WatchDegraded);
        assert_eq!(host.state(), "clean");
        host.condition(ConditionReason::Overflow);
        assert_eq!(host.state(), "blind");
        host.condition(ConditionReason::Overflow);
        host.differs(b"b", Kind::Unverifiable, 1);
        assert_eq!(host.state(), "blind");
        host.differs(b"a", Kind::Drift, 1);
        assert_eq!(host.state(), "drifted");
        host.stop();
        assert_eq!(host.state(), "silent");
        host.ephemeral = true;
        assert_eq!(host.state(), "retired");
    }

    #[test]
    fn what_was_not_acknowledged_waits_and_a_lost_state_is_remembered() {
        let mut host = model();
        for path in 0..7_u8 {
            host.differs(&[b'a' + path], Kind::Drift, 1);
        }
        assert_eq!((host.waiting.len(), host.life.last, host.life.given.len()), (8, 8, 8));
        let batch = host.batch(3, true);
        assert_eq!((batch.sequences, batch.events), (Some((1, 3)), 4));
        taken(&mut host, 3);
        assert_eq!(host.part(1, 3).sequences, Some((5, 6)));
        // An answer that comes late takes nothing back.
        taken(&mut host, 2);
        assert_eq!((host.waiting.len(), host.life.acknowledged), (5, 3));
        // Seven findings, three in a part.
        host.take(&Answer { ack: 8, resync: true, ..Answer::default() });
        assert_eq!(host.waiting.len(), 3);
        let epoch = host.life.epoch.clone();
        host.lose_state(&mut Random::new(2));
        assert_ne!(host.life.epoch, epoch);
        assert_eq!((host.earlier[0].acknowledged, host.earlier[0].last, host.life.last), (8, 11, 3));
    }
}
