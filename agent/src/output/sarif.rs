//! Owns the SARIF form: one result for each difference, one notification for each that could not be verified. Must not
//! own what fails, or the shape of a finding, which stands in the properties of its result.
//!
//! OASIS, Static Analysis Results Interchange Format 2.1.0; sections are those of its text. Everything of a tree that is
//! as long as the tree is written one at a time.

mod tool;

use std::borrow::Cow;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use driftlock_common::digest::Digest;
use driftlock_common::drift::Change;
use driftlock_common::finding::{Finding, Summary};
use driftlock_common::gap::Reason;
use driftlock_common::path::TreePath;
use driftlock_common::policy::{Judged, Severity, Verdict};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;

use self::tool::{Descriptor, Tool};
use super::json::to_json;
use super::text::{details, shown};
use super::{Output, Reader, Whole};
use crate::failure::Failure;

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// What every path is relative to.
const BASE: &str = "ROOT";
/// Encoded in a path: everything but the unreserved characters of RFC 3986 and the slash. A colon would make a scheme.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Writes a whole result as one log with one run.
pub(super) fn write<W: Write>(output: &mut Output<W>, whole: &Whole<'_>) -> Result<Reader, Failure> {
    output.write(&opening(whole))?;
    for (index, judged) in whole.findings.iter().enumerate() {
        output.write(if index == 0 { b"" } else { b"," })?;
        output.write(&to_json(&Outcome::new(judged, whole)))?;
    }
    output.write(b"],\"invocations\":[")?;
    output.write(&unclosed(&Invocation::new(whole)))?;
    output.write(b",\"toolExecutionNotifications\":[")?;
    let interrupted = whole.unreached.map(Notification::interrupted);
    let gaps = whole.findings.iter().filter_map(|judged| Notification::new(judged, whole));
    for (index, notification) in interrupted.into_iter().chain(gaps).enumerate() {
        output.write(if index == 0 { b"" } else { b"," })?;
        output.write(&to_json(&notification))?;
    }
    output.write(b"]}],\"properties\":")?;
    output.write(&to_json(&RunProperties { summary: whole.summary }))?;
    output.write(b"}]}\n")?;
    output.finish()
}

/// The log up to its first result.
fn opening(whole: &Whole<'_>) -> Vec<u8> {
    let run = Run {
        tool: Tool::this(),
        original_uri_base_ids: Bases { root: Base::new(whole.root) },
        automation_details: Automation { id: format!("driftlock/{}/", whole.verb) },
    };
    let log = format!("{{\"$schema\":\"{SCHEMA}\",\"version\":\"2.1.0\",\"runs\":[");
    [log.as_bytes(), &unclosed(&run), b",\"results\":["].concat()
}

/// An object without its closing brace: a long list follows as its last key, and is not held.
fn unclosed<T: Serialize>(object: &T) -> Vec<u8> {
    let mut json = to_json(object);
    json.pop();
    json
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    original_uri_base_ids: Bases,
    automation_details: Automation,
}

#[derive(Serialize)]
struct Automation {
    id: String,
}

#[derive(Serialize)]
struct RunProperties<'a> {
    summary: &'a Summary,
}

/// Never with braces or brackets, which have a meaning in messages (3.11.5, 3.11.6).
#[derive(Serialize)]
struct Text {
    text: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// It fails the gate: without a policy, or with a severity of high or critical.
    Error,
    /// It fails the gate, with a severity of medium.
    Warning,
    /// It was found, and does not fail the gate or has a severity of low or info.
    Note,
}

#[derive(Serialize)]
struct Bases {
    #[serde(rename = "ROOT")]
    root: Base,
}

#[derive(Serialize)]
struct Base {
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    description: Text,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    rule_id: &'static str,
    rule_index: usize,
    level: Level,
    message: Text,
    locations: [Location; 1],
    partial_fingerprints: Fingerprints,
    /// Under a policy every result says whether it is suppressed: all of a run have this, or none (3.27.23).
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressions: Option<Vec<Suppression>>,
    properties: Finding,
}

