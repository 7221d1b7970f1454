//! `driftlock scan --policy`: what is tolerated, what is alarmed whatever is allowed, what is not read, and what of it is
//! said and remembered.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::drift::Change;
use driftlock_common::finding::{Finding, Summary, Unjudged};
use driftlock_common::policy::{Policy, Ruling, Severity};
use driftlock_common::profile::Profile;
use driftlock_tests::tamper::{self, CAP_NET_RAW, set_capability};
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

use super::{child, root_trial, subject, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("policy::each_allowance_tolerates_its_own_and_only_alerts_set_the_exit_code", allowances),
        trial("policy::what_may_be_anything_is_not_read_and_is_counted", unread),
        trial("policy::set_id_files_are_read_and_alarmed_whatever_is_allowed", set_id),
        root_trial("policy::capabilities_and_devices_are_alarmed_whatever_is_allowed", capabilities),
        root_trial("policy::a_gap_is_a_gap_whatever_is_allowed", gaps),
        trial("policy::the_gate_asks_for_alerts_alone", gate),
        trial("policy::without_the_policy_everything_is_read_an_alert_and_listed", no_policy),
        trial("policy::many_of_one_kind_are_one_line_of_text_and_complete_elsewhere", folded),
        trial("policy::what_was_not_read_is_not_remembered_under_any_policy", swapped),
        trial("policy::a_flood_of_what_is_tolerated_is_not_collapsed_into_an_alert", flood),
        trial("policy::no_name_or_reason_acts_in_any_form", hostile),
        trial("policy::a_policy_that_cannot_be_used_is_an_error_of_the_table", errors),
    ]
}

/// A sealed root beside its manifest.
struct Place(TempDir);

/// A result in JSON.
struct Said {
    code: i32,
    findings: BTreeMap<String, Finding>,
    summary: Summary,
}

impl Place {
    fn new(profile: Profile) -> Result<Self> {
        let temp = tempfile::tempdir()?;
        fs::set_permissions(temp.path(), Permissions::from_mode(0o755))?;
        let place = Self(temp);
        for (path, content) in [
            ("etc/conf", "sealed"),
            ("usr/bin/tool", "program"),
            ("var/log/app.log", "one\ntwo\n"),
            ("var/cache/a", "aaaa"),
            ("var/cache/b", "bbbbbb"),
        ] {
            place.write(path, content)?;
        }
        place.mode("usr/bin/tool", 0o755)?;
        symlink("conf", place.at("etc/link"))?;
        place.seal(profile)?;
        Ok(place)
    }

    fn seal(&self, profile: Profile) -> Result<()> {
        Ok(fs::write(self.0.path().join("manifest"), subject::seal(&self.root(), profile)?.encode())?)
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.root().join(path)
    }

    fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.at(path);
        fs::create_dir_all(path.parent().context("a parent")?)?;
        Ok(fs::write(path, content)?)
    }

    fn mode(&self, path: &str, mode: u32) -> Result<()> {
        Ok(fs::set_permissions(self.at(path), Permissions::from_mode(mode))?)
    }

    /// Writes a policy of these rules; its name on the command line.
    fn policy(&self, rules: &[&str]) -> Result<String> {
        let path = self.0.path().join("policy.toml");
        let rules: String = rules.iter().map(|rule| format!("[[rule]]\n{rule}\n")).collect();
        fs::write(&path, format!("version = 1\nname = 'test'\n{rules}"))?;
        Ok(path.display().to_string())
    }

    fn command(&self, more: &[&str]) -> std::process::Command {
        let mut command = child::driftlock(["scan", "--manifest"]);
        command.arg(self.0.path().join("manifest")).args(more).arg(self.root()).stdin(Stdio::null());
        command
    }

    /// Exit code, stdout and stderr.
    fn run(&self, more: &[&str]) -> Result<(i32, String, String)> {
        ended(&mut self.command(more))
    }

    fn scan(&self, more: &[&str]) -> Result<Said> {
        Said::parse(ended(self.command(&["--format", "json"]).args(more))?)
    }
}

