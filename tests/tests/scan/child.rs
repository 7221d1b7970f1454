//! This binary, started again: as another user, with other limits, in another mount namespace, or as the command itself.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use driftlock_agent::cli::Cli;
use driftlock_agent::scan::{Mounts, Options};
use driftlock_common::drift::Delta;
use driftlock_common::manifest::Manifest;
use nix::sys::resource::{Resource, setrlimit};

use super::subject;

/// The user and group that nobody is.
const NOBODY: u32 = 65534;

/// The word that makes a child of this binary.
const CHILD: &str = "--child";

/// Runs as a child, if that is what this process was started for.
pub(crate) fn main() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    if args.next()? != CHILD {
        return None;
    }
    let rest: Vec<OsString> = args.collect();
    Some(match rest.split_first() {
        Some((verb, rest)) if verb == "driftlock" => command(rest),
        Some((verb, rest)) if verb == "scan" => scan(rest).unwrap_or_else(|error| {
            let _closed = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }),
        _ => ExitCode::from(99),
    })
}

/// A child that runs `driftlock` with `args`.
pub(crate) fn driftlock<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = child("driftlock");
    command.args(args);
    command
}

/// A child that scans `root` under `limit` descriptors (0: as they are), and prints a line for each drift.
pub(crate) fn scanning(root: &Path, manifest: &Path, limit: u64, mounts: &str) -> Command {
    let mut command = child("scan");
    command.arg(root).arg(manifest).arg(limit.to_string()).arg(mounts);
    command
}

/// As nobody, if this process is root.
pub(crate) fn unprivileged(command: &mut Command) -> &mut Command {
    if nix::unistd::geteuid().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

/// What a child wrote, if it ended with 0.
pub(crate) fn output(command: &mut Command) -> Result<Vec<String>> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

fn child(verb: &str) -> Command {
    // Found by the child itself, so that a user who cannot come to its directory can run it too.
    let mut command = Command::new("/proc/self/exe");
    command.args([CHILD, verb]).env("NO_COLOR", "1");
    command
}

fn command(args: &[OsString]) -> ExitCode {
    let args = [OsString::from("driftlock")].into_iter().chain(args.iter().cloned());
    let Ok(cli) = Cli::try_parse_from(args) else { return ExitCode::from(64) };
    ExitCode::from(driftlock_agent::command::run(cli).code())
}

fn scan(args: &[OsString]) -> Result<ExitCode> {
    let [root, manifest, limit, mounts] = args else { bail!("four arguments") };
    let manifest = Manifest::decode(&fs::read(PathBuf::from(manifest))?)?;
    let limit: u64 = limit.to_str().context("a number")?.parse()?;
    if limit > 0 {
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    }
    let mut options = Options::default();
    match mounts.to_str() {
        Some("report") => {}
        Some("skip") => options.mounts = Mounts::Skip,
        Some("cross") => options.mounts = Mounts::Cross,
        Some(allowed) => drop(options.mounts_allowed.insert(subject::path(allowed))),
        None => bail!("a word"),
    }
    let (drifts, outcome) = subject::scan(Path::new(root), &manifest, &options)?;
    let mut stdout = std::io::stdout().lock();
    for drift in &drifts {
        let path = drift.path.escaped();
        match &drift.delta {
            Delta::Unverifiable { reason, covers, .. } => writeln!(stdout, "unverifiable {path} {reason} {covers}")?,
            Delta::Added { unverified: Some(unverified), .. } | Delta::Changed { unverified: Some(unverified), .. } => {
                writeln!(stdout, "{} {path} {}", drift.change(), unverified.reason)?;
            }
            Delta::Added { .. } | Delta::Changed { .. } | Delta::Removed { .. } => {
                writeln!(stdout, "{} {path}", drift.change())?;
            }
        }
    }
    let mounts: Vec<String> = outcome.mounts.iter().map(|path| path.escaped().to_string()).collect();
    let complete = if outcome.complete() { "complete" } else { "incomplete" };
    let partial = if outcome.partial { "partial" } else { "full" };
    writeln!(stdout, "{complete} {partial} [{}]", mounts.join(" "))?;
    Ok(ExitCode::SUCCESS)
}
