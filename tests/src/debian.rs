//! Owns the real image of the tests: a Debian that `debootstrap` made, as a base layer, and a second layer that does
//! everything a layer can do to the one below. Made once for a machine and kept outside the checkout. Must not own
//! what sealing it has to give.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::image::sha256;
use crate::tamper::{CAP_NET_RAW, set_capability};
use crate::tree::{Tree, below};

/// What is installed. The machine's own sources must carry it.
pub(crate) const SUITE: &str = "bookworm";
/// Changes whenever this file makes another image.
const RECIPE: &str = "1";
/// A name that is not UTF-8, in the second layer.
pub const LATIN1_NAME: &[u8] = b"opt/app/caf\xe9";
/// Gone by a whiteout in the second layer.
pub const DELETED: [&str; 2] = ["etc/issue.net", "usr/share/doc/adduser"];
/// Emptied by the second layer, which puts one file there.
pub const OPAQUE: &str = "usr/share/common-licenses";

/// The image in three forms.
#[derive(Clone, Debug)]
pub struct DebianImage {
    /// An OCI layout.
    pub layout: PathBuf,
    /// As `docker save` writes it, by skopeo.
    pub docker_archive: PathBuf,
    /// The layout in an archive, by skopeo.
    pub oci_archive: PathBuf,
}

/// The image's tag in the layout.
pub const TAG: &str = "two";

/// The image; made if this machine has not made it yet, which takes a minute and the network.
///
/// # Errors
/// If it cannot be made; what the tools said is in the error.
pub fn image() -> Result<DebianImage> {
    let mirror = mirror().context("no Debian mirror in /etc/apt")?;
    let fixtures = fixtures()?;
    let key = sha256(format!("{RECIPE} {SUITE} {mirror}").as_bytes());
    let place = fixtures.join(format!("debian-{SUITE}-{}", &key[..16]));
    if !place.exists() {
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(&fixtures)?;
        let made = work.path().join("image");
        make(work.path(), &made, &mirror)?;
        // Whole or not at all. If another test was faster, its image serves as well.
        if let Err(error) = fs::rename(&made, &place) {
            ensure!(place.exists(), "{}: {error}", place.display());
        }
    }
    Ok(DebianImage {
        layout: place.join("oci"),
        docker_archive: place.join("docker.tar"),
        oci_archive: place.join("oci.tar"),
    })
}

/// Unpacks the image with umoci into `bundle`; the root of the unpacked tree.
///
/// # Errors
/// If umoci fails.
pub fn unpack(image: &DebianImage, bundle: &Path) -> Result<PathBuf> {
    unpack_from(&image.layout, TAG, bundle)
}

/// Unpacks the image `tag` of a layout with umoci into `bundle`; the root of the unpacked tree.
///
/// # Errors
/// If umoci fails.
pub fn unpack_from(layout: &Path, tag: &str, bundle: &Path) -> Result<PathBuf> {
    run(Command::new("umoci").arg("unpack").arg("--image").arg(tagged(layout, tag)).arg(bundle))?;
    Ok(bundle.join("rootfs"))
}

/// The mirror that apt uses for `SUITE`.
pub fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| mirror_in(&text))
}

/// Both forms of sources.list(5): lines of `deb [options] URI suite …`, and stanzas with `URIs:` and `Suites:`.
fn mirror_in(text: &str) -> Option<String> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("deb ")?.split_whitespace().skip_while(|word| !word.contains("://"));
        let uri = words.next()?;
        (words.next()? == SUITE).then(|| uri.to_owned())
    };
    let stanza = |stanza: &str| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        let suites = field("Suites:")?;
        suites.split_whitespace().any(|suite| suite == SUITE).then_some(())?;
        field("URIs:")?.split_whitespace().next().map(str::to_owned)
    };
    text.lines().find_map(line).or_else(|| text.split("\n\n").find_map(stanza))
}

/// What a machine makes once for the tests: a directory outside the checkout.
pub(crate) fn fixtures() -> Result<PathBuf> {
    let fixtures = cache()?.join("driftlock/fixtures");
    fs::create_dir_all(&fixtures)?;
    Ok(fixtures)
}

