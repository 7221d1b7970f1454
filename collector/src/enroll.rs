//! Owns `POST /v1/enroll` and `POST /v1/renew`: their bodies, and how they are answered. Must not own who may join.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{Extensions, HeaderMap, StatusCode};
use driftlock_common::enrolment::{EnrollRequest, Issued, RenewRequest};
use serde::de::DeserializeOwned;

use crate::app::AppState;
use crate::caller::{Caller, Connection, Via};
use crate::error::ApiError;
use crate::identity::NotIssued;
use crate::store::identity::JoinRefused;

/// The largest body, in bytes: a request, a key and a token in JSON take a tenth of it.
const MAX_BODY: usize = 32 * 1024;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Takes a host in.
pub(crate) async fn enroll(
    State(state): State<Arc<AppState>>,
    extensions: Extensions,
    body: Body,
) -> Result<Json<Issued>, ApiError> {
    let result = async {
        if !extensions.get::<Connection>().is_some_and(|connection| connection.is_tls) {
            return Err(no_tls());
        }
        let request: EnrollRequest = read(body).await?;
        Ok(Json(state.identities.enroll(request).await?))
    };
    let result = result.await;
    state.metrics.count_enrolment(&result);
    if let Ok(Json(issued)) = &result {
        tracing::info!(host = %issued.host, "a host has enrolled");
    }
    result
}

/// Gives a host that has a certificate another one.
pub(crate) async fn renew(
    State(state): State<Arc<AppState>>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Issued>, ApiError> {
    let caller = Caller::of(&state, &extensions, &headers)?;
    let Via::Certificate { .. } = caller.via else {
        let public = "a certificate is renewed with the one that is in force, not with a token";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "certificate_needed", public));
    };
    let request: RenewRequest = read(body).await?;
    Ok(Json(state.identities.renew(&caller.host, &request.csr).await?))
}

fn no_tls() -> ApiError {
    let public = "hosts enroll over TLS: start the collector with --tls on";
    ApiError::new(StatusCode::FORBIDDEN, "tls_needed", public)
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "body", "the body took too long to arrive"))?
        .map_err(|_| ApiError::too_large(format!("the body is cut off, or larger than {MAX_BODY} bytes")))?;
    // What serde says could repeat a secret.
    serde_json::from_slice(&body).map_err(|error| {
        let place =
            format!("the body is not the JSON that is expected, at line {} column {}", error.line(), error.column());
        ApiError::bad_request("json", place)
    })
}

impl From<NotIssued> for ApiError {
    fn from(why: NotIssued) -> Self {
        let public = why.to_string();
        let refused = |status, code| Self::new(status, code, public.clone());
        match why {
            NotIssued::Nobody => refused(StatusCode::NOT_FOUND, "no_enrolment"),
            NotIssued::Join(why) => match why {
                JoinRefused::Unknown => refused(StatusCode::FORBIDDEN, "token_unknown"),
                JoinRefused::Expired => refused(StatusCode::FORBIDDEN, "token_expired"),
                JoinRefused::Used => refused(StatusCode::FORBIDDEN, "token_used"),
                JoinRefused::Name => refused(StatusCode::FORBIDDEN, "token_for_other_host"),
                JoinRefused::Taken => refused(StatusCode::CONFLICT, "host_known"),
            },
            NotIssued::Request(_) => refused(StatusCode::BAD_REQUEST, "csr"),
            NotIssued::ReceiptKey => refused(StatusCode::BAD_REQUEST, "receipt_key"),
            NotIssued::TooSoon { wait } => {
                refused(StatusCode::TOO_MANY_REQUESTS, "too_soon").retry_after(Duration::from_secs(wait))
            }
            NotIssued::NotEnrolled => refused(StatusCode::FORBIDDEN, "not_enrolled"),
            NotIssued::Store(error) => error.into(),
            NotIssued::Authority(error) => {
                let public = "the collector's CA cannot be used now";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable", public)
                    .because(crate::failure::chain(&error))
            }
        }
    }
}
