//! What fails, what is compared, how much is read, what is refused: `--fail-on`, `--only`, `--hash-limit`,
//! `--require-signed`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::random::Random;
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::Finished;
use driftlock_tests::tamper;
use libtest_mimic::Trial;
use serde_json::json;

use super::{Sealed, arguments};

const ATTRIBUTES: [&str; 9] = ["type", "content", "target", "mode", "uid", "gid", "xattrs", "device", "mtime"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("only_is_the_full_scan_filtered_by_attribute", &[], only_is_the_full_scan_filtered),
        trial("a_gap_fails_whatever_is_named", &[], a_gap_fails_whatever_is_named),
        trial("a_manifest_is_refused_where_a_signed_one_is_required", &[], a_signed_manifest_is_required),
        trial("what_is_not_as_sealed_is_hashed_up_to_a_limit", &[], hashed_up_to_a_limit),
        trial("an_argument_that_is_no_text_is_usage", &[], an_argument_that_is_no_text),
    ];
    trials.extend(GATES.iter().map(|row| trial_of("gate_with", &row.arguments.join(" "), || a_gate(row))));
    trials.extend(REFUSED.iter().map(|row| trial_of("refused", &row.0.join(" "), || a_refusal(row.0, row.1))));
    trials
}

fn trial_of(table: &str, row: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let name: String = row.chars().map(|ch| if ch.is_ascii_alphanumeric() { ch } else { '_' }).collect();
    trial_with(format!("{table}_{name}"), &[], test)
}

/// One of everything that anybody may do; what is expected of a scan of everything.
fn tampered(sealed: &Sealed) -> Result<BTreeSet<Drift>> {
    let root = sealed.tree.root();
    let touched = File::options().append(true).open(sealed.tree.path("touched"))?;
    touched.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000))?;
    let link = tamper::retarget(root, "etc/link", "old")?;
    // So that its time is another one for sure.
    rustix::fs::utimensat(
        rustix::fs::CWD,
        sealed.tree.path("etc/link"),
        &rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
            last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        },
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?;
    ensure!(link == Drift::changed("etc/link", &["target"]));
    Ok(BTreeSet::from([
        tamper::content_under_old_size_and_time(root, "etc/app.toml")?,
        tamper::chmod(root, "bin/app", 0o4755)?,
        tamper::remove(root, "etc/old")?,
        tamper::file_to_directory(root, "swapped")?,
        tamper::add(root, "etc/new")?,
        Drift::changed("etc/link", &["target", "mtime"]),
        Drift::changed("touched", &["mtime"]),
    ]))
}

struct GateRow {
    arguments: &'static [&'static str],
    code: i32,
    /// Words of the summary.
    fail_on: &'static [&'static str],
    compared: &'static [&'static str],
    /// Changed paths that are found.
    changed: &'static [&'static str],
    /// What the text form says of what was found and does not fail.
    not_failing: Option<&'static str>,
}

const ALL_CHANGED: &[&str] = &["bin/app", "etc/app.toml", "etc/link", "swapped", "touched"];

const EVERYTHING: GateRow =
    GateRow { arguments: &[], code: 7, fail_on: &[], compared: &ATTRIBUTES, changed: ALL_CHANGED, not_failing: None };

