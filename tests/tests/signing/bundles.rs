//! Bundles: made whole or not at all, the same for the same input, and refused for one reason each.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::trust::{Assignment, Envelope, PublicKey};
use driftlock_tests::image::sha256;
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::Value;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a_sealed_and_signed_tree_is_verified_and_scanned", &[], sealed_verified_scanned),
        trial("two_seals_of_one_tree_are_the_same_bytes", &[], reproducible),
        trial("a_manifest_is_signed_afterwards_with_the_same_bundle", &[], signed_afterwards),
        trial("signatures_are_added_and_counted_by_key", &[], signatures_are_added),
        trial("a_bundle_moves_with_its_manifest", &[], a_bundle_moves),
        trial("a_bundle_that_cannot_be_written_leaves_the_old_one", &[], whole_or_not_at_all),
        trial("a_bundle_is_shown_as_not_verified", &[], shown_unverified),
        trial("with_a_key_a_bundle_is_shown_compared_and_exported_as_verified", &[], read_by_key),
        trial("what_is_signed_needs_no_file_but_its_own", &[], a_pipe_is_signed),
        trial("an_assignment_is_signed_and_an_agent_takes_it", &[], an_assignment),
    ];
    trials.extend(
        REFUSED
            .iter()
            .map(|row| trial_with(format!("refused_{}", row.name.replace([' ', '-', ','], "_")), &[], || refused(row))),
    );
    trials
}

/// The line on stderr of a command that ends with `code`.
pub(super) fn one_line(finished: &Finished, code: i32, says: &[&str]) -> Result<()> {
    ensure!(finished.code == Some(code), "expected {code}\n{finished:?}");
    ensure!(finished.stdout.is_empty(), "an error is no result\n{finished:?}");
    ensure!(finished.stderr.lines().count() == 1, "one line\n{finished:?}");
    for part in says {
        ensure!(finished.stderr.contains(part), "{part:?} is not said: {finished:?}");
    }
    Ok(())
}

/// Makes the files NAME.key and NAME.pub; the name of the key.
pub(super) fn keygen(sandbox: &Sandbox, name: &str, scheme: &str) -> Result<String> {
    let made = sandbox.driftlock(["keygen", "-o", name, "--scheme", scheme]).run()?.expect(0)?;
    Ok(made.text()?.trim_end().to_owned())
}

pub(super) fn small_tree(sandbox: &Sandbox) -> Result<()> {
    sandbox.tree("tree")?.file("etc/app.toml", "level = 1\n")?.file("bin/app", "#!/bin/sh\n")?.symlink("etc/l", "x")?;
    Ok(())
}

/// Seals the tree into a bundle.
pub(super) fn sealed(sandbox: &Sandbox, key: &str, bundle: &str) -> Result<PathBuf> {
    sandbox.driftlock(["seal", "dir:tree", "--sign", key, "-o", bundle]).run()?.expect(0)?;
    Ok(sandbox.path(bundle))
}

fn json(sandbox: &Sandbox, arguments: &[&str]) -> Result<Value> {
    let finished = sandbox.driftlock(arguments.iter().chain(&["--format", "json"])).run()?.expect(0)?;
    serde_json::from_slice(&finished.stdout).with_context(|| format!("{finished:?}"))
}

/// The manifest that a bundle states, as it lies beside it.
fn manifest_of(sandbox: &Sandbox, bundle: &str) -> Result<PathBuf> {
    let shown = json(sandbox, &["show", bundle])?;
    let digest = shown["sha256"].as_str().context("a digest")?.to_owned();
    Ok(sandbox.path(format!("{digest}.manifest")))
}

