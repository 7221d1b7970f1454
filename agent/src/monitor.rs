//! Owns every decision of the daemon: when to look where, what of it is reported, what is wrong with the watching.
//! A state machine without clock, I/O, threads or logs: [`Monitor::on`] takes an [`Event`] and the time, and returns
//! [`Action`]s; [`Monitor::deadline`] says when it wants a [`Event::Tick`]. Must not own carrying anything out.
//!
//! Hints only mark places dirty. A scan's marks are cleared before it starts, so a change during the scan marks again.
//! Start, lost events, a clock step, a moved root and the schedule all mean the same: mark everything.

mod clock;
mod conditions;
mod dirty;
mod findings;
mod flapping;
mod snapshot;
mod target;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod toy;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{Body, ConditionBody, FindingBody, Heartbeat, Running, Stopped};
use driftlock_common::finding::{Finding, ManifestView, PolicyView, Summary};
use driftlock_common::gap::Reason;
use driftlock_common::path::TreePath;
use driftlock_common::status::TargetStatus;
use driftlock_common::trust::Timestamp;

pub use clock::Now;
pub(crate) use snapshot::parts as snapshot_parts;

use crate::config::{Mode, Sweeps};
use crate::scan::pace::Occasion;
use crate::scan::{IdView, Mounts, Scope};
use crate::watch::{Armed, Cover, Hint};
use clock::ClockWatch;
use conditions::Conditions;
use findings::Findings;
use target::Target;

/// A step of the clock by less than this is counted, and no condition.
const CLOCK_STEP_MS: i64 = 1000;

/// The daemon's decisions, and what they rest on.
#[derive(Debug)]
pub struct Monitor {
    plan: Option<Plan>,
    targets: BTreeMap<String, Target>,
    /// Open when the agent stopped, of targets that were not configured yet.
    recovered: BTreeMap<String, Findings>,
    conditions: Conditions,
    clock: ClockWatch,
    clock_steps: u64,
    dice: Dice,
    last_scan: u64,
    next_beat: Duration,
    stopping: bool,
}

/// A scan, unique within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanId(pub u64);

/// What there is to do, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The host's name, for people.
    pub host: String,
    /// By which hosts are grouped.
    pub labels: BTreeMap<String, String>,
    /// Whether a clean stop retires the host.
    pub ephemeral: bool,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// What carries it out.
    pub running: Running,
    /// The targets, names unique.
    pub targets: Vec<TargetPlan>,
}

/// A target, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlan {
    /// Its name.
    pub name: String,
    /// Its root, escaped.
    pub root: String,
    /// What it is compared with; `None` if no manifest was ever accepted: then nothing can be said.
    pub manifest: Option<ManifestView>,
    /// Why its present manifest was not accepted; empty if it was.
    pub refused: String,
    /// Why it is accepted no longer, because its time is over; empty if it is not.
    pub expired: String,
    /// When `manifest` will be accepted no longer; `None`: never, as far as is known.
    pub until: Option<Timestamp>,
    /// While a path may still be as in the manifest before.
    pub switching: Option<Switching>,
    /// What may differ; `None`: nothing may, or no policy was ever accepted.
    pub policy: Option<PolicyView>,
    /// Why its present policy was not accepted; empty if it was, or there is none.
    pub policy_refused: String,
    /// Local excludes.
    pub excluded: Vec<String>,
    /// What to do about file systems mounted inside the root.
    pub mounts: Mounts,
    /// Mount points that are as wanted.
    pub mounts_allowed: BTreeSet<TreePath>,
    /// Whose view of users and groups is compared.
    pub id_view: IdView,
    /// Where hints are to come from.
    pub mode: Mode,
    /// Time between sweeps.
    pub sweeps: Sweeps,
    /// In this time everything is read once more.
    pub full: Duration,
}

