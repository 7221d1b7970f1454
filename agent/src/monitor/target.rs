//! Owns what the monitor knows of one target: its marks, its scan, its schedule, its open findings, its coverage.
//! Must not own conditions, which may concern more than one target.

use std::collections::BTreeMap;
use std::time::Duration;

use driftlock_common::coverage::{Coverage, Unverified, WatchMode};
use driftlock_common::event::{Body, ConditionBody, TargetBeat, Verified};
use driftlock_common::finding::{Finding, Summary, Unjudged};
use driftlock_common::gap::Reason;
use driftlock_common::path::TreePath;
use driftlock_common::status::{Activity, Bounds, Doing, Look, TargetStatus};
use driftlock_common::trust::Timestamp;

use super::conditions::Conditions;
use super::dirty::{Dirty, Taken, path_of};
use super::findings::{Finder, Findings};
use super::{Action, Dice, Expiry, Now, ScanId, TargetPlan, Whole, snapshot};
use crate::scan::Scope;
use crate::scan::growing::SETTLE;
use crate::scan::pace::Occasion;
use crate::watch::{Armed, Cover, EVENT_BOUND, Hint, Why};

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
/// What is read again in the first part of one full rehash may be in the last part of the next: so many times the time of
/// one, and the time of a sweep that is late, is too long.
const FULL_PERIODS: u32 = 2;

/// A target.
#[derive(Debug)]
pub(super) struct Target {
    plan: TargetPlan,
    /// When that was made.
    planned: Duration,
    findings: Findings,
    dirty: Dirty,
    scan: Option<Scanning>,
    watch: Watching,
    watched: Armed,
    /// What was mounted in the root of a process when it was found.
    mounts: Vec<TreePath>,
    /// What is mounted over parts of the root.
    covers: Vec<Cover>,
    /// Since when the process of the root is not there.
    away: Option<Duration>,
    next_sweep: Duration,
    /// When the last finished look at everything ended, or when the target began.
    last_full: Duration,
    stale: bool,
    /// Since when every sealed file was read: how long ago that was, when it was said.
    read: Option<(Duration, Duration)>,
    /// When a path may no longer be as in the manifest before.
    switch_ends: Option<Duration>,
    /// When what it is compared with is accepted no longer, by the clock that cannot be set.
    expiry: Option<Duration>,
    /// Whether that was said.
    expired: bool,
    /// Before this no hint is looked into.
    next_hint: Duration,
    /// Of the last finished look at everything.
    last_full_time: Option<String>,
    unverifiable: u64,
    gaps: BTreeMap<Reason, u64>,
    /// What it did not read, because the policy allows anything there.
    unjudged: Unjudged,
    /// What the last complete look left out as the kernel's, escaped.
    virtual_mounts: Vec<String>,
    overflows: u64,
    /// Complete looks that began.
    looks: u64,
    last_look: Option<Look>,
    /// Came and was gone; changed and put back.
    transient: u64,
    put_back: u64,
    /// Set when something made everything unsure, cleared when a scan of everything starts.
    unsure: bool,
    /// Whether findings changed since the last verified event, and when that was.
    moved: bool,
    last_verified: Option<Duration>,
    /// The collector must be told all open findings after the next look at everything.
    snapshot_owed: bool,
}

/// After a look the hints of the next one are gathered for so long: the first of many is looked into at once, and the many
/// are not one look each.
const APART: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Scanning {
    id: ScanId,
    scopes: Vec<Taken>,
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

    fn is_of_everything(&self) -> bool {
        self.scopes.iter().any(|taken| taken.scope == Scope::All)
    }

    /// What of it was marked first, and when; nothing if only the schedule wants it.
    fn oldest(&self) -> Option<(&TreePath, Duration)> {
        let waits = self.scopes.iter().filter(|_| self.occasion != Occasion::Sweep);
        waits.map(|taken| (path_of(&taken.scope), taken.since)).min_by_key(|(_, since)| *since)
    }
}

