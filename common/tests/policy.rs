//! Policies as a whole: hostile texts by name, verdicts against a naive evaluator that shares no code with the judge, and
//! what must hold of every policy.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fmt::Write as _;
use std::time::Instant;

use driftlock_common::digest::Digest;
use driftlock_common::drift::{Attribute, Attributes, Change, Delta, Drift, Sealed, Unverified};
use driftlock_common::gap::Reason;
use driftlock_common::node::{Device, FileType, Kind, Node, Xattrs};
use driftlock_common::path::TreePath;
use driftlock_common::policy::rotation::{Cut, Fate, Rotated};
use driftlock_common::policy::{Allow, Cause, Context, Judged, Moment, Policy, Privilege, Severity, Verdict};
use driftlock_common::tree::Origin;
use proptest::prelude::*;

const HEAD: &str = "version = 1\nname = \"p\"\n";

fn parse(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A policy of one rule.
fn one(rule: &str) -> Policy {
    parse(&format!("{HEAD}[[rule]]\nid = \"r\"\nreason = \"test\"\n{rule}\n"))
}

fn file(mode: u16) -> Node {
    let kind = Kind::File { size: Some(10), content: Some(Digest::blake3(b"")) };
    Node { mode: Some(mode), ..Node::bare(kind) }
}

fn sealed(node: Node) -> Sealed {
    Sealed { node, origin: Origin::default(), part: 0 }
}

fn at(path: &str, delta: Delta) -> Drift {
    Drift { path: TreePath::new(path).unwrap(), delta }
}

fn added(node: Node) -> Delta {
    Delta::Added { observed: node, unverified: None, collapsed: None }
}

fn changed(attributes: &[Attribute]) -> Delta {
    let attributes = attributes.iter().copied().collect();
    Delta::Changed { attributes, expected: sealed(file(0o644)), observed: file(0o644), unverified: None }
}

fn became(expected: Node, observed: Node) -> Delta {
    let attributes = Attributes::of(Attribute::Type);
    Delta::Changed { attributes, expected: sealed(expected), observed, unverified: None }
}

fn link() -> Node {
    Node::bare(Kind::Symlink { target: b"/etc/shadow".as_slice().into() })
}

fn said(policy: &Policy, drift: &Drift, fate: Option<Fate>) -> Result<(), (Severity, Cause)> {
    match policy.judge(drift, &Context { fate }, Moment::default()) {
        Verdict::Tolerated { .. } => Ok(()),
        Verdict::Alert { severity, cause, .. } => Err((severity, cause)),
    }
}

#[test]
fn an_empty_policy_alerts_on_everything() {
    let policy = parse(HEAD);
    for delta in [added(file(0o644)), Delta::Removed { expected: sealed(link()) }, changed(&[Attribute::Mode])] {
        assert_eq!(said(&policy, &at("a", delta), None), Err((Severity::Medium, Cause::NoRule)));
    }
    let gap = Delta::Unverifiable { reason: Reason::Denied, covers: 1, expected: None };
    assert_eq!(said(&policy, &at("a", gap), None), Err((Severity::Medium, Cause::Gap)));
}

/// The digest is a promise: these bytes were hashed by `b3sum --derive-key "driftlock 2026 policy v1"`.
#[test]
fn golden_bytes_of_the_digest() {
    let text = "version = 1\nname = \"golden\"\n\n[[rule]]\nid = \"logs\"\npath = \"var/log/*.log\"\nallow = \"append\"\nreason = \"logs grow\"\n";
    assert_eq!(
        parse(text).digest().to_string(),
        "blake3:4609b92d424e5df31f7d956e12d46955cab4fa027e13d08a4c1c0ed6e6cfe992"
    );
    assert_ne!(parse(text).digest(), parse(&format!("{text}\n")).digest(), "another text is another policy");
}

#[test]
fn what_each_allowance_tolerates() {
    use Attribute::{Content, Mode, Mtime, Target};
    let more = Err((Severity::Low, Cause::More));
    let low = "severity = \"low\"\npath = \"a\"";
    let removed = || Delta::Removed { expected: sealed(file(0o644)) };
    for (allow, delta, expected) in [
        ("allow = 'nothing'", changed(&[Mode]), Err((Severity::Low, Cause::Nothing))),
        (
            "allow = 'nothing'\nattributes = ['uid', 'mode']",
            changed(&[Mode, Content]),
            Err((Severity::Low, Cause::Nothing)),
        ),
        ("allow = 'nothing'\nattributes = 'uid'", changed(&[Mode]), Err((Severity::Medium, Cause::NoRule))),
        ("allow = 'attributes'\nattributes = ['mode', 'mtime']", changed(&[Mode]), Ok(())),
        ("allow = 'attributes'\nattributes = ['mode']", changed(&[Mode, Mtime]), more),
        ("allow = 'attributes'\nattributes = ['mode']", added(file(0o644)), more),
        ("allow = 'attributes'\nattributes = ['mode']", removed(), more),
        ("allow = 'attributes'\nattributes = ['mode']", became(file(0), link()), more),
        ("allow = 'content'", changed(&[Content, Mtime]), Ok(())),
        ("allow = 'content'", changed(&[Target]), Ok(())),
        ("allow = 'content'", changed(&[Content, Mode]), more),
        ("allow = 'content'", became(file(0), link()), more),
        ("allow = 'content'", added(file(0o644)), more),
        ("allow = 'content'", removed(), more),
        ("allow = 'absent'", removed(), Ok(())),
        ("allow = 'absent'", changed(&[Content]), more),
        ("allow = 'any'", changed(&[Content, Mode]), Ok(())),
        ("allow = 'any'", added(link()), Ok(())),
        ("allow = 'any'", removed(), Ok(())),
        ("allow = 'any'", became(file(0o644), link()), Ok(())),
        // Of a change of type a tolerating rule wants both types, an alarm either.
        ("allow = 'any'\ntype = 'file'", became(file(0o644), link()), Err((Severity::Medium, Cause::NoRule))),
        ("allow = 'any'\ntype = ['file', 'symlink']", became(file(0o644), link()), Ok(())),
        ("allow = 'nothing'\ntype = 'symlink'", became(file(0o644), link()), Err((Severity::Low, Cause::Nothing))),
        ("allow = 'any'\nchange = 'added'", removed(), Err((Severity::Medium, Cause::NoRule))),
    ] {
        let policy = one(&format!("{low}\n{allow}"));
        assert_eq!(said(&policy, &at("a", delta.clone()), None), expected, "{allow} {delta:?}");
        assert_eq!(said(&policy, &at("a/b", delta), None), Err((Severity::Medium, Cause::NoRule)), "{allow}");
    }
}

#[test]
fn growing_files_may_grow_and_nothing_else() {
    use Attribute::{Content, Mode, Mtime};
    let policy = one("path = 'a'\nallow = 'append'\nseverity = 'low'");
    let renamed = Fate::Rotated(Rotated::Renamed { to: TreePath::new("a.1").unwrap() });
    let cut = Err((Severity::High, Cause::Cut));
    let shrunk = Delta::Changed {
        attributes: Attributes::of(Content),
        expected: sealed(file(0o644)),
        observed: Node { kind: Kind::File { size: Some(9), content: None }, ..file(0o644) },
        unverified: None,
    };
    let removed = || Delta::Removed { expected: sealed(file(0o644)) };
    for (delta, fate, expected) in [
        (added(file(0o644)), None, Ok(())),
        (added(file(0o644)), Some(Fate::Grown), Ok(())),
        (added(file(0o644)), Some(Fate::Cut(Cut::Shrunk)), cut),
        (added(link()), None, Err((Severity::Low, Cause::More))),
        (changed(&[Content]), Some(Fate::Grown), Ok(())),
        (changed(&[Content, Mtime]), Some(renamed.clone()), Ok(())),
        (changed(&[Content, Mode]), Some(Fate::Grown), Err((Severity::Low, Cause::More))),
        (changed(&[Mtime]), None, Ok(())),
        (changed(&[Content]), None, Err((Severity::Low, Cause::NotGrown))),
        (changed(&[Content]), Some(Fate::Cut(Cut::Rewritten)), cut),
        (shrunk.clone(), None, cut),
        (shrunk, Some(renamed.clone()), Ok(())),
        (removed(), None, cut),
        (removed(), Some(Fate::Grown), cut),
        (removed(), Some(Fate::Cut(Cut::Gone)), cut),
        (removed(), Some(renamed), Ok(())),
        // A log that was swapped for a link.
        (became(file(0o644), link()), Some(Fate::Grown), Err((Severity::Low, Cause::More))),
    ] {
        assert_eq!(said(&policy, &at("a", delta.clone()), fate.clone()), expected, "{delta:?} {fate:?}");
    }
}

#[test]
fn rotated_names_stand_beside_their_log() {
    let policy =
        one("path = ['var/log/*.log', 'srv/**']\nallow = 'append'\nrotate = ['*.log.{1..2}', 'old/*.gz']\nkeep = 2");
    for (path, tolerated) in [
        ("var/log/a.log", true),
        ("var/log/a.log.1", true),
        ("var/log/a.log.3", false),
        ("var/log/x/a.log.1", false),
        ("var/log/old/a.gz", true),
        ("a.log.1", false),
        ("srv/x/a.log.2", true),
        ("srv/a.log.1", true),
    ] {
        assert_eq!(said(&policy, &at(path, added(file(0o644))), None).is_ok(), tolerated, "{path}");
    }
}

#[test]
fn mutable_is_not_invisible() {
    let capable = || {
        let xattrs = Xattrs::new(vec![(b"security.capability".as_slice().into(), b"1".as_slice().into())]);
        Node { xattrs, ..file(0o755) }
    };
    let device = || Node::bare(Kind::Block(Some(Device { major: 8, minor: 0 })));
    let directory = Node { mode: Some(0o2755), ..Node::bare(Kind::Directory) };
    let both = || Node { mode: Some(0o4755), ..capable() };
    let high = |privilege| Err((Severity::High, Cause::Privileged(privilege)));
    for (named, node, expected) in [
        ("", file(0o4755), high(Privilege::SetId)),
        ("", file(0o2755), high(Privilege::SetId)),
        ("", file(0o1755), Ok(())),
        ("", directory, Ok(())),
        ("", capable(), high(Privilege::Capabilities)),
        ("", device(), high(Privilege::Device)),
        ("privileged = 'set-id'", file(0o4755), Ok(())),
        ("privileged = 'set-id'", both(), high(Privilege::Capabilities)),
        ("privileged = ['set-id', 'capabilities']", both(), Ok(())),
        ("privileged = 'device'", device(), Ok(())),
        ("privileged = 'device'", file(0o4755), high(Privilege::SetId)),
    ] {
        let policy = one(&format!("path = '**'\nallow = 'any'\nseverity = 'info'\n{named}"));
        assert_eq!(said(&policy, &at("a", added(node.clone())), None), expected, "{named} {node:?}");
    }
    let loud = one("path = '**'\nallow = 'any'\nseverity = 'critical'");
    let expected = Err((Severity::Critical, Cause::Privileged(Privilege::SetId)));
    assert_eq!(said(&loud, &at("a", added(file(0o4755))), None), expected);
    // A set-id file whose content or mode may differ is one all the same.
    for allow in ["allow = 'content'", "allow = 'attributes'\nattributes = ['content', 'mode']", "allow = 'append'"] {
        let policy = one(&format!("path = 'a'\n{allow}"));
        let Delta::Changed { attributes, expected, unverified, .. } = changed(&[Attribute::Content]) else { panic!() };
        let delta = Delta::Changed { attributes, expected, observed: file(0o4755), unverified };
        assert_eq!(said(&policy, &at("a", delta), Some(Fate::Grown)), high(Privilege::SetId), "{allow}");
    }
}

#[test]
fn what_stands_for_others_is_not_judged_for_them() {
    let policy = one("path = '**'\nallow = 'any'");
    let directory = Node::bare(Kind::Directory);
    let delta = Delta::Added { observed: directory, unverified: None, collapsed: Some(10_001) };
    assert_eq!(said(&policy, &at("a", delta), None), Err((Severity::Medium, Cause::Collapsed)));
}

#[test]
fn raw_bytes_match_and_a_hostile_name_is_no_pattern() {
    let policy = one("path = 'tmp/*.log'\nallow = 'any'");
    for (path, tolerated) in [
        (b"tmp/\xff\xfe.log".as_slice(), true),
        (b"tmp/\n.log", true),
        (b"tmp/*", false),
        (b"tmp/{a,b}.log", true),
        (b"tmp\\/a.log", false),
    ] {
        let drift = Drift { path: TreePath::new(path).unwrap(), delta: added(file(0o644)) };
        assert_eq!(said(&policy, &drift, None).is_ok(), tolerated, "{}", drift.path.escaped());
    }
}

/// Named hostile policies: what is said, beginning with the place.
#[test]
fn hostile_policies_are_refused_in_one_line_each() {
    let rule = |more: &str| format!("{HEAD}[[rule]]\nid = \"r\"\nreason = \"x\"\npath = \"a\"\n{more}\n");
    let any = |more: &str| rule(&format!("allow = \"any\"\n{more}"));
    let braces =
        |text: &str| format!("{HEAD}[[rule]]\nid = \"r\"\nreason = \"x\"\nallow = \"any\"\npath = \"{text}\"\n");
    let many = |count: usize, rule: &str| {
        let rules = (0..count).map(|at| rule.replace('#', &at.to_string()));
        format!("{HEAD}{}", rules.collect::<String>())
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("huge", vec![b'#'; 1024 * 1024 + 1], "larger than 1048576 bytes"),
        ("not-utf-8", b"version = 1\nname = \"\xff\"".to_vec(), "2:9: not UTF-8"),
        ("deep", format!("{HEAD}x = {}", "[".repeat(100_000)).into(), "3:"),
        ("deep-tables", format!("{HEAD}[{}x]", "a.".repeat(100_000)).into(), "recursion limit"),
        ("no-toml", b"version = ".to_vec(), "1:11: "),
        ("empty", Vec::new(), "version is missing: version = 1"),
        ("other-version", b"version = 2\nname = \"p\"".to_vec(), "1:11: version 2 is not known"),
        ("no-name", b"version = 1".to_vec(), "name is missing"),
        ("misspelt-top", format!("{HEAD}[[rules]]\n").into(), "3:3: unknown key rules; did you mean rule?"),
        ("misspelt-key", any("chnage = 'added'").into(), "8:1: unknown key rule.chnage; did you mean rule.change?"),
        ("rule-is-a-table", format!("{HEAD}[rule]\nid = 'r'").into(), "3:1: rule is not written [[rule]]"),
        ("misspelt-allow", rule("allow = 'anny'").into(), "7:9: rule.allow is not \"anny\"; did you mean any?"),
        (
            "misspelt-severity",
            any("severity = 'urgent'").into(),
            "8:12: rule.severity is not \"urgent\": one of info, low",
        ),
        ("misspelt-change", any("change = ['add']").into(), "8:11: rule.change is not \"add\"; did you mean added?"),
        ("no-allow", rule("").into(), "3:1: rule.allow is missing"),
        ("duplicate-key", any("allow = 'any'").into(), "8:1: duplicate key"),
        (
            "duplicate-id",
            many(2, "[[rule]]\nid='x'\nreason='x'\npath='#'\nallow='any'\n").into(),
            "8:1: rule \"x\" is there already, on line 3",
        ),
        (
            "bad-id",
            rule("allow = 'any'").replace("\"r\"", "\"a b\\u001b\"").into(),
            "4:6: rule.id is \"a b\\x1b\", not",
        ),
        ("empty-reason", rule("allow = 'any'").replace("\"x\"", "\" \"").into(), "5:10: rule.reason is empty"),
        ("no-reason", rule("allow = 'any'").replace("reason = \"x\"\n", "").into(), "3:1: rule.reason is missing"),
        ("no-path", rule("allow = 'any'").replace("path = \"a\"\n", "").into(), "3:1: rule.path is missing"),
        ("empty-path", rule("allow = 'any'").replace("\"a\"", "[]").into(), "6:8: rule.path is not a text"),
        ("absolute", braces("/etc").into(), "7:8: rule.path \"/etc\" has an empty component"),
        ("dots", braces("a/../b").into(), "7:8: rule.path \"a/../b\" has a component"),
        ("class", braces("a[0-9]").into(), "7:8: rule.path \"a[0-9]\" has an unescaped '['"),
        ("partial-stars", braces("a**").into(), "7:8: rule.path \"a**\" has \"**\" inside a component"),
        ("long-pattern", braces(&"x".repeat(1025)).into(), "is longer than 1024 bytes"),
        ("brace-bomb", braces(&"{1..1000}".repeat(100)).into(), "stands for more than 1024 patterns"),
        ("brace-range", braces("{1..4000000000}").into(), "not a range of at most 1024"),
        ("brace-control", braces("{a\\t}").into(), "has \"a\\x09\" in braces, neither"),
        ("brace-nested", braces("{a,{b,c}}").into(), "has braces within braces"),
        ("brace-open", braces("{a,b").into(), "has a { without a }"),
        ("too-many-rules", many(10_001, "[[rule]]\nid='#'\n").into(), "more than 10000 rules"),
        (
            "too-many-patterns",
            many(65, "[[rule]]\nid='x#'\nreason='x'\npath='{1..1024}'\nallow='any'\n").into(),
            "more than 65536 patterns",
        ),
        (
            "too-many-rotated",
            rule("allow='append'\nrotate='{1..1024}'").replace("\"a\"", "\"{1..17}\"").into(),
            "rule.rotate stands for more than 16384 patterns",
        ),
        ("attributes-of-any", any("attributes = 'mode'").into(), "8:14: rule.attributes goes with"),
        ("attributes-unnamed", rule("allow = 'attributes'").into(), "7:9: rule.attributes is missing"),
        ("attributes-type", rule("allow = 'attributes'\nattributes = 'type'").into(), "rule.attributes has type"),
        ("rotate-of-any", any("rotate = 'a.1'").into(), "8:10: rule.rotate goes with allow = \"append\" only"),
        ("rotate-starred", rule("allow = 'append'\nrotate='*/b'").into(), "8:8: rule.rotate \"*/b\" has a star"),
        ("keep-alone", rule("allow = 'append'\nkeep = 3").into(), "8:8: rule.keep goes with rotate only"),
        ("keep-nothing", rule("allow = 'append'\nrotate='b'\nkeep = 0").into(), "9:8: rule.keep is not 1 to 10000"),
        ("absent-added", rule("allow = 'absent'\nchange = 'added'").into(), "8:10: rule.change contradicts"),
        ("tolerated-gap", any("change = 'unverifiable'").into(), "8:10: rule.change contradicts"),
        ("append-link", rule("allow = 'append'\ntype = 'symlink'").into(), "8:8: rule.type contradicts"),
        (
            "alarm-privileged",
            rule("allow = 'nothing'\nprivileged = 'set-id'").into(),
            "8:14: rule.privileged contradicts",
        ),
        ("said-twice", any("change = ['added', 'added']").into(), "8:20: rule.change says added twice"),
    ];
    for (name, text, expected) in cases {
        let Err(error) = Policy::parse(&text) else { panic!("{name} is accepted") };
        let said: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{name}: {said:#?}");
        assert!(said.len() <= 101, "{name} says {} lines", said.len());
        for line in &said {
            assert!(line.len() < 400, "{name} says a line of {} bytes", line.len());
            assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
        }
        // What is said begins with the place that was expected.
        if expected.as_bytes()[0].is_ascii_digit() {
            assert!(said.iter().any(|line| line.starts_with(expected)), "{name}: {said:#?}");
        }
    }
}

/// Backtracking would never come to an end; what is promised is at most the product of both lengths.
#[test]
fn patterns_that_are_built_to_explode_do_not() {
    let stars = "*a".repeat(500);
    let globs = format!("{}b", "**/*a/".repeat(150));
    let policy = one(&format!("path = ['{stars}b', '**/{stars}', '{globs}', '**/a*a*a*a*b/**']\nallow = 'any'"));
    let wide = "a".repeat(4096);
    let deep = vec!["aa"; 2000].join("/");
    let began = Instant::now();
    for path in [wide, deep, format!("{}/{}", "a".repeat(4000), "a".repeat(4000))] {
        let _judged = said(&policy, &at(&path, added(file(0o644))), None);
    }
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

// === against a naive evaluator ===

#[derive(Clone, Debug)]
struct Said {
    paths: Vec<&'static str>,
    changes: Vec<Change>,
    types: Vec<FileType>,
    allow: usize,
    attributes: Vec<Attribute>,
    privileged: bool,
    severity: Severity,
}

const PATTERNS: [&str; 9] = ["a", "a/b", "a/*", "a/**", "**", "**/b", "*/b", "a*", "c/**/b"];
const PATHS: [&str; 9] = ["a", "a/b", "a/b/b", "b", "ab", "c/b", "c/d/e/b", "c", "a/x"];
const ALLOW: [&str; 6] = ["nothing", "attributes", "content", "append", "absent", "any"];

fn rules() -> impl Strategy<Value = Vec<Said>> {
    let rule = (
        proptest::sample::subsequence(PATTERNS.to_vec(), 1..3),
        proptest::sample::subsequence(Change::ALL.to_vec(), 0..4),
        proptest::sample::subsequence(FileType::ALL.to_vec(), 0..5),
        0..ALLOW.len(),
        proptest::sample::subsequence(Attribute::ALL[1..].to_vec(), 1..4),
        any::<bool>(),
        proptest::sample::select(Severity::ALL.to_vec()),
    );
    let rule = rule.prop_map(|(paths, changes, types, allow, attributes, privileged, severity)| Said {
        paths,
        changes,
        types,
        allow,
        attributes,
        privileged,
        severity,
    });
    proptest::collection::vec(rule, 0..8)
}

impl Said {
    fn text(&self, id: &str) -> String {
        let list =
            |words: Vec<&str>| format!("[{}]", words.iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(","));
        let mut text = format!("[[rule]]\nid = '{id}'\nreason = 'x'\nallow = '{}'\n", ALLOW[self.allow]);
        writeln!(text, "path = {}\nseverity = '{}'", list(self.paths.clone()), self.severity).unwrap();
        if !self.changes.is_empty() {
            writeln!(text, "change = {}", list(self.changes.iter().map(|c| c.name()).collect())).unwrap();
        }
        if !self.types.is_empty() {
            writeln!(text, "type = {}", list(self.types.iter().map(|t| t.name()).collect())).unwrap();
        }
        if ALLOW[self.allow] == "attributes" {
            writeln!(text, "attributes = {}", list(self.attributes.iter().map(|a| a.name()).collect())).unwrap();
        }
        if self.privileged && ALLOW[self.allow] != "nothing" {
            writeln!(text, "privileged = ['set-id', 'device']").unwrap();
        }
        text
    }
}

/// Rules that contradict themselves are refused when read, and are left out here.
fn policy_of(rules: &[Said]) -> (Policy, Vec<Said>) {
    let usable = rules.iter().filter(|rule| Policy::parse(format!("{HEAD}{}", rule.text("r")).as_bytes()).is_ok());
    let usable: Vec<Said> = usable.cloned().collect();
    let texts = usable.iter().enumerate().map(|(at, rule)| rule.text(&format!("r{at}")));
    (parse(&format!("{HEAD}{}", texts.collect::<String>())), usable)
}

fn drifts() -> impl Strategy<Value = Drift> {
    let types = proptest::sample::select(FileType::ALL.to_vec());
    let attributes = proptest::sample::subsequence(Attribute::ALL[1..].to_vec(), 1..4);
    let mode = proptest::sample::select(vec![0o644_u16, 0o4755, 0o2755]);
    (proptest::sample::select(PATHS.to_vec()), 0..6_u8, types.clone(), types, attributes, mode).prop_map(
        |(path, change, one, other, attributes, mode)| {
            let node = |file_type: FileType| {
                let kind = match file_type {
                    FileType::File => Kind::File { size: Some(1), content: None },
                    FileType::Directory => Kind::Directory,
                    FileType::Symlink => Kind::Symlink { target: Box::new([b'x']) },
                    FileType::Char => Kind::Char(None),
                    FileType::Block => Kind::Block(None),
                    FileType::Fifo => Kind::Fifo,
                    FileType::Socket => Kind::Socket,
                };
                Node { mode: (file_type != FileType::Symlink).then_some(mode), ..Node::bare(kind) }
            };
            let unverified = Some(Unverified { attributes: Attributes::of(Attribute::Content), reason: Reason::Io });
            let (expected, observed) = (sealed(node(one)), node(one));
            let attributes: Attributes = attributes.into_iter().collect();
            at(
                path,
                match change {
                    0 => added(observed),
                    1 => Delta::Removed { expected },
                    2 => Delta::Changed { attributes, expected, observed, unverified: None },
                    3 if one != other => became(node(one), node(other)),
                    4 => Delta::Changed { attributes, expected, observed, unverified },
                    _ => Delta::Unverifiable { reason: Reason::Denied, covers: 3, expected: Some(expected) },
                },
            )
        },
    )
}

fn fates() -> impl Strategy<Value = Option<Fate>> {
    proptest::sample::select(vec![
        None,
        Some(Fate::Grown),
        Some(Fate::Rotated(Rotated::OldestGone)),
        Some(Fate::Cut(Cut::Rewritten)),
    ])
}

/// Patterns as plain recursion over components; within one, by trying every split.
fn matches(pattern: &[&str], path: &[&str]) -> bool {
    fn name(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|cut| name(rest, &text[cut..])),
            [ch, rest @ ..] => text.first() == Some(ch) && name(rest, &text[1..]),
        }
    }
    match pattern {
        [] => path.is_empty(),
        ["**"] => !path.is_empty(),
        ["**", rest @ ..] => (0..=path.len()).any(|cut| matches(rest, &path[cut..])),
        [first, rest @ ..] => {
            !path.is_empty() && name(first.as_bytes(), path[0].as_bytes()) && matches(rest, &path[1..])
        }
    }
}

/// First match wins, said as plainly as the documentation says it: the rule's place, and whether it is an alert.
fn naive(rules: &[Said], drift: &Drift, fate: Option<&Fate>) -> (Option<usize>, Option<Severity>) {
    let path = String::from_utf8(drift.path.as_bytes().to_vec()).unwrap();
    let path: Vec<&str> = path.split('/').collect();
    let (mut types, mut differ, mut gap, mut node) = (vec![], vec![], false, None);
    match &drift.delta {
        Delta::Added { observed, .. } => {
            types.push(observed.file_type());
            node = Some(observed);
        }
        Delta::Removed { expected } => types.push(expected.node.file_type()),
        Delta::Changed { attributes, expected, observed, unverified } => {
            types = vec![expected.node.file_type(), observed.file_type()];
            differ = attributes.iter().collect();
            gap = unverified.is_some();
            node = Some(observed);
        }
        Delta::Unverifiable { expected, .. } => {
            types.extend(expected.as_ref().map(|expected| expected.node.file_type()));
            gap = true;
        }
    }
    for (at, rule) in rules.iter().enumerate() {
        let alarm = ALLOW[rule.allow] == "nothing";
        let of_path = rule.paths.iter().any(|text| matches(&text.split('/').collect::<Vec<_>>(), &path));
        let of_change = rule.changes.is_empty() || rule.changes.contains(&drift.change());
        let listed = types.iter().filter(|known| rule.types.contains(known)).count();
        let of_type = rule.types.is_empty() || if alarm { listed > 0 } else { listed == types.len() };
        if !(of_path && of_change && of_type) {
            continue;
        }
        let only = |allowed: &[Attribute]| differ.iter().all(|attribute| allowed.contains(attribute));
        let change = drift.change();
        let allowed = match ALLOW[rule.allow] {
            "nothing" => false,
            "attributes" => change == Change::Changed && only(&rule.attributes),
            "content" => change == Change::Changed && only(&[Attribute::Content, Attribute::Target, Attribute::Mtime]),
            "append" => {
                types.iter().all(|known| *known == FileType::File)
                    && !matches!(fate, Some(Fate::Cut(_)))
                    && match change {
                        Change::Added => true,
                        Change::Removed => matches!(fate, Some(Fate::Rotated(_))),
                        Change::Changed => {
                            only(&[Attribute::Mtime])
                                || (only(&[Attribute::Mtime, Attribute::Content]) && fate.is_some())
                        }
                        Change::Unverifiable => false,
                    }
            }
            "absent" => change == Change::Removed,
            _ => true,
        };
        let privileged = node.is_some_and(|node| match node.kind {
            Kind::Char(_) | Kind::Block(_) => true,
            Kind::File { .. } => node.mode.unwrap_or(0) & 0o6000 != 0,
            _ => false,
        });
        let cut = ALLOW[rule.allow] == "append"
            && types.iter().all(|known| *known == FileType::File)
            && (matches!(fate, Some(Fate::Cut(_))) || (change == Change::Removed && !allowed));
        return match (gap, allowed, privileged && !rule.privileged) {
            (true, ..) => (Some(at), Some(rule.severity)),
            (_, true, false) => (Some(at), None),
            (_, true, true) => (Some(at), Some(rule.severity.max(Severity::High))),
            (_, false, _) if cut => (Some(at), Some(rule.severity.max(Severity::High))),
            (_, false, _) => (Some(at), Some(rule.severity)),
        };
    }
    (None, Some(Severity::Medium))
}

fn verdict(policy: &Policy, drift: &Drift, fate: Option<&Fate>) -> (Option<usize>, Option<Severity>) {
    let verdict = policy.judge(drift, &Context { fate: fate.cloned() }, Moment::default());
    let place = verdict.rule().map(|rule| rule.id.trim_start_matches('r').parse().unwrap());
    (place, verdict.severity())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// 2,000 policies with 50 drifts each.
    #[test]
    fn a_naive_evaluator_agrees(
        rules in rules(),
        drifts in proptest::collection::vec((drifts(), fates()), 50),
    ) {
        let (policy, rules) = policy_of(&rules);
        for (drift, fate) in &drifts {
            let expected = naive(&rules, drift, fate.as_ref());
            prop_assert_eq!(verdict(&policy, drift, fate.as_ref()), expected, "{:?} {:?}", drift, rules);
        }
    }
}

proptest! {
    #[test]
    fn no_policy_turns_a_gap_into_clean(rules in rules(), drift in drifts(), fate in fates()) {
        let (policy, _) = policy_of(&rules);
        if drift.has_gap() {
            let verdict = Some(policy.judge(&drift, &Context { fate }, Moment::default()));
            let judged = Judged { drift: drift.clone(), verdict };
            prop_assert!(judged.is_alert());
            prop_assert_eq!(judged.exit_bits(), drift.exit_bits());
        }
    }

    /// Wherever it is put, a rule changes nothing at paths that it does not match.
    #[test]
    fn a_rule_more_changes_no_other_path(mut rules in rules(), drift in drifts(), fate in fates(), at in 0..8_usize) {
        let (before, usable) = policy_of(&rules);
        rules = usable;
        let place = at.min(rules.len());
        let more = Said { paths: vec!["elsewhere/**"], changes: vec![], types: vec![], allow: 5, attributes: vec![],
            privileged: true, severity: Severity::Info };
        rules.insert(place, more);
        let (after, _) = policy_of(&rules);
        let (was, said) = verdict(&before, &drift, fate.as_ref());
        let moved = was.map(|was| if was >= place { was + 1 } else { was });
        prop_assert_eq!(verdict(&after, &drift, fate.as_ref()), (moved, said));
    }

    /// Rules that have no path in common may change places.
    #[test]
    fn the_order_of_independent_rules_does_not_matter(rules in rules(), drift in drifts(), fate in fates()) {
        let (before, rules) = policy_of(&rules);
        let was = verdict(&before, &drift, fate.as_ref());
        for at in 1..rules.len() {
            let [a, b] = [at - 1, at].map(|at| &before.rules()[at]);
            if a.patterns().any(|a| b.patterns().any(|b| a.meets(b))) {
                continue;
            }
            let mut swapped = rules.clone();
            swapped.swap(at - 1, at);
            let (after, _) = policy_of(&swapped);
            let place = was.0.map(|was| if was == at { at - 1 } else if was + 1 == at { at } else { was });
            prop_assert_eq!(verdict(&after, &drift, fate.as_ref()), (place, was.1));
        }
    }

    /// A file is left unread exactly where every drift that its content could make or be part of is tolerated by `any`.
    #[test]
    fn what_is_left_unread_is_tolerated_whatever_it_holds(
        rules in rules(),
        path in proptest::sample::select(PATHS.to_vec()),
        sealed_type in proptest::option::of(proptest::sample::select(FileType::ALL.to_vec())),
    ) {
        let (policy, _) = policy_of(&rules);
        let other = |file_type| Node::bare(match file_type {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink { target: Box::new([b'x']) },
            FileType::Char => Kind::Char(None),
            FileType::Block => Kind::Block(None),
            FileType::Fifo => Kind::Fifo,
            FileType::File | FileType::Socket => Kind::Socket,
        });
        let deltas: Vec<Delta> = match sealed_type {
            None => vec![added(file(0o644))],
            // With its content every other attribute may differ.
            Some(FileType::File) => (0..1_u32 << Attribute::ALL.len())
                .map(|set| Attribute::ALL.into_iter().filter(|at| set & (1 << *at as u32) != 0).collect::<Vec<_>>())
                .filter(|set| set.contains(&Attribute::Content) && !set.contains(&Attribute::Type))
                .map(|set| changed(&set))
                .collect(),
            Some(other_type) => vec![became(other(other_type), file(0o644))],
        };
        let tolerated = deltas.into_iter().all(|delta| {
            let verdict = policy.judge(&at(path, delta), &Context::default(), Moment::default());
            matches!(verdict, Verdict::Tolerated { rule } if rule.allow == Allow::Any)
        });
        prop_assert_eq!(policy.leaves_unread(&TreePath::new(path).unwrap(), sealed_type), tolerated);
    }

    /// What `check` calls shadowed never decides.
    #[test]
    fn a_shadowed_rule_never_decides(rules in rules(), drifts in proptest::collection::vec((drifts(), fates()), 30)) {
        use driftlock_common::policy::check::About;
        let (policy, _) = policy_of(&rules);
        let shadowed: Vec<usize> = policy.check(None).iter()
            .filter(|warning| matches!(warning.about, About::Shadowed { .. }))
            .map(|warning| warning.rule.id.trim_start_matches('r').parse().unwrap()).collect();
        for (drift, fate) in &drifts {
            let (decided, _) = verdict(&policy, drift, fate.as_ref());
            prop_assert!(decided.is_none_or(|rule| !shadowed.contains(&rule)));
        }
    }
}
