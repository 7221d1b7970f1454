//! `driftlock policy`: what can be known of a policy without a host. Owns how a policy that is refused is said; each command
//! owns what it says.

mod cases;
mod check;
mod explain;

use std::path::Path;

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use driftlock_common::policy::{Policy, PolicyError};

use crate::cli::{PolicyArgs, PolicyVerb};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};
use crate::policy_file::{self, PolicyFileError, shown};

/// Runs the verb.
pub fn run(args: PolicyArgs) -> Outcome {
    match args.verb {
        PolicyVerb::Check(args) => check::run(&args),
        PolicyVerb::Explain(args) => explain::run(&args),
        PolicyVerb::Test(args) => cases::run(&args),
    }
}

/// A policy of a file. Everything that is wrong with it is said, a line each; the last is the failure.
pub(super) fn load(path: &Path) -> Result<Policy, Failure> {
    policy_file::load(path).map_err(refuse)
}

/// The bytes of a file, but no more than a policy may have and one.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    policy_file::read(path).map_err(refuse)
}

/// Says every problem but the last, which becomes the failure.
fn malformed(path: &Path, error: &PolicyError) -> Failure {
    refuse(PolicyFileError::malformed(path, error))
}

fn refuse(error: PolicyFileError) -> Failure {
    let PolicyFileError::Malformed(mut lines) = error else { return error.into() };
    let last = lines.pop().unwrap_or_default();
    lines.iter().for_each(|line| output::say(line));
    Failure::new(Exit::Malformed, anyhow!(last))
}

/// Writes the answer.
fn answer(text: &str) -> Result<(), Failure> {
    let mut stdout = Output::stdout();
    stdout.write(text.as_bytes())?;
    stdout.finish()?;
    Ok(())
}
