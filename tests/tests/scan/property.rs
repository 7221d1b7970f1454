//! On random trees and random tampering, a scan finds what the second opinion finds, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_agent::scan::Options;
use driftlock_common::drift::{Attribute, Attributes, Delta, Drift, apply};
use driftlock_common::finding::Unjudged;
use driftlock_common::manifest::Manifest;
use driftlock_common::path::TreePath;
use driftlock_common::policy::Policy;
use driftlock_common::profile::Profile;
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use libtest_mimic::Trial;

use super::oracle::{self, Difference, Facts, Look};
use super::{root_trial, subject, trial};

const SEEDS: u64 = 300;
pub(crate) const PROFILES: [Profile; 3] = [Profile::Content, Profile::Portable, Profile::Full];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("property::a_scan_equals_a_naive_comparison", || seeds(0, false)),
        root_trial("property::a_scan_equals_a_naive_comparison_with_owners_devices_and_capabilities", || {
            seeds(1 << 32, true)
        }),
    ]
}

fn seeds(first: u64, privileged: bool) -> Result<()> {
    (first..first + SEEDS).try_for_each(|seed| one(seed, privileged).with_context(|| format!("seed {seed}")))
}

fn one(seed: u64, privileged: bool) -> Result<()> {
    let level = usize::try_from(seed % 3)?;
    let profile = PROFILES[level];
    let temp = tempfile::tempdir()?;
    let root = temp.path();
    let mut random = RandomTree::new(seed, HOSTILE, privileged);
    random.fill(root)?;

    // Also with less than was sealed: another profile, and some of its attributes.
    let narrow = usize::try_from(seed / 3 % 3)?.min(level);
    let only: Attributes =
        Attribute::ALL.into_iter().filter(|a| seed.wrapping_mul(0x9e37_79b9) >> *a as u8 & 1 == 1).collect();

    let before = oracle::look(root, level)?;
    let narrow_before = oracle::look(root, narrow)?;
    let manifest = subject::seal(root, profile)?;
    ensure!(Manifest::decode(&manifest.encode())? == manifest, "the manifest does not read as it was written");
    let sealed: BTreeSet<TreePath> = manifest.tree.iter().map(|id| manifest.tree.path(id)).collect();
    let there: BTreeSet<TreePath> = before.keys().map(|path| TreePath::new(path.clone())).collect::<Result<_, _>>()?;
    ensure!(sealed == there, "sealed {sealed:?}, there is {there:?}");
    let (drifts, outcome) = subject::scan(root, &manifest, &Options::default())?;
    ensure!(drifts.is_empty() && outcome.complete(), "undisturbed: {drifts:?}");

    random.tamper(root)?;
    let expected = oracle::differences(&before, &oracle::look(root, level)?);
    let (drifts, outcome) = subject::scan(root, &manifest, &Options::default())?;
    ensure_found(&expected, &drifts)?;
    ensure!(outcome.complete());

    unread(root, &manifest, &before, &oracle::look(root, level)?)?;

    let expected = oracle::differences(&narrow_before, &oracle::look(root, narrow)?);
    let expected: BTreeSet<Difference> = expected.into_iter().filter_map(|difference| keep(difference, only)).collect();
    let options = Options { profile: Some(PROFILES[narrow]), only: Some(only), ..Options::default() };
    let (narrowed, outcome) = subject::scan(root, &manifest, &options)?;
    ensure_found(&expected, &narrowed).with_context(|| format!("{} {only:?}", PROFILES[narrow].name()))?;
    ensure!(outcome.complete());

    // The sealed tree with its drifts is the tree that is there.
    let applied = apply(&manifest.tree, &drifts).context("nothing was left open")?;
    let applied = Manifest { header: manifest.header, tree: applied }.name();
    ensure!(applied == subject::seal(root, profile)?.name(), "the drifts do not lead to the tree that is there");
    Ok(())
}

/// Where everything may be anything, what is found is the same but for content of the same size, and of what gives rights,
/// or did, that too.
fn unread(root: &Path, manifest: &Manifest, before: &Look, now: &Look) -> Result<()> {
    let any = "version = 1\nname = 'p'\n[[rule]]\nid = 'r'\npath = '**'\nallow = 'any'\nreason = 'x'\n";
    let options = Options { policy: Some(Arc::new(Policy::parse(any.as_bytes())?)), ..Options::default() };
    let (drifts, outcome) = subject::scan(root, manifest, &options)?;
    let mut left = BTreeMap::new();
    for (path, is) in now {
        let Some(size) = is.size() else { continue };
        let mode = fs::symlink_metadata(root.join(OsStr::from_bytes(path)))?.mode();
        let rights = is.gives_rights() || mode & 0o6000 != 0 || before.get(path).is_some_and(Facts::gives_rights);
        if !rights {
            left.insert(path, size);
        }
    }
    let mut expected = BTreeSet::new();
    for (path, change, mut attributes) in oracle::differences(before, now) {
        let same_size = left.get(&path).is_some_and(|size| before.get(&path).and_then(Facts::size) == Some(*size));
        attributes.retain(|name| *name != "content" || !same_size);
        if change != "changed" || !attributes.is_empty() {
            expected.insert((path, change, attributes));
        }
    }
    ensure_found(&expected, &drifts).context("under a policy")?;
    let unjudged = Unjudged { entries: left.len().try_into()?, bytes: left.values().sum::<usize>().try_into()? };
    ensure!(outcome.complete() && outcome.unjudged == unjudged, "{:?}, not {unjudged:?}", outcome.unjudged);
    Ok(())
}

pub(crate) fn ensure_found(expected: &BTreeSet<Difference>, drifts: &[Drift]) -> Result<()> {
    let found: BTreeSet<Difference> = drifts
        .iter()
        .map(|drift| {
            let attributes = match &drift.delta {
                Delta::Changed { attributes, .. } => {
                    attributes.iter().map(Attribute::name).collect::<BTreeSet<_>>().into_iter().collect()
                }
                Delta::Added { .. } | Delta::Removed { .. } | Delta::Unverifiable { .. } => Vec::new(),
            };
            (drift.path.as_bytes().to_vec(), drift.change().name(), attributes)
        })
        .collect();
    let (missed, raised): (Vec<_>, Vec<_>) =
        (expected.difference(&found).collect(), found.difference(expected).collect());
    ensure!(missed.is_empty() && raised.is_empty(), "missed {missed:?}, raised {raised:?}");
    Ok(())
}

/// What is left of a difference where only some attributes are compared, and the type.
fn keep((path, change, mut attributes): Difference, only: Attributes) -> Option<Difference> {
    let wanted = |name: &str| name == "type" || only.iter().any(|attribute| attribute.name() == name);
    attributes.retain(|name| wanted(name));
    (change != "changed" || !attributes.is_empty()).then_some((path, change, attributes))
}
