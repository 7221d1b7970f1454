//! The shipped policies against their cases, and `driftlock policy` as an operator meets it: what it says, and how it ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use driftlock_common::policy::check::About;
use driftlock_common::policy::{Policy, Severity};
use driftlock_tests::binaries::{binaries, workspace};
use driftlock_tests::sandbox::Sandbox;

const SHIPPED: [&str; 3] = ["container", "debian-host", "rpm-host"];

fn shipped() -> PathBuf {
    workspace().join("packaging/policies")
}

fn parse(name: &str) -> Policy {
    let text = std::fs::read(shipped().join(format!("{name}.toml"))).unwrap();
    Policy::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Exit code, stdout and stderr of `driftlock policy …`, run in a directory.
fn policy(place: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(&binaries().driftlock).arg("policy").args(arguments).current_dir(place).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_rule_of_a_shipped_policy_has_cases_and_they_hold() {
    let (code, stdout, stderr) = policy(&shipped(), &["test", "tests"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(stdout.lines().count(), SHIPPED.len(), "{stdout}");
    for (line, name) in stdout.lines().zip(SHIPPED) {
        assert!(line.starts_with(&format!("tests/{name}.toml: policy {name}, ")), "{stdout}");
        assert!(line.ends_with(" cases, 0 failed"), "a rule without a case: {line}");
    }
}

/// A tolerating rule has a case that it tolerates and every rule one at which it alerts, or at which a neighbour does: what
/// is here makes sure that no case only repeats the default.
#[test]
fn shipped_policies_are_what_a_reviewer_was_told() {
    for name in SHIPPED {
        let policy = parse(name);
        assert_eq!(policy.name(), name);
        let warnings = policy.check(None);
        let shadowed: Vec<String> = warnings
            .iter()
            .filter(|warning| matches!(warning.about, About::Shadowed { .. }))
            .map(ToString::to_string)
            .collect();
        assert!(shadowed.is_empty(), "{name}: {shadowed:?}");
        // What is tolerated where code runs or rights are had, each rule once: a line more here is a decision.
        let mut sensitive: Vec<&str> = warnings.iter().map(|warning| warning.rule.id.as_str()).collect();
        sensitive.dedup();
        let expected: &[&str] = match name {
            "container" => &[],
            "debian-host" => &["grub-environment", "ld-so-cache", "alternatives", "python-bytecode"],
            _ => &["grub-environment", "ld-so-cache", "alternatives", "python-bytecode", "rpm-database"],
        };
        assert_eq!(sensitive, expected, "{name}: {}", warnings.iter().map(|w| format!("{w}\n")).collect::<String>());
        for warning in &warnings {
            assert!(warning.rule.severity >= Severity::Medium, "{warning}");
        }
    }
}

const POLICY: &str = r#"version = 1
name = "web"

[[rule]]
id = "app-log"
path = "var/log/app.log"
allow = "append"
rotate = "app.log.{1..2}"
severity = "high"
reason = "the program's log"

[[rule]]
id = "binaries"
path = "usr/bin/**"
change = "changed"
allow = "attributes"
attributes = "mtime"
reason = "touched by a backup"
"#;

#[test]
fn explain_says_for_everything_that_can_happen_which_rule_decides() {
    let sandbox = Sandbox::new().unwrap();
    sandbox.write("web.toml", POLICY).unwrap();
    let (code, stdout, stderr) = policy(&sandbox.path(""), &["explain", "--policy", "web.toml", "/var/log/app.log"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(
        stdout,
        "\
var/log/app.log as a file, by policy web
  added                    tolerated  app-log
  removed                  high       app-log: it lost what it held, and no rotation explains it
  changed content          high       app-log: it is not known that it only grew
    that only grew         tolerated  app-log
    that was rotated       tolerated  app-log
    that was cut           high       app-log: it lost what it held, and no rotation explains it
  added, set-user-id       high       app-log: it is set-user-id or set-group-id, which the rule does not name
  changed mode             high       app-log: the rule allows less
  changed uid              high       app-log: the rule allows less
  changed gid              high       app-log: the rule allows less
  changed xattrs           high       app-log: the rule allows less
  changed mtime            tolerated  app-log
  becomes a symlink        high       app-log: the rule allows less
  not established          high       app-log: it could not be established
rule app-log on line 4 allows append: the program's log; matches by var/log/app.log
"
    );
    let (_, stdout, _) = policy(&sandbox.path(""), &["explain", "--policy", "web.toml", "usr/bin/app"]);
    assert!(stdout.contains("  added                    medium     -: no rule covers it\n"), "{stdout}");
    assert!(stdout.contains("  changed mtime            tolerated  binaries\n"), "{stdout}");
    let (_, stdout, _) =
        policy(&sandbox.path(""), &["explain", "--policy", "web.toml", "--type", "directory", "opt/\u{1b}"]);
    assert!(stdout.starts_with("opt/\\x1b as a directory, by policy web\n"), "{stdout}");
    assert!(stdout.ends_with("no rule has a pattern that matches\n"), "{stdout}");
}

#[test]
fn check_warns_and_strict_fails() {
    let sandbox = Sandbox::new().unwrap();
    sandbox.write("web.toml", POLICY.replace("\"mtime\"", "\"mode\"")).unwrap();
    let place = sandbox.path("");
    let digest = Policy::parse(POLICY.replace("\"mtime\"", "\"mode\"").as_bytes()).unwrap().digest();
    let expected = format!(
        "web.toml:12: rule binaries allows attributes of programs on PATH: usr/bin/**\n\
         policy web, {digest}: 2 rules, 2 of them tolerate; 1 warnings\n"
    );
    assert_eq!(policy(&place, &["check", "web.toml"]), (0, expected.clone(), String::new()));
    assert_eq!(policy(&place, &["check", "--strict", "web.toml"]), (1, expected, String::new()));
    sandbox.write("quiet.toml", POLICY).unwrap();
    assert_eq!(policy(&place, &["check", "--strict", "quiet.toml"]).0, 0);
    // With a manifest, what swallows a fifth of it.
    sandbox.write("root/var/log/app.log", "x").unwrap();
    let sealed = Command::new(&binaries().driftlock)
        .args(["seal", "dir:root", "-o", "manifest"])
        .current_dir(&place)
        .status()
        .unwrap();
    assert!(sealed.success());
    let (_, stdout, _) = policy(&place, &["check", "--manifest", "manifest", "quiet.toml"]);
    let swallows = "quiet.toml:4: rule app-log tolerates changes of 1 of 3 sealed paths (33 %): narrow its patterns\n";
    assert!(stdout.starts_with(swallows), "{stdout}");
}

#[test]
fn a_case_that_goes_otherwise_is_said_with_its_line_and_ends_with_1() {
    let sandbox = Sandbox::new().unwrap();
    sandbox.write("web.toml", POLICY).unwrap();
    let case = "[[case]]\npath = \"usr/bin/app\"\nchange = \"added\"\nverdict = \"tolerated\"\nrule = \"app-log\"\n";
    sandbox.write("cases/web.toml", format!("policy = \"../web.toml\"\n{case}")).unwrap();
    let expected = "cases/web.toml:2: usr/bin/app added: expected tolerated, by rule \"app-log\", but it is an alert, \
                    medium, by no rule (no rule covers it)\n\
                    cases/web.toml: policy web, 1 cases, 1 failed; no case for app-log, binaries\n";
    assert_eq!(policy(&sandbox.path(""), &["test", "cases"]), (1, expected.to_owned(), String::new()));
}

#[test]
fn what_cannot_be_read_is_one_line_for_each_problem_and_an_exit_code_of_the_table() {
    let sandbox = Sandbox::new().unwrap();
    sandbox
        .write("bad.toml", "version = 1\nname = \"p\"\n[[rule]]\nid = \"r\"\npath = \"/a\"\nalow = \"any\"\n")
        .unwrap();
    sandbox.write("bad/cases.toml", "policy = \"../good.toml\"\n[[case]]\npath = \"a\"\nchange = \"added\"\n").unwrap();
    sandbox.write("gone/cases.toml", "policy = \"../no.toml\"\n[[case]]\npath = \"a\"\nchange = \"added\"\nverdict = \"alert\"\nseverity = \"medium\"\n").unwrap();
    sandbox.write("empty/readme", "").unwrap();
    sandbox.write("good.toml", POLICY).unwrap();
    let bad = "driftlock: bad.toml:3:1: rule.allow is missing\n\
               driftlock: bad.toml:3:1: rule.reason is missing\n\
               driftlock: bad.toml:5:8: rule.path \"/a\" has an empty component: patterns are relative to the root, without slashes at the ends\n\
               driftlock: bad.toml:6:1: unknown key rule.alow; did you mean rule.allow?\n";
    for (arguments, code, said) in [
        (&["check", "bad.toml"][..], 65, bad),
        (&["explain", "--policy", "bad.toml", "a"], 65, bad),
        (&["check", "none.toml"], 66, "driftlock: none.toml: No such file or directory (os error 2)\n"),
        (&["check", "empty"], 66, "driftlock: empty: not a regular file\n"),
        (&["explain", "--policy", "good.toml", "a//b"], 64, "driftlock: a//b: a path has an empty component\n"),
        (&["test", "bad"], 65, "driftlock: bad/cases.toml:2:1: case.verdict is missing: \"alert\" or \"tolerated\"\n"),
        (&["test", "gone"], 66, "driftlock: gone/../no.toml: No such file or directory (os error 2)\n"),
        (&["test", "empty"], 66, "driftlock: empty: no file *.toml with cases: see driftlock policy test --help\n"),
    ] {
        assert_eq!(policy(&sandbox.path(""), arguments), (code, String::new(), said.to_owned()), "{arguments:?}");
    }
    let (code, _, stderr) = policy(&sandbox.path(""), &["check", "--manifest", "good.toml", "good.toml"]);
    assert_eq!(code, 65, "{stderr}");
    assert_eq!(policy(&sandbox.path(""), &["explain", "a"]).0, 64);
}