/// A switch from one manifest to another that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switching {
    /// How long it goes on.
    pub left: Duration,
    /// By the clock, for showing it.
    pub until: Timestamp,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first plan, or another one.
    Configured(Plan),
    /// The watching of a target is set up, as far as it went.
    Armed {
        /// The target.
        target: String,
        /// How far.
        armed: Armed,
        /// What was mounted in the root of a process when it was found: as wanted.
        mounts: Vec<TreePath>,
    },
    /// The process that a target's root belongs to is not there, or no longer. Nothing of the target is watched, and no
    /// scan of it goes on.
    Away {
        /// The target.
        target: String,
        /// Why, in one line.
        detail: String,
    },
    /// Less of a target is watched than was said before.
    Degraded {
        /// The target.
        target: String,
        /// How far it is watched now.
        armed: Armed,
    },
    /// What is mounted over parts of a target is something else than before.
    Mounted {
        /// The target.
        target: String,
        /// All of it.
        covers: Vec<Cover>,
    },
    /// Something may have changed.
    Hint {
        /// The target.
        target: String,
        /// Where.
        hint: Hint,
    },
    /// A scan found a difference.
    Found {
        /// The scan.
        scan: ScanId,
        /// Where.
        path: TreePath,
        /// What.
        finding: Box<Finding>,
        /// Whether it will still be so in a moment, as far as can be told.
        settled: bool,
    },
    /// A scan looked at one place, as it was asked to, and nothing differs there.
    FoundNothing {
        /// The scan.
        scan: ScanId,
        /// Where.
        path: TreePath,
        /// Whether something is sealed there; if not, nothing is there.
        sealed: bool,
    },
    /// A scan ended; everything it found was said before.
    Scanned {
        /// The scan.
        scan: ScanId,
        /// How it ended.
        ending: Ending,
    },
    /// The delivery or the configuration is in trouble, or no longer.
    Trouble {
        /// What.
        reason: ConditionReason,
        /// One line, or `None` if it is over.
        detail: Option<String>,
    },
    /// The collector wants to know everything, or events were lost before they were safe.
    Resync,
    /// Somebody wants a complete look at a target that begins now.
    Wanted {
        /// The target.
        target: String,
    },
    /// The kernel says that the clock was set, also if only by little.
    ClockSet,
    /// The deadline passed, or nothing happened but time.
    Tick,
    /// The agent is asked to stop.
    Shutdown {
        /// For example `SIGTERM`.
        reason: String,
    },
}

/// How a scan ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Everything in its scopes was looked at; what it says if that was everything.
    Finished(Option<Box<Whole>>),
    /// It ended early: what it found is true, what it did not find says nothing.
    Interrupted,
    /// The root is gone or another directory than before; why, in one line.
    RootLost(String),
}

/// The result of a scan of everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Its summary.
    pub summary: Summary,
    /// What of it could not be established, by reason.
    pub gaps: BTreeMap<Reason, u64>,
    /// Since when every sealed file was read, as how long ago that is; `None` before it was so.
    pub read_since: Option<Duration>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "an action that is not carried out is lost"]
pub enum Action {
    /// Set up the watching of a target from nothing, then say [`Event::Armed`].
    Arm {
        /// The target.
        target: String,
    },
    /// Stop watching a target.
    Disarm {
        /// The target.
        target: String,
    },
    /// Look, and say what was found.
    Scan {
        /// Under this id.
        scan: ScanId,
        /// The target.
        target: String,
        /// Where; not empty.
        scopes: Vec<Scope>,
        /// Why, which says how fast it may go.
        occasion: Occasion,
    },
    /// Somebody waits for the threads of a scan: it is not to be held up any longer.
    Hurry {
        /// The scan.
        scan: ScanId,
    },
    /// End a scan early; its end is not waited for.
    Cancel {
        /// The scan.
        scan: ScanId,
    },
    /// Put an event into the spool.
    Record(Box<Body>),
    /// Send a sign of life; the sequence is for the spool to fill in.
    Beat(Box<Heartbeat>),
    /// Everything is said: flush and stop.
    Stop,
}

