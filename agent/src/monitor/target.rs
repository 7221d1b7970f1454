//! Owns what the monitor knows of one target: its marks, its scan, its schedule, its open findings, its coverage.
//! Must not own conditions, which may concern more than one target.

use std::time::Duration;

use driftlock_common::coverage::{Coverage, WatchMode};
use driftlock_common::event::{Body, TargetBeat, Verified};
use driftlock_common::finding::{Finding, Summary, Unjudged};
use driftlock_common::path::TreePath;
use driftlock_common::trust::Timestamp;

use super::conditions::Conditions;
use super::dirty::Dirty;
use super::findings::{Finder, Findings};
use super::{Action, Dice, Now, ScanId, TargetPlan, snapshot};
use crate::scan::Scope;
use crate::scan::growing::SETTLE;
use crate::scan::pace::Occasion;
use crate::watch::{Armed, Hint, Why};

/// A lost root, or a scan that ended early, is looked at again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Lost events make the watching be set up anew; not more often than this.
const ARMING_PAUSE: Duration = Duration::from_secs(5);
/// A root whose process is not there is looked for again after this.
const AWAY_RETRY: Duration = Duration::from_secs(1);
/// The process of a root may be away for so long: an application that starts anew takes seconds.
const AWAY_GRACE: Duration = Duration::from_secs(30);
/// No complete look for so many times the period of sweeps is too long.
const STALE_PERIODS: u32 = 3;

/// A target.
#[derive(Debug)]
pub(super) struct Target {
    plan: TargetPlan,
    findings: Findings,
    dirty: Dirty,
    scan: Option<Scanning>,
    watch: Watching,
    watched: Armed,
    /// What was mounted in the root of a process when it was found.
    mounts: Vec<TreePath>,
    /// Since when the process of the root is not there.
    away: Option<Duration>,
    next_sweep: Duration,
    /// When the last finished look at everything ended, or when the target began.
    last_full: Duration,
    stale: bool,
    /// When a path may no longer be as in the manifest before.
    switch_ends: Option<Duration>,
    /// When what it is compared with is accepted no longer, by the clock that cannot be set.
    expiry: Option<Duration>,
    /// Whether that was said.
    expired: bool,
    /// Of the last finished look at everything.
    last_full_time: Option<String>,
    unverifiable: u64,
    /// What it did not read, because the policy allows anything there.
    unjudged: Unjudged,
    /// What the last complete look left out as the kernel's, escaped.
    virtual_mounts: Vec<String>,
    overflows: u64,
    /// Set when something made everything unsure, cleared when a scan of everything starts.
    unsure: bool,
    /// Whether findings changed since the last verified event, and when that was.
    moved: bool,
    last_verified: Option<Duration>,
    /// The collector must be told all open findings after the next look at everything.
    snapshot_owed: bool,
}

#[derive(Debug)]
struct Scanning {
    id: ScanId,
    scopes: Vec<Scope>,
    started: Duration,
    occasion: Occasion,
    /// Whether it was told that somebody waits for it.
    hurried: bool,
}

/// Arm first, then scan: nothing is scanned between the wish to arm and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watching {
    Wanted { not_before: Duration },
    Arming,
    Armed { since: Duration },
}

impl Scanning {
    fn can_be_hurried(&self) -> bool {
        self.occasion != Occasion::Hint && !self.hurried
    }
}

