//! Reading images and archives against readers that are not ours.

mod odd_tar;
mod readers;

use std::process::ExitCode;

use driftlock_tests::require;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for list in [readers::trials()] {
        trials.extend(list);
    }
    require::run(trials)
}
