//! What the scanning user may not read, always or now and then.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use driftlock_tests::require::{self, Requirement};
use driftlock_tests::told::Told;
use driftlock_tests::wait::pass;
use libtest_mimic::Trial;

use super::case::{Case, during};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("denied::unreadable_files_and_directories_are_gaps", &[Requirement::Root], unreadable),
        require::trial("denied::permissions_that_come_and_go_give_gaps_and_no_removals", &[Requirement::Root], flicker),
    ]
}

fn unreadable() -> Result<()> {
    let case = Case::new()?;
    for directory in ["closed/a/b", "closed-now/a/b", "names-alone/a"] {
        case.tree.file(format!("{directory}/file"), "sealed")?;
    }
    for name in ["secret", "secret-now", "secret-larger", "open", "dir/open"] {
        case.tree.file(name, "sealed")?;
    }
    case.tree.mode("closed", 0o700)?.mode("secret", 0o600)?.mode("secret-larger", 0o600)?;
    case.seal()?;
    case.tree.mode("closed-now", 0o700)?.mode("secret-now", 0o600)?;
    // Its names can be read, what they name cannot.
    case.tree.mode("names-alone", 0o744)?;
    fs::write(case.tree.path("secret-larger"), "another size")?;
    case.tree.file("new", "")?.mode("new", 0o600)?.file("new-dir/inside", "")?.mode("new-dir", 0o700)?;
    fs::write(case.tree.path("dir/open"), "other!")?;
    Told::of(&case.finish_as_nobody()?)?.expect([
        "unverifiable closed denied 4",
        "changed closed-now mode ? content denied",
        "unverifiable closed-now/a denied 3",
        "changed names-alone mode",
        "unverifiable names-alone/a denied 2",
        "unverifiable secret denied 1",
        "changed secret-now mode ? content,xattrs denied",
        "changed secret-larger content ? content,xattrs denied",
        "added new ? content,xattrs denied",
        "added new-dir ? content denied",
        "changed dir/open content",
    ])?;
    // A root that is closed itself is refused.
    case.tree.mode("", 0o700)?;
    let finished = case.finish_as_nobody()?.expect(77)?;
    ensure!(finished.stdout.is_empty(), "{finished:?}");
    Ok(())
}

fn flicker() -> Result<()> {
    const SCANS: usize = 40;
    let case = Case::new()?;
    for path in ["file", "dir/one", "dir/two/three", "names/one", "names/two/three", "steady", "beside/steady"] {
        case.tree.file(path, "sealed")?;
    }
    case.seal()?;
    let flickering = [("file", 0o644, 0o600), ("dir", 0o755, 0o700), ("names", 0o755, 0o744)];
    let mode = |name: &str, mode| fs::set_permissions(case.tree.path(name), Permissions::from_mode(mode));
    during(
        || {
            for (name, sealed, closed) in flickering {
                mode(name, closed)?;
                // A little, so that a scan meets it closed as often as open.
                pass(std::time::Duration::from_micros(200));
                mode(name, sealed)?;
            }
            Ok(())
        },
        || {
            for _ in 0..SCANS {
                for line in &Told::of(&case.finish_as_nobody()?)?.lines {
                    let words: Vec<&str> = line.split(' ').collect();
                    let [change, path, rest @ ..] = words.as_slice() else { anyhow::bail!("{line}") };
                    let flickers = ["file", "dir", "names"]
                        .iter()
                        .any(|top| path == top || path.strip_prefix(top).is_some_and(|below| below.starts_with('/')));
                    let is_true = match (*change, rest) {
                        ("changed", ["mode"]) => true,
                        ("changed", ["mode", "?", _, reason]) => ["denied", "unstable"].contains(reason),
                        ("unverifiable", [reason, _]) => ["denied", "unstable"].contains(reason),
                        _ => false,
                    };
                    ensure!(flickers && is_true, "not at any moment: {line}");
                    ensure!(*change != "changed" || !path.contains('/'), "its mode never changed: {line}");
                }
            }
            Ok(())
        },
    )?;
    Told::of(&case.finish_as_nobody()?)?.expect([""; 0])
}
