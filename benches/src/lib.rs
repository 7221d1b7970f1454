//! What the benches share: finding programs, timing them, medians, tables, promises, and what a scan is held against.

pub mod fleet;
pub mod floor;
pub mod growth;
pub mod image;
pub mod link;
pub mod load;
pub mod program;
pub mod promise;
pub mod reading;
pub mod reporter;
pub mod table;
pub mod trees;
pub mod turns;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The `driftlock` that was built together with the bench: `target/release/driftlock` beside `target/release/deps`.
///
/// # Errors
/// If it was not built.
pub fn driftlock() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).context("a bench lies in target/PROFILE/deps")?;
    let binary = profile.join("driftlock");
    if !binary.is_file() {
        bail!("{} is not there: run `cargo build --release` first", binary.display());
    }
    Ok(binary)
}

/// A program in `PATH`, or the one that `variable` names.
///
/// # Errors
/// If there is none.
pub fn peer(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Ok(path.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not in PATH: `cargo install {name}`, or set {variable}"))
}

/// The middle of `times`; of an even number, the upper of the two. `None` of none.
pub fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}
