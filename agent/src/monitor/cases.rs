//! Runs `agent/cases/*.toml`: each a story told to a monitor, with what it must do at every step.
//!
//! A step is `at` (milliseconds), `on` (the event) and `do` (the actions, in order). Words of `on`:
//! `configured NAME[@MANIFEST][+POLICY][<SECONDS][%SECONDS][?][!][~]…` (`<` = accepted for so long after time 0; `%` = a switch goes on for so long; `!` = its manifest was
//! refused, `~` = because its time is over, `?` = its policy), `readmitted` with the same, `armed NAME [degraded]`,
//! `away NAME`, `mounted NAME PATH…` (all that is mounted over it), `remounted NAME`, `touched NAME PATH`, `subtree NAME PATH`, `overflow|failed|moved NAME`,
//! `found #SCAN PATH CHANGE [VARIANT [VERDICT]]` (`tolerated` or a severity), `unsettled #SCAN PATH CHANGE`, `finished #SCAN [HOURSh]` (since when every file was read), `interrupted|lost #SCAN`, `trouble|over REASON`, `nothing #SCAN PATH sealed|absent`, `resync`, `tick`, `clock MS`
//! (which nobody says), `set MS` (which the kernel says), `shutdown`.
//!
//! A scan that nobody waits for is a `sweep` in `do`; a `beat` has how many findings of each target are open, behind `~`
//! how often something was not said because it flapped, then `clock=` steps, what came and was `gone=`, what was put
//! `back=`, and what `waits=` longest for a verdict `@` since when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use driftlock_common::compared::Compared;
use driftlock_common::condition::ConditionReason;
use driftlock_common::coverage::{Coverage, Unverified, WatchMode};
use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::drift::{Attributes, Change};
use driftlock_common::event::{Body, ConditionBody, FindingBody, Running, TargetBeat};
use driftlock_common::finding::{ExcludedView, Finding, ManifestView, NodeView, PolicyView, Summary, Unjudged};
use driftlock_common::path::TreePath;
use driftlock_common::policy::{Ruling, Severity};
use driftlock_common::profile::Profile;
use driftlock_common::trust::Timestamp;
use serde::Deserialize;

use super::{Action, Ending, Event, Expiry, Monitor, Now, Plan, ScanId, Switching, TargetPlan, Whole};
use crate::config::{Mode, Sweeps};
use crate::scan::pace::Occasion;
use crate::scan::{IdView, Mounts, Scope};
use crate::watch::{Armed, Cover, Hint, Why};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    #[serde(default)]
    open: Vec<String>,
    #[serde(default)]
    conditions: Vec<String>,
    step: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    at: u64,
    on: String,
    #[serde(rename = "do")]
    actions: Vec<String>,
}

#[test]
fn every_case_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut cases = 0;
    let mut failed = String::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.unwrap();
        if entry.path().extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let case: Case = toml::from_str(&std::fs::read_to_string(entry.path()).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
        cases += 1;
        if let Some(difference) = run(&case) {
            writeln!(failed, "{} ({}): {difference}", entry.path().display(), case.about).unwrap();
        }
    }
    assert!(failed.is_empty(), "{failed}");
    assert!(cases >= 20, "only {cases} cases found");
}

fn run(case: &Case) -> Option<String> {
    let open = case.open.iter().map(|line| recovered(line)).collect();
    let conditions = case.conditions.iter().map(|line| condition(line)).collect();
    let mut monitor = Monitor::new(open, conditions, 1);
    let mut full = BTreeMap::new();
    let mut clock = 0;
    for step in &case.step {
        let words: Vec<&str> = step.on.split(' ').collect();
        if let ["clock" | "set", ms] = words[..] {
            clock += ms.parse::<i64>().unwrap();
        }
        let now = Now {
            elapsed: Duration::from_millis(step.at),
            unix_ms: 1_700_000_000_000 + clock + i64::try_from(step.at).unwrap(),
        };
        let actions = monitor.on(event(&words, &full), now);
        for action in &actions {
            if let Action::Scan { scan, scopes, .. } = action {
                full.insert(*scan, scopes.contains(&Scope::All));
            }
        }
        let lines: Vec<String> = actions.iter().map(line).collect();
        if lines != step.actions {
            return Some(format!("at {} on {:?}\n  does {lines:?}\n  not  {:?}", step.at, step.on, step.actions));
        }
    }
    None
}

