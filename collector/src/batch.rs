//! Owns reading a batch: bytes to events, each on its own, so that a bad one does not take the others with it.
//! What an agent may not say is refused here (`check`), and what it may not tolerate is an alert from here on
//! (`ruling`); what is past here the store takes as it is. Must not own HTTP, identity or storage.

mod check;
mod ruling;

use std::io::Read as _;

use driftlock_common::event::{Body, Event, Heartbeat, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Rejected};
use driftlock_common::path::Escaped;
use serde_json::value::RawValue;

pub use check::resolved_path;
use check::{MAX_NAME, check_event};
use ruling::heed;

use crate::clock::Timestamp;

/// The most bytes of JSON taken: the limit of the format, and room for what an agent may count otherwise
/// (brackets and commas between events).
pub const MAX_JSON: usize = MAX_BATCH_BYTES + 64 * 1024;
/// The largest zstd window, as a power of two: 8 MiB, what level 19 uses. More is refused before it is allocated.
const MAX_WINDOW_LOG: u32 = 23;

/// Events of one epoch: sequenced ones by sequence, then those without.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The epoch; absent if no event named one.
    pub epoch: Option<String>,
    /// The host's id as the agent claims it: information, not identity.
    pub source: String,
    /// Sequenced events, sorted; a sequence may occur twice.
    pub sequenced: Vec<Sequenced>,
    /// Heartbeats, in order.
    pub heartbeats: Vec<Beat>,
    /// What was refused for good.
    pub rejected: Vec<Rejected>,
}

/// An event that is kept.
#[derive(Clone, Debug)]
pub struct Sequenced {
    /// Its place in the epoch, from 1.
    pub sequence: u64,
    /// What it says; absent if it was refused, then only its sequence counts.
    pub event: Option<Kept>,
}

/// What an event says.
#[derive(Clone, Debug)]
pub struct Kept {
    /// When the agent saw it, by its own clock.
    pub time: Timestamp,
    /// Type and data.
    pub body: Body,
    /// The event as it was sent.
    pub json: String,
}

/// A sign of life.
#[derive(Clone, Debug)]
pub struct Beat {
    /// When the agent sent it, by its own clock.
    pub time: Timestamp,
    /// What it vouches for.
    pub heartbeat: Heartbeat,
}

/// Why a whole batch is refused.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// More bytes than [`MAX_JSON`] after decompression.
    #[error("the batch is larger than {MAX_JSON} bytes of JSON")]
    TooLarge,
    /// More than [`MAX_BATCH_EVENTS`].
    #[error("the batch has more than {MAX_BATCH_EVENTS} events")]
    TooMany,
    /// Not zstd, cut off, or a window over the limit.
    #[error("the body is not zstd that can be used")]
    Compression(#[source] std::io::Error),
    /// Not a JSON array.
    #[error("the body is not a JSON array of events")]
    Json(#[source] serde_json::Error),
}

/// Decompresses a body, never beyond [`MAX_JSON`].
///
/// # Errors
/// If it is not zstd, is cut off, wants too large a window, or holds more.
pub fn decompress(body: &[u8]) -> Result<Vec<u8>, BatchError> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(BatchError::Compression)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(BatchError::Compression)?;
    let mut json = Vec::new();
    decoder.take(MAX_JSON as u64 + 1).read_to_end(&mut json).map_err(BatchError::Compression)?;
    if json.len() > MAX_JSON { Err(BatchError::TooLarge) } else { Ok(json) }
}

/// Reads a batch.
///
/// # Errors
/// If it is not an array, too large, or has too many events. A bad event is no error: it is listed as rejected.
pub fn decode(json: &[u8]) -> Result<Batch, BatchError> {
    if json.len() > MAX_JSON {
        return Err(BatchError::TooLarge);
    }
    let events: Vec<&RawValue> = serde_json::from_slice(json).map_err(BatchError::Json)?;
    if events.len() > MAX_BATCH_EVENTS {
        return Err(BatchError::TooMany);
    }
    let mut batch = Batch::default();
    for raw in events {
        batch.take(raw.get());
    }
    batch.sequenced.sort_by_key(|event| event.sequence);
    Ok(batch)
}

impl Batch {
    fn take(&mut self, raw: &str) {
        match read_event(raw) {
            Ok((event, sequence, time)) => {
                if let Err(reason) = self.belongs(&event.epoch) {
                    self.reject(&event.id, reason);
                    return;
                }
                if self.source.is_empty() {
                    self.source = event.host_id().unwrap_or_default().chars().take(MAX_NAME).collect();
                }
                match (sequence, event.body) {
                    (Some(sequence), body) => {
                        let event = Some(Kept { time, body, json: raw.to_owned() });
                        self.sequenced.push(Sequenced { sequence, event });
                    }
                    (None, Body::Heartbeat(heartbeat)) => self.heartbeats.push(Beat { time, heartbeat }),
                    // `read_event` lets nothing else through.
                    (None, _) => self.reject(&event.id, "the event has no sequence".to_owned()),
                }
            }
            Err(refused) => {
                self.reject(&refused.id, refused.reason);
                // The sequence of a refused event still counts: it must not come again.
                if let (Some(epoch), Some(sequence)) = (refused.epoch, refused.sequence)
                    && self.belongs(&epoch).is_ok()
                {
                    self.sequenced.push(Sequenced { sequence, event: None });
                }
            }
        }
    }

