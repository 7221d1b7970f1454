//! Other programs' manifests and ours: what they verify of an export, what is read of theirs, and what neither takes.

mod checked;
mod place;
mod read;
mod refused;
mod round;

use std::process::ExitCode;

use driftlock_tests::require;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for list in [checked::trials(), read::trials(), refused::trials(), round::trials()] {
        trials.extend(list);
    }
    require::run(trials)
}