/// Exit code, stdout and stderr.
fn ended(command: &mut std::process::Command) -> Result<(i32, String, String)> {
    let output = command.output()?;
    let code = output.status.code().with_context(|| format!("{}", output.status))?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

impl Said {
    fn parse((code, stdout, stderr): (i32, String, String)) -> Result<Self> {
        let json: Value = serde_json::from_str(&stdout).with_context(|| stderr)?;
        let findings: Vec<Finding> = serde_json::from_value(json["findings"].clone())?;
        let summary = serde_json::from_value(json["summary"].clone())?;
        let findings = findings.into_iter().map(|finding| (finding.path.clone(), finding)).collect();
        Ok(Self { code, findings, summary })
    }

    fn of(&self, path: &str) -> Result<&Finding> {
        self.findings.get(path).with_context(|| format!("nothing of {path}: {:?}", self.findings.keys()))
    }
}

/// `r` for the id of a rule, and a reason.
fn rule(path: &str, allow: &str) -> String {
    format!("id = 'r'\nreason = 'because'\npath = '{path}'\n{allow}")
}

fn allowances() -> Result<()> {
    type Disturb = fn(&Place) -> Result<()>;
    type Row = (&'static str, &'static str, Disturb, &'static str, Option<Severity>, &'static str);
    let write: Disturb = |place| place.write("etc/conf", "longer than sealed");
    let chmod: Disturb = |place| place.mode("etc/conf", 0o600);
    let remove: Disturb = |place| Ok(fs::remove_file(place.at("etc/conf"))?);
    let link: Disturb = |place| {
        fs::remove_file(place.at("etc/conf"))?;
        Ok(symlink("/etc/shadow", place.at("etc/conf"))?)
    };
    let grow: Disturb = |place| place.write("var/log/app.log", "one\ntwo\nthree\n");
    let cut: Disturb = |place| place.write("var/log/app.log", "two\n");
    let swap: Disturb = |place| {
        fs::remove_file(place.at("var/log/app.log"))?;
        Ok(symlink("/etc/shadow", place.at("var/log/app.log"))?)
    };
    let add: Disturb = |place| place.write("var/log/new.log", "");
    let (conf, log, new) = ("etc/conf", "var/log/app.log", "var/log/new.log");
    let (low, high) = (Some(Severity::Low), Some(Severity::High));
    let append = "allow = 'append'\nseverity = 'low'";
    let any = "allow = 'any'\nseverity = 'low'";
    // What is allowed where, what is done, where; the severity if it is an alert, and what the explanation begins with.
    let table: [Row; 22] = [
        (conf, "allow = 'nothing'\nseverity = 'high'", write, conf, high, "because"),
        (conf, "allow = 'nothing'\nattributes = 'mode'\nseverity = 'high'", chmod, conf, high, "because"),
        (conf, "allow = 'nothing'\nattributes = 'mode'", write, conf, Some(Severity::Medium), "no rule covers it"),
        (conf, "allow = 'attributes'\nattributes = 'mode'", chmod, conf, None, "because"),
        (conf, "allow = 'attributes'\nattributes = 'mode'\nseverity = 'low'", write, conf, low, "the rule allows less"),
        (conf, "allow = 'content'", write, conf, None, "because"),
        (conf, "allow = 'content'\nseverity = 'low'", chmod, conf, low, "the rule allows less"),
        (conf, "allow = 'content'\nseverity = 'low'", link, conf, low, "the rule allows less"),
        (conf, "allow = 'absent'", remove, conf, None, "because"),
        (conf, "allow = 'absent'\nseverity = 'low'", write, conf, low, "the rule allows less"),
        ("var/log/*.log", append, add, new, None, "because"),
        // What the file held before is what was sealed.
        (log, append, grow, log, None, "because"),
        (log, append, cut, log, high, "it lost what it held"),
        (log, append, swap, log, low, "the rule allows less"),
        (conf, any, write, conf, None, "because"),
        (conf, any, chmod, conf, None, "because"),
        (conf, any, remove, conf, None, "because"),
        (conf, any, link, conf, None, "because"),
        (conf, "allow = 'any'\ntype = 'file'", link, conf, Some(Severity::Medium), "no rule covers it"),
        (log, "allow = 'any'\ntype = 'file'", swap, log, Some(Severity::Medium), "no rule covers it"),
        ("var/log/**", any, add, new, None, "because"),
        ("var/log/*", "allow = 'any'\nchange = 'changed'", add, new, Some(Severity::Medium), "no rule covers it"),
    ];
    for (at, allow, disturb, path, severity, explanation) in table {
        let what = format!("{allow} at {at}");
        let place = Place::new(Profile::Portable)?;
        let policy = place.policy(&[&rule(at, allow)])?;
        let clean = place.scan(&["--policy", &policy])?;
        ensure!(clean.code == 0 && clean.findings.is_empty(), "{what}: {}", clean.code);
        disturb(&place)?;
        let said = place.scan(&["--policy", &policy])?;
        let finding = said.of(path)?;
        ensure!(said.findings.len() == 1, "{what}: {:?}", said.findings);
        let ruling = if severity.is_some() { Ruling::Alert } else { Ruling::Tolerated };
        ensure!((finding.verdict, finding.severity) == (Some(ruling), severity), "{what}: {finding:?}");
        let by_rule = explanation != "no rule covers it";
        ensure!(finding.rule.as_deref() == by_rule.then_some("r"), "{what}: {finding:?}");
        let why = finding.explanation.as_deref().context("an explanation")?;
        ensure!(why.starts_with(explanation) && by_rule == why.ends_with("because"), "{what}: {why}");
        let code = if severity.is_some() { finding.change as i32 } else { 0 };
        ensure!(said.code == code, "{what}: {}, not {code}", said.code);
        let summary = &said.summary;
        ensure!(summary.added + summary.removed + summary.changed == 1, "kept: {summary:?}");
        ensure!(summary.tolerated == u64::from(severity.is_none()) && summary.complete, "{what}: {summary:?}");
        let digest = Policy::parse(&fs::read(&policy)?)?.digest();
        let named = summary.policy.as_ref().context("the policy")?;
        ensure!((named.name.as_str(), named.digest) == ("test", digest), "{named:?}");
        // The forms in order of discovery and in path order say the same, and so does a scan without it but for the verdict.
        let (ndjson_code, ndjson, _) = place.run(&["--format", "ndjson", "--policy", &policy])?;
        let line: Finding = serde_json::from_str(ndjson.lines().next().context("a line")?)?;
        ensure!(ndjson_code == code && line == *finding, "{what}: {ndjson}");
        let plain = place.scan(&[])?;
        ensure!(plain.code == finding.change as i32 && plain.summary.policy.is_none(), "{what}: {}", plain.code);
        ensure!(plain.of(path)?.verdict.is_none() && plain.of(path)?.change == finding.change, "{what}");
    }
    Ok(())
}

fn unread() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let policy = place.policy(&[&rule("var/cache/**", "allow = 'any'")])?;
    // One with other content of the same size, one with another size, one with other rights, two that were added.
    tamper::content_under_old_size_and_time(&place.root(), "var/cache/a")?;
    place.write("var/cache/b", "longer than it was")?;
    place.write("var/cache/deep/new", "12345")?;
    place.write("var/cache/deep/open", "")?;
    place.mode("var/cache/deep/open", 0o666)?;
    let said = place.scan(&["--policy", &policy])?;
    let found: Vec<&str> = said.findings.keys().map(String::as_str).collect();
    let expected = ["var/cache/b", "var/cache/deep", "var/cache/deep/new", "var/cache/deep/open"];
    ensure!(said.code == 0 && found == expected, "{}: {found:?}", said.code);
    for path in ["var/cache/b", "var/cache/deep/new"] {
        let observed = said.of(path)?.observed.clone().context("observed")?;
        ensure!(observed.blake3.is_none() && observed.size.is_some() && observed.mode.is_some(), "{observed:?}");
        ensure!(said.of(path)?.reason.is_none(), "that it was not read is no gap");
    }
    let summary = said.summary;
    // a, b, new and open; 4 + 18 + 5 + 0 bytes.
    ensure!(summary.unjudged == Unjudged { entries: 4, bytes: 27 }, "{summary:?}");
    ensure!(summary.files_hashed == 3, "conf, tool and app.log are read: {summary:?}");
    ensure!((summary.tolerated, summary.complete) == (4, true), "{summary:?}");
    ensure!(summary.observed_tree.is_none(), "nobody knows what the tree is");
    let (_, text, _) = place.run(&["--policy", &policy])?;
    ensure!(text.contains("clean         3 added, 0 removed, 1 changed (4 of them tolerated); "), "{text}");
    ensure!(text.contains("; 4 files (27 bytes) not read, because it allows anything there\n"), "{text}");
    ensure!(text.starts_with("tolerated  3 added, 1 changed; rule r: because\n"), "{text}");
    // A rule before it that could speak of what is read: then it is read.
    for first in [
        "allow = 'nothing'\nattributes = 'content'\nseverity = 'info'",
        "allow = 'content'\nseverity = 'info'",
        "allow = 'append'\nseverity = 'info'",
    ] {
        let [first, any] = [rule("var/cache/a", first), rule("var/cache/**", "allow = 'any'").replace("'r'", "'s'")];
        let policy = place.policy(&[&first, &any])?;
        let said = place.scan(&["--policy", &policy])?;
        ensure!(said.summary.unjudged == Unjudged { entries: 3, bytes: 23 }, "{first}: {:?}", said.summary);
        ensure!(said.of("var/cache/a")?.observed.as_ref().is_some_and(|node| node.blake3.is_some()), "{first}");
    }
    // And one that could not: it is about what was removed.
    let [first, any] =
        [rule("var/cache/a", "allow = 'absent'\nchange = 'removed'"), rule("var/cache/**", "allow = 'any'")];
    let policy = place.policy(&[&first, &any.replace("'r'", "'s'")])?;
    ensure!(place.scan(&["--policy", &policy])?.summary.unjudged.entries == 4);
    // Where no content is compared none is left unread.
    let modes = place.scan(&["--policy", &policy, "--only", "mode"])?;
    ensure!(modes.summary.unjudged.is_nothing() && modes.summary.files_hashed == 0, "{:?}", modes.summary);
    Ok(())
}

