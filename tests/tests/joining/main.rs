//! How a host joins a collector and stays: one command, whatever is interrupted or refused; certificates that are renewed and
//! replaced while the agent reports; and a scan that is told by a host that is gone after it. The collector is one that
//! misbehaves on command, with a CA that another library makes, unless a test says otherwise.

mod enroll;
mod report;
mod stay;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    run([enroll::trials(), stay::trials(), report::trials()].into_iter().flatten().collect())
}
