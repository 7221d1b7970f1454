//! Owns how a simulated agent delivers: its kept connection, and what an answer means to it. Must not own what it delivers,
//! or what goes wrong on the way.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, EVENTS_PATH};
use rustls::ClientConfig;

use super::model::{Batch, Model};
use super::wire::{Wire, head, request};
use crate::http;

/// What an agent does with its batches.
const ZSTD_LEVEL: i32 = 3;

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// What it knows.
    pub model: Model,
    /// How it connects: its certificate.
    pub config: Arc<ClientConfig>,
    /// To whom.
    pub address: SocketAddr,
    wire: Option<Wire>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is committed.
    Answered(Answer),
    /// It has to be sent again: for 429 and 503, and whatever happens to a connection.
    Again(String),
}

impl Agent {
    /// One that is not connected.
    pub const fn new(model: Model, config: Arc<ClientConfig>, address: SocketAddr) -> Self {
        Self { model, config, address, wire: None }
    }

    /// The kept connection, or a new one where it has ended.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn wire(&mut self) -> Result<&mut Wire> {
        let wire = match self.wire.take().filter(Wire::is_open) {
            Some(wire) => wire,
            None => self.another_wire().await?,
        };
        Ok(self.wire.insert(wire))
    }

    /// A connection beside the kept one.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn another_wire(&self) -> Result<Wire> {
        Wire::open(self.address, &self.config).await
    }

    /// Ends the kept connection.
    pub fn hang_up(&mut self) {
        self.wire = None;
    }

    /// Sends a batch over the kept connection.
    ///
    /// # Errors
    /// If it is refused in a way that no honest agent may be.
    pub async fn post(&mut self, batch: &Batch) -> Result<Reply> {
        let answer = match self.wire().await {
            Ok(wire) => wire.ask(&post(&batch.json)).await,
            Err(error) => Err(error),
        };
        if answer.is_err() {
            self.hang_up();
        }
        read(answer, batch)
    }

    /// Delivers once: the next batch, with a heartbeat. Gives whether it was taken.
    ///
    /// # Errors
    /// As [`Agent::post`].
    pub async fn deliver(&mut self, most: usize) -> Result<bool> {
        let batch = self.model.batch(most, true);
        match self.post(&batch).await? {
            Reply::Answered(answer) => {
                self.model.take(&answer);
                Ok(true)
            }
            Reply::Again(_) => Ok(false),
        }
    }
}

/// A batch as it is posted.
pub fn post(json: &[u8]) -> Vec<u8> {
    request("POST", EVENTS_PATH, &HEADERS, &compressed(json))
}

/// The same in two: what comes before the body, and the body.
pub fn post_in_two(json: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let body = compressed(json);
    (head("POST", EVENTS_PATH, &HEADERS, body.len()), body)
}

const HEADERS: [(&str, &str); 2] = [("content-type", BATCH_MEDIA_TYPE), ("content-encoding", "zstd")];

fn compressed(json: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(json, ZSTD_LEVEL).expect("memory can be compressed")
}

/// What an answer to a batch means.
///
/// # Errors
/// If it does not fit the batch, or refuses what an honest agent sent.
pub fn read(answer: Result<http::Answer>, batch: &Batch) -> Result<Reply> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Reply::Again(format!("{error:#}"))),
    };
    match answer.status {
        200 => {}
        429 | 503 => {
            let wait = answer.head.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
            ensure!(wait.is_some(), "{} that does not say when to come again: {:?}", answer.status, answer.head);
            return Ok(Reply::Again(answer.text()));
        }
        status => anyhow::bail!("{status} for a batch of an honest host: {}", answer.text()),
    }
    let answer: Answer = serde_json::from_slice(&answer.body)?;
    ensure!(answer.rejected.is_empty(), "rejected: {:?}", answer.rejected);
    ensure!(answer.accepted + answer.duplicates == batch.events, "{answer:?} for {} events", batch.events);
    if let Some((_, last)) = batch.sequences {
        ensure!(answer.ack >= last, "{answer:?} for events up to {last}");
    }
    Ok(Reply::Answered(answer))
}
