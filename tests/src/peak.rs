//! Owns the most memory that a command had resident, as the kernel counted it. Must not own how much that may be.

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};

use crate::sandbox::Finished;

/// The word that makes a test's own binary run another command and measure it: the kernel counts for all children of a
/// process together.
const MEASURE: &str = "--measure-peak";

/// Runs the command that this process was started to measure, if it was.
pub fn main() -> Option<ExitCode> {
    let mut words = env::args_os().skip(1);
    if words.next()? != MEASURE {
        return None;
    }
    let command = words.next()?;
    let status = Command::new(command).args(words).status();
    let kilobytes = getrusage(UsageWho::RUSAGE_CHILDREN).map(|usage| usage.max_rss());
    let code = status.ok().and_then(|status| u8::try_from(status.code()?).ok());
    let (Some(code), Ok(kilobytes)) = (code, kilobytes) else { return Some(ExitCode::FAILURE) };
    let _closed = writeln!(std::io::stderr(), "{MEASURE} {kilobytes}");
    Some(ExitCode::from(code))
}

/// What to write in front of a command, in a test whose `main` begins with [`main`].
///
/// # Errors
/// If the test does not know its own file.
pub fn words() -> Result<Vec<OsString>> {
    Ok(vec![env::current_exe()?.into(), MEASURE.into()])
}

/// The peak of a command that ended, in bytes; no less than what the measuring process has itself.
///
/// # Errors
/// If it was not measured.
pub fn of(finished: &Finished) -> Result<u64> {
    let line = finished.stderr.lines().find_map(|line| line.strip_prefix(MEASURE)).context("not measured")?;
    Ok(line.trim().parse::<u64>()? * 1024)
}
