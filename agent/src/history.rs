//! Owns reading back what driftlock wrote of findings: lines of `scan`, events of the agent's standard output, answers of a
//! collector. Must not own what is done with a finding.
//!
//! Everything here may be hostile or cut. What cannot be read is counted and said with its place; nothing is left out in
//! silence. Memory is bounded by the longest finding.

mod collector;
mod document;

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use driftlock_common::event::{FindingBody, SOURCE_PREFIX};
use driftlock_common::finding::{Contradiction, Finding};
use driftlock_common::path::Escaped;
use driftlock_common::policy::simulate::Found;
use serde::Deserialize;
use serde_json::value::RawValue;

pub use collector::{AskError, Collector};
pub use document::page;

/// The longest line, and the longest finding of an answer, in bytes.
pub const MAX_FINDING: usize = 4 * 1024 * 1024;
/// The most of what cannot be read that is said; the rest is counted.
pub const MAX_SAID: usize = 10;
/// The most characters of why.
const MAX_WHY: usize = 200;
/// As far as it is looked for how a history begins, in bytes.
const HEAD: u64 = 4096;

/// What is done with each finding.
pub type Each<'a> = dyn FnMut(Found<'_>) -> Result<(), Contradiction> + 'a;

/// What was read of a history.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Gone {
    /// Lines and answers that are of a kind that driftlock writes.
    pub known: u64,
    /// Of these, the ones that hold no finding: summaries, conditions, what was resolved.
    pub passed: u64,
    /// Lines, findings of an answer, or rests that could not be read.
    pub unreadable: u64,
    /// The first of these: where, and why; escaped.
    pub said: Vec<String>,
    /// Where the next answer begins, if the last one said that it is not the last.
    pub next: Option<String>,
}

/// What a line is, without its finding.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default, rename = "type")]
    line_type: Option<Cow<'a, str>>,
    #[serde(default)]
    source: Option<Cow<'a, str>>,
    #[serde(default)]
    host: Option<Cow<'a, str>>,
    #[serde(default)]
    target: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    change: Option<&'a RawValue>,
}

/// What of a kind that driftlock writes to files holds no finding.
const PASSED: [&str; 7] = [
    "summary",
    "dev.driftlock.finding.resolved.v1",
    "dev.driftlock.condition.opened.v1",
    "dev.driftlock.condition.resolved.v1",
    "dev.driftlock.target.verified.v1",
    "dev.driftlock.agent.heartbeat.v1",
    "dev.driftlock.agent.stopped.v1",
];

/// Reads a history to its end and hands over every finding, in order. What it is, lines or answers, is seen in its first
/// bytes.
///
/// # Errors
/// If the source cannot be read.
pub fn replay(mut source: &mut dyn BufRead, each: &mut Each<'_>) -> io::Result<Gone> {
    let mut head = Vec::new();
    (&mut *source).take(HEAD).read_to_end(&mut head)?;
    let mut gone = Gone::default();
    let mut whole = head.as_slice().chain(&mut source);
    if is_document(&head) {
        document::read(&mut whole, &mut gone, each)?;
        if gone.next.is_some() {
            gone.complain("the end", "it says that there is a next page, which is not here");
        }
    } else {
        lines(&mut whole, &mut gone, each)?;
    }
    if gone.known == 0 && gone.unreadable == 0 {
        gone.complain("the whole", "there is nothing in it");
    }
    Ok(gone)
}

/// Whether it begins as `{"findings":…` does, with space wherever JSON has it.
fn is_document(head: &[u8]) -> bool {
    let inner = head.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    inner.is_some_and(|inner| inner.starts_with(b"\"findings\""))
}

fn lines(source: &mut dyn BufRead, gone: &mut Gone, each: &mut Each<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let most = u64::try_from(MAX_FINDING).unwrap_or(u64::MAX);
        // One byte more, for the line feed.
        if (&mut *source).take(most.saturating_add(1)).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let place = || format!("line {number}");
        if line.last() != Some(&b'\n') && line.len() > MAX_FINDING {
            gone.complain(&place(), &format!("it is longer than {MAX_FINDING} bytes"));
            source.skip_until(b'\n')?;
            continue;
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            match record(text, each) {
                Ok(holds) => gone.count(holds),
                Err(why) => gone.complain(&place(), &why),
            }
        }
    }
    Ok(())
}

/// What is wrong with a line, by its column: of which line it is, is said beside it.
fn said(error: serde_json::Error) -> String {
    let text = error.to_string();
    let column = error.column();
    let place = format!(" at line {} column {column}", error.line());
    text.strip_suffix(&place).map_or_else(|| text.clone(), |what| format!("{what} in column {column}"))
}

/// Hands over the finding of a line; whether there is one.
fn record(text: &[u8], each: &mut Each<'_>) -> Result<bool, String> {
    let head: Head<'_> = serde_json::from_slice(text).map_err(said)?;
    let word = |word: &Option<Cow<'_, str>>| word.as_deref().unwrap_or_default().to_owned();
    let mut hand = |finding: &Finding, host: &str, target: &str| match each(Found { finding, host, target }) {
        Ok(()) => Ok(true),
        Err(contradiction) => Err(contradiction.to_string()),
    };
    match head.line_type.as_deref() {
        Some("finding") => hand(&serde_json::from_slice(text).map_err(said)?, "", ""),
        Some("dev.driftlock.finding.opened.v1" | "dev.driftlock.finding.updated.v1") => {
            let data = head.data.ok_or("an event without data")?;
            let body: FindingBody = serde_json::from_str(data.get()).map_err(said)?;
            let source = word(&head.source);
            hand(&body.finding, source.strip_prefix(SOURCE_PREFIX).unwrap_or(&source), &body.target)
        }
        Some(known) if PASSED.contains(&known) => Ok(false),
        None if head.change.is_some() => {
            hand(&serde_json::from_slice(text).map_err(said)?, &word(&head.host), &word(&head.target))
        }
        _ => Err("it is neither a line of a scan, an event of the agent, nor a finding of a collector".to_owned()),
    }
}

impl Gone {
    fn count(&mut self, holds: bool) {
        self.known += 1;
        self.passed += u64::from(!holds);
    }

    fn complain(&mut self, place: &str, why: &str) {
        self.unreadable += 1;
        if self.said.len() < MAX_SAID {
            let why: String = why.chars().take(MAX_WHY).collect();
            self.said.push(format!("{place}: {}", Escaped(why.as_bytes())));
        }
    }

    /// With what was read of a further answer.
    pub fn append(&mut self, more: Self) {
        self.known += more.known;
        self.passed += more.passed;
        self.unreadable += more.unreadable;
        self.said.extend(more.said);
        self.said.truncate(MAX_SAID);
        self.next = more.next;
    }
}
