//! SARIF and JUnit: valid by the published schemas whatever the tree holds, and with one result or case for each finding of
//! the ndjson form.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::{binaries, workspace};
use driftlock_tests::drift::{Drift, Report};
use driftlock_tests::require::Requirement::{self, JsonSchema, Xmllint};
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::Finished;
use driftlock_tests::tree::Tree;
use driftlock_tests::{schema, tamper};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{Sealed, arguments};

pub(crate) const NEEDS: &[Requirement] = &[JsonSchema, Xmllint];

/// Names that break out of what is careless about them.
const HOSTILE: [&[u8]; 14] = [
    b"]]>",
    b"<failure a='",
    b"\"'&amp;",
    b"a b%20c",
    b"%ff",
    b"new\nline\r\ttab",
    b"\x1b[31mred\x07\x7f",
    b"\x01\x02\x1f",
    b"caf\xe9",
    b"\xef\xbf\xbf\xef\xbf\xbe",
    "\u{202e}gpj.exe".as_bytes(),
    b"[link](http:evil)",
    b"{0}{{1}}",
    b"http:x?y#z\\",
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("validators_refuse_what_is_wrong", NEEDS, validators_refuse_what_is_wrong),
        trial("golden_forms_are_valid", NEEDS, golden_forms_are_valid),
        trial("two_manifests_that_differ_are_valid_in_both_forms", NEEDS, two_manifests),
        trial("a_fingerprint_is_that_of_the_path_and_the_change", &[], a_fingerprint_stays),
        trial("a_reader_that_leaves_ends_no_form_with_an_error", &[], a_reader_that_leaves),
        trial("a_manifest_is_not_shown_in_the_forms_of_findings", &[], a_manifest_is_not_shown),
    ];
    let scenes = SCENES.iter().map(|scene| {
        trial_with(format!("valid_and_complete_{}", scene.name.replace(' ', "_")), NEEDS, || a_scene(scene))
    });
    trials.extend(scenes);
    trials
}

/// What a tree may be like.
struct Scene {
    name: &'static str,
    tamper: fn(&Tree) -> Result<()>,
    more: &'static [&'static str],
    code: i32,
    /// Findings that fail as they are, could not be verified, and are tolerated.
    counts: [usize; 3],
}

const SCENES: &[Scene] = &[
    Scene { name: "nothing differs", tamper: |_| Ok(()), more: &[], code: 0, counts: [0, 0, 0] },
    Scene {
        name: "everything is gone",
        tamper: |tree| {
            fs::remove_dir_all(tree.root())?;
            Ok(fs::create_dir(tree.root())?)
        },
        more: &["--only", "content"],
        code: 2,
        counts: [9, 0, 0],
    },
    Scene {
        name: "all changes with hostile names",
        tamper: hostile,
        more: &["--only", "content,target"],
        code: 15,
        counts: [34, 1, 0],
    },
    Scene {
        name: "hostile names that are tolerated",
        tamper: hostile,
        more: &["--only", "content,target", "--fail-on", "removed"],
        code: 10,
        // What is added or changed and cannot be read fails for that.
        counts: [1, 3, 31],
    },
    Scene {
        name: "only what could not be verified fails",
        tamper: |tree| tamper::add(tree.root(), "new").map(drop),
        more: &["--fail-on", "unverifiable"],
        code: 0,
        counts: [0, 0, 1],
    },
];

/// All four kinds of change; what is closed is closed to nobody, as whom the scan runs.
fn hostile(tree: &Tree) -> Result<()> {
    let root = tree.root();
    for name in HOSTILE {
        tamper::add(root, name)?;
        std::os::unix::fs::symlink(std::ffi::OsStr::new("]]>\n"), tree.path([b"etc/", name].concat()))?;
    }
    // 28 added so far.
    tamper::remove(root, "etc/old")?;
    tamper::retarget(root, "etc/link", "[x](y) {0} ]]>\u{202e}")?;
    tamper::write(root, "etc/motd", "changed")?;
    tamper::write(root, "etc/app.toml", "changed")?;
    tamper::file_to_directory(root, "swapped")?;
    // Changed, added, and as sealed as far as can be seen: all three closed.
    tree.file("closed/file", "unseen\n")?;
    tree.mode("etc/app.toml", 0)?.mode("closed", 0)?.mode("touched", 0)?;
    Ok(())
}

