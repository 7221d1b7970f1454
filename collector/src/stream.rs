//! Owns `GET /v1/stream`: what is committed, as server-sent events (HTML standard, section 9.2), while it happens: each
//! change, or, with `every`, how much changed, at most so often. Who is too slow is told how much was missed and reads the
//! lists again. Must not own history.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, StreamExt as _, unfold};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::Instant;

use crate::app::AppState;
use crate::error::ApiError;
use crate::query::{Parameters, bad, given, parsed};
use crate::store::{Changed, ConditionRecord, FindingRecord};
use crate::view::{ConditionView, FindingView};

/// How often an idle stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Bounds of `every`, in milliseconds.
const EVERY_MS: (u64, u64) = (100, 60_000);

/// What may be asked of the stream.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamParameters {
    /// Milliseconds between two events, which then say only how much changed.
    every: String,
    /// Only what concerns this host, by its key.
    host: String,
}

/// How much changed since the event before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Changes of findings.
    pub findings: u64,
    /// Changes of conditions.
    pub conditions: u64,
    /// Other changes of hosts.
    pub hosts: u64,
    /// Changes of any kind that were not looked at.
    pub missed: u64,
}

pub(crate) async fn stream(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<StreamParameters>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let StreamParameters { every, host } = parsed(parameters)?;
    let every = every_of(&every)?;
    let host = given(host);
    let permit = Arc::clone(&state.streams).try_acquire_owned().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "too many streams are open; try again later")
    })?;
    let shutdown = state.shutdown.clone();
    let changes = state.store.changes();
    let events = match every {
        None => unfold((changes, host), async |(mut changes, host)| {
            let event = each(&mut changes, host.as_deref()).await?;
            Some((event, (changes, host)))
        })
        .boxed(),
        Some(every) => unfold((changes, host, Instant::now()), move |(mut changes, host, not_before)| async move {
            let sum = gathered(&mut changes, host.as_deref(), not_before).await?;
            Some((event("changes", serde_json::to_string(&sum)), (changes, host, Instant::now() + every)))
        })
        .boxed(),
    };
    // The permit lives as long as the stream does.
    let events = events.take_until(async move { shutdown.cancelled().await }).map(move |event| {
        let _held = &permit;
        Ok(event)
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive")))
}

fn every_of(text: &str) -> Result<Option<Duration>, ApiError> {
    let (least, most) = EVERY_MS;
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .ok()
            .filter(|every| (least..=most).contains(every))
            .map(|every| Some(Duration::from_millis(every)))
            .ok_or_else(|| bad(format!("every is a number of milliseconds from {least} to {most}"))),
    }
}

impl Changed {
    /// The host that it concerns, by its key.
    fn host(&self) -> &str {
        match self {
            Self::Finding(finding) => &finding.host,
            Self::Condition(condition) => &condition.host,
            Self::Host(host) => host,
        }
    }
}

/// The next change of the host, or of any.
async fn each(changes: &mut Receiver<Arc<Changed>>, host: Option<&str>) -> Option<Event> {
    loop {
        let (name, data) = match changes.recv().await {
            Ok(changed) if host.is_some_and(|host| host != changed.host()) => continue,
            Ok(changed) => match &*changed {
                Changed::Finding(finding) => {
                    ("finding", serde_json::to_string(&FindingView::from(FindingRecord::clone(finding))))
                }
                Changed::Condition(condition) => {
                    ("condition", serde_json::to_string(&ConditionView::from(ConditionRecord::clone(condition))))
                }
                Changed::Host(host) => ("host", serde_json::to_string(&json!({ "host": host }))),
            },
            Err(RecvError::Lagged(missed)) => ("lagged", serde_json::to_string(&json!({ "missed": missed }))),
            Err(RecvError::Closed) => return None,
        };
        return Some(event(name, data));
    }
}

/// What changes up to `not_before`, or the first change after it.
async fn gathered(changes: &mut Receiver<Arc<Changed>>, host: Option<&str>, not_before: Instant) -> Option<Changes> {
    let mut sum = Changes::default();
    loop {
        let changed = if sum == Changes::default() {
            changes.recv().await
        } else {
            match tokio::time::timeout_at(not_before, changes.recv()).await {
                Ok(changed) => changed,
                Err(_) => return Some(sum),
            }
        };
        match changed {
            Ok(changed) if host.is_some_and(|host| host != changed.host()) => continue,
            Ok(changed) => match &*changed {
                Changed::Finding(_) => sum.findings += 1,
                Changed::Condition(_) => sum.conditions += 1,
                Changed::Host(_) => sum.hosts += 1,
            },
            Err(RecvError::Lagged(missed)) => sum.missed += missed,
            Err(RecvError::Closed) => return Some(sum).filter(|sum| *sum != Changes::default()),
        }
    }
}

/// Strings and numbers always have a JSON form; if not, the listener is told to read again.
fn event(name: &str, data: Result<String, serde_json::Error>) -> Event {
    data.map_or_else(|_| Event::default().event("lagged").data("{}"), |data| Event::default().event(name).data(data))
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    fn host(name: &str) -> Arc<Changed> {
        Arc::new(Changed::Host(name.to_owned()))
    }

    #[tokio::test]
    async fn a_thousand_changes_are_one_event() {
        let (sender, mut receiver) = broadcast::channel(4096);
        for _ in 0..1000 {
            sender.send(host("a")).unwrap();
            sender.send(host("b")).unwrap();
        }
        drop(sender);
        let sum = gathered(&mut receiver, Some("a"), Instant::now() + Duration::from_mins(1)).await;
        assert_eq!(sum, Some(Changes { hosts: 1000, ..Changes::default() }));
        assert_eq!(gathered(&mut receiver, Some("a"), Instant::now()).await, None);
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_much_was_missed() {
        let (sender, mut receiver) = broadcast::channel(2);
        for _ in 0..5 {
            sender.send(host("a")).unwrap();
        }
        drop(sender);
        let sum = gathered(&mut receiver, None, Instant::now() + Duration::from_mins(1)).await;
        assert_eq!(sum, Some(Changes { hosts: 2, missed: 3, ..Changes::default() }));
        assert_eq!(gathered(&mut receiver, None, Instant::now()).await, None);
    }

    #[test]
    fn how_often() {
        for (text, expected) in [("", Some(None)), ("100", Some(Some(100))), ("60000", Some(Some(60_000)))] {
            assert_eq!(every_of(text).ok(), expected.map(|every| every.map(Duration::from_millis)), "{text}");
        }
        for text in ["99", "60001", "1s", "-1", "1e3"] {
            assert!(every_of(text).is_err(), "{text}");
        }
    }
}