/// What is tolerated is there, and a viewer is not to count it (3.35).
#[derive(Serialize)]
struct Suppression {
    kind: &'static str,
    justification: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    physical_location: PhysicalLocation,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactLocation {
    uri: String,
    uri_base_id: &'static str,
}

/// The same for the same change of the same path, whatever else is found and whatever it is changed to.
#[derive(Serialize)]
struct Fingerprints {
    #[serde(rename = "driftlockPathAndChange/v1")]
    path_and_change: Digest,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    exit_code: u8,
    exit_code_description: String,
}

#[derive(Serialize)]
struct Notification {
    descriptor: Descriptor,
    level: Level,
    message: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    locations: Option<[Location; 1]>,
}

impl Base {
    fn new(root: Option<&Path>) -> Self {
        // Without the current directory a relative one cannot be placed; then its place is left open.
        let absolute = root.and_then(|root| std::path::absolute(root).ok());
        let uri = absolute.map(|root| {
            let encoded = percent_encode(root.as_os_str().as_bytes(), ENCODED).to_string();
            // 3.14.14: ends with a slash.
            format!("file://{}/", encoded.trim_end_matches('/'))
        });
        Self { uri, description: Text { text: "The root of the tree that was compared.".into() } }
    }
}

impl Outcome {
    fn new(judged: &Judged<'_>, whole: &Whole<'_>) -> Self {
        let drift = &judged.drift;
        let change = drift.change();
        let text = format!("{change} {}: {}", shown(&drift.path), details(judged, whole.sealed_in));
        let named = [change.name().as_bytes(), b"\0", drift.path.as_bytes()].concat();
        Self {
            rule_id: change.name(),
            rule_index: Change::ALL.iter().position(|known| *known == change).unwrap_or_default(),
            level: Level::of(judged, whole),
            message: message(&text),
            locations: [Location::of(&drift.path)],
            partial_fingerprints: Fingerprints { path_and_change: Digest::blake3(&named) },
            suppressions: judged.verdict.as_ref().map(|verdict| Suppression::of(verdict).into_iter().collect()),
            properties: Finding::of(judged, whole.sealed_in),
        }
    }
}

impl Level {
    fn of(judged: &Judged<'_>, whole: &Whole<'_>) -> Self {
        if !whole.gate.fails(judged) {
            return Self::Note;
        }
        match judged.verdict.and_then(|verdict| verdict.severity()) {
            None | Some(Severity::Critical | Severity::High) => Self::Error,
            Some(Severity::Medium) => Self::Warning,
            Some(Severity::Low | Severity::Info) => Self::Note,
        }
    }
}

impl Suppression {
    fn of(verdict: &Verdict<'_>) -> Option<Self> {
        (!verdict.is_alert()).then(|| Self { kind: "external", justification: verdict.to_string() })
    }
}

impl Location {
    fn of(path: &TreePath) -> Self {
        let uri = if path.is_root() { "./".to_owned() } else { percent_encode(path.as_bytes(), ENCODED).to_string() };
        Self { physical_location: PhysicalLocation { artifact_location: ArtifactLocation { uri, uri_base_id: BASE } } }
    }
}

impl Invocation {
    fn new(whole: &Whole<'_>) -> Self {
        let set = |change: &Change| whole.exit & *change as u8 != 0;
        let fails: Vec<&str> = Change::ALL.iter().filter(|change| set(change)).map(|change| change.name()).collect();
        Self {
            execution_successful: whole.summary.complete,
            exit_code: whole.exit,
            exit_code_description: if fails.is_empty() { "nothing fails".to_owned() } else { fails.join(", ") },
        }
    }
}

impl Notification {
    /// What of a difference could not be verified, if anything.
    fn new(judged: &Judged<'_>, whole: &Whole<'_>) -> Option<Self> {
        let drift = &judged.drift;
        let reason = drift.has_gap().then(|| Finding::new(drift, whole.sealed_in).reason).flatten()?;
        let text = format!("not verified: {}: {}", shown(&drift.path), details(judged, whole.sealed_in));
        Some(Self {
            descriptor: Descriptor { id: reason.name() },
            level: Level::Error,
            message: message(&text),
            locations: Some([Location::of(&drift.path)]),
        })
    }