/// One result in three forms: the findings, and two files.
struct Forms {
    report: Report,
    sarif: PathBuf,
    junit: PathBuf,
}

fn forms(sealed: &Sealed, run: impl Fn(&str) -> Result<Finished>) -> Result<Forms> {
    let report = Report::from_ndjson(&run("ndjson")?)?;
    let sarif = sealed.sandbox.write("result.sarif", run("sarif")?.stdout)?;
    let junit = sealed.sandbox.write("result.xml", run("junit")?.stdout)?;
    schema::sarif(&sarif)?;
    schema::junit(&junit)?;
    Ok(Forms { report, sarif, junit })
}

pub(crate) fn run_of(sarif: &Path) -> Result<Value> {
    let log: Value = serde_json::from_slice(&fs::read(sarif)?)?;
    ensure!(log["version"] == "2.1.0" && log["runs"].as_array().map(Vec::len) == Some(1), "one run");
    Ok(log["runs"][0].clone())
}

fn a_scene(scene: &Scene) -> Result<()> {
    let sealed = Sealed::new()?;
    let driftlock = sealed.sandbox.driftlock_for_everyone()?;
    (scene.tamper)(&sealed.tree)?;
    let result = forms(&sealed, |format| {
        let more = [&["--format", format], scene.more].concat();
        let arguments = arguments(&sealed.manifest, sealed.tree.root(), &more);
        sealed.sandbox.command(&driftlock, arguments).unprivileged().run()?.expect(scene.code)
    });
    if sealed.tree.path("closed").exists() {
        sealed.tree.mode("closed", 0o755)?;
    }
    let result = result?;
    let [failures, errors, skipped] = scene.counts;
    let counted = failures + errors + skipped;
    ensure!(result.report.findings.len() == counted, "{} findings: {:?}", result.report.findings.len(), result.report);
    check_sarif(&result, scene)?;
    check_junit(&result.junit, scene.counts, usize::from(scene.code == 0))?;
    // Every finding has its case, and no two have one name.
    let mut names = BTreeSet::new();
    for index in 1..=counted {
        names.insert(schema::xpath(&result.junit, &format!("string(//testcase[{index}]/@name)"))?);
    }
    ensure!(names.len() == counted, "{names:?}");
    Ok(())
}

fn check_sarif(result: &Forms, scene: &Scene) -> Result<()> {
    let run = run_of(&result.sarif)?;
    let results = run["results"].as_array().context("results")?;
    let mut by_path = BTreeMap::new();
    for result in results {
        let location = &result["locations"][0]["physicalLocation"]["artifactLocation"];
        let uri = location["uri"].as_str().context("a URI")?;
        ensure!(location["uriBaseId"] == "ROOT" && !uri.starts_with('/'), "{location}");
        let path = if uri == "./" { Vec::new() } else { decoded(uri)? };
        ensure!(by_path.insert(path, result).is_none(), "{uri} stands twice");
        ensure!(result["message"]["text"].as_str().is_some_and(|text| !text.contains(['[', '{', '\n'])), "{result}");
    }
    ensure!(results.len() == result.report.findings.len(), "one result for each finding");
    for finding in &result.report.findings {
        let result = by_path.get(&Drift::path_of(finding)?).with_context(|| format!("no result: {finding}"))?;
        let mut finding = finding.clone();
        finding.as_object_mut().context("an object")?.remove("type");
        ensure!(result["properties"] == finding && result["ruleId"] == finding["change"], "{result:#}");
    }
    let level = |level| results.iter().filter(|result| result["level"] == level).count();
    let [failures, errors, tolerated] = scene.counts;
    ensure!(level("error") == failures + errors && level("note") == tolerated, "{results:#?}");
    let invocation = &run["invocations"][0];
    let gaps = result.report.findings.iter().filter(|finding| finding.get("reason").is_some()).count();
    ensure!(invocation["exitCode"] == scene.code, "{invocation}");
    ensure!(invocation["executionSuccessful"] == (gaps == 0), "{invocation}");
    let notifications = invocation["toolExecutionNotifications"].as_array().context("notifications")?;
    ensure!(notifications.len() == gaps, "{notifications:#?}");
    let [mut summary, mut other] = [run["properties"]["summary"].clone(), result.report.summary.clone()];
    for summary in [&mut summary, &mut other] {
        let summary = summary.as_object_mut().context("a summary")?;
        summary.remove("duration_ms");
        summary.remove("type");
    }
    ensure!(summary == other, "{summary} {other}");
    ensure!(run["tool"]["driver"]["version"] == env!("CARGO_PKG_VERSION"), "{}", run["tool"]);
    Ok(())
}

