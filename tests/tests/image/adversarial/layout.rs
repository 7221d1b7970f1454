//! Owns what the documents of an image may say, and what may lie in the place of a blob.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Result, ensure};
use driftlock_tests::archive::Entry;
use driftlock_tests::image::{Document, Layout};
use driftlock_tests::require::Requirement::Root;
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use super::Outcome::{Refused, Sealed};
use super::{Fixture, Outcome, of, place};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const GOOD: Outcome = Sealed { entries: &["x file size=1"], diagnostics: &[] };

pub(super) const FIXTURES: &[Fixture] = &[
    Fixture {
        name: "a layer of an unknown type",
        make: |sandbox| {
            edited(sandbox, Document::Manifest, |it| {
                it["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+lz4");
            })
        },
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: a layer of the type application/vnd.oci.image.layer.v1.tar+lz4, which is not a tree of files",
        ),
        strict: None,
    },
    Fixture {
        name: "a layer without a type",
        make: |sandbox| {
            edited(sandbox, Document::Manifest, |it| {
                drop(it["layers"][0].as_object_mut().map(|it| it.remove("mediaType")))
            })
        },
        outcome: Refused(65, "{}/layout: blob sha256:*: a layer that does not say its media type"),
        strict: None,
    },
    Fixture {
        name: "an artifact that is no image",
        make: |sandbox| {
            edited(sandbox, Document::Manifest, |it| {
                it["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json\n");
            })
        },
        outcome: Refused(65, "manifest sha256:*: not an image, but application/vnd.cncf.helm.config.v1+json\\x0a"),
        strict: None,
    },
    Fixture {
        name: "a layer by sha512",
        make: |sandbox| {
            edited(sandbox, Document::Manifest, |it| {
                it["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
            })
        },
        outcome: Refused(
            65,
            "layer: the digest sha512:0000000000000000000000000000000000000000000000000000000000000000000000000 cannot be used: only sha256 is supported",
        ),
        strict: None,
    },
    Fixture {
        name: "a digest that leads out",
        make: |sandbox| {
            edited(sandbox, Document::Manifest, |it| it["layers"][0]["digest"] = json!("sha256:../../../../etc/shadow"))
        },
        outcome: Refused(
            65,
            "layer: the digest sha256:../../../../etc/shadow cannot be used: only sha256 is supported",
        ),
        strict: None,
    },
    Fixture {
        name: "a layer whose size is another",
        make: |sandbox| edited(sandbox, Document::Manifest, |it| it["layers"][0]["size"] = json!(1_u64 << 60)),
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: wrong size: the descriptor says 1152921504606846976 bytes, there are 107",
        ),
        strict: None,
    },
    Fixture {
        name: "a configuration whose size is another",
        make: |sandbox| edited(sandbox, Document::Manifest, |it| it["config"]["size"] = json!(1)),
        outcome: Refused(65, "{}/layout: blob sha256:*: wrong size: the descriptor says 1 bytes, there are 163"),
        strict: None,
    },
    Fixture {
        name: "a manifest whose size is another",
        make: |sandbox| edited(sandbox, Document::Index, |it| it["manifests"][0]["size"] = json!(1)),
        outcome: Refused(65, "{}/layout: blob sha256:*: wrong size: the descriptor says 1 bytes, there are 401"),
        strict: None,
    },
    Fixture {
        name: "a negative size",
        make: |sandbox| edited(sandbox, Document::Manifest, |it| it["layers"][0]["size"] = json!(-1)),
        outcome: Refused(
            65,
            "blob sha256:*: not the JSON expected here: invalid value: integer `-1`, expected u64 at line 1 column 322",
        ),
        strict: None,
    },
    Fixture {
        name: "fewer diff_ids than layers",
        make: |sandbox| edited(sandbox, Document::Config, |it| it["rootfs"]["diff_ids"] = json!([])),
        outcome: Refused(65, "configuration sha256:*: it has 0 diff_ids, the manifest 1 layers"),
        strict: None,
    },
    Fixture {
        name: "the diff_ids of a layer twice",
        make: |sandbox| {
            edited(sandbox, Document::Config, |it| {
                let all = it["rootfs"]["diff_ids"].as_array_mut().expect("a list");
                all.push(all[0].clone());
            })
        },
        outcome: Refused(65, "configuration sha256:*: it has 2 diff_ids, the manifest 1 layers"),
        strict: None,
    },
    Fixture {
        name: "a thousand layers",
        make: |sandbox| {
            edited(sandbox, Document::Manifest, |it| {
                let layer = it["layers"][0].clone();
                it["layers"] = Value::Array(vec![layer; 1000]);
            })
        },
        outcome: Refused(65, "manifest sha256:*: more than 512 layers"),
        strict: None,
    },
    Fixture {
        name: "an index in an index in an index",
        make: |sandbox| nested(sandbox, 2),
        outcome: GOOD,
        strict: None,
    },
    Fixture {
        name: "an index four deep",
        make: |sandbox| nested(sandbox, 3),
        outcome: Refused(65, "blob sha256:*: indexes stand in indexes more than 3 deep"),
        strict: None,
    },
    Fixture {
        name: "attestations beside an image",
        make: |sandbox| {
            edited(sandbox, Document::Index, |it| {
                for attestation in attestations(&it["manifests"][0].clone()) {
                    it["manifests"].as_array_mut().expect("a list").push(attestation);
                }
            })
        },
        outcome: GOOD,
        strict: None,
    },
    Fixture {
        name: "attestations alone",
        make: |sandbox| {
            edited(sandbox, Document::Index, |it| it["manifests"] = json!(attestations(&it["manifests"][0].clone())))
        },
        outcome: Refused(66, "{}/layout/index.json: there is no image in it"),
        strict: None,
    },
    Fixture {
        name: "a blob that is a link within the layout",
        make: |sandbox| replaced(sandbox, |blob, taken| Ok(symlink(taken.file_name().expect("a name"), blob)?)),
        outcome: GOOD,
        strict: None,
    },
    Fixture {
        name: "a blob that is a link out of the layout",
        make: |sandbox| {
            replaced(sandbox, |blob, taken| {
                let outside = blob.ancestors().nth(4).expect("above the layout").join("outside");
                fs::rename(taken, &outside)?;
                Ok(symlink(outside, blob)?)
            })
        },
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: a link that leads out of the layout: copy the layout with cp -rL",
        ),
        strict: None,
    },
    Fixture {
        name: "a blob that is a FIFO",
        make: |sandbox| replaced(sandbox, |blob, _| node(blob, FileType::Fifo)),
        outcome: Refused(65, "{}/layout: blob sha256:*: not a regular file"),
        strict: None,
    },
    Fixture {
        name: "a blob that is a socket",
        make: |sandbox| replaced(sandbox, |blob, _| node(blob, FileType::Socket)),
        outcome: Refused(65, "{}/layout: blob sha256:*: not a regular file"),
        strict: None,
    },
    Fixture {
        name: "a blob that is a directory",
        make: |sandbox| replaced(sandbox, |blob, _| Ok(fs::create_dir(blob)?)),
        outcome: Refused(65, "{}/layout: blob sha256:*: not a regular file"),
        strict: None,
    },
    Fixture {
        name: "an index that is a FIFO",
        make: |sandbox| {
            let layout = good(sandbox)?;
            fs::remove_file(layout.dir().join("index.json"))?;
            node(&layout.dir().join("index.json"), FileType::Fifo)?;
            Ok(layout.source())
        },
        outcome: Refused(65, "{}/layout/index.json: not a regular file"),
        strict: None,
    },
    Fixture {
        name: "an index that is a link to a file of the machine's",
        make: |sandbox| {
            let layout = good(sandbox)?;
            fs::remove_file(layout.dir().join("index.json"))?;
            symlink("/etc/passwd", layout.dir().join("index.json"))?;
            Ok(layout.source())
        },
        outcome: Refused(65, "{}/layout/index.json: a link that leads out of the layout: copy the layout with cp -rL"),
        strict: None,
    },
];

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("layout_a_blob_that_is_a_device", &[Root], a_device),
        trial("layout_a_blob_that_may_not_be_read", &[], unreadable),
    ]
}