fn sealed_verified_scanned() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    let id = keygen(&sandbox, "build", "ed25519")?;
    let sealed = sandbox.driftlock(["seal", "dir:tree", "--sign", "build.key", "-o", "app.bundle"]).run()?.expect(0)?;
    ensure!(sealed.stderr.contains(&format!("signed by ed25519:{id}\n")), "{sealed:?}");
    let verified = json(&sandbox, &["verify", "app.bundle", "--key", "build.pub"])?;
    let manifest = verified["statement"]["predicate"]["manifest"]["digest"]["sha256"].as_str().context("a digest")?;
    ensure!(verified["verified"] == true && verified["signed_by"][0]["key"] == id.as_str(), "{verified}");
    ensure!(verified["statement"]["predicate"]["counts"]["entries"] == 6, "{verified}");
    ensure!(sha256(&fs::read(sandbox.path(format!("{manifest}.manifest")))?) == manifest, "{manifest}");
    // The manifest is what it is without a signature.
    sandbox.driftlock(["seal", "dir:tree", "-o", "bare.manifest"]).run()?.expect(0)?;
    ensure!(sha256(&fs::read(sandbox.path("bare.manifest"))?) == manifest, "another manifest");
    let scan = ["scan", "--manifest", "app.bundle", "--key", "build.pub", "tree"];
    let clean = sandbox.driftlock(scan).run()?.expect(0)?;
    ensure!(clean.text()?.contains("signed"), "{clean:?}");
    sandbox.write("tree/etc/app.toml", "level = 9\n")?;
    sandbox.driftlock(scan).run()?.expect(4)?;
    Ok(())
}

/// Also across schemes that are deterministic here, and whatever the clock says.
fn reproducible() -> Result<()> {
    for scheme in ["ed25519", "ecdsa-p256"] {
        let sandbox = Sandbox::new()?;
        small_tree(&sandbox)?;
        keygen(&sandbox, "k", scheme)?;
        let seal = |to: &str, epoch: &str| {
            let arguments = ["seal", "dir:tree", "--sign", "k.key", "--name", "registry.example/app", "-o", to];
            sandbox.driftlock(arguments).env("SOURCE_DATE_EPOCH", epoch).run()?.expect(0)
        };
        fs::create_dir(sandbox.path("one"))?;
        fs::create_dir(sandbox.path("two"))?;
        seal("one/app.bundle", "1764482400")?;
        seal("two/app.bundle", "1764482400")?;
        let files = |directory: &str| -> Result<BTreeSet<(String, Vec<u8>)>> {
            let entry = |entry: std::io::Result<fs::DirEntry>| {
                let path = entry?.path();
                Ok((path.file_name().context("a name")?.to_string_lossy().into_owned(), fs::read(&path)?))
            };
            fs::read_dir(sandbox.path(directory))?.map(entry).collect()
        };
        ensure!(files("one")?.len() == 2 && files("one")? == files("two")?, "{scheme}: not the same files");
        let stated = json(&sandbox, &["verify", "one/app.bundle", "--key", "k.pub"])?;
        ensure!(stated["statement"]["predicate"]["createdAt"] == "2025-11-30T06:00:00Z", "{stated}");
        seal("two/app.bundle", "1764482401")?;
        ensure!(files("one")? != files("two")?, "{scheme}: the time is not in it");
        for bad in ["", "tomorrow", "-1", "1e9", "99999999999999"] {
            let arguments = ["seal", "dir:tree", "--sign", "k.key", "-o", "bad.bundle"];
            let finished = sandbox.driftlock(arguments).env("SOURCE_DATE_EPOCH", bad).run()?;
            one_line(&finished, 64, &["SOURCE_DATE_EPOCH=", "not a whole number of seconds"])?;
        }
        ensure!(!sandbox.path("bad.bundle").exists(), "a bundle of no time");
    }
    Ok(())
}

fn signed_afterwards() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    let run = |arguments: &[&str]| sandbox.driftlock(arguments).env("SOURCE_DATE_EPOCH", "1764482400").run();
    run(&["seal", "dir:tree", "--sign", "k.key", "-o", "at-once.bundle"])?.expect(0)?;
    run(&["seal", "dir:tree", "-o", "app.manifest"])?.expect(0)?;
    one_line(&run(&["sign", "app.manifest", "--key", "k.key"])?, 64, &["app.manifest is a manifest", "-o BUNDLE"])?;
    run(&["sign", "app.manifest", "--key", "k.key", "-o", "later.bundle"])?.expect(0)?;
    ensure!(fs::read(sandbox.path("at-once.bundle"))? == fs::read(sandbox.path("later.bundle"))?, "two bundles");
    Ok(())
}

