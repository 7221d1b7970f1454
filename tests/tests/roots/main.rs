//! Which root a scan is of: a directory, or the root of a process in namespaces of its own. Belongs here: what needs a real
//! process, a real mount or a real map of ids around the root. What is found in it is tested beside the scan.

mod held;
mod ids;
mod process;
mod virtuals;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    // The tests start this binary again, as the process that has a root.
    if let Some(code) = held::main() {
        return code;
    }
    let mut trials = process::trials();
    trials.extend(virtuals::trials());
    trials.extend(ids::trials());
    run(trials)
}
