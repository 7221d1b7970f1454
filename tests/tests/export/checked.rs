//! Other programs check a tree with what was exported: they find it clean, and flag what a scan flags.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::debian;
use driftlock_tests::drift::{Drift, ensure_same};
use driftlock_tests::mtree;
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use driftlock_tests::require::Requirement::{
    self, B3sum, Bsdtar, DebianMirror, Debootstrap, Mtree, Root, Skopeo, Umoci,
};
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::Finished;
use driftlock_tests::tamper;
use libtest_mimic::Trial;
use walkdir::WalkDir;

use super::place::{PROFILES, Place, SEEDS, scan, source};

pub(crate) fn trials() -> Vec<Trial> {
    let needs: &[Requirement] = &[Root, Mtree];
    let real: &[Requirement] = &[Root, Mtree, Debootstrap, DebianMirror, Umoci, Skopeo];
    let mut trials = vec![
        trial("checked::mtree_and_a_scan_flag_each_attribute", needs, each_attribute),
        trial("checked::mtree_and_bsdtar_read_any_name", &[Root, Mtree, Bsdtar], any_name),
        trial("checked::sha256sum_writes_and_checks_the_same_file", &[], || sums(&SHA256SUM)),
        trial("checked::b3sum_writes_and_checks_the_same_file", &[B3sum], || sums(&B3SUM)),
        trial("checked::an_unpacked_debian_is_as_the_image_was_exported", real, an_unpacked_debian),
    ];
    trials.extend(PROFILES.map(|profile| {
        let name = format!("checked::mtree_flags_what_a_scan_under_{profile}_flags");
        trial_with(name, needs, move || {
            (0..SEEDS).try_for_each(|seed| as_a_scan(seed, profile).with_context(|| format!("seed {seed}")))
        })
    }));
    trials
}

/// On random trees and random tampering.
fn as_a_scan(seed: u64, profile: &str) -> Result<()> {
    let place = Place::new()?;
    let mut random = RandomTree::new(seed, mtree::NAMES, true);
    random.fill(place.root())?;
    let manifest = place.seal_tree(profile)?;
    let export = place.export("mtree", &manifest, "export.mtree")?;
    let undisturbed = mtree::compare(&place.sandbox, place.root(), &export)?;
    ensure!(undisturbed.is_empty(), "undisturbed, it says {undisturbed:?}");
    random.tamper(place.root())?;
    let flagged = mtree::compare(&place.sandbox, place.root(), &export)?;
    ensure_same(&place.scan(&manifest)?, &flagged)
}

