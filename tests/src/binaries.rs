//! Owns where the real binaries are: another package's tests get no `CARGO_BIN_EXE_*`, so cargo itself is asked, once,
//! under the profile and in the target directory of the test that runs. Must not own running them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

/// The built binaries.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `driftlock`.
    pub driftlock: PathBuf,
    /// `driftlock-collector`.
    pub collector: PathBuf,
    /// `storm`, of the tests themselves.
    pub storm: PathBuf,
}

/// The binaries, built on first use.
///
/// # Panics
/// If they cannot be built: no test of them can say anything then.
pub fn binaries() -> &'static Binaries {
    BINARIES.get_or_init(|| build().expect("the binaries under test must build"))
}

/// As [`binaries`], copied to `directory`: whatever is built while a test goes on for long, it stays with what it began with.
///
/// # Errors
/// If they cannot be built or copied, or were asked for before.
pub fn copy_binaries(directory: &Path) -> Result<()> {
    let copy = |from: PathBuf| {
        let to = directory.join(from.file_name().context("a file")?);
        std::fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        Ok::<_, anyhow::Error>(to)
    };
    let Binaries { driftlock, collector, storm } = build()?;
    let copies = Binaries { driftlock: copy(driftlock)?, collector: copy(collector)?, storm: copy(storm)? };
    BINARIES.set(copies).map_err(|_| anyhow!("the binaries were asked for before"))
}

static BINARIES: OnceLock<Binaries> = OnceLock::new();

fn build() -> Result<Binaries> {
    let place = Place::of(&env::current_exe()?)?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    forget_the_running_test(&mut command);
    // The whole workspace, so that cargo unifies features as `cargo test --workspace` did and builds nothing twice.
    let output = command
        .args(["build", "--workspace", "--bins", "--message-format=json-render-diagnostics"])
        .args(place.arguments())
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    ensure!(output.status.success(), "cargo build: {}", output.status);
    let stdout = String::from_utf8(output.stdout)?;
    let executable = |name: &str| {
        stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["target"]["name"] == name && message["target"]["kind"][0] == "bin")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .ok_or_else(|| anyhow!("cargo built no {name}"))
    };
    Ok(Binaries {
        driftlock: executable("driftlock")?,
        collector: executable("driftlock-collector")?,
        storm: executable("storm")?,
    })
}

/// The target directory of the running test.
///
/// # Errors
/// If the test is not where cargo puts one.
pub fn target_dir() -> Result<PathBuf> {
    Ok(Place::of(&env::current_exe()?)?.target_dir)
}

/// Takes from a command that runs cargo what cargo told the running test.
pub fn forget_the_running_test(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_the_running_test(&name.to_string_lossy())) {
        command.env_remove(name);
    }
}

/// Whether cargo set this variable to tell the running test about its own package. Build scripts watch some of them, so
/// that what they build, and all that depends on it, would be built again under each name.
fn is_of_the_running_test(variable: &str) -> bool {
    let prefixes =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "CARGO_TARGET_TMPDIR"];
    prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

/// The checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// Where cargo put the running test: `TARGET_DIR[/TRIPLE]/PROFILE/deps/NAME`.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    target_dir: PathBuf,
    triple: Option<OsString>,
    profile: OsString,
}

impl Place {
    fn of(executable: &Path) -> Result<Self> {
        let odd = || anyhow!("{}: not where cargo puts a test", executable.display());
        let profile_dir = executable.ancestors().nth(2).ok_or_else(odd)?;
        let profile = match profile_dir.file_name().ok_or_else(odd)? {
            name if name == "debug" => "dev".into(),
            name => name.to_owned(),
        };
        let above = profile_dir.parent().ok_or_else(odd)?;
        // cargo marks a target directory that it made with the one, and keeps the other in any.
        if ["CACHEDIR.TAG", ".rustc_info.json"].iter().any(|file| above.join(file).exists()) {
            return Ok(Self { target_dir: above.to_owned(), triple: None, profile });
        }
        let triple = above.file_name().ok_or_else(odd)?.to_owned();
        Ok(Self { target_dir: above.parent().ok_or_else(odd)?.to_owned(), triple: Some(triple), profile })
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--profile".into(), self.profile.clone(), "--target-dir".into()];
        arguments.push(self.target_dir.clone().into_os_string());
        if let Some(triple) = &self.triple {
            arguments.extend(["--target".into(), triple.clone()]);
        }
        arguments
    }
}
