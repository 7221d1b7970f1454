//! What NetBSD's mtree, bsdtar and umoci write of a tree is read as that tree.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::debian;
use driftlock_tests::drift::ensure_same;
use driftlock_tests::mtree;
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use driftlock_tests::require::Requirement::{self, Bsdtar, DebianMirror, Debootstrap, Mtree, Root, Skopeo, Umoci};
use driftlock_tests::require::{trial, trial_with};
use libtest_mimic::Trial;
use serde_json::Value;

use super::place::{PROFILES, Place, SEEDS, scan, source};

pub(crate) fn trials() -> Vec<Trial> {
    let needs: &[Requirement] = &[Root, Mtree];
    let real: &[Requirement] = &[Root, Debootstrap, DebianMirror, Umoci, Skopeo];
    let mut trials = vec![
        trial("read::what_mtree_writes_of_any_name_is_the_tree", needs, || seeds(netbsd_with_any_name)),
        trial("read::what_bsdtar_writes_in_both_forms_is_the_tree", &[Root, Bsdtar], || seeds(bsdtar_writes)),
        trial("read::a_directory_that_would_write_lines_is_refused", &[Mtree, Bsdtar], lines_in_comments),
        trial("read::what_bsdtar_makes_of_an_export_is_the_tree", &[Root, Bsdtar], || seeds(bsdtar_reads)),
        trial("read::what_umoci_writes_of_an_image_is_the_image", &[Root, Umoci], what_umoci_writes),
        trial("read::what_umoci_writes_of_a_debian_is_the_image", real, a_debian),
    ];
    trials.extend(PROFILES.map(|profile| {
        let name = format!("read::what_mtree_writes_finds_what_mtree_finds_under_{profile}");
        trial_with(name, needs, move || seeds(|seed| netbsd(seed, profile)))
    }));
    trials
}

fn seeds(one: impl Fn(u64) -> Result<()>) -> Result<()> {
    (0..SEEDS).try_for_each(|seed| one(seed).with_context(|| format!("seed {seed}")))
}

/// Clean on the tree, and the same findings as mtree has with its own file.
fn netbsd(seed: u64, profile: &str) -> Result<()> {
    let place = Place::new()?;
    let mut random = RandomTree::new(seed, mtree::NAMES, true);
    random.fill(place.root())?;
    let description = mtree::describe(&place.sandbox, place.root(), profile)?;
    let manifest = place.seal(&source("mtree:", &description), profile, "manifest")?;
    let clean = place.scan(&manifest)?;
    ensure!(clean.is_empty(), "undisturbed: {clean:?}");
    random.tamper(place.root())?;
    let expected = mtree::compare(&place.sandbox, place.root(), &description)?;
    ensure_same(&expected, &place.scan(&manifest)?)
}

fn netbsd_with_any_name(seed: u64) -> Result<()> {
    let place = Place::new()?;
    RandomTree::new(seed, HOSTILE, true).fill(place.root())?;
    place.without_lines_in_comments()?;
    place.tree.file("\u{a3} and \\ and #", b"x")?;
    let description = mtree::describe(&place.sandbox, place.root(), "full")?;
    is_the_tree(&place, &description, "full")
}

fn bsdtar_writes(seed: u64) -> Result<()> {
    let place = Place::new()?;
    RandomTree::new(seed, HOSTILE, true).fill(place.root())?;
    place.without_sockets()?;
    for (format, options) in [("mtree", "mtree:all"), ("mtree-classic", "sha256,device")] {
        if format == "mtree-classic" {
            place.without_lines_in_comments()?;
        }
        let written = bsdtar(&place, format, options, ".")?;
        is_the_tree(&place, &written, "full").with_context(|| format.to_owned())?;
    }
    Ok(())
}

/// mtree and bsdtar write the names of directories into comments as they are.
fn lines_in_comments() -> Result<()> {
    let place = Place::new()?;
    place.tree.file("x\nplanted type=file optional\n/y", b"x")?;
    let nested =
        [mtree::describe(&place.sandbox, place.root(), "content")?, bsdtar(&place, "mtree-classic", "sha256", ".")?];
    for written in nested {
        let finished =
            place.run(["seal".as_ref(), source("mtree:", &written).as_os_str(), "-o".as_ref(), "m".as_ref()])?;
        let said = "x\\x0aplanted type=file optional\\x0a: writers of this style put the name into a comment";
        ensure!(finished.code == Some(65) && finished.stderr.contains(said), "{finished:?}");
    }
    is_the_tree(&place, &bsdtar(&place, "mtree", "mtree:all", ".")?, "full")
}

fn bsdtar_reads(seed: u64) -> Result<()> {
    let place = Place::new()?;
    RandomTree::new(seed, HOSTILE, true).fill(place.root())?;
    place.without_sockets()?;
    place.without_wildcards()?;
    let manifest = place.seal_tree("full")?;
    let export = place.export("mtree", &manifest, "export.mtree")?;
    let mut from = OsString::from("@");
    from.push(&export);
    let written = bsdtar(&place, "mtree", "sha256,device", &from)?;
    is_the_tree(&place, &written, "full")
}

