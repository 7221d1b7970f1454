//! Owns delivering what a run has to say that leaves no state behind: an epoch of its own, held in memory until all of it is
//! acknowledged, or it is sure that it will not be. Must not own what is said.

use std::time::{Duration, Instant};

use driftlock_common::event::{Body, Event, Heartbeat, MAX_BATCH_BYTES, SOURCE_PREFIX, Stopped, sequence_text};
use driftlock_common::host_name::HostName;

use super::{Client, Courier, Reply};

/// What one run has to say.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who says it.
    pub host: HostName,
    /// RFC 3339: when.
    pub time: String,
    /// In order.
    pub bodies: Vec<Body>,
    /// Goes with the last of them; its `sequence` is set here.
    pub beat: Heartbeat,
    /// What ends it.
    pub stopped: Stopped,
}

/// Why it is not delivered, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The collector refuses who says it.
    #[error("the collector refuses: {0}")]
    Refused(String),
    /// The collector refuses what is said.
    #[error("the collector does not take it: {0}")]
    Rejected(String),
    /// There was no answer, or none that helps.
    #[error("not within {0} s: {1}")]
    Late(u64, String),
    /// The system has no randomness to tell this run from another by.
    #[error("the system has no randomness: {0}")]
    Random(getrandom::Error),
}

/// Events of one epoch, and how far they got.
struct Sending<'a> {
    client: &'a Client,
    courier: Courier,
    began: Instant,
    patience: Duration,
    /// From sequence 1 on, as JSON.
    events: Vec<Vec<u8>>,
    acknowledged: usize,
}

/// Delivers everything, or says why not.
///
/// # Errors
/// If anything of it is not acknowledged after `patience`, or will never be.
pub async fn deliver(client: &Client, report: Report, patience: Duration) -> Result<(), Undelivered> {
    let mut epoch = [0; 16];
    getrandom::fill(&mut epoch).map_err(Undelivered::Random)?;
    let epoch = hex::encode(epoch);
    let Report { host, time, bodies, mut beat, stopped } = report;
    let event = |id: String, sequence: Option<String>, body: Body| {
        let event = Event {
            specversion: "1.0".to_owned(),
            id: format!("{epoch}-{id}"),
            source: format!("{SOURCE_PREFIX}{host}"),
            time: time.clone(),
            epoch: epoch.clone(),
            sequence,
            datacontenttype: "application/json".to_owned(),
            body,
        };
        serde_json::to_vec(&event).expect("an event is strings, numbers and lists of them")
    };
    let sequenced = |(index, body): (usize, Body)| {
        let text = sequence_text(index as u64 + 1);
        event(text.clone(), Some(text), body)
    };
    let said = bodies.len();
    beat.sequence = said as u64;
    let events = bodies.into_iter().chain([Body::Stopped(stopped)]).enumerate().map(sequenced).collect();
    let beat = event("h1".to_owned(), None, Body::Heartbeat(beat));
    let courier = Courier::new();
    let mut sending = Sending { client, courier, began: Instant::now(), patience, events, acknowledged: 0 };
    sending.all_up_to(said, Some(&beat)).await?;
    // Alone: a sign of life in the same batch would count as one that came after it.
    sending.all_up_to(said + 1, None).await
}

impl Sending<'_> {
    async fn all_up_to(&mut self, end: usize, beat: Option<&[u8]>) -> Result<(), Undelivered> {
        let mut why = "no answer".to_owned();
        while self.acknowledged < end {
            let left = self.patience.saturating_sub(self.began.elapsed());
            let wait = self.courier.not_before().saturating_sub(self.began.elapsed());
            if wait >= left {
                return Err(Undelivered::Late(self.patience.as_secs(), why));
            }
            tokio::time::sleep(wait).await;
            let (batch, last) = self.batch(end, beat);
            let events = last - self.acknowledged;
            let Ok(reply) = tokio::time::timeout(left - wait, self.client.send(batch)).await else {
                return Err(Undelivered::Late(self.patience.as_secs(), why));
            };
            if !matches!(reply, Reply::Answered(_)) {
                why = reply.to_string();
            }
            let (now, given) = (self.began.elapsed(), self.events.len() as u64);
            let random = getrandom::u32().unwrap_or(u32::MAX / 2);
            let verdict = self.courier.reply(reply, events, last as u64, given, now, random);
            if let Some(why) = verdict.refused {
                return Err(Undelivered::Refused(why));
            }
            if let Some(why) = verdict.rejected {
                return Err(Undelivered::Rejected(why));
            }
            let acknowledged = verdict.acknowledged.and_then(|sequence| usize::try_from(sequence).ok());
            self.acknowledged = self.acknowledged.max(acknowledged.unwrap_or(0));
        }
        Ok(())
    }

    /// A JSON array of what comes next, and the sequence of its last event.
    fn batch(&self, end: usize, beat: Option<&[u8]>) -> (Vec<u8>, usize) {
        let mut json = vec![b'['];
        let mut last = self.acknowledged;
        for event in self.events.iter().take(end).skip(self.acknowledged).take(self.courier.max_events()) {
            if last > self.acknowledged && json.len() + event.len() + 2 > MAX_BATCH_BYTES {
                break;
            }
            if last > self.acknowledged {
                json.push(b',');
            }
            json.extend_from_slice(event);
            last += 1;
        }
        if let Some(beat) = beat.filter(|_| last == end) {
            json.push(b',');
            json.extend_from_slice(beat);
        }
        json.push(b']');
        (json, last)
    }
}
