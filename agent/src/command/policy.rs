//! `driftlock policy`: what can be known of a policy without a host. Owns reading policy files; each command owns what it
//! says.

mod cases;
mod check;
mod explain;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::policy::{MAX_POLICY, Policy, PolicyError};

use crate::cli::{PolicyArgs, PolicyVerb};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};

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
    Policy::parse(&read(path)?).map_err(|error| malformed(path, &error))
}

/// The bytes of a file, but no more than a policy may have and one.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let input = |error| Failure::input(shown(path), error);
    let file = File::open(path).map_err(input)?;
    if !file.metadata().map_err(input)?.is_file() {
        return Err(input(io::Error::new(io::ErrorKind::IsADirectory, "not a regular file")));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_POLICY).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(input)?;
    Ok(bytes)
}

/// Says every problem but the last, which becomes the failure.
fn malformed(path: &Path, error: &PolicyError) -> Failure {
    let mut lines: Vec<String> = error.problems.iter().map(|problem| format!("{}:{problem}", shown(path))).collect();
    let last = lines.pop().unwrap_or_default();
    lines.iter().for_each(|line| output::say(line));
    Failure::new(Exit::Malformed, anyhow!(last))
}

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

/// Writes the answer.
fn answer(text: &str) -> Result<(), Failure> {
    let mut stdout = Output::stdout();
    stdout.write(text.as_bytes())?;
    stdout.finish()?;
    Ok(())
}