impl Target {
    pub(super) fn new(plan: TargetPlan, findings: Findings, now: Duration) -> Self {
        Self {
            switch_ends: plan.switching.map(|switching| now + switching.left),
            plan,
            findings,
            dirty: Dirty::default(),
            scan: None,
            watch: Watching::Wanted { not_before: now },
            watched: Armed::nothing(),
            mounts: Vec::new(),
            away: None,
            next_sweep: now,
            last_full: now,
            stale: false,
            expiry: None,
            expired: false,
            last_full_time: None,
            unverifiable: 0,
            unjudged: Unjudged::default(),
            virtual_mounts: Vec::new(),
            overflows: 0,
            unsure: false,
            moved: true,
            last_verified: None,
            snapshot_owed: true,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.plan.name
    }

    /// Takes another plan; a changed one is looked at from the beginning.
    pub(super) fn reconfigure(&mut self, plan: TargetPlan, now: Duration) -> Option<Action> {
        // How often is looked, and why something was refused, is no reason to look again.
        let same = TargetPlan {
            refused: self.plan.refused.clone(),
            expired: self.plan.expired.clone(),
            policy_refused: self.plan.policy_refused.clone(),
            until: self.plan.until,
            switching: self.plan.switching,
            sweep: self.plan.sweep,
            ..plan.clone()
        } == TargetPlan { blind_sweep: plan.blind_sweep, ..self.plan.clone() };
        self.expired = false;
        self.expiry = None;
        self.plan = plan;
        let switch_ends = self.plan.switching.map(|switching| now + switching.left);
        if std::mem::replace(&mut self.switch_ends, switch_ends).is_some() && switch_ends.is_none() {
            self.dirty.mark_due(Scope::All, now);
        }
        if same {
            return None;
        }
        // The watches may be of another root, and the scan of another truth. What is open stays until the new look.
        self.watch = Watching::Wanted { not_before: Duration::ZERO };
        self.snapshot_owed = true;
        self.dirty.mark_due(Scope::All, Duration::ZERO);
        self.scan.take().map(|scan| Action::Cancel { scan: scan.id })
    }

    pub(super) fn into_findings(self) -> Findings {
        self.findings
    }

    // --- hints ---

    /// The watching is set up; whether that was wanted.
    pub(super) fn armed(&mut self, mounts: Vec<TreePath>, now: Duration) -> bool {
        if self.watch != Watching::Arming {
            return false;
        }
        self.watch = Watching::Armed { since: now };
        self.away = None;
        self.mounts = mounts;
        // What happened before the watches were there is only found by looking.
        self.look_at_everything(now);
        true
    }

    /// Nothing is watched until the process of the root is there again. The scan that was under way, and whether it is away
    /// for too long.
    pub(super) fn away(&mut self, now: Duration) -> (Option<ScanId>, bool) {
        let since = *self.away.get_or_insert(now);
        self.watch = Watching::Wanted { not_before: now + AWAY_RETRY };
        self.watched = Armed { mode: WatchMode::Away, ..Armed::nothing() };
        self.unsure = true;
        self.dirty.mark_due(Scope::All, now);
        (self.scan.take().map(|scan| scan.id), now >= since + AWAY_GRACE)
    }

    pub(super) fn set_watched(&mut self, watched: Armed) {
        self.watched = watched;
    }

    /// Marks what a hint says. If events were lost, why.
    pub(super) fn hint(&mut self, hint: Hint, now: Duration) -> Option<&'static str> {
        let why = match hint {
            Hint::Touched(path) => {
                self.dirty.mark(Scope::Entry(path), now);
                return None;
            }
            Hint::Subtree(path) if path.is_root() => {
                self.dirty.mark(Scope::All, now);
                return None;
            }
            Hint::Subtree(path) => {
                self.dirty.mark(Scope::Subtree(path), now);
                return None;
            }
            Hint::Everything(why) => why,
        };
        // Watches of directories made meanwhile are missing, so all are set up anew, and then everything is looked at.
        if let Watching::Armed { since } = self.watch {
            let pause = if why == Why::RootMoved { Duration::ZERO } else { ARMING_PAUSE };
            self.watch = Watching::Wanted { not_before: (since + pause).max(now) };
        }
        self.unsure = true;
        match why {
            Why::RootMoved => {
                self.look_at_everything(now);
                None
            }
            Why::Overflow | Why::Failed => {
                self.overflows += 1;
                self.dirty.mark(Scope::All, now);
                Some(if why == Why::Overflow { "kernel events were lost" } else { "the watching failed" })
            }
        }
    }

    pub(super) fn look_at_everything(&mut self, now: Duration) {
        self.unsure = true;
        self.dirty.mark_due(Scope::All, now);
    }

    pub(super) fn wants_arming(&mut self, now: Duration) -> bool {
        let wanted = matches!(self.watch, Watching::Wanted { not_before } if not_before <= now);
        if wanted {
            self.watch = Watching::Arming;
        }
        wanted
    }

    // --- scans ---

    /// Whether there is nothing to compare with.
    pub(super) const fn cannot_scan(&self) -> bool {
        self.plan.manifest.is_none()
    }

    /// What is to be scanned now, if anything, and why.
    pub(super) fn due(&mut self, now: Duration) -> Option<(Vec<Scope>, Occasion)> {
        if self.scan.is_some() || self.plan.manifest.is_none() || !matches!(self.watch, Watching::Armed { .. }) {
            return None;
        }
        // A mark that still rests becomes part of the sweep, and does not wait for a slow one.
        let nobody_waits = self.dirty.next_due().is_none();
        if self.next_sweep <= now {
            self.dirty.mark_due(Scope::All, now);
        }
        let scopes = self.dirty.take_due(now);
        let occasion = match (scopes.contains(&Scope::All), nobody_waits) {
            (true, true) => Occasion::Sweep,
            (true, false) => Occasion::Whole,
            (false, _) => Occasion::Hint,
        };
        (!scopes.is_empty()).then_some((scopes, occasion))
    }

