//! Signing through the command: keys, bundles, and what others make of both. Attaching to an image is in `registry`.

mod bundles;
mod keys;
mod outside;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    let mut trials = keys::trials();
    trials.extend(bundles::trials());
    trials.extend(outside::trials());
    run(trials)
}