/// An alert of high, read to its end.
fn ensure_read_and_alarmed(said: &Said, path: &str) -> Result<()> {
    let finding = said.of(path)?;
    ensure!(finding.severity() == Some(Severity::High), "{finding:?}");
    ensure!(finding.observed.as_ref().is_some_and(|node| node.blake3.is_some()), "{finding:?}");
    Ok(())
}

fn set_id() -> Result<()> {
    for profile in [Profile::Portable, Profile::Full] {
        let place = Place::new(profile)?;
        place.write("var/cache/sealed", "sealed")?;
        place.mode("var/cache/sealed", 0o2755)?;
        place.seal(profile)?;
        let policy = place.policy(&[&rule("**", "allow = 'any'\nseverity = 'info'")])?;
        place.write("var/cache/new", "new")?;
        place.mode("var/cache/new", 0o4755)?;
        place.mode("var/cache/a", 0o4755)?;
        tamper::content_under_old_size_and_time(&place.root(), "var/cache/sealed")?;
        // Writing may take the bit away; it is put back.
        place.mode("var/cache/sealed", 0o2755)?;
        let said = place.scan(&["--policy", &policy])?;
        ensure!(said.code == 5, "{}", said.code);
        for path in ["var/cache/new", "var/cache/a", "var/cache/sealed"] {
            ensure_read_and_alarmed(&said, path)?;
        }
        // What was set-id and is not any more is read too, and tolerated.
        fs::remove_file(place.at("var/cache/sealed"))?;
        place.write("var/cache/sealed", "SEALED")?;
        let said = place.scan(&["--policy", &policy])?;
        let finding = said.of("var/cache/sealed")?;
        ensure!(finding.verdict == Some(Ruling::Tolerated), "{finding:?}");
        ensure!(finding.observed.as_ref().is_some_and(|node| node.blake3.is_some()), "{finding:?}");
        // Named, it is tolerated, and read all the same.
        let policy = place.policy(&[&rule("**", "allow = 'any'\nprivileged = 'set-id'")])?;
        let said = place.scan(&["--policy", &policy])?;
        ensure!(said.code == 0 && said.of("var/cache/new")?.verdict == Some(Ruling::Tolerated), "{}", said.code);
        ensure!(said.of("var/cache/new")?.observed.as_ref().is_some_and(|node| node.blake3.is_some()));
    }
    Ok(())
}