/// Numbers nobody needs to predict: they spread the sweeps of many hosts.
#[derive(Debug)]
struct Dice(u64);

// === impl Monitor ===

impl Monitor {
    /// Begins with what was open when the agent stopped. `seed` spreads the schedule.
    pub fn new(findings: Vec<FindingBody>, conditions: Vec<ConditionBody>, seed: u64) -> Self {
        let mut by_target: BTreeMap<String, Vec<FindingBody>> = BTreeMap::new();
        for body in findings {
            by_target.entry(body.target.clone()).or_default().push(body);
        }
        Self {
            plan: None,
            targets: BTreeMap::new(),
            recovered: by_target.into_iter().map(|(name, bodies)| (name, Findings::recovered(bodies))).collect(),
            conditions: Conditions::recovered(conditions),
            clock: ClockWatch::default(),
            clock_steps: 0,
            dice: Dice(seed),
            last_scan: 0,
            next_beat: Duration::ZERO,
            stopping: false,
        }
    }

    /// Decides what an event means.
    pub fn on(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stopping {
            return actions;
        }
        let step = if event == Event::ClockSet { Some(self.clock.set(now)) } else { self.clock.step(now) };
        if let Some(step) = step {
            self.clock_stepped(step, now, &mut actions);
        }
        match event {
            Event::Configured(plan) => self.configured(plan, now, &mut actions),
            Event::Armed { target, armed, mounts } => self.armed(&target, armed, mounts, now, &mut actions),
            Event::Away { target, detail } => self.away(&target, &detail, now, &mut actions),
            Event::Degraded { target, armed } => self.watched(&target, armed, now, &mut actions),
            Event::Mounted { target, covers } => self.mounted(&target, covers, now, &mut actions),
            Event::Hint { target, hint } => self.hint(&target, hint, now, &mut actions),
            Event::Found { scan, path, settled: false, .. } => {
                if let Some(target) = self.scanning(scan) {
                    target.found_unsettled(scan, path, now.elapsed);
                }
            }
            Event::Found { scan, path, finding, settled: true } => {
                if let Some(target) = self.scanning(scan) {
                    actions.extend(target.found(scan, path, *finding, now).map(record));
                }
            }
            Event::FoundNothing { scan, path, sealed } => {
                if let Some(target) = self.scanning(scan) {
                    target.found_nothing(&path, sealed);
                }
            }
            Event::Scanned { scan, ending } => self.scanned(scan, ending, now, &mut actions),
            Event::Trouble { reason, detail } => {
                let body = match detail {
                    Some(detail) => self.conditions.open(None, reason, &detail),
                    None => self.conditions.resolve(None, reason),
                };
                actions.extend(body.map(record));
            }
            Event::Resync => {
                for target in self.targets.values_mut() {
                    actions.extend(target.snapshot_now_or_later(&self.conditions).into_iter().map(record));
                }
            }
            Event::Wanted { target } => {
                if let Some(target) = self.targets.get_mut(&target) {
                    target.wanted(now.elapsed);
                }
            }
            Event::ClockSet | Event::Tick => {}
            Event::Shutdown { reason } => return self.shutdown(reason),
        }
        self.progress(now, &mut actions);
        actions
    }

    /// When something is to be decided without an event; `None` before the first plan and after the last action.
    pub fn deadline(&self) -> Option<Duration> {
        if self.stopping || self.plan.is_none() {
            return None;
        }
        self.targets.values().filter_map(Target::deadline).chain([self.next_beat]).min()
    }

    /// What there is to do; `None` before the first plan.
    pub const fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// What is known of every target, by name.
    pub fn targets(&mut self, now: Now) -> Vec<TargetStatus> {
        let status = |(name, target): (&String, &mut Target)| {
            target.status(self.conditions.only_of(Some(name)), self.clock_steps, now)
        };
        self.targets.iter_mut().map(status).collect()
    }

