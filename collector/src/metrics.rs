//! Owns `GET /metrics` in Prometheus' text format. No label ever holds a path, a host or anything else an agent chooses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use driftlock_common::drift::Change;
use driftlock_common::event::Answer;
use driftlock_common::policy::{Ruling, Severity};

use crate::app::AppState;
use crate::error::ApiError;
use crate::roster::Roster;
use crate::store::{HoleKind, Totals};

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    accepted: AtomicU64,
    duplicates: AtomicU64,
    rejected: AtomicU64,
    resyncs: AtomicU64,
    batches_taken: AtomicU64,
    batches_refused: AtomicU64,
    batches_failed: AtomicU64,
    enrolments: AtomicU64,
    enrolments_refused: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
    batches_delayed: AtomicU64,
    /// By the code of the answer, which is a word of this program's.
    refusals: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// Counts a batch by its answer.
    pub(crate) fn count_batch(&self, result: &Result<Answer, ApiError>) {
        let add = |counter: &AtomicU64, number| {
            counter.fetch_add(number, Ordering::Relaxed);
        };
        match result {
            Ok(answer) => {
                add(&self.batches_taken, 1);
                add(&self.accepted, answer.accepted);
                add(&self.duplicates, answer.duplicates);
                add(&self.rejected, answer.rejected.len() as u64);
                add(&self.resyncs, answer.resync.into());
            }
            Err(error) if error.status() == StatusCode::TOO_MANY_REQUESTS => add(&self.batches_delayed, 1),
            Err(error) if error.status().is_server_error() => add(&self.batches_failed, 1),
            Err(_) => add(&self.batches_refused, 1),
        }
    }

    /// Counts a host that wanted to join.
    pub(crate) fn count_enrolment<T>(&self, result: &Result<T, ApiError>) {
        let counter = if result.is_ok() { &self.enrolments } else { &self.enrolments_refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was refused, of whatever kind.
    pub(crate) fn count_refusal(&self, code: &'static str) {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// Counts a TLS handshake that came to nothing.
    pub(crate) fn count_failed_handshake(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was one too many.
    pub(crate) fn count_refused_connection(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) async fn show(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    let totals = state.store.totals().await?;
    let hosts = Roster::read(&state, &state.outlook().await?).await?.numbers();
    let metrics = &state.metrics;
    let mut text = String::new();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

    family(&mut text, "build_info", "gauge", "Version of the collector.");
    sample(&mut text, "build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    family(&mut text, "hosts", "gauge", "Hosts by what their last reports mean.");
    for (host_state, number) in hosts {
        sample(&mut text, "hosts", &[("state", host_state.name())], number);
    }
    family(&mut text, "open_findings", "gauge", "Open findings by kind of difference and what the policy says.");
    for change in Change::ALL {
        for severity in Severity::ALL.map(Some).into_iter().chain([None]) {
            let same = totals.findings.iter().find(|(known, loud, _)| (*known, *loud) == (change, severity));
            let number = same.map_or(0, |(.., number)| *number);
            let change = ("change", change.name());
            match severity {
                Some(severity) => {
                    let labels = [change, ("verdict", Ruling::Alert.name()), ("severity", severity.name())];
                    sample(&mut text, "open_findings", &labels, number);
                }
                None => sample(&mut text, "open_findings", &[change, ("verdict", Ruling::Tolerated.name())], number),
            }
        }
    }
    family(&mut text, "open_conditions", "gauge", "Open conditions by reason.");
    for (reason, name, _) in driftlock_common::condition::ConditionReason::TABLE {
        let number = totals.conditions.iter().find(|(known, _)| *known == reason).map_or(0, |(_, number)| *number);
        sample(&mut text, "open_conditions", &[("reason", name)], number);
    }
    family(&mut text, "holes", "gauge", "Ranges of events that never came, by why.");
    samples_of_holes(&mut text, "holes", &totals, |(_, number, _)| *number);
    family(&mut text, "missing_events", "gauge", "Events that never came, by why.");
    samples_of_holes(&mut text, "missing_events", &totals, |(.., sequences)| *sequences);
    family(&mut text, "stored_events", "gauge", "Events kept.");
    sample(&mut text, "stored_events", &[], totals.events);
    family(&mut text, "events_total", "counter", "Events by what became of them.");
    for (result, counter) in
        [("accepted", &metrics.accepted), ("duplicate", &metrics.duplicates), ("rejected", &metrics.rejected)]
    {
        sample(&mut text, "events_total", &[("result", result)], read(counter));
    }
    family(&mut text, "batches_total", "counter", "Batches by what became of them.");
    for (result, counter) in [
        ("taken", &metrics.batches_taken),
        ("refused", &metrics.batches_refused),
        ("delayed", &metrics.batches_delayed),
        ("failed", &metrics.batches_failed),
    ] {
        sample(&mut text, "batches_total", &[("result", result)], read(counter));
    }
    family(&mut text, "resyncs_total", "counter", "Answers that asked for all findings again.");
    sample(&mut text, "resyncs_total", &[], read(&metrics.resyncs));
    family(&mut text, "enrolments_total", "counter", "Hosts that wanted to join, by what became of it.");
    for (result, counter) in [("enrolled", &metrics.enrolments), ("refused", &metrics.enrolments_refused)] {
        sample(&mut text, "enrolments_total", &[("result", result)], read(counter));
    }
    family(&mut text, "requests_refused_total", "counter", "Requests that were refused, by the code of the answer.");
    for (code, number) in &*metrics.refusals.lock().unwrap_or_else(PoisonError::into_inner) {
        sample(&mut text, "requests_refused_total", &[("code", code)], *number);
    }
    family(&mut text, "connections_refused_total", "counter", "Connections that were one too many.");
    sample(&mut text, "connections_refused_total", &[], read(&metrics.connections_refused));
    family(&mut text, "handshakes_failed_total", "counter", "TLS handshakes that came to nothing.");
    sample(&mut text, "handshakes_failed_total", &[], read(&metrics.handshakes_failed));
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

fn samples_of_holes(text: &mut String, name: &str, totals: &Totals, number: fn(&(HoleKind, u64, u64)) -> u64) {
    for kind in HoleKind::ALL {
        let found = totals.holes.iter().find(|(known, ..)| *known == kind);
        sample(text, name, &[("kind", kind.name())], found.map_or(0, number));
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _always_fits =
        write!(text, "# HELP driftlock_collector_{name} {help}\n# TYPE driftlock_collector_{name} {kind}\n");
}

/// Label values are words of this code, so none needs an escape.
fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    // Writing to a string does not fail.
    let _always_fits = writeln!(text, "driftlock_collector_{name}{labels} {value}");
}
