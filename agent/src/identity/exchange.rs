//! Owns asking the collector for a certificate, and what its answer is. Must not own what is asked, or what is done with it.

use std::time::Duration;

use driftlock_common::enrolment::Issued;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode};
use time::OffsetDateTime;

use crate::http::{body, chain, distrust, explain, parse_retry_after};

/// The longest answer, in bytes: some certificates.
const MAX_ANSWER: usize = 256 * 1024;

/// Why there is no certificate. Each is one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody who can answer now.
    #[error("{why}")]
    Unavailable {
        /// One line.
        why: String,
        /// Not before this has passed, if it was said so.
        after: Option<Duration>,
    },
    /// Whoever answers is not the collector that is believed.
    #[error("{0}")]
    Distrusted(String),
    /// The collector refuses.
    #[error("the collector refuses: {0}")]
    Refused(String),
    /// It is no collector that does this.
    #[error("whoever answers there gives no certificates to hosts: {0}")]
    Unknown(String),
}

/// Sends what is asked, as JSON.
pub(super) async fn ask(request: RequestBuilder, json: Vec<u8>) -> Result<Issued, ExchangeError> {
    let unavailable = |why| ExchangeError::Unavailable { why, after: None };
    let response = match request.header(CONTENT_TYPE, "application/json").body(json).send().await {
        Ok(response) => response,
        Err(error) => {
            let distrusted = distrust(&error).map(ExchangeError::Distrusted);
            return Err(distrusted.unwrap_or_else(|| unavailable(chain(&error.without_url()))));
        }
    };
    let status = response.status();
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|value| parse_retry_after(value, OffsetDateTime::now_utc()));
    let body = match body(response, MAX_ANSWER).await {
        Ok(Some(body)) => body,
        Ok(None) => return Err(unavailable("an answer of more than 256 KiB".to_owned())),
        Err(why) => return Err(unavailable(why)),
    };
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|_| ExchangeError::Unknown(format!("{status}, with an answer that cannot be understood")));
    }
    let why = explain(status, &body);
    Err(match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => ExchangeError::Unknown(why),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ExchangeError::Unavailable { why, after },
        _ if status.is_client_error() => ExchangeError::Refused(why),
        _ => ExchangeError::Unavailable { why, after },
    })
}