    /// What is wrong with the whole agent.
    pub fn conditions(&self) -> Vec<ConditionBody> {
        self.conditions.only_of(None)
    }

    fn scanning(&mut self, scan: ScanId) -> Option<&mut Target> {
        self.targets.values_mut().find(|target| target.is_scanning(scan))
    }

    fn configured(&mut self, plan: Plan, now: Now, actions: &mut Vec<Action>) {
        let starting = self.plan.is_none();
        let in_force = plan.targets.iter().all(|target| target.refused.is_empty() && target.policy_refused.is_empty());
        // What is said about the agent itself is said again if it is still so.
        let over = |body: &ConditionBody| {
            body.target.is_none()
                && match body.reason {
                    // Only the collector can take back what it said.
                    ConditionReason::CollectorRefused => false,
                    // Another configuration is no other binary.
                    ConditionReason::BinaryReplaced => starting,
                    ConditionReason::ConfigReplaced => starting || in_force,
                    _ => true,
                }
        };
        actions.extend(self.conditions.resolve_if(over).into_iter().map(record));

        let gone: Vec<String> =
            self.targets.keys().filter(|name| plan.targets.iter().all(|t| t.name != **name)).cloned().collect();
        for name in gone {
            if let Some(target) = self.targets.remove(&name) {
                actions.extend(target.scan_id().map(|scan| Action::Cancel { scan }));
                actions.push(Action::Disarm { target: name.clone() });
                self.recovered.insert(name, target.into_findings());
            }
        }
        for target in &plan.targets {
            let findings = self.recovered.remove(&target.name);
            match self.targets.get_mut(&target.name) {
                Some(known) => actions.extend(known.reconfigure(target.clone(), now.elapsed)),
                None => {
                    let findings = findings.unwrap_or_else(Findings::none);
                    let new = Target::new(target.clone(), findings, now.elapsed);
                    self.targets.insert(target.name.clone(), new);
                }
            }
            for (reason, detail) in [
                (ConditionReason::ManifestRefused, &target.refused),
                (ConditionReason::ManifestExpired, &target.expired),
                (ConditionReason::PolicyRefused, &target.policy_refused),
            ] {
                let is_over = target.until.is_some_and(|until| until.unix().saturating_mul(1000) <= now.unix_ms);
                actions.extend(match detail.as_str() {
                    // That of the last one that was accepted; it is said below.
                    "" if reason == ConditionReason::ManifestExpired && is_over => None,
                    "" => self.conditions.resolve(Some(&target.name), reason).map(record),
                    detail => self.conditions.open(Some(&target.name), reason, detail).map(record),
                });
            }
        }
        for (name, mut findings) in std::mem::take(&mut self.recovered) {
            actions.extend(findings.resolve_all(&name).into_iter().map(record));
        }
        let targets = &self.targets;
        let orphans = |body: &ConditionBody| body.target.as_ref().is_some_and(|name| !targets.contains_key(name));
        actions.extend(self.conditions.resolve_if(orphans).into_iter().map(record));
        self.plan = Some(plan);
        self.next_beat = now.elapsed;
    }

    fn armed(&mut self, name: &str, armed: Armed, mounts: Vec<TreePath>, now: Now, actions: &mut Vec<Action>) {
        let Some(target) = self.targets.get_mut(name) else { return };
        if !target.armed(mounts, now.elapsed) {
            return;
        }
        self.watched(name, armed, now, actions);
        if let Some(target) = self.targets.get_mut(name)
            && target.cannot_scan()
        {
            actions.extend(target.snapshot_if_owed(&self.conditions).into_iter().map(record));
        }
    }

