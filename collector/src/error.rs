//! Owns how a request is refused: status, a stable code and a public sentence as problem+json (RFC 9457), and apart
//! from them what only the log may say. Must not own deciding what is refused.

use std::fmt;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::StoreError;

/// A refused request.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    public: String,
    internal: Option<String>,
    challenge: Option<&'static str>,
    /// Whole seconds.
    retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
}

impl ApiError {
    /// A refusal whose `public` sentence the client sees.
    pub fn new(status: StatusCode, code: &'static str, public: impl Into<String>) -> Self {
        Self { status, code, public: public.into(), internal: None, challenge: None, retry_after: None }
    }

    /// 400 for a query or body that cannot be used.
    pub fn bad_request(code: &'static str, public: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, public)
    }

    /// 401, with the schemes that are understood.
    pub fn unauthorized(challenge: &'static str, public: impl Into<String>) -> Self {
        Self { challenge: Some(challenge), ..Self::new(StatusCode::UNAUTHORIZED, "unauthorized", public) }
    }

    /// 404.
    pub fn not_found(public: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", public)
    }

    /// 413; the agent answers it by splitting the batch.
    pub fn too_large(public: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", public)
    }

    /// 503 for a body that ended before its end: not a refusal, as an agent that is told 4xx does not send it again. That a
    /// connection broke is no fault of the collector's, so it is counted as others are and not said among its errors.
    pub fn cut_off(why: impl fmt::Display) -> Self {
        tracing::debug!(%why, "a body was cut off");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "body", "the body did not arrive completely")
    }

    /// Adds what only the log may say.
    #[must_use]
    pub fn because(mut self, internal: impl fmt::Display) -> Self {
        self.internal = Some(internal.to_string());
        self
    }

    /// Says when to come again, rounded up to a second.
    #[must_use]
    pub const fn retry_after(mut self, after: Duration) -> Self {
        let begun = if after.subsec_nanos() > 0 { 1 } else { 0 };
        self.retry_after = Some(after.as_secs().saturating_add(begun));
        self
    }

    /// The status that is answered.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code that is answered.
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// When to come again, if that is answered.
    pub const fn seconds_to_wait(&self) -> Option<u64> {
        match self.retry_after {
            None if self.status.as_u16() == StatusCode::SERVICE_UNAVAILABLE.as_u16() => Some(2),
            after => after,
        }
    }
}

/// With an answer that refuses: the code, for who counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedFor(pub(crate) &'static str);

/// What a path names, where the router takes anything: what it cannot be is not there.
pub(crate) struct InPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let named = Path::from_request_parts(parts, state).await;
        named.map(|Path(named)| Self(named)).map_err(|_| ApiError::not_found("there is nothing here"))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store_unavailable",
            "the store cannot be used now; nothing was kept",
        )
        .because(crate::failure::chain(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(internal) = &self.internal {
            tracing::error!(status = self.status.as_u16(), code = self.code, %internal, "request failed");
        }
        let problem = Problem {
            title: self.status.canonical_reason().unwrap_or("refused"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.public,
        };
        let mut response = (self.status, axum::Json(problem)).into_response();
        response.extensions_mut().insert(RefusedFor(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(after) = self.seconds_to_wait() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after));
        }
        response
    }
}