impl Target {
    pub(super) fn new(plan: TargetPlan, findings: Findings, now: Duration) -> Self {
        Self {
            switch_ends: plan.switching.map(|switching| now + switching.left),
            planned: now,
            plan,
            findings,
            dirty: Dirty::default(),
            scan: None,
            watch: Watching::Wanted { not_before: now },
            watched: Armed::nothing(),
            mounts: Vec::new(),
            covers: Vec::new(),
            away: None,
            next_sweep: now,
            last_full: now,
            stale: false,
            read: None,
            expiry: None,
            expired: false,
            next_hint: Duration::ZERO,
            last_full_time: None,
            unverifiable: 0,
            gaps: BTreeMap::new(),
            unjudged: Unjudged::default(),
            virtual_mounts: Vec::new(),
            overflows: 0,
            looks: 0,
            last_look: None,
            transient: 0,
            put_back: 0,
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
            expiry: self.plan.expiry,
            switching: self.plan.switching,
            sweeps: self.plan.sweeps,
            full: self.plan.full,
            ..plan.clone()
        } == self.plan;
        self.expired = false;
        self.expiry = None;
        self.plan = plan;
        self.planned = now;
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
        self.dirty.mark_due(Scope::All, now);
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

    pub(super) fn set_watched(&mut self, watched: Armed, now: Duration) {
        let before = self.usual_period();
        self.watched = watched;
        // What tells less is looked at more often from now on.
        self.next_sweep = self.next_sweep.min(now + self.period());
        let usual = self.usual_period();
        if usual < before {
            // What was soon enough until now is not late for that.
            self.last_full = self.last_full.max(now.saturating_sub(usual));
        }
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
            Why::RootMoved | Why::Mounted => {
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

    /// Marks where something is mounted that was not, or is no longer. What was there at first is found by the first look.
    pub(super) fn covered(&mut self, covers: Vec<Cover>, now: Duration) {
        let (came, went) = (covers.iter(), self.covers.iter());
        let news =
            came.filter(|cover| !self.covers.contains(cover)).chain(went.filter(|cover| !covers.contains(cover)));
        for Cover { path, .. } in news {
            let scope = if path.is_root() { Scope::All } else { Scope::Subtree(path.clone()) };
            self.dirty.mark_due(scope, now);
        }
        self.covers = covers;
    }

    pub(super) fn look_at_everything(&mut self, now: Duration) {
        self.unsure = true;
        self.dirty.mark_due(Scope::All, now);
    }

    /// Somebody wants to know: a complete look begins as soon as what is under way has ended.
    pub(super) fn wanted(&mut self, now: Duration) {
        self.dirty.mark_due(Scope::All, now);
    }

    /// The clock was set. That may happen again and again, and what follows is to read everything.
    pub(super) fn clock_was_set(&mut self, now: Duration) {
        self.unsure = true;
        self.dirty.mark(Scope::All, now);
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
    pub(super) fn due(&mut self, now: Duration) -> Option<(Vec<Taken>, Occasion)> {
        if self.scan.is_some() || self.plan.manifest.is_none() || !matches!(self.watch, Watching::Armed { .. }) {
            return None;
        }
        // A mark that still rests becomes part of the sweep, and does not wait for a slow one.
        let nobody_waits = self.dirty.next_due().is_none();
        if self.next_sweep <= now {
            self.dirty.mark_due(Scope::All, now);
        } else if now < self.next_hint && !self.dirty.is_everything() {
            return None;
        }
        let scopes = self.dirty.take_due(now);
        let occasion = match (scopes.iter().any(|taken| taken.scope == Scope::All), nobody_waits) {
            (true, true) => Occasion::Sweep,
            (true, false) => Occasion::Whole,
            (false, _) => Occasion::Hint,
        };
        (!scopes.is_empty()).then_some((scopes, occasion))
    }

    pub(super) fn scan_started(&mut self, id: ScanId, scopes: Vec<Taken>, occasion: Occasion, now: Duration) {
        let scan = Scanning { id, scopes, started: now, occasion, hurried: false };
        if scan.is_of_everything() {
            self.unsure = false;
            self.looks += 1;
            // A sweep that takes longer than its period is followed by the next one, not joined by it.
            self.next_sweep = now + self.period();
        }
        self.scan = Some(scan);
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
        let counted = self.scan.as_ref().is_some_and(|scan| !scan.is_of_everything());
        let by = Finder { target: &self.plan.name, scan, counted, now };
        let body = self.findings.found(by, path, finding);
        self.moved |= body.is_some();
        body
    }

    /// What a scan found may be over in a moment, as the steps of a rotation are: it is looked at again before it is said.
    pub(super) fn found_unsettled(&mut self, scan: ScanId, path: TreePath, now: Duration) {
        self.findings.found_unsettled(&path, scan);
        let since = self.marked_at(&path).unwrap_or(now);
        self.dirty.mark_since(Scope::Entry(path), now + SETTLE, since);
    }

    /// When a place was marked that the scan looks at for itself.
    fn marked_at(&self, path: &TreePath) -> Option<Duration> {
        let scan = self.scan.as_ref()?;
        scan.scopes.iter().find(|taken| path_of(&taken.scope) == path).map(|taken| taken.since)
    }

    /// A look at one place, after a hint, found nothing that differs. If that was said to differ, it is said to be over; if
    /// not, nobody would hear of what happened there.
    pub(super) fn found_nothing(&mut self, path: &TreePath, sealed: bool) {
        let goes_on = self.marked_at(path).is_some_and(|since| self.dirty.keeps_changing(path, since));
        if !goes_on && !self.findings.is_open(path) {
            *(if sealed { &mut self.put_back } else { &mut self.transient }) += 1;
        }
    }

    /// What there is to say that was held back.
    pub(super) fn held_back(&mut self, now: Duration) -> Vec<Body> {
        let bodies = self.findings.held_back(&self.plan.name, now);
        self.moved |= !bodies.is_empty();
        bodies
    }

    /// Takes the end of a scan that looked at all it was asked to; whether that was everything comes back too.
    pub(super) fn finished(&mut self, whole: Option<Box<Whole>>, now: Now, dice: &mut Dice) -> (Vec<Body>, bool) {
        let Some(scan) = self.scan.take() else { return (Vec::new(), false) };
        let mut bodies = Vec::new();
        for Taken { scope, .. } in &scan.scopes {
            bodies.extend(self.findings.finished(&self.plan.name, scope, scan.id, now.elapsed));
        }
        self.moved |= !bodies.is_empty();
        let scopes = scan.scopes.iter().map(|taken| &taken.scope);
        self.dirty.settle(scopes, now.elapsed, now.elapsed.saturating_sub(scan.started));
        let full = scan.is_of_everything();
        if full {
            self.last_full = now.elapsed;
            self.last_full_time = Some(now.rfc3339());
            self.next_sweep = now.elapsed + dice.spread(self.period());
            if let Some(whole) = whole {
                let Whole { summary, gaps, read_since } = *whole;
                self.last_look = Some(Look {
                    number: self.looks,
                    ended: now.rfc3339(),
                    duration_ms: summary.duration_ms,
                    manifest: summary.manifest.clone(),
                    complete: summary.complete,
                });
                self.gaps = gaps;
                self.read = read_since.map(|ago| (ago, now.elapsed));
                self.unverifiable = summary.unverifiable;
                self.unjudged = summary.unjudged;
                self.virtual_mounts.clone_from(&summary.excluded.virtual_mounts);
                bodies.extend(self.verified(summary, now.elapsed));
            }
        } else {
            self.next_hint = now.elapsed + APART;
        }
        (bodies, full)
    }

    /// The result of a look at everything, unless it says nothing new and the last one is recent.
    fn verified(&mut self, summary: Summary, now: Duration) -> Option<Body> {
        let recent = self.last_verified.is_some_and(|last| now < last + self.usual_period() / 2);
        if recent && !self.moved {
            return None;
        }
        self.moved = false;
        self.last_verified = Some(now);
        Some(Body::TargetVerified(Verified { target: self.plan.name.clone(), summary }))
    }

    pub(super) fn interrupted(&mut self, now: Duration) {
        let Some(scan) = self.scan.take() else { return };
        self.unsure |= scan.is_of_everything();
        for Taken { scope, since } in scan.scopes {
            self.dirty.mark_since(scope, now + RETRY, since);
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

    fn period(&self) -> Duration {
        self.plan.sweeps.of(&self.watched)
    }

    /// The period while everything is watched that the mode promises.
    const fn usual_period(&self) -> Duration {
        self.plan.sweeps.usual(self.watched.mode)
    }

    /// Why what was looked at became too old, said once.
    pub(super) fn becomes_stale(&mut self, now: Duration) -> Option<&'static str> {
        let why = self.too_old(now);
        let news = why.filter(|_| !self.stale);
        self.stale = why.is_some();
        news
    }

    /// Why what was looked at is too old, if it is.
    pub(super) fn too_old(&self, now: Duration) -> Option<&'static str> {
        if now >= self.stale_at() {
            Some("no complete look for three times the time between sweeps")
        } else if self.reread_by().is_some_and(|by| now >= by) {
            Some("not every sealed file was read again in twice the time that watch.full gives")
        } else {
            None
        }
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
        let end = self.plan.expiry.filter(|_| !self.expired)?;
        // A clock that is set back makes nothing count for longer.
        let left = end.left.saturating_sub(now.elapsed.saturating_sub(self.planned));
        let left = Expiry { left, ..end }.left(now);
        self.expired = left.is_zero();
        self.expiry = (!self.expired).then(|| now.elapsed + left);
        self.expired.then_some(end.at)
    }

    fn stale_at(&self) -> Duration {
        self.last_full + self.usual_period() * STALE_PERIODS
    }

    /// When the rolling rehash is overdue.
    fn reread_by(&self) -> Option<Duration> {
        let (ago, said) = self.read?;
        Some((said + self.plan.full * FULL_PERIODS + self.usual_period() * STALE_PERIODS).saturating_sub(ago))
    }

    /// When something becomes due.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let stale = (!self.stale).then(|| self.reread_by().into_iter().fold(self.stale_at(), Duration::min));
        let arm = match self.watch {
            Watching::Wanted { not_before } => Some(not_before),
            Watching::Arming | Watching::Armed { .. } => None,
        };
        let hurry = self.scan.as_ref().filter(|scan| scan.can_be_hurried()).and_then(|_| self.dirty.next_due());
        let can_scan =
            self.scan.is_none() && self.plan.manifest.is_some() && matches!(self.watch, Watching::Armed { .. });
        let not_before = if self.dirty.is_everything() { Duration::ZERO } else { self.next_hint };
        let hint = self.dirty.next_due().map(|due| due.max(not_before));
        let scan = if can_scan { hint.into_iter().chain([self.next_sweep]).min() } else { None };
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

    pub(super) fn status(&mut self, conditions: Vec<ConditionBody>, clock_steps: u64, now: Now) -> TargetStatus {
        let TargetBeat { target, root, manifest, policy, coverage, .. } = self.beat(clock_steps, now);
        TargetStatus {
            target,
            root,
            manifest,
            policy,
            coverage,
            open: self.findings.numbers(),
            conditions,
            activity: self.activity(now),
            bounds: self.bounds(),
            looks: self.looks,
            last_look: self.last_look.clone(),
        }
    }

    fn activity(&self, now: Now) -> Activity {
        let at = |elapsed| Some(now.at(elapsed).rfc3339());
        let (doing, since) = match (&self.watch, &self.scan) {
            _ if self.cannot_scan() => (Doing::NoManifest, None),
            _ if self.away.is_some() => (Doing::Away, self.away.and_then(at)),
            (_, Some(scan)) if scan.is_of_everything() => (Doing::Sweeping, at(scan.started)),
            (_, Some(scan)) => (Doing::Looking, at(scan.started)),
            (Watching::Wanted { .. } | Watching::Arming, None) => (Doing::Arming, None),
            (Watching::Armed { since }, None) => (Doing::Watching, at(*since)),
        };
        let next_sweep = matches!(doing, Doing::Looking | Doing::Watching).then_some(self.next_sweep).and_then(at);
        Activity { doing, since, next_sweep }
    }

    /// A change right after it was looked at is met by the next look, at its end at the latest.
    fn bounds(&self) -> Bounds {
        let look = Duration::from_millis(self.last_look.as_ref().map_or(0, |look| look.duration_ms));
        let sweep = self.period() * 11 / 10 + 2 * look;
        let seconds = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let event = matches!(self.watched.mode, WatchMode::Fanotify | WatchMode::Inotify);
        Bounds {
            event_s: event.then(|| seconds(EVENT_BOUND)),
            sweep_s: seconds(sweep),
            full_s: seconds(self.plan.full + sweep),
        }
    }

    /// What waits longest for a verdict.
    fn oldest_unverified(&self, now: Now) -> Option<Unverified> {
        let under_way = self.scan.as_ref().and_then(Scanning::oldest);
        let marked = self.dirty.oldest().into_iter().chain(under_way).min_by_key(|(_, since)| *since);
        let marked = marked.map(|(path, since)| (path, now.ago(now.elapsed.saturating_sub(since))));
        let blind = self.findings.oldest_unverifiable().map(|(path, since)| (path, since.to_owned()));
        let oldest = marked.into_iter().chain(blind).min_by(|(_, a), (_, b)| a.cmp(b));
        oldest.map(|(path, since)| Unverified { path: path.escaped().to_string(), since })
    }

    /// `clock_steps`: how often the clock was set.
    pub(super) fn beat(&mut self, clock_steps: u64, now: Now) -> TargetBeat {
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
                last_full: self.read.map(|(ago, said)| now.ago(now.elapsed.saturating_sub(said) + ago)),
                unverifiable: self.unverifiable,
                gaps: self.gaps.iter().map(|(reason, number)| (reason.name().to_owned(), *number)).collect(),
                oldest_unverified: self.oldest_unverified(now),
                overflows: self.overflows,
                unwatched: self.watched.unwatched,
                clock_steps,
                transient: self.transient,
                put_back: self.put_back,
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
            },
        }
    }
}
