//! Owns what a sink is given of an event: its JSON without a character that acts on who reads it, and its parts as text of
//! one line each. Must not own the form that a sink gives them.

use std::borrow::Cow;
use std::fmt::Write as _;

use driftlock_common::event::{Body, ConditionBody, FindingBody};
use driftlock_common::finding::{Finding, NodeView};
use driftlock_common::path::{Escaped, OneLine, is_hidden};
use driftlock_common::policy::Severity;

/// An event, as sinks have it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The event's JSON on one line: the same value, without characters that act on a terminal.
    pub(super) json: String,
    /// RFC 3339, UTC, milliseconds.
    pub(super) time: String,
    /// The event's type without its prefix and version: `finding.opened`. At most 32 letters and dots.
    pub(super) kind: &'static str,
    /// How loudly it is said.
    pub(super) level: Level,
    /// What it says, the most telling first. Names are lower case letters and `_`; values are one line each, without hidden
    /// characters; a path is always in its escaped form.
    pub(super) fields: Vec<(&'static str, String)>,
}

/// How loudly something is said, in the numbers of RFC 5424 section 6.2.1, which the journal has too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Critical = 2,
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

impl Record {
    /// What sinks are told of an event that was written as this JSON at this time.
    pub(crate) fn of(body: &Body, time: &str, json: &[u8]) -> Self {
        let mut fields = Fields::default();
        let (kind, level) = match body {
            Body::FindingOpened(body) => ("finding.opened", fields.finding(body)),
            Body::FindingUpdated(body) => ("finding.updated", fields.finding(body)),
            Body::FindingResolved(body) => {
                fields.text("target", &body.target);
                fields.path(&body.path, body.path_b64.is_some());
                ("finding.resolved", Level::Notice)
            }
            Body::ConditionOpened(body) => ("condition.opened", fields.condition(body, Level::Error)),
            Body::ConditionResolved(body) => ("condition.resolved", fields.condition(body, Level::Notice)),
            Body::TargetVerified(body) => {
                let summary = &body.summary;
                fields.text("target", &body.target);
                fields.text("complete", if summary.complete { "true" } else { "false" });
                let counts = [
                    ("added", summary.added),
                    ("removed", summary.removed),
                    ("changed", summary.changed),
                    ("unverifiable", summary.unverifiable),
                    ("tolerated", summary.tolerated),
                    ("entries", summary.entries),
                ];
                counts.into_iter().for_each(|(name, count)| fields.text(name, &count.to_string()));
                fields.text("manifest", &summary.manifest.sha256.to_string());
                ("target.verified", Level::Info)
            }
            Body::TargetSnapshot(body) => {
                fields.text("target", &body.target);
                ("target.snapshot", Level::Info)
            }
            Body::Heartbeat(body) => {
                fields.text("host", &body.host);
                ("agent.heartbeat", Level::Info)
            }
            Body::Stopped(body) => {
                fields.text("reason", &body.reason);
                ("agent.stopped", Level::Notice)
            }
        };
        Self { json: visible(&String::from_utf8_lossy(json)), time: time.to_owned(), kind, level, fields: fields.0 }
    }

    /// One line of text: what it is, then `name="value"` for each part. No value holds a quote: that is `\x22`. If it would
    /// be more than `most` bytes, values are cut, and say so.
    pub(super) fn line(&self, most: usize) -> String {
        const MORE: &str = " ...";
        let mut line = self.kind.replace('.', " ");
        for (name, value) in &self.fields {
            let value = value.replace('"', "\\x22");
            let piece = format!(" {name}=\"{}\"", cut(&value, most / 4));
            if line.len() + piece.len() + MORE.len() > most {
                line.push_str(MORE);
                break;
            }
            line.push_str(&piece);
        }
        line
    }

    /// How much of the memory it takes, in bytes, about.
    pub(super) fn weight(&self) -> usize {
        self.json.len() + self.fields.iter().map(|(_, value)| value.len() + 64).sum::<usize>() + 128
    }
}

