//! Owns what an agent may say: lengths, spellings, what belongs together. Must not own reading bytes, or what an event
//! means.

use driftlock_common::coverage::{BlindSpot, Coverage, Unverified};
use driftlock_common::event::{Body, ConditionBody, Event, FindingBody, FindingResolved};
use driftlock_common::finding::{ManifestView, PolicyView, path_fields};
use driftlock_common::gap::Reason;
use driftlock_common::manifest::{MAX_PART_NAME, MAX_STEP};
use driftlock_common::path::{TreePath, from_base64};
use driftlock_common::policy::MAX_ID;
use driftlock_common::tree::MAX_PARTS;

use super::{is_epoch, is_sequence};
use crate::clock::Timestamp;

/// The longest name of a target or host, in bytes.
pub(super) const MAX_NAME: usize = 255;
/// The longest text for a person, in bytes.
const MAX_DETAIL: usize = 16 * 1024;
/// The longest path when it is escaped: four characters for a byte.
const ESCAPED_PATH: usize = 4 * driftlock_common::path::MAX_PATH;

/// The sequence and time of an event that may be said.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_event(event: &Event) -> Result<(Option<u64>, Timestamp), String> {
    if event.specversion != "1.0" {
        return Err("specversion is not 1.0".to_owned());
    }
    if !is_epoch(&event.epoch) {
        return Err("epoch is not 32 lower-case hexadecimal digits".to_owned());
    }
    let time = check_time(&event.time)?;
    let sequence = event.sequence_number().map_err(|_| "sequence is not 20 digits".to_owned())?;
    match (&event.body, sequence) {
        (Body::Heartbeat(_), Some(_)) => return Err("a heartbeat has no sequence".to_owned()),
        (Body::Heartbeat(_), None) => {}
        (_, None) => return Err("the event has no sequence".to_owned()),
        (_, Some(sequence)) if !is_sequence(sequence) => return Err("sequence is out of range".to_owned()),
        (_, Some(_)) => {}
    }
    match &event.body {
        Body::FindingOpened(body) | Body::FindingUpdated(body) => check_finding(body)?,
        Body::FindingResolved(body) => {
            check_target(&body.target)?;
            resolved_path(body).ok_or("path and path_b64 are not a path of a tree in its two spellings")?;
        }
        Body::ConditionOpened(body) | Body::ConditionResolved(body) => check_condition(body)?,
        Body::TargetSnapshot(body) => {
            check_target(&body.target)?;
            body.manifest.as_ref().map_or(Ok(()), check_manifest)?;
            body.findings.iter().try_for_each(check_finding)?;
            if body.findings.iter().any(|finding| finding.target != body.target) {
                return Err("a snapshot holds a finding of another target".to_owned());
            }
            body.conditions.iter().try_for_each(check_condition)?;
            if body.part != 0 && !body.conditions.is_empty() {
                return Err("only the first part of a snapshot lists conditions".to_owned());
            }
        }
        Body::TargetVerified(body) => {
            check_target(&body.target)?;
            check_manifest(&body.summary.manifest)?;
            body.summary.policy.as_ref().map_or(Ok(()), check_policy)?;
        }
        Body::Heartbeat(body) => {
            check_text("host", &body.host, MAX_NAME)?;
            check_text("version", &body.version, MAX_NAME)?;
            for beat in &body.targets {
                check_target(&beat.target)?;
                beat.manifest.as_ref().map_or(Ok(()), check_manifest)?;
                beat.policy.as_ref().map_or(Ok(()), check_policy)?;
                check_coverage(&beat.coverage)?;
            }
            if let Some(agent) = &body.agent {
                check_time(&agent.started_at)?;
                check_text("boot", agent.boot.as_deref().unwrap_or_default(), MAX_NAME)?;
            }
        }
        Body::Stopped(body) => check_text("reason", &body.reason, MAX_DETAIL)?,
    }
    Ok((sequence, time))
}

fn check_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "a time is not RFC 3339".to_owned())
}

fn check_text(what: &str, text: &str, limit: usize) -> Result<(), String> {
    if text.len() > limit { Err(format!("{what} is longer than {limit} bytes")) } else { Ok(()) }
}

fn check_target(target: &str) -> Result<(), String> {
    if target.is_empty() { Err("target is empty".to_owned()) } else { check_text("target", target, MAX_NAME) }
}

fn check_finding(body: &FindingBody) -> Result<(), String> {
    check_target(&body.target)?;
    check_time(&body.opened_at)?;
    let path = body.finding.tree_path().ok_or("path is not a path of a tree")?;
    if path_fields(path.as_bytes()) != (body.finding.path.clone(), body.finding.path_b64.clone()) {
        return Err("path and path_b64 are not the two spellings of one path".to_owned());
    }
    check_text("manifest", body.finding.manifest.as_deref().unwrap_or_default(), MAX_PART_NAME)?;
    check_text("step", body.finding.step.as_deref().unwrap_or_default(), MAX_STEP)?;
    check_text("rule", body.finding.rule.as_deref().unwrap_or_default(), MAX_ID)?;
    check_text("explanation", body.finding.explanation.as_deref().unwrap_or_default(), MAX_DETAIL)?;
    if i64::try_from(body.count).is_err() {
        return Err("count is out of range".to_owned());
    }
    Ok(())
}

fn check_manifest(manifest: &ManifestView) -> Result<(), String> {
    if manifest.parts.len() > MAX_PARTS {
        return Err(format!("a manifest of more than {MAX_PARTS} parts"));
    }
    manifest.parts.iter().try_for_each(|part| check_text("the name of a part", &part.name, MAX_PART_NAME))
}

fn check_policy(policy: &PolicyView) -> Result<(), String> {
    check_text("the name of a policy", &policy.name, MAX_ID)
}

fn check_coverage(coverage: &Coverage) -> Result<(), String> {
    let oldest = coverage.oldest_unverified.as_ref();
    for time in [&coverage.last_sweep, &coverage.last_full, &oldest.map(|oldest| oldest.since.clone())] {
        time.as_deref().map_or(Ok(()), |time| check_time(time).map(drop))?;
    }
    if let Some(Unverified { path, .. }) = oldest {
        check_text("path", path, ESCAPED_PATH)?;
    }
    if coverage.blind.len() > BlindSpot::TABLE.len() || coverage.gaps.len() > Reason::ALL.len() {
        return Err("more blind spots or reasons than there are".to_owned());
    }
    let words = [&coverage.watch_mode].into_iter().chain(&coverage.blind).chain(coverage.gaps.keys());
    words.into_iter().try_for_each(|word| check_text("a word of the coverage", word, MAX_NAME))
}

fn check_condition(body: &ConditionBody) -> Result<(), String> {
    if let Some(target) = &body.target {
        check_target(target)?;
    }
    check_text("path", body.path.as_deref().unwrap_or_default(), ESCAPED_PATH)?;
    check_text("detail", &body.detail, MAX_DETAIL)
}

/// The exact path of a resolved finding, if its two fields agree.
pub fn resolved_path(body: &FindingResolved) -> Option<TreePath> {
    let bytes = match &body.path_b64 {
        Some(base64) => from_base64(base64)?,
        None => body.path.clone().into_bytes(),
    };
    let path = TreePath::new(bytes).ok()?;
    (path_fields(path.as_bytes()) == (body.path.clone(), body.path_b64.clone())).then_some(path)
}