fn signatures_are_added() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    for (name, scheme) in [("a", "ed25519"), ("b", "ecdsa-p256"), ("c", "ed25519")] {
        keygen(&sandbox, name, scheme)?;
    }
    sealed(&sandbox, "a.key", "app.bundle")?;
    let is_sigstore = || -> Result<bool> {
        let bundle: Value = serde_json::from_slice(&fs::read(sandbox.path("app.bundle"))?)?;
        Ok(bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json")
    };
    ensure!(is_sigstore()?, "one signature is a Sigstore bundle");
    // Signing again is signing once.
    let before = fs::read(sandbox.path("app.bundle"))?;
    sandbox.driftlock(["sign", "app.bundle", "--key", "a.key"]).run()?.expect(0)?;
    ensure!(fs::read(sandbox.path("app.bundle"))? == before, "another bundle");
    sandbox.driftlock(["sign", "app.bundle", "--key", "b.key"]).run()?.expect(0)?;
    ensure!(!is_sigstore()?, "two are plain DSSE");
    let verify = |keys: &[&str], threshold: &str| {
        let keys = keys.iter().flat_map(|key| ["--key", key]);
        sandbox.driftlock(["verify", "app.bundle", "--threshold", threshold].into_iter().chain(keys)).run()
    };
    verify(&["a.pub"], "1")?.expect(0)?;
    verify(&["b.pub", "c.pub"], "1")?.expect(0)?;
    let both = verify(&["a.pub", "c.pub", "b.pub"], "2")?.expect(0)?;
    ensure!(both.text()?.contains("by a.pub: ed25519:") && both.text()?.contains("by b.pub: ecdsa-p256:"), "{both:?}");
    ensure!(!both.text()?.contains("c.pub"), "{both:?}");
    one_line(&verify(&["a.pub", "c.pub"], "2")?, 77, &["signed by 1 of the 2 trusted key(s) that it takes"])?;
    one_line(&verify(&["c.pub"], "1")?, 77, &["signed by 0 of the 1 trusted key(s)"])?;
    // One key that is given twice is one key.
    one_line(&verify(&["a.pub", "a.pub"], "2")?, 64, &["--threshold 2: only 1 different key(s) were given"])
}

fn a_bundle_moves() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    keygen(&sandbox, "l", "ed25519")?;
    sealed(&sandbox, "k.key", "app.bundle")?;
    fs::create_dir(sandbox.path("deploy"))?;
    sandbox.driftlock(["sign", "app.bundle", "--key", "l.key", "-o", "deploy/app.bundle"]).run()?.expect(0)?;
    sandbox.driftlock(["verify", "deploy/app.bundle", "--key", "l.pub"]).run()?.expect(0)?;
    // The other one is as it was.
    let alone = sandbox.driftlock(["verify", "app.bundle", "--key", "l.pub"]).run()?;
    one_line(&alone, 77, &["signed by 0 of the 1"])
}

fn whole_or_not_at_all() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    let bundle = sealed(&sandbox, "k.key", "app.bundle")?;
    let before = fs::read(&bundle)?;
    let names =
        || -> Result<BTreeSet<_>> { fs::read_dir(sandbox.path(""))?.map(|entry| Ok(entry?.file_name())).collect() };
    let there = names()?;
    sandbox.write("tree/new", "file\n")?;
    let failing = ["seal", "dir:tree", "--sign-command", "false", "--key", "k.pub", "-o", "app.bundle"];
    one_line(&sandbox.driftlock(failing).run()?, 69, &["failed"])?;
    ensure!(fs::read(&bundle)? == before && names()? == there, "something changed: {:?}", names()?);
    one_line(
        &sandbox.driftlock(["seal", "dir:tree", "--sign", "k.key", "-o", "none/app.bundle"]).run()?,
        73,
        &["none/app.bundle"],
    )?;
    one_line(
        &sandbox.driftlock(["seal", "dir:tree", "--sign", "k.key", "-o", "-"]).run()?,
        64,
        &["a bundle needs a file"],
    )?;
    sealed(&sandbox, "k.key", "app.bundle")?;
    // The manifest of the release before stays at hand.
    ensure!(names()?.len() == there.len() + 1 && fs::read(&bundle)? != before, "{:?}", names()?);
    Ok(())
}

