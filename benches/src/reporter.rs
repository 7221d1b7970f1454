//! Owns what the agent of one host says: events that open, change and resolve findings, heartbeats that agree with them,
//! all under one epoch. Must not own how it gets to the collector, or when.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_collector::clock::Timestamp;
use driftlock_common::digest::OciDigest;
use driftlock_common::event::{
    Answer, Body, Event, FindingBody, FindingResolved, Heartbeat, Running, SOURCE_PREFIX, TargetBeat, sequence_text,
};
use driftlock_common::finding::{Finding, open_digest};
use serde_json::json;

use crate::fleet::{self, Fleet, TARGET, file};

/// Paths that a host reports of, one after the other, besides those that it has findings of.
const PATHS: u64 = 200;
/// Seconds between two heartbeats.
pub const HEARTBEAT_S: u64 = 30;

/// The agent of a host.
#[derive(Debug)]
pub struct Reporter {
    host: String,
    epoch: String,
    /// The highest that was given; everything up to there was acknowledged, or is on its way.
    sequence: u64,
    beats: u64,
    open: BTreeMap<String, Arc<Finding>>,
    since: Timestamp,
}

impl Reporter {
    /// That of a host of a fleet whose store was filled.
    ///
    /// # Errors
    /// As [`Fleet::finding`].
    pub fn new(fleet: Fleet, number: usize) -> Result<Self> {
        let open = (0..fleet.of_each()).map(|of_host| {
            let finding = fleet.finding(number, of_host)?;
            Ok((finding.path.clone(), Arc::new(finding)))
        });
        Ok(Self {
            host: fleet::host(number),
            epoch: fleet::epoch(number),
            sequence: 1,
            beats: 0,
            open: open.collect::<Result<_>>()?,
            since: Timestamp::now(),
        })
    }

    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A batch of some events: each path opens, changes and is as sealed again.
    ///
    /// # Errors
    /// If it is none.
    pub fn batch(&mut self, events: usize) -> Result<Vec<u8>> {
        let events = (0..events).map(|_| self.event()).collect::<Result<Vec<_>>>()?;
        Ok(serde_json::to_vec(&events)?)
    }

    /// A batch of a heartbeat alone.
    ///
    /// # Errors
    /// If it is none.
    pub fn heartbeat(&mut self) -> Result<Vec<u8>> {
        self.beats += 1;
        let id = format!("{}-h{}", self.epoch, self.beats);
        let target = TargetBeat {
            target: TARGET.to_owned(),
            root: "/".to_owned(),
            manifest: Some(serde_json::from_value(fleet::manifest())?),
            policy: None,
            open_findings: self.open.len() as u64,
            open_digest: OciDigest::blake3(open_digest(self.open.values().map(Arc::as_ref))),
            coverage: serde_json::from_value(fleet::coverage())?,
        };
        let beat = Heartbeat {
            host: self.host.clone(),
            labels: BTreeMap::from([("role".to_owned(), "bench".to_owned())]),
            ephemeral: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interval_s: HEARTBEAT_S,
            sequence: self.sequence,
            agent: Some(Running {
                binary: None,
                config: None,
                started_at: self.since.to_string(),
                starts: 1,
                stopped_before: None,
                boot: Some(self.epoch.clone()),
            }),
            targets: vec![target],
        };
        Ok(serde_json::to_vec(&[self.wrap(id, None, Body::Heartbeat(beat))])?)
    }

    /// That an answer is to what was said so far, all of it taken.
    ///
    /// # Errors
    /// If something is missing, or was not believed.
    pub fn check(&self, answer: &Answer) -> Result<()> {
        let Self { host, sequence, .. } = self;
        ensure!(answer.ack == *sequence, "{host}: {sequence} were sent, {} acknowledged", answer.ack);
        ensure!(answer.rejected.is_empty() && answer.duplicates == 0, "{host}: {answer:?}");
        ensure!(!answer.resync, "{host}: the collector has other open findings");
        Ok(())
    }

    fn event(&mut self) -> Result<Event> {
        let said = self.sequence - 1;
        self.sequence += 1;
        let path = format!("usr/lib/module-{}.so", said / 3 % PATHS);
        let body = match said % 3 {
            0 => Body::FindingOpened(self.differs(&path, "0775")?),
            1 => Body::FindingUpdated(self.differs(&path, "0777")?),
            _ => {
                self.open.remove(&path).context("nothing is open there")?;
                Body::FindingResolved(FindingResolved { target: TARGET.to_owned(), path, path_b64: None })
            }
        };
        let id = format!("{}-{}", self.epoch, sequence_text(self.sequence));
        Ok(self.wrap(id, Some(sequence_text(self.sequence)), body))
    }

    fn differs(&mut self, path: &str, mode: &str) -> Result<FindingBody> {
        // Each host has its own content, as where somebody edited it.
        let content = format!("{:0>64}", self.epoch);
        let finding = json!({"path": path, "change": "changed", "attributes": ["content", "mode"], "layer": 3,
            "expected": file("0755", &content), "observed": file(mode, &content)});
        let finding: Finding = serde_json::from_value(finding)?;
        self.open.insert(path.to_owned(), Arc::new(finding.clone()));
        let opened_at = self.since.to_string();
        Ok(FindingBody { target: TARGET.to_owned(), finding, opened_at, count: self.sequence, flapping: None })
    }

    fn wrap(&self, id: String, sequence: Option<String>, body: Body) -> Event {
        Event {
            specversion: "1.0".to_owned(),
            id,
            source: format!("{SOURCE_PREFIX}{}", self.epoch),
            time: Timestamp::now().to_string(),
            epoch: self.epoch.clone(),
            sequence,
            datacontenttype: "application/json".to_owned(),
            body,
        }
    }
}