fn bsdtar(place: &Place, format: &str, options: &str, what: impl AsRef<OsStr>) -> Result<PathBuf> {
    let arguments: [&OsStr; 8] = [
        "-cf".as_ref(),
        "-".as_ref(),
        "--format".as_ref(),
        format.as_ref(),
        "--options".as_ref(),
        options.as_ref(),
        "-C".as_ref(),
        place.root().as_ref(),
    ];
    let arguments = arguments.into_iter().chain([what.as_ref()]);
    let finished = place.sandbox.command("bsdtar".as_ref(), arguments).run()?.expect(0)?;
    place.sandbox.write(format!("written.{format}"), finished.stdout)
}

/// The file describes what is there: no difference in either direction, nothing left open, and a scan is clean.
fn is_the_tree(place: &Place, file: &Path, profile: &str) -> Result<()> {
    let read = source("mtree:", file);
    place.diff(&read, &source("dir:", place.root()), profile)?.expect(0)?;
    let manifest = place.seal(&read, profile, "read.manifest")?;
    let entries = entries(&manifest)?;
    ensure!(entries.len() == place.count() + 1, "{} entries of {} paths", entries.len(), place.count() + 1);
    for entry in &entries {
        let file = entry["t"] == "f";
        let link = entry["t"] == "l";
        ensure!(link || entry["m"].is_string(), "{entry}");
        ensure!(entry["u"].is_u64() && entry["g"].is_u64(), "{entry}");
        ensure!(!file || (entry["s2"].is_string() && entry["s"].is_u64() && entry["b3"].is_null()), "{entry}");
        ensure!(entry["t"] == "d" || entry["mt"].is_i64() || entry["mt"].is_u64(), "{entry}");
    }
    let found = place.scan(&manifest)?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// The entry lines of a manifest.
fn entries(manifest: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(manifest)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [header, entries @ .., _trailer] = lines.as_slice() else { anyhow::bail!("no manifest") };
    ensure!(header["content"] == "sha256" && header["source"]["kind"] == "mtree", "{header}");
    Ok(entries.to_vec())
}

/// An image of a random tree, by umoci alone.
fn what_umoci_writes() -> Result<()> {
    for seed in 0..5 {
        let place = Place::new()?;
        RandomTree::new(seed, HOSTILE, true).fill(place.root())?;
        place.without_sockets()?;
        place.without_lines_in_comments()?;
        let (layer, layout) = (place.sandbox.path("layer.tar"), place.sandbox.path("layout"));
        let options = ["--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-cf"];
        let pack = options.into_iter().map(OsStr::new).chain([layer.as_os_str(), "-C".as_ref(), place.root().as_ref()]);
        place.sandbox.command("tar".as_ref(), pack.chain([OsStr::new(".")])).run()?.expect(0)?;
        let mut tagged = layout.clone().into_os_string();
        tagged.push(":x");
        let umoci = |arguments: &[&OsStr]| place.sandbox.command("umoci".as_ref(), arguments).run()?.expect(0);
        umoci(&["init".as_ref(), "--layout".as_ref(), layout.as_ref()])?;
        umoci(&["new".as_ref(), "--image".as_ref(), &tagged])?;
        umoci(&["raw".as_ref(), "add-layer".as_ref(), "--image".as_ref(), &tagged, layer.as_ref()])?;
        let bundle = place.sandbox.path("bundle");
        umoci(&["unpack".as_ref(), "--image".as_ref(), &tagged, bundle.as_ref()])?;
        compare_with_umoci(&place, &source("oci:", &layout), &bundle).with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

fn a_debian() -> Result<()> {
    let place = Place::new()?;
    let image = debian::image()?;
    let bundle = place.sandbox.path("bundle");
    debian::unpack(&image, &bundle)?;
    compare_with_umoci(&place, &source("oci:", &image.layout), &bundle)
}

/// umoci's file beside the bundle is the image, of which it finds a change; the bundle is as the file says.
fn compare_with_umoci(place: &Place, image: &OsStr, bundle: &Path) -> Result<()> {
    let written = fs::read_dir(bundle)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let written =
        written.iter().find(|path| path.extension().is_some_and(|end| end == "mtree")).context("no .mtree")?;
    let read = source("mtree:", written);
    place.diff(&read, image, "full")?.expect(0)?;
    place.diff(image, &read, "full")?.expect(0)?;
    let manifest = place.seal(&read, "portable", "umoci.manifest")?;
    let found = scan(&place.sandbox, &manifest, &bundle.join("rootfs"))?;
    ensure!(found.is_empty(), "{found:?}");
    let sealed = place.seal(image, "portable", "image.manifest")?;
    let paths = fs::read_to_string(&sealed)?.lines().count() - 2;
    // The root has a line of its own there.
    ensure!(entries(&manifest)?.len() == paths + 1, "{} of {}", entries(&manifest)?.len(), paths + 1);
    // Comments hold names as they are.
    let text = String::from_utf8_lossy(&fs::read(written)?).into_owned();
    let digest = text.split("sha256digest=").nth(1).context("a digest")?.get(..64).context("a digest")?;
    let other = place.sandbox.write("other.mtree", text.replace(digest, &"0".repeat(64)))?;
    place.diff(image, &source("mtree:", &other), "full")?.expect(4)?;
    Ok(())
}
