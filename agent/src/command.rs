//! One file for each verb. Owns dispatch and the last line of an error; each verb owns what it does.

pub mod agent;
mod ask;
pub mod assign;
pub mod attach;
pub mod check_config;
pub mod diff;
pub mod doctor;
pub mod enroll;
pub mod export;
pub mod keygen;
pub mod policy;
pub mod push;
pub mod rescan;
pub mod scan;
pub mod seal;
mod sealed;
pub mod show;
pub mod status;
pub mod wait;
pub mod sign;
pub mod verify;

use driftlock_common::exit::Exit;

use crate::cli::{Cli, Verb};
use crate::{output, sys};

/// Runs the verb; an error becomes one line on stderr.
pub fn run(cli: Cli) -> Exit {
    let outcome = match cli.verb {
        Verb::Seal(args) => seal::run(args),
        Verb::Scan(args) => scan::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Show(args) => show::run(args),
        Verb::Export(args) => export::run(args),
        Verb::Keygen(args) => keygen::run(args),
        Verb::Sign(args) => sign::run(args),
        Verb::Verify(args) => verify::run(args),
        Verb::Attach(args) => attach::run(args),
        Verb::Assign(args) => assign::run(args),
        Verb::Enroll(args) => enroll::run(args),
        Verb::Push(args) => push::run(args),
        Verb::Agent(args) => agent::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Rescan(args) => rescan::run(args),
        Verb::Wait(args) => wait::run(args),
        Verb::CheckConfig(args) => check_config::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Policy(args) => policy::run(args),
    };
    outcome.unwrap_or_else(|failure| {
        output::complain(&failure);
        failure.exit
    })
}

/// Makes every panic, on any thread, end the process with the code for a bug: an agent that is half alive is worse.
#[expect(clippy::exit, reason = "a panic has no way back to main")]
pub fn exit_70_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // How the standard library says that there is no memory for a new thread's signal stack. That is no bug.
        const NO_STACK: &str = "failed to allocate an alternative stack";
        if panic.payload_as_str().is_some_and(|text| text.starts_with(NO_STACK)) {
            sys::end_without_memory();
        }
        report(panic);
        std::process::exit(Exit::Bug.code().into());
    }));
}
