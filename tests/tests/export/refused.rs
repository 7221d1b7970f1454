//! What is refused, with its line and its exit code, and without writing anything.

use std::ffi::OsStr;
use std::fs;

use anyhow::{Result, ensure};
use driftlock_tests::require::trial_with;
use driftlock_tests::sandbox::Finished;
use libtest_mimic::Trial;

use super::place::{Place, source};

/// An mtree file, and the line that it ends with behind its name.
const FILES: &[(&str, &[u8], &str)] = &[
    (
        "an unknown keyword",
        b"./a type=file sha3=0",
        "line 1: the keyword sha3 is not known, so what it says would not be verified: leave it out",
    ),
    (
        "a symbolic mode",
        b"#mtree\n./a type=file mode=u=rwx,g=rx",
        "line 2: mode=u=rwx,g=rx: only octal is read, up to 07777",
    ),
    ("a way out", b". type=dir\nd type=dir\n..\n..\n..", "line 5: .. leads out of the tree"),
    ("a path out", b"./../etc/shadow type=file", "line 1: ./../etc/shadow: a path has a component \".\" or \"..\""),
    (
        "a path from the host's root",
        b"/etc/shadow type=file",
        "line 1: /etc/shadow: only /set and /unset begin with a slash; write paths as ./PATH",
    ),
    ("a path twice", b"./a type=file\n./b type=file\n./a type=dir", "line 3: a stands twice, first on line 1"),
    (
        "a path below a file",
        b"./a type=file\n./a/b type=file",
        "line 2: a/b lies below something that is not a directory",
    ),
    (
        "both styles",
        b"./a/b type=file\nc type=file",
        "line 2: a relative name after paths with slashes: tools disagree on where it belongs; write ./PATH everywhere",
    ),
    (
        "no type",
        b"./a mode=0644",
        "line 1: no type: without one nothing can be verified; write type=file, or /set type=file above",
    ),
    (
        "a hostile word",
        b"./a type=file \x1b[2J=1",
        "line 1: a control character stands in it: write it as \\ooo, in octal",
    ),
    (
        "a hostile keyword",
        "./a type=file \u{202e}=1".as_bytes(),
        "line 1: the keyword \\xe2\\x80\\xae is not known, so what it says would not be verified: leave it out",
    ),
    (
        "a truncated file",
        b"./a type=file \\",
        "line 1: ends in a backslash, but no line follows: the file is truncated",
    ),
    ("a damaged gzip stream", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "the gzip stream is truncated"),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = FILES
        .iter()
        .map(|(name, text, says)| {
            let name = format!("refused::{}", name.replace([' ', '\''], "_"));
            trial_with(name, &[], || a_file(text, says))
        })
        .collect();
    type Row = (&'static str, fn() -> Result<()>);
    let rows: [Row; 6] = [
        ("refused::a_name_that_mtree_takes_for_a_pattern", a_pattern),
        ("refused::a_file_that_is_not_there", not_there),
        ("refused::an_export_without_a_digest", without_a_digest),
        ("refused::a_name_that_b3sum_cannot_read", a_name),
        ("refused::a_comparison_without_a_common_digest", no_common_digest),
        ("refused::what_an_mtree_file_leaves_out_counts_on_both_sides", left_out_on_both_sides),
    ];
    trials.extend(rows.map(|(name, test)| trial_with(name, &[], test)));
    trials
}

/// One line, and nothing on stdout.
fn says(finished: &Finished, code: i32, line: &str) -> Result<()> {
    ensure!(finished.code == Some(code) && finished.stdout.is_empty(), "{finished:?}");
    ensure!(finished.stderr == format!("driftlock: {line}\n"), "expected {line}\n{finished:?}");
    Ok(())
}

fn a_file(text: &[u8], line: &str) -> Result<()> {
    let place = Place::new()?;
    place.sandbox.write("m.mtree", text)?;
    let line = format!("m.mtree: {line}");
    says(&place.run(["seal", "mtree:m.mtree", "-o", "out"])?, 65, &line)?;
    ensure!(!place.sandbox.path("out").exists(), "something was written");
    let standard_input = place.sandbox.driftlock(["export", "--to", "mtree", "mtree:-"]);
    let finished = standard_input.stdin(&place.sandbox.path("m.mtree"))?.run()?;
    says(&finished, 65, &line.replacen("m.mtree", "standard input", 1))
}

fn not_there() -> Result<()> {
    let place = Place::new()?;
    let finished = place.run(["seal", "mtree:none", "-o", "out"])?;
    says(&finished, 66, "none: No such file or directory (os error 2)")
}

fn without_a_digest() -> Result<()> {
    let place = Place::new()?;
    place.tree.file("a", b"x")?.file("d/b", b"y")?;
    let root = source("dir:", place.root());
    let arguments: [&OsStr; 5] = ["seal".as_ref(), &root, "--no-sha256".as_ref(), "-o".as_ref(), "m".as_ref()];
    place.run(arguments)?.expect(0)?;
    place.sandbox.write("out", b"was there")?;
    for form in ["mtree", "sha256sum"] {
        let finished = place.run(["export", "--to", form, "m", "-o", "out"])?;
        says(&finished, 64, "m: a: it was sealed without SHA-256: seal again without --no-sha256")?;
    }
    let text =
        "./a type=file size=1\n./b type=file sha256=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\n";
    place.sandbox.write("open.mtree", text)?;
    let open = "mtree:open.mtree";
    let nothing =
        "a: nothing says what its content is, so a check file would not check it; export --to mtree can leave it open";
    says(&place.run(["export", "--to", "sha256sum", open, "-o", "out"])?, 64, &format!("{open}: {nothing}"))?;
    ensure!(fs::read(place.sandbox.path("out"))? == b"was there", "something was written");
    // What is left open stays open.
    let exported = place.run(["export", "--to", "mtree", open])?.expect(0)?;
    ensure!(exported.text()? == format!("#mtree\n. type=dir\n{text}"), "{exported:?}");
    place.sandbox.write("closed.mtree", text.lines().nth(1).unwrap_or_default())?;
    let only = "mtree:closed.mtree: b: only its SHA-256 is known: use --to sha256sum or --to mtree";
    says(&place.run(["export", "--to", "b3sum", "mtree:closed.mtree"])?, 64, only)
}

fn a_name() -> Result<()> {
    let place = Place::new()?;
    place.tree.file(b"a", b"x")?.file(b"caf\xe9", b"y")?;
    place.seal_tree("portable")?;
    let line = "manifest: caf\\xe9: b3sum cannot check a name that is not UTF-8 or holds U+FFFD: use --to sha256sum or --to mtree";
    says(&place.run(["export", "--to", "b3sum", "manifest"])?, 64, line)
}

fn a_pattern() -> Result<()> {
    let place = Place::new()?;
    place.tree.file("d/[", b"x")?.file("d/[slug].js", b"y")?;
    place.seal_tree("portable")?;
    let line = "manifest: d/[slug].js: mtree takes the name for a pattern, which others match too: use --to sha256sum, \
                or seal with an --exclude for it";
    says(&place.run(["export", "--to", "mtree", "manifest", "-o", "out"])?, 64, line)?;
    ensure!(!place.sandbox.path("out").exists(), "something was written");
    Ok(())
}

fn no_common_digest() -> Result<()> {
    let place = Place::new()?;
    place.tree.file("a", b"x")?;
    let root = source("dir:", place.root());
    let arguments: [&OsStr; 5] = ["seal".as_ref(), &root, "--no-sha256".as_ref(), "-o".as_ref(), "m".as_ref()];
    place.run(arguments)?.expect(0)?;
    place.sandbox.write("m.mtree", b"./a type=file\n")?;
    let line = "m: a has no SHA-256, and the other side has nothing else: seal it without --no-sha256";
    says(&place.run(["diff", "m", "mtree:m.mtree"])?, 64, line)
}

/// `optional` is an exclude: the other side is read under it, and a manifest that has other ones is refused.
fn left_out_on_both_sides() -> Result<()> {
    let place = Place::new()?;
    place.tree.file("a", b"x")?.file("log/x", b"y")?;
    place.sandbox.write("m.mtree", b"./a type=file\n./log type=dir ignore\n")?;
    let (read, root) = (source("mtree:", &place.sandbox.path("m.mtree")), source("dir:", place.root()));
    place.diff(&read, &root, "portable")?.expect(0)?;
    place.diff(&root, &read, "portable")?.expect(0)?;
    place.seal_tree("portable")?;
    let line = "the two leave out different paths: seal both with the same excludes";
    says(&place.diff("manifest".as_ref(), &read, "portable")?, 64, line)?;
    let narrowed = place.seal(&read, "portable", "narrowed")?;
    ensure!(fs::read_to_string(&narrowed)?.contains(r#""excludes":["log/**"]"#));
    ensure!(place.scan(&narrowed)?.is_empty());
    place.tree.file("log/y", b"z")?;
    ensure!(place.scan(&narrowed)?.is_empty(), "what is ignored is not compared");
    Ok(())
}
