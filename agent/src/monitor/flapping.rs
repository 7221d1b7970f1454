//! Owns which paths flap: they open and resolve again and again, which is one finding and not many. Must not own what is
//! reported of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use driftlock_common::finding::Finding;
use driftlock_common::path::TreePath;
use driftlock_common::policy::Severity;

/// So many times within [`WINDOW`] a path resolves before it flaps.
pub(super) const CYCLES: usize = 5;
/// See [`CYCLES`].
const WINDOW: Duration = Duration::from_mins(10);
/// It no longer flaps once it neither opened nor resolved for so long.
pub(super) const QUIET: Duration = Duration::from_mins(10);
/// Paths of which is known when they resolved, and paths that flap. What is beyond is said each time.
const MAX_PATHS: usize = 4096;

/// The paths that flap, and those that may soon.
#[derive(Debug, Default)]
pub(super) struct Flapping {
    /// When each resolved, the last times.
    resolved: BTreeMap<TreePath, VecDeque<Duration>>,
    flaps: BTreeMap<TreePath, Flap>,
    /// How often something was not said.
    folded: u64,
}

/// A path that flaps.
#[derive(Debug)]
pub(super) struct Flap {
    /// What differs now; `None` if it is as sealed.
    pub(super) now: Option<Finding>,
    /// When it became another the last time.
    last: Duration,
}

/// What is to be said of a path that flaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Nothing.
    Nothing,
    /// It is worse than what was said.
    Louder,
    /// It is worse than anything that is left unsaid: it does not flap any longer.
    Critical,
}

impl Flapping {
    /// A path that flapped when the agent stopped.
    pub(super) fn recover(&mut self, path: TreePath, finding: Finding) {
        self.flaps.insert(path, Flap { now: Some(finding), last: Duration::ZERO });
    }

    /// A path that flaps.
    pub(super) fn get(&self, path: &TreePath) -> Option<&Flap> {
        self.flaps.get(path)
    }

    /// Takes that a finding resolved; whether it flaps from now on, so that this is not said.
    pub(super) fn resolved(&mut self, path: &TreePath, finding: &Finding, now: Duration) -> bool {
        if finding.severity() == Some(Severity::Critical) || self.flaps.len() >= MAX_PATHS {
            return false;
        }
        if self.resolved.len() >= MAX_PATHS {
            self.resolved.retain(|_, times| times.back().is_some_and(|last| now < *last + WINDOW));
        }
        if self.resolved.len() >= MAX_PATHS {
            self.resolved.clear();
        }
        let times = self.resolved.entry(path.clone()).or_default();
        times.retain(|at| now < *at + WINDOW);
        times.push_back(now);
        if times.len() < CYCLES {
            return false;
        }
        self.resolved.remove(path);
        self.flaps.insert(path.clone(), Flap { now: None, last: now });
        self.folded += 1;
        true
    }

    /// Takes that a path that flaps is as sealed now; whether it was not before.
    pub(super) fn is_gone(&mut self, path: &TreePath, now: Duration) -> bool {
        let Some(flap) = self.flaps.get_mut(path) else { return false };
        let gone = flap.now.take().is_some();
        if gone {
            flap.last = now;
            self.folded += 1;
        }
        gone
    }

    /// Takes what was found at a path that flaps, of which `said` was said. Whether that is another than before, whether it
    /// was as sealed before, and what to say.
    pub(super) fn found(
        &mut self,
        path: &TreePath,
        finding: &Finding,
        said: &Finding,
        now: Duration,
    ) -> (bool, bool, Say) {
        let Some(flap) = self.flaps.get_mut(path) else { return (false, false, Say::Nothing) };
        if flap.now.as_ref() == Some(finding) {
            return (false, false, Say::Nothing);
        }
        let opened = flap.now.replace(finding.clone()).is_none();
        flap.last = now;
        let say = match finding.severity() {
            Some(Severity::Critical) => Say::Critical,
            severity if severity > said.severity() => Say::Louder,
            _ => Say::Nothing,
        };
        if say == Say::Critical {
            self.forget(path);
        } else {
            self.folded += u64::from(opened);
        }
        (true, opened, say)
    }

    /// Takes the paths that were quiet for long enough, each with what differs there now.
    pub(super) fn take_quiet(&mut self, now: Duration) -> Vec<(TreePath, Option<Finding>)> {
        self.flaps.extract_if(.., |_, flap| flap.last + QUIET <= now).map(|(path, flap)| (path, flap.now)).collect()
    }

    /// When a path may be quiet for long enough.
    pub(super) fn next_quiet(&self) -> Option<Duration> {
        self.flaps.values().map(|flap| flap.last + QUIET).min()
    }

    /// The path begins anew.
    pub(super) fn forget(&mut self, path: &TreePath) {
        self.flaps.remove(path);
        self.resolved.remove(path);
    }

    /// How often something was not said.
    pub(super) const fn folded(&self) -> u64 {
        self.folded
    }
}