fn shown_unverified() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    let id = keygen(&sandbox, "k", "ed25519")?;
    sealed(&sandbox, "k.key", "app.bundle")?;
    let shown = json(&sandbox, &["show", "app.bundle", "--list"])?;
    ensure!(shown["bundle"]["verified"] == false && shown["bundle"]["signed_by"][0] == id.as_str(), "{shown}");
    ensure!(shown["trust"] == "unsigned" && shown["list"].as_array().is_some_and(|list| list.len() == 6), "{shown}");
    let text = sandbox.driftlock(["show", "app.bundle"]).run()?.expect(0)?;
    ensure!(text.text()?.contains("bundle    not verified (--key FILE does that)"), "{text:?}");
    ensure!(text.text()?.contains(&format!("  says to be signed by {id}\n")), "{text:?}");
    sandbox.driftlock(["seal", "dir:tree", "-o", "bare.manifest"]).run()?.expect(0)?;
    ensure!(json(&sandbox, &["show", "bare.manifest"])?["bundle"].is_null(), "a bare manifest has no bundle");
    Ok(())
}

fn read_by_key() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    let id = keygen(&sandbox, "k", "ed25519")?;
    keygen(&sandbox, "other", "ed25519")?;
    sealed(&sandbox, "k.key", "app.bundle")?;
    sandbox.driftlock(["seal", "dir:tree", "-o", "bare.manifest"]).run()?.expect(0)?;
    let run = |arguments: &[&str]| sandbox.driftlock(arguments).run();

    let shown = json(&sandbox, &["show", "app.bundle", "--key", "k.pub"])?;
    ensure!(shown["bundle"]["verified"] == true && shown["bundle"]["signed_by"] == serde_json::json!([id]), "{shown}");
    ensure!(shown["trust"] == "signed" && shown["key"] == id.as_str(), "{shown}");
    let text = run(&["show", "app.bundle", "--key", "other.pub", "--key", "k.pub"])?.expect(0)?;
    ensure!(text.text()?.contains("bundle    verified, stated "), "{text:?}");
    ensure!(text.text()?.contains(&format!("\n  signed by {id}\n")), "{text:?}");

    // The same as the manifest that is in it, origins too; what differs is found, on either side.
    let compared = json(&sandbox, &["diff", "app.bundle", "dir:tree", "--key", "k.pub"])?;
    let manifest = &compared["summary"]["manifest"];
    ensure!(manifest["trust"] == "signed" && manifest["key"] == id.as_str(), "{compared}");
    ensure!(manifest["sha256"] == shown["sha256"], "{compared}");
    let unseen = json(&sandbox, &["diff", "app.bundle", "bare.manifest", "--allow-unsigned"])?;
    ensure!(unseen["summary"]["manifest"]["trust"] == "unsigned", "{unseen}");
    let export = |file: &str, more: &[&str]| -> Result<String> {
        let exported = run(&[&["export", "--to", "sha256sum", file], more].concat())?.expect(0)?;
        Ok(exported.text()?.to_owned())
    };
    ensure!(export("app.bundle", &["--key", "k.pub"])? == export("bare.manifest", &[])?, "another list");
    sandbox.tree("tree")?.file("etc/app.toml", "level = 2\n")?;
    run(&["diff", "app.bundle", "dir:tree", "--key", "k.pub"])?.expect(4)?;
    run(&["diff", "dir:tree", "app.bundle", "--key", "k.pub"])?.expect(4)?;

    let bundles = [vec!["show", "app.bundle"], vec!["diff", "dir:tree", "app.bundle"], export_of("app.bundle")];
    for arguments in bundles {
        let by = |key| run(&[&arguments[..], &["--key", key]].concat());
        one_line(&by("other.pub")?, 77, &["app.bundle: refused: signed by 0 of the 1 trusted key(s)"])?;
        one_line(&by("none.pub")?, 66, &["none.pub"])?;
        if arguments[0] != "show" {
            one_line(&run(&arguments)?, 77, &["--key FILE, or --allow-unsigned to take it as if nobody"])?;
        }
    }
    for arguments in
        [vec!["show", "bare.manifest"], vec!["diff", "bare.manifest", "app.bundle"], export_of("bare.manifest")]
    {
        one_line(
            &run(&[&arguments[..], &["--key", "k.pub"]].concat())?,
            77,
            &["bare.manifest: refused, because nobody"],
        )?;
    }
    let sealed = run(&["seal", "app.bundle", "-o", "again"])?;
    one_line(&sealed, 64, &["app.bundle: already a manifest or a bundle", "show FILE reads it"])
}

