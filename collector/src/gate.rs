//! Owns how much is taken: from each host by a bucket of tokens, from all together by the bytes that are in flight. Who
//! comes too often, or when there is no room, is told when to come again before anything of theirs is in memory. Must not
//! own what is read. Time is given.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use driftlock_common::event::MAX_BATCH_EVENTS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::error::ApiError;

/// So many seconds' worth of events may come at once from a host that was quiet.
const BURST_S: u32 = 200;
/// Batches of one host that are under way at a time. An agent has one; another may follow a connection that broke.
const UNDER_WAY: u32 = 2;
/// Batches that are decompressed and parsed at a time, each of which may take some ten megabytes for a moment.
const DECODERS: usize = 4;
/// The longest that anyone is told to wait for room, in seconds.
const LONGEST_WAIT_S: u64 = 4;
/// Hosts that are known before those whose bucket is full are forgotten.
const KNOWN: usize = 1024;

/// How much is taken.
#[derive(Clone, Copy, Debug)]
pub struct GateLimits {
    /// Events in a second that a host may send for long; a KiB of JSON counts as one too.
    pub rate: u32,
    /// Bytes of batches, compressed or as JSON, that may be in memory at a time. As events they take up to ten times as
    /// much.
    pub bytes: usize,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self { rate: 500, bytes: 16 * 1024 * 1024 }
    }
}

/// The way in.
#[derive(Debug)]
pub(crate) struct Gate {
    rate: f64,
    hosts: Mutex<HashMap<String, Bucket>>,
    /// In KiB.
    room: Arc<Semaphore>,
    decoders: Semaphore,
}

/// What a host may still send. It may go into debt by what a batch turned out to hold, and pays that by waiting.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    under_way: u32,
}

/// The leave of a host to send a batch, and the room that it takes. Until it is dropped the batch is under way.
#[derive(Debug)]
pub(crate) struct Turn {
    gate: Arc<Gate>,
    host: String,
    room: Option<OwnedSemaphorePermit>,
}

impl Gate {
    pub(crate) fn new(limits: GateLimits) -> Arc<Self> {
        Arc::new(Self {
            rate: f64::from(limits.rate.max(1)),
            hosts: Mutex::default(),
            room: Arc::new(Semaphore::new(limits.bytes.div_ceil(1024).min(Semaphore::MAX_PERMITS))),
            decoders: Semaphore::new(DECODERS),
        })
    }

    /// Lets a host send one batch.
    ///
    /// # Errors
    /// 429 if it sent too much, or has batches under way.
    pub(crate) fn enter(self: &Arc<Self>, host: &str, now: Instant) -> Result<Turn, ApiError> {
        let burst = self.burst();
        let mut hosts = self.hosts();
        if hosts.len() >= KNOWN && !hosts.contains_key(host) {
            hosts.retain(|_, bucket| !bucket.is_as_new(now, self.rate, burst));
        }
        let bucket = hosts.entry(host.to_owned()).or_insert(Bucket { tokens: burst, at: now, under_way: 0 });
        bucket.refill(now, self.rate, burst);
        if bucket.under_way >= UNDER_WAY {
            let public = format!("{UNDER_WAY} batches of this host are under way; send one after the other");
            return Err(too_many("under_way", public, Duration::from_secs(1)));
        }
        if bucket.tokens < 1.0 {
            let after = Duration::from_secs_f64(((1.0 - bucket.tokens) / self.rate).ceil());
            return Err(too_many("rate", "this host sent more than it may", after));
        }
        bucket.tokens -= 1.0;
        bucket.under_way += 1;
        drop(hosts);
        Ok(Turn { gate: Arc::clone(self), host: host.to_owned(), room: None })
    }

    /// Waits for leave to decompress and parse a batch.
    pub(crate) async fn decoder(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.decoders.acquire().await.map_err(|_| crate::store::StoreError::Closed.into())
    }

    fn burst(&self) -> f64 {
        self.rate * f64::from(BURST_S)
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant, rate: f64, burst: f64) {
        self.tokens = rate.mul_add(now.saturating_duration_since(self.at).as_secs_f64(), self.tokens).min(burst);
        self.at = now;
    }

    /// Whether a new one would be the same.
    fn is_as_new(&self, now: Instant, rate: f64, burst: f64) -> bool {
        let tokens = rate.mul_add(now.saturating_duration_since(self.at).as_secs_f64(), self.tokens);
        self.under_way == 0 && tokens >= burst
    }
}

