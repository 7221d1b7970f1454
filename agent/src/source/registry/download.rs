//! Owns the bytes of one blob, through as many connections as it takes, hashed as they pass. Must not own what they mean.
//! Nothing is written anywhere: a download that is cut short leaves nothing behind.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use driftlock_common::digest::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::Digest as _;

use super::super::problem::Problem;
use super::body::Body;
use super::client::{Client, Request, Stop, Tries};
use super::error::RegistryError;
use super::range;
use super::route;

/// A blob on its way in. It ends only if size and digest are those of its descriptor; else with an error.
#[derive(Debug)]
pub(super) struct Download<'a> {
    client: &'a Client,
    rest: String,
    digest: Digest,
    size: u64,
    body: Option<Body>,
    chunk: Bytes,
    /// What a server that does not know ranges sends again.
    skip: u64,
    taken: u64,
    sha256: sha2::Sha256,
    tries: Tries,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Verified,
    Failed,
}

impl<'a> Download<'a> {
    pub(super) fn new(client: &'a Client, digest: Digest, size: u64) -> Self {
        Self {
            client,
            rest: format!("blobs/sha256:{digest}"),
            digest,
            size,
            body: None,
            chunk: Bytes::new(),
            skip: 0,
            taken: 0,
            sha256: sha2::Sha256::new(),
            tries: Tries::default(),
            state: State::Open,
        }
    }

    /// Reads what is left and checks it. A problem that was given before is not given again, but that it is another blob:
    /// who read ahead may have met that and not come to it.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        while self.state == State::Open {
            let length = self.fill()?;
            self.pass(length, |_| ());
        }
        if self.taken == self.size { self.verify() } else { Ok(()) }
    }

    /// How many bytes are at hand; none at the end.
    fn fill(&mut self) -> Result<usize, Problem> {
        match self.state {
            State::Verified => return Ok(0),
            State::Failed => return Err(Problem::Device(io::Error::other("the download has failed before"))),
            State::Open => {}
        }
        let client = self.client;
        let filled = client.wait(self.receive());
        if filled.is_err() {
            self.state = State::Failed;
        }
        filled
    }

    async fn receive(&mut self) -> Result<usize, Problem> {
        while self.chunk.is_empty() {
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match body.next(&self.client.limits).await {
                Ok(Some(chunk)) => self.receive_chunk(chunk)?,
                Ok(None) if self.taken == self.size => return self.verify().map(|()| 0),
                // Whoever says neither how long a body is nor where it ends may have been cut off.
                Ok(None) => {
                    let (host, why) = (body.host().to_owned(), "the body ends too early".to_owned());
                    self.again(Stop::Again(RegistryError::Unreachable { host, why }, None)).await?;
                }
                Err(stop) => self.again(stop).await?,
            }
        }
        Ok(self.chunk.len())
    }

    fn receive_chunk(&mut self, mut chunk: Bytes) -> Result<(), Problem> {
        let length = chunk.len() as u64;
        let skipped = self.skip.min(length);
        self.skip -= skipped;
        chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
        if chunk.len() as u64 > self.size - self.taken {
            let host = self.body.as_ref().map(|body| body.host().to_owned()).unwrap_or_default();
            return Err(RegistryError::TooLong { host, size: self.size }.into());
        }
        self.chunk = chunk;
        Ok(())
    }

    async fn again(&mut self, stop: Stop) -> Result<(), Problem> {
        self.body = None;
        Ok(self.client.pause(stop, &mut self.tries).await?)
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<(), Problem> {
        let request = Request { rest: &self.rest, accept: None, from: self.taken };
        let response = self.client.ask(request, &mut self.tries).await?.ok_or(Problem::Missing)?;
        self.skip = self.check(&response)?;
        let host = route::host(response.url());
        self.body = Some(Body::new(response, host));
        Ok(())
    }

    /// How much of an answer is known already.
    fn check(&self, response: &Response) -> Result<u64, Problem> {
        let field = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let range = field.and_then(range::parse);
        let wrong = || RegistryError::Range { host: route::host(response.url()), from: self.taken };
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = range.ok_or_else(wrong)?;
                let fits = range.range == self.size.checked_sub(1).map(|last| (self.taken, last))
                    && range.length.is_none_or(|length| length == self.size);
                if self.taken == 0 || !fits {
                    return Err(wrong().into());
                }
                0
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let found = range.and_then(|range| range.length).unwrap_or(self.taken);
                return Err(Problem::WrongSize { expected: self.size, found });
            }
            _ => self.taken,
        };
        let expected = self.size - (self.taken - skip);
        match response.content_length() {
            Some(found) if found != expected => {
                let before = self.taken - skip;
                Err(Problem::WrongSize { expected: self.size, found: found.saturating_add(before) })
            }
            _ => Ok(skip),
        }
    }

    fn verify(&mut self) -> Result<(), Problem> {
        let found = Digest::from_bytes(self.sha256.clone().finalize().into());
        if found != self.digest {
            return Err(Problem::WrongDigest { found });
        }
        self.state = State::Verified;
        Ok(())
    }

    /// Gives the next bytes away.
    fn pass(&mut self, length: usize, give: impl FnOnce(&[u8])) {
        let bytes = self.chunk.split_to(length.min(self.chunk.len()));
        self.sha256.update(&bytes);
        self.taken += bytes.len() as u64;
        give(&bytes);
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.fill().map_err(Problem::into_io)?.min(buffer.len());
        self.pass(length, |bytes| buffer[..length].copy_from_slice(bytes));
        Ok(length)
    }
}