fn export_of(file: &str) -> Vec<&str> {
    vec!["export", "--to", "mtree", file]
}

fn a_pipe_is_signed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    let manifest = sandbox.seal("dir:tree", "app.manifest")?;
    let sign = ["sign", "/dev/stdin", "--key", "k.key", "-o", "app.bundle"];
    sandbox.driftlock(sign).stdin(&manifest)?.run()?.expect(0)?;
    sandbox.driftlock(["verify", "app.bundle", "--key", "k.pub"]).run()?.expect(0)?;
    Ok(())
}

fn an_assignment() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    for name in ["k", "l"] {
        keygen(&sandbox, name, "ed25519")?;
    }
    sealed(&sandbox, "k.key", "app.bundle")?;
    let assign = |more: &[&str]| {
        let first = ["assign", "app.bundle", "--key", "k.key", "-o", "app.assignment"];
        sandbox.driftlock(first.iter().chain(more)).run()
    };
    assign(&["--target", "app", "--label", "role=web", "--serial", "7", "--expires", "2999-01-01T00:00:00Z"])?
        .expect(0)?;
    // Another signature, and then it is read as an agent reads it.
    sandbox.driftlock(["sign", "app.assignment", "--key", "l.key"]).run()?.expect(0)?;
    let envelope = Envelope::parse(&fs::read(sandbox.path("app.assignment"))?)?;
    let keys =
        ["k.pub", "l.pub"].map(|name| PublicKey::from_pem(&fs::read_to_string(sandbox.path(name)).unwrap_or_default()));
    let keys = keys.into_iter().collect::<Result<Vec<_>, _>>()?;
    let claim = envelope.verify(&keys);
    let (read, mark) = Assignment::read(&claim)?;
    ensure!(claim.by().len() == 2 && mark.serial == 7 && read.serial == 7, "{read:?}");
    ensure!(read.target.as_deref() == Some("app") && read.labels == [("role".into(), "web".into())].into(), "{read:?}");
    let manifest = manifest_of(&sandbox, "app.bundle")?;
    ensure!(manifest.ends_with(format!("{}.manifest", read.manifest)), "{read:?}");
    // An assignment is no bundle, and a bundle no assignment.
    one_line(&sandbox.driftlock(["verify", "app.assignment", "--key", "k.pub"]).run()?, 65, &["not about a manifest"])?;
    for (more, code, says) in [
        (&["--serial", "1"][..], 64, "--target"),
        (&["--target", "app", "--serial", "0"], 64, "its serial is not between 1 and"),
        (&["--target", "app", "--serial", "9007199254740992"], 64, "its serial is not between 1 and"),
        (&["--label", "web", "--serial", "1"], 64, "--label \"web\": write NAME=VALUE"),
        (&["--label", "a=b", "--label", "a=c", "--serial", "1"], 64, "the label was given before"),
        (&["--target", "app", "--serial", "1", "--expires", "tomorrow"], 64, "as RFC 3339 has it"),
        (
            &[
                "--target",
                "app",
                "--serial",
                "1",
                "--not-before",
                "2027-01-01T00:00:00Z",
                "--expires",
                "2027-01-01T00:00:00Z",
            ],
            64,
            "so it would never count",
        ),
    ] {
        let finished = assign(more)?.expect(code)?;
        ensure!(finished.stderr.contains(says), "{says}: {finished:?}");
    }
    Ok(())
}

/// What is done to a good bundle or what lies beside it, and what `verify` says then.
struct Refused {
    name: &'static str,
    damage: fn(&Sandbox) -> Result<()>,
    more: &'static [&'static str],
    code: i32,
    says: &'static [&'static str],
}

fn edit(sandbox: &Sandbox, edit: impl Fn(&mut Value)) -> Result<()> {
    let mut bundle: Value = serde_json::from_slice(&fs::read(sandbox.path("app.bundle"))?)?;
    edit(&mut bundle);
    sandbox.write("app.bundle", bundle.to_string()).map(drop)
}

/// Another base64 of as many bytes: the third digit turned.
fn turned(text: &mut Value) {
    let old = text.as_str().unwrap_or_default();
    let (head, tail) = (&old[..2], &old[3..]);
    *text = format!("{head}{}{tail}", if &old[2..3] == "A" { "B" } else { "A" }).into();
}

