//! What is sealed of a directory is exactly what `walkdir` finds in it, wherever `walkdir` can go.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::path::from_base64;
use driftlock_tests::random::Random;
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use driftlock_tests::require;
use libtest_mimic::Trial;
use serde_json::Value;
use walkdir::WalkDir;

use super::case::Case;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("walker::what_is_sealed_is_what_walkdir_finds", &[], random_trees),
        require::trial("walker::deep_and_wide_trees_are_sealed_as_walkdir_finds_them", &[], shapes),
    ]
}

/// All paths of the manifest, read as any other program would read it.
fn sealed(manifest: &Path) -> Result<BTreeSet<Vec<u8>>> {
    let text = fs::read_to_string(manifest)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [_, entries @ .., _] = lines.as_slice() else { anyhow::bail!("no header and no end\n{text}") };
    let paths = entries.iter().map(|entry| match (entry["p"].as_str(), entry["p64"].as_str()) {
        (Some(path), None) => Ok(path.as_bytes().to_owned()),
        (None, Some(path)) => from_base64(path).with_context(|| format!("not base64: {entry}")),
        _ => anyhow::bail!("not one path: {entry}"),
    });
    let paths: BTreeSet<Vec<u8>> = paths.collect::<Result<_>>()?;
    ensure!(paths.len() == entries.len(), "a path stands twice");
    Ok(paths)
}

fn found(root: &Path) -> Result<BTreeSet<Vec<u8>>> {
    let entries = WalkDir::new(root).into_iter();
    entries.map(|entry| Ok(entry?.path().strip_prefix(root)?.as_os_str().as_bytes().to_owned())).collect()
}

fn compare(case: &Case) -> Result<()> {
    case.seal_under("portable")?;
    let (sealed, found) = (sealed(&case.manifest())?, found(case.root())?);
    let missed: Vec<_> = found.difference(&sealed).map(|path| path.escape_ascii().to_string()).collect();
    let invented: Vec<_> = sealed.difference(&found).map(|path| path.escape_ascii().to_string()).collect();
    ensure!(missed.is_empty() && invented.is_empty(), "missed {missed:?}, invented {invented:?}");
    Ok(())
}

fn random_trees() -> Result<()> {
    const SEEDS: u64 = 60;
    let privileged = nix::unistd::geteuid().is_root();
    (0..SEEDS).try_for_each(|seed| {
        let case = Case::new()?;
        let mut random = RandomTree::new(seed, HOSTILE, privileged);
        // Twice over: what comes second goes into what is there already.
        random.fill(case.root())?;
        (0..3).try_for_each(|_| random.tamper(case.root()))?;
        compare(&case).with_context(|| format!("seed {seed}"))
    })
}

fn shapes() -> Result<()> {
    let case = Case::new()?;
    let mut random = Random::new(7);
    // As deep as a path of the kernel goes, from the root of the machine on.
    let room = 4095 - case.root().as_os_str().len();
    let name = "a-directory-in-a-directory/";
    case.tree.dir(name.repeat(room / name.len() - 1).trim_end_matches('/'))?;
    // Around the sizes at which a walk divides its work, and a system call its names.
    for count in [0, 1, 63, 64, 65, 127, 128, 129, 1000, 3000] {
        let top = format!("wide-{count}");
        case.tree.dir(&top)?;
        for number in 0..count {
            let name = format!("{top}/{:x}-{number}", random.next());
            if random.below(20) == 0 {
                case.tree.dir(format!("{name}/x"))?
            } else {
                case.tree.file(name, "")?
            };
        }
    }
    compare(&case)
}
