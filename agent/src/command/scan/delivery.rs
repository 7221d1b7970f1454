//! Owns telling a collector what one scan found, as a host that is gone after it. Must not own sending.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use driftlock_common::coverage::{BlindSpot, Coverage, WatchMode};
use driftlock_common::digest::OciDigest;
use driftlock_common::event::{Body, FindingBody, Heartbeat, Stopped, TargetBeat, Verified};
use driftlock_common::exit::Exit;
use driftlock_common::finding::{Finding, open_digest};
use driftlock_common::host_name::HostName;
use driftlock_common::manifest::SealedIn;
use driftlock_common::path::Escaped;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::ReportArgs;
use crate::config::{self, Config, Endpoint};
use crate::deliver::{self, Client, ClientError, Timeouts, once};
use crate::failure::Failure;
use crate::http::TokenError;
use crate::monitor::snapshot_parts;
use crate::scan::{Root, ScanReport};

/// How long the collector is tried.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked whether somebody wants an end.
const LOOK: Duration = Duration::from_millis(100);

/// Where a scan is told.
#[derive(Debug)]
pub(super) struct Delivery {
    client: Client,
    endpoint: Endpoint,
    host: HostName,
    target: String,
}

impl Delivery {
    /// What was asked for, checked before anything is scanned; `None` if nothing was.
    pub(super) fn of(args: &ReportArgs) -> Result<Option<Self>, Failure> {
        let Some(endpoint) = args.report.clone() else { return Ok(None) };
        let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
        let host = match &args.report_host {
            Some(host) => host.parse().context("--report-host").map_err(usage)?,
            None => super::super::enroll::name_of_this_host("--report-host")?,
        };
        let target = args.report_target.clone();
        if !config::is_name(&target) {
            return Err(usage(anyhow!("--report-target is 1 to 128 of letters, digits and . _ - : @")));
        }
        let report = config::Report {
            endpoint: Some(endpoint.clone()),
            token_file: args.report_token_file.clone(),
            ca_file: args.report_ca_file.clone(),
            ..Config::new(PathBuf::new()).report
        };
        let client = Client::new(&report, None, Timeouts::default()).map_err(failure)?;
        let client = client.ok_or_else(|| usage(anyhow!("--report names no collector")))?.for_host(Some(host.clone()));
        Ok(Some(Self { client, endpoint, host, target }))
    }

    /// Tells what was found, to the end.
    ///
    /// # Errors
    /// If anything of it is not acknowledged: never lost in silence.
    pub(super) fn tell(
        &self,
        result: &ScanReport<'_>,
        sealed_in: SealedIn<'_>,
        root: &Root,
        cancel: &AtomicBool,
    ) -> Result<(), Failure> {
        let undelivered = |why: String| {
            let what = anyhow!("{}: what was found is not delivered: {why}", self.endpoint);
            Failure::new(Exit::Unavailable, what)
        };
        let report = self.report(result, sealed_in, root);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tokio = tokio.map_err(|error| Failure::new(Exit::Io, error))?;
        tokio.block_on(async {
            tokio::select! {
                delivered = once::deliver(&self.client, report, PATIENCE) => delivered.map_err(|why| undelivered(why.to_string())),
                () = cancelled(cancel) => Err(undelivered("interrupted".to_owned())),
            }
        })
    }

    fn report(&self, result: &ScanReport<'_>, sealed_in: SealedIn<'_>, root: &Root) -> once::Report {
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let summary = &result.summary;
        let findings: Vec<FindingBody> = result
            .findings
            .iter()
            .map(|judged| FindingBody {
                target: self.target.clone(),
                finding: Finding::of(judged, sealed_in),
                opened_at: time.clone(),
                count: 1,
                flapping: None,
            })
            .collect();
        let beat = Heartbeat {
            host: self.host.to_string(),
            labels: BTreeMap::new(),
            ephemeral: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interval_s: config::DEFAULT_HEARTBEAT.as_secs(),
            sequence: 0,
            agent: None,
            targets: vec![TargetBeat {
                target: self.target.clone(),
                root: Escaped(root.path().as_os_str().as_encoded_bytes()).to_string(),
                manifest: Some(summary.manifest.clone()),
                policy: summary.policy.clone(),
                open_findings: findings.len() as u64,
                open_digest: OciDigest::blake3(open_digest(findings.iter().map(|body| &body.finding))),
                coverage: coverage(result, &time),
            }],
        };
        let parts = snapshot_parts(&self.target, Some(&summary.manifest), Vec::new(), findings.iter());
        let verified = Body::TargetVerified(Verified { target: self.target.clone(), summary: summary.clone() });
        once::Report {
            host: self.host.clone(),
            time,
            bodies: parts.into_iter().map(Body::TargetSnapshot).chain([verified]).collect(),
            beat,
            stopped: Stopped { reason: "scanned".to_owned(), ephemeral: true },
        }
    }
}

/// What one look vouches for: it was then, and nothing is seen after it.
fn coverage(result: &ScanReport<'_>, time: &str) -> Coverage {
    let summary = &result.summary;
    let read = summary.complete && summary.remembered == 0 && summary.unjudged.is_nothing();
    Coverage {
        watch_mode: WatchMode::Sweep.name().to_owned(),
        blind: vec![BlindSpot::Everything.name().to_owned()],
        last_sweep: summary.complete.then(|| time.to_owned()),
        last_full: read.then(|| time.to_owned()),
        unverifiable: summary.unverifiable,
        gaps: result.gaps.iter().map(|(reason, number)| (reason.name().to_owned(), *number)).collect(),
        unjudged: summary.unjudged,
        excluded: summary.excluded.local.clone(),
        mounts: summary.excluded.mounts.clone(),
        virtual_mounts: summary.excluded.virtual_mounts.clone(),
        ..Coverage::default()
    }
}

async fn cancelled(cancel: &AtomicBool) {
    while !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
}

fn failure(error: ClientError) -> Failure {
    match error {
        deliver::ClientError::Token(TokenError::Read(path, error)) => {
            Failure::input(Escaped(path.as_os_str().as_encoded_bytes()), error)
        }
        error @ deliver::ClientError::Token(TokenError::Token(_)) => Failure::new(Exit::Malformed, error),
        error => Failure::new(Exit::Configuration, error),
    }
}
