//! Owns the log lines of the daemon: what starts, what drifts, what is wrong. Names from the disk are escaped.

use driftlock_common::event::{Body, FindingBody};
use driftlock_common::path::Escaped;
use driftlock_common::policy::Severity;

use crate::config::{Config, Endpoint};
use crate::journal::{Journal, Recovered};
use crate::monitor::ScanId;
use crate::scan::pace::Occasion;
use crate::watch::Armed;

pub(super) fn started(config: &Config, endpoint: Option<&Endpoint>, journal: &Journal, recovered: &Recovered) {
    if !recovered.damage.is_empty() {
        tracing::error!(damage = recovered.damage, "the state directory was damaged; everything is reported anew");
    }
    tracing::info!(
        host = journal.host(),
        state_dir = %config.state,
        targets = config.targets.len(),
        endpoint = endpoint.map_or_else(|| "none".to_owned(), ToString::to_string),
        open_findings = recovered.findings.len(),
        "started"
    );
}

/// From here on a change is hinted.
pub(super) fn armed(target: &str, armed: &Armed) {
    tracing::info!(target_name = target, mode = armed.mode.name(), unwatched = armed.unwatched, "watching");
    for refusal in &armed.refused {
        tracing::info!(target_name = target, %refusal, "a better way of watching cannot be had");
    }
}

/// A look begins: for whoever wants to know what the agent is doing.
pub(super) fn scan(target: &str, scan: ScanId, occasion: Occasion, places: usize) {
    tracing::debug!(target_name = target, scan = scan.0, ?occasion, places, "looking");
}

/// The process of a root is not there: said once, not at every look for it.
pub(super) fn away(target: &str, detail: &str) {
    tracing::info!(target_name = target, detail, "waiting for the process of the root");
}

/// One line for each event but snapshots, which say nothing new.
pub(super) fn body(body: &Body) {
    match body {
        Body::FindingOpened(body) => finding("drift", body),
        Body::FindingUpdated(body) => finding("drift changed", body),
        Body::FindingResolved(body) => {
            tracing::info!(target_name = body.target, path = %shown(&body.path, body.path_b64.is_some()), "drift resolved");
        }
        Body::ConditionOpened(body) => {
            let (name, reason) = (body.target.as_deref().unwrap_or("-"), body.reason.name());
            let path = body.path.as_deref();
            tracing::error!(target_name = name, reason, path, detail = body.detail, "{}", body.reason.meaning());
        }
        Body::ConditionResolved(body) => {
            let (name, reason) = (body.target.as_deref().unwrap_or("-"), body.reason.name());
            tracing::info!(target_name = name, reason, path = body.path.as_deref(), "condition resolved");
        }
        Body::TargetVerified(body) => {
            let summary = &body.summary;
            tracing::info!(
                target_name = body.target,
                complete = summary.complete,
                added = summary.added,
                removed = summary.removed,
                changed = summary.changed,
                unverifiable = summary.unverifiable,
                remembered = summary.remembered,
                files = summary.files_hashed,
                duration_ms = summary.duration_ms,
                "looked at everything"
            );
        }
        Body::Stopped(body) => tracing::info!(reason = body.reason, "stopping"),
        Body::TargetSnapshot(_) | Body::Heartbeat(_) => {}
    }
}

/// What a policy tolerates warns nobody.
fn finding(what: &str, body: &FindingBody) {
    let finding = &body.finding;
    let attributes: Vec<&str> = finding.attributes.iter().map(|attribute| attribute.name()).collect();
    macro_rules! say {
        ($level:ident) => {
            tracing::$level!(
                target_name = body.target,
                path = %shown(&finding.path, finding.path_b64.is_some()),
                change = finding.change.name(),
                attributes = attributes.join(","),
                reason = finding.reason.map_or("", |reason| reason.name()),
                severity = finding.severity().map_or("", Severity::name),
                rule = finding.rule.as_deref().unwrap_or(""),
                count = body.count,
                "{what}"
            )
        };
    }
    if finding.is_alert() {
        say!(warn);
    } else {
        say!(info);
    }
}

/// A path of a finding: escaped already if its bytes stand beside it.
fn shown(path: &str, is_escaped: bool) -> String {
    if is_escaped { path.to_owned() } else { Escaped(path.as_bytes()).to_string() }
}