const GATES: &[GateRow] = &[
    EVERYTHING,
    GateRow {
        arguments: &["--fail-on", "added"],
        code: 1,
        fail_on: &["added", "unverifiable"],
        not_failing: Some("1 removed, 5 changed: only added or unverifiable fails here"),
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--fail-on", "removed"],
        code: 2,
        fail_on: &["removed", "unverifiable"],
        not_failing: Some("1 added, 5 changed: only removed or unverifiable fails here"),
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--fail-on", "changed"],
        code: 4,
        fail_on: &["changed", "unverifiable"],
        not_failing: Some("1 added, 1 removed: only changed or unverifiable fails here"),
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--fail-on", "removed,added"],
        code: 3,
        fail_on: &["added", "removed", "unverifiable"],
        not_failing: Some("5 changed: only added or removed or unverifiable fails here"),
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--fail-on", "unverifiable"],
        code: 0,
        fail_on: &["unverifiable"],
        not_failing: Some("1 added, 1 removed, 5 changed: only unverifiable fails here"),
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--fail-on", "added,removed,changed,unverifiable"],
        fail_on: &["added", "removed", "changed", "unverifiable"],
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--only", "content"],
        compared: &["type", "content"],
        changed: &["etc/app.toml", "swapped"],
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--only", "mode,target"],
        compared: &["type", "target", "mode"],
        changed: &["bin/app", "etc/link", "swapped"],
        ..EVERYTHING
    },
    GateRow { arguments: &["--only", "type"], compared: &["type"], changed: &["swapped"], ..EVERYTHING },
    GateRow {
        arguments: &["--only", "mtime", "--fail-on", "changed"],
        code: 4,
        fail_on: &["changed", "unverifiable"],
        compared: &["type", "mtime"],
        changed: &["etc/link", "swapped", "touched"],
        not_failing: Some("1 added, 1 removed: only changed or unverifiable fails here"),
    },
    GateRow {
        arguments: &["--profile", "portable", "--only", "uid,gid"],
        compared: &["type", "uid", "gid"],
        changed: &["swapped"],
        ..EVERYTHING
    },
    GateRow {
        arguments: &["--profile", "content"],
        compared: &["type", "content", "target", "device"],
        changed: &["etc/app.toml", "etc/link", "swapped"],
        ..EVERYTHING
    },
    // Everything that was sealed is no part of it.
    GateRow { arguments: &["--only", "type,content,target,mode,uid,gid,xattrs,device,mtime"], ..EVERYTHING },
];

fn a_gate(row: &GateRow) -> Result<()> {
    let sealed = Sealed::new()?;
    for format in ["text", "ndjson", "json", "sarif", "junit"] {
        let arguments = [&["--format", format], row.arguments].concat();
        sealed.scan(&arguments).run()?.expect(0)?;
    }
    tampered(&sealed)?;
    let arguments = [&["--format", "ndjson"], row.arguments].concat();
    let report = Report::from_ndjson(&sealed.scan(&arguments).run()?.expect(row.code)?)?;
    let changed = report.drifts.iter().filter(|drift| drift.change == "changed");
    let changed: Vec<&[u8]> = changed.map(|drift| drift.path.as_slice()).collect();
    ensure!(changed == row.changed.iter().map(|path| path.as_bytes()).collect::<Vec<_>>(), "{:?}", report.drifts);
    let others = report.drifts.iter().filter(|drift| drift.change != "changed");
    let others: Vec<Drift> = others.cloned().collect();
    ensure!(others == [Drift::added("etc/new"), Drift::removed("etc/old")], "all is shown: {others:?}");
    let summary = &report.summary;
    ensure!(summary["compared"] == json!(row.compared), "{summary}");
    ensure!(summary["scope"] == if row.compared == ATTRIBUTES { "full" } else { "partial" }, "{summary}");
    ensure!(summary["complete"] == true, "{summary}");
    let fail_on = summary.get("fail_on").cloned().unwrap_or_else(|| json!([]));
    ensure!(fail_on == json!(row.fail_on), "{summary}");

    let finished = sealed.scan(row.arguments).run()?.expect(row.code)?;
    let text = finished.text()?;
    let not_failing = text.lines().find_map(|line| line.strip_prefix("not failing   "));
    ensure!(not_failing == row.not_failing, "{text}");
    ensure!(text.contains("drifted       1 added, 1 removed, "), "{text}");
    for format in ["json", "sarif", "junit"] {
        let arguments = [&["--format", format], row.arguments].concat();
        sealed.scan(&arguments).run()?.expect(row.code)?;
    }
    Ok(())
}

/// Arguments, and what the one line says.
const REFUSED: &[(&[&str], &[&str])] = &[
    (&["--only", ""], &["--only names no attribute", "type, content, target, mode, uid, gid, xattrs, device, mtime"]),
    (&["--only", "colour"], &["\"colour\" is no attribute", "type, content, target, mode, uid, gid, xattrs, device"]),
    (&["--only", "content,"], &["\"\" is no attribute", "mtime"]),
    (&["--only", "content mode"], &["\"content mode\" is no attribute", "with commas"]),
    (&["--only", "Content"], &["\"Content\" is no attribute", "content"]),
    (&["--only", "added"], &["\"added\" is no attribute", "mtime"]),
    (&["--only", "a\x1b[31m\nb"], &["\"a\\x1b[31m\\x0ab\" is no attribute", "mtime"]),
    (&["--only", "mode", "--profile", "content"], &["--only mode", "content", "type, content, target, device"]),
    (&["--only", "content,mtime", "--profile", "portable"], &["--only mtime", "portable"]),
    (&["--fail-on", ""], &["--fail-on names no change", "added, removed, changed, unverifiable"]),
    (&["--fail-on", "nothing"], &["\"nothing\" is no change", "added, removed, changed, unverifiable"]),
    (&["--fail-on", ",added"], &["\"\" is no change", "added, removed, changed"]),
    (&["--fail-on", "content"], &["\"content\" is no change", "added, removed, changed"]),
    (&["--fail-on", "\u{202e}dedda"], &["\"\\xe2\\x80\\xaededda\" is no change"]),
];

