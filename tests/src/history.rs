//! Owns reading what an agent said on the wire, from first to last. Must not own what it should have said; only what
//! can never be right whatever happened: a hole in the sequence, a finding opened twice, one resolved that was not
//! open.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::drift::Drift;

/// A target and a path in it.
type Subject = (String, Vec<u8>);

/// Every event once, in the order in which the agent made them, for each epoch.
#[derive(Clone, Debug, Default)]
pub struct History {
    epochs: BTreeMap<String, BTreeMap<u64, Value>>,
}

impl History {
    /// Takes the events of the wire, repetitions included. Heartbeats are left out.
    ///
    /// # Errors
    /// If one event is not what it was when it was sent before.
    pub fn of(events: impl IntoIterator<Item = Value>) -> Result<Self> {
        let mut history = Self::default();
        for event in events {
            let Some(sequence) = event["sequence"].as_str() else { continue };
            let sequence: u64 = sequence.parse().with_context(|| event.to_string())?;
            let epoch = event["epoch"].as_str().with_context(|| event.to_string())?.to_owned();
            let before = history.epochs.entry(epoch).or_default().insert(sequence, event.clone());
            ensure!(before.is_none_or(|before| before == event), "one sequence, two events: {event}");
        }
        Ok(history)
    }

    /// Checks what must hold whatever happened: within an epoch the sequence has no hole, a finding is opened, perhaps
    /// updated, and resolved, in this order, and a snapshot says what is open; the first that is said of a target may be one.
    ///
    /// # Errors
    /// If it does not hold.
    pub fn check(&self) -> Result<()> {
        for (epoch, events) in &self.epochs {
            let mut open: BTreeSet<Subject> = BTreeSet::new();
            let mut begun = BTreeSet::new();
            let mut told = BTreeSet::new();
            for (expected, (sequence, event)) in (1..).zip(events) {
                ensure!(*sequence == expected, "epoch {epoch}: {expected} was never sent, {sequence} was");
                if let Some(last) = told_by_snapshot(event, &mut told)? {
                    // An epoch may begin with what was open before it.
                    if begun.insert(last.clone()) {
                        open.extend(told.iter().cloned());
                    }
                    let of_target: BTreeSet<Subject> = open.iter().filter(|(of, _)| *of == last).cloned().collect();
                    ensure!(
                        told == of_target,
                        "epoch {epoch}: the snapshot at {sequence} is not what is open: {:?}",
                        told.symmetric_difference(&of_target)
                            .map(|(_, path)| path.escape_ascii().to_string())
                            .collect::<Vec<_>>()
                    );
                }
                let Some((step, subject)) = step(event)? else { continue };
                begun.insert(subject.0.clone());
                let fits = match step {
                    "opened" => open.insert(subject.clone()),
                    "updated" => open.contains(&subject),
                    _ => open.remove(&subject),
                };
                let path = subject.1.escape_ascii();
                ensure!(fits, "epoch {epoch}: {path} {step} out of order at {sequence}");
            }
        }
        Ok(())
    }

    /// Every finding as it was ever told, opened, updated or in a snapshot.
    pub fn told(&self) -> impl Iterator<Item = &Value> {
        self.epochs.values().flat_map(BTreeMap::values).flat_map(|event| {
            let one = Some(&event["data"]["finding"]).filter(|finding| finding.is_object());
            let many = event["data"]["findings"].as_array().into_iter().flatten().map(|body| &body["finding"]);
            one.into_iter().chain(many)
        })
    }

    /// Whether a condition of this reason was ever opened.
    pub fn has_condition(&self, reason: &str) -> bool {
        let is_it =
            |event: &Value| event["type"] == "dev.driftlock.condition.opened.v1" && event["data"]["reason"] == reason;
        self.epochs.values().flat_map(BTreeMap::values).any(is_it)
    }

    /// How many events there were.
    pub fn events(&self) -> usize {
        self.epochs.values().map(BTreeMap::len).sum()
    }

    /// How often each path was opened.
    ///
    /// # Errors
    /// If an event is not in the form of the format.
    pub fn openings(&self) -> Result<BTreeMap<Vec<u8>, usize>> {
        let mut openings = BTreeMap::new();
        for event in self.epochs.values().flat_map(BTreeMap::values) {
            if let Some(("opened", (_, path))) = step(event)? {
                *openings.entry(path).or_default() += 1;
            }
        }
        Ok(openings)
    }

