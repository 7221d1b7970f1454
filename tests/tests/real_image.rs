//! A real Debian, sealed from every form of its image, unpacked, watched, tampered with and put back: what a scan and
//! what the collector say is exactly what was done. Belongs here: what needs a real image. Everything else is faster
//! on a tree of a few files.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::debian::{self, DELETED, DebianImage, LATIN1_NAME, OPAQUE};
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::require::Requirement::{self, DebianMirror, Debootstrap, Root, Skopeo, Umoci};
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::saved::Saved;
use driftlock_tests::tamper;
use driftlock_tests::tree::below;
use serde_json::Value;

const NEEDS: &[Requirement] = &[Root, Debootstrap, DebianMirror, Umoci, Skopeo];

fn main() -> ExitCode {
    run(vec![
        trial("three_forms_of_an_image_have_one_tree_digest", NEEDS, three_forms_have_one_tree_digest),
        trial("the_second_layer_does_what_layers_do", NEEDS, the_second_layer_does_what_layers_do),
        trial("tampering_is_found_reported_and_resolved", NEEDS, tampering_is_found_reported_and_resolved),
    ])
}

fn seal(sandbox: &Sandbox, image: &DebianImage) -> Result<std::path::PathBuf> {
    sandbox.seal(format!("oci:{}", image.layout.display()), "image.manifest")
}

fn scan(sandbox: &Sandbox, manifest: &Path, root: &Path, exit: i32) -> Result<Report> {
    let arguments = ["scan".as_ref(), "--format".as_ref(), "ndjson".as_ref(), "--manifest".as_ref()];
    let arguments = arguments.into_iter().chain([manifest.as_os_str(), root.as_os_str()]);
    Report::from_ndjson(&sandbox.driftlock(arguments).run()?.expect(exit)?)
}

fn three_forms_have_one_tree_digest() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = debian::image()?;
    let manifests = [sandbox.path("oci"), sandbox.path("docker"), sandbox.path("stdin")];
    let [oci, docker, stdin] = manifests.clone();
    sandbox.seal(format!("oci:{}", image.layout.display()), "oci")?;
    sandbox.seal(format!("archive:{}", image.docker_archive.display()), "docker")?;
    let arguments = ["seal".as_ref(), "archive:-".as_ref(), "-o".as_ref(), stdin.as_os_str()];
    sandbox.driftlock(arguments).stdin(&image.oci_archive)?.run()?.expect(0)?;

    let trees = manifests.iter().map(|manifest| tree_digest(manifest)).collect::<Result<BTreeSet<String>>>()?;
    ensure!(trees.len() == 1, "three forms, {} trees: {trees:?}", trees.len());
    for (a, b) in [(&oci, &docker), (&oci, &stdin)] {
        sandbox.driftlock(["diff".as_ref(), a.as_os_str(), b.as_os_str()]).run()?.expect(0)?;
    }
    // One image, so also the same source; the docker form has another configuration, and no OCI manifest.
    let source = |manifest| Ok::<_, anyhow::Error>(header(manifest)?["source"].clone());
    ensure!(source(&oci)?["manifest"] == source(&stdin)?["manifest"], "the OCI manifest is the same in both");
    ensure!(source(&oci)?["layers"] == source(&docker)?["layers"], "layers are named by diff_id");
    ensure!(source(&docker)?["kind"] == "docker" && source(&stdin)?["kind"] == "oci", "the kind is what was read");
    Ok(())
}

fn the_second_layer_does_what_layers_do() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = debian::image()?;
    let manifest = seal(&sandbox, &image)?;
    let entries: Vec<Value> = std::fs::read_to_string(&manifest)?
        .lines()
        .skip(1)
        .map(serde_json::from_str)
        .collect::<Result<_, serde_json::Error>>()?;
    let entry = |path: &str| entries.iter().find(|entry| entry["p"] == path);
    for path in DELETED {
        ensure!(entry(path).is_none(), "{path} was deleted");
    }
    let emptied = format!("{OPAQUE}/");
    let below: Vec<_> = entries.iter().filter_map(|e| e["p"].as_str().filter(|p| p.starts_with(&emptied))).collect();
    ensure!(below == [format!("{OPAQUE}/NOTICE")], "an opaque directory hides what was below it: {below:?}");
    ensure!(!entries.iter().any(|e| e["p"].as_str().is_some_and(|p| p.contains(".wh."))), "no whiteout is an entry");
    let (server, alias) = (entry("opt/app/server").context("added")?, entry("opt/app/alias").context("a hard link")?);
    for key in ["t", "m", "u", "g", "s", "b3", "x"] {
        ensure!(server[key] == alias[key], "a hard link has its target's {key}: {server} {alias}");
    }
    ensure!(server["x"][0]["n"] == "security.capability", "{server}");
    ensure!(entries.iter().any(|e| e["p64"] == driftlock_common::path::to_base64(LATIN1_NAME)), "bytes stay bytes");
    ensure!(entry("opt/app/plugins").context("added")?["m"] == "2775", "the setgid bit of a directory");
    ensure!(entry("etc/issue").context("replaced")?["L"] == 1, "the layer that gave the content");

    // The other reader of this image has the same tree.
    let root = debian::unpack(&image, &sandbox.path("bundle"))?;
    let report = scan(&sandbox, &manifest, &root, 0)?;
    ensure!(report.summary["complete"] == true && report.summary["scope"] == "full", "{}", report.summary);
    ensure!(report.findings.is_empty(), "{:?}", report.drifts);
    ensure!(report.summary["observed_tree"] == tree_digest(&manifest)?.as_str(), "{}", report.summary);
    ensure!(report.summary["manifest"]["origin"] == "image", "{}", report.summary);
    Ok(())
}