fn capabilities() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    set_capability(&place.at("usr/bin/tool"), &CAP_NET_RAW)?;
    place.seal(Profile::Portable)?;
    let policy = place.policy(&[&rule("**", "allow = 'any'")])?;
    ensure!(place.scan(&["--policy", &policy])?.code == 0);
    tamper::content_under_old_size_and_time(&place.root(), "usr/bin/tool")?;
    // Writing takes the capability away; it is put back.
    set_capability(&place.at("usr/bin/tool"), &CAP_NET_RAW)?;
    set_capability(&place.at("var/cache/a"), &CAP_NET_RAW)?;
    place.write("var/cache/new", "new")?;
    set_capability(&place.at("var/cache/new"), &CAP_NET_RAW)?;
    nix::sys::stat::mknod(
        &place.at("var/cache/null"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 3),
    )?;
    let said = place.scan(&["--policy", &policy])?;
    ensure!(said.code == 5, "{}", said.code);
    for path in ["usr/bin/tool", "var/cache/a", "var/cache/new"] {
        ensure_read_and_alarmed(&said, path)?;
    }
    ensure!(said.of("var/cache/null")?.severity() == Some(Severity::High), "{:?}", said.findings);
    Ok(())
}

fn gaps() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let policy = place.policy(&[&rule("**", "allow = 'any'\nseverity = 'info'")])?;
    let unprivileged = |more: &[&str]| -> Result<Said> {
        Said::parse(ended(child::unprivileged(place.command(&["--format", "json"]).args(more)))?)
    };
    // Where it is not known whether it has capabilities, it is not known whether it gives rights.
    place.mode("var/cache/a", 0)?;
    place.write("var/cache/new", "new")?;
    place.mode("var/cache/new", 0)?;
    let said = unprivileged(&["--policy", &policy])?;
    ensure!(said.code == 8 | 4 | 1, "{}", said.code);
    for path in ["var/cache/a", "var/cache/new"] {
        let finding = said.of(path)?;
        ensure!(finding.verdict == Some(Ruling::Alert) && finding.severity == Some(Severity::Info), "{finding:?}");
        ensure!(finding.explanation.as_deref() == Some("it could not be established: because"), "{finding:?}");
    }
    place.mode("var/cache/a", 0o644)?;
    fs::remove_file(place.at("var/cache/new"))?;
    place.mode("var/cache", 0)?;
    let said = unprivileged(&["--policy", &policy])?;
    place.mode("var/cache", 0o755)?;
    ensure!(said.code & 8 == 8 && !said.summary.complete, "{}: {:?}", said.code, said.summary);
    // And no list takes it away.
    place.mode("var/cache", 0)?;
    let said = unprivileged(&["--policy", &policy, "--fail-on", "unverifiable"])?;
    place.mode("var/cache", 0o755)?;
    ensure!(said.code == 8, "{}", said.code);
    Ok(())
}

