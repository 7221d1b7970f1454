//! Owns what events add up to: what is open. Must not own where events are kept.

use std::collections::BTreeMap;

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{Body, ConditionBody, Event, FindingBody};
use serde::{Deserialize, Serialize};

use super::frame::Record;

/// What is open after the event of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    sequence: u64,
    /// By target and path, the exact path first if it has two spellings.
    findings: BTreeMap<(String, String), FindingBody>,
    conditions: BTreeMap<(Option<String>, ConditionReason), ConditionBody>,
}

/// The state as a file holds it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StateFile {
    sequence: u64,
    findings: Vec<FindingBody>,
    conditions: Vec<ConditionBody>,
}

fn key(target: &str, path: &str, path_b64: Option<&String>) -> (String, String) {
    // A path in base64 is no path as it stands, so the two cannot be confused: it gets a NUL, which no path has.
    let path = path_b64.map_or_else(|| path.to_owned(), |base64| format!("\0{base64}"));
    (target.to_owned(), path)
}

impl State {
    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Adds a record; what is already in the state is passed over.
    pub(super) fn fold(&mut self, record: &Record) {
        let Record::Event(event) = record else { return };
        if event.sequence <= self.sequence {
            return;
        }
        self.sequence = event.sequence;
        // The checksum was right, so this is what was written; another version's events are not ours to understand.
        let Ok(event) = serde_json::from_slice::<Event>(&event.json) else { return };
        match event.body {
            Body::FindingOpened(body) | Body::FindingUpdated(body) => self.insert(body),
            Body::FindingResolved(body) => {
                self.findings.remove(&key(&body.target, &body.path, body.path_b64.as_ref()));
            }
            Body::ConditionOpened(body) => {
                self.conditions.insert((body.target.clone(), body.reason), body);
            }
            Body::ConditionResolved(body) => {
                self.conditions.remove(&(body.target, body.reason));
            }
            Body::TargetSnapshot(snapshot) => {
                if snapshot.part == 0 {
                    self.findings.retain(|(target, _), _| *target != snapshot.target);
                    self.conditions.retain(|(target, _), _| target.as_ref().is_some_and(|t| *t != snapshot.target));
                    for body in snapshot.conditions {
                        self.conditions.insert((body.target.clone(), body.reason), body);
                    }
                }
                snapshot.findings.into_iter().for_each(|body| self.insert(body));
            }
            Body::TargetVerified(_) | Body::Heartbeat(_) | Body::Stopped(_) => {}
        }
    }

    fn insert(&mut self, body: FindingBody) {
        self.findings.insert(key(&body.target, &body.finding.path, body.finding.path_b64.as_ref()), body);
    }

    pub(super) fn into_open(self) -> (Vec<FindingBody>, Vec<ConditionBody>) {
        (self.findings.into_values().collect(), self.conditions.into_values().collect())
    }
}

impl From<State> for StateFile {
    fn from(state: State) -> Self {
        let sequence = state.sequence;
        let (findings, conditions) = state.into_open();
        Self { sequence, findings, conditions }
    }
}

impl From<StateFile> for State {
    fn from(file: StateFile) -> Self {
        let mut state = Self { sequence: file.sequence, ..Self::default() };
        file.findings.into_iter().for_each(|body| state.insert(body));
        for body in file.conditions {
            state.conditions.insert((body.target.clone(), body.reason), body);
        }
        state
    }
}
