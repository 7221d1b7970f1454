//! The manifests for Kubernetes and podman: the schemas accept them, they ask for no more than they say, and the
//! configuration in them is one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::workspace;
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;

/// The oldest Kubernetes that has native sidecars switched on.
const OLDEST: &str = "1.29";
const MANIFESTS: [&str; 3] = ["kubernetes/sidecar.yaml", "kubernetes/daemonset.yaml", "podman/pod.yaml"];

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_schemas_accept_the_manifests", &[Requirement::KubernetesValidate], schemas),
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

fn versions() -> Result<()> {
    let image = format!("image: driftlock:{}", env!("CARGO_PKG_VERSION"));
    for name in MANIFESTS {
        let text = read(name)?;
        ensure!(text.lines().any(|line| line.trim() == image), "{name} has no {image}");
    }
    Ok(())
}
