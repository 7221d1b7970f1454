//! The scanner against an independent second opinion, against attackers, and on the command line.

mod attack;
mod child;
mod command;
mod limit;
mod mount;
mod oracle;
mod property;
mod random;
mod subject;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Trial};

fn main() -> ExitCode {
    // The tests start this binary again where a process of its own is needed.
    if let Some(code) = child::main() {
        return code;
    }
    let mut trials = Vec::new();
    for list in [property::trials(), attack::trials(), limit::trials(), mount::trials(), command::trials()] {
        trials.extend(list);
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test.
fn trial(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
}

/// A test that needs root, and is shown as skipped without.
fn root_trial(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::ignorable_test(name, move || {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Completion::ignored_with("needs root: the user id is not 0"));
        }
        test().map(|()| Completion::Completed).map_err(|error| format!("{error:#}").into())
    })
}
