//! Owns what a layer's archive may have in it: names, extended headers, links, whiteouts. What a reader of archives refuses
//! beside this is tested there (`agent/src/source/entries.rs`, `block.rs`).

use anyhow::{Result, ensure};
use driftlock_tests::archive::{Entry, Format};
use driftlock_tests::image::Layout;
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper::CAP_NET_RAW;
use libtest_mimic::Trial;

use super::Outcome::{Refused, Sealed};
use super::{Fixture, layers, of};

pub(super) const FIXTURES: &[Fixture] = &[
    Fixture {
        name: "an xattr value that carries records",
        make: |sandbox| {
            let value = b"x\n20 path=etc/shadow\n30 linkpath=etc/passwd\n11 size=99\n";
            let entry = |key: &str| Entry::file(key, "x").record(format!("SCHILY.xattr.user.{key}"), value);
            layers(sandbox, [of([entry("app"), entry("other").format(Format::Gnu)])])
        },
        outcome: Sealed { entries: &["app file size=1", "other file size=1"], diagnostics: &[("xattr-dropped", 2)] },
        strict: None,
    },
    Fixture {
        name: "a capability with a line feed in it",
        make: |sandbox| {
            let mut value = CAP_NET_RAW;
            value[4] = b'\n';
            layers(sandbox, [of([Entry::file("app", "x").record("SCHILY.xattr.security.capability", value)])])
        },
        outcome: Sealed {
            entries: &["app file size=1 xattr.security.capability=AQAAAgogAAAAAAAAAAAAAAAAAAA="],
            diagnostics: &[],
        },
        strict: None,
    },
    Fixture {
        name: "names that are not UTF-8, or are hostile to a terminal",
        make: |sandbox| {
            let long = [b"d/".as_slice(), &[0xff; 200]].concat();
            let names: [&[u8]; 5] = [b"d", b"d/caf\xe9", b"d/\x1b[31m\n", b"d/\xe2\x80\xaegpj.exe", b"d/\\xff"];
            let entries = names.iter().map(|name| Entry::file(name, "")).skip(1);
            layers(sandbox, [of([Entry::dir("d")].into_iter().chain(entries).chain([Entry::file(long, "")]))])
        },
        outcome: Sealed {
            entries: &[
                "d dir",
                r"d/\x1b[31m\n file size=0",
                r"d/\\xff file size=0",
                r"d/caf\xe9 file size=0",
                r"d/\xe2\x80\xaegpj.exe file size=0",
                concat!(
                    r"d/\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    r"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    " file size=0"
                ),
            ],
            diagnostics: &[("nonutf8-path", 2)],
        },
        strict: None,
    },
    Fixture {
        name: "one path twice, the last counts",
        make: |sandbox| {
            layers(sandbox, [of([Entry::file("x", "1"), Entry::file("./x", "22"), Entry::file("//x", "333")])])
        },
        outcome: Sealed { entries: &["x file size=3"], diagnostics: &[("absolute-name", 1), ("duplicate-entry", 2)] },
        strict: Some(Refused(
            65,
            "{}/layout: duplicate-entry at x: container engines make different trees of this, and --strict refuses it",
        )),
    },
    Fixture {
        name: "a whiteout of what its own layer has",
        make: |sandbox| {
            let upper = of([Entry::file("x", "22"), Entry::file(".wh.x", "")]);
            layers(sandbox, [of([Entry::file("x", "1")]), upper])
        },
        outcome: Sealed { entries: &["x file size=2"], diagnostics: &[("whiteout-of-same-layer-path", 1)] },
        strict: Some(Refused(
            65,
            "{}/layout: whiteout-of-same-layer-path at x: container engines make different trees of this, and --strict refuses it",
        )),
    },
    Fixture {
        name: "a hard link to a lower layer",
        make: |sandbox| layers(sandbox, [of([Entry::file("x", "1")]), of([Entry::hardlink("y", "x")])]),
        outcome: Sealed { entries: &["x file size=1", "y file size=1"], diagnostics: &[("cross-layer-hardlink", 1)] },
        strict: Some(Refused(
            65,
            "{}/layout: cross-layer-hardlink at y: container engines make different trees of this, and --strict refuses it",
        )),
    },
    Fixture {
        name: "a hard link with a mode of its own",
        make: |sandbox| layers(sandbox, [of([Entry::file("x", "1"), Entry::hardlink("y", "x").mode(0o4755)])]),
        outcome: Sealed {
            entries: &["x file size=1", "y file size=1"],
            diagnostics: &[("hardlink-metadata-mismatch", 1)],
        },
        strict: Some(Refused(
            65,
            "{}/layout: hardlink-metadata-mismatch at y: container engines make different trees of this, and --strict refuses it",
        )),
    },
    Fixture {
        name: "a path below a symlink",
        make: |sandbox| {
            layers(sandbox, [of([Entry::dir("e"), Entry::symlink("p", "e")]), of([Entry::file("p/x", "1")])])
        },
        outcome: Sealed {
            entries: &["e dir", "p dir implicit", "p/x file size=1"],
            diagnostics: &[("implicit-parent", 1), ("parent-replaced", 1)],
        },
        strict: Some(Refused(
            65,
            "{}/layout: parent-replaced at p: container engines make different trees of this, and --strict refuses it",
        )),
    },
    Fixture {
        name: "hard links in a circle",
        make: |sandbox| layers(sandbox, [of([Entry::hardlink("a", "b"), Entry::hardlink("b", "a")])]),
        outcome: Refused(65, "{}/layout: entry a: hard link to b, which is not there"),
        strict: None,
    },
    Fixture {
        name: "a hard link to itself",
        make: |sandbox| layers(sandbox, [of([Entry::file("a", "1")]), of([Entry::hardlink("a", "./a")])]),
        outcome: Refused(65, "{}/layout: entry a: hard link to a, which it replaces"),
        strict: None,
    },
    Fixture {
        name: "a hard link to a directory",
        make: |sandbox| layers(sandbox, [of([Entry::dir("d"), Entry::hardlink("a", "d/")])]),
        outcome: Refused(65, "{}/layout: entry a: hard link to d, which is a directory"),
        strict: None,
    },
    Fixture {
        name: "a hard link to the root",
        make: |sandbox| layers(sandbox, [of([Entry::hardlink("a", "/")])]),
        outcome: Refused(65, "{}/layout: entry a: hard link to /, which is a directory"),
        strict: None,
    },
    Fixture {
        name: "a hard link to what its own layer hides",
        make: |sandbox| {
            let upper = of([Entry::hardlink("y", "x"), Entry::file(".wh.x", "")]);
            layers(sandbox, [of([Entry::file("x", "1")]), upper])
        },
        outcome: Refused(65, "{}/layout: entry y: hard link to x, which is not there"),
        strict: None,
    },
    Fixture {
        name: "a hard link out of the root",
        make: |sandbox| layers(sandbox, [of([Entry::hardlink("a", "../../etc/shadow")])]),
        outcome: Refused(65, "{}/layout: blob sha256:*: entry a: a path has a component \".\" or \"..\""),
        strict: None,
    },
    Fixture {
        name: "a symlink out of the root is only text",
        make: |sandbox| layers(sandbox, [of([Entry::symlink("a", "../../../etc/shadow")])]),
        outcome: Sealed { entries: &["a link target=../../../etc/shadow"], diagnostics: &[] },
        strict: None,
    },
    Fixture {
        name: "a whiteout out of the root",
        make: |sandbox| layers(sandbox, [of([Entry::file("../.wh.etc", "")])]),
        outcome: Refused(65, "{}/layout: blob sha256:*: entry ../.wh.etc: a path has a component \".\" or \"..\""),
        strict: None,
    },
    Fixture {
        name: "a whiteout of dot-dot",
        make: |sandbox| layers(sandbox, [of([Entry::file("d/.wh...", "")])]),
        outcome: Refused(65, "{}/layout: blob sha256:*: entry d/.wh...: a path has a component \".\" or \"..\""),
        strict: None,
    },
    Fixture {
        name: "a bare whiteout",
        make: |sandbox| layers(sandbox, [of([Entry::file("d/.wh.", "")])]),
        outcome: Refused(65, "{}/layout: blob sha256:*: entry d/.wh.: a whiteout that names nothing"),
        strict: None,
    },
    Fixture {
        name: "a directory that is named like a whiteout",
        make: |sandbox| layers(sandbox, [of([Entry::dir(".wh.d"), Entry::file(".wh.d/x", "1")])]),
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: entry .wh.d/x: a directory name begins with .wh., which is kept for whiteouts",
        ),
        strict: None,
    },
    Fixture {
        name: "entries after the end",
        make: |sandbox| {
            let layer = of([Entry::file("x", "1")]).finish();
            let hidden = of([Entry::file("etc/shadow", "root::0")]).finish();
            let layout = Layout::create(sandbox.path("layout"))?;
            Ok(layout.layer(&[layer, hidden].concat())?.finish()?.source())
        },
        outcome: Sealed { entries: &["x file size=1"], diagnostics: &[("trailing-data", 1)] },
        strict: None,
    },
    Fixture {
        name: "an extended header of two megabytes",
        make: |sandbox| layers(sandbox, [of([Entry::file("x", "1").record("comment", vec![b'x'; 2 << 20])])]),
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: tar header at byte 0: metadata exceeds limit: 2097169 bytes > 1048576 bytes",
        ),
        strict: None,
    },
    Fixture {
        name: "an extended header whose record claims to be longer than all of it",
        make: |sandbox| {
            let records = Entry::new(b'x', "PaxHeaders/x").content("99999999999999999999 path=y\n");
            layers(sandbox, [of([records, Entry::file("x", "1")])])
        },
        outcome: Refused(65, "{}/layout: blob sha256:*: tar header at byte 0: an extended header is malformed"),
        strict: None,
    },
    Fixture {
        name: "an extended header whose size has no end",
        make: |sandbox| {
            let records = Entry::new(b'x', "PaxHeaders/x").content("9 path=y\n").size(u64::MAX / 2).format(Format::Gnu);
            layers(sandbox, [of([records, Entry::file("x", "1")])])
        },
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: tar header at byte 0: metadata exceeds limit: 9223372036854775807 bytes > 1048576 bytes",
        ),
        strict: None,
    },
    Fixture {
        name: "a size in an extended header that is not there",
        make: |sandbox| layers(sandbox, [of([Entry::file("x", "1").record("size", "18446744073709551615")])]),
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: tar header at byte 0: the field size is not a number that every tool reads the same",
        ),
        strict: None,
    },
    Fixture {
        name: "a thousand extended headers before one entry",
        make: |sandbox| {
            let records = (0..1000).map(|_| Entry::new(b'x', "PaxHeaders/x").content("9 path=y\n"));
            layers(sandbox, [of(records.chain([Entry::file("x", "1")]))])
        },
        outcome: Refused(65, "{}/layout: blob sha256:*: tar header at byte 0: duplicate PAX extended header"),
        strict: None,
    },
    Fixture {
        name: "a NUL in the path of an extended header",
        make: |sandbox| layers(sandbox, [of([Entry::file("x", "1").record("path", "etc/shadow\0.txt")])]),
        outcome: Refused(
            65,
            "{}/layout: blob sha256:*: tar header at byte 0: an extended header has a NUL byte in a key or a name",
        ),
        strict: None,
    },
    Fixture {
        name: "a file that is larger than the layer",
        make: |sandbox| layers(sandbox, [of([Entry::file("x", "1").size(1 << 40).format(Format::Gnu)])]),
        outcome: Refused(65, "{}/layout: blob sha256:*: the tar archive is truncated at byte 2048"),
        strict: None,
    },
    Fixture {
        name: "a symlink that has content",
        make: |sandbox| layers(sandbox, [of([Entry::symlink("x", "y").content("1")])]),
        outcome: Refused(65, "{}/layout: blob sha256:*: entry x: it has content, but only files can"),
        strict: None,
    },
];

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("layer_a_name_that_is_too_long_is_not_shown_whole", &[], too_long)]
}

fn too_long() -> Result<()> {
    for (name, shown) in [("d/".repeat(50_000) + "x", "d/".repeat(256)), ("n".repeat(10_000), "n".repeat(512))] {
        let sandbox = Sandbox::new()?;
        let source = layers(&sandbox, [of([Entry::file(&name, "1")])])?;
        let finished = sandbox.driftlock(["seal", &source, "-o", "-"]).run()?.expect(65)?;
        let entry = format!("entry {shown}\u{2026} ({} bytes): a path ", name.len());
        ensure!(finished.stderr.contains(&entry) && finished.stderr.lines().count() == 1, "{finished:?}");
        ensure!(finished.stdout.is_empty() && finished.stderr.len() < 1000, "{finished:?}");
    }
    Ok(())
}