/// `text`, or its beginning and how much is missing, in at most `most` bytes, or a few more if that is next to nothing.
pub(super) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    /// Of the words that say how much.
    const ROOM: usize = 32;
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(most.saturating_sub(ROOM));
    Cow::Owned(format!("{}...({} bytes more)", &text[..end], text.len() - end))
}

/// The same JSON: what acts on a terminal or cannot be seen becomes `\uXXXX`. Beyond ASCII, and DEL, there is nothing but
/// strings in JSON, where that is the same character; of the rest, serde escapes what is within strings.
fn visible(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for ch in json.chars() {
        if is_hidden(ch) {
            let mut units = [0; 2];
            for unit in ch.encode_utf16(&mut units) {
                let _infallible = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(ch);
        }
    }
    text
}

#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    /// Nothing, if there is no text.
    fn text(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.0.push((name, OneLine(text).to_string()));
        }
    }

    fn path(&mut self, path: &str, is_escaped: bool) {
        self.0.push(("path", if is_escaped { path.to_owned() } else { Escaped(path.as_bytes()).to_string() }));
    }

    fn finding(&mut self, body: &FindingBody) -> Level {
        let finding = &body.finding;
        let names = |attributes: driftlock_common::drift::Attributes| {
            attributes.iter().map(|attribute| attribute.name()).collect::<Vec<_>>().join(",")
        };
        self.text("change", finding.change.name());
        self.text("attributes", &names(finding.attributes));
        self.text("target", &body.target);
        self.path(&finding.path, finding.path_b64.is_some());
        self.text("severity", finding.severity().map_or("tolerated", Severity::name));
        self.text("rule", finding.rule.as_deref().unwrap_or_default());
        self.text("reason", finding.reason.map_or("", |reason| reason.name()));
        self.text("unverified", &names(finding.unverified));
        self.text("expected", &finding.expected.as_ref().map(side).unwrap_or_default());
        self.text("observed", &finding.observed.as_ref().map(side).unwrap_or_default());
        self.text("covers", &finding.covers.map(|count| count.to_string()).unwrap_or_default());
        self.text("collapsed", &finding.collapsed.map(|count| count.to_string()).unwrap_or_default());
        self.text("explanation", finding.explanation.as_deref().unwrap_or_default());
        self.text("count", &body.count.to_string());
        Level::of(finding)
    }

    fn condition(&mut self, body: &ConditionBody, level: Level) -> Level {
        self.text("reason", body.reason.name());
        self.text("target", body.target.as_deref().unwrap_or_default());
        // Escaped already.
        self.text("path", body.path.as_deref().unwrap_or_default());
        self.text("meaning", body.reason.meaning());
        self.text("detail", &body.detail);
        level
    }
}

impl Level {
    fn of(finding: &Finding) -> Self {
        match finding.severity() {
            Some(Severity::Critical) => Self::Critical,
            Some(Severity::High) => Self::Error,
            Some(Severity::Medium) => Self::Warning,
            Some(Severity::Low) => Self::Notice,
            Some(Severity::Info) | None => Self::Info,
        }
    }

    /// The number of the RFC.
    pub(super) const fn number(self) -> u8 {
        self as u8
    }
}

/// What a path was or is, in words; a link's target comes last, because it may hold anything.
fn side(view: &NodeView) -> String {
    let mut text = view.file_type.to_string();
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _infallible = write!(text, " {name}={value}");
        }
    };
    word("mode", view.mode.clone());
    word("uid", view.uid.map(|id| id.to_string()));
    word("gid", view.gid.map(|id| id.to_string()));
    word("size", view.size.map(|size| size.to_string()));
    match (view.blake3, view.sha256) {
        (Some(digest), _) => word("blake3", Some(digest.to_string())),
        (None, digest) => word("sha256", digest.map(|digest| digest.to_string())),
    }
    word("device", view.device.map(|[major, minor]| format!("{major}:{minor}")));
    let target = |target: &str| match view.target_b64 {
        Some(_) => target.to_owned(),
        None => Escaped(target.as_bytes()).to_string(),
    };
    word("to", view.target.as_deref().map(target));
    text
}