    fn interrupted(unreached: u64) -> Self {
        let text = format!("interrupted: {unreached} sealed entries were not looked at, and added ones may be missing");
        Self {
            descriptor: Descriptor { id: Reason::Interrupted.name() },
            level: Level::Error,
            message: message(&text),
            locations: None,
        }
    }
}

/// Text that means in a message what it says: a name could be a link (`[text](uri)`) or a placeholder (`{0}`) to a viewer,
/// and what escapes those is not known to every one, so they get the escape that all names have.
fn message(text: &str) -> Text {
    let mut safe = String::with_capacity(text.len());
    for ch in text.chars() {
        match ch {
            '[' => safe.push_str("\\x5b"),
            ']' => safe.push_str("\\x5d"),
            '{' => safe.push_str("\\x7b"),
            '}' => safe.push_str("\\x7d"),
            _ => safe.push(ch),
        }
    }
    Text { text: safe.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::sample;
    use super::*;
    use crate::cli::FormatArg;

    fn run(text: &str) -> Value {
        let log: Value = serde_json::from_str(text).unwrap();
        log["runs"][0].clone()
    }

    #[test]
    fn the_form_is_the_golden_one() {
        let written = sample::written(FormatArg::Sarif);
        assert_eq!(written.lines().count(), 1);
        let golden = sample::of_this_version(include_str!("../../golden/sample.sarif"));
        let golden: Value = serde_json::from_str(&golden).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), golden);
    }

    #[test]
    fn under_a_policy_the_level_is_the_severity_and_what_is_tolerated_is_suppressed() {
        let written = sample::judged(FormatArg::Sarif, false);
        let golden = sample::of_this_version(include_str!("../../golden/policy.sarif"));
        let golden: Value = serde_json::from_str(&golden).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), golden, "{written}");
        let run = run(&written);
        let levels: Vec<&Value> = run["results"].as_array().unwrap().iter().map(|result| &result["level"]).collect();
        assert_eq!(levels, ["warning", "error", "warning", "error", "note", "note", "note"]);
    }

    #[test]
    fn a_clean_tree_has_no_results_and_says_that_it_was_looked_at() {
        let run = run(&sample::clean(FormatArg::Sarif));
        assert_eq!(run["results"], serde_json::json!([]));
        assert_eq!(run["invocations"][0]["executionSuccessful"], true);
        assert_eq!(run["invocations"][0]["exitCode"], 0);
        assert_eq!(run["invocations"][0]["toolExecutionNotifications"], serde_json::json!([]));
        assert!(run["originalUriBaseIds"]["ROOT"].get("uri").is_none(), "two manifests have no place");
    }

    #[test]
    fn every_result_has_a_rule_and_every_notification_a_descriptor() {
        let run = run(&sample::written(FormatArg::Sarif));
        let driver = &run["tool"]["driver"];
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), sample::drifts().len());
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(driver["rules"][index]["id"], result["ruleId"]);
            assert_eq!(result["ruleId"], result["properties"]["change"]);
            let text = result["message"]["text"].as_str().unwrap();
            assert!(!text.contains(['[', ']', '{', '}', '\n', '\x1b', '\u{202e}']), "{text}");
        }
        let notifications = run["invocations"][0]["toolExecutionNotifications"].as_array().unwrap();
        // The interruption, and each of the three gaps.
        assert_eq!(notifications.len(), 4);
        for notification in notifications {
            let known = driver["notifications"].as_array().unwrap();
            assert!(known.contains(&notification["descriptor"]), "{notification}");
        }
    }

    #[test]
    fn a_path_is_a_relative_reference_and_leads_back_to_its_bytes() {
        for (path, uri) in [
            (&b""[..], "./"),
            (b"usr/bin/app-1.0_~", "usr/bin/app-1.0_~"),
            (b"a:b", "a%3Ab"),
            (b"%41 \xff[\n", "%2541%20%FF%5B%0A"),
        ] {
            let location = Location::of(&TreePath::new(path).unwrap());
            assert_eq!(location.physical_location.artifact_location.uri, uri);
        }
    }
}
