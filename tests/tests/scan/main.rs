//! The scanner against an independent second opinion, against attackers, and on the command line.

mod attack;
mod child;
mod command;
mod limit;
mod mount;
mod oracle;
mod policy;
mod property;
mod subject;
mod sweep;

use std::process::ExitCode;

use anyhow::Result;
use driftlock_tests::require::{self, Requirement};
use libtest_mimic::Trial;

fn main() -> ExitCode {
    // The tests start this binary again where a process of its own is needed.
    if let Some(code) = child::main() {
        return code;
    }
    let mut trials = Vec::new();
    for list in [
        property::trials(),
        attack::trials(),
        limit::trials(),
        mount::trials(),
        command::trials(),
        policy::trials(),
        sweep::trials(),
    ] {
        trials.extend(list);
    }
    require::run(trials)
}

/// A test that any machine can run.
fn trial(name: &str, test: fn() -> Result<()>) -> Trial {
    require::trial(name, &[], test)
}

/// A test that needs root, and is shown as skipped without.
fn root_trial(name: &str, test: fn() -> Result<()>) -> Trial {
    require::trial(name, &[Requirement::Root], test)
}