fn gate() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let policy = place.policy(&[&rule("var/**", "allow = 'any'")])?;
    place.write("var/new", "")?;
    fs::remove_file(place.at("var/cache/a"))?;
    place.write("etc/conf", "changed")?;
    for (fail_on, with, without) in [
        (None, 4, 7),
        (Some("added"), 0, 1),
        (Some("removed,added"), 0, 3),
        (Some("changed"), 4, 4),
        (Some("unverifiable"), 0, 0),
    ] {
        let named: Vec<&str> = fail_on.iter().flat_map(|list| ["--fail-on", list]).collect();
        let said = place.scan(&[&named[..], &["--policy", &policy]].concat())?;
        ensure!((said.code, said.summary.tolerated) == (with, 2), "{fail_on:?}: {} {:?}", said.code, said.summary);
        ensure!(place.scan(&named)?.code == without, "{fail_on:?}");
    }
    Ok(())
}

fn no_policy() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let policy = place.policy(&[&rule("var/**", "allow = 'any'")])?;
    for at in 0..30 {
        place.write(&format!("var/cache/n{at}"), "")?;
    }
    tamper::content_under_old_size_and_time(&place.root(), "var/cache/a")?;
    let (code, text, _) = place.run(&["--policy", &policy])?;
    ensure!(
        code == 0 && text.starts_with("tolerated  30 added; rule r: because\nnot listed    30 tolerated: "),
        "{text}"
    );
    for arguments in [&["--policy", &policy, "--no-policy"][..], &["--no-policy"], &["--policy", "none", "--no-policy"]]
    {
        let (code, text, stderr) = place.run(arguments)?;
        ensure!(code == 5 && stderr.is_empty(), "{code}: {stderr}");
        ensure!(text.lines().filter(|line| line.starts_with("added         var/cache/n")).count() == 30, "{text}");
        ensure!(text.contains("changed       var/cache/a  content\n"), "it is read: {text}");
        ensure!(!text.contains("tolerated") && !text.contains("policy "), "{text}");
        let said = place.scan(arguments)?;
        ensure!(said.summary.policy.is_none() && said.summary.unjudged.is_nothing(), "{:?}", said.summary);
    }
    let (_, text, _) = place.run(&["--policy", &policy, "--all"])?;
    let listed = text.lines().filter(|line| line.starts_with("tolerated  added         var/cache/n"));
    ensure!(listed.count() == 30 && !text.contains("not listed"), "{text}");
    Ok(())
}