pub(crate) fn check_junit(file: &Path, [failures, errors, skipped]: [usize; 3], passing: usize) -> Result<()> {
    let all = failures + errors + skipped + passing;
    let expected = [("tests", all), ("failures", failures), ("errors", errors), ("skipped", skipped)];
    for (name, count) in expected {
        let said = schema::xpath(file, &format!("string(/testsuites/testsuite/@{name})"))?;
        ensure!(said == count.to_string(), "{name}: {said}, not {count}");
        let element = name.trim_end_matches('s');
        let counted = match name {
            "tests" => schema::xpath(file, "count(//testcase)")?,
            _ => schema::xpath(file, &format!("count(//testcase[{element}])"))?,
        };
        ensure!(counted == count.to_string(), "{counted} of {element}, not {count}");
    }
    let passed = schema::xpath(file, "count(//testcase[not(*)])")?;
    ensure!(passed == passing.to_string(), "{passed} cases pass");
    Ok(())
}

/// Percent-decoding, as RFC 3986 has it.
fn decoded(uri: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = uri.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().context("a digit")?, rest.next().context("a digit")?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?);
            }
            b'/' | b'-' | b'.' | b'_' | b'~' => bytes.push(byte),
            _ if byte.is_ascii_alphanumeric() => bytes.push(byte),
            _ => anyhow::bail!("{uri}: {byte:?} has to be encoded"),
        }
    }
    Ok(bytes)
}

fn validators_refuse_what_is_wrong() -> Result<()> {
    let sealed = Sealed::new()?;
    tamper::add(sealed.tree.root(), "new")?;
    let form = |format: &str| -> Result<String> {
        Ok(sealed.scan(&["--format", format]).run()?.expect(1)?.text()?.to_owned())
    };
    let (sarif, junit) = (form("sarif")?, form("junit")?);
    for (from, to) in [
        ("\"version\":\"2.1.0\"", "\"version\":\"2.2.0\""),
        ("\"level\":\"error\"", "\"level\":\"grave\""),
        ("\"uri\":\"new\"", "\"uri\":\"new [\""),
        ("\"ruleId\"", "\"rule\""),
        ("\"executionSuccessful\":true,", ""),
    ] {
        ensure!(sarif.contains(from), "{from}");
        let file = sealed.sandbox.write("wrong.sarif", sarif.replacen(from, to, 1))?;
        ensure!(schema::sarif(&file).is_err(), "{to} is taken");
    }
    for (from, to) in
        [(" tests=\"1\"", ""), ("<failure ", "<fault "), ("name=\"new\"", "name=\"new\u{1}\""), ("</testsuites>", "")]
    {
        ensure!(junit.contains(from), "{from}");
        // The last, because the schema asks less of what is around it.
        let at = junit.rfind(from).context("it is there")?;
        let file = sealed.sandbox.write("wrong.xml", [&junit[..at], to, &junit[at + from.len()..]].concat())?;
        ensure!(schema::junit(&file).is_err(), "{to} is taken");
    }
    Ok(())
}

