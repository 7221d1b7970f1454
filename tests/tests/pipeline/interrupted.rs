//! A scan that is told to end before it has looked at anything: no verdict in any form, and never clean.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::process::wait_for;
use driftlock_tests::require::trial;
use driftlock_tests::schema;
use driftlock_tests::wait::{PATIENCE, eventually};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::forms::{NEEDS, check_junit, run_of};
use super::{Sealed, arguments};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("an_interrupted_scan_is_an_error_in_both_forms", NEEDS, an_interrupted_scan)]
}

fn an_interrupted_scan() -> Result<()> {
    let sealed = Sealed::new()?;
    for format in ["sarif", "junit"] {
        let file = sealed.sandbox.path(format);
        let stderr = interrupted(&sealed, format, &file)?;
        ensure!(stderr.contains("interrupted: what was not looked at yet is not verified"), "{stderr}");
        if format == "junit" {
            schema::junit(&file)?;
            check_junit(&file, [0, 1, 0], 0)?;
            let said = schema::xpath(&file, "string(//testcase/error/@message)")?;
            ensure!(said.starts_with("9 sealed entries were not looked at"), "{said}");
            continue;
        }
        schema::sarif(&file)?;
        let run = run_of(&file)?;
        let invocation = &run["invocations"][0];
        ensure!(invocation["executionSuccessful"] == false && invocation["exitCode"] == 8, "{invocation}");
        let notifications = invocation["toolExecutionNotifications"].as_array().context("notifications")?;
        ensure!(notifications.len() == 1 && notifications[0]["descriptor"]["id"] == "interrupted", "{invocation}");
        ensure!(run["results"].as_array().is_some_and(Vec::is_empty), "nothing was looked at");
    }
    Ok(())
}

/// A scan that is told to end before it begins: its manifest comes through a pipe, once it has taken the signal. What it
/// wrote goes to `file`; what it said is returned.
fn interrupted(sealed: &Sealed, format: &str, file: &Path) -> Result<String> {
    let pipe = sealed.sandbox.path(format!("{format}.manifest"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let said = sealed.sandbox.path("stderr");
    let mut command = sealed.sandbox.bare_command(&binaries().driftlock);
    command.args(arguments(&pipe, sealed.tree.root(), &["--format", format]));
    let mut child = command.stdin(Stdio::null()).stdout(File::create(file)?).stderr(File::create(&said)?).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    // Refused until there is a reader: then the signals are taken care of.
    let mut writer =
        eventually("the manifest is opened", || File::options().write(true).custom_flags(flags).open(&pipe))?;
    kill(pid, Signal::SIGTERM)?;
    eventually("the signal is taken", || has_taken_the_signal(pid))?;
    writer.write_all(&fs::read(&sealed.manifest)?)?;
    drop(writer);
    let status = wait_for(&mut child, PATIENCE)?;
    let said = fs::read_to_string(&said)?;
    ensure!(status.code() == Some(8), "{status}: {said}");
    Ok(said)
}

/// Whether a thread of the process has taken SIGTERM, and blocks it no more: the scan's flag is set then. While it waits
/// for the signal it does not block it either, but then the signal is still there.
fn has_taken_the_signal(pid: Pid) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let holds = |field: &str| -> Result<bool> {
            let bits = status.lines().find_map(|line| line.strip_prefix(field)).context("proc(5) has it")?;
            Ok(u64::from_str_radix(bits.trim(), 16)? & (1 << (Signal::SIGTERM as i32 - 1)) != 0)
        };
        if !holds("ShdPnd:")? && !holds("SigBlk:")? {
            return Ok(());
        }
    }
    Err(anyhow!("every thread blocks it, or it is still there"))
}
