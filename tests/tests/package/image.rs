//! The container image: the static binary and nothing else, run by podman as any user on a root that is read only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_tests::packages::{Revision, Step, built};
use driftlock_tests::podman::{Driver, Podman};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;
use serde_json::Value;

/// The promise, in bytes: of the archive, and of what it unpacks to.
const MAX_IMAGE: u64 = 12_000_000;

pub(super) fn trials() -> Vec<Trial> {
    let reads = &[Requirement::Buildah, Requirement::Umoci, Requirement::Root];
    let runs = &[Requirement::Buildah, Requirement::Podman, Requirement::Root];
    vec![
        trial("the_image_is_the_binary_alone_and_small", reads, contents),
        trial("the_image_runs_as_any_user_on_a_read_only_root", runs, runs_as_any_user),
    ]
}

fn contents() -> Result<()> {
    let image = built(Step::Image, Revision::First)?.image();
    let size = fs::metadata(&image)?.len();
    ensure!(size < MAX_IMAGE, "{size} bytes");
    let sandbox = Sandbox::new()?;
    let layout = sandbox.tree("layout")?;
    let arguments = ["-xf".as_ref(), image.as_os_str(), "-C".as_ref(), layout.root().as_os_str()];
    sandbox.command(Path::new("tar"), arguments).run()?.expect(0)?;
    let tag = format!("driftlock:{}", env!("CARGO_PKG_VERSION"));
    let index: Value = serde_json::from_slice(&fs::read(layout.path("index.json"))?)?;
    let manifests = index["manifests"].as_array().context("manifests")?;
    ensure!(manifests.len() == 1, "{index}");
    let name = manifests[0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or_default();
    ensure!(name.ends_with(&tag), "{index}");
    let blob = |descriptor: &Value| -> Result<Value> {
        let digest = descriptor["digest"].as_str().context("a digest")?.replace(':', "/");
        Ok(serde_json::from_slice(&fs::read(layout.path(format!("blobs/{digest}")))?)?)
    };
    let manifest = blob(&manifests[0])?;
    let config = blob(&manifest["config"])?["config"].clone();
    ensure!(config["Entrypoint"] == serde_json::json!(["/driftlock"]), "{config}");
    ensure!(config["Cmd"] == serde_json::json!(["agent"]), "{config}");
    ensure!(config["Labels"]["org.opencontainers.image.version"] == env!("CARGO_PKG_VERSION"), "{config}");

    // The product itself says what is in it.
    let source = format!("oci:{}", layout.root().display());
    let manifest = sandbox.seal(source, "image.manifest")?;
    let listed = sandbox.driftlock(["show".as_ref(), "--list".as_ref(), manifest.as_os_str()]).run()?.expect(0)?;
    let listed = listed.text()?;
    // - 0755     0     0      9000000  driftlock  (layer 0: COPY …)
    let is_entry = |line: &&str| line.starts_with(|kind: char| !kind.is_whitespace()) && line[1..].starts_with(' ');
    let entries: Vec<&str> = listed.lines().filter(is_entry).collect();
    let [entry] = entries[..] else { bail!("{listed}") };
    ensure!(entry.starts_with("- 0755 ") && entry.contains(" driftlock  (layer 0"), "{listed}");
    ensure!(listed.lines().any(|line| line.starts_with("entries   1,")), "{listed}");
    let unpacked = fs::metadata(built(Step::Image, Revision::First)?.out().join("bin/driftlock"))?.len();
    ensure!(unpacked < MAX_IMAGE, "{unpacked} bytes");
    Ok(())
}

fn runs_as_any_user() -> Result<()> {
    let podman = Podman::new(Driver::Copies)?;
    let archive = built(Step::Image, Revision::First)?.image();
    podman.load(&archive, "driftlock")?;
    let image = "localhost/driftlock:latest";
    let version = format!("driftlock {}\n", env!("CARGO_PKG_VERSION"));
    let tree = podman.sandbox().tree("tree")?;
    tree.file("file", "content\n")?;
    let manifest = podman.sandbox().seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let volume = |from: PathBuf, to: &str| format!("--volume={}:{to}:ro", from.display());
    let (tree_volume, manifest_volume) = (volume(tree.root().to_owned(), "/tree"), volume(manifest, "/manifest"));
    for (user, code) in BTreeMap::from([("0:0", 0), ("65534:65534", 0), ("4242:4242", 0)]) {
        let user = format!("--user={user}");
        let options = [&*user, "--read-only", "--cap-drop=all", &tree_volume, &manifest_volume];
        let said = podman.once(&options, image, &["--version"])?.expect(0)?;
        ensure!(said.text()? == version, "{said:?}");
        podman.once(&options, image, &["scan", "--manifest", "/manifest", "/tree"])?.expect(code)?;
    }
    // The command of the image is the agent; without a configuration it says which one it misses.
    let said = podman.once(&["--read-only"], image, &[])?.expect(78)?;
    ensure!(said.stderr.contains("/etc/driftlock/agent.toml"), "{said:?}");
    // No shell.
    ensure!(podman.once(&["--entrypoint=/bin/sh"], image, &["-c", "true"])?.code != Some(0), "there is a shell");
    Ok(())
}
