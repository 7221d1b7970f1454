//! What the benches share: finding programs, medians, and the peak memory of children.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};

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

/// The most memory that any child that has ended so far had resident, in bytes.
///
/// A child counts with what its parent had when it was started, so this process must be small.
///
/// # Errors
/// If the kernel does not tell.
pub fn peak_of_children() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    // Linux counts in KiB.
    Ok(u64::try_from(usage.max_rss())? * 1024)
}
