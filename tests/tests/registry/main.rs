//! `registry:` through the command: against a real registry, and against one that does whatever it can to deceive. What
//! takes as long as the limits of the product allow is tested beside the code, with shorter ones.

mod attached;
mod fake;
mod hostile;
mod login;
mod real;
mod server;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    let mut trials = real::trials();
    trials.extend(hostile::trials());
    trials.extend(login::trials());
    trials.extend(attached::trials());
    run(trials)
}
