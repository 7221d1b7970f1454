//! Owns how far an agent's verdicts are heeded: what nobody can tolerate is an alert, whoever says otherwise. The drift
//! is kept either way. Must not own judging by a policy, which is the agent's.

use driftlock_common::drift::Change;
use driftlock_common::event::Body;
use driftlock_common::finding::Finding;
use driftlock_common::policy::{Ruling, Severity};

use crate::store::NO_RULE;

/// Makes of every finding in a report what it counts as from here on.
pub(super) fn heed(body: &mut Body) {
    match body {
        Body::FindingOpened(body) | Body::FindingUpdated(body) => settle(&mut body.finding),
        Body::TargetSnapshot(body) => body.findings.iter_mut().for_each(|body| settle(&mut body.finding)),
        Body::FindingResolved(_)
        | Body::ConditionOpened(_)
        | Body::ConditionResolved(_)
        | Body::TargetVerified(_)
        | Body::Heartbeat(_)
        | Body::Stopped(_) => {}
    }
}

/// An alert stays one. What is tolerated has no severity, and stays tolerated if that can be.
fn settle(finding: &mut Finding) {
    // No rule has these ids, and queries mean that none covers a finding by them.
    finding.rule = finding.rule.take().filter(|rule| !rule.is_empty() && rule != NO_RULE);
    if finding.is_alert() {
        return;
    }
    finding.severity = None;
    if let Some(why) = intolerable(finding) {
        finding.verdict = Some(Ruling::Alert);
        finding.severity = Some(Severity::default());
        finding.explanation = Some(format!("reported as tolerated, which it cannot be: {why}"));
    }
}

/// Why nobody can tolerate a finding.
fn intolerable(finding: &Finding) -> Option<&'static str> {
    let gap = finding.change == Change::Unverifiable || finding.reason.is_some() || !finding.unverified.is_empty();
    if gap {
        Some("it could not be established")
    } else if finding.collapsed.is_some() {
        Some("it stands for others that were not judged")
    } else if finding.rule.is_none() {
        Some("no rule is named that does")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_can_tolerate_is_an_alert() {
        let alert = |why| (Some(Ruling::Alert), Some(Severity::Medium), Some(why));
        let tolerated = (Some(Ruling::Tolerated), None, None);
        for (keys, expected) in [
            (r#""change":"changed","rule":"logs""#, tolerated),
            (r#""change":"changed","rule":"logs","severity":"critical""#, tolerated),
            (r#""change":"changed","rule":"logs","reason":"io""#, alert("it could not be established")),
            (r#""change":"changed","rule":"logs","unverified":["content"]"#, alert("it could not be established")),
            (r#""change":"unverifiable","rule":"logs","severity":"info""#, alert("it could not be established")),
            (r#""change":"added","rule":"logs","collapsed":9"#, alert("it stands for others that were not judged")),
            (r#""change":"changed""#, alert("no rule is named that does")),
            (r#""change":"changed","rule":"""#, alert("no rule is named that does")),
            (r#""change":"changed","rule":"-""#, alert("no rule is named that does")),
        ] {
            let json = format!(r#"{{"path":"a","verdict":"tolerated",{keys}}}"#);
            let mut finding: Finding = serde_json::from_str(&json).unwrap();
            settle(&mut finding);
            let why = finding.explanation.as_deref();
            let why = why.map(|why| why.strip_prefix("reported as tolerated, which it cannot be: ").unwrap());
            assert_eq!((finding.verdict, finding.severity, why), expected, "{json}");
        }
    }

    #[test]
    fn an_alert_is_left_as_it_was_said() {
        for keys in ["", r#","verdict":"alert""#, r#","severity":"low""#, r#","verdict":"alert","severity":"critical""#]
        {
            let json = format!(r#"{{"path":"a","change":"unverifiable","reason":"io","covers":3{keys}}}"#);
            let said: Finding = serde_json::from_str(&json).unwrap();
            let mut finding = said.clone();
            settle(&mut finding);
            assert_eq!(finding, said);
        }
    }
}
