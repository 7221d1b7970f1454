//! Findings as drifts again, and two policies side by side: against judging the drifts themselves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::drift::{Attribute, Attributes, Delta, Drift, Sealed, Unverified, differences};
use driftlock_common::finding::Finding;
use driftlock_common::gap::Reason;
use driftlock_common::manifest::Header;
use driftlock_common::node::{Device, Kind, Node, Xattrs};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::policy::rotation::{Cut, Fate, Rotated};
use driftlock_common::policy::simulate::{Found, MAX_LISTED, Simulation, Tally};
use driftlock_common::policy::{Context, Moment, Policy, Severity, Verdict};
use driftlock_common::profile::Profile;
use driftlock_common::tree::Origin;
use proptest::prelude::*;

fn policy(rules: &str) -> Policy {
    Policy::parse(format!("version = 1\nname = \"p\"\n{rules}").as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn rule(id: &str, more: &str) -> String {
    format!("[[rule]]\nid = '{id}'\nreason = 'x'\n{more}\n")
}

fn header(content: Algorithm) -> Header {
    Header { history: vec!["RUN a".to_owned()], ..Header::new(Profile::Full, content, Excludes::none()) }
}

/// Every way in which a rule can allow or refuse, a rule for each part of [`PATHS`].
fn everything() -> Policy {
    let rules = [
        "path = 'a/*'\nallow = 'any'",
        "path = 'b/*'\nallow = 'append'\nseverity = 'low'",
        "path = 'c/*'\nallow = 'content'\nprivileged = ['set-id', 'capabilities']",
        "path = 'd/*'\nallow = 'attributes'\nattributes = ['mode', 'mtime', 'xattrs']",
        "path = 'e/*'\nallow = 'absent'",
        "path = 'f/*'\nallow = 'nothing'\nattributes = ['uid', 'device']\nseverity = 'critical'",
        "path = 'f/*'\nallow = 'any'\ntype = ['file', 'symlink']\nchange = ['changed', 'removed']",
        "path = '**/[s]'\nallow = 'nothing'\nseverity = 'info'",
    ];
    let text = rules.iter().enumerate().map(|(at, more)| rule(&format!("r{at}"), &more.replace("[s]", "s*")));
    policy(&text.collect::<String>())
}

const PATHS: [&[u8]; 9] =
    [b"a/s", b"b/log", b"b/\xff\n", b"c/x\\x0a", b"d/x", b"e/x", b"f/x", "g/\u{202e}s".as_bytes(), b""];

fn nodes() -> impl Strategy<Value = Node> {
    let digests = proptest::option::of(any::<u8>().prop_map(|byte| Digest::blake3(&[byte])));
    let device = proptest::option::of((0..3_u32, any::<u32>()).prop_map(|(major, minor)| Device { major, minor }));
    let targets = proptest::sample::select(vec![&b"x"[..], b"/etc/\xff", b"a\nb", "é".as_bytes(), b""]);
    let kind = prop_oneof![
        (proptest::option::of(0..3_u64), digests).prop_map(|(size, content)| Kind::File { size, content }),
        Just(Kind::Directory),
        targets.prop_map(|target| Kind::Symlink { target: target.into() }),
        device.clone().prop_map(Kind::Char),
        device.prop_map(Kind::Block),
        Just(Kind::Fifo),
        Just(Kind::Socket),
    ];
    let names = vec![&b"security.capability"[..], b"user.a", b"user.\xff\\"];
    let xattrs = proptest::option::of(proptest::sample::subsequence(names, 0..3));
    let mode = proptest::option::of(proptest::sample::select(vec![0_u16, 0o644, 0o4755, 0o7777]));
    let ids = proptest::option::of(0..2_u32);
    (kind, mode, ids.clone(), ids, proptest::option::of(-1..2_i64), xattrs).prop_map(
        |(kind, mode, uid, gid, mtime, xattrs)| {
            let mode = if matches!(kind, Kind::Symlink { .. }) { None } else { mode };
            let values =
                |names: Vec<&[u8]>| names.into_iter().map(|name| (name.into(), b"\0v".as_slice().into())).collect();
            Node { kind, mode, uid, gid, mtime, xattrs: xattrs.and_then(|names| Xattrs::new(values(names))) }
        },
    )
}

/// As a scan could find them: what differs is what differs.
fn drifts() -> impl Strategy<Value = Drift> {
    let unverified = proptest::option::of(
        proptest::sample::select(Reason::ALL.to_vec())
            .prop_map(|reason| Unverified { attributes: Attributes::of(Attribute::Content), reason }),
    );
    let numbers = proptest::option::of(10_001..20_000_u64);
    (proptest::sample::select(PATHS.to_vec()), 0..4_u8, nodes(), nodes(), unverified, numbers, 0..3_u16).prop_map(
        |(path, change, one, other, unverified, collapsed, layer)| {
            let origin = Origin { layer: layer.checked_sub(1), meta_layer: layer.checked_sub(2), ..Origin::default() };
            let attributes = differences(&one, &other);
            let expected = Sealed { node: one, origin, part: 0 };
            let delta = match change {
                0 => Delta::Added { observed: other, unverified, collapsed },
                1 if !attributes.is_empty() => Delta::Changed { attributes, expected, observed: other, unverified },
                2 => {
                    Delta::Unverifiable { reason: Reason::Mount, covers: 3, expected: (layer > 0).then_some(expected) }
                }
                _ => Delta::Removed { expected },
            };
            Drift { path: TreePath::new(path).unwrap(), delta }
        },
    )
}

fn fates() -> impl Strategy<Value = Option<Fate>> {
    let cut = Fate::Cut(Cut::Rewritten);
    proptest::sample::select(vec![None, Some(Fate::Grown), Some(Fate::Rotated(Rotated::OldestGone)), Some(cut)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Through JSON and back nothing is lost that a policy asks for, nor anything that a finding shows.
    #[test]
    fn a_finding_is_its_drift_again(drift in drifts(), fate in fates(), sha256 in any::<bool>()) {
        let header = header(if sha256 { Algorithm::Sha256 } else { Algorithm::Blake3 });
        let policy = everything();
        let finding = Finding::new(&drift, &header);
        let read: Finding = serde_json::from_str(&serde_json::to_string(&finding).unwrap()).unwrap();
        let rebuilt = read.drift().map_err(|error| TestCaseError::fail(format!("{error}: {finding:?}")))?;
        let context = Context { fate };
        let (was, is) = (policy.judge(&drift, &context, Moment::default()), policy.judge(&rebuilt, &context, Moment::default()));
        prop_assert_eq!(was, is, "{:?}", drift);
        prop_assert_eq!(&rebuilt, &drift);
        prop_assert_eq!(Finding::new(&rebuilt, &header), finding);
    }

    /// What a simulation says is what both policies say of the drift, whatever became of the file: what is silent is silent
    /// under every fate, and what is not known is not counted as either.
    #[test]
    fn a_simulation_is_both_policies(drift in drifts(), recorded in fates()) {
        let header = header(Algorithm::Blake3);
        let (before, after) = (everything(), policy(&rule("r1", "path = '**'\nallow = 'append'\nrotate = ['s.1']")));
        let was = before.judge(&drift, &Context { fate: recorded.clone() }, Moment::default());
        let finding = Finding::new(&drift, &header).judged(&was);
        let mut simulation = Simulation::new(Some(&before), &after);
        simulation.replay(Found { finding: &finding, host: "h", target: "t" }).unwrap();
        let says = |policy: &Policy, fate| policy.judge(&drift, &Context { fate }, Moment::default()).is_alert();
        let (silent, unknown, loud) = (simulation.silent(), simulation.unknown(), simulation.loud());
        let rotated = Some(Fate::Rotated(Rotated::OldestGone));
        // By the rule in force what was said is known.
        let depends = says(&after, None) && !says(&after, rotated.clone());
        prop_assert_eq!(silent.count(), u64::from(was.is_alert() && !says(&after, None)), "{:?}", finding);
        let told: u64 = simulation.rules().iter().map(|(_, shift)| shift.after.unknown).sum();
        prop_assert_eq!(told, u64::from(depends), "{:?}", finding);
        prop_assert_eq!(unknown.count(), u64::from(depends));
        prop_assert_eq!(loud.count(), u64::from(!was.is_alert() && says(&after, None) && !depends));
        // Under the same policy nothing moves.
        let mut same = Simulation::new(Some(&before), &before);
        same.replay(Found { finding: &finding, host: "", target: "" }).unwrap();
        prop_assert_eq!(same.silent().count() + same.loud().count() + same.unknown().count(), 0, "{:?}", finding);
        prop_assert_eq!(same.moved(), [0, 0]);
        for (_, shift) in same.rules() {
            prop_assert_eq!(shift.before, shift.after);
            prop_assert_eq!(shift.before.alerts, u64::from(was.is_alert()), "{:?}", finding);
        }
    }
}

fn file(size: u64) -> Node {
    Node { mode: Some(0o644), ..Node::bare(Kind::File { size: Some(size), content: Some(Digest::blake3(b"x")) }) }
}

fn grown(path: &str) -> Drift {
    let expected = Sealed { node: file(1), origin: Origin::default(), part: 0 };
    let attributes = Attributes::of(Attribute::Content);
    let delta = Delta::Changed { attributes, expected, observed: file(2), unverified: None };
    Drift { path: TreePath::new(path).unwrap(), delta }
}

fn found(drift: &Drift, verdict: Option<Verdict<'_>>) -> Finding {
    let finding = Finding::new(drift, &header(Algorithm::Blake3));
    match verdict {
        Some(verdict) => finding.judged(&verdict),
        None => finding,
    }
}

#[test]
fn a_log_is_not_known_unless_the_rule_in_force_said_so() {
    let log = |more: &str| policy(&rule("log", &format!("path = 'a'\nallow = 'append'\nseverity = 'low'\n{more}")));
    let (old, same) = (log(""), log("privileged = 'device'"));
    let rotating = log("rotate = 'a.1'");
    let any = policy(&rule("log", "path = 'a'\nallow = 'any'"));
    let drift = grown("a");
    let said = |fate| Some(old.judge(&drift, &Context { fate }, Moment::default()));
    let (grew, cut) = (said(Some(Fate::Grown)), said(Some(Fate::Cut(Cut::Shrunk))));
    let tally = |alerts, tolerated, unknown| Tally { alerts, tolerated, unknown };
    let (alert, tolerated, unknown) = (tally(1, 0, 0), tally(0, 1, 0), tally(0, 0, 1));
    for (against, recorded, new, before, after, lists) in [
        // Nobody judged it: neither is known, so nothing moves.
        (Some(&old), None, &same, unknown, unknown, [0, 0, 0]),
        (Some(&old), grew, &same, tolerated, tolerated, [0, 0, 0]),
        (Some(&old), cut, &same, alert, alert, [0, 0, 0]),
        // Another rotation may explain less, or more.
        (Some(&old), grew, &rotating, tolerated, unknown, [0, 1, 0]),
        (Some(&old), cut, &rotating, alert, unknown, [0, 1, 0]),
        // Nobody said that what judged it is in force.
        (None, grew, &same, alert, unknown, [0, 1, 0]),
        // What may have been an alert is not any more.
        (Some(&old), None, &any, unknown, tolerated, [1, 0, 0]),
        (Some(&old), cut, &any, alert, tolerated, [1, 0, 0]),
        (Some(&old), grew, &any, tolerated, tolerated, [0, 0, 0]),
        (Some(&any), None, &old, tolerated, unknown, [0, 1, 0]),
    ] {
        let mut simulation = Simulation::new(against, new);
        simulation.replay(Found { finding: &found(&drift, recorded), host: "", target: "" }).unwrap();
        let sum = |side: fn(&driftlock_common::policy::simulate::Shift) -> Tally| {
            let all = simulation.rules();
            let mut tallies = all.iter().map(|(_, shift)| side(shift)).filter(|tally| *tally != Tally::default());
            (tallies.next(), tallies.next())
        };
        let counts = [simulation.silent(), simulation.unknown(), simulation.loud()].map(|list| list.count());
        let what = format!("{recorded:?} {}", new.rules()[0].allow.name());
        assert_eq!(sum(|shift| shift.before), (Some(before), None), "{what}");
        assert_eq!(sum(|shift| shift.after), (Some(after), None), "{what}");
        assert_eq!(counts, lists, "{what}");
    }
}

#[test]
fn rules_stand_in_order_and_those_that_decide_nothing_are_named() {
    let old = policy(
        &[("gone", "z"), ("b", "b"), ("idle", "q")]
            .map(|(id, path)| rule(id, &format!("path = '{path}'\nallow = 'any'")))
            .concat(),
    );
    let new = policy(
        &[("never", "y"), ("b", "b"), ("a", "a")]
            .map(|(id, path)| rule(id, &format!("path = '{path}'\nallow = 'nothing'\nseverity = 'high'")))
            .concat(),
    );
    let mut simulation = Simulation::new(Some(&old), &new);
    for path in ["a", "b", "z", "other", "b"] {
        simulation.replay(Found { finding: &found(&grown(path), None), host: "h", target: "t" }).unwrap();
    }
    let ids: Vec<_> = simulation.rules().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [Some("b"), Some("a"), Some("gone"), None]);
    assert_eq!(simulation.never_hit(), ["never"]);
    assert_eq!(simulation.replayed(), 5);
    // `a` was an alert that no rule decided, and is a louder one.
    assert_eq!(simulation.moved(), [0, 1]);
    let loud = simulation.loud();
    let listed: Vec<_> =
        loud.listed(Severity::High).into_iter().map(|(listed, count)| (listed.path.as_str(), count)).collect();
    assert_eq!((listed, loud.count()), (vec![("b", 2)], 3));
    assert_eq!(loud.listed(Severity::Medium)[0].0.path, "z");
}

#[test]
fn what_is_not_listed_is_counted() {
    let any = policy(&rule("r", "path = '**'\nallow = 'any'"));
    let mut simulation = Simulation::new(None, &any);
    for number in 0..MAX_LISTED + 5 {
        let finding = found(&grown(&format!("{number:08}")), None);
        simulation.replay(Found { finding: &finding, host: "", target: "" }).unwrap();
    }
    // Alike ones are counted where they are listed.
    simulation.replay(Found { finding: &found(&grown("00000000"), None), host: "", target: "" }).unwrap();
    let silent = simulation.silent();
    assert_eq!(silent.listed(Severity::Medium).len(), MAX_LISTED);
    assert_eq!(silent.listed(Severity::Medium)[0].1, 2);
    assert_eq!((silent.more(Severity::Medium), silent.count()), (5, MAX_LISTED as u64 + 6));
    assert_eq!(silent.count_of(Severity::High), 0);
}

#[test]
fn names_that_are_long_do_not_fill_the_memory() {
    use driftlock_common::policy::simulate::MAX_LISTED_BYTES;
    let any = policy(&rule("r", "path = '**'\nallow = 'any'"));
    let mut simulation = Simulation::new(None, &any);
    let long = "x".repeat(4000);
    let deep = [long.as_str(); 15].join("/");
    for number in 0..300 {
        let finding = found(&grown(&format!("{number}/{deep}")), None);
        simulation.replay(Found { finding: &finding, host: "", target: "" }).unwrap();
    }
    let listed = simulation.silent().listed(Severity::Medium);
    let bytes: usize = listed.iter().map(|(listed, _)| listed.path.len()).sum();
    assert!(bytes <= MAX_LISTED_BYTES && bytes > MAX_LISTED_BYTES / 2, "{bytes}");
    assert_eq!(listed.len() as u64 + simulation.silent().more(Severity::Medium), 300);
}