fn good(sandbox: &Sandbox) -> Result<Layout> {
    let layer = of([Entry::file("x", "1")]).finish();
    Layout::create(sandbox.path("layout"))?.layer(&layer)?.finish()
}

fn edited(sandbox: &Sandbox, document: Document, edit: fn(&mut Value)) -> Result<String> {
    let layer = of([Entry::file("x", "1")]).finish();
    let layout = Layout::create(sandbox.path("layout"))?.layer(&layer)?;
    let layout = layout.finish_as(|which, value| {
        if which == document {
            edit(value);
        }
    })?;
    Ok(layout.source())
}

/// The index in so many others.
fn nested(sandbox: &Sandbox, times: usize) -> Result<String> {
    let layout = good(sandbox)?;
    for _ in 0..times {
        let index: Value = serde_json::from_slice(&fs::read(layout.dir().join("index.json"))?)?;
        let outer = json!({"schemaVersion": 2, "manifests": [layout.document(INDEX, &index)?]});
        fs::write(layout.dir().join("index.json"), outer.to_string())?;
    }
    Ok(layout.source())
}

/// As buildx writes them: each form that says that it is one.
fn attestations(image: &Value) -> [Value; 2] {
    let mut by_annotation = image.clone();
    by_annotation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut by_platform = image.clone();
    by_platform["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    [by_annotation, by_platform]
}

/// A good layout whose layer is taken elsewhere in it; something else comes in its place.
fn replaced(sandbox: &Sandbox, replace: fn(&Path, &Path) -> Result<()>) -> Result<String> {
    let layout = good(sandbox)?;
    let blob = &layout.layers()[0].path;
    let taken = blob.with_extension("taken");
    fs::rename(blob, &taken)?;
    replace(blob, &taken)?;
    Ok(layout.source())
}

fn node(path: &Path, file_type: FileType) -> Result<()> {
    Ok(mknodat(CWD, path, file_type, Mode::from_raw_mode(0o644), 0)?)
}

fn a_device() -> Result<()> {
    // Reading `/dev/zero` would have no end.
    let sandbox = Sandbox::new()?;
    let source = replaced(&sandbox, |blob, _| {
        Ok(mknodat(CWD, blob, FileType::CharacterDevice, Mode::from_raw_mode(0o644), makedev(1, 5))?)
    })?;
    let finished = sandbox.driftlock(["seal", &source, "-o", "-"]).run()?.expect(65)?;
    ensure!(finished.stderr.contains("not a regular file"), "{finished:?}");
    Ok(())
}

fn unreadable() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let layout = good(&sandbox)?;
    fs::set_permissions(&layout.layers()[0].path, Permissions::from_mode(0o0))?;
    let arguments = ["seal".to_owned(), layout.source(), "-o".to_owned(), "-".to_owned()];
    let finished = sandbox.command(&sandbox.driftlock_for_everyone()?, arguments).unprivileged().run()?.expect(77)?;
    let line = format!("driftlock: {}/layout: blob sha256:{}: ", place(&sandbox), layout.layers()[0].sha256);
    ensure!(finished.stderr.starts_with(&line) && finished.stderr.contains("Permission denied"), "{finished:?}");
    ensure!(finished.stderr.lines().count() == 1 && finished.stdout.is_empty(), "{finished:?}");
    Ok(())
}