fn golden_forms_are_valid() -> Result<()> {
    let golden = workspace().join("agent/golden");
    for name in ["sample", "policy"] {
        schema::sarif(&golden.join(format!("{name}.sarif")))?;
        schema::junit(&golden.join(format!("{name}.xml")))?;
    }
    Ok(())
}

fn two_manifests() -> Result<()> {
    let sealed = Sealed::new()?;
    tamper::add(sealed.tree.root(), HOSTILE[0])?;
    tamper::remove(sealed.tree.root(), "etc/old")?;
    tamper::write(sealed.tree.root(), "etc/motd", "changed")?;
    let source = format!("dir:{}", sealed.tree.root().display());
    let result = forms(&sealed, |format| {
        let first = ["diff", "--format", format].map(AsRef::as_ref).into_iter();
        sealed.sandbox.driftlock(first.chain([sealed.manifest.as_os_str(), source.as_ref()])).run()?.expect(7)
    })?;
    let run = run_of(&result.sarif)?;
    ensure!(run["results"].as_array().map(Vec::len) == Some(3), "{run:#}");
    ensure!(run["automationDetails"]["id"] == "driftlock/diff/", "{run:#}");
    check_junit(&result.junit, [3, 0, 0], 0)
}

fn a_fingerprint_stays() -> Result<()> {
    let sealed = Sealed::new()?;
    let fingerprints = || -> Result<BTreeMap<String, Value>> {
        let finished = sealed.scan(&["--format", "sarif"]).run()?;
        let log: Value = serde_json::from_slice(&finished.stdout)?;
        let results = log["runs"][0]["results"].as_array().context("results")?;
        let of = |result: &Value| {
            let text = result["properties"]["path"].as_str().context("a path")?.to_owned();
            Ok((text, result["partialFingerprints"].clone()))
        };
        results.iter().map(of).collect()
    };
    tamper::write(sealed.tree.root(), "etc/motd", "once")?;
    tamper::remove(sealed.tree.root(), "etc/old")?;
    let once = fingerprints()?;
    // Changed again and in another way; and one that was gone is there again, changed.
    tamper::write(sealed.tree.root(), "etc/motd", "and twice")?;
    tamper::chmod(sealed.tree.root(), "etc/motd", 0o600)?;
    tamper::add(sealed.tree.root(), "etc/aaa")?;
    sealed.tree.file("etc/old", "another")?;
    let twice = fingerprints()?;
    ensure!(once.len() == 2 && twice.len() == 3, "{once:?} {twice:?}");
    ensure!(once["etc/motd"] == twice["etc/motd"], "{once:?} {twice:?}");
    ensure!(once["etc/old"] != twice["etc/old"], "another change is another result");
    let different: BTreeSet<String> = twice.values().map(Value::to_string).collect();
    ensure!(different.len() == 3, "{twice:?}");
    Ok(())
}

fn a_reader_that_leaves() -> Result<()> {
    let sealed = Sealed::new()?;
    // More than a pipe holds.
    for index in 0..2000 {
        sealed.tree.file(format!("new/{index}"), "")?;
    }
    for format in ["sarif", "junit"] {
        let mut command = sealed.sandbox.bare_command(&binaries().driftlock);
        command.args(arguments(&sealed.manifest, sealed.tree.root(), &["--format", format]));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        std::io::Read::read_exact(&mut child.stdout.take().context("a pipe")?, &mut [0])?;
        let output = child.wait_with_output()?;
        ensure!(output.status.code() == Some(1) && output.stderr.is_empty(), "{format}: {output:?}");
    }
    Ok(())
}

fn a_manifest_is_not_shown() -> Result<()> {
    let sealed = Sealed::new()?;
    for format in ["sarif", "junit"] {
        let show = ["show".as_ref(), "--format".as_ref(), format.as_ref(), sealed.manifest.as_os_str()];
        let finished = sealed.sandbox.driftlock(show).run()?.expect(64)?;
        ensure!(finished.stderr.contains("text, json, ndjson"), "{finished:?}");
    }
    Ok(())
}
