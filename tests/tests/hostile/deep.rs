//! Deeper than the kernel takes a path, and deeper or longer than a manifest can say one.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Result, ensure};
use driftlock_tests::require;
use libtest_mimic::Trial;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};

use super::case::{Case, RemovedByLegs};

/// The format's own limits: components of a path, and its bytes.
const MAX_DEPTH: usize = 2048;
const MAX_PATH: usize = 64 * 1024;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("deep::below_the_longest_path_of_the_kernel_everything_is_found", &[], beyond_path_max),
        require::trial("deep::as_deep_as_a_manifest_can_say_is_clean_and_one_deeper_is_a_gap", &[], || {
            one_more("d", MAX_DEPTH)
        }),
        require::trial("deep::as_long_as_a_manifest_can_say_is_clean_and_one_longer_is_a_gap", &[], || {
            // A slash before each but the first: 256 of them are one byte short of the limit.
            one_more(&"n".repeat(255), MAX_PATH / 256)
        }),
        require::trial("deep::an_added_chain_without_end_is_told_as_far_as_it_can_be_said", &[], added_chain),
        require::trial("deep::what_is_too_deep_cannot_be_sealed", &[], not_sealed),
    ]
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Makes a chain of directories below `root`, and gives the last one.
fn chain(root: &Path, name: &str, depth: usize) -> Result<OwnedFd> {
    let mut at = openat(CWD, root, DIRECTORY, Mode::empty())?;
    for _ in 0..depth {
        at = next(&at, name)?;
    }
    Ok(at)
}

fn next(directory: &OwnedFd, name: &str) -> Result<OwnedFd> {
    mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
    Ok(openat(directory, name, DIRECTORY, Mode::empty())?)
}

fn write(directory: &OwnedFd, name: &str, bytes: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    rustix::io::write(openat(directory, name, flags, Mode::from_raw_mode(0o644))?, bytes)?;
    Ok(())
}

/// The path of the first `depth` of them.
fn path(name: &str, depth: usize) -> String {
    vec![name; depth].join("/")
}

fn beyond_path_max() -> Result<()> {
    const DEPTH: usize = 500;
    let case = Case::new()?;
    let _removed = RemovedByLegs(case.root());
    let name = "d".repeat(60);
    let last = chain(case.root(), &name, DEPTH)?;
    for file in ["changed", "removed", "steady"] {
        write(&last, file, b"sealed")?;
    }
    case.seal()?;
    write(&last, "changed", b"other!")?;
    write(&last, "added", b"")?;
    unlinkat(&last, "removed", AtFlags::empty())?;
    next(&last, "below")?;
    let at = path(&name, DEPTH);
    case.scan()?.expect([
        format!("added {at}/added"),
        format!("added {at}/below"),
        format!("changed {at}/changed content"),
        format!("removed {at}/removed"),
    ])
}

fn one_more(name: &str, most: usize) -> Result<()> {
    let case = Case::new()?;
    let _removed = RemovedByLegs(case.root());
    let last = chain(case.root(), name, most)?;
    case.seal()?;
    next(&last, "x")?;
    let at = path(name, most);
    // Whatever is in it, the directory is not what was sealed, and nothing of it can be said.
    case.scan()?.expect([format!("unverifiable {at} too_deep 1")])
}

fn added_chain() -> Result<()> {
    let case = Case::new()?;
    let _removed = RemovedByLegs(case.root());
    case.tree.file("file", "sealed")?;
    case.seal()?;
    chain(case.root(), "d", MAX_DEPTH + 100)?;
    let mut expected: Vec<String> = (1..=MAX_DEPTH).map(|depth| format!("added {}", path("d", depth))).collect();
    if let Some(last) = expected.last_mut() {
        last.push_str(" ? content too_deep");
    }
    case.scan()?.expect(expected)
}

fn not_sealed() -> Result<()> {
    let case = Case::new()?;
    let _removed = RemovedByLegs(case.root());
    chain(case.root(), "d", MAX_DEPTH + 1)?;
    let finished = case.try_seal("portable")?.expect(74)?;
    ensure!(finished.stderr.contains("too_deep") && !case.manifest().exists(), "{finished:?}");
    Ok(())
}
