//! What a host changes by itself, changed by the very programs that do it: under the policy for it that is no alert, and
//! one change more that none of them makes is that alert alone.

mod day;
mod hostile;
mod log;
mod plant;
mod rotated;
mod watched;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    trials.extend(day::trials());
    trials.extend(rotated::trials());
    trials.extend(watched::trials());
    trials.extend(hostile::trials());
    run(trials)
}