    pub(super) fn scan_started(&mut self, id: ScanId, scopes: Vec<Scope>, occasion: Occasion, now: Duration) {
        if scopes.contains(&Scope::All) {
            self.unsure = false;
            // A sweep that takes longer than its period is followed by the next one, not joined by it.
            self.next_sweep = now + self.period();
        }
        self.scan = Some(Scanning { id, scopes, started: now, occasion, hurried: false });
    }

    /// Whether a hint is looked into, or waits for the end of the scan that is under way.
    pub(super) fn has_hints(&self, now: Duration) -> bool {
        let waits = self.dirty.next_due().is_some_and(|due| due <= now);
        self.scan.as_ref().is_some_and(|scan| scan.occasion == Occasion::Hint || waits)
    }

    /// The scan that is under way, if it can be held up and was not told yet that it must not be.
    pub(super) fn hurry(&mut self) -> Option<ScanId> {
        let scan = self.scan.as_mut().filter(|scan| scan.can_be_hurried())?;
        scan.hurried = true;
        Some(scan.id)
    }

    pub(super) fn is_scanning(&self, id: ScanId) -> bool {
        self.scan_id() == Some(id)
    }

    pub(super) fn scan_id(&self) -> Option<ScanId> {
        self.scan.as_ref().map(|scan| scan.id)
    }

    pub(super) fn found(&mut self, scan: ScanId, path: TreePath, finding: Finding, now: Now) -> Option<Body> {
        let counted = self.scan.as_ref().is_some_and(|scan| !scan.scopes.contains(&Scope::All));
        let by = Finder { target: &self.plan.name, scan, counted, now };
        let body = self.findings.found(by, path, finding);
        self.moved |= body.is_some();
        body
    }

    /// What a scan found may be over in a moment, as the steps of a rotation are: it is looked at again before it is said.
    pub(super) fn found_unsettled(&mut self, scan: ScanId, path: TreePath, now: Duration) {
        self.findings.found_unsettled(&path, scan);
        self.dirty.mark_due(Scope::Entry(path), now + SETTLE);
    }

    /// What there is to say that was held back.
    pub(super) fn held_back(&mut self, now: Duration) -> Vec<Body> {
        let bodies = self.findings.held_back(&self.plan.name, now);
        self.moved |= !bodies.is_empty();
        bodies
    }

    /// Takes the end of a scan that looked at all it was asked to; whether that was everything comes back too.
    pub(super) fn finished(&mut self, summary: Option<Box<Summary>>, now: Now, dice: &mut Dice) -> (Vec<Body>, bool) {
        let Some(scan) = self.scan.take() else { return (Vec::new(), false) };
        let mut bodies = Vec::new();
        for scope in &scan.scopes {
            bodies.extend(self.findings.finished(&self.plan.name, scope, scan.id, now.elapsed));
        }
        self.moved |= !bodies.is_empty();
        self.dirty.settle(&scan.scopes, now.elapsed, now.elapsed.saturating_sub(scan.started));
        let full = scan.scopes.contains(&Scope::All);
        if full {
            self.last_full = now.elapsed;
            self.last_full_time = Some(now.rfc3339());
            self.stale = false;
            self.next_sweep = now.elapsed + dice.spread(self.period());
            if let Some(summary) = summary {
                self.unverifiable = summary.unverifiable;
                self.unjudged = summary.unjudged;
                self.virtual_mounts.clone_from(&summary.excluded.virtual_mounts);
                bodies.extend(self.verified(*summary, now.elapsed));
            }
        }
        (bodies, full)
    }

    /// The result of a look at everything, unless it says nothing new and the last one is recent.
    fn verified(&mut self, summary: Summary, now: Duration) -> Option<Body> {
        let recent = self.last_verified.is_some_and(|last| now < last + self.plan.sweep / 2);
        if recent && !self.moved {
            return None;
        }
        self.moved = false;
        self.last_verified = Some(now);
        Some(Body::TargetVerified(Verified { target: self.plan.name.clone(), summary }))
    }

    pub(super) fn interrupted(&mut self, now: Duration) {
        let Some(scan) = self.scan.take() else { return };
        self.unsure |= scan.scopes.contains(&Scope::All);
        for scope in scan.scopes {
            self.dirty.mark_due(scope, now + RETRY);
        }
    }