fn cache() -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")
}

fn make(work: &Path, made: &Path, mirror: &str) -> Result<()> {
    let root = work.join("root");
    run(Command::new("debootstrap").args(["--variant=minbase", SUITE]).arg(&root).arg(mirror))?;
    let base = work.join("base.tar");
    pack(&root, &base)?;
    let delta = work.join("delta.tar");
    second_layer(&Tree::create(work.join("delta"))?)?;
    pack(&work.join("delta"), &delta)?;

    fs::create_dir(made)?;
    let layout = made.join("oci");
    run(Command::new("umoci").args(["init", "--layout"]).arg(&layout))?;
    let image = tagged(&layout, TAG);
    run(Command::new("umoci").args(["new", "--image"]).arg(&image))?;
    for layer in [base, delta] {
        run(Command::new("umoci").args(["raw", "add-layer", "--image"]).arg(&image).arg(layer))?;
    }
    run(Command::new("umoci").args(["gc", "--layout"]).arg(&layout))?;
    for (kind, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let mut from = std::ffi::OsString::from("oci:");
        from.push(&image);
        let to = format!("{kind}:{}:driftlock.test/debian:{TAG}", made.join(file).display());
        run(Command::new("skopeo").arg("--insecure-policy").arg("copy").arg(from).arg(to))?;
    }
    Ok(())
}

/// Deletes, replaces, adds, empties: all that a layer can do, with hard links, a file capability and a name that is
/// not UTF-8.
fn second_layer(delta: &Tree) -> Result<()> {
    for path in DELETED {
        let (parent, name) = path.rsplit_once('/').context("not at the top")?;
        delta.file(format!("{parent}/.wh.{name}"), b"")?;
    }
    delta.file(format!("{OPAQUE}/.wh..wh..opq"), b"")?.file(format!("{OPAQUE}/NOTICE"), b"all others are gone\n")?;
    delta.file("etc/issue", b"sealed in the second layer\n")?;
    delta.file("opt/app/server", b"#!/bin/sh\nexec sleep 1\n")?.mode("opt/app/server", 0o755)?;
    set_capability(&delta.path("opt/app/server"), &CAP_NET_RAW)?;
    fs::hard_link(delta.path("opt/app/server"), delta.path("opt/app/alias"))?;
    delta.file(LATIN1_NAME, b"one byte of the name is no character\n")?;
    delta.file("opt/app/empty", b"")?.dir("opt/app/plugins")?;
    symlink("server", below(delta.root(), "opt/app/current"))?;
    fs::set_permissions(delta.path("opt/app/plugins"), Permissions::from_mode(0o2775))?;
    Ok(())
}

pub(crate) fn pack(root: &Path, archive: &Path) -> Result<()> {
    let options = ["--format=pax", "--numeric-owner", "--sort=name", "--xattrs", "--xattrs-include=*"];
    run(Command::new("tar").args(options).arg("-cf").arg(archive).arg("-C").arg(root).arg("."))
}

pub(crate) fn tagged(layout: &Path, tag: &str) -> std::ffi::OsString {
    let mut image = layout.as_os_str().to_owned();
    image.push(OsStr::new(":"));
    image.push(tag);
    image
}

/// Runs a command to its end; what it said is in the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_suite() {
        let rows = [
            ("deb http://a.example/debian bookworm main", Some("http://a.example/debian")),
            ("deb [signed-by=/x arch=amd64] http://a.example/debian bookworm main", Some("http://a.example/debian")),
            ("deb http://a.example/other other-bookworm main\n# deb http://b.example bookworm main", None),
            (
                "Types: deb\nURIs: http://s.example\nSuites: bookworm-security\n\nTypes: deb\nURIs: http://a.example/d \
                 http://b.example\nSuites: bookworm bookworm-updates\n",
                Some("http://a.example/d"),
            ),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(mirror_in(text).as_deref(), expected, "{text}");
        }
    }
}
