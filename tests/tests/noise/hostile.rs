//! What only looks like a log that was rotated, by name: each is an alert, and none is waited for.

use std::fs::{self, File};
use std::io::{Read as _, Write as _, copy, repeat};
use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::drift::Drift;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Finished;
use driftlock_tests::verdict::{Alert, Verdicts};
use driftlock_tests::wait::eventually;
use flate2::Compression;
use flate2::write::GzEncoder;
use libtest_mimic::Trial;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::log::{LATIN1, LOG, Logged, SEALED, cut, without_line};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_decompression_bomb_in_place_of_a_rotated_log_is_an_alert", &[], bomb),
        trial("a_log_swapped_for_a_link_is_an_alert", &[], link),
        trial("a_link_or_a_fifo_in_place_of_a_rotated_log_is_an_alert", &[], rotated_link),
        trial("a_log_taken_away_is_an_alert", &[], gone),
        trial("a_log_with_a_name_that_is_not_utf8_grows_and_is_cut_like_others", &[], latin1),
        trial("a_log_truncated_while_it_is_hashed_is_an_alert", &[], truncated_while_hashed),
    ]
}

/// An alert because a rule for logs covers something else.
fn by_rule(drift: Drift, severity: &str) -> Alert {
    Alert::by("logs", severity, drift)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// All that the log was is in it, with more behind than was ever written.
fn bomb() -> Result<()> {
    const MEBIBYTE: u64 = 1024 * 1024;
    let logged = Logged::new(SEALED)?;
    let mut packed = gzip(&fs::read(logged.log())?)?;
    let whole = packed.clone();
    let mut zeros = GzEncoder::new(Vec::new(), Compression::best());
    copy(&mut repeat(0).take(64 * MEBIBYTE), &mut zeros)?;
    let zeros = zeros.finish()?;
    // One member after the other, as gzip appends.
    (0..17).for_each(|_| packed.extend_from_slice(&zeros));
    ensure!(packed.len() < 4 << 20, "{} bytes", packed.len());
    let rotated = logged.tree.path("var/log/app.log.1.gz");
    fs::write(&rotated, packed)?;
    fs::write(logged.log(), "")?;
    logged.judged()?.expect([cut(LOG)])?;
    // Without that it is what it says.
    fs::write(&rotated, whole)?;
    logged.judged()?.expect([])
}

fn link() -> Result<()> {
    let logged = Logged::new(SEALED)?;
    // All that it was is there, where a rotation would have put it.
    fs::rename(logged.log(), logged.tree.path("var/log/app.log.1"))?;
    for target in ["app.log.1", "/dev/null"] {
        symlink(target, logged.log())?;
        logged.judged()?.expect([by_rule(Drift::changed(LOG, &["type"]), "medium")])?;
        fs::remove_file(logged.log())?;
    }
    Ok(())
}

fn rotated_link() -> Result<()> {
    const ROTATED: &str = "var/log/app.log.1";
    let logged = Logged::new(SEALED)?;
    fs::rename(logged.log(), logged.tree.path("etc.log"))?;
    fs::write(logged.log(), "")?;
    let elsewhere = Alert::uncovered(Drift::added("etc.log"));
    let rotated = by_rule(Drift::added(ROTATED), "medium");
    symlink("../../etc.log", logged.tree.path(ROTATED))?;
    logged.judged()?.expect([cut(LOG), elsewhere.clone(), rotated.clone()])?;
    fs::remove_file(logged.tree.path(ROTATED))?;
    mkfifo(&logged.tree.path(ROTATED), Mode::S_IRUSR)?;
    logged.judged()?.expect([cut(LOG), elsewhere, rotated])
}

fn gone() -> Result<()> {
    let logged = Logged::new(SEALED)?;
    fs::remove_file(logged.log())?;
    logged.judged()?.expect([by_rule(Drift::removed(LOG), "high")])
}

fn latin1() -> Result<()> {
    let logged = Logged::new(SEALED)?;
    let log = logged.tree.path(LATIN1);
    File::options().append(true).open(&log)?.write_all(b"one line more\n")?;
    let judged = logged.judged()?;
    judged.expect([])?;
    ensure!(judged.tolerated.len() == 1, "{:?}", judged.tolerated);
    without_line(&log, 0)?;
    logged.judged()?.expect([by_rule(Drift::changed(LATIN1, &["content"]), "high")])
}

/// The scan has it open, and so long a log is not read at once.
fn truncated_while_hashed() -> Result<()> {
    let logged = Logged::new(400_000)?;
    ensure!(logged.log().metadata()?.len() > 12_000_000, "not long enough");
    let mut command = logged.sandbox.bare_command(&binaries().driftlock);
    command.args(logged.scan_arguments()).args(["--read", "4MB/s"]);
    let mut scan = Process::spawn("scan", &mut command)?;
    let open_files = format!("/proc/{}/fd", scan.id());
    eventually("the scan to have the log open", || {
        let open = fs::read_dir(&open_files)?.flatten().map(|fd| fs::read_link(fd.path()));
        let log = logged.log();
        ensure!(open.flatten().any(|file| file == log), "not open");
        Ok::<_, anyhow::Error>(())
    })?;
    let log = File::options().write(true).open(logged.log())?;
    log.set_len(log.metadata()?.len() / 2)?;
    scan.check_running().context("it was too quick to be met")?;
    scan.line(Stream::Stdout, |line| line.contains("\"summary\"").then_some(()))?;
    let (stdout, stderr) = (scan.text(Stream::Stdout), scan.text(Stream::Stderr));
    let finished = Finished { code: Some(scan.exit()?), signal: None, stdout: stdout.into(), stderr };
    Verdicts::of(&finished)?.expect([cut(LOG)])
}