    pub(super) fn root_lost(&mut self, now: Duration) {
        self.scan = None;
        self.unsure = true;
        self.watch = Watching::Wanted { not_before: now + RETRY };
        self.dirty.mark_due(Scope::All, now + RETRY);
    }

    /// Whether nothing made everything unsure since the last scan of everything began.
    pub(super) const fn is_whole(&self) -> bool {
        !self.unsure
    }

    // --- time ---

    const fn period(&self) -> Duration {
        if self.watched.degraded.is_empty() { self.plan.sweep } else { self.plan.blind_sweep }
    }

    /// Whether the last complete look became too old, said once.
    pub(super) fn is_stale(&mut self, now: Duration) -> bool {
        let stale = now >= self.stale_at();
        let news = stale && !self.stale;
        self.stale |= stale;
        news
    }

    /// Once the manifest before no longer counts, everything is looked at: what is still as in that one is found now.
    pub(super) fn end_switch(&mut self, now: Duration) {
        if self.switch_ends.take_if(|end| *end <= now).is_some() {
            self.plan.switching = None;
            self.dirty.mark_due(Scope::All, now);
        }
    }

    /// When what it is compared with ended to be accepted, said once. Between two looks the clock may have been set.
    pub(super) fn has_expired(&mut self, now: Now) -> Option<Timestamp> {
        let end = self.plan.until.filter(|_| !self.expired)?;
        let left = end.unix().saturating_mul(1000).saturating_sub(now.unix_ms);
        self.expired = left <= 0;
        let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
        self.expiry = (!self.expired).then(|| now.elapsed + left);
        self.expired.then_some(end)
    }

    fn stale_at(&self) -> Duration {
        self.last_full + self.plan.sweep * STALE_PERIODS
    }

    /// When something becomes due.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let stale = (!self.stale).then(|| self.stale_at());
        let arm = match self.watch {
            Watching::Wanted { not_before } => Some(not_before),
            Watching::Arming | Watching::Armed { .. } => None,
        };
        let hurry = self.scan.as_ref().filter(|scan| scan.can_be_hurried()).and_then(|_| self.dirty.next_due());
        let can_scan =
            self.scan.is_none() && self.plan.manifest.is_some() && matches!(self.watch, Watching::Armed { .. });
        let scan = if can_scan { self.dirty.next_due().into_iter().chain([self.next_sweep]).min() } else { None };
        [stale, arm, hurry, scan, self.switch_ends, self.expiry, self.findings.next_held_back()]
            .into_iter()
            .flatten()
            .min()
    }

    // --- reports ---

    /// All open findings, now if everything was looked at before, else after the first such look.
    pub(super) fn snapshot_now_or_later(&mut self, conditions: &Conditions) -> Vec<Body> {
        self.snapshot_owed = true;
        if self.last_full_time.is_some() || self.cannot_scan() { self.snapshot_if_owed(conditions) } else { Vec::new() }
    }

    pub(super) fn snapshot_if_owed(&mut self, conditions: &Conditions) -> Vec<Body> {
        if !std::mem::take(&mut self.snapshot_owed) {
            return Vec::new();
        }
        let name = &self.plan.name;
        snapshot::parts(name, self.plan.manifest.as_ref(), conditions.of(name), self.findings.iter())
            .into_iter()
            .map(Body::TargetSnapshot)
            .collect()
    }

    pub(super) fn beat(&mut self) -> TargetBeat {
        TargetBeat {
            target: self.plan.name.clone(),
            root: self.plan.root.clone(),
            manifest: self.plan.manifest.clone(),
            policy: self.plan.policy.clone(),
            open_findings: self.findings.len() as u64,
            open_digest: self.findings.digest(),
            coverage: Coverage {
                watch_mode: self.watched.mode.name().to_owned(),
                blind: self.watched.blind.iter().map(|spot| spot.name().to_owned()).collect(),
                last_sweep: self.last_full_time.clone(),
                unverifiable: self.unverifiable,
                overflows: self.overflows,
                unwatched: self.watched.unwatched,
                unjudged: self.unjudged,
                folded: self.findings.folded(),
                excluded: self.plan.excluded.clone(),
                mounts: self
                    .plan
                    .mounts_allowed
                    .iter()
                    .chain(&self.mounts)
                    .map(|at| at.escaped().to_string())
                    .collect(),
                virtual_mounts: self.virtual_mounts.clone(),
                switch_until: self.plan.switching.map(|switching| switching.until.to_string()),
                ..Coverage::default()
            },
        }
    }
}
