//! `driftlock scan`: forms, exit codes, and how it ends early.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use driftlock_common::finding::{Finding, Summary};
use driftlock_common::profile::Profile;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::{child, root_trial, subject, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("command::the_exit_code_sums_what_was_found", exit_codes),
        trial("command::what_cannot_be_scanned_is_an_error_of_the_table", errors),
        trial("command::the_three_forms_say_the_same", forms),
        trial("command::the_observed_tree_is_what_sealing_again_would_name", observed_tree),
        trial("command::a_signal_ends_a_scan_early_and_it_is_not_complete", signal),
        trial("command::a_reader_that_leaves_ends_a_scan_quietly", reader_leaves),
        root_trial("command::a_root_that_may_not_be_read_is_refused", refused),
    ]
}

/// A sealed root: `root` beside `manifest`.
fn sealed() -> Result<TempDir> {
    let temp = tempfile::tempdir()?;
    fs::set_permissions(temp.path(), Permissions::from_mode(0o755))?;
    fs::create_dir_all(temp.path().join("root/etc"))?;
    fs::write(temp.path().join("root/etc/conf"), "sealed")?;
    fs::write(temp.path().join("root/app"), "sealed")?;
    seal(temp.path(), Profile::Portable)?;
    Ok(temp)
}

fn seal(temp: &Path, profile: Profile) -> Result<()> {
    fs::write(temp.join("manifest"), subject::seal(&temp.join("root"), profile)?.encode())?;
    Ok(())
}

fn scan(temp: &Path, more: &[&str]) -> Command {
    let mut command = child::driftlock(["scan", "--manifest"]);
    command.arg(temp.join("manifest")).args(more).arg(temp.join("root")).stdin(Stdio::null());
    command
}

