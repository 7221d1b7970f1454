//! One image copied by skopeo into every form and compression that it writes: each is sealed as the same tree, from a file
//! and from standard input. Belongs here: what another writer of images makes of one.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::image::{Document, Layer, Layout, TAG};
use driftlock_tests::random_image::RandomImage;
use driftlock_tests::require::Requirement::{self, Skopeo};
use driftlock_tests::require::trial_with;
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::described::{Described, sealed};

const NEEDS: &[Requirement] = &[Skopeo];

/// What skopeo is told, and what comes out.
struct Form {
    name: &'static str,
    /// The words of `skopeo copy`, one time after the other; `{}` is the place for all of it, `image` the layout.
    copies: &'static [&'static [&'static str]],
    /// What is sealed.
    source: &'static str,
    /// How the layers are stored.
    layers: Layers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layers {
    Plain,
    Gzip,
    Zstd,
    /// With a table of contents behind it, which is not read.
    ZstdChunked,
    /// In the archive of another program: plain, and not said.
    Docker,
}

const UNCOMPRESSED: &str = "--dest-oci-accept-uncompressed-layers";
const FORMAT: &str = "--dest-compress-format";
const DIRECTORY: &[&str] = &["--dest-decompress", "oci:{}/image:made", "dir:{}/plain"];

const FORMS: &[Form] = &[
    Form { name: "oci", copies: &[&["oci:{}/image:made", "oci:{}/out"]], source: "oci:{}/out", layers: Layers::Gzip },
    Form {
        name: "oci_uncompressed",
        copies: &[DIRECTORY, &[UNCOMPRESSED, "dir:{}/plain", "oci:{}/out"]],
        source: "oci:{}/out",
        layers: Layers::Plain,
    },
    Form {
        name: "oci_zstd",
        copies: &[&[FORMAT, "zstd", "oci:{}/image:made", "oci:{}/out"]],
        source: "oci:{}/out",
        layers: Layers::Zstd,
    },
    Form {
        name: "oci_zstd_chunked",
        copies: &[&[FORMAT, "zstd:chunked", "oci:{}/image:made", "oci:{}/out"]],
        source: "oci:{}/out",
        layers: Layers::ZstdChunked,
    },
    Form {
        name: "oci_gzip_of_zstd",
        copies: &[
            &[FORMAT, "zstd", "oci:{}/image:made", "oci:{}/zstd"],
            &[FORMAT, "gzip", "--dest-compress-level", "1", "oci:{}/zstd", "oci:{}/out"],
        ],
        source: "oci:{}/out",
        layers: Layers::Gzip,
    },
    Form {
        name: "oci_of_docker_types",
        copies: &[&["--format", "v2s2", "oci:{}/image:made", "dir:{}/docker"], &["dir:{}/docker", "oci:{}/out"]],
        source: "oci:{}/out",
        layers: Layers::Gzip,
    },
    Form {
        name: "oci_archive",
        copies: &[&["oci:{}/image:made", "oci-archive:{}/out.tar"]],
        source: "archive:{}/out.tar",
        layers: Layers::Gzip,
    },
    Form {
        name: "oci_archive_uncompressed",
        copies: &[DIRECTORY, &[UNCOMPRESSED, "dir:{}/plain", "oci-archive:{}/out.tar"]],
        source: "archive:{}/out.tar",
        layers: Layers::Plain,
    },
    Form {
        name: "oci_archive_zstd",
        copies: &[&[FORMAT, "zstd", "oci:{}/image:made", "oci-archive:{}/out.tar"]],
        source: "archive:{}/out.tar",
        layers: Layers::Zstd,
    },
    Form {
        name: "oci_archive_zstd_chunked",
        copies: &[&[FORMAT, "zstd:chunked", "oci:{}/image:made", "oci-archive:{}/out.tar"]],
        source: "archive:{}/out.tar",
        layers: Layers::ZstdChunked,
    },
    Form {
        name: "docker_archive",
        copies: &[&["oci:{}/image:made", "docker-archive:{}/out.tar:driftlock.test/made:latest"]],
        source: "archive:{}/out.tar",
        layers: Layers::Docker,
    },
    Form {
        name: "oci_of_docker_archive",
        copies: &[
            &["oci:{}/image:made", "docker-archive:{}/docker.tar:driftlock.test/made:latest"],
            &["docker-archive:{}/docker.tar", "oci:{}/out"],
        ],
        source: "oci:{}/out",
        layers: Layers::Gzip,
    },
];

pub(crate) fn trials() -> Vec<Trial> {
    let trial =
        |form: &'static Form| trial_with(format!("one_tree_through_skopeo_as_{}", form.name), NEEDS, || one(form));
    let table = trial_with("a_table_behind_a_layer_is_compared", NEEDS, a_table_behind_a_layer_is_compared);
    FORMS.iter().map(trial).chain([table]).collect()
}

fn one(form: &Form) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let mut layout = Layout::create(sandbox.path("image"))?;
    for layer in RandomImage::new(0..40).layers() {
        layout = layout.layer(&layer)?;
    }
    let layout = layout.finish()?;
    ensure!(TAG == "made", "the table has it in words");
    let expected = tree(&sandbox.seal(layout.source(), "expected")?)?;

    let place = sandbox.path("").display().to_string();
    let in_place = |word: &str| word.replace("{}", place.trim_end_matches('/'));
    for words in form.copies {
        let words = ["--insecure-policy", "copy", "--quiet"].into_iter().chain(words.iter().copied()).map(in_place);
        sandbox.command("skopeo".as_ref(), words).run()?.expect(0)?;
    }
    let source = in_place(form.source);
    let manifest = sandbox.seal(&source, "manifest")?;
    ensure!(tree(&manifest)? == expected, "another tree");
    match source.split_once(':').context("a kind")? {
        ("oci", layout) => ensure_stored(Path::new(layout), form.layers)?,
        (_, archive) => {
            let from_stdin = sandbox.path("from-stdin");
            let seal = ["seal".as_ref(), "archive:-".as_ref(), "-o".as_ref(), from_stdin.as_os_str()];
            sandbox.driftlock(seal).stdin(archive.as_ref())?.run()?.expect(0)?;
            ensure!(fs::read(&from_stdin)? == fs::read(&manifest)?, "another manifest from standard input");
            let unpacked = sandbox.path("unpacked");
            tar::Archive::new(fs::File::open(archive)?).unpack(&unpacked)?;
            ensure_stored(&unpacked, form.layers)?;
        }
    }
    Ok(())
}

/// A table of contents as skopeo writes it says what the layer says; every byte of it and of its footer that is another is
/// noted, or takes the table away.
fn a_table_behind_a_layer_is_compared() -> Result<()> {
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// A frame that decompressors skip (RFC 8878, section 3.1.2); a length of 4 bytes follows.
    const SKIPPABLE: &[u8] = &[0x50, 0x2a, 0x4d, 0x18];
    /// Offset, two lengths and type of the table. What may stand behind them is of another table, for making the archive
    /// again byte for byte.
    const FIELDS: usize = 32;
    let sandbox = Sandbox::new()?;
    let tar = Layer::new().dir("usr").file("usr/hosts", "localhost").program("usr/run", "#!/bin/sh\n").finish();
    let layout = Layout::create(sandbox.path("image"))?.layer(&tar)?.finish()?;
    let out = sandbox.path("out");
    let (from, to) = (format!("{}:{TAG}", layout.source()), format!("oci:{}", out.display()));
    let copy = ["--insecure-policy", "copy", "--quiet", FORMAT, "zstd:chunked", &from, &to];
    sandbox.command("skopeo".as_ref(), copy).run()?.expect(0)?;
    let blobs = fs::read_dir(out.join("blobs/sha256"))?.map(|entry| Ok(fs::read(entry?.path())?));
    let blobs: Vec<Vec<u8>> = blobs.collect::<Result<_>>()?;
    let packed = blobs.into_iter().find(|blob| blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])).context("the layer")?;
    let unpacked = zstd::decode_all(packed.as_slice())?;
    let frame = packed.windows(SKIPPABLE.len()).rposition(|bytes| bytes == SKIPPABLE).context("a last frame")?;
    let footer = frame + 8..frame + 8 + FIELDS;

    let seal = |name: &str, packed: &[u8]| {
        let layout = Layout::create(sandbox.path(name))?.layer_as(&unpacked, packed)?;
        let layout = layout.finish_as(|document, value| {
            if document == Document::Manifest {
                value["layers"][0]["mediaType"] = ZSTD.into();
            }
        })?;
        let manifest = sandbox.path(format!("{name}.manifest"));
        let (source, layout) = (layout.source(), layout.dir().to_owned());
        let words = ["seal".as_ref(), source.as_ref(), "--strict".as_ref(), "-o".as_ref(), manifest.as_os_str()];
        let finished = sandbox.driftlock(words).run()?;
        fs::remove_dir_all(layout)?;
        Ok::<_, anyhow::Error>(finished)
    };
    seal("whole", &packed)?.expect(0)?;
    let odd = |at: usize| {
        let mut odd = packed.clone();
        odd[at] ^= 1;
        let finished = seal("odd", &odd)?;
        let refused = finished.code == Some(65) && finished.stderr.contains("toc-unread");
        Ok::<_, anyhow::Error>((finished, refused))
    };
    for at in footer.clone() {
        let (finished, refused) = odd(at)?;
        ensure!(refused, "byte {} of the footer: {finished:?}", at - footer.start);
    }
    let at = u64::from_le_bytes(packed[footer.start..footer.start + 8].try_into()?);
    let (finished, refused) = odd(usize::try_from(at)?)?;
    ensure!(refused, "the table: {finished:?}");
    // Without its magic it is no table, as for every program that reads one.
    let (finished, _) = odd(packed.len() - 1)?;
    finished.expect(0)?;
    Ok(())
}

