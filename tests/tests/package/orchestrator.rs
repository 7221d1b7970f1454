//! The manifests for Kubernetes and podman: the schemas accept them, they ask for no more than they say, and the
//! configuration in them is one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::workspace;
use driftlock_tests::packages::{Revision, Step, built};
use driftlock_tests::podman::{Driver, Podman};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::{Value, json};

/// The oldest Kubernetes that has native sidecars switched on.
const OLDEST: &str = "1.29";
const MANIFESTS: [&str; 3] = ["kubernetes/sidecar.yaml", "kubernetes/daemonset.yaml", "podman/pod.yaml"];

pub(super) fn trials() -> Vec<Trial> {
    let pods = &[Requirement::Buildah, Requirement::Podman, Requirement::Catatonit, Requirement::Root];
    vec![
        trial("podman_makes_of_the_pod_what_the_manifest_says", pods, pod),
        trial("the_schemas_accept_the_manifests", &[Requirement::KubernetesValidate], schemas),
        trial("the_configurations_in_the_manifests_are_accepted", &[], configurations),
        trial("the_images_of_the_manifests_have_the_version_that_is_built", &[], versions),
    ]
}

fn file(name: &str) -> PathBuf {
    workspace().join("packaging").join(name)
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(file(name)).with_context(|| name.to_owned())
}

fn validate(sandbox: &Sandbox, options: &[&str], file: &Path) -> Result<Finished> {
    let arguments = options.iter().map(|option| (*option).into()).chain([file.to_owned().into_os_string()]);
    sandbox.command(Path::new("kubernetes-validate"), arguments).run()
}

fn schemas() -> Result<()> {
    let sandbox = Sandbox::new()?;
    for name in MANIFESTS {
        validate(&sandbox, &["--strict", "--kubernetes-version", OLDEST], &file(name))?.expect(0)?;
        validate(&sandbox, &["--strict"], &file(name))?.expect(0)?;
        // The validator knows these objects: a key that it does not know is refused.
        let text = read(name)?;
        let broken = text.replacen("readOnlyRootFilesystem:", "readonlyRootFilesystem:", 1);
        ensure!(broken != text, "{name}: nothing was broken");
        let broken = sandbox.write("broken.yaml", broken)?;
        ensure!(validate(&sandbox, &["--strict"], &broken)?.code != Some(0), "{name}: a broken manifest is accepted");
    }
    Ok(())
}

/// What stands in the manifest below `DRIFTLOCK_CONFIG`, with what the orchestrator and the reader fill in.
fn configuration(text: &str, directory: &Path) -> Result<String> {
    let (_, after) = text.split_once("DRIFTLOCK_CONFIG\n").context("no configuration")?;
    let mut lines = after.lines().skip(1).peekable();
    let indent = lines.peek().map_or(0, |line| line.len() - line.trim_start().len());
    let block: Vec<&str> = lines.take_while(|line| line.len() - line.trim_start().len() >= indent).collect();
    let mut configuration = block.iter().map(|line| line.trim_start().to_owned() + "\n").collect::<String>();
    for (from, to) in [
        ("/etc/driftlock", directory.to_str().context("a path")?),
        ("/host/usr", "/usr"),
        ("COLLECTOR", "collector.example"),
        ("APPLICATION", "nginx"),
        ("$(POD_NAME)", "app-0"),
        ("$(POD_UID)", "7cb9e6c0-3b5e-4a8e-9a54-0f2f4a8f1d11"),
        ("$(NODE_NAME)", "node-1"),
    ] {
        configuration = configuration.replace(from, to);
    }
    ensure!(!configuration.contains("$("), "{configuration}");
    Ok(configuration)
}

fn configurations() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    tree.file("file", "content\n")?;
    let directory = sandbox.path("etc");
    for name in ["app.manifest", "manifest/app.manifest", "manifests/node.manifest"] {
        fs::create_dir_all(directory.join(name).parent().context("a directory")?)?;
        sandbox.seal(format!("dir:{}", tree.root().display()), &format!("etc/{name}"))?;
    }
    for name in ["token", "secret/token", "secret/node-1"] {
        let token = sandbox.write(format!("etc/{name}"), "token-of-a-test-that-is-long")?;
        fs::set_permissions(token, fs::Permissions::from_mode(0o600))?;
    }
    fs::copy(workspace().join("tests/golden/ca.pem"), directory.join("secret/ca.pem"))?;
    for name in MANIFESTS {
        let configuration = configuration(&read(name)?, &directory)?;
        let check = |text: &str| sandbox.driftlock(["check-config"]).env("DRIFTLOCK_CONFIG", text).run();
        let said = check(&configuration)?;
        ensure!(said.code == Some(0), "{name}: {said:?}\n{configuration}");
        let broken = check(&configuration.replace("manifest =", "manifesto ="))?.expect(78)?;
        ensure!(broken.stderr.contains("DRIFTLOCK_CONFIG:"), "{name}: {broken:?}");
    }
    Ok(())
}

fn versions() -> Result<()> {
    let image = format!("image: driftlock:{}", env!("CARGO_PKG_VERSION"));
    for name in MANIFESTS {
        let text = read(name)?;
        ensure!(text.lines().any(|line| line.trim() == image), "{name} has no {image}");
    }
    Ok(())
}

/// The pod as podman makes it, with driftlock in the application's place: what is shared, and what driftlock may do.
fn pod() -> Result<()> {
    let podman = Podman::new(Driver::Copies)?;
    let image = format!("driftlock:{}", env!("CARGO_PKG_VERSION"));
    let archive = built(Step::Image, Revision::First)?.image();
    podman.load(&archive, &format!("localhost/{image}"))?;
    fs::create_dir(podman.sandbox().path("config"))?;
    let text = read("podman/pod.yaml")?.replace("APPLICATION:TAG", &image);
    let text =
        text.replace("path: /etc/driftlock/app", &format!("path: {}", podman.sandbox().path("config").display()));
    let pod = podman.sandbox().write("pod.yaml", text)?;
    podman.run(&["kube", "play", "--start=false", &pod.display().to_string()])?.expect(0)?;
    let inspect = |arguments: &[&str]| -> Result<Value> {
        let said = podman.run(arguments)?.expect(0)?;
        Ok(serde_json::from_str(said.text()?)?)
    };
    let pod = inspect(&["pod", "inspect", "app"])?;
    let shared = pod["SharedNamespaces"].as_array().context("namespaces")?;
    ensure!(shared.contains(&json!("pid")), "the processes are not shared: {pod}");
    ensure!(pod["InfraConfig"]["HostNetwork"] == true, "no network of the host: {pod}");
    let container = &inspect(&["container", "inspect", "app-driftlock"])?[0];
    for set in ["EffectiveCaps", "BoundingCaps"] {
        // No list, or an empty one.
        let none = container.get(set).is_some_and(|caps| caps.is_null() || caps.as_array().is_some_and(Vec::is_empty));
        ensure!(none, "{set}: {container}");
    }
    for (at, expected) in [
        ("/HostConfig/ReadonlyRootfs", json!(true)),
        ("/HostConfig/Memory", json!(64 * 1024 * 1024)),
        ("/Config/User", json!("10001:10001")),
        ("/Config/Cmd", json!(["agent"])),
    ] {
        ensure!(container.pointer(at) == Some(&expected), "{at} is not {expected}: {container}");
    }
    Ok(())
}