/// Exit code, stdout and stderr.
fn run(command: &mut Command) -> Result<(i32, String, String)> {
    let output = command.output()?;
    let code = output.status.code().with_context(|| format!("{}", output.status))?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

fn exit_codes() -> Result<()> {
    type Disturb = fn(&Path) -> std::io::Result<()>;
    let table: [(&str, i32, Disturb); 6] = [
        ("nothing", 0, |_| Ok(())),
        ("added", 1, |root| fs::write(root.join("new"), "")),
        ("removed", 2, |root| fs::remove_file(root.join("app"))),
        ("changed", 4, |root| fs::write(root.join("app"), "other!")),
        ("renamed", 3, |root| fs::rename(root.join("app"), root.join("new"))),
        ("emptied", 2, |root| {
            fs::remove_file(root.join("app"))?;
            fs::remove_dir_all(root.join("etc"))
        }),
    ];
    for (what, code, disturb) in table {
        let temp = sealed()?;
        disturb(&temp.path().join("root"))?;
        let (found, stdout, stderr) = run(&mut scan(temp.path(), &[]))?;
        ensure!(found == code, "{what}: {found}, not {code}\n{stdout}{stderr}");
        ensure!(stdout.contains("unsigned, learned from a directory"), "{stdout}");
        ensure!((what == "emptied") == stderr.contains("is empty: is it the right directory"), "{what}: {stderr}");
    }
    Ok(())
}

fn errors() -> Result<()> {
    let temp = sealed()?;
    let at = |name: &str| temp.path().join(name).display().to_string();
    fs::write(temp.path().join("broken"), "{\"driftlock\":1")?;
    for (manifest, root, more, code, word) in [
        ("manifest", "none", &[][..], 66, "none"),
        ("manifest", "manifest", &[], 66, "is not a directory"),
        ("none", "root", &[], 66, "none"),
        ("root", "root", &[], 66, "root"),
        ("broken", "root", &[], 65, "broken"),
        ("manifest", "root", &["--exclude", "a["], 64, "exclude \"a[\""),
        ("manifest", "root", &["--profile", "full"], 64, "sealed with portable"),
    ] {
        let mut command = child::driftlock(["scan", "--manifest"]);
        command.arg(at(manifest)).args(more).arg(at(root));
        let (found, stdout, stderr) = run(&mut command)?;
        ensure!(found == code && stderr.contains(word), "{manifest} {root} {more:?}: {found}, {stderr}");
        ensure!(stdout.is_empty() && stderr.lines().count() == 1, "{stdout}{stderr}");
    }
    Ok(())
}

fn forms() -> Result<()> {
    let temp = sealed()?;
    let root = temp.path().join("root");
    fs::write(root.join("etc/conf"), "longer than sealed")?;
    fs::remove_file(root.join("app"))?;
    fs::write(root.join("new\nline"), "")?;
    let (code, ndjson, _) = run(&mut scan(temp.path(), &["--format", "ndjson"]))?;
    ensure!(code == 7);
    let mut lines: Vec<&str> = ndjson.lines().collect();
    let last = lines.pop().context("a summary")?;
    ensure!(last.starts_with("{\"type\":\"summary\",\"complete\":true,\"scope\":\"full\","), "{last}");
    ensure!(lines.iter().all(|line| line.starts_with("{\"type\":\"finding\",\"path\":")), "{ndjson}");
    let mut findings: Vec<Finding> = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    findings.sort_by_key(Finding::tree_path);

    let (code, json, _) = run(&mut scan(temp.path(), &["--format", "json"]))?;
    ensure!(code == 7);
    let json: Value = serde_json::from_str(&json)?;
    let of_json: Vec<Finding> = serde_json::from_value(json["findings"].clone())?;
    ensure!(of_json == findings, "{of_json:?} {findings:?}");
    let mut summaries: [Summary; 2] = [serde_json::from_str(last)?, serde_json::from_value(json["summary"].clone())?];
    summaries.iter_mut().for_each(|summary| summary.duration_ms = 0);
    ensure!(summaries[0] == summaries[1]);

    let (code, text, stderr) = run(&mut scan(temp.path(), &[]))?;
    ensure!(code == 7 && stderr.is_empty(), "{stderr}");
    let expected = [
        "removed       app  file",
        "changed       etc/conf  content 6 → 18 bytes",
        "added         new\\x0aline  file of 0 bytes",
        "drifted       1 added, 1 removed, 1 changed; 3 entries",
    ];
    for (line, expected) in text.lines().zip(expected) {
        ensure!(line.starts_with(expected), "{line:?} is not {expected:?}");
    }
    ensure!(!text.contains('\x1b'), "colour where there is no terminal");

    let (code, text, _) = run(&mut scan(temp.path(), &["--exclude", "etc/conf", "--profile", "content"]))?;
    ensure!(code == 3 && text.contains("scope         partial, profile content; left out locally: etc/conf"), "{text}");
    Ok(())
}

fn observed_tree() -> Result<()> {
    let temp = sealed()?;
    let root = temp.path().join("root");
    fs::write(root.join("app"), "other!")?;
    fs::create_dir(root.join("new"))?;
    fs::remove_dir_all(root.join("etc"))?;
    let summary = |more: &[&str]| -> Result<Summary> {
        let (_, stdout, _) = run(&mut scan(temp.path(), &[&["--format", "ndjson"], more].concat()))?;
        Ok(serde_json::from_str(stdout.lines().last().context("a summary")?)?)
    };
    let now = subject::seal(&root, Profile::Portable)?.name();
    ensure!(summary(&[])?.observed_tree == Some(now));
    ensure!(summary(&["--exclude", "none"])?.observed_tree.is_none());
    ensure!(summary(&["--profile", "content"])?.observed_tree.is_none());
    Ok(())
}

/// A root with more to say than fits into a pipe.
fn talkative() -> Result<TempDir> {
    let temp = sealed()?;
    for directory in 0..100 {
        let directory = temp.path().join(format!("root/{directory}"));
        fs::create_dir(&directory)?;
        (0..100).try_for_each(|i| File::create(directory.join(i.to_string())).map(drop))?;
    }
    Ok(temp)
}

fn signal() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let temp = talkative()?;
        let mut child =
            scan(temp.path(), &["--format", "ndjson"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut first = String::new();
        stdout.read_line(&mut first)?;
        // The scan is under way, and will soon wait for the pipe to be read.
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, signal)?;
        while is_pending(pid, signal)? {
            std::thread::yield_now();
        }
        let mut rest = String::new();
        stdout.read_to_string(&mut rest)?;
        let status = child.wait()?;
        ensure!(status.code() == Some(9), "{status}");
        let summary: Summary = serde_json::from_str(rest.lines().last().context("a summary")?)?;
        ensure!(!summary.complete && summary.added < 10_100 && summary.observed_tree.is_none(), "{summary:?}");
        let mut stderr = String::new();
        child.stderr.take().context("a pipe")?.read_to_string(&mut stderr)?;
        ensure!(stderr.contains("interrupted: what was not looked at yet is not verified"), "{stderr}");
    }
    Ok(())
}

/// Whether the process has not taken the signal yet.
fn is_pending(pid: Pid, signal: Signal) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).context("proc(5) has it")?;
    let pending = u64::from_str_radix(pending.trim(), 16)?;
    Ok(pending & (1 << (signal as i32 - 1)) != 0)
}

fn reader_leaves() -> Result<()> {
    for form in ["ndjson", "text", "json"] {
        let temp = talkative()?;
        let mut child = scan(temp.path(), &["--format", form]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut first = [0];
        child.stdout.take().context("a pipe")?.read_exact(&mut first)?;
        let output = child.wait_with_output()?;
        let code = output.status.code().context("it ended by itself")?;
        ensure!(code & 1 == 1 && code < 16, "{form}: {code}");
        let stderr = String::from_utf8(output.stderr)?;
        ensure!(!stderr.contains("Broken pipe") && !stderr.contains("panicked"), "{form}: {stderr}");
    }
    Ok(())
}

fn refused() -> Result<()> {
    let temp = sealed()?;
    fs::set_permissions(temp.path().join("root"), Permissions::from_mode(0o700))?;
    let (code, stdout, stderr) = run(child::unprivileged(&mut scan(temp.path(), &[])))?;
    ensure!(code == 77 && stdout.is_empty() && stderr.contains("Permission denied"), "{code}: {stderr}");
    Ok(())
}
