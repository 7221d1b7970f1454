//! The product as the tests call it: sealing and scanning in this process.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use driftlock_agent::pool::Pool;
use driftlock_agent::scan::{Observation, ObserveTerms, Options, Outcome, Root, Scope, compare, observe};
use driftlock_common::digest::Algorithm;
use driftlock_common::drift::Drift;
use driftlock_common::manifest::{Header, Manifest, Source, SourceKind};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

pub(crate) fn pool() -> Result<Pool> {
    Ok(Pool::new(NonZeroUsize::new(3))?)
}

pub(crate) fn look(root: &Path, profile: Profile) -> Result<Observation> {
    let terms = ObserveTerms { profile, content: Algorithm::Blake3, excludes: Excludes::none(), sha256: false };
    Ok(observe(&Root::open(root)?, &terms, &pool()?))
}

pub(crate) fn manifest_of(observation: Observation, profile: Profile) -> Manifest {
    let mut header = Header::new(profile, Algorithm::Blake3, Excludes::none());
    header.source =
        Some(Source { kind: SourceKind::Dir, manifest: None, config: None, platform: None, layers: Vec::new() });
    Manifest { header, tree: observation.tree }
}

/// Seals a root that can be read as a whole.
pub(crate) fn seal(root: &Path, profile: Profile) -> Result<Manifest> {
    let observation = look(root, profile)?;
    ensure!(observation.gaps.is_empty(), "gaps in {}: {:?}", root.display(), observation.gaps);
    Ok(manifest_of(observation, profile))
}

/// Scans everything; the drifts in path order.
pub(crate) fn scan(root: &Path, manifest: &Manifest, options: &Options) -> Result<(Vec<Drift>, Outcome)> {
    let found = Mutex::new(Vec::new());
    let never = AtomicBool::new(false);
    let push = |drift| found.lock().expect("no thread panics").push(drift);
    let outcome = compare(&Root::open(root)?, manifest, options, &Scope::All, &pool()?, &never, &push);
    let mut drifts = found.into_inner().expect("no thread panics");
    drifts.sort_by(|a, b| a.path.cmp(&b.path));
    ensure!(drifts.windows(2).all(|pair| pair[0].path != pair[1].path), "two drifts of one path: {drifts:?}");
    Ok((drifts, outcome))
}

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::new(text).expect("the tests' own paths are well formed")
}

/// Each drift as `change path`.
pub(crate) fn words(drifts: &[Drift]) -> Vec<String> {
    drifts.iter().map(|drift| format!("{} {}", drift.change(), drift.path.escaped())).collect()
}
