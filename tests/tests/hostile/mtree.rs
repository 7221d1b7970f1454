//! On random trees and random tampering, the findings are those of NetBSD `mtree`, for every attribute that both know.

use std::collections::BTreeSet;
use std::env;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::drift::{Drift, ensure_same};
use driftlock_tests::mtree;
use driftlock_tests::random_tree::RandomTree;
use driftlock_tests::require::{self, Requirement};
use libtest_mimic::Trial;

use super::case::Case;

/// How many seeds for each profile, if not [`FEW`].
const SEEDS_VARIABLE: &str = "DRIFTLOCK_TEST_SEEDS";
const FEW: u64 = 100;

const PROFILES: [&str; 3] = ["content", "portable", "full"];

pub(crate) fn trials() -> Vec<Trial> {
    let of_profile = |profile: &'static str| {
        let needs: &[Requirement] = &[Requirement::Root, Requirement::Mtree];
        let name = format!("mtree::findings_under_{profile}_are_those_of_netbsd_mtree");
        require::trial_with(name, needs, move || seeds(profile))
    };
    PROFILES.map(of_profile).into()
}

fn seeds(profile: &str) -> Result<()> {
    let wished = env::var(SEEDS_VARIABLE).ok().map(|number| number.parse()).transpose();
    let seeds = wished.with_context(|| format!("{SEEDS_VARIABLE} is a number"))?.unwrap_or(FEW);
    let mut found = 0;
    for seed in 0..seeds {
        found += one(seed, profile).with_context(|| format!("seed {seed}"))?;
    }
    ensure!(found as u64 > seeds, "{found} differences in {seeds} trees");
    Ok(())
}

/// Returns how many differences there were.
fn one(seed: u64, profile: &str) -> Result<usize> {
    let case = Case::new()?;
    let mut random = RandomTree::new(seed, mtree::NAMES, true);
    random.fill(case.root())?;
    case.seal_under(profile)?;
    let description = mtree::describe(&case.sandbox, case.root(), profile)?;
    let undisturbed = mtree::compare(&case.sandbox, case.root(), &description)?;
    ensure!(undisturbed.is_empty(), "undisturbed, it says {undisturbed:?}");
    case.scan()?.expect([""; 0])?;

    random.tamper(case.root())?;
    let expected = mtree::compare(&case.sandbox, case.root(), &description)?;
    let told = case.scan()?;
    let found: BTreeSet<Drift> = told.report.drifts.into_iter().filter_map(known_to_both).collect();
    ensure_same(&expected, &found)?;
    Ok(found.len())
}

/// A difference without extended attributes, which `mtree` does not know.
fn known_to_both(mut drift: Drift) -> Option<Drift> {
    drift.attributes.remove("xattrs");
    (drift.change != "changed" || !drift.attributes.is_empty()).then_some(drift)
}
