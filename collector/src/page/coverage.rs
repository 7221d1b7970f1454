//! Owns how a page says what an agent vouches for: what is wrong in the open, the rest folded. Must not own what it means.

use driftlock_common::coverage::{BlindSpot, Coverage};
use driftlock_common::event::Running;

use super::compare::{bytes, grouped};
use super::shown::Shown;
use super::{Moment, shortened};
use crate::clock::Timestamp;

/// The coverage of a target.
pub(super) struct Covered {
    /// Empty before the first heartbeat.
    pub(super) watch: Shown,
    /// Since when every sealed file was read.
    pub(super) read: Option<Moment>,
    /// What waits longest for a verdict; an empty path is the whole target.
    pub(super) waits: Option<(Shown, Moment)>,
    /// What is not as it should be.
    pub(super) wrong: Vec<Shown>,
    /// What there is to know besides.
    pub(super) notes: Vec<Shown>,
    /// What is not seen at once, for an operator.
    pub(super) blind: Vec<Shown>,
}

/// What runs on a host.
pub(super) struct Agent {
    pub(super) version: Shown,
    pub(super) started: Option<Moment>,
    /// Of the starts, if there was more than one.
    pub(super) starts: Option<String>,
    pub(super) stopped_before: Option<bool>,
    /// What it is, its digest, and that in short.
    pub(super) digests: Vec<(&'static str, String, String)>,
}

impl Covered {
    pub(super) fn new(coverage: &Coverage, now: Timestamp) -> Self {
        let moment = |text: &str| Moment::read(text, now);
        let mut wrong = Vec::new();
        let mut notes = Vec::new();
        if coverage.unverifiable > 0 {
            let reasons: Vec<String> =
                coverage.gaps.iter().map(|(reason, number)| format!("{reason} {}", grouped(*number))).collect();
            wrong.push(format!("{} not established: {}", grouped(coverage.unverifiable), reasons.join(", ")));
        }
        let say = |to: &mut Vec<String>, number: u64, one: &str, many: &str| match number {
            0 => {}
            1 => to.push(format!("1 {one}")),
            _ => to.push(format!("{} {many}", grouped(number))),
        };
        say(&mut wrong, coverage.unwatched, "directory by sweep only", "directories by sweep only");
        say(&mut wrong, coverage.overflows, "time events were lost", "times events were lost");
        say(&mut wrong, coverage.clock_steps, "time the clock was set", "times the clock was set");
        say(&mut notes, coverage.transient, "path came and was gone", "paths came and were gone");
        say(&mut notes, coverage.put_back, "path was put back", "paths were put back");
        say(&mut notes, coverage.folded, "change not said, as it flapped", "changes not said, as they flapped");
        if !coverage.unjudged.is_nothing() {
            let (entries, size) = (grouped(coverage.unjudged.entries), bytes(coverage.unjudged.bytes));
            notes.push(format!("{entries} entries ({size}) not judged"));
        }
        say(&mut notes, coverage.excluded.len() as u64, "local exclude", "local excludes");
        Self {
            watch: Shown::name(&coverage.watch_mode),
            read: coverage.last_full.as_deref().and_then(moment),
            waits: coverage
                .oldest_unverified
                .as_ref()
                .and_then(|oldest| Some((Shown::escaped_text(&oldest.path), moment(&oldest.since)?))),
            wrong: wrong.iter().map(|line| Shown::name(line)).collect(),
            notes: notes.iter().map(|line| Shown::name(line)).collect(),
            blind: coverage.blind.iter().map(|word| Shown::name(meaning(word))).collect(),
        }
    }
}

/// What a blind spot means, if this version knows it.
fn meaning(word: &str) -> &str {
    BlindSpot::TABLE.iter().find(|(_, known, ..)| *known == word).map_or(word, |(.., meaning)| meaning)
}

impl Agent {
    pub(super) fn new(version: &str, running: &Running, now: Timestamp) -> Self {
        let digests = [("binary", running.binary), ("configuration", running.config)];
        Self {
            version: Shown::name(version),
            started: Moment::read(&running.started_at, now),
            starts: (running.starts > 1).then(|| grouped(running.starts)),
            stopped_before: running.stopped_before,
            digests: digests
                .into_iter()
                .filter_map(|(what, digest)| Some((what, digest?.to_string())))
                .map(|(what, digest)| (what, shortened(&digest), digest))
                .collect(),
        }
    }
}
