//! Scans in the midst of a storm of changes: none crashes or comes outside, and once it is quiet the next is exact.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::canary::Canary;
use driftlock_tests::drift::ensure_same;
use driftlock_tests::require;
use driftlock_tests::storm::Storm;
use libtest_mimic::Trial;

use super::case::{Case, during};

pub(crate) fn trials() -> Vec<Trial> {
    vec![require::trial("storm::a_scan_survives_a_storm_and_the_next_quiet_one_is_exact", &[], survived)]
}

fn survived() -> Result<()> {
    const SEEDS: u64 = 4;
    const SCANS: usize = 15;
    for seed in 0..SEEDS {
        let case = Case::new()?;
        // Where the storm's symlinks lead to, from every depth.
        let canary = Canary::new()?;
        for outside in [case.sandbox.tree("elsewhere")?, case.sandbox.tree("elsewhere-too")?] {
            outside.file("secret", "outside")?;
            canary.watch_all(outside.root())?;
        }
        let mut storm = Storm::prepare(&case.tree, seed)?;
        case.tree.symlink("out", "../elsewhere")?.symlink("out-too", "../elsewhere-too")?;
        case.tree.file("beside/steady", "sealed")?.file("beside/changed", "sealed")?;
        case.seal()?;
        fs::write(case.tree.path("beside/changed"), "other!")?;
        during(
            || {
                storm.change();
                Ok(())
            },
            || {
                for _ in 0..SCANS {
                    let told = case.scan()?;
                    let steady = |line: &String| line.contains(" beside") || line.contains(" out");
                    let beside: Vec<&String> = told.lines.iter().filter(|line| steady(line)).collect();
                    ensure!(beside == ["changed beside/changed content"], "{beside:?}");
                    let reasons = told.report.findings.iter().filter_map(|finding| finding["reason"].as_str());
                    let odd: Vec<&str> = reasons.filter(|reason| *reason != "unstable").collect();
                    ensure!(odd.is_empty(), "gaps for no reason: {odd:?}");
                    canary.is_untouched()?;
                }
                Ok(())
            },
        )
        .with_context(|| format!("seed {seed}"))?;
        // Now that it holds still: exactly what the second opinion finds, and beside that what was done here.
        let mut expected = storm.expected()?;
        for path in ["out", "out-too", "beside", "beside/steady", "beside/changed"] {
            expected.remove(&driftlock_tests::drift::Drift::added(path));
        }
        expected.insert(driftlock_tests::drift::Drift::changed("beside/changed", &["content"]));
        let told = case.scan()?;
        ensure_same(&expected, &told.report.drifts).with_context(|| format!("seed {seed}"))?;
        ensure!(told.report.summary["complete"] == true);
        canary.is_untouched()?;
    }
    Ok(())
}
