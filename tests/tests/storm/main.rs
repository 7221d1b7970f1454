//! A storm of changes over a watched tree, with an agent and a collector that are real and everything that can go wrong
//! beside it: once it is over, the collector's open findings are what an independent look says, path by path, attribute by
//! attribute; nothing was said of what never differed; and what was said has no hole.
//!
//! `DRIFTLOCK_TEST_SEEDS=N` runs N seeds of each case. `DRIFTLOCK_TEST_STORM=MINUTES` runs round after round instead, over
//! all cases, each with a seed of its own, which is printed; `DRIFTLOCK_TEST_SEED=N` says which is the first.

mod fault;
mod round;
mod soak;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use driftlock_tests::require::{run_at_once, trial_with};

use round::{CASES, Round};

fn main() -> ExitCode {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(minutes) = number("DRIFTLOCK_TEST_STORM") {
        return soak::run(Duration::from_secs(60 * minutes), number("DRIFTLOCK_TEST_SEED"));
    }
    let seeds = number("DRIFTLOCK_TEST_SEEDS").unwrap_or(1);
    let mut trials = Vec::new();
    for case in CASES {
        trials.push(trial_with(case.name(), case.needs(), move || {
            for seed in 1..=seeds {
                Round { case, seed, storm: Duration::from_millis(1000), keep: false }.run()?;
            }
            Ok(())
        }));
    }
    // A storm takes every core.
    run_at_once(1, trials)
}
