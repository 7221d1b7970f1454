//! What a host changes by itself, changed by the very programs that do it: under the policy for it that is no alert, and
//! one change more that none of them makes is that alert alone.

mod day;
mod plant;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    trials.extend(day::trials());
    run(trials)
}
