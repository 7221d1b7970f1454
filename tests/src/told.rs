//! Owns what a scan told as lines that a test can be written against, and that all it told fits together: the exit
//! code, the summary, every finding. Must not own what is right to tell.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::drift::{Drift, Report};
use crate::sandbox::Finished;

/// The findings of a scan that ended with an exit code of findings.
///
/// A line is `CHANGE PATH`, then what differs if it is `changed`, `? WHAT REASON` if that could not be established, and
/// `REASON COVERS` if it is `unverifiable`. A path is escaped; that of the root is `.`.
#[derive(Clone, Debug)]
pub struct Told {
    /// One for each finding.
    pub lines: BTreeSet<String>,
    /// All of it.
    pub report: Report,
}

impl Told {
    /// Reads what `scan --format ndjson` wrote.
    ///
    /// # Errors
    /// If it is not that, the command did not end by itself, or two things it said contradict each other.
    pub fn of(finished: &Finished) -> Result<Self> {
        let code = finished.code.with_context(|| format!("ended by a signal\n{finished:?}"))?;
        ensure!((0..16).contains(&code), "not an exit code of findings\n{finished:?}");
        ensure!(!finished.stderr.contains("panicked"), "{finished:?}");
        let report = Report::from_ndjson(finished)?;
        let lines = report.findings.iter().map(line).collect::<Result<BTreeSet<_>>>()?;
        let bits =
            report.findings.iter().try_fold(0, |bits, finding| Ok::<_, anyhow::Error>(bits | self::bits(finding)?))?;
        ensure!(code == bits, "exit code {code}, but the findings are {bits}\n{finished:?}");
        let complete = report.summary["complete"].as_bool().context("complete")?;
        ensure!(complete == (bits & 8 == 0), "complete is {complete}\n{finished:?}");
        let covered: u64 = report.findings.iter().filter_map(|finding| finding["covers"].as_u64()).sum();
        ensure!(report.summary["unverifiable"] == covered, "{covered} covered, but the summary: {}", report.summary);
        Ok(Self { lines, report })
    }

    /// Fails with what is too much and what is missing, if it is not exactly `expected`.
    ///
    /// # Errors
    /// If it is not.
    pub fn expect<L: Into<String>>(&self, expected: impl IntoIterator<Item = L>) -> Result<()> {
        let expected: BTreeSet<String> = expected.into_iter().map(Into::into).collect();
        let missing: Vec<_> = expected.difference(&self.lines).take(20).collect();
        let unexpected: Vec<_> = self.lines.difference(&expected).take(20).collect();
        ensure!(missing.is_empty() && unexpected.is_empty(), "missing: {missing:#?}; unexpected: {unexpected:#?}");
        Ok(())
    }

    /// Fails if a line is not one of `allowed`: where it depends on the moment what is found.
    ///
    /// # Errors
    /// If one is not.
    pub fn expect_within(&self, allowed: &[&str]) -> Result<()> {
        let unexpected: Vec<_> = self.lines.iter().filter(|line| !allowed.contains(&line.as_str())).collect();
        ensure!(unexpected.is_empty(), "none of these may be found at any moment: {unexpected:#?}");
        Ok(())
    }

    /// Whether everything was established and nothing differs.
    pub fn is_clean(&self) -> bool {
        self.lines.is_empty()
    }
}

/// One finding as a line.
///
/// # Errors
/// If it is none, or its path leads anywhere but below the root.
pub fn line(finding: &Value) -> Result<String> {
    let Drift { path, change, attributes } = Drift::from_json(finding)?;
    let outside = |name: &[u8]| matches!(name, b"" | b"." | b"..");
    ensure!(path.is_empty() || !path.split(|byte| *byte == b'/').any(outside), "a path outside: {finding}");
    let shown = if path.is_empty() { ".".to_owned() } else { path.escape_ascii().to_string() };
    let mut line = format!("{change} {shown}");
    if !attributes.is_empty() {
        line += " ";
        line += &attributes.into_iter().collect::<Vec<_>>().join(",");
    }
    let reason = finding["reason"].as_str();
    match finding.get("unverified").and_then(Value::as_array) {
        Some(unverified) => {
            let unverified: Vec<&str> = unverified.iter().filter_map(Value::as_str).collect();
            line += &format!(" ? {} {}", unverified.join(","), reason.context("a reason")?);
        }
        None if change == "unverifiable" => {
            line += &format!(" {} {}", reason.context("a reason")?, finding["covers"].as_u64().context("covers")?);
        }
        None => ensure!(reason.is_none(), "a reason for nothing: {finding}"),
    }
    Ok(line)
}

fn bits(finding: &Value) -> Result<i32> {
    let own = match finding["change"].as_str().context("a change")? {
        "added" => 1,
        "removed" => 2,
        "changed" => 4,
        "unverifiable" => 8,
        other => anyhow::bail!("a change {other:?}"),
    };
    Ok(if finding.get("unverified").is_some() { own | 8 } else { own })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finding_is_a_line_that_says_all_of_it() {
        for (finding, expected, code) in [
            (json!({"path": "a", "change": "added"}), "added a", 1),
            (json!({"path": "", "change": "changed", "attributes": ["uid", "mode"]}), "changed . mode,uid", 4),
            (json!({"path": "\\xff", "path_b64": "/w==", "change": "removed"}), "removed \\xff", 2),
            (
                json!({"path": "a", "change": "added", "unverified": ["content"], "reason": "too_large"}),
                "added a ? content too_large",
                9,
            ),
            (json!({"path": "a", "change": "unverifiable", "reason": "io", "covers": 3}), "unverifiable a io 3", 8),
        ] {
            assert_eq!(line(&finding).expect("a finding"), expected);
            assert_eq!(bits(&finding).expect("a finding"), code);
        }
        for path in ["/etc", "a/../../b", "..", "a//b"] {
            assert!(line(&json!({"path": path, "change": "added"})).is_err(), "{path}");
        }
    }
}
