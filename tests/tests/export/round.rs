//! A tree that is exported to mtree and read again is the same tree, in all that mtree can say.

use anyhow::{Context as _, Result, ensure};
use driftlock_agent::output::mtree::lines;
use driftlock_agent::pool::Pool;
use driftlock_agent::source::{Source, Terms, mtree, read};
use driftlock_common::manifest::Manifest;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::{Origin, Tree};
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use driftlock_tests::require::Requirement::Root;
use driftlock_tests::require::trial;
use libtest_mimic::Trial;

use super::place::remove_wildcards;

const SEEDS: u64 = 300;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("round::an_export_is_read_as_the_tree_it_was_made_of", &[], || seeds(false)),
        trial("round::an_export_with_owners_and_devices_is_read_as_its_tree", &[Root], || seeds(true)),
    ]
}

fn seeds(privileged: bool) -> Result<()> {
    let pool = Pool::new(None)?;
    (0..SEEDS).try_for_each(|seed| one(seed, privileged, &pool).with_context(|| format!("seed {seed}")))
}

fn one(seed: u64, privileged: bool, pool: &Pool) -> Result<()> {
    let root = tempfile::tempdir()?;
    RandomTree::new(seed, HOSTILE, privileged).fill(root.path())?;
    remove_wildcards(root.path())?;
    let terms = Terms {
        profile: [Profile::Content, Profile::Portable, Profile::Full][usize::try_from(seed % 3)?],
        excludes: Excludes::none(),
        exclude_sets: Vec::new(),
        platform: "linux/amd64".into(),
        sha256: true,
        strict: false,
        cache: None,
    };
    let sealed = read(&Source::Dir(root.path().to_owned()), &terms, pool)?.manifest;
    let exported = export(&sealed)?;
    let again = mtree::read(exported.as_slice(), &terms)?;
    ensure!(again.notes.total() == 0, "{:?}", again.notes);
    let expected = without_xattrs(&sealed.clone().by_sha256().ok().context("SHA-256 of every file")?)?;
    ensure!(again.tree == expected, "{}", String::from_utf8_lossy(&exported));
    // Its export is the same, byte by byte.
    let header = sealed.by_sha256().ok().context("SHA-256")?.header;
    ensure!(export(&Manifest { header, tree: again.tree })? == exported);
    Ok(())
}

fn export(manifest: &Manifest) -> Result<Vec<u8>> {
    Ok(lines(manifest).collect::<Result<Vec<_>, _>>()?.concat())
}

fn without_xattrs(manifest: &Manifest) -> Result<Tree> {
    let tree = &manifest.tree;
    let entries = tree.iter().map(|id| {
        let mut node = tree.node(id);
        node.xattrs = None;
        (tree.path(id), node, Origin::default())
    });
    Ok(Tree::from_sorted(entries)?)
}
