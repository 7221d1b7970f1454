//! Owns `GET /v1/stream`: what is committed, as server-sent events (HTML standard, section 9.2), while it happens.
//! Who is too slow is told how much was missed and reads the lists again. Must not own history.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::app::AppState;
use crate::error::ApiError;
use crate::store::{Changed, ConditionRecord, FindingRecord};
use crate::view::{ConditionView, FindingView};

/// How often an idle stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(crate) async fn stream(
    State(state): State<Arc<AppState>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let permit = Arc::clone(&state.streams).try_acquire_owned().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "too many streams are open; try again later")
    })?;
    let shutdown = state.shutdown.clone();
    let changes = state.store.changes();
    // The permit lives as long as the stream does.
    let events = unfold((changes, shutdown, permit), async |(mut changes, shutdown, permit)| {
        let event = tokio::select! {
            () = shutdown.cancelled() => None,
            event = next(&mut changes) => event,
        }?;
        Some((Ok(event), (changes, shutdown, permit)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("alive")))
}

async fn next(changes: &mut Receiver<Arc<Changed>>) -> Option<Event> {
    let (name, data) = match changes.recv().await {
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
    // Strings and numbers always have a JSON form; if not, the listener is told to read again.
    Some(
        data.map_or_else(
            |_| Event::default().event("lagged").data("{}"),
            |data| Event::default().event(name).data(data),
        ),
    )
}