    /// The first event that names an epoch decides which one the batch is of.
    fn belongs(&mut self, epoch: &str) -> Result<(), String> {
        match &self.epoch {
            None => {
                self.epoch = Some(epoch.to_owned());
                Ok(())
            }
            Some(known) if known == epoch => Ok(()),
            Some(_) => Err("the event is of another epoch than the batch".to_owned()),
        }
    }

    fn reject(&mut self, id: &str, reason: String) {
        let reason = Escaped(reason.as_bytes()).to_string().chars().take(256).collect();
        self.rejected.push(Rejected { id: id.chars().take(128).collect(), reason });
    }
}

struct Refused {
    id: String,
    epoch: Option<String>,
    sequence: Option<u64>,
    reason: String,
}

fn read_event(raw: &str) -> Result<(Event, Option<u64>, Timestamp), Refused> {
    match serde_json::from_str::<Event>(raw) {
        Ok(mut event) => match check_event(&event) {
            Ok((sequence, time)) => {
                heed(&mut event.body);
                Ok((event, sequence, time))
            }
            Err(reason) => Err(Refused {
                sequence: event.sequence_number().ok().flatten().filter(|n| is_sequence(*n)),
                epoch: Some(event.epoch).filter(|epoch| is_epoch(epoch)),
                id: event.id,
                reason,
            }),
        },
        Err(error) => Err(salvage(raw, &error)),
    }
}

/// What identifies an event; the rest may be anything, of any depth.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Envelope {
    id: serde_json::Value,
    epoch: serde_json::Value,
    sequence: serde_json::Value,
}

/// What identifies an event that cannot be understood.
fn salvage(raw: &str, error: &serde_json::Error) -> Refused {
    let envelope: Envelope = serde_json::from_str(raw).unwrap_or_default();
    let Envelope { id, epoch, sequence } = &envelope;
    let digits = sequence.as_str().filter(|s| s.len() == 20 && s.bytes().all(|b| b.is_ascii_digit()));
    Refused {
        id: id.as_str().unwrap_or_default().to_owned(),
        epoch: epoch.as_str().filter(|epoch| is_epoch(epoch)).map(str::to_owned),
        sequence: digits.and_then(|s| s.parse().ok()).filter(|n| is_sequence(*n)),
        reason: format!("not an event that this collector knows: {error}"),
    }
}

fn is_epoch(epoch: &str) -> bool {
    epoch.len() == 32 && epoch.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// From 1, and what the store's signed integers hold.
const fn is_sequence(sequence: u64) -> bool {
    sequence >= 1 && sequence <= i64::MAX.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: &str = r#"[{"specversion":"1.0","id":"00000000000000000000000000000001-00000000000000000001",
        "source":"urn:driftlock:host:a","time":"2026-01-01T00:00:00Z","epoch":"00000000000000000000000000000001",
        "sequence":"00000000000000000001","datacontenttype":"application/json",
        "type":"dev.driftlock.finding.opened.v1","data":{"target":"app","finding":{"path":"a\\xff","path_b64":"Yf8=",
        "change":"added","observed":{"type":"file","size":1,"mode":"0644"}},"opened_at":"2026-01-01T00:00:00Z","count":1}},
        {"specversion":"1.0","id":"00000000000000000000000000000001-h1","source":"urn:driftlock:host:a",
        "time":"2026-01-01T00:00:00Z","epoch":"00000000000000000000000000000001","datacontenttype":"application/json",
        "type":"dev.driftlock.agent.heartbeat.v1","data":{"host":"a","version":"1","interval_s":30,"sequence":1,
        "targets":[]}}]"#;

    #[test]
    fn the_events_that_are_spoiled_below_are_good() {
        let batch = decode(EVENTS.as_bytes()).unwrap();
        assert_eq!((batch.sequenced.len(), batch.heartbeats.len(), batch.rejected.len()), (1, 1, 0), "{batch:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_event_is_taken_or_rejected(spoiled in prop::collection::vec((0..EVENTS.len(), any::<u8>()), 1..4)) {
            let mut bytes = EVENTS.as_bytes().to_vec();
            for (at, byte) in spoiled {
                bytes[at] = byte;
            }
            let Ok(batch) = decode(&bytes) else { return Ok(()) };
            let count = serde_json::from_slice::<Vec<&RawValue>>(&bytes).unwrap().len();
            let taken = batch.sequenced.iter().filter(|event| event.event.is_some()).count();
            prop_assert_eq!(taken + batch.heartbeats.len() + batch.rejected.len(), count);
        }

        #[test]
        fn whatever_comes_is_decompressed_within_the_limit(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frame = zstd::encode_all(&body[..], 1).unwrap();
            prop_assert_eq!(decompress(&frame).unwrap(), body.clone());
            let last = frame.len() - 1;
            frame[last / 2] ^= 0x55;
            // Broken or not, it is no more than the limit.
            prop_assert!(decompress(&frame).is_ok_and(|json| json.len() <= MAX_JSON) || decompress(&frame).is_err());
        }
    }
}
