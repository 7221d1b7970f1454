//! Random streams of events, delivered with repetitions, reorderings, losses and restarts, against a store that fits
//! on one page. At the end a snapshot is sent, after which both must agree with what the agent had open.

use std::collections::{BTreeMap, BTreeSet};

use driftlock_common::event::{Body, Event};
use proptest::prelude::*;

use crate::kit::{Collector, FakeAgent};

/// What is done next. Small numbers name paths and places in what was made so far.
#[derive(Clone, Debug)]
enum Step {
    Open(u8),
    Resolve(u8),
    /// Events are made and delivered up to here.
    Deliver,
    /// Some of what was delivered comes again, shuffled.
    Repeat(u8, u8),
    /// The next events never come.
    Lose(u8),
    /// The collector is closed and opened.
    Restart,
    /// A snapshot in parts of at most this many findings.
    Snapshot(u8),
    /// The agent's state is made anew.
    NewEpoch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8).prop_map(Step::Open),
        4 => (0..6_u8).prop_map(Step::Resolve),
        4 => Just(Step::Deliver),
        2 => (0..20_u8, 1..6_u8).prop_map(|(from, count)| Step::Repeat(from, count)),
        1 => (1..3_u8).prop_map(Step::Lose),
        1 => Just(Step::Restart),
        2 => (1..3_u8).prop_map(Step::Snapshot),
        1 => Just(Step::NewEpoch),
    ]
}

/// The naive store: one epoch's acknowledged sequence, and the open paths.
#[derive(Default)]
struct Model {
    ack: u64,
    open: BTreeSet<String>,
    /// Paths of a snapshot under way, and its next part.
    snapshot: Option<(u32, BTreeSet<String>)>,
    resync: bool,
}

impl Model {
    fn take(&mut self, events: &[Event]) {
        let mut sorted: BTreeMap<u64, &Event> = BTreeMap::new();
        for event in events {
            sorted.entry(event.sequence_number().unwrap().unwrap()).or_insert(event);
        }
        for (sequence, event) in sorted {
            if sequence <= self.ack {
                continue;
            }
            if sequence > self.ack + 1 {
                self.resync = true;
                self.snapshot = None;
            }
            self.ack = sequence;
            match &event.body {
                Body::FindingOpened(body) => {
                    self.open.insert(body.finding.path.clone());
                    if let Some((_, paths)) = &mut self.snapshot {
                        paths.insert(body.finding.path.clone());
                    }
                }
                Body::FindingResolved(body) => {
                    self.open.remove(&body.path);
                }
                Body::TargetSnapshot(part) => {
                    let listed: Vec<_> = part.findings.iter().map(|f| f.finding.path.clone()).collect();
                    self.open.extend(listed.iter().cloned());
                    if part.part == 0 {
                        self.snapshot = Some((0, BTreeSet::new()));
                    }
                    match self.snapshot.take() {
                        Some((next, mut paths)) if next == part.part => {
                            paths.extend(listed);
                            if part.last {
                                self.open.retain(|path| paths.contains(path));
                                self.resync = false;
                            } else {
                                self.snapshot = Some((next + 1, paths));
                            }
                        }
                        _ => self.resync = true,
                    }
                }
                other => panic!("the test makes no {other:?}"),
            }
        }
    }
}

fn snapshot(agent: &mut FakeAgent, open: &BTreeSet<String>, size: usize) -> Vec<Event> {
    let paths: Vec<&str> = open.iter().map(String::as_str).collect();
    let parts: Vec<&[&str]> = if paths.is_empty() { vec![&[]] } else { paths.chunks(size).collect() };
    let last = parts.len() - 1;
    parts
        .iter()
        .enumerate()
        .map(|(part, paths)| agent.snapshot(u32::try_from(part).unwrap(), part == last, paths))
        .collect()
}

async fn run(steps: Vec<Step>) {
    let mut collector = Collector::new();
    let mut model = Model { resync: true, ..Model::default() };
    let mut agent = FakeAgent::new(0);
    let mut epoch = 0;
    let mut truth: BTreeSet<String> = BTreeSet::new();
    let mut waiting: Vec<Event> = Vec::new();
    let mut delivered: Vec<Event> = Vec::new();
    let mut heard = false;
    for step in steps.into_iter().chain([Step::Deliver, Step::Snapshot(2), Step::Deliver]) {
        let batch = match step {
            Step::Open(n) => {
                truth.insert(format!("f{n}"));
                waiting.push(agent.opened(format!("f{n}")));
                continue;
            }
            Step::Resolve(n) => {
                truth.remove(&format!("f{n}"));
                waiting.push(agent.resolved(format!("f{n}")));
                continue;
            }
            Step::Snapshot(size) => {
                waiting.extend(snapshot(&mut agent, &truth, size.into()));
                continue;
            }
            Step::Lose(count) => {
                waiting.drain(..waiting.len().min(count.into()));
                continue;
            }
            Step::Restart => {
                collector = collector.restarted();
                continue;
            }
            Step::NewEpoch => {
                epoch += 1;
                agent = FakeAgent::new(epoch);
                waiting.clear();
                delivered.clear();
                heard = false;
                continue;
            }
            Step::Deliver => {
                let batch = std::mem::take(&mut waiting);
                delivered.extend(batch.iter().cloned());
                batch
            }
            Step::Repeat(from, count) => delivered.iter().skip(from.into()).take(count.into()).rev().cloned().collect(),
        };
        if batch.is_empty() {
            continue;
        }
        if !heard {
            heard = true;
            model.ack = 0;
            model.resync = true;
            model.snapshot = None;
        }
        let answer = collector.post(&batch).await;
        model.take(&batch);
        assert_eq!((answer.ack, answer.resync), (model.ack, model.resync));
        assert_eq!(answer.accepted + answer.duplicates, batch.len() as u64);
        assert_eq!(collector.open_paths().await, model.open.iter().cloned().collect::<Vec<_>>());
    }
    assert_eq!(collector.open_paths().await, truth.into_iter().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_a_naive_one(steps in prop::collection::vec(step(), 0..40)) {
        tokio::runtime::Runtime::new().unwrap().block_on(run(steps));
    }
}