const NOT_SIGNED: &str = "refused: signed by 0 of the 1 trusted key(s) that it takes";

const REFUSED: &[Refused] = &[
    Refused {
        name: "a flipped payload",
        damage: |sandbox| edit(sandbox, |bundle| turned(&mut bundle["dsseEnvelope"]["payload"])),
        more: &[],
        code: 77,
        says: &[NOT_SIGNED],
    },
    Refused {
        name: "a flipped signature",
        damage: |sandbox| edit(sandbox, |bundle| turned(&mut bundle["dsseEnvelope"]["signatures"][0]["sig"])),
        more: &[],
        code: 77,
        says: &[NOT_SIGNED],
    },
    Refused {
        name: "a signature that is stripped",
        damage: |sandbox| edit(sandbox, |bundle| bundle["dsseEnvelope"]["signatures"] = serde_json::json!([])),
        more: &[],
        code: 65,
        says: &["a bundle without a signature"],
    },
    Refused {
        name: "another payload type",
        damage: |sandbox| edit(sandbox, |bundle| bundle["dsseEnvelope"]["payloadType"] = "text/plain".into()),
        more: &[],
        code: 77,
        says: &[NOT_SIGNED],
    },
    Refused {
        name: "another manifest beside it",
        damage: |sandbox| {
            let manifest = manifest_of(sandbox, "app.bundle")?;
            sandbox.write("tree/evil", "x")?;
            fs::copy(sandbox.seal("dir:tree", "other.manifest")?, manifest)?;
            Ok(())
        },
        more: &[],
        code: 77,
        says: &["refused, because the manifest beside it is not the one that was signed: its SHA-256 is "],
    },
    Refused {
        name: "no manifest beside it",
        damage: |sandbox| Ok(fs::remove_file(manifest_of(sandbox, "app.bundle")?)?),
        more: &[],
        code: 66,
        says: &[".manifest is not beside it"],
    },
    Refused {
        name: "a bare manifest in its place",
        damage: |sandbox| {
            fs::copy(manifest_of(sandbox, "app.bundle")?, sandbox.path("app.bundle"))?;
            Ok(())
        },
        more: &[],
        code: 77,
        says: &["refused, because nobody signed it"],
    },
    Refused {
        name: "a truncated bundle",
        damage: |sandbox| {
            let bytes = fs::read(sandbox.path("app.bundle"))?;
            sandbox.write("app.bundle", &bytes[..bytes.len() / 2]).map(drop)
        },
        more: &[],
        code: 65,
        says: &["not a bundle"],
    },
    Refused {
        name: "a bundle that is not there",
        damage: |sandbox| Ok(fs::remove_file(sandbox.path("app.bundle"))?),
        more: &[],
        code: 66,
        says: &["app.bundle: "],
    },
    Refused {
        name: "another image",
        damage: |_| Ok(()),
        more: &["--image", "sha256:0000000000000000000000000000000000000000000000000000000000000000"],
        code: 77,
        says: &["refused: the statement is not about the image sha256:0000"],
    },
    Refused {
        name: "the manifest's own digest for an image",
        damage: |_| Ok(()),
        more: &["--image", "MANIFEST"],
        code: 77,
        says: &["refused: the statement is not about the image"],
    },
    Refused {
        name: "a private key for a public one",
        damage: |sandbox| {
            fs::copy(sandbox.path("k.key"), sandbox.path("k.pub"))?;
            Ok(())
        },
        more: &[],
        code: 65,
        says: &["k.pub: a private key where a public one is needed"],
    },
];

fn refused(row: &Refused) -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    sealed(&sandbox, "k.key", "app.bundle")?;
    sandbox.driftlock(["verify", "app.bundle", "--key", "k.pub"]).run()?.expect(0)?;
    let manifest = manifest_of(&sandbox, "app.bundle")?;
    let digest = manifest.file_stem().context("a name")?.to_string_lossy().into_owned();
    let more = row.more.iter().map(|word| word.replace("MANIFEST", &format!("sha256:{digest}")));
    (row.damage)(&sandbox)?;
    let verify = ["verify", "app.bundle", "--key", "k.pub"].map(str::to_owned).into_iter().chain(more);
    one_line(&sandbox.driftlock(verify).run()?, row.code, row.says)
}