fn tampering_is_found_reported_and_resolved() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = debian::image()?;
    let manifest = seal(&sandbox, &image)?;
    let root = debian::unpack(&image, &sandbox.path("bundle"))?;

    let collector = CollectorHome::new(&sandbox, &["debian"])?.start(&sandbox)?;
    // Between agent and collector, so that nothing that is ever raised goes unseen.
    let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
    let home = AgentHome::new(&sandbox, "debian")?.target("os", &root, &manifest);
    let agent = home.reports_to(wire.address()).start(&sandbox)?;
    collector.eventually_host("debian", "clean")?;
    ensure!(wire.history()?.raised()?.is_empty(), "a clean tree raises nothing: {:?}", wire.events());

    let (saved, expected) = tamper_in_one_go(&root)?;
    let report = scan(&sandbox, &manifest, &root, 7)?;
    ensure_same(&expected, &report.drifts)?;
    ensure!(report.summary["complete"] == true, "{}", report.summary);
    collector.eventually_open(&expected)?;
    collector.eventually_host("debian", "drifted")?;

    for saved in saved.iter().rev() {
        saved.restore()?;
    }
    scan(&sandbox, &manifest, &root, 0)?;
    collector.eventually_open(&BTreeSet::new())?;
    collector.eventually_host("debian", "clean")?;

    let paths: BTreeSet<Vec<u8>> = expected.into_iter().map(|drift| drift.path).collect();
    let history = wire.history()?;
    history.check()?;
    let raised = history.raised()?;
    ensure!(raised == paths, "raised beyond what was done: {:?}", raised.difference(&paths).collect::<Vec<_>>());
    for path in &paths {
        ensure!(history.times_opened(path)? == 1, "{} was opened more than once", path.escape_ascii());
    }
    resolved_exactly(&collector, &paths)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    ensure!(collector.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

/// Everything of the list, in one go; what was there before, and what must be found.
fn tamper_in_one_go(root: &Path) -> Result<(Vec<Saved>, BTreeSet<Drift>)> {
    let newline: &[u8] = b"etc/two\nlines";
    let latin1: &[u8] = b"usr/caf\xe9";
    let touched: [&[u8]; 14] = [
        b"usr/bin/dpkg",
        b"etc/passwd",
        b"etc/shadow",
        b"usr/bin/env",
        b"usr/bin/cat",
        b"usr/bin/ls",
        b"etc/os-release",
        b"etc/issue",
        b"usr/bin/tac",
        b"usr/bin/implant",
        b"var/.hidden",
        newline,
        latin1,
        b"opt/app/current",
    ];
    let saved = touched.iter().map(|path| Saved::take(below(root, path))).collect::<Result<Vec<_>>>()?;
    let expected = BTreeSet::from([
        tamper::content_under_old_size_and_time(root, "usr/bin/dpkg")?,
        tamper::append(root, "etc/passwd")?,
        tamper::chmod(root, "etc/shadow", 0o666)?,
        tamper::chown(root, "usr/bin/env", 1000, 1001)?,
        tamper::setuid(root, "usr/bin/cat")?,
        tamper::capability(root, "usr/bin/ls")?,
        tamper::retarget(root, "etc/os-release", "/tmp/os-release")?,
        tamper::file_to_directory(root, "etc/issue")?,
        tamper::remove(root, "usr/bin/tac")?,
        tamper::add(root, "usr/bin/implant")?,
        tamper::add_directory(root, "var/.hidden")?,
        tamper::add(root, "var/.hidden/payload")?,
        tamper::add(root, newline)?,
        tamper::add(root, latin1)?,
        tamper::retarget(root, "opt/app/current", "alias")?,
    ]);
    Ok((saved, expected))
}

fn resolved_exactly(collector: &Collector, paths: &BTreeSet<Vec<u8>>) -> Result<()> {
    let findings = collector.findings("")?;
    let known = findings.iter().map(|finding| Ok(Drift::from_json(finding)?.path)).collect::<Result<BTreeSet<_>>>()?;
    ensure!(known == *paths && findings.len() == paths.len(), "the collector's memory: {findings:#?}");
    ensure!(findings.iter().all(|finding| finding["state"] == "resolved"), "{findings:#?}");
    Ok(())
}

fn header(manifest: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(manifest)?;
    Ok(serde_json::from_str(text.lines().next().context("an empty manifest")?)?)
}

fn tree_digest(manifest: &Path) -> Result<String> {
    let text = std::fs::read_to_string(manifest)?;
    let trailer: Value = serde_json::from_str(text.lines().next_back().context("an empty manifest")?)?;
    Ok(trailer["end"]["tree"].as_str().context("no trailer")?.to_owned())
}
