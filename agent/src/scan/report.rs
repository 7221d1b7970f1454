//! Owns the result of a scan of everything: its drifts in order, its summary and its exit code. Must not own the forms in which
//! they are shown.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use driftlock_common::digest::OciDigest;
use driftlock_common::drift::{Change, Delta, apply};
use driftlock_common::finding::{ExcludedView, ManifestView, PolicyView, Summary};
use driftlock_common::gap::Reason;
use driftlock_common::manifest::Manifest;
use driftlock_common::policy::Judged;
use driftlock_common::tree::Tree;

use super::{Expected, Options, Outcome, Root, Scope, compare};
use crate::pool::Pool;

/// The result of a scan of everything.
#[derive(Clone, Debug)]
pub struct ScanReport<'p> {
    /// Every difference with what is said of it, in path order; none if there were more than [`Options::held`].
    pub findings: Vec<Judged<'p>>,
    /// The last line of a scan.
    pub summary: Summary,
    /// How the comparison ended.
    pub outcome: Outcome,
    /// What [`Summary::unverifiable`] counts, by reason; no zeros.
    pub gaps: BTreeMap<Reason, u64>,
    /// Bits of all alerts and of the end: 0 is complete and clean.
    pub found: u8,
}

/// How many paths each kind of difference concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Tally {
    /// On disk, not sealed; a collapsed drift counts all that it stands for.
    pub added: u64,
    /// Sealed, not on disk.
    pub removed: u64,
    /// Different.
    pub changed: u64,
    /// Sealed entries that could not be established.
    pub unverifiable: u64,
    /// The same by reason, in the order of [`Reason::ALL`].
    pub gaps: [u64; Reason::ALL.len()],
    /// How many of the paths that were added, removed or changed are tolerated.
    pub tolerated: u64,
    /// Bits of the exit code.
    pub bits: u8,
}

impl Tally {
    /// Counts one drift from what was sealed as `tree`.
    pub fn count(&mut self, judged: &Judged<'_>, tree: &Tree) {
        self.bits |= judged.exit_bits();
        // What stands for others, and what could not be established, is never tolerated.
        self.tolerated += u64::from(!judged.is_alert());
        let drift = &judged.drift;
        match &drift.delta {
            // A directory that is added itself counts beside what is below it; a sealed one does not.
            Delta::Added { collapsed: Some(below), .. } => {
                self.added += below + u64::from(tree.find(&drift.path).is_none());
            }
            Delta::Added { collapsed: None, .. } => self.added += 1,
            Delta::Removed { .. } => self.removed += 1,
            Delta::Changed { .. } => self.changed += 1,
            Delta::Unverifiable { covers, reason, .. } => {
                self.unverifiable += covers;
                self.gaps[*reason as usize] += covers;
            }
        }
    }
}

/// Scans everything below `root` and judges what differs; `each` sees the drifts in order of discovery, from many threads.
/// `view` says which manifest it is.
pub fn report<'p>(
    root: &Root,
    expected: &dyn Expected,
    view: &ManifestView,
    options: &'p Options,
    pool: &Pool,
    cancel: &AtomicBool,
    each: &(dyn Fn(&Judged<'p>) + Sync),
) -> ScanReport<'p> {
    let manifest = expected.manifest();
    let judge = options.judge();
    let all = Mutex::new((Some(Vec::new()), Tally::default()));
    let outcome = compare(root, expected, options, &Scope::All, pool, cancel, &|drift| {
        let judged = judge.judged(drift);
        each(&judged);
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.1.count(&judged, &manifest.tree);
        all.0 = all.0.take().filter(|held| options.held.is_none_or(|most| held.len() < most)).map(|mut held| {
            held.push(judged);
            held
        });
    });
    let (findings, mut tally) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.gaps[Reason::Interrupted as usize] += outcome.unreached;
    let gaps = Reason::ALL.into_iter().map(|reason| (reason, tally.gaps[reason as usize]));
    let held = findings.is_some();
    let mut findings = findings.unwrap_or_default();
    findings.sort_by(|a, b| a.drift.path.cmp(&b.drift.path));
    if !outcome.complete() {
        tally.bits |= Change::Unverifiable as u8;
    }
    let observed_tree = if held { observed_tree(manifest, view, &findings, &outcome) } else { None };
    let compared = options.compared(manifest.header.profile);
    let own_state = outcome.own_state.iter().map(|path| path.escaped().to_string());
    let mounts = outcome.mounts.iter().filter(|path| options.wants_mount(path));
    let summary = Summary {
        complete: outcome.complete(),
        scope: if outcome.partial { "partial" } else { "full" }.into(),
        profile: compared.profile(),
        compared: compared.attributes(),
        fail_on: Vec::new(),
        added: tally.added,
        removed: tally.removed,
        changed: tally.changed,
        unverifiable: tally.unverifiable + outcome.unreached,
        tolerated: tally.tolerated,
        policy: options.policy.as_deref().map(PolicyView::from),
        unjudged: outcome.unjudged,
        entries: outcome.stats.entries,
        remembered: outcome.stats.remembered,
        files_hashed: outcome.stats.files_hashed,
        bytes_hashed: outcome.stats.bytes_hashed,
        duration_ms: u64::try_from(outcome.stats.duration.as_millis()).unwrap_or(u64::MAX),
        manifest: view.clone(),
        excluded: ExcludedView {
            manifest: manifest.header.excludes.iter().map(str::to_owned).collect(),
            local: options.local_excludes.iter().map(str::to_owned).chain(own_state).collect(),
            mounts: mounts.map(|path| path.escaped().to_string()).collect(),
            virtual_mounts: outcome.virtual_mounts.iter().map(|path| path.escaped().to_string()).collect(),
        },
        observed_tree,
    };
    ScanReport { findings, summary, outcome, gaps: gaps.filter(|(_, number)| *number > 0).collect(), found: tally.bits }
}

/// The digest of what is there, under the manifest's terms, if nothing was left out, left open or left unread.
fn observed_tree(
    manifest: &Manifest,
    view: &ManifestView,
    findings: &[Judged<'_>],
    outcome: &Outcome,
) -> Option<OciDigest> {
    if outcome.partial || !outcome.complete() || !outcome.unjudged.is_nothing() {
        return None;
    }
    if findings.is_empty() {
        return Some(view.tree);
    }
    let tree = apply(&manifest.tree, findings.iter().map(|judged| &judged.drift))?;
    Some(Manifest { header: manifest.header.clone(), tree }.name())
}