    /// How many epochs there were: one more for each time the state was lost.
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// Every path that was ever said to differ, in events and in snapshots.
    ///
    /// # Errors
    /// If an event is not in the form of the format.
    pub fn raised(&self) -> Result<BTreeSet<Vec<u8>>> {
        self.told().map(|finding| Ok(Drift::from_json(finding)?.path)).collect()
    }

    /// What is open after the last event, of all targets.
    ///
    /// # Errors
    /// If an event is not in the form of the format.
    pub fn open(&self) -> Result<BTreeSet<Drift>> {
        let mut open = BTreeMap::new();
        for event in self.epochs.values().flat_map(BTreeMap::values) {
            match step(event)? {
                Some(("resolved", subject)) => drop(open.remove(&subject)),
                Some((_, subject)) => drop(open.insert(subject, Drift::from_json(&event["data"]["finding"])?)),
                None => (),
            }
        }
        Ok(open.into_values().collect())
    }

    /// How often a path was opened.
    ///
    /// # Errors
    /// If an event is not in the form of the format.
    pub fn times_opened(&self, path: &[u8]) -> Result<usize> {
        Ok(self.openings()?.get(path).copied().unwrap_or(0))
    }
}

/// Collects what the parts of a snapshot say is open; after the last one, the target.
fn told_by_snapshot(event: &Value, told: &mut BTreeSet<Subject>) -> Result<Option<String>> {
    if event["type"] != "dev.driftlock.target.snapshot.v1" {
        return Ok(None);
    }
    let data = &event["data"];
    let target = data["target"].as_str().with_context(|| event.to_string())?;
    if data["part"] == 0 {
        told.clear();
    }
    for body in data["findings"].as_array().with_context(|| event.to_string())? {
        told.insert((target.to_owned(), Drift::path_of(&body["finding"])?));
    }
    Ok((data["last"] == true).then(|| target.to_owned()))
}

/// What an event does to which finding, if it is about one: `opened`, `updated` or `resolved`, target and path.
fn step(event: &Value) -> Result<Option<(&str, Subject)>> {
    let kind = event["type"].as_str().with_context(|| event.to_string())?;
    let Some(step) = kind.strip_prefix("dev.driftlock.finding.").and_then(|rest| rest.strip_suffix(".v1")) else {
        return Ok(None);
    };
    let data = &event["data"];
    let target = data["target"].as_str().with_context(|| event.to_string())?.to_owned();
    let path = match step {
        "resolved" => Drift::path_of(data)?,
        _ => Drift::path_of(&data["finding"])?,
    };
    Ok(Some((step, (target, path))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(sequence: u64, step: &str) -> Value {
        let data = match step {
            "resolved" => json!({"target": "t", "path": "a"}),
            "clean" => json!({"target": "t", "part": 0, "last": true, "findings": []}),
            "drifted" => {
                json!({"target": "t", "part": 0, "last": true, "findings": [{"finding": {"path": "a", "change": "added"}}]})
            }
            _ => json!({"target": "t", "finding": {"path": "a", "change": "added"}}),
        };
        let kind = match step {
            "clean" | "drifted" => "dev.driftlock.target.snapshot.v1".to_owned(),
            step => format!("dev.driftlock.finding.{step}.v1"),
        };
        json!({"type": kind, "epoch": "e", "sequence": format!("{sequence:020}"), "data": data})
    }

    #[test]
    fn what_can_never_be_right_is_refused() {
        let rows: [(&[(u64, &str)], bool); 12] = [
            (&[(1, "opened"), (2, "updated"), (3, "resolved"), (4, "opened")], true),
            (&[(2, "resolved"), (1, "opened"), (2, "resolved")], true),
            (&[(1, "opened"), (2, "opened")], false),
            (&[(1, "updated")], false),
            (&[(1, "opened"), (2, "resolved"), (3, "resolved")], false),
            (&[(1, "opened"), (3, "resolved")], false),
            (&[(2, "opened")], false),
            (&[(1, "clean"), (2, "opened"), (3, "drifted"), (4, "resolved"), (5, "clean")], true),
            (&[(1, "opened"), (2, "clean")], false),
            (&[(1, "drifted"), (2, "resolved"), (3, "clean")], true),
            (&[(1, "drifted"), (2, "opened")], false),
            (&[(1, "clean"), (2, "drifted")], false),
        ];
        for (events, good) in rows {
            let history = History::of(events.iter().map(|(sequence, step)| event(*sequence, step)));
            let checked = history.and_then(|history| history.check());
            assert_eq!(checked.is_ok(), good, "{events:?}: {checked:?}");
        }
        assert!(History::of([event(1, "opened"), event(1, "resolved")]).is_err(), "one sequence, two events");
    }
}
