//! Owns the two forms of the answer: text for people, JSON for programs. Must not own a judgement.

use std::fmt::Write as _;

use driftlock_common::coverage::BlindSpot;
use driftlock_common::path::Escaped;
use serde::Serialize;

use crate::host::advice::{Row, Setting, State, Target, Way};
use crate::host::capability::Set;
use crate::host::probe::words;
use crate::host::{Host, Known};

/// Columns of the text, at most, where words allow it.
const WIDTH: usize = 100;
/// Columns before a row's text.
const INDENT: usize = 26;

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) host: &'a Host,
    /// The configuration that was read.
    pub(super) config: Option<&'a str>,
    pub(super) setting: &'a Setting,
    pub(super) targets: &'a [Target],
    pub(super) rows: &'a [Row],
}

/// For people: the host's rows, each target's, and what it amounts to.
pub(super) fn text(found: &Found<'_>, colour: bool) -> String {
    let mut text = String::new();
    let kernel =
        found.host.kernel.as_ref().map_or_else(|_| "?".to_owned(), |kernel| Escaped(kernel.as_bytes()).to_string());
    let _infallible =
        writeln!(text, "host  Linux {kernel}, user {}, driftlock {}", found.host.user, env!("CARGO_PKG_VERSION"));
    section(&mut text, found.rows.iter().filter(|row| row.target.is_none()), colour);
    for target in found.targets {
        let _infallible = writeln!(text, "\ntarget {}", Escaped(target.name.as_bytes()));
        section(&mut text, found.rows.iter().filter(|row| row.target.as_deref() == Some(&target.name)), colour);
    }
    text.push('\n');
    text.push_str(&verdict(found));
    text
}

fn section<'a>(text: &mut String, rows: impl Iterator<Item = &'a Row>, colour: bool) {
    for row in rows {
        let (word, sgr) = match row.state {
            State::Fine => ("ok", "\x1b[32m"),
            State::Note => ("note", ""),
            State::Missed => ("MISSED", "\x1b[31m"),
            State::Unknown => ("UNKNOWN", "\x1b[35m"),
        };
        let (before, after) = if colour && !sgr.is_empty() { (sgr, "\x1b[0m") } else { ("", "") };
        let _infallible = write!(text, "  {before}{word:<7}{after}  {:<13}  ", row.topic);
        fold(text, &row.text);
        if !row.remedy.is_empty() {
            let _infallible = write!(text, "{:INDENT$}→ ", "");
            fold(text, &row.remedy);
        }
    }
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

/// What it all amounts to, in the lines next to the prompt.
fn verdict(found: &Found<'_>) -> String {
    let of = |state: State| -> Vec<String> {
        let rows = found.rows.iter().filter(|row| row.state == state);
        let mut names: Vec<String> = rows
            .map(|row| match &row.target {
                Some(target) => format!("{} of {}", row.topic, Escaped(target.as_bytes())),
                None => row.topic.to_owned(),
            })
            .collect();
        names.dedup();
        names
    };
    let mut text = String::new();
    for (state, what) in
        [(State::Missed, "something would be missed"), (State::Unknown, "it cannot be told what would be missed")]
    {
        let names = of(state);
        if !names.is_empty() {
            let _infallible = writeln!(text, "{what}: {}", names.join(", "));
        }
    }
    if text.is_empty() {
        text.push_str("nothing would be missed\n");
    }
    if found.config.is_none() {
        text.push_str("no configuration was given: no target was looked at\n");
    }
    text
}

#[derive(Serialize)]
struct Answer<'a> {
    version: &'a str,
    kernel: Option<&'a str>,
    user: u32,
    config: Option<String>,
    capabilities: Option<Sets>,
    limits: LimitsView,
    targets: Vec<TargetView<'a>>,
    rows: Vec<RowView<'a>>,
    missed: usize,
    unknown: usize,
}

#[derive(Serialize)]
struct Sets {
    effective: Vec<String>,
    permitted: Vec<String>,
    bounding: Vec<String>,
}

/// `null` is no limit, or not known; a row says which.
#[derive(Serialize)]
struct LimitsView {
    inotify_watches: Option<u64>,
    inotify_instances: Option<u64>,
    open_files: Option<u64>,
    memory_bytes: Option<u64>,
}

/// How a target would be watched; only its name where its root cannot be opened.
#[derive(Serialize)]
struct TargetView<'a> {
    name: &'a str,
    #[serde(flatten)]
    way: Option<WayView>,
}

#[derive(Serialize)]
struct WayView {
    watch_mode: &'static str,
    blind: Vec<&'static str>,
    refused: Vec<RefusedView>,
    /// Absent where nothing gives an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_ms: Option<u128>,
    sweep_ms: u128,
    full_ms: u128,
}

#[derive(Serialize)]
struct RefusedView {
    watch_mode: &'static str,
    why: String,
}

#[derive(Serialize)]
struct RowView<'a> {
    target: Option<&'a str>,
    topic: &'a str,
    state: &'static str,
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: &'a str,
}

/// One object. Keys are added, never changed.
pub(super) fn json(found: &Found<'_>) -> String {
    fn known<T: Copy>(value: &Known<T>) -> Option<T> {
        value.as_ref().ok().copied()
    }
    let names = |set: Set| set.iter().map(|capability| capability.to_string()).collect();
    let (host, limits) = (found.host, &found.host.limits);
    let count = |state| found.rows.iter().filter(|row| row.state == state).count();
    let answer = Answer {
        version: env!("CARGO_PKG_VERSION"),
        kernel: host.kernel.as_deref().ok(),
        user: host.user,
        config: found.config.map(|name| Escaped(name.as_bytes()).to_string()),
        capabilities: host.capabilities.as_ref().ok().map(|sets| Sets {
            effective: names(sets.effective),
            permitted: names(sets.permitted),
            bounding: names(sets.bounding),
        }),
        limits: LimitsView {
            inotify_watches: known(&limits.watches),
            inotify_instances: known(&limits.instances),
            open_files: limits.files,
            memory_bytes: known(&limits.memory).flatten(),
        },
        targets: found.targets.iter().map(|target| target_view(found.setting, target)).collect(),
        rows: found.rows.iter().map(row_view).collect(),
        missed: count(State::Missed),
        unknown: count(State::Unknown),
    };
    let mut text = serde_json::to_string(&answer).expect("strings, numbers and lists of them always have a JSON form");
    text.push('\n');
    text
}

fn target_view<'a>(setting: &Setting, target: &'a Target) -> TargetView<'a> {
    let way = Way::of(setting, target).map(|Way { mode, blind, refused, event, sweep, full }| WayView {
        watch_mode: mode.name(),
        blind: blind.into_iter().map(BlindSpot::name).collect(),
        refused: refused
            .into_iter()
            .map(|(mode, error)| RefusedView { watch_mode: mode.name(), why: words(error) })
            .collect(),
        event_ms: event.map(|bound| bound.as_millis()),
        sweep_ms: sweep.as_millis(),
        full_ms: full.as_millis(),
    });
    TargetView { name: &target.name, way }
}

fn row_view(row: &Row) -> RowView<'_> {
    let state = match row.state {
        State::Fine => "ok",
        State::Note => "note",
        State::Missed => "missed",
        State::Unknown => "unknown",
    };
    RowView { target: row.target.as_deref(), topic: row.topic, state, text: &row.text, remedy: &row.remedy }
}