    /// An application that starts anew is no news; one that stays away is.
    fn away(&mut self, name: &str, detail: &str, now: Now, actions: &mut Vec<Action>) {
        let Some(target) = self.targets.get_mut(name) else { return };
        let (scan, too_long) = target.away(now.elapsed);
        actions.extend(scan.map(|scan| Action::Cancel { scan }));
        actions.extend(self.conditions.resolve(Some(name), ConditionReason::WatchDegraded).map(record));
        actions.extend(self.uncovered(name, &[]));
        let Some(target) = self.targets.get_mut(name) else { return };
        if too_long {
            let opened = self.conditions.open(Some(name), ConditionReason::RootLost, detail);
            actions.extend(opened.map(record));
            actions.extend(target.snapshot_if_owed(&self.conditions).into_iter().map(record));
        }
    }

    fn watched(&mut self, name: &str, armed: Armed, now: Now, actions: &mut Vec<Action>) {
        let Some(target) = self.targets.get_mut(name) else { return };
        let degraded = ConditionReason::WatchDegraded;
        actions.extend(match armed.degraded.as_str() {
            "" => self.conditions.resolve(Some(name), degraded).map(record),
            detail => self.conditions.open(Some(name), degraded, detail).map(record),
        });
        target.set_watched(armed, now.elapsed);
    }

    /// What is mounted over a place hides it, and what is mounted no longer hid it: both are looked at at once.
    fn mounted(&mut self, name: &str, covers: Vec<Cover>, now: Now, actions: &mut Vec<Action>) {
        if !self.targets.contains_key(name) {
            return;
        }
        actions.extend(self.uncovered(name, &covers));
        for Cover { path, what } in &covers {
            let opened = self.conditions.open_at(name, ConditionReason::MountOver, path.escaped().to_string(), what);
            actions.extend(opened.map(record));
        }
        if let Some(target) = self.targets.get_mut(name) {
            target.covered(covers, now.elapsed);
        }
    }

    /// Resolves what was mounted over a place of a target and is not any more.
    fn uncovered(&mut self, name: &str, covers: &[Cover]) -> Vec<Action> {
        let paths: BTreeSet<String> = covers.iter().map(|cover| cover.path.escaped().to_string()).collect();
        let over = |body: &ConditionBody| {
            let of_target = body.target.as_deref() == Some(name) && body.reason == ConditionReason::MountOver;
            of_target && body.path.as_ref().is_none_or(|path| !paths.contains(path))
        };
        self.conditions.resolve_if(over).into_iter().map(record).collect()
    }

    fn hint(&mut self, name: &str, hint: Hint, now: Now, actions: &mut Vec<Action>) {
        let Some(target) = self.targets.get_mut(name) else { return };
        if let Some(lost) = target.hint(hint, now.elapsed) {
            actions.extend(self.conditions.open(Some(name), ConditionReason::Overflow, lost).map(record));
        }
    }

    fn scanned(&mut self, scan: ScanId, ending: Ending, now: Now, actions: &mut Vec<Action>) {
        let Some(target) = self.targets.values_mut().find(|target| target.is_scanning(scan)) else { return };
        let name = target.name().to_owned();
        match ending {
            Ending::Finished(whole) => {
                let (bodies, full) = target.finished(whole, now, &mut self.dice);
                actions.extend(bodies.into_iter().map(record));
                if full {
                    let mut over = vec![ConditionReason::RootLost];
                    if target.too_old(now.elapsed).is_none() {
                        over.push(ConditionReason::CoverageStale);
                    }
                    // A scan that began before the events were lost, or before the clock was set, proves nothing.
                    if target.is_whole() {
                        over.extend([ConditionReason::Overflow, ConditionReason::ClockStep]);
                    }
                    for reason in over {
                        actions.extend(self.conditions.resolve(Some(&name), reason).map(record));
                    }
                    actions.extend(target.snapshot_if_owed(&self.conditions).into_iter().map(record));
                }
            }
            Ending::Interrupted => target.interrupted(now.elapsed),
            Ending::RootLost(detail) => {
                target.root_lost(now.elapsed);
                let body = self.conditions.open(Some(&name), ConditionReason::RootLost, &detail);
                actions.extend(body.map(record));
                actions.extend(target.snapshot_if_owed(&self.conditions).into_iter().map(record));
            }
        }
    }