type Tampering = (&'static str, fn(&Path) -> Result<Drift>);

/// One after another, each on what the ones before left.
const TAMPERINGS: [Tampering; 10] = [
    ("content", |root| tamper::content_under_old_size_and_time(root, "d/content")),
    ("size", |root| tamper::append(root, "d/size")),
    ("mode", |root| tamper::chmod(root, "d/mode", 0o600)),
    ("set-id", |root| tamper::setuid(root, "d/setid")),
    ("owner", |root| tamper::chown(root, "d/owner", 7, 8)),
    ("type", |root| tamper::file_to_directory(root, "d/type")),
    ("target", |root| tamper::retarget(root, "d/link", "elsewhere")),
    ("added", |root| tamper::add(root, "d/added")),
    ("added directory", |root| tamper::add_directory(root, "d/new")),
    ("removed", |root| tamper::remove(root, "d/removed")),
];

fn each_attribute() -> Result<()> {
    let place = Place::new()?;
    for name in ["content", "size", "mode", "setid", "owner", "type", "removed"] {
        place.tree.file(format!("d/{name}"), name)?;
    }
    place.tree.symlink("d/link", "content")?;
    let manifest = place.seal_tree("portable")?;
    let export = place.export("mtree", &manifest, "export.mtree")?;
    let mut expected = BTreeSet::new();
    for (what, tamper) in TAMPERINGS {
        expected.insert(tamper(place.root())?);
        let flagged = mtree::compare(&place.sandbox, place.root(), &export)?;
        ensure_same(&expected, &flagged).with_context(|| format!("mtree, {what}"))?;
        ensure_same(&expected, &place.scan(&manifest)?).with_context(|| format!("scan, {what}"))?;
    }
    Ok(())
}

/// mtree says nothing of a tree with hostile names, and something after one file was changed; bsdtar reads as many.
fn any_name() -> Result<()> {
    for seed in 0..SEEDS {
        let place = Place::new()?;
        let mut random = RandomTree::new(seed, HOSTILE, true);
        random.fill(place.root())?;
        place.without_wildcards()?;
        place.tree.file(b"hostile \xff[#\\/\n=", b"sealed")?;
        let manifest = place.seal_tree("portable")?;
        let export = place.export("mtree", &manifest, "export.mtree")?;
        let check = || {
            let arguments = ["-f".as_ref(), export.as_os_str(), "-p".as_ref(), place.root().as_os_str()];
            place.sandbox.command("mtree".as_ref(), arguments).run()
        };
        let clean = check()?;
        ensure!(clean.code == Some(0) && clean.stdout.is_empty(), "seed {seed}: {clean:?}");
        // bsdtar knows no sockets.
        place.without_sockets()?;
        let export = place.export("mtree", &place.seal_tree("portable")?, "without-sockets.mtree")?;
        let arguments = ["-tf".as_ref(), export.as_os_str()];
        let listed = place.sandbox.command("bsdtar".as_ref(), arguments).run()?.expect(0)?;
        // The root too, and each line feed in a name is escaped.
        let lines = listed.stdout.iter().filter(|byte| **byte == b'\n').count();
        ensure!(lines == place.count() + 1, "seed {seed}: {lines} of {}\n{listed:?}", place.count() + 1);
        fs::write(place.tree.path(b"hostile \xff[#\\/\n="), b"SEALED")?;
        let flagged = check()?;
        ensure!(
            flagged.code == Some(2) && String::from_utf8_lossy(&flagged.stdout).contains("sha256"),
            "seed {seed}: {flagged:?}"
        );
    }
    Ok(())
}

struct Sums {
    program: &'static str,
    /// Whether it can name any bytes.
    any_name: bool,
}

const SHA256SUM: Sums = Sums { program: "sha256sum", any_name: true };
const B3SUM: Sums = Sums { program: "b3sum", any_name: false };

/// The file is the one that the program writes itself; it passes the tree, and flags the one file that was changed.
fn sums(sums: &Sums) -> Result<()> {
    let mut files_seen = 0;
    for seed in 0..SEEDS {
        let place = Place::new()?;
        let mut random = RandomTree::new(seed, HOSTILE, false);
        random.fill(place.root())?;
        if !sums.any_name {
            remove_what_is_not_text(place.root())?;
        }
        place.tree.file(b"-", b"not standard input")?.file("back\\slash\nand line feed\r", b"sealed")?;
        let manifest = place.seal_tree("content")?;
        let export = place.export(sums.program, &manifest, "export.sums")?;

        let files = files(place.root())?;
        files_seen += files.len();
        let mut arguments = vec!["-C".into(), place.root().as_os_str().to_owned(), sums.program.into()];
        arguments.extend(files.iter().map(|file| source("./", file)));
        let own = place.sandbox.command("env".as_ref(), arguments).run()?.expect(0)?;
        let lines = |bytes: &[u8]| bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
        ensure!(lines(&fs::read(&export)?) == lines(&own.stdout), "seed {seed}: {own:?}");

        let check = |expected: i32| -> Result<Finished> {
            let arguments = [
                "-C".as_ref(),
                place.root().as_os_str(),
                sums.program.as_ref(),
                "--check".as_ref(),
                export.as_os_str(),
            ];
            place.sandbox.command("env".as_ref(), arguments).run()?.expect(expected)
        };
        check(0).with_context(|| format!("seed {seed}"))?;
        fs::write(place.tree.path("-"), b"not standard OUTPUT")?;
        let flagged = check(1)?;
        let said = String::from_utf8_lossy(&flagged.stdout);
        let said: Vec<&str> = said.lines().filter(|line| line.contains("FAILED")).collect();
        ensure!(said == ["./-: FAILED"], "seed {seed}: {said:?}");
    }
    ensure!(files_seen > 100, "{files_seen} files in all");
    Ok(())
}

fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root) {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.push(entry.path().strip_prefix(root)?.to_owned());
        }
    }
    Ok(files)
}

fn remove_what_is_not_text(root: &Path) -> Result<()> {
    let all: Vec<_> = WalkDir::new(root).contents_first(true).into_iter().collect::<Result<_, _>>()?;
    for entry in all.iter().filter(|entry| entry.file_name().to_str().is_none()) {
        if entry.file_type().is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Exported from the image itself, compared with what umoci unpacked of it.
fn an_unpacked_debian() -> Result<()> {
    let place = Place::new()?;
    let image = debian::image()?;
    let root = debian::unpack(&image, &place.sandbox.path("bundle"))?;
    let layout = source("oci:", &image.layout);
    let export = place.export("mtree", Path::new(&layout), "export.mtree")?;
    let clean = mtree::compare(&place.sandbox, &root, &export)?;
    ensure!(clean.is_empty(), "as unpacked: {clean:?}");
    let expected = BTreeSet::from([
        tamper::content_under_old_size_and_time(&root, "usr/bin/env")?,
        tamper::setuid(&root, "bin/ls")
            .map(|drift| if root.join("bin").is_symlink() { Drift::changed("usr/bin/ls", &["mode"]) } else { drift })?,
        tamper::add(&root, "usr/lib/planted")?,
        tamper::remove(&root, "etc/debian_version")?,
    ]);
    ensure_same(&expected, &mtree::compare(&place.sandbox, &root, &export)?)?;
    let manifest = place.seal(&layout, "portable", "manifest")?;
    ensure_same(&expected, &scan(&place.sandbox, &manifest, &root)?)
}
