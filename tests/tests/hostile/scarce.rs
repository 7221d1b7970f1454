//! Little of everything: descriptors, memory, threads. With too little a scan says so, by an error or by gaps; what it
//! says is true all the same.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::bulk;
use driftlock_tests::memory_group::MemoryGroup;
use driftlock_tests::require::{self, Requirement};
use driftlock_tests::sandbox::Finished;
use driftlock_tests::told::Told;
use libtest_mimic::Trial;

use super::case::Case;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("scarce::few_descriptors_give_the_truth_or_gaps", &[Requirement::Prlimit], descriptors),
        require::trial("scarce::little_address_space_gives_the_truth_or_an_error", &[Requirement::Prlimit], || {
            memory("--as")
        }),
        require::trial("scarce::little_memory_for_data_gives_the_truth_or_an_error", &[Requirement::Prlimit], || {
            memory("--data")
        }),
        require::trial(
            "scarce::no_thread_more_gives_the_truth_or_an_error",
            &[Requirement::Root, Requirement::Prlimit],
            threads,
        ),
        require::trial(
            "scarce::a_tree_larger_than_the_memory_of_the_group_is_read_to_its_end",
            &[Requirement::Root, Requirement::MemoryGroup],
            group,
        ),
        require::trial(
            "scarce::a_scan_that_is_killed_for_its_memory_never_said_that_it_was_complete",
            &[Requirement::Root, Requirement::MemoryGroup],
            killed,
        ),
    ]
}

const EXPECTED: [&str; 4] =
    ["changed 3/33 content", "removed 4/44", "added 5/new", "changed deep/er/and/deeper/file content"];

/// A tree with a thousand entries, four of them not as sealed.
fn sample() -> Result<Case> {
    let case = Case::new()?;
    for directory in 0..20 {
        for file in 0..50 {
            case.tree.file(format!("{directory}/{file}"), format!("{directory} {file}"))?;
        }
    }
    case.tree.file("deep/er/and/deeper/file", "sealed")?;
    case.seal()?;
    fs::write(case.tree.path("3/33"), "other")?;
    fs::write(case.tree.path("deep/er/and/deeper/file"), "other!")?;
    fs::remove_file(case.tree.path("4/44"))?;
    case.tree.file("5/new", "")?;
    Ok(case)
}

/// How a scan may end that had too little of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With an error of the table, or of the C library.
    Error,
    /// With gaps, and the truth about the rest.
    Gaps,
    /// With the whole truth.
    Truth,
}

/// How the C library itself ends a program when there is no memory for its own bookkeeping of threads; nothing of ours
/// is asked then. Findings told before stand, and nothing claims to be complete.
const LIBRARY_ENDS: [&str; 2] = [
    "Fatal glibc error: failed to register TLS destructor: out of memory",
    "cannot allocate memory for thread-local data: ABORT",
];

fn end(finished: &Finished) -> Result<End> {
    if finished.code.is_some_and(|code| (64..79).contains(&code)) {
        // Findings may have been told before, but not that they are all.
        ensure!(!finished.text()?.contains("\"type\":\"summary\""), "{finished:?}");
        // One line; two if two threads had too little at the same time.
        let lines: Vec<&str> = finished.stderr.lines().collect();
        ensure!(matches!(lines.len(), 1 | 2), "{finished:?}");
        ensure!(lines.iter().all(|line| line.starts_with("driftlock: ")), "{finished:?}");
        return Ok(End::Error);
    }
    if finished.signal.is_some() && LIBRARY_ENDS.contains(&finished.stderr.trim_end()) {
        ensure!(!finished.text()?.contains("\"type\":\"summary\""), "{finished:?}");
        return Ok(End::Error);
    }
    let told = Told::of(finished)?;
    let complete = told.report.summary["complete"] == true;
    if complete {
        told.expect(EXPECTED)?;
        return Ok(End::Truth);
    }
    for line in &told.lines {
        // A directory that cannot be listed, or a file that cannot be read, may be different beside.
        let is_gap = line.starts_with("unverifiable ") && line.contains(" resources ");
        let is_part = EXPECTED.iter().any(|expected| line.starts_with(expected)) && line.ends_with(" resources");
        ensure!(is_gap || is_part || EXPECTED.contains(&line.as_str()), "not true: {line}");
    }
    Ok(End::Gaps)
}

/// Scans under `option` set to each of `limits`, as far as the program can be started at all under it.
fn under(case: &Case, option: &str, limits: impl IntoIterator<Item = u64>) -> Result<Vec<End>> {
    let mut ends = Vec::new();
    for limit in limits {
        let limit = format!("{option}={limit}");
        let prlimit = binaries().driftlock.clone();
        let starts =
            case.sandbox.command("prlimit".as_ref(), [limit.as_ref(), prlimit.as_os_str(), "--version".as_ref()]);
        if starts.run()?.code == Some(0) {
            let finished = case.behind(["prlimit", &limit]).run()?;
            ends.push(end(&finished).with_context(|| limit)?);
        }
    }
    // Enough is among the limits.
    ensure!(ends.last() == Some(&End::Truth), "{ends:?}");
    Ok(ends)
}

fn descriptors() -> Result<()> {
    let ends = under(&sample()?, "--nofile", (3..24).chain([32, 64]))?;
    ensure!(ends.contains(&End::Gaps) || ends.contains(&End::Error), "the limits are too high: {ends:?}");
    Ok(())
}

fn memory(option: &str) -> Result<()> {
    let megabytes = (1..40).chain([48, 64, 128, 512]).map(|megabytes| megabytes << 20);
    let ends = under(&sample()?, option, megabytes)?;
    ensure!(ends.contains(&End::Error) || ends.contains(&End::Gaps), "the limits are too high: {ends:?}");
    Ok(())
}

fn threads() -> Result<()> {
    let case = sample()?;
    case.finish_as_nobody()?.expect(7)?;
    let program = case.sandbox.path("driftlock");
    let mut words = vec!["--nproc=1".into(), program.into_os_string()];
    words.extend(case.arguments());
    // Of root there is no limit.
    end(&case.sandbox.command("prlimit".as_ref(), words).unprivileged().run()?)?;
    Ok(())
}

fn group() -> Result<()> {
    const SIZE: u64 = 60_000_000;
    let case = Case::new()?;
    let largest = bulk::make(case.root(), SIZE)?;
    case.seal()?;
    let shown = largest.strip_prefix(case.root())?.display().to_string();
    driftlock_tests::tamper::content_under_old_size_and_time(case.root(), &shown)?;
    let group = MemoryGroup::new()?;
    group.limit(SIZE * 2 / 5)?;
    Told::of(&case.behind(group.around([""; 0])).run()?)?.expect([format!("changed {shown} content")])
}

fn killed() -> Result<()> {
    let case = sample()?;
    for megabytes in [1, 2, 3, 4, 6, 8, 32] {
        let group = MemoryGroup::new()?;
        group.limit(megabytes << 20)?;
        let finished = case.behind(group.around([""; 0])).run()?;
        if finished.signal == Some(9) {
            ensure!(!finished.text()?.contains("\"type\":\"summary\""), "{finished:?}");
        } else {
            end(&finished).with_context(|| format!("{megabytes} MB"))?;
        }
    }
    Ok(())
}
