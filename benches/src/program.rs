//! Owns running a program to its end: how long it takes, and how much memory it takes. Must not own which program.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::wait::pass;

/// Between two looks at the memory of a program.
const LOOK: Duration = Duration::from_millis(2);

/// How long `command` takes; what it writes goes nowhere.
///
/// # Errors
/// If it cannot be started, or does not end with 0.
pub fn timed(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let status = quiet(command).status().with_context(|| format!("{command:?}"))?;
    let elapsed = started.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}: is the tree being changed?");
    Ok(elapsed)
}

/// The most memory of its own that `command` had, in bytes: anonymous pages that are resident (`RssAnon`), looked at
/// every two milliseconds. What of its files is mapped is not counted.
///
/// # Errors
/// As [`timed`].
pub fn memory(command: &mut Command) -> Result<u64> {
    let mut child = quiet(command).spawn().with_context(|| format!("{command:?}"))?;
    let file = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // It may have ended meanwhile, and then has no memory.
        let text = fs::read_to_string(&file).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        most = most.max(kib.map_or(Ok(0), str::parse::<u64>)? * 1024);
        pass(LOOK);
    };
    ensure!(status.success(), "{command:?} ended with {status}: is the tree being changed?");
    ensure!(most > 0, "{command:?} ended before its memory could be looked at");
    Ok(most)
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}
