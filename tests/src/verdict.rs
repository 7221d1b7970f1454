//! Owns what a scan under a policy told: which differences are alerts, which are tolerated and by which rule, and that all
//! it told fits together. Must not own what is right to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::drift::{Drift, Report};
use crate::sandbox::Finished;

/// A difference that somebody is to know.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// What differs.
    pub drift: Drift,
    /// `info`, `low`, `medium`, `high` or `critical`.
    pub severity: String,
    /// The id of the rule that covers it, if one does.
    pub rule: Option<String>,
}

/// The result of a scan under a policy.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// What is not tolerated.
    pub alerts: BTreeSet<Alert>,
    /// What is, each with the id of its rule.
    pub tolerated: BTreeMap<Drift, String>,
    /// All of it.
    pub report: Report,
}

impl Alert {
    /// An alert by a rule.
    pub fn by(rule: &str, severity: &str, drift: Drift) -> Self {
        Self { drift, severity: severity.to_owned(), rule: Some(rule.to_owned()) }
    }

    /// An alert because no rule covers it.
    pub fn uncovered(drift: Drift) -> Self {
        Self { drift, severity: "medium".to_owned(), rule: None }
    }

    /// Reads a finding; `None` if it is tolerated.
    ///
    /// # Errors
    /// If it is not one that a policy judged.
    pub fn from_json(finding: &Value) -> Result<Option<Self>> {
        let text = |key: &str| finding[key].as_str().map(str::to_owned);
        let drift = Drift::from_json(finding)?;
        let explained = finding["explanation"].as_str().is_some_and(|why| !why.is_empty() && why.lines().count() == 1);
        ensure!(explained, "without one line that says why: {finding}");
        match finding["verdict"].as_str() {
            Some("alert") => {
                let severity = text("severity").with_context(|| format!("an alert without a severity: {finding}"))?;
                Ok(Some(Self { drift, severity, rule: text("rule") }))
            }
            Some("tolerated") => {
                ensure!(finding.get("severity").is_none(), "tolerated, with a severity: {finding}");
                ensure!(finding.get("rule").is_some(), "tolerated by no rule: {finding}");
                Ok(None)
            }
            other => anyhow::bail!("verdict {other:?}: {finding}"),
        }
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} by {}", self.severity, self.drift, self.rule.as_deref().unwrap_or("no rule"))
    }
}

impl Verdicts {
    /// Reads what `scan --policy FILE --format ndjson` wrote.
    ///
    /// # Errors
    /// If it is not that, or two things it said contradict each other: the exit code, the summary, the findings.
    pub fn of(finished: &Finished) -> Result<Self> {
        let report = Report::from_ndjson(finished)?;
        let (mut alerts, mut tolerated, mut bits) = (BTreeSet::new(), BTreeMap::new(), 0);
        for finding in &report.findings {
            if let Some(alert) = Alert::from_json(finding)? {
                bits |= bits_of(finding)?;
                alerts.insert(alert);
            } else {
                let rule = finding["rule"].as_str().context("a rule")?.to_owned();
                tolerated.insert(Drift::from_json(finding)?, rule);
            }
        }
        ensure!(finished.code == Some(bits), "the alerts are {bits}\n{finished:?}");
        let counted = report.summary.get("tolerated").map_or(Some(0), Value::as_u64);
        ensure!(counted == Some(tolerated.len() as u64), "{} tolerated, but {}", tolerated.len(), report.summary);
        ensure!(report.summary["policy"]["digest"].is_string(), "by which policy: {}", report.summary);
        Ok(Self { alerts, tolerated, report })
    }

    /// Fails if the alerts are not exactly `expected`.
    ///
    /// # Errors
    /// If they are not; what was told about what is too much is said.
    pub fn expect(&self, expected: impl IntoIterator<Item = Alert>) -> Result<()> {
        let expected: BTreeSet<Alert> = expected.into_iter().collect();
        let missing: Vec<_> = expected.difference(&self.alerts).collect();
        let unexpected: Vec<_> = self.alerts.difference(&expected).take(20).collect();
        let told = |alert: &&Alert| {
            let path = &alert.drift.path;
            self.report.findings.iter().find(|finding| Drift::path_of(finding).is_ok_and(|of| of == *path)).cloned()
        };
        let told: Vec<Value> = unexpected.iter().filter_map(told).collect();
        ensure!(
            missing.is_empty() && unexpected.is_empty(),
            "missing: {missing:#?}; unexpected: {unexpected:#?} {told:#?}"
        );
        Ok(())
    }
}

/// What a finding sets in the exit code, if it is an alert.
fn bits_of(finding: &Value) -> Result<i32> {
    let own = match finding["change"].as_str().context("a change")? {
        "added" => 1,
        "removed" => 2,
        "changed" => 4,
        _ => 8,
    };
    Ok(if finding.get("unverified").is_some() { own | 8 } else { own })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finished(code: i32, findings: &[Value], tolerated: u64) -> Finished {
        let count = |change: &str| findings.iter().filter(|finding| finding["change"] == change).count();
        let summary = json!({
            "type": "summary", "added": count("added"), "removed": count("removed"), "changed": count("changed"),
            "tolerated": tolerated, "policy": {"name": "p", "digest": "blake3:00"},
        });
        let lines = findings.iter().chain([&summary]).map(|line| format!("{line}\n"));
        Finished { code: Some(code), signal: None, stdout: lines.collect::<String>().into(), stderr: String::new() }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let finding = |path: &str, change: &str, verdict: Value| {
            let mut finding = json!({"type": "finding", "path": path, "change": change, "explanation": "why"});
            finding.as_object_mut().expect("an object").extend(verdict.as_object().expect("an object").clone());
            finding
        };
        let alert = finding("a", "added", json!({"verdict": "alert", "severity": "high", "rule": "r"}));
        let quiet = finding("b", "removed", json!({"verdict": "tolerated", "rule": "r"}));
        let verdicts = Verdicts::of(&finished(1, &[alert.clone(), quiet.clone()], 1)).expect("all fits");
        verdicts.expect([Alert::by("r", "high", Drift::added("a"))]).expect("that alert");
        verdicts.expect([Alert::by("r", "low", Drift::added("a"))]).expect_err("another severity");
        verdicts.expect([]).expect_err("an alert more");
        assert_eq!(verdicts.tolerated, BTreeMap::from([(Drift::removed("b"), "r".to_owned())]));
        for (code, findings, tolerated) in [
            (3, vec![alert.clone(), quiet.clone()], 1),
            (0, vec![alert.clone(), quiet.clone()], 1),
            (1, vec![alert.clone(), quiet], 0),
            (1, vec![alert, finding("c", "added", json!({}))], 0),
            (0, vec![finding("c", "added", json!({"verdict": "tolerated"}))], 1),
            (1, vec![finding("c", "added", json!({"verdict": "alert"}))], 0),
            (0, vec![finding("c", "added", json!({"verdict": "tolerated", "rule": "r", "severity": "low"}))], 1),
        ] {
            assert!(Verdicts::of(&finished(code, &findings, tolerated)).is_err(), "{code} {findings:?}");
        }
    }
}
