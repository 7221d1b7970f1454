//! Owns what is shipped, as `packaging/build` makes it: once for a test run, in the target directory of the test. Must not
//! own what has to be in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::binaries::{forget_the_running_test, target_dir, workspace};

/// A step of `packaging/build`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Both static binaries, manual pages and completions.
    Binaries,
    /// Debian packages.
    Deb,
    /// RPM packages.
    Rpm,
    /// The container image.
    Image,
}

/// Which build of the one version; a higher one is an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// What a host has.
    First,
    /// What it is upgraded to.
    Second,
}

/// What a step made.
#[derive(Clone, Debug)]
pub struct Built {
    out: PathBuf,
}

/// What is installed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// `driftlock`.
    Agent,
    /// `driftlock-collector`.
    Collector,
}

/// Builds `step`, unless this run has.
///
/// # Errors
/// If it cannot be built.
pub fn built(step: Step, revision: Revision) -> Result<Built> {
    static BUILT: Mutex<BTreeMap<(Step, Revision), Built>> = Mutex::new(BTreeMap::new());
    // Held while building: two builds at once would write the same files.
    let mut all = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(built) = all.get(&(step, revision)) {
        return Ok(built.clone());
    }
    let built = build(step, revision)?;
    all.insert((step, revision), built.clone());
    Ok(built)
}

fn build(step: Step, revision: Revision) -> Result<Built> {
    let target = target_dir()?;
    let out = target.join("packages").join(format!("{step:?}-{revision:?}").to_lowercase());
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    let mut command = Command::new(workspace().join("packaging/build"));
    forget_the_running_test(&mut command);
    command.arg(&out).arg(step.name()).env("CARGO_TARGET_DIR", &target).env("REVISION", revision.number());
    let status = command.stdout(Stdio::inherit()).stdin(Stdio::null()).status().context("packaging/build")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(Built { out })
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Binaries => "binaries",
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Image => "image",
        }
    }
}

impl Revision {
    /// As it stands in the package's version.
    pub const fn number(self) -> &'static str {
        match self {
            Self::First => "1",
            Self::Second => "2",
        }
    }
}

impl Package {
    /// Its name, which is its program's too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "driftlock",
            Self::Collector => "driftlock-collector",
        }
    }
}

impl Built {
    /// A static binary.
    pub fn binary(&self, package: Package) -> PathBuf {
        self.out.join("bin").join(package.name())
    }

    /// The manual pages and completions of a program.
    pub fn documents(&self, package: Package) -> PathBuf {
        self.out.join("documents").join(package.name())
    }

    /// The package's file.
    ///
    /// # Errors
    /// If there is not exactly one.
    pub fn package(&self, package: Package) -> Result<PathBuf> {
        // driftlock_0.1.0-1_amd64.deb, driftlock-0.1.0-1.x86_64.rpm; not driftlock-collector.
        let is_it = |file: &PathBuf| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let rest = name.strip_prefix(package.name()).and_then(|rest| rest.strip_prefix(['_', '-']));
            rest.is_some_and(|rest| rest.starts_with(|ch: char| ch.is_ascii_digit()))
        };
        let mut files: Vec<PathBuf> = fs::read_dir(&self.out)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.retain(is_it);
        ensure!(files.len() == 1, "{}: {files:?}", self.out.display());
        files.pop().context("there is one")
    }

    /// The image, an OCI archive.
    pub fn image(&self) -> PathBuf {
        self.out.join("driftlock.oci.tar")
    }

    /// Where all of it is.
    pub fn out(&self) -> &Path {
        &self.out
    }
}
