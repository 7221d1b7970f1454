//! Symlinks in circles, symlinks that lead outside, and what is swapped for one while it is looked at: nothing outside
//! of the root is ever opened.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use driftlock_tests::canary::Canary;
use driftlock_tests::require;
use driftlock_tests::told::Told;
use libtest_mimic::Trial;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::case::{Case, during};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("link::circles_of_symlinks_are_compared_and_not_walked", &[], circles),
        require::trial("link::what_a_symlink_leads_to_outside_is_never_opened", &[], outside),
        require::trial("link::nothing_outside_is_opened_while_it_is_swapped_in", &[], swapped),
        require::trial("link::a_root_swapped_for_a_symlink_is_lost_and_never_followed", &[], swapped_root),
    ]
}

/// What is outside says so by its size, which nothing inside has.
const CANARY: &str = "content of the canary";

fn circles() -> Result<()> {
    let case = Case::new()?;
    let root = case.root().display().to_string();
    for (path, target) in [
        ("self", "self"),
        ("one", "two"),
        ("two", "one"),
        ("dir/up", ".."),
        ("dir/here", "."),
        ("dir/again", "../dir"),
        ("dir/absolute", root.as_str()),
        ("dir/everything", "/"),
        ("dir/process", "/proc/self/root"),
        ("removed", "dir"),
    ] {
        case.tree.symlink(path, target)?;
    }
    case.tree.file("dir/file", "sealed")?;
    case.seal()?;
    fs::remove_file(case.tree.path("removed"))?;
    fs::remove_file(case.tree.path("two"))?;
    case.tree.symlink("two", "dir/up/one")?.symlink("dir/new", "../dir/new")?.symlink("dir/up-again", "..")?;
    fs::remove_file(case.tree.path("self"))?;
    case.tree.file("self/now/a/directory", "")?;
    case.scan()?.expect([
        "removed removed",
        "changed two target",
        "added dir/new",
        "added dir/up-again",
        "changed self type",
        "added self/now",
        "added self/now/a",
        "added self/now/a/directory",
    ])
}

/// A directory beside the root, with what the root has too.
fn canary(case: &Case) -> Result<Canary> {
    let outside = case.sandbox.tree("outside")?;
    for path in ["a", "b", "sub/c", "sub/deeper/d"] {
        outside.file(path, CANARY)?;
    }
    let canary = Canary::new()?;
    canary.watch_all(outside.root())?;
    Ok(canary)
}

fn outside() -> Result<()> {
    let case = Case::new()?;
    let canary = canary(&case)?;
    let outside = case.sandbox.path("outside");
    let absolute = outside.display().to_string();
    case.tree.symlink("sealed", &absolute)?.symlink("sealed-file", "../outside/a")?;
    for path in ["dir/a", "dir/b", "dir/sub/c", "file"] {
        case.tree.file(path, CANARY)?;
    }
    case.seal()?;
    // The same content would be found through the link: it must not count.
    fs::remove_dir_all(case.tree.path("dir"))?;
    fs::remove_file(case.tree.path("file"))?;
    case.tree.symlink("dir", &absolute)?.symlink("file", "../outside/a")?;
    case.tree.symlink("added", &absolute)?.symlink("added-file", "../outside/sub/c")?;
    case.scan()?.expect([
        "changed dir type",
        "removed dir/a",
        "removed dir/b",
        "removed dir/sub",
        "removed dir/sub/c",
        "changed file type",
        "added added",
        "added added-file",
    ])?;
    canary.is_untouched()
}

fn exchange(a: &Path, b: &Path) -> Result<()> {
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

fn swapped() -> Result<()> {
    const SCANS: usize = 40;
    let case = Case::new()?;
    let canary = canary(&case)?;
    for path in ["dir/a", "dir/b", "dir/sub/c", "dir/sub/deeper/d", "file", "steady", "zz/steady"] {
        case.tree.file(path, "inside")?;
    }
    case.seal()?;
    let absolute = case.sandbox.path("outside").display().to_string();
    let swaps = [("dir", absolute.as_str()), ("dir/sub", "../../outside/sub"), ("file", "../outside/a")];
    // Beside what they are swapped with, and of the same file system, so that each swap is one step.
    let swaps = swaps.map(|(path, target)| {
        let fake = format!("zz/{}", path.replace('/', "-"));
        case.tree.symlink(&fake, target).map(|_| (case.tree.path(path), case.tree.path(&fake)))
    });
    let swaps = swaps.into_iter().collect::<Result<Vec<_>>>()?;
    let [dir, sub, file] = swaps.as_slice() else { unreachable!("three of them") };
    let pair = |(inside, fake): &(PathBuf, PathBuf)| exchange(inside, fake);
    during(
        || {
            for swap in [dir, file] {
                pair(swap)?;
                pair(swap)?;
            }
            // The same deeper inside, while everything above it is in its place.
            pair(sub)?;
            pair(sub)
        },
        || {
            for _ in 0..SCANS {
                inside_only(&case.scan()?)?;
                canary.is_untouched()?;
            }
            Ok(())
        },
    )?;
    case.scan()?.expect(["added zz/dir", "added zz/dir-sub", "added zz/file"])?;
    canary.is_untouched()
}

/// That nothing was found but what is swapped, and nothing of what is outside.
fn inside_only(told: &Told) -> Result<()> {
    for line in &told.lines {
        let path = line.split(' ').nth(1).unwrap_or_default();
        let below = |top: &str| path == top || path.starts_with(&format!("{top}/"));
        let swapped = ["dir", "file", "zz/dir", "zz/dir-sub", "zz/file"].iter().any(|top| below(top));
        ensure!(swapped, "nothing happened to it: {line}");
        let has_reason = line.contains(" ? ") || line.starts_with("unverifiable ");
        ensure!(!has_reason || line.contains(" unstable"), "no reason for that: {line}");
    }
    for finding in &told.report.findings {
        let size = finding["observed"]["size"].as_u64();
        ensure!(size != Some(CANARY.len() as u64), "read outside: {finding}");
    }
    Ok(())
}

fn swapped_root() -> Result<()> {
    const SCANS: usize = 40;
    let case = Case::new()?;
    let canary = canary(&case)?;
    for path in ["a", "b", "sub/c", "sub/deeper/d"] {
        case.tree.file(path, "inside")?;
    }
    case.seal()?;
    let fake = case.sandbox.path("fake");
    symlink("outside", &fake)?;
    during(
        || {
            exchange(case.root(), &fake)?;
            exchange(case.root(), &fake)
        },
        || {
            for _ in 0..SCANS {
                let finished = case.finish()?;
                match finished.code {
                    // A link where the root was to be is refused at once; what it was may be too late to tell.
                    Some(66) => ensure!(
                        finished.stdout.is_empty()
                            && ["is a symbolic link", "is not a directory"]
                                .iter()
                                .any(|it| finished.stderr.contains(it)),
                        "{finished:?}"
                    ),
                    _ => Told::of(&finished)?.expect_within(&["unverifiable . root_lost 7"])?,
                }
                canary.is_untouched()?;
            }
            Ok(())
        },
    )?;
    case.scan()?.expect([""; 0])?;
    canary.is_untouched()
}
