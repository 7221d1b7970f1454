//! Trees beyond what a path, a manifest or a process can hold.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use driftlock_agent::scan::{Options, Root, Scope, compare};
use driftlock_common::drift::Delta;
use driftlock_common::gap::Reason;
use driftlock_common::profile::Profile;
use libtest_mimic::Trial;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::{child, subject, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("limit::a_file_below_the_longest_path_of_the_kernel_is_compared", beyond_path_max),
        trial("limit::what_is_deeper_than_a_manifest_can_say_is_a_gap", deeper_than_a_manifest),
        trial("limit::what_is_longer_than_a_manifest_can_say_is_a_gap", longer_than_a_manifest),
        trial("limit::few_descriptors_are_enough_for_any_tree", few_descriptors),
        trial("limit::a_scan_ends_early_when_asked_and_is_not_complete", interrupted),
    ]
}

/// Makes a chain of directories below `root`, and gives the last one.
fn chain(root: &Path, name: &str, depth: usize) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, root, flags, Mode::empty())?;
    for _ in 0..depth {
        mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

fn write(directory: &OwnedFd, name: &str, bytes: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&file, bytes)?;
    Ok(())
}

/// What `tempfile` cannot remove: its paths would be too long.
fn remove(root: &Path) -> Result<()> {
    fs::remove_dir_all(root).with_context(|| root.display().to_string())
}

fn beyond_path_max() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    fs::create_dir(&root)?;
    let name = "d".repeat(60);
    let last = chain(&root, &name, 500)?;
    write(&last, "leaf\n\x1b[31m", b"sealed")?;
    let manifest = subject::seal(&root, Profile::Portable)?;
    ensure!(manifest.tree.len() == 501);
    write(&last, "leaf\n\x1b[31m", b"other!")?;
    write(&last, "added", b"")?;
    let (drifts, outcome) = subject::scan(&root, &manifest, &Options::default())?;
    let words = subject::words(&drifts);
    ensure!(words.len() == 2 && words[0].ends_with("/added") && words[1].ends_with("leaf\\x0a\\x1b[31m"), "{words:?}");
    ensure!(outcome.complete());
    remove(&root)
}

fn deeper_than_a_manifest() -> Result<()> {
    too_deep("d", 2100, 2048)
}

fn longer_than_a_manifest() -> Result<()> {
    // 255 bytes and a slash: 256 of them are 65535 bytes.
    too_deep(&"n".repeat(255), 300, 256)
}

fn too_deep(name: &str, depth: usize, reached: usize) -> Result<()> {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    fs::create_dir(&root)?;
    let empty = subject::seal(&root, Profile::Portable)?;
    chain(&root, name, depth)?;
    let observation = subject::look(&root, Profile::Portable)?;
    ensure!(observation.tree.len() == reached, "{}", observation.tree.len());
    let [(path, Reason::TooDeep)] = observation.gaps.as_slice() else { anyhow::bail!("{:?}", observation.gaps.len()) };
    ensure!(path.depth() == reached);
    // Added, each of them, the last one not as a whole.
    let (drifts, outcome) = subject::scan(&root, &empty, &Options::default())?;
    ensure!(drifts.len() == reached && !outcome.complete(), "{}", drifts.len());
    let last = drifts.last().context("there are some")?;
    ensure!(
        matches!(&last.delta, Delta::Added { unverified: Some(unverified), .. } if unverified.reason == Reason::TooDeep)
    );
    // Sealed as far as it goes, the same place is never clean.
    let manifest = subject::manifest_of(observation, Profile::Portable);
    let (drifts, outcome) = subject::scan(&root, &manifest, &Options::default())?;
    ensure!(
        matches!(drifts.as_slice(), [drift] if matches!(drift.delta, Delta::Unverifiable { reason: Reason::TooDeep, .. }))
    );
    ensure!(!outcome.complete());
    remove(&root)
}

fn few_descriptors() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    fs::create_dir(&root)?;
    // Deep, and wide at each level, so that every directory on the way has something left to do.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat(CWD, &root, flags, Mode::empty())?;
    for _ in 0..150 {
        for name in ["a", "deeper", "z"] {
            mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
            write(&openat(&at, name, flags, Mode::empty())?, "file", name.as_bytes())?;
        }
        at = openat(&at, "deeper", flags, Mode::empty())?;
    }
    // A directory of more names than one task takes.
    for i in 0..300 {
        mkdirat(&at, format!("{i}"), Mode::from_raw_mode(0o755))?;
    }
    let manifest = subject::seal(&root, Profile::Portable)?;
    write(&at, "added", b"")?;
    let file = temp.path().join("manifest");
    fs::write(&file, manifest.encode())?;
    for limit in [24, 40, 1024] {
        let found = child::output(&mut child::scanning(&root, &file, limit, "report"))?;
        let added = format!("added {}added", "deeper/".repeat(150));
        ensure!(found == [added, "complete full []".into()], "{limit} descriptors: {found:?}");
    }
    remove(&root)
}

fn interrupted() -> Result<()> {
    let temp = tempfile::tempdir()?;
    for i in 0..50 {
        fs::create_dir(temp.path().join(format!("{i:02}")))?;
        for j in 0..20 {
            fs::write(temp.path().join(format!("{i:02}/{j}")), "sealed")?;
        }
    }
    let manifest = subject::seal(temp.path(), Profile::Portable)?;
    for i in 0..50 {
        fs::write(temp.path().join(format!("{i:02}/0")), "other!")?;
    }
    let cancel = AtomicBool::new(false);
    let found = Mutex::new(Vec::new());
    let root = Root::open(temp.path())?;
    let outcome = compare(&root, &manifest, &Options::default(), &Scope::All, &subject::pool()?, &cancel, &|drift| {
        cancel.store(true, Ordering::Relaxed);
        found.lock().expect("no thread panics").push(drift);
    });
    let found = found.into_inner().expect("no thread panics");
    ensure!(outcome.interrupted && !outcome.complete());
    ensure!(!found.is_empty() && found.len() < 50, "{}", found.len());
    // What was looked at and what was not are everything.
    ensure!(outcome.stats.entries + outcome.unreached == manifest.tree.len() as u64, "{outcome:?}");
    Ok(())
}
