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

    /// Checks what must hold whatever happened: within an epoch the sequence has no hole, and a finding is opened,
    /// perhaps updated, and resolved, in this order.
    ///
    /// # Errors
    /// If it does not hold.
    pub fn check(&self) -> Result<()> {
        for (epoch, events) in &self.epochs {
            let mut open = BTreeSet::new();
            for (expected, (sequence, event)) in (1..).zip(events) {
                ensure!(*sequence == expected, "epoch {epoch}: {expected} was never sent, {sequence} was");
                let Some((step, subject)) = step(event)? else { continue };
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

    /// How many epochs there were: one more for each time the state was lost.
    pub fn epochs(&self) -> usize {
        self.epochs.len()
    }

    /// Every path that was ever said to differ, in events and in snapshots.
    ///
    /// # Errors
    /// If an event is not in the form of the format.
    pub fn raised(&self) -> Result<BTreeSet<Vec<u8>>> {
        let mut raised = BTreeSet::new();
        for event in self.epochs.values().flat_map(BTreeMap::values) {
            if let Some(("opened" | "updated", (_, path))) = step(event)? {
                raised.insert(path);
            }
            for finding in event["data"]["findings"].as_array().into_iter().flatten() {
                raised.insert(Drift::from_json(&finding["finding"])?.path);
            }
        }
        Ok(raised)
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
        let mut times = 0;
        for event in self.epochs.values().flat_map(BTreeMap::values) {
            times += usize::from(step(event)?.is_some_and(|(step, (_, of))| step == "opened" && of == path));
        }
        Ok(times)
    }
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
            _ => json!({"target": "t", "finding": {"path": "a", "change": "added"}}),
        };
        let kind = format!("dev.driftlock.finding.{step}.v1");
        json!({"type": kind, "epoch": "e", "sequence": format!("{sequence:020}"), "data": data})
    }

    #[test]
    fn what_can_never_be_right_is_refused() {
        let rows: [(&[(u64, &str)], bool); 7] = [
            (&[(1, "opened"), (2, "updated"), (3, "resolved"), (4, "opened")], true),
            (&[(2, "resolved"), (1, "opened"), (2, "resolved")], true),
            (&[(1, "opened"), (2, "opened")], false),
            (&[(1, "updated")], false),
            (&[(1, "opened"), (2, "resolved"), (3, "resolved")], false),
            (&[(1, "opened"), (3, "resolved")], false),
            (&[(2, "opened")], false),
        ];
        for (events, good) in rows {
            let history = History::of(events.iter().map(|(sequence, step)| event(*sequence, step)));
            let checked = history.and_then(|history| history.check());
            assert_eq!(checked.is_ok(), good, "{events:?}: {checked:?}");
        }
        assert!(History::of([event(1, "opened"), event(1, "resolved")]).is_err(), "one sequence, two events");
    }
}