fn folded() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let policy = place.policy(&[
        &rule("var/cache/worst*", "allow = 'nothing'\nseverity = 'critical'").replace("'r'", "'worst'"),
        &rule("var/**", "allow = 'nothing'\nseverity = 'low'"),
    ])?;
    for at in 10..35 {
        place.write(&format!("var/cache/n{at}"), "")?;
        place.write(&format!("var/cache/worst{at}"), "")?;
    }
    place.mode("var/cache/n20", 0o4755)?;
    let (code, text, _) = place.run(&["--policy", &policy])?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(code == 1, "{code}");
    let expected =
        "low        added         var/cache/  24 of them, for example var/cache/n10: file of 0 bytes; rule r: because";
    ensure!(lines[0] == expected, "{text}");
    ensure!(
        lines[1] == "low        added         var/cache/n20  file of 0 bytes, mode 4755; rule r: because",
        "{text}"
    );
    let worst = lines.iter().filter(|line| line.starts_with("critical   added         var/cache/worst"));
    ensure!(worst.count() == 25, "{text}");
    ensure!(lines[27] == "not listed    24 in 1 lines for many: --all lists each", "{text}");
    ensure!(lines[28].starts_with("drifted       50 added, 0 removed, 0 changed; "), "{text}");
    let (_, all, _) = place.run(&["--policy", &policy, "--all"])?;
    ensure!(all.lines().filter(|line| line.contains("added         var/cache/")).count() == 50, "{all}");
    ensure!(place.scan(&["--policy", &policy])?.findings.len() == 50);
    // Without a policy too; nothing says there what is critical.
    let (_, text, _) = place.run(&[])?;
    ensure!(
        text.starts_with("added         var/cache/  49 of them, for example var/cache/n10: file of 0 bytes\n"),
        "{text}"
    );
    ensure!(text.lines().nth(1).is_some_and(|line| line.contains("n20  file of 0 bytes, mode 4755")), "{text}");
    let (_, all, _) = place.run(&["--all"])?;
    ensure!(all.lines().filter(|line| line.starts_with("added ")).count() == 50, "{all}");
    // What has enough of its kind in the root itself, and what is only scattered.
    let (_, sarif, _) = place.run(&["--format", "sarif"])?;
    let sarif: Value = serde_json::from_str(&sarif)?;
    ensure!(sarif["runs"][0]["results"].as_array().map(Vec::len) == Some(50), "every form but text is complete");
    let (_, junit, _) = place.run(&["--format", "junit"])?;
    ensure!(junit.matches("<testcase").count() == 50, "every form but text is complete");
    Ok(())
}

