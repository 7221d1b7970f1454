//! The root of a process on the command line: what its runtime mounted, and how it ends.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::process::wait_for;
use driftlock_tests::require::Requirement::{self, Namespaces, Root};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::PATIENCE;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::held::{Held, scan};

const NEEDS: &[Requirement] = &[Root, Namespaces];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("process::what_was_mounted_in_its_root_is_left_out_and_named", NEEDS, mounted),
        trial("process::its_end_is_the_end_of_the_scan", NEEDS, ended),
        trial("process::what_has_no_root_to_be_scanned_is_said_in_one_line", NEEDS, refused),
    ]
}

/// A tree of a container, and its manifest.
fn sealed(sandbox: &Sandbox) -> Result<(Tree, PathBuf)> {
    let tree = sandbox.tree("container")?;
    tree.file("etc/conf", "level = 1\n")?.file("bin/app", "#!/bin/sh\n")?.mode("bin/app", 0o755)?;
    tree.file("data/sealed", "behind the mount\n")?.file("etc/hosts", "127.0.0.1 localhost\n")?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "manifest")?;
    Ok((tree, manifest))
}

/// A volume, and a file of the runtime's.
const MOUNTS: &str = "mount -t tmpfs none \"$root/data\"; touch \"$root/data/volume\"
    printf '10.0.0.1 me\\n' > \"$root/data/hosts\"; mount --bind \"$root/data/hosts\" \"$root/etc/hosts\"";

fn mounted() -> Result<()> {
    // Root of the machine, and root of nothing but its own namespaces.
    for namespaces in [&["--mount"][..], &["--mount", "--user", "--map-root-user"]] {
        let sandbox = Sandbox::new()?;
        let (tree, manifest) = sealed(&sandbox)?;
        let held = Held::start(&sandbox, tree.root(), namespaces, MOUNTS)?;
        let mut with_slash = held.root().into_os_string();
        with_slash.push("/");
        for root in [held.root(), with_slash.into()] {
            let report = report(&sandbox, &manifest, &root, 0)?;
            ensure!(report.findings.is_empty(), "{namespaces:?}: {:?}", report.findings);
            let summary = &report.summary;
            ensure!(summary["complete"] == true && summary["scope"] == "partial", "{summary}");
            ensure!(summary["excluded"]["mounts"] == json!(["data", "etc/hosts"]), "{summary}");
            ensure!(summary["observed_tree"].is_null(), "{summary}");
        }
        let arguments = ["scan".as_ref(), "--manifest".as_ref(), manifest.as_os_str()];
        let root = held.root();
        let said = sandbox.driftlock(arguments.into_iter().chain([root.as_os_str()])).run()?.expect(0)?;
        ensure!(said.text()?.contains("; left out as mounted there: data etc/hosts\n"), "{said:?}");

        tree.file("etc/conf", "level = 2\n")?.file("bin/new", "")?;
        std::fs::remove_file(tree.path("bin/app"))?;
        let report = report(&sandbox, &manifest, &held.root(), 7)?;
        let expected = [Drift::changed("etc/conf", &["content"]), Drift::added("bin/new"), Drift::removed("bin/app")];
        ensure_same(&BTreeSet::from(expected), &report.drifts)?;
        // What it sees is not what is there without its mounts.
        let outside = self::report(&sandbox, &manifest, tree.root(), 7)?;
        ensure!(outside.summary["excluded"].get("mounts").is_none(), "{}", outside.summary);
        ensure!(outside.summary["scope"] == "full", "{}", outside.summary);
    }
    Ok(())
}

fn report(sandbox: &Sandbox, manifest: &Path, root: &Path, code: i32) -> Result<Report> {
    Report::from_ndjson(&sandbox.driftlock(scan(manifest, root, &[])).run()?.expect(code)?)
}

fn ended() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = sealed(&sandbox)?;
    // More than fits into a pipe, so that the scan is under way for as long as nobody reads on.
    for directory in 0..100 {
        for file in 0..100 {
            tree.file(format!("new/{directory}/{file}"), "")?;
        }
    }
    std::fs::remove_file(tree.path("bin/app"))?;
    let held = Held::start(&sandbox, tree.root(), &["--mount"], MOUNTS)?;
    let mut command = sandbox.bare_command(&binaries().driftlock);
    command.args(scan(&manifest, &held.root(), &[])).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut text = String::new();
    stdout.read_line(&mut text)?;
    held.end()?;
    stdout.read_to_string(&mut text)?;
    let status = wait_for(&mut child, PATIENCE)?;
    let mut said = String::new();
    child.stderr.take().context("a pipe")?.read_to_string(&mut said)?;
    ensure!(status.code() == Some(9), "{status}: {said}");
    ensure!(said.contains("belongs to a process that ended while it was scanned"), "{said}");

    let mut lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let summary = lines.pop().context("a summary")?;
    ensure!(summary["complete"] == false && summary["removed"] == 0, "{summary}");
    ensure!(summary["added"].as_u64() < Some(10_000), "it did not end early: {summary}");
    // The root is an entry too, and what was sealed is unknown now, once.
    ensure!(summary["unverifiable"] == 8, "{summary}");
    let (lost, found): (Vec<_>, Vec<_>) = lines.into_iter().partition(|finding| finding["reason"] == "root_lost");
    ensure!(lost.len() == 1 && lost[0]["path"] == "" && lost[0]["covers"] == 8, "{lost:?}");
    ensure!(found.iter().all(|finding| finding["change"] == "added"), "{found:?}");
    Ok(())
}

fn refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = sealed(&sandbox)?;
    let held = Held::start(&sandbox, tree.root(), &["--mount"], MOUNTS)?;
    let everyones = sandbox.driftlock_for_everyone()?;
    let no_right = sandbox.command(&everyones, scan(&manifest, &held.root(), &[])).unprivileged().run()?;
    let (id, gone) = (held.id(), held.root());
    held.end()?;
    let scan = |root: &Path| sandbox.driftlock(scan(&manifest, root, &[])).run();
    for (finished, code, says) in [
        (no_right, 77, "CAP_SYS_PTRACE"),
        (scan(&gone)?, 66, format!("process {id} is not there").as_str()),
        (scan(Path::new("/proc/2147483647/root"))?, 66, "process 2147483647 is not there"),
        (scan(Path::new("/proc/self/root"))?, 66, "is a symbolic link"),
    ] {
        ensure!(finished.code == Some(code) && finished.stdout.is_empty(), "expected {code}: {finished:?}");
        ensure!(finished.stderr.lines().count() == 1 && finished.stderr.contains(says), "{says}: {finished:?}");
    }
    Ok(())
}