fn a_refusal(arguments: &[&str], says: &[&str]) -> Result<()> {
    one_line(&Sealed::new()?.scan(arguments).run()?, 64, says)
}

fn one_line(finished: &Finished, code: i32, says: &[&str]) -> Result<()> {
    ensure!(finished.code == Some(code) && finished.stdout.is_empty(), "expected {code}\n{finished:?}");
    ensure!(finished.stderr.lines().count() == 1 && finished.stderr.starts_with("driftlock: "), "{finished:?}");
    for part in says {
        ensure!(finished.stderr.contains(part), "{part:?} is not said: {finished:?}");
    }
    Ok(())
}

fn an_argument_that_is_no_text() -> Result<()> {
    let sealed = Sealed::new()?;
    for flag in ["--only", "--fail-on", "--hash-limit", "--format"] {
        let first = ["scan".as_ref(), "--manifest".as_ref(), sealed.manifest.as_os_str(), flag.as_ref()];
        let rest = [OsStr::from_bytes(b"content\xff"), sealed.tree.root().as_os_str()];
        let finished = sealed.sandbox.driftlock(first.into_iter().chain(rest)).run()?.expect(64)?;
        ensure!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{finished:?}");
    }
    Ok(())
}

fn only_is_the_full_scan_filtered() -> Result<()> {
    let sealed = Sealed::new()?;
    let expected = tampered(&sealed)?;
    let scan = |more: &[&str]| -> Result<Report> {
        let finished = sealed.scan(&[&["--format", "ndjson"], more].concat()).run()?;
        ensure!(finished.code.is_some_and(|code| code < 8), "{finished:?}");
        Report::from_ndjson(&finished)
    };
    let all = scan(&[])?;
    ensure_same(&expected, &all.drifts)?;
    let mut random = Random::new(1);
    let some = (0..24).map(|_| {
        let chosen = random.next();
        (0..).zip(ATTRIBUTES).filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, name)| name).collect::<Vec<_>>()
    });
    let each = ATTRIBUTES.map(|name| vec![name]);
    for wanted in each.into_iter().chain(some).filter(|wanted| !wanted.is_empty()) {
        let report = scan(&["--only", &wanted.join(",")])?;
        let kept = |mut drift: Drift| {
            drift.attributes.retain(|name| name == "type" || wanted.contains(&name.as_str()));
            (drift.change != "changed" || !drift.attributes.is_empty()).then_some(drift)
        };
        let filtered: BTreeSet<Drift> = all.drifts.iter().cloned().filter_map(kept).collect();
        ensure_same(&filtered, &report.drifts)?;
        let read = report.summary["files_hashed"].as_u64() > Some(0);
        ensure!(read == wanted.contains(&"content"), "{wanted:?}: {}", report.summary);
        let partial = report.summary["scope"] == "partial";
        ensure!(report.summary["observed_tree"].is_null() == partial, "{}", report.summary);
    }
    Ok(())
}

fn a_gap_fails_whatever_is_named() -> Result<()> {
    let sealed = Sealed::new()?;
    let driftlock = sealed.sandbox.driftlock_for_everyone()?;
    sealed.tree.mode("etc/app.toml", 0)?.mode("etc/motd", 0)?;
    let scan = |more: &[&str]| {
        let arguments = arguments(&sealed.manifest, sealed.tree.root(), more);
        sealed.sandbox.command(&driftlock, arguments).unprivileged().run()
    };
    // Its mode is another one as well; that may be left alone, that it cannot be read may not.
    for (fail_on, code) in [("added", 8), ("removed", 8), ("unverifiable", 8), ("changed", 12), ("added,changed", 12)] {
        let finished = scan(&["--fail-on", fail_on])?.expect(code)?;
        ensure!(finished.text()?.contains("content and xattrs not verified: denied"), "{finished:?}");
        ensure!(finished.text()?.contains("incomplete"), "{finished:?}");
    }
    scan(&[])?.expect(12)?;
    // What is not wished for does not have to be read, and so is no gap.
    let finished = scan(&["--only", "target"])?.expect(0)?;
    ensure!(finished.text()?.starts_with("clean "), "{finished:?}");
    scan(&["--only", "content"])?.expect(8)?;
    sealed.tree.mode("etc", 0)?;
    let finished = scan(&["--only", "target", "--fail-on", "added"])?.expect(8);
    sealed.tree.mode("etc", 0o755)?;
    ensure!(
        finished?.text()?.contains("unverifiable  etc  denied, stands for 5 sealed entries"),
        "the directory is shut"
    );
    Ok(())
}

