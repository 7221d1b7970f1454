//! Owns the result of a scan of everything: its drifts in order, its summary and its exit code. Must not own the forms in which
//! they are shown.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use driftlock_common::digest::OciDigest;
use driftlock_common::drift::{Change, Delta, Drift, apply};
use driftlock_common::finding::{ExcludedView, ManifestView, Summary, Unjudged};
use driftlock_common::manifest::Manifest;
use driftlock_common::tree::Tree;

use super::{Expected, Options, Outcome, Root, Scope, compare};
use crate::pool::Pool;

/// The result of a scan of everything.
#[derive(Clone, Debug)]
pub struct ScanReport {
    /// Every difference, in path order; none if there were more than [`Options::held`].
    pub drifts: Vec<Drift>,
    /// The last line of a scan.
    pub summary: Summary,
    /// How the comparison ended.
    pub outcome: Outcome,
    /// Bits of all drifts and of the end: 0 is complete and clean.
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
    /// Bits of the exit code.
    pub bits: u8,
}

impl Tally {
    /// Counts one drift from what was sealed as `tree`.
    pub fn count(&mut self, drift: &Drift, tree: &Tree) {
        self.bits |= drift.exit_bits();
        match &drift.delta {
            // A directory that is added itself counts beside what is below it; a sealed one does not.
            Delta::Added { collapsed: Some(below), .. } => {
                self.added += below + u64::from(tree.find(&drift.path).is_none());
            }
            Delta::Added { collapsed: None, .. } => self.added += 1,
            Delta::Removed { .. } => self.removed += 1,
            Delta::Changed { .. } => self.changed += 1,
            Delta::Unverifiable { covers, .. } => self.unverifiable += covers,
        }
    }
}

/// Scans everything below `root`; `each` sees the drifts in order of discovery, from many threads. `view` says which
/// manifest it is.
pub fn report(
    root: &Root,
    expected: &dyn Expected,
    view: &ManifestView,
    options: &Options,
    pool: &Pool,
    cancel: &AtomicBool,
    each: &(dyn Fn(&Drift) + Sync),
) -> ScanReport {
    let manifest = expected.manifest();
    let all = Mutex::new((Some(Vec::new()), Tally::default()));
    let outcome = compare(root, expected, options, &Scope::All, pool, cancel, &|drift| {
        each(&drift);
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.1.count(&drift, &manifest.tree);
        all.0 = all.0.take().filter(|drifts| options.held.is_none_or(|most| drifts.len() < most)).map(|mut drifts| {
            drifts.push(drift);
            drifts
        });
    });
    let (drifts, mut tally) = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    let held = drifts.is_some();
    let mut drifts = drifts.unwrap_or_default();
    drifts.sort_by(|a, b| a.path.cmp(&b.path));
    if !outcome.complete() {
        tally.bits |= Change::Unverifiable as u8;
    }
    let observed_tree = if held { observed_tree(manifest, view, &drifts, &outcome) } else { None };
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
        tolerated: 0,
        policy: None,
        unjudged: Unjudged::default(),
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
    ScanReport { drifts, summary, outcome, found: tally.bits }
}

/// The digest of what is there, under the manifest's terms, if nothing was left out or left open.
fn observed_tree(manifest: &Manifest, view: &ManifestView, drifts: &[Drift], outcome: &Outcome) -> Option<OciDigest> {
    if outcome.partial || !outcome.complete() {
        return None;
    }
    if drifts.is_empty() {
        return Some(view.tree);
    }
    let tree = apply(&manifest.tree, drifts)?;
    Some(Manifest { header: manifest.header.clone(), tree }.name())
}
