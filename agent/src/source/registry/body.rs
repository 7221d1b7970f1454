//! Owns the body of one answer as it comes in, within the limits of time. Must not own what it should be.

use std::time::Instant;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;

use super::client::Stop;
use super::error::RegistryError;
use super::limits::{Limits, Pace};
use crate::http::chain;

/// A body.
#[derive(Debug)]
pub(super) struct Body {
    response: Response,
    host: String,
    pace: Pace,
}

impl Body {
    pub(super) fn new(response: Response, host: String) -> Self {
        Self { response, host, pace: Pace::default() }
    }

    /// Who sends it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The next piece of it; `None` at its end.
    pub(super) async fn next(&mut self, limits: &Limits) -> Result<Option<Bytes>, Stop> {
        let before = Instant::now();
        let chunk = match timeout(limits.silence, self.response.chunk()).await {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => {
                let why = chain(&error.without_url());
                return Err(Stop::Again(RegistryError::Unreachable { host: self.host.clone(), why }, None));
            }
            Err(_) => {
                let seconds = limits.silence.as_secs();
                return Err(RegistryError::Silent { host: self.host.clone(), seconds }.into());
            }
        };
        let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if chunk.is_some() && !self.pace.is_fast_enough(before.elapsed(), bytes, limits.window) {
            return Err(RegistryError::Slow { host: self.host.clone() }.into());
        }
        Ok(chunk)
    }

    /// All of it; `None` if it is longer than `limit` bytes.
    pub(super) async fn read_up_to(mut self, limit: u64, limits: &Limits) -> Result<Option<Vec<u8>>, Stop> {
        if self.response.content_length().is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next(limits).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }
}