fn hashed_up_to_a_limit() -> Result<()> {
    const TERABYTE: u64 = 1 << 40;
    let sealed = Sealed::new()?;
    sealed.tree.file("etc/new", "five\n")?.file("etc/old", "longer than it was\n")?.file("etc/motd", "HELLO\n")?;
    // Whether the content of each was hashed, and the exit code; what may be as sealed is hashed in any case.
    for (arguments, added, resized, code) in [
        (&[][..], true, true, 5),
        (&["--hash-limit", "none"], true, true, 5),
        (&["--hash-limit", "5"], true, false, 13),
        (&["--hash-limit", "0"], false, false, 13),
    ] {
        let finished = sealed.scan(&[&["--format", "ndjson", "--only", "content"], arguments].concat()).run()?;
        let report = Report::from_ndjson(&finished.expect(code)?)?;
        for (path, hashed) in [("etc/motd", true), ("etc/new", added), ("etc/old", resized)] {
            let finding = report.findings.iter().find(|finding| finding["path"] == path);
            let finding = finding.with_context(|| format!("{arguments:?}: nothing about {path}"))?;
            let gap = json!([["content"], "too_large"]);
            let expected = if hashed { json!([null, null]) } else { gap };
            ensure!(json!([finding["unverified"], finding["reason"]]) == expected, "{arguments:?}: {finding}");
            ensure!(finding["observed"]["blake3"].is_string() == hashed, "{arguments:?}: {finding}");
            ensure!(finding["observed"]["size"].is_u64(), "{arguments:?}: {finding}");
        }
    }
    // As much as no disk holds, in the place of a file and beside it: read, it would take hours.
    for path in ["etc/new", "etc/old"] {
        File::options().append(true).open(sealed.tree.path(path))?.set_len(TERABYTE)?;
    }
    let finished = sealed.scan(&["--format", "ndjson", "--only", "content"]).run()?;
    let report = Report::from_ndjson(&finished.expect(13)?)?;
    let found = |path: &str| {
        let finding = report.findings.iter().find(|finding| finding["path"] == path);
        finding.is_some_and(|finding| finding["reason"] == "too_large" && finding["observed"]["size"] == TERABYTE)
    };
    ensure!(found("etc/new") && found("etc/old"), "{:?}", report.findings);
    ensure!(report.summary["complete"] == false, "{}", report.summary);
    for text in ["", "1TB", "none ", "-1"] {
        let finished = sealed.scan(&[&format!("--hash-limit={text}")]).run()?.expect(64)?;
        ensure!(finished.stdout.is_empty() && finished.stderr.contains("write a size like"), "{finished:?}");
    }
    Ok(())
}

fn a_signed_manifest_is_required() -> Result<()> {
    let sealed = Sealed::new()?;
    let finished = sealed.scan(&["--require-signed"]).run()?;
    one_line(&finished, 77, &["full.manifest", "refused", "nobody signed it", "name a bundle"])?;
    let broken = sealed.sandbox.write("broken.manifest", &fs::read(&sealed.manifest)?[..100])?;
    let nowhere = sealed.sandbox.path("no.manifest");
    let (tree, no_tree) = (sealed.tree.root(), sealed.sandbox.path("no-tree"));
    for (manifest, root, code) in [
        (&broken, tree, 65),
        (&nowhere, tree, 66),
        // Before anything is looked at.
        (&sealed.manifest, no_tree.as_path(), 77),
    ] {
        let finished = sealed.sandbox.driftlock(arguments(manifest, root, &["--require-signed"])).run()?;
        one_line(&finished, code, &[".manifest"])?;
    }
    Ok(())
}