fn swapped() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let policy = place.policy(&[&rule("var/cache/**", "allow = 'any'")])?;
    let state = place.0.path().join("state").display().to_string();
    // Changed before anything is remembered; under the policy nobody reads it.
    tamper::content_under_old_size_and_time(&place.root(), "var/cache/a")?;
    let remembered = |summary: &Summary| (summary.remembered, summary.files_hashed, summary.unjudged.entries);
    eventually("what was just made is settled", || {
        let said = place.scan(&["--policy", &policy, "--state", &state])?;
        ensure!(said.code == 0 && said.findings.is_empty(), "{:?}", said.findings);
        // All 12 entries but the two that are never read.
        ensure!(remembered(&said.summary) == (10, 0, 2), "{:?}", said.summary);
        Ok(())
    })?;
    let said = place.scan(&["--state", &state])?;
    ensure!(said.code == 4 && said.of("var/cache/a")?.change == Change::Changed, "{:?}", said.findings);
    ensure!(said.summary.files_hashed == 2, "a and b are read for the first time: {:?}", said.summary);
    // What was read and is as it was needs no reading under a policy that would not read it; what moved is not read.
    let said = place.scan(&["--policy", &policy, "--state", &state])?;
    ensure!(said.code == 0 && remembered(&said.summary) == (11, 0, 1), "{:?}", said.summary);
    tamper::content_under_old_size_and_time(&place.root(), "var/cache/b")?;
    let said = place.scan(&["--policy", &policy, "--state", &state])?;
    ensure!(said.code == 0 && remembered(&said.summary) == (10, 0, 2), "{:?}", said.summary);
    let said = place.scan(&["--state", &state])?;
    ensure!(said.code == 4 && said.summary.changed == 2, "{:?}", said.findings);
    // Another policy, under which the one is an alert and the other not read.
    let other = place.policy(&[&rule("var/cache/b", "allow = 'any'")])?;
    let said = place.scan(&["--policy", &other, "--state", &state])?;
    ensure!(said.code == 4 && said.findings.len() == 1 && said.of("var/cache/a")?.is_alert(), "{:?}", said.findings);
    Ok(())
}

