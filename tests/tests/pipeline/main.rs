//! `driftlock scan` as a gate in a pipeline: what fails and what is compared, the forms that other tools read, and the gate
//! script at a real image. Belongs here: what a pipeline meets. What a scan finds is tested beside the scan.

mod changes;
mod flags;
mod forms;
mod gate;
mod interrupted;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use driftlock_tests::require::run;
use driftlock_tests::sandbox::{Invocation, Sandbox};
use driftlock_tests::tree::Tree;

fn main() -> ExitCode {
    let mut trials = changes::trials();
    trials.extend(flags::trials());
    trials.extend(forms::trials());
    trials.extend(interrupted::trials());
    trials.extend(gate::trials());
    run(trials)
}

/// A sealed tree, and its manifest.
struct Sealed {
    sandbox: Sandbox,
    tree: Tree,
    manifest: PathBuf,
}

impl Sealed {
    /// Of a few files, under the widest profile.
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.toml", "level = 1\n")?.file("etc/motd", "hello\n")?.file("etc/old", "old\n")?;
        tree.file("bin/app", "#!/bin/sh\n")?.mode("bin/app", 0o755)?.symlink("etc/link", "motd")?;
        tree.file("swapped", "a file\n")?.file("touched", "touched\n")?;
        let manifest = sandbox.path("full.manifest");
        let source = format!("dir:{}", tree.root().display());
        let seal = ["seal", &source, "--profile", "full", "-o"].map(OsStr::new).into_iter();
        sandbox.driftlock(seal.chain([manifest.as_os_str()])).run()?.expect(0)?;
        Ok(Self { sandbox, tree, manifest })
    }

    /// A scan of the tree with more arguments.
    fn scan(&self, more: &[&str]) -> Invocation {
        self.sandbox.driftlock(arguments(&self.manifest, self.tree.root(), more))
    }
}

fn arguments<'a>(manifest: &'a Path, root: &'a Path, more: &'a [&'a str]) -> Vec<&'a OsStr> {
    let first = ["scan".as_ref(), "--manifest".as_ref(), manifest.as_os_str()].into_iter();
    first.chain(more.iter().map(AsRef::as_ref)).chain([root.as_os_str()]).collect()
}
