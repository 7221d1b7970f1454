//! Owns `POST /v1/events`: credential, limits, body to batch, batch to store. Must not own SQL, or what an event means.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, MAX_BATCH_BYTES};

use crate::app::AppState;
use crate::batch::{Batch, BatchError, MAX_JSON, decode, decompress};
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::store::{Applied, Delivery};

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
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Answer>, ApiError> {
    let result = take(&state, &headers, body).await;
    state.metrics.count_batch(&result);
    result.map(Json)
}

async fn take(state: &AppState, headers: &HeaderMap, body: Body) -> Result<Answer, ApiError> {
    let host = state.tokens().host_of(headers)?.to_owned();
    check_media_type(headers)?;
    let encoding = encoding(headers)?;
    // Taken before the body is read: what waits here holds no memory.
    let _permit = state.ingests.acquire().await.map_err(|_| crate::store::StoreError::Closed)?;
    let batch = read(headers, body, encoding).await?;
    let received_at = Timestamp::now();
    match state.store.apply(Delivery { host, received_at, from: None, batch }).await? {
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

async fn read(headers: &HeaderMap, body: Body, encoding: Encoding) -> Result<Batch, ApiError> {
    let limit = match encoding {
        Encoding::Identity => MAX_JSON,
        Encoding::Zstd => MAX_COMPRESSED,
    };
    let too_large = || ApiError::too_large(format!("the body is larger than {limit} bytes; send fewer events"));
    let claimed = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if claimed.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let body = match tokio::time::timeout(BODY_TIME, to_bytes(body, limit)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if is_length_limit(&error) => return Err(too_large()),
        // Not a refusal: an agent that is told 4xx does not send it again.
        Ok(Err(error)) => return Err(cut_off().because(error)),
        Err(_) => return Err(cut_off().because("it took too long")),
    };
    // Megabytes of JSON would hold up every other request of this thread.
    tokio::task::spawn_blocking(move || match encoding {
        Encoding::Identity => decode(&body),
        Encoding::Zstd => decode(&decompress(&body)?),
    })
    .await
    .map_err(|_| crate::store::StoreError::Closed)?
    .map_err(ApiError::from)
}

fn cut_off() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "body", "the body did not arrive completely")
}

/// Whether [`to_bytes`] ended by its limit; otherwise the connection did.
fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.to_string() == "length limit exceeded" {
            return true;
        }
        source = error.source();
    }
    false
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