/// The tree's digest, and what is said of each path: equal digests of different trees would be seen.
fn tree(manifest: &Path) -> Result<(String, Described)> {
    let text = fs::read_to_string(manifest)?;
    let trailer: Value = serde_json::from_str(text.lines().next_back().context("an empty manifest")?)?;
    let digest = trailer["end"]["tree"].as_str().context("a trailer")?.to_owned();
    Ok((digest, sealed(manifest)?))
}

/// That skopeo wrote what it was told to: else a form would be tested twice, and another never.
fn ensure_stored(layout: &Path, layers: Layers) -> Result<()> {
    let parse = |path: &Path| Ok::<Value, anyhow::Error>(serde_json::from_slice(&fs::read(path)?)?);
    if layers == Layers::Docker {
        ensure!(!layout.join("oci-layout").exists(), "not what docker saves");
        let layer = parse(&layout.join("manifest.json"))?[0]["Layers"][0].clone();
        let content = fs::read(layout.join(layer.as_str().context("a layer")?))?;
        ensure!(content.get(257..262) == Some(b"ustar"), "not plain");
        return Ok(());
    }
    let index = parse(&layout.join("index.json"))?;
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().and_then(|it| it.strip_prefix("sha256:")).context("a digest")?;
        Ok::<_, anyhow::Error>(layout.join("blobs/sha256").join(digest))
    };
    let manifest = parse(&blob(&index["manifests"][0])?)?;
    let all = manifest["layers"].as_array().context("layers")?;
    ensure!(all.len() > 1, "layers: {all:?}");
    for layer in all {
        let (suffix, magic): (_, &[u8]) = match layers {
            Layers::Plain => ("tar", b""),
            Layers::Gzip => ("gzip", &[0x1f, 0x8b]),
            Layers::Zstd | Layers::ZstdChunked => ("zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
            Layers::Docker => unreachable!("looked at before"),
        };
        ensure!(layer["mediaType"].as_str().is_some_and(|it| it.ends_with(suffix)), "{layer}");
        ensure!(fs::read(blob(layer)?)?.starts_with(magic), "{layer} is not {layers:?}");
        let table = layer["annotations"].to_string().contains("zstd-chunked.manifest-position");
        ensure!(table == (layers == Layers::ZstdChunked), "{layer} is not {layers:?}");
    }
    Ok(())
}
