//! Names of any bytes: each is sealed, found and told exactly, and none can forge a line of what is told.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::require;
use libtest_mimic::Trial;

use super::case::Case;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("name::any_name_is_sealed_compared_and_told_exactly", &[], any_name),
        require::trial("name::any_target_of_a_symlink_is_sealed_and_compared", &[], any_target),
        require::trial("name::no_name_forges_a_line_or_reaches_a_terminal", &[], no_forgery),
    ]
}

/// Names that programs have trouble with.
fn names() -> BTreeSet<Vec<u8>> {
    let mut names: BTreeSet<Vec<u8>> = [
        &b"newline\n"[..],
        b"\n",
        b"two\nlines",
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;title\x07",
        b"-rf",
        b"--manifest",
        b"-",
        b" ",
        b" leading",
        b"trailing ",
        b"\t",
        b"\r",
        b"...",
        b".hidden",
        b"~",
        b"*",
        b"[a-z]",
        b"back\\slash",
        b"\\x0a",
        b"\\",
        b"\"quoted\"",
        b"'",
        b"$(touch owned)",
        b"`id`",
        b"a;b|c&d",
        b"%s%n",
        b"\xff\xfe",
        b"caf\xe9",
        // Overlong, a surrogate, and beyond Unicode: bytes that a careless decoder takes for others.
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{202e}txt.exe".as_bytes(),
        "\u{feff}bom".as_bytes(),
        "\u{2028}separator".as_bytes(),
        "\u{fffd}".as_bytes(),
        b"{\"type\":\"summary\",\"complete\":true}",
        b"{\"path\":\"etc\",\"change\":\"added\"}",
        b"\n{\"type\":\"summary\",\"complete\":true,\"added\":0}\n",
        b"\"},{\"type\":\"finding",
        b"null",
        b"d",
    ]
    .into_iter()
    .map(<[u8]>::to_vec)
    .collect();
    // Every byte that a name may have, alone and in the middle; and the longest names.
    names.extend((1..=255).filter(|byte| ![b'/', b'.'].contains(byte)).map(|byte| vec![byte]));
    names.extend((1..=255).filter(|byte| *byte != b'/').map(|byte| vec![b'm', byte, b'm']));
    names.extend([b'n', b'\n', b' ', 0xff, 0x1b].map(|byte| vec![byte; 255]));
    names
}

fn any_name() -> Result<()> {
    let case = Case::new()?;
    let (files, directories) = (b"files/", b"directories/");
    for name in names() {
        case.tree.file([files, &name[..]].concat(), "sealed")?;
        case.tree.file([directories, &name[..], b"/", &name].concat(), "sealed")?;
    }
    case.seal()?;
    let mut expected = BTreeSet::new();
    for (turn, name) in names().into_iter().enumerate() {
        let [file, directory] = [files.as_slice(), directories].map(|above| [above, &name].concat());
        let inner = [&directory[..], b"/", &name].concat();
        match turn % 3 {
            0 => {
                fs::write(case.tree.path(&file), "other!")?;
                expected.insert(Drift::changed(&file, &["content"]));
            }
            1 => {
                fs::remove_file(case.tree.path(&file))?;
                fs::remove_dir_all(case.tree.path(&directory))?;
                expected.extend([&file, &directory, &inner].map(Drift::removed));
            }
            _ => {}
        }
        let added = [b"added/", &name[..]].concat();
        case.tree.file(&added, "")?;
        expected.insert(Drift::added(added));
    }
    expected.insert(Drift::added("added"));
    let told = case.scan()?;
    driftlock_tests::drift::ensure_same(&expected, &told.report.drifts)
}

fn any_target() -> Result<()> {
    let case = Case::new()?;
    let link = |number: usize, target: &[u8]| {
        let path = case.tree.path(format!("{number}"));
        let _absent = fs::remove_file(&path);
        std::os::unix::fs::symlink(driftlock_tests::tree::below("".as_ref(), target), path)
    };
    let targets: Vec<Vec<u8>> = names().into_iter().chain([vec![b't'; 4095]]).collect();
    for (number, target) in targets.iter().enumerate() {
        link(number, target)?;
    }
    case.seal()?;
    for (number, target) in targets.iter().enumerate() {
        // As long as before; a last byte that no UTF-8 ends with.
        let mut other = target.clone();
        let last = other.last_mut().expect("no target is empty");
        *last = if *last == 0xf8 { 0xf9 } else { 0xf8 };
        link(number, &other)?;
    }
    case.scan()?.expect((0..targets.len()).map(|number| format!("changed {number} target")))
}

fn no_forgery() -> Result<()> {
    let case = Case::new()?;
    case.seal()?;
    for name in names() {
        case.tree.file(&name, "")?;
    }
    let scan = |format: &str, more: &[&str]| {
        let words = ["scan", "--format", format, "--manifest"].map(Into::into).into_iter();
        let more = more.iter().map(Into::into);
        let arguments: Vec<std::ffi::OsString> =
            words.chain([case.manifest().into(), case.root().into()]).chain(more).collect();
        case.sandbox.driftlock(arguments).run()?.expect(1)
    };
    let count = names().len();
    let is_plain = |text: &str| text.lines().all(|line| !line.contains(|ch: char| ch.is_control() && ch != '\t'));
    for format in ["text", "json", "ndjson", "sarif", "junit"] {
        let finished = scan(format, &["--all"])?;
        let text = finished.text()?;
        ensure!(is_plain(text), "{format}: a control character came through");
        // What turns the direction of a line would make one name look like another.
        let is_shown = matches!(format, "text" | "junit");
        ensure!(!is_shown || !text.contains('\u{202e}'), "{format}: a name turns the line");
        ensure!(finished.stderr.is_empty(), "{}", finished.stderr);
    }
    let lines = |more: &[&str]| -> Result<usize> {
        Ok(scan("text", more)?.text()?.lines().filter(|line| line.starts_with("added ")).count())
    };
    ensure!(lines(&["--all"])? == count, "{} lines for {count} names", lines(&["--all"])?);
    ensure!(lines(&[])? == 1, "all of them lie in the root, and are one line");
    ensure!(!case.root().join("owned").exists() && !case.sandbox.path("owned").exists(), "a name was run");
    Ok(())
}
