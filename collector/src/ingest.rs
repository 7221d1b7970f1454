//! Owns `POST /v1/events`: credential, limits, body to batch, batch to store. Must not own SQL, or what an event means.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, MAX_BATCH_BYTES};
use futures_util::stream::StreamExt as _;

use crate::app::AppState;
use crate::batch::{Batch, BatchError, MAX_JSON, decode, decompress};
use crate::caller::{Caller, Connection};
use crate::error::ApiError;
use crate::gate::Turn;
use crate::store::{Applied, Delivery, StoreError};

/// The most bytes of a compressed body. JSON full of digests hardly becomes half as large.
const MAX_COMPRESSED: usize = MAX_BATCH_BYTES;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// How a body is compressed.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    Identity,
    Zstd,
}

/// Takes a batch; the answer comes when it is on disk.
pub(crate) async fn events(
    State(state): State<Arc<AppState>>,
    caller: Result<Caller, ApiError>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Answer>, ApiError> {
    let from = connection.map(|Extension(connection)| connection.address);
    let result = match caller {
        Ok(caller) => take(&state, caller, from, &headers, body).await,
        Err(refused) => Err(refused),
    };
    state.metrics.count_batch(&result);
    result.map(Json)
}

async fn take(
    state: &Arc<AppState>,
    caller: Caller,
    from: Option<IpAddr>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Answer, ApiError> {
    let host = caller.host.to_string();
    check_media_type(headers)?;
    let encoding = encoding(headers)?;
    let mut turn = state.gate.enter(&host, Instant::now())?;
    let body = read(headers, body, encoding, &mut turn).await?;
    let state = Arc::clone(state);
    // On its own, so that who hangs up in the middle gives back neither their turn nor the room before the batch is gone.
    let taken = tokio::spawn(async move {
        let batch = decoded(&state, body, encoding, &mut turn).await?;
        let received_at = state.clock.now();
        Ok::<_, ApiError>(state.store.apply(Delivery { host, received_at, from, batch }).await?)
    });
    match taken.await.map_err(|_| StoreError::Closed)?? {
        Applied::Answer(answer) => Ok(answer),
        Applied::Conflict => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "identity_conflict",
            "another agent reports with this credential; give each host its own credential and its own state directory",
        )),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Parameters such as charset change nothing: JSON is UTF-8.
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(BATCH_MEDIA_TYPE) {
        return Ok(());
    }
    let public = format!("content-type must be {BATCH_MEDIA_TYPE}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", public))
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.to_str()) {
        None | Some(Ok("identity")) => Ok(Encoding::Identity),
        Some(Ok("zstd")) => Ok(Encoding::Zstd),
        Some(_) => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_encoding",
            "content-encoding must be zstd or identity",
        )),
    }
}

/// Reads a body; what has arrived takes room.
async fn read(headers: &HeaderMap, body: Body, encoding: Encoding, turn: &mut Turn) -> Result<Vec<u8>, ApiError> {
    let limit = match encoding {
        Encoding::Identity => MAX_JSON,
        Encoding::Zstd => MAX_COMPRESSED,
    };
    let too_large = || ApiError::too_large(format!("the body is larger than {limit} bytes; send fewer events"));
    let claimed = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if claimed.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let arriving = async {
        let mut bytes = Vec::new();
        while let Some(part) = stream.next().await {
            let part = part.map_err(ApiError::cut_off)?;
            if part.len() > limit - bytes.len() {
                return Err(too_large());
            }
            turn.hold(bytes.len() + part.len())?;
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    };
    tokio::time::timeout(BODY_TIME, arriving).await.map_err(|_| ApiError::cut_off("it took too long"))?
}

/// Makes a batch of a body. From here on it takes the room of its JSON.
async fn decoded(state: &AppState, body: Vec<u8>, encoding: Encoding, turn: &mut Turn) -> Result<Batch, ApiError> {
    let _permit = state.gate.decoder().await?;
    // Megabytes of JSON would hold up every other request of this thread.
    let decoded = tokio::task::spawn_blocking(move || {
        let json = match encoding {
            Encoding::Identity => body,
            Encoding::Zstd => decompress(&body)?,
        };
        decode(&json).map(|batch| (batch, json.len()))
    });
    match decoded.await.map_err(|_| StoreError::Closed)? {
        Ok((batch, bytes)) => {
            let events = batch.sequenced.len() + batch.heartbeats.len() + batch.rejected.len();
            turn.pay(events, bytes);
            turn.hold(bytes)?;
            Ok(batch)
        }
        Err(error) => {
            turn.pay_for_nonsense();
            Err(error.into())
        }
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::TooLarge | BatchError::TooMany => Self::too_large(error.to_string()),
            BatchError::Compression(_) => Self::bad_request("compression", error.to_string()),
            BatchError::Json(_) => Self::bad_request("json", error.to_string()),
        }
    }
}