    fn clock_stepped(&mut self, step_ms: i64, now: Now, actions: &mut Vec<Action>) {
        self.clock_steps += 1;
        let detail = format!("the clock was set by {step_ms} ms");
        for (name, target) in &mut self.targets {
            target.clock_was_set(now.elapsed);
            // Less than that makes no time that was said doubtful; what was remembered is forgotten all the same.
            if step_ms.abs() < CLOCK_STEP_MS {
                continue;
            }
            actions.extend(self.conditions.open(Some(name), ConditionReason::ClockStep, &detail).map(record));
        }
    }

    /// Starts what can be started now.
    fn progress(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(plan) = &self.plan else { return };
        for (name, target) in &mut self.targets {
            if let Some(detail) = target.becomes_stale(now.elapsed) {
                let body = self.conditions.open(Some(name), ConditionReason::CoverageStale, detail);
                actions.extend(body.map(record));
            }
            target.end_switch(now.elapsed);
            if let Some(end) = target.has_expired(now) {
                let detail = format!("what was signed counted until {end}: sign it anew");
                let body = self.conditions.open(Some(name), ConditionReason::ManifestExpired, &detail);
                actions.extend(body.map(record));
            }
            actions.extend(target.held_back(now.elapsed).into_iter().map(record));
            if target.wants_arming(now.elapsed) {
                actions.push(Action::Arm { target: name.clone() });
            }
            if let Some((scopes, occasion)) = target.due(now.elapsed) {
                self.last_scan += 1;
                let scan = ScanId(self.last_scan);
                let places = scopes.iter().map(|taken| taken.scope.clone()).collect();
                target.scan_started(scan, scopes, occasion, now.elapsed);
                actions.push(Action::Scan { scan, target: name.clone(), scopes: places, occasion });
            }
        }
        // All targets share the hashing threads, and one that is held up is a thread less.
        if self.targets.values().any(|target| target.has_hints(now.elapsed)) {
            let scans = self.targets.values_mut().filter_map(Target::hurry);
            actions.extend(scans.map(|scan| Action::Hurry { scan }));
        }
        if self.next_beat <= now.elapsed {
            self.next_beat = now.elapsed + plan.heartbeat;
            actions.push(Action::Beat(Box::new(Heartbeat {
                host: plan.host.clone(),
                labels: plan.labels.clone(),
                ephemeral: plan.ephemeral,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                interval_s: plan.heartbeat.as_secs().max(1),
                sequence: 0,
                agent: Some(plan.running.clone()),
                targets: self.targets.values_mut().map(|target| target.beat(self.clock_steps, now)).collect(),
            })));
        }
    }

    fn shutdown(&mut self, reason: String) -> Vec<Action> {
        self.stopping = true;
        let ephemeral = self.plan.as_ref().is_some_and(|plan| plan.ephemeral);
        let mut actions: Vec<Action> =
            self.targets.values().filter_map(Target::scan_id).map(|scan| Action::Cancel { scan }).collect();
        actions.push(record(Body::Stopped(Stopped { reason, ephemeral })));
        actions.push(Action::Stop);
        actions
    }
}

fn record(body: Body) -> Action {
    Action::Record(Box::new(body))
}

// === impl Dice ===

impl Dice {
    /// `period`, give or take a tenth.
    fn spread(&mut self, period: Duration) -> Duration {
        // splitmix64, by Sebastiano Vigna.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let permille = u32::try_from((mixed ^ (mixed >> 31)) % 201).unwrap_or(100);
        period * (900 + permille) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let mut dice = Dice(7);
        let spread: Vec<u64> =
            (0..1000).map(|_| u64::try_from(dice.spread(Duration::from_secs(600)).as_millis()).unwrap()).collect();
        assert!(spread.iter().all(|ms| (540_000..=660_000).contains(ms)));
        assert!(spread.iter().any(|ms| *ms < 550_000) && spread.iter().any(|ms| *ms > 650_000));
    }
}