impl Turn {
    /// Takes room for so many bytes in place of what it has.
    ///
    /// # Errors
    /// 429 if there is none; what it has stays.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), ApiError> {
        let wanted = bytes.div_ceil(1024);
        let has = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted < has {
            drop(self.room.as_mut().and_then(|room| room.split(has - wanted)));
            return Ok(());
        }
        let more = u32::try_from(wanted - has).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.gate.room).try_acquire_many_owned(more).map_err(|_| no_room())?;
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        Ok(())
    }

    /// Counts what a batch held: events or KiB, of which there are more.
    pub(crate) fn pay(&self, events: usize, bytes: usize) {
        self.charge(events.max(bytes / 1024));
    }

    /// Counts a batch that cannot be read as the largest one, so that it is not cheaper to send nonsense.
    pub(crate) fn pay_for_nonsense(&self) {
        self.charge(MAX_BATCH_EVENTS);
    }

    fn charge(&self, tokens: usize) {
        if let Some(bucket) = self.gate.hosts().get_mut(&self.host) {
            bucket.tokens -= f64::from(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(bucket) = self.gate.hosts().get_mut(&self.host) {
            bucket.under_way = bucket.under_way.saturating_sub(1);
        }
    }
}

fn no_room() -> ApiError {
    // Not all at once when there is room again.
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.subsec_nanos());
    let after = Duration::from_secs(1 + u64::from(nanos / 1000) % LONGEST_WAIT_S);
    too_many("busy", "the collector has as much under way as it takes", after)
}

fn too_many(code: &'static str, public: impl Into<String>, after: Duration) -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, public).retry_after(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(rate: u32, bytes: usize) -> Arc<Gate> {
        Gate::new(GateLimits { rate, bytes })
    }

    fn refused(result: Result<Turn, ApiError>) -> (String, u64) {
        let error = result.unwrap_err();
        (error.code().to_owned(), error.seconds_to_wait().unwrap())
    }

    #[test]
    fn a_host_that_sent_too_much_waits_as_long_as_it_takes_to_pay_and_no_other_does() {
        let (gate, now) = (gate(10, 1 << 20), Instant::now());
        // The burst, in batches of any size; the last goes into debt.
        for _ in 0..3 {
            gate.enter("a", now).unwrap().pay(900, 0);
        }
        assert_eq!(refused(gate.enter("a", now)), ("rate".to_owned(), 71));
        let later = now + Duration::from_secs(70);
        assert_eq!(refused(gate.enter("a", later)), ("rate".to_owned(), 1));
        gate.enter("b", now).unwrap().pay(0, 1024 * 1990);
        drop(gate.enter("b", now).unwrap());
        let later = now + Duration::from_secs(71);
        gate.enter("a", later).unwrap().pay(100, 0);
        assert_eq!(refused(gate.enter("a", later)), ("rate".to_owned(), 10));
        // What was saved up has a bound.
        let much_later = now + Duration::from_secs(100_000);
        gate.enter("a", much_later).unwrap().pay(1999, 0);
        assert_eq!(refused(gate.enter("a", much_later)), ("rate".to_owned(), 1));
    }

    #[test]
    fn nonsense_costs_as_much_as_a_full_batch() {
        let (gate, now) = (gate(5, 1 << 20), Instant::now());
        for _ in 0..2 {
            gate.enter("a", now).unwrap().pay_for_nonsense();
        }
        assert_eq!(refused(gate.enter("a", now)).0, "rate");
    }

    #[test]
    fn a_host_has_few_batches_under_way() {
        let (gate, now) = (gate(10, 1 << 20), Instant::now());
        let (first, second) = (gate.enter("a", now).unwrap(), gate.enter("a", now).unwrap());
        assert_eq!(refused(gate.enter("a", now)), ("under_way".to_owned(), 1));
        drop(gate.enter("b", now).unwrap());
        drop(first);
        let third = gate.enter("a", now).unwrap();
        drop((second, third));
    }

    #[test]
    fn room_is_taken_by_what_is_there_and_given_back() {
        let (gate, now) = (gate(10, 8 * 1024), Instant::now());
        let mut first = gate.enter("a", now).unwrap();
        first.hold(1).unwrap();
        first.hold(5000).unwrap();
        first.hold(5120).unwrap();
        let mut second = gate.enter("b", now).unwrap();
        second.hold(3 * 1024).unwrap();
        let refused = second.hold(3 * 1024 + 1).unwrap_err();
        assert_eq!((refused.status(), refused.code()), (StatusCode::TOO_MANY_REQUESTS, "busy"));
        assert!((1..=LONGEST_WAIT_S).contains(&refused.seconds_to_wait().unwrap()));
        first.hold(1024).unwrap();
        second.hold(7 * 1024).unwrap();
        drop(second);
        first.hold(8 * 1024).unwrap();
        drop(first);
        assert_eq!(gate.room.available_permits(), 8);
    }

    #[test]
    fn hosts_that_are_quiet_are_forgotten() {
        let (gate, now) = (gate(10, 1 << 20), Instant::now());
        for host in 0..KNOWN {
            drop(gate.enter(&host.to_string(), now).unwrap());
        }
        let later = now + Duration::from_secs(1);
        drop(gate.enter("x", later).unwrap());
        assert_eq!(gate.hosts().len(), 1);
    }
}
