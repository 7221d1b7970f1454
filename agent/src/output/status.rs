//! Owns an agent's status for people: what matters first, within 80 columns where words allow it. Must not own what is known.

use std::fmt::{self, Write as _};

use driftlock_common::coverage::BlindSpot;
use driftlock_common::digest::OciDigest;
use driftlock_common::path::Escaped;
use driftlock_common::policy::Severity;
use driftlock_common::status::{Doing, Open, Status, TargetStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Columns, at most, where words allow it.
const WIDTH: usize = 80;
/// Columns before what a row says.
const INDENT: usize = 13;
/// Hexadecimal digits of a digest: enough to tell two apart. The JSON form has all.
const DIGITS: usize = 16;

const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const PURPLE: &str = "\x1b[35m";

/// Everything.
pub fn status(status: &Status, now: OffsetDateTime, colour: bool) -> String {
    let mut text = String::new();
    let agent = &status.agent;
    let (name, host) = (Escaped(agent.name.as_bytes()), Escaped(agent.host.as_bytes()));
    let started = agent
        .running
        .as_ref()
        .map_or_else(String::new, |running| format!(", started {}", ago(&running.started_at, now)));
    let version = Escaped(agent.version.as_bytes());
    row(&mut text, "agent", &format!("driftlock {version} on {name} ({host}){started}"));
    if let Some(collector) = &agent.collector {
        let waits = match collector.undelivered {
            0 => "nothing waits".to_owned(),
            1 => "1 event waits".to_owned(),
            number => format!("{number} events wait"),
        };
        let answered = collector
            .last_answer
            .as_ref()
            .map_or_else(|| "no answer yet".to_owned(), |at| format!("last answer {}", ago(at, now)));
        row(&mut text, "collector", &format!("{}; {waits}; {answered}", Escaped(collector.endpoint.as_bytes())));
        if let Some(until) = &collector.certificate_until {
            row(&mut text, "certificate", &format!("ends {}", ahead(until, now)));
        }
    } else {
        row(&mut text, "collector", "none");
    }
    for condition in &status.conditions {
        trouble(&mut text, condition.reason.name(), &condition.detail, colour);
    }
    for one in &status.targets {
        target(&mut text, one, now, colour);
    }
    text
}

fn target(text: &mut String, target: &TargetStatus, now: OffsetDateTime, colour: bool) {
    let (word, sgr) = verdict(target);
    let (before, after) = if colour { (sgr, "\x1b[0m") } else { ("", "") };
    let name = Escaped(target.target.as_bytes());
    let _infallible = writeln!(text, "\n{name}: {before}{word}{after}, {}", numbers(&target.open));
    // A root is escaped already.
    row(text, "  root", &target.root);
    if let Some(manifest) = &target.manifest {
        let tree = short(&manifest.tree);
        row(text, "  manifest", &format!("{tree}, {}, origin {}", manifest.trust, manifest.origin));
        for part in &manifest.parts {
            row(text, "", &format!("of {}, {}", Escaped(part.name.as_bytes()), short(&part.tree)));
        }
    }
    if let Some(policy) = &target.policy {
        row(text, "  policy", &format!("{}, {}", Escaped(policy.name.as_bytes()), short(&policy.digest)));
    }
    let coverage = &target.coverage;
    let mode = Escaped(coverage.watch_mode.as_bytes());
    let unwatched = match coverage.unwatched {
        0 => String::new(),
        1 => ", 1 directory not watched".to_owned(),
        number => format!(", {number} directories not watched"),
    };
    row(text, "  watched by", &format!("{mode}{unwatched}"));
    let blind: Vec<String> = coverage.blind.iter().map(|word| meaning(word)).collect();
    if !blind.is_empty() {
        row(text, "  found late", &blind.join("; "));
    }
    row(text, "  in time", &bounds(target));
    let look = match &target.last_look {
        Some(look) => {
            let all = if look.complete { "" } else { ", not everything was established" };
            format!("{}, took {}{all}", ago(&look.ended, now), span_ms(look.duration_ms))
        }
        None => "none yet".to_owned(),
    };
    row(text, "  last look", &look);
    if let Some(full) = &coverage.last_full {
        row(text, "  all read", &ago(full, now));
    }
    if !coverage.gaps.is_empty() {
        let gaps = coverage.gaps.iter().map(|(reason, number)| format!("{number} {}", Escaped(reason.as_bytes())));
        row(text, "  gaps", &gaps.collect::<Vec<_>>().join(", "));
    }
    let activity = &target.activity;
    let next = activity.next_sweep.as_deref().map(|at| format!("; next look at everything {}", ahead(at, now)));
    row(text, "  now", &format!("{}{}", activity.doing.meaning(), next.unwrap_or_default()));
    if let Some(oldest) = &coverage.oldest_unverified {
        let path = if oldest.path.is_empty() { "." } else { &oldest.path };
        row(text, "  waits", &format!("{path}, since {}", ago(&oldest.since, now)));
    }
    for condition in &target.conditions {
        trouble(text, condition.reason.name(), &condition.detail, colour);
    }
}

/// The word for a target and its colour.
fn verdict(target: &TargetStatus) -> (&'static str, &'static str) {
    let established = target.last_look.as_ref().is_some_and(|look| look.complete);
    let blind = matches!(target.activity.doing, Doing::NoManifest | Doing::Away) || !established;
    match (target.open.total(), blind) {
        (0, false) => ("as sealed", GREEN),
        (0, true) => ("NOT VERIFIED", PURPLE),
        (_, false) => ("DRIFTED", RED),
        (_, true) => ("DRIFTED, AND NOT VERIFIED", RED),
    }
}

/// The numbers of open findings in one line, the loudest first.
pub fn numbers(open: &Open) -> String {
    let mut parts = Vec::new();
    for severity in Severity::ALL.into_iter().rev() {
        if let Some(number) = open.alerts.get(severity.name()) {
            parts.push(format!("{number} {}", severity.name()));
        }
    }
    let mut text = match open.total() {
        0 => "no alert".to_owned(),
        1 => format!("1 alert: {}", parts.join(", ")),
        total => format!("{total} alerts: {}", parts.join(", ")),
    };
    if open.tolerated > 0 {
        let _infallible = write!(text, "; {} tolerated", open.tolerated);
    }
    text
}

fn bounds(target: &TargetStatus) -> String {
    let bounds = &target.bounds;
    let mut parts = Vec::new();
    if let Some(event) = bounds.event_s {
        parts.push(format!("by its event within {}", span(event)));
    }
    parts.push(format!("by a look at everything within {}", span(bounds.sweep_s)));
    parts.push(format!("by reading everything within {}", span(bounds.full_s)));
    parts.join("; ")
}

fn meaning(word: &str) -> String {
    match BlindSpot::TABLE.iter().find(|row| row.1 == word) {
        Some((.., meaning)) => (*meaning).to_owned(),
        // Of another version.
        None => Escaped(word.as_bytes()).to_string(),
    }
}

fn short(digest: &OciDigest) -> String {
    let text = digest.to_string();
    let end = text.find(':').map_or(DIGITS, |colon| colon + 1 + DIGITS);
    format!("{}…", text.get(..end).unwrap_or(&text))
}

fn trouble(text: &mut String, reason: &str, detail: &str, colour: bool) {
    let (before, after) = if colour { (PURPLE, "\x1b[0m") } else { ("", "") };
    let _infallible = write!(text, "{before}{:<INDENT$}{after}", "  TROUBLE");
    fold(text, &format!("{reason}: {}", Escaped(detail.as_bytes())));
}

fn row(text: &mut String, key: &str, words: &str) {
    let _infallible = write!(text, "{key:<INDENT$}");
    fold(text, words);
}

/// Words on lines of [`WIDTH`], the first of which is begun already.
fn fold(text: &mut String, words: &str) {
    let mut column = INDENT;
    for (index, word) in words.split(' ').enumerate() {
        let width = word.chars().count();
        if index > 0 && column + 1 + width > WIDTH {
            let _infallible = write!(text, "\n{:INDENT$}", "");
            column = INDENT;
        } else if index > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

/// How long ago a time of RFC 3339 was; as it is if it is none.
pub fn ago(time: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(time, &Rfc3339) {
        Ok(time) => match u64::try_from((now - time).whole_seconds()) {
            Ok(0) => "just now".to_owned(),
            Ok(seconds) => format!("{} ago", span(seconds)),
            // A clock that was set.
            Err(_) => "in the future".to_owned(),
        },
        Err(_) => Escaped(time.as_bytes()).to_string(),
    }
}

fn ahead(time: &str, now: OffsetDateTime) -> String {
    let seconds = OffsetDateTime::parse(time, &Rfc3339).ok().map(|time| (time - now).whole_seconds());
    match seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds @ 1..) => format!("in {}", span(seconds)),
        _ => "now".to_owned(),
    }
}

/// The two largest units of a time.
fn span(seconds: u64) -> impl fmt::Display {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let parts: Vec<String> = UNITS
        .into_iter()
        .scan(seconds, |left, (size, unit)| {
            let number = *left / size;
            *left %= size;
            Some((number, unit))
        })
        .skip_while(|(number, _)| *number == 0)
        .take(2)
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

fn span_ms(ms: u64) -> String {
    if ms < 10_000 { format!("{}.{}s", ms / 1000, ms % 1000 / 100) } else { span(ms / 1000).to_string() }
}