fn event(words: &[&str], full: &BTreeMap<ScanId, bool>) -> Event {
    let hint = |target: &str, hint| Event::Hint { target: target.to_owned(), hint };
    match *words {
        ["configured", ref targets @ ..] => Event::Configured(plan(targets)),
        ["readmitted", ref targets @ ..] => Event::Readmitted(plan(targets)),
        ["armed", target] => {
            let armed = Armed { mode: WatchMode::Inotify, ..Armed::nothing() };
            Event::Armed { target: target.to_owned(), armed, mounts: Vec::new() }
        }
        ["armed", target, degraded] => {
            let armed =
                Armed { mode: WatchMode::Inotify, unwatched: 7, degraded: degraded.to_owned(), ..Armed::nothing() };
            Event::Armed { target: target.to_owned(), armed, mounts: Vec::new() }
        }
        ["away", target] => Event::Away { target: target.to_owned(), detail: "it ended".to_owned() },
        ["mounted", target, ref paths @ ..] => Event::Mounted {
            target: target.to_owned(),
            covers: paths.iter().map(|at| Cover { path: path(at), what: "tmpfs".to_owned() }).collect(),
        },
        ["touched", target, at] => hint(target, Hint::Touched(path(at))),
        ["subtree", target, at] => hint(target, Hint::Subtree(path(at))),
        ["overflow", target] => hint(target, Hint::Everything(Why::Overflow)),
        ["failed", target] => hint(target, Hint::Everything(Why::Failed)),
        ["remounted", target] => hint(target, Hint::Everything(Why::Mounted)),
        ["moved", target] => hint(target, Hint::Everything(Why::RootMoved)),
        ["found", scan, at, change] => found(scan, finding(at, change, 0), true),
        ["found", scan, at, change, variant] => found(scan, finding(at, change, variant.parse().unwrap()), true),
        ["found", scan, at, change, variant, verdict] => {
            found(scan, judged(finding(at, change, variant.parse().unwrap()), verdict), true)
        }
        ["nothing", scan, at, what] => {
            Event::FoundNothing { scan: scan_id(scan), path: path(at), sealed: what == "sealed" }
        }
        ["unsettled", scan, at, change] => found(scan, finding(at, change, 0), false),
        ["finished", scan, hours] => {
            let hours = hours.strip_suffix('h').unwrap().parse().unwrap();
            let whole = Whole { read_since: Some(Duration::from_hours(hours)), ..whole() };
            Event::Scanned { scan: scan_id(scan), ending: Ending::Finished(Some(Box::new(whole))) }
        }
        ["finished", scan] => {
            let scan = scan_id(scan);
            Event::Scanned { scan, ending: Ending::Finished(full[&scan].then(|| Box::new(whole()))) }
        }
        ["interrupted", scan] => Event::Scanned { scan: scan_id(scan), ending: Ending::Interrupted },
        ["lost", scan] => Event::Scanned { scan: scan_id(scan), ending: Ending::RootLost("gone".to_owned()) },
        ["trouble", name] => Event::Trouble { reason: reason(name), detail: Some("why".to_owned()) },
        ["over", name] => Event::Trouble { reason: reason(name), detail: None },
        ["resync"] => Event::Resync,
        ["set", _] => Event::ClockSet,
        ["tick"] | ["clock", _] => Event::Tick,
        ["shutdown"] => Event::Shutdown { reason: "SIGTERM".to_owned() },
        _ => panic!("no event {words:?}"),
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(if text == "/" { "" } else { text }).unwrap()
}

fn scan_id(text: &str) -> ScanId {
    ScanId(text.strip_prefix('#').unwrap().parse().unwrap())
}

fn reason(name: &str) -> ConditionReason {
    ConditionReason::TABLE.iter().find(|(_, word, _)| *word == name).unwrap().0
}

fn found(scan: &str, finding: Finding, settled: bool) -> Event {
    Event::Found { scan: scan_id(scan), path: finding.tree_path().unwrap(), finding: Box::new(finding), settled }
}

pub(super) fn judged(finding: Finding, verdict: &str) -> Finding {
    let severity = Severity::of_name(verdict);
    let ruling = if severity.is_some() { Ruling::Alert } else { Ruling::Tolerated };
    Finding { verdict: Some(ruling), severity, ..finding }
}

/// `collapsed` is an added directory that stands for what is below it.
pub(super) fn finding(at: &str, word: &str, variant: u64) -> Finding {
    let change = match word {
        "added" | "collapsed" => Change::Added,
        "removed" => Change::Removed,
        "changed" => Change::Changed,
        "unverifiable" => Change::Unverifiable,
        _ => panic!("no change {word}"),
    };
    let observed = matches!(change, Change::Added | Change::Changed).then(|| NodeView {
        file_type: "file".into(),
        size: Some(variant),
        ..NodeView::default()
    });
    Finding {
        path: if at == "/" { String::new() } else { at.to_owned() },
        path_b64: None,
        change,
        attributes: Attributes::NONE,
        expected: None,
        observed,
        manifest: None,
        layer: None,
        meta_layer: None,
        step: None,
        unverified: Attributes::NONE,
        reason: None,
        covers: None,
        collapsed: (word == "collapsed").then_some(10_001),
        verdict: None,
        severity: None,
        rule: None,
        explanation: None,
    }
}

fn manifest(name: &str) -> ManifestView {
    ManifestView {
        tree: OciDigest::blake3(Digest::blake3(name.as_bytes())),
        sha256: Digest::sha256(name.as_bytes()),
        trust: "unsigned".into(),
        key: None,
        origin: "image".into(),
        parts: Vec::new(),
    }
}

pub(super) fn whole() -> Whole {
    Whole { summary: summary(), gaps: BTreeMap::new(), read_since: Some(Duration::ZERO) }
}

fn summary() -> Summary {
    Summary {
        complete: true,
        scope: "full".into(),
        profile: Profile::Portable,
        compared: Compared::all(Profile::Portable).attributes(),
        fail_on: Vec::new(),
        added: 0,
        removed: 0,
        changed: 0,
        unverifiable: 0,
        tolerated: 0,
        policy: None,
        unjudged: Unjudged::default(),
        entries: 0,
        remembered: 0,
        files_hashed: 0,
        bytes_hashed: 0,
        duration_ms: 0,
        manifest: manifest("m"),
        excluded: ExcludedView::default(),
        observed_tree: None,
    }
}

pub(super) fn plan(targets: &[&str]) -> Plan {
    let targets = targets.iter().map(|word| {
        let (refused, policy_refused, expired) = (word.contains('!'), word.contains('?'), word.contains('~'));
        let word = word.trim_end_matches(['!', '?', '~']);
        let (word, left) = word.split_once('%').map_or((word, None), |(word, left)| (word, Some(left)));
        let (word, ends) = word.split_once('<').map_or((word, None), |(word, ends)| (word, Some(ends)));
        let (word, policy) = word.split_once('+').map_or((word, None), |(word, policy)| (word, Some(policy)));
        let (name, named) = word.split_once('@').unwrap_or((word, "m"));
        TargetPlan {
            name: name.to_owned(),
            root: format!("/srv/{name}"),
            manifest: (named != "none").then(|| manifest(named)),
            refused: if refused { "truncated".to_owned() } else { String::new() },
            expired: if expired { "too old".to_owned() } else { String::new() },
            expiry: ends.map(|seconds| Expiry {
                left: Duration::from_secs(seconds.parse().unwrap()),
                at: Timestamp::from_unix(1_700_000_000 + seconds.parse::<i64>().unwrap()),
            }),
            switching: left.map(|seconds| Switching {
                left: Duration::from_secs(seconds.parse().unwrap()),
                until: Timestamp::from_unix(1_700_000_000),
            }),
            policy: policy.map(|name| PolicyView {
                name: name.to_owned(),
                digest: OciDigest::blake3(Digest::blake3(name.as_bytes())),
            }),
            policy_refused: if policy_refused { "web.toml:1:1: nonsense".to_owned() } else { String::new() },
            excluded: Vec::new(),
            mounts: Mounts::Report,
            mounts_allowed: BTreeSet::new(),
            id_view: IdView::default(),
            mode: Mode::Auto,
            sweeps: Sweeps::every(Duration::from_mins(10)),
            full: Duration::from_hours(24),
        }
    });
    Plan {
        host: "h".to_owned(),
        labels: BTreeMap::new(),
        ephemeral: false,
        heartbeat: Duration::from_hours(1),
        running: Running {
            binary: None,
            config: None,
            started_at: "2023-11-14T22:13:20Z".to_owned(),
            starts: 1,
            stopped_before: None,
            boot: None,
        },
        targets: targets.collect(),
    }
}

fn recovered(line: &str) -> FindingBody {
    let words: Vec<&str> = line.split(' ').collect();
    let [target, at, change] = words[..] else { panic!("{line}") };
    let opened_at = "2023-01-01T00:00:00Z".to_owned();
    FindingBody { target: target.to_owned(), finding: finding(at, change, 0), opened_at, count: 1, flapping: None }
}

fn condition(line: &str) -> ConditionBody {
    let (target, name) = line.split_once(' ').unwrap();
    let target = (target != "-").then(|| target.to_owned());
    ConditionBody { target, reason: reason(name), path: None, detail: String::new() }
}

fn line(action: &Action) -> String {
    match action {
        Action::Arm { target } => format!("arm {target}"),
        Action::Disarm { target } => format!("disarm {target}"),
        Action::Cancel { scan } => format!("cancel #{}", scan.0),
        Action::Hurry { scan } => format!("hurry #{}", scan.0),
        Action::Stop => "stop".to_owned(),
        Action::Scan { scan, target, scopes, occasion } => {
            let scopes: Vec<String> = scopes
                .iter()
                .map(|scope| match scope {
                    Scope::All => "all".to_owned(),
                    Scope::Subtree(path) => format!("{}/**", path.escaped()),
                    Scope::Entry(path) => path.escaped().to_string(),
                })
                .collect();
            let verb = match occasion {
                Occasion::Sweep => "sweep",
                Occasion::Whole | Occasion::Hint => "scan",
            };
            format!("{verb} #{} {target} {}", scan.0, scopes.join(" "))
        }
        Action::Beat(beat) => {
            let target = |target: &TargetBeat| {
                let folded = target.coverage.folded;
                let folded = if folded > 0 { format!("~{folded}") } else { String::new() };
                format!(" {}:{}{folded}{}", target.target, target.open_findings, covered(&target.coverage))
            };
            format!("beat{}", beat.targets.iter().map(target).collect::<String>())
        }
        Action::Record(body) => body_line(body),
    }
}

/// What a heartbeat says of the coverage, as far as it is not nothing.
fn covered(coverage: &Coverage) -> String {
    let mut line = String::new();
    for (mark, number) in [("clock", coverage.clock_steps), ("gone", coverage.transient), ("back", coverage.put_back)] {
        if number > 0 {
            write!(line, " {mark}={number}").unwrap();
        }
    }
    if let Some(Unverified { path, since }) = &coverage.oldest_unverified {
        let path = if path.is_empty() { "/" } else { path };
        // All of it within a day: what is after the date tells it.
        write!(line, " waits={path}@{}", since.get(11..).unwrap()).unwrap();
    }
    line
}

fn body_line(body: &Body) -> String {
    let finding = |word: &str, body: &FindingBody| {
        let Finding { path, change, verdict, severity, .. } = &body.finding;
        let verdict = verdict.map(|verdict| severity.map_or(verdict.name(), Severity::name));
        let verdict = verdict.map_or(String::new(), |verdict| format!(" {verdict}"));
        let flapping = body.flapping.map_or(String::new(), |folded| format!(" flapping {folded}"));
        format!("{word} {} {path} {change} x{}{verdict}{flapping}", body.target, body.count)
    };
    let condition = |word: &str, body: &ConditionBody| {
        let path = body.path.as_ref().map_or(String::new(), |path| format!(" {path}"));
        format!("{word} {} {}{path}", body.target.as_deref().unwrap_or("-"), body.reason.name())
    };
    match body {
        Body::FindingOpened(body) => finding("opened", body),
        Body::FindingUpdated(body) => finding("updated", body),
        Body::FindingResolved(body) => format!("resolved {} {}", body.target, body.path),
        Body::ConditionOpened(body) => condition("wrong", body),
        Body::ConditionResolved(body) => condition("right", body),
        Body::TargetSnapshot(snapshot) => {
            let findings: Vec<String> =
                snapshot.findings.iter().map(|body| format!(" {}", body.finding.path)).collect();
            let conditions: Vec<String> =
                snapshot.conditions.iter().map(|body| format!(" +{}", body.reason.name())).collect();
            let last = if snapshot.last { " last" } else { "" };
            format!("snapshot {} {}{last}:{}{}", snapshot.target, snapshot.part, findings.concat(), conditions.concat())
        }
        Body::TargetVerified(verified) => format!("verified {}", verified.target),
        Body::Heartbeat(_) => "heartbeat".to_owned(),
        Body::Stopped(stopped) => format!("stopped {}", stopped.reason),
    }
}