fn flood() -> Result<()> {
    const MANY: usize = 10_001;
    let place = Place::new(Profile::Content)?;
    let policy = place.policy(&[&rule("var/cache/**", "allow = 'any'")])?;
    fs::create_dir_all(place.at("var/cache/flood"))?;
    fs::create_dir_all(place.at("etc/flood"))?;
    for at in 0..MANY {
        fs::File::create(place.at(&format!("var/cache/flood/{at}")))?;
        fs::File::create(place.at(&format!("etc/flood/{at}")))?;
    }
    let said = place.scan(&["--policy", &policy, "--collapse"])?;
    let (tolerated, alerts): (Vec<&Finding>, Vec<&Finding>) =
        said.findings.values().partition(|finding| !finding.is_alert());
    ensure!(said.code == 1 && tolerated.len() == MANY + 1, "{} {}", said.code, tolerated.len());
    ensure!(alerts.len() == 1 && alerts[0].path == "etc/flood", "{alerts:?}");
    ensure!(alerts[0].collapsed == Some(u64::try_from(MANY)?), "{alerts:?}");
    let count = u64::try_from(2 * (MANY + 1))?;
    ensure!((said.summary.added, said.summary.tolerated) == (count, count / 2), "{:?}", said.summary);
    Ok(())
}

fn hostile() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let reason = "\\u202e{0} [x](y) ]]>\\\"'&<\\uffff\\\\ $(id)";
    let hostile = |id: &str, path: &str, allow: &str| {
        format!("id = \"{id}\"\npath = \"{path}\"\nallow = \"{allow}\"\nreason = \"{reason}\"")
    };
    let policy = place.policy(&[&hostile("0-._", "var/**", "any"), &hostile("x", "**", "nothing")])?;
    for name in [&b"new\nline"[..], b"\x1b[31m", b"]]>\xff", "\u{202e}gpj".as_bytes(), b"{0}[a](b)"] {
        let name = OsStr::from_bytes(name);
        fs::write(place.root().join("var").join(name), "")?;
        fs::write(place.root().join("etc").join(name), "")?;
    }
    let is_safe = |text: &str| !text.chars().any(|ch| (ch.is_control() && ch != '\n') || ch == '\u{202e}');
    for form in ["text", "sarif", "junit", "json", "ndjson"] {
        let (code, stdout, stderr) = place.run(&["--policy", &policy, "--all", "--format", form])?;
        ensure!(code == 1 && stderr.is_empty(), "{form}: {code} {stderr}");
        // In JSON a path is exact; every other text is for display.
        let exact = "\"path\":\"etc/\u{202e}gpj\"";
        let display = stdout.replace(exact, "").replace(&exact.replace("etc", "var"), "");
        ensure!(is_safe(&display), "{form}: {stdout:?}");
        ensure!(stdout.contains("\\xe2\\x80\\xae") || stdout.contains("\\\\xe2\\\\x80\\\\xae"), "{form}: {stdout}");
        match form {
            "text" => ensure!(stdout.lines().count() == 14, "{stdout}"),
            "junit" => ensure!(!stdout.contains('\u{ffff}') && stdout.matches("<skipped").count() == 5, "{stdout}"),
            "ndjson" => ensure!(stdout.lines().count() == 11, "{stdout}"),
            _ => drop(serde_json::from_str::<Value>(&stdout)?),
        }
    }
    Ok(())
}

fn errors() -> Result<()> {
    let place = Place::new(Profile::Portable)?;
    let bad = place.policy(&["id = 'r'\npath = '/a'\nalow = 'any'\nreason = 'x'"])?;
    let (code, stdout, stderr) = place.run(&["--policy", &bad])?;
    ensure!(code == 65 && stdout.is_empty(), "{code}: {stdout}");
    let lines: Vec<&str> = stderr.lines().collect();
    ensure!(lines.len() == 3 && lines.iter().all(|line| line.contains("policy.toml:")), "{stderr}");
    ensure!(stderr.contains("unknown key rule.alow; did you mean rule.allow?"), "{stderr}");
    let none = place.0.path().join("no\u{1b}ne").display().to_string();
    let directory = place.0.path().display().to_string();
    for (policy, why) in [(&none, "No such file"), (&directory, "not a regular file")] {
        let (code, stdout, stderr) = place.run(&["--policy", policy])?;
        ensure!(code == 66 && stdout.is_empty() && stderr.contains(why), "{code}: {stderr}");
        ensure!(stderr.lines().count() == 1 && !stderr.contains('\u{1b}'), "{stderr}");
    }
    Ok(())
}
