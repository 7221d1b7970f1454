//! A scan that is told to end, before it has looked at anything or in the middle: what was verified by then in every form,
//! and never clean.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, anyhow, ensure};
use driftlock_common::manifest::Manifest;
use driftlock_common::node::Kind;
use driftlock_common::tree::TreeBuilder;
use driftlock_tests::binaries::binaries;
use driftlock_tests::drift::{Drift, Report, drifts, ensure_same};
use driftlock_tests::process::wait_for;
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::schema;
use driftlock_tests::wait::{PATIENCE, eventually};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::Value;

use super::forms::{NEEDS, check_junit, run_of};
use super::{Sealed, arguments};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("an_interrupted_scan_is_an_error_in_both_forms", NEEDS, an_interrupted_scan),
        trial("a_scan_interrupted_before_it_began_has_no_verdict", &[], no_verdict),
    ];
    for (name, signal) in [("sigint", Signal::SIGINT), ("sigterm", Signal::SIGTERM)] {
        for format in ["text", "json", "ndjson"] {
            let name = format!("{name}_ends_a_scan_with_what_was_verified_by_then_in_{format}");
            trials.push(trial_with(name, &[], move || in_the_middle(signal, format)));
        }
    }
    trials
}

fn no_verdict() -> Result<()> {
    let sealed = Sealed::new()?;
    for format in ["text", "json", "ndjson"] {
        let file = sealed.sandbox.path(format);
        let stderr = interrupted(&sealed, format, &file)?;
        ensure!(stderr.contains("interrupted: what was not looked at yet is not verified"), "{stderr}");
        let text = fs::read_to_string(&file)?;
        if format == "text" {
            let first = "not verified  0 added, 0 removed, 0 changed, 9 not verified; incomplete; 0 entries";
            ensure!(text.starts_with(first), "{text}");
            continue;
        }
        let summary: Value = serde_json::from_str(&text)?;
        let summary = if format == "json" { &summary["summary"] } else { &summary };
        ensure!(summary["complete"] == false && summary["unverifiable"] == 9, "{summary}");
        ensure!(summary.get("observed_tree").is_none(), "{summary}");
    }
    Ok(())
}

/// One thread looks at names in their order; what comes last takes hours, and it is at that when it is told to end.
fn in_the_middle(signal: Signal, format: &str) -> Result<()> {
    const TERABYTE: u64 = 1 << 40;
    /// More than all the rest together, the program itself included.
    const AT_THE_LAST: u64 = 256 * 1024 * 1024;
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    tree.file("app", "sealed\n")?.file("conf", "sealed\n")?.file("later", "")?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "manifest")?;
    let manifest = sealed_with_size(&manifest, "later", TERABYTE)?;
    tree.file("conf", "SEALED\n")?.file("extra", "added\n")?;
    File::options().append(true).open(tree.path("later"))?.set_len(TERABYTE)?;

    let (out, err) = (sandbox.path("stdout"), sandbox.path("stderr"));
    let mut command = sandbox.bare_command(&binaries().driftlock);
    command.args(arguments(&manifest, tree.root(), &["--threads", "1", "--format", format]));
    let mut child = command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    eventually("the last file is being read", || {
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).context("proc_pid_io(5) has it")?;
        ensure!(read.parse::<u64>()? > AT_THE_LAST, "{read} bytes");
        Ok::<_, anyhow::Error>(())
    })?;
    kill(pid, signal)?;
    let status = wait_for(&mut child, PATIENCE)?;
    let (text, said) = (fs::read_to_string(&out)?, fs::read_to_string(&err)?);
    ensure!(status.code() == Some(13), "{status}: {text}{said}");
    ensure!(said == "driftlock: interrupted: what was not looked at yet is not verified\n", "{said:?}");
    if format == "text" {
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines[0].starts_with("changed       conf  content"), "{text}");
        ensure!(lines[1].starts_with("added         extra  file of 6 bytes"), "{text}");
        let sum = "drifted       1 added, 0 removed, 1 changed, 1 not verified; incomplete; 3 entries";
        ensure!(lines[2].starts_with(sum), "{text}");
        return Ok(());
    }
    let report = if format == "ndjson" {
        Report::from_ndjson(&Finished { code: status.code(), signal: None, stdout: text.into_bytes(), stderr: said })?
    } else {
        let whole: Value = serde_json::from_str(&text)?;
        let findings = whole["findings"].as_array().context("findings")?.clone();
        Report { drifts: drifts(&findings)?, findings, summary: whole["summary"].clone() }
    };
    ensure_same(&BTreeSet::from([Drift::changed("conf", &["content"]), Drift::added("extra")]), &report.drifts)?;
    let summary = &report.summary;
    ensure!(summary["complete"] == false && summary["unverifiable"] == 1 && summary["entries"] == 3, "{summary}");
    ensure!(summary.get("observed_tree").is_none(), "{summary}");
    Ok(())
}

/// The manifest in `file`, with another size of the file at `path`: to seal one of that size would take hours.
fn sealed_with_size(file: &Path, path: &str, size: u64) -> Result<PathBuf> {
    let before = Manifest::decode(&fs::read(file)?)?;
    let tree = &before.tree;
    let mut builder = TreeBuilder::new();
    for id in tree.iter() {
        let (at, mut node) = (tree.path(id), tree.node(id).clone());
        if let (true, Kind::File { size: sealed, .. }) = (at.as_bytes() == path.as_bytes(), &mut node.kind) {
            *sealed = Some(size);
        }
        builder.push(&at, node, tree.origin(id))?;
    }
    let other = file.with_extension("other");
    fs::write(&other, Manifest { header: before.header, tree: builder.finish() }.encode())?;
    Ok(other)
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
