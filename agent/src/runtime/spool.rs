//! Owns the way of events from the loop to the collector: collected here, put on disk together, sent when they are there.
//! At most one write and one batch are under way. What is on disk goes to the sinks too. Must not own their formats, or when
//! something is an event.

use std::time::{Duration, Instant};

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{Body, Event, Heartbeat, MAX_BATCH_BYTES, SOURCE_PREFIX};
use tokio::task::JoinHandle;

use crate::config::Endpoint;
use crate::deliver::{Client, Courier, Reply, Verdict};
use crate::failure::Failure;
use crate::journal::{Batch, Entry, Journal, JournalError};
use crate::monitor::Now;
use crate::sink::Sinks;

/// Events that wait for a disk that fails; over this they are given up, and everything is told anew once it works.
const MAX_PENDING: usize = 100_000;
/// A disk that failed is tried again after this.
const DISK_PAUSE: Duration = Duration::from_secs(2);

/// The events on their way.
pub(super) struct Spool {
    /// `None` while a turn has it, and after one was lost.
    journal: Option<Journal>,
    turn: Option<JoinHandle<Turn>>,
    sinks: Sinks,
    client: Option<Client>,
    sending: Option<(JoinHandle<Reply>, usize, u64)>,
    courier: Courier,
    began: Instant,
    /// Not on disk yet.
    pending: Vec<Entry>,
    /// What the last turn read, to be sent next.
    batch: Option<Batch>,
    beat: Option<(Heartbeat, String)>,
    beats: u64,
    acknowledged: Option<u64>,
    /// When the collector last answered as it should.
    answered: Option<Instant>,
    new_epoch: bool,
    disk_after: Option<Instant>,
    /// Events were given up: everything is told anew as soon as the collector has taken what waits.
    owed: bool,
    /// The sequence with which everything was told anew, until the collector has it; the highest there is before that is on
    /// disk. Until then it asks for it in every answer.
    telling: Option<u64>,
    /// What is told anew waits for the collector to make room.
    waits_for_room: bool,
    stamp: Stamp,
}

/// What the journal last said of itself.
#[derive(Clone, Debug, Default)]
struct Stamp {
    host: String,
    epoch: String,
    sequence: u64,
    delivered: bool,
    undelivered: u64,
}

/// What the loop has to know after something happened here.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) troubles: Vec<(ConditionReason, Option<String>)>,
    pub(super) resync: bool,
}

/// A visit of the journal to a thread that may block.
struct Turn {
    journal: Journal,
    /// What is still not on disk.
    left: Vec<Entry>,
    /// Whether that is because there is no room for a snapshot.
    waits_for_room: bool,
    batch: Option<Batch>,
    dropped: u64,
    error: Option<JournalError>,
    renewed: bool,
}

impl Spool {
    pub(super) fn new(journal: Journal, client: Option<Client>, sinks: Sinks) -> Self {
        let stamp = Stamp::of(&journal);
        Self {
            journal: Some(journal),
            turn: None,
            sinks,
            client,
            sending: None,
            courier: Courier::new(),
            began: Instant::now(),
            pending: Vec::new(),
            batch: None,
            beat: None,
            beats: 0,
            acknowledged: None,
            answered: None,
            new_epoch: false,
            disk_after: None,
            owed: false,
            telling: None,
            waits_for_room: false,
            stamp,
        }
    }

    /// Takes another way to the collector; what is under way is let go.
    pub(super) fn set_client(&mut self, client: Option<Client>) {
        self.client = client;
        self.waits_for_room = false;
        // Another one may not have been told.
        self.telling = None;
        if let Some((sending, ..)) = self.sending.take() {
            sending.abort();
        }
        self.courier = Courier::new();
    }

    /// Takes the same way with another credential. What is under way ends as it began.
    pub(super) fn renew_client(&mut self, client: Client) {
        self.client = Some(client);
        self.courier.hurry();
    }

    pub(super) fn record(&mut self, body: Body, now: Now) {
        if self.pending.len() >= MAX_PENDING {
            self.pending.clear();
            self.give_up();
        }
        if is_snapshot(&body) {
            self.telling = Some(u64::MAX);
        }
        self.pending.push(Entry { time: now.rfc3339(), body });
    }

    /// Only the last one is of interest.
    pub(super) fn beat(&mut self, beat: Heartbeat, now: Now) {
        self.beat = self.client.is_some().then(|| (beat, now.rfc3339()));
    }

    /// Starts what can be started, and waits for the next end of something. Dropping the future loses nothing.
    pub(super) async fn step(&mut self) -> Step {
        self.start_turn();
        self.start_sending();
        let disk = self.disk_after.filter(|_| self.turn.is_none());
        let courier = (self.sending.is_none() && self.wants_to_send()).then(|| self.began + self.courier.not_before());
        tokio::select! {
            biased;
            turn = join(self.turn.as_mut()) => self.turned(turn),
            reply = join(self.sending.as_mut().map(|(sending, ..)| sending)) => self.replied(reply),
            () = wait(disk) => {
                self.disk_after = None;
                Step::default()
            }
            () = wait(courier) => Step::default(),
            () = self.sinks.changed() => Step { troubles: self.sinks_say(), ..Step::default() },
        }
    }

    /// Delivers what can be delivered before `grace` has passed.
    pub(super) async fn flush(&mut self, grace: Duration) {
        self.courier.hurry();
        let attempts_end = async {
            let mut failed = false;
            while !self.is_done() && !failed {
                let sending = self.sending.is_some();
                let _nobody_left_to_tell = self.step().await;
                // One attempt is made; a collector that is down would only use up the time.
                failed = sending && self.sending.is_none() && self.courier.not_before() > self.began.elapsed();
            }
        };
        if tokio::time::timeout(grace, attempts_end).await.is_err() {
            tracing::warn!("stopped before everything was delivered; the rest is kept in the state directory");
        }
        self.sinks.finish(grace).await;
    }

    /// The host's id.
    pub(super) fn host(&self) -> &str {
        &self.stamp.host
    }

    /// The way to the collector, if there is one.
    pub(super) const fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Where the collector is; `None` if there is none.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.client.as_ref().map(Client::endpoint)
    }

    /// Events that wait for the collector, on disk or not yet.
    pub(super) fn undelivered(&self) -> u64 {
        self.stamp.undelivered + self.pending.len() as u64
    }

    /// How long ago the collector last answered as it should.
    pub(super) fn last_answer(&self) -> Option<Duration> {
        self.answered.map(|at| at.elapsed())
    }

    /// Remembers that the agent stopped as it was asked to. A journal that did not come back cannot.
    pub(super) fn stopped(&self) {
        if let Some(Err(error)) = self.journal.as_ref().map(Journal::stopped) {
            tracing::warn!(%error, "the next start will not know that this one stopped as asked");
        }
    }

    /// Something will not be told as an event.
    const fn give_up(&mut self) {
        self.owed = true;
        self.telling = None;
    }

    fn is_done(&self) -> bool {
        let written = self.pending.is_empty() && self.turn.is_none() && self.acknowledged.is_none();
        written && self.sending.is_none() && (self.client.is_none() || self.stamp.delivered)
    }

    fn wants_batch(&self) -> bool {
        self.client.is_some() && self.batch.is_none() && self.sending.is_none()
    }

    fn wants_to_send(&self) -> bool {
        self.client.is_some() && (self.batch.is_some() || self.beat.is_some())
    }

    fn start_turn(&mut self) {
        if self.disk_after.is_some_and(|after| Instant::now() < after) {
            return;
        }
        let read = self.wants_batch() && !self.stamp.delivered;
        let write = !self.pending.is_empty() && !self.waits_for_room;
        if !write && self.acknowledged.is_none() && !self.new_epoch && !read {
            return;
        }
        let Some(journal) = self.journal.take() else { return };
        let sinks = self.sinks.clone();
        let entries = std::mem::take(&mut self.pending);
        let acknowledged = self.acknowledged.take();
        let new_epoch = std::mem::take(&mut self.new_epoch);
        let max_events = self.wants_batch().then(|| self.courier.max_events());
        let keep = self.client.is_some();
        self.turn = Some(tokio::task::spawn_blocking(move || {
            turn(journal, &sinks, entries, acknowledged, new_epoch, max_events, keep)
        }));
    }

    fn turned(&mut self, turn: Result<Turn, tokio::task::JoinError>) -> Step {
        self.turn = None;
        let mut step = Step::default();
        // A panic ends the process, so this is only the runtime going down.
        let Ok(turn) = turn else { return step };
        self.stamp = Stamp::of(&turn.journal);
        self.journal = Some(turn.journal);
        self.batch = self.batch.take().or(turn.batch);
        self.waits_for_room = turn.waits_for_room && self.client.is_some();
        // What came meanwhile comes after what is left.
        let came = std::mem::replace(&mut self.pending, turn.left);
        self.pending.extend(came);
        if turn.renewed {
            // Batches of the old epoch mean nothing.
            self.batch = None;
            self.telling = None;
            step.resync = true;
        }
        if self.telling.is_some() && !self.pending.iter().any(|entry| is_snapshot(&entry.body)) {
            // Without a collector everything counts as delivered.
            self.telling = self.telling.map(|told| told.min(self.stamp.sequence)).filter(|_| !self.stamp.delivered);
        }
        step.troubles.extend(self.sinks_say());
        if turn.dropped > 0 {
            self.give_up();
            let detail = format!("{} events were given up; what is open is told again", turn.dropped);
            step.troubles.push((ConditionReason::SpoolOverflow, Some(detail)));
        }
        match turn.error {
            Some(error) => {
                self.disk_after = Some(Instant::now() + DISK_PAUSE);
                step.troubles.push((ConditionReason::SpoolFailed, Some(Failure::from(error).to_string())));
            }
            None => step.troubles.push((ConditionReason::SpoolFailed, None)),
        }
        if self.owed && self.client.is_some() && self.stamp.delivered && self.pending.is_empty() {
            self.owed = false;
            step.resync = true;
            step.troubles.push((ConditionReason::SpoolOverflow, None));
        }
        step
    }

    fn sinks_say(&self) -> Vec<(ConditionReason, Option<String>)> {
        self.sinks.news().into_iter().map(|detail| (ConditionReason::SinkFailed, detail)).collect()
    }

    fn start_sending(&mut self) {
        let Some(client) = &self.client else { return };
        if self.sending.is_some() || !self.wants_to_send() || self.began.elapsed() < self.courier.not_before() {
            return;
        }
        let mut batch = self.batch.take().unwrap_or_else(|| Batch { json: b"[]".to_vec(), events: 0, last: 0 });
        // Nothing but the events can then be what a batch is refused for.
        let alone = batch.events > 0 && self.courier.is_splitting();
        if let Some((mut beat, time)) = self.beat.take_if(|_| !alone) {
            self.beats += 1;
            beat.sequence = self.stamp.sequence;
            let event = self.stamp.unsequenced(self.beats, time, Body::Heartbeat(beat));
            add(&mut batch, &event);
        }
        let client = client.clone();
        let Batch { json, events, last } = batch;
        self.sending = Some((tokio::spawn(async move { client.send(json).await }), events, last));
    }

    fn replied(&mut self, reply: Result<Reply, tokio::task::JoinError>) -> Step {
        let mut step = Step::default();
        let (Some((_, events, last)), Ok(reply)) = (self.sending.take(), reply) else { return step };
        if matches!(reply, Reply::Answered(_)) {
            self.answered = Some(Instant::now());
        } else {
            tracing::info!(events, %reply, "not delivered");
        }
        let now = self.began.elapsed();
        let verdict = self.courier.reply(reply, events, last, self.stamp.sequence, now, random());
        let Verdict { acknowledged, unknown_past, resync, accepted, refused, rejected } = verdict;
        self.acknowledged = acknowledged;
        self.waits_for_room &= acknowledged.is_none();
        self.telling = self.telling.filter(|told| acknowledged.is_none_or(|sequence| sequence < *told));
        self.new_epoch |= unknown_past;
        step.resync = resync && self.telling.is_none();
        if unknown_past {
            tracing::warn!("the collector knows events that this state directory never gave: beginning a new epoch");
        }
        if accepted {
            step.troubles.push((ConditionReason::CollectorRefused, None));
        }
        step.troubles.extend(refused.map(|why| (ConditionReason::CollectorRefused, Some(why))));
        step.troubles.extend(rejected.map(|why| (ConditionReason::EventsRejected, Some(why))));
        step
    }
}

fn turn(
    mut journal: Journal,
    sinks: &Sinks,
    mut entries: Vec<Entry>,
    acknowledged: Option<u64>,
    new_epoch: bool,
    max_events: Option<usize>,
    keep: bool,
) -> Turn {
    let mut dropped = 0;
    let mut batch = None;
    let mut renewed = false;
    let mut waits_for_room = false;
    let mut work = |entries: &mut Vec<Entry>| -> Result<(), JournalError> {
        // A collector that comes later would take what was given up before it came for lost.
        if new_epoch || (keep && journal.is_untold()) {
            journal.new_epoch()?;
            renewed = true;
        } else if let Some(sequence) = acknowledged {
            journal.acknowledge(sequence)?;
        }
        // However much is open: what is told anew pushes nothing out, itself neither.
        let snapshot = entries.iter().position(|entry| is_snapshot(&entry.body)).filter(|_| journal.is_half_full());
        waits_for_room = snapshot == Some(0);
        let ready = &entries[..snapshot.unwrap_or(entries.len())];
        let appended = journal.append_and_tell(ready, |entry, json| {
            sinks.offer(&entry.body, &entry.time, json);
        })?;
        dropped = appended.dropped;
        entries.drain(..appended.entries);
        if !keep {
            // What is open is kept all the same.
            journal.tell_nobody()?;
        }
        if let Some(max_events) = max_events {
            batch = journal.batch(max_events)?;
        }
        Ok(())
    };
    let error = work(&mut entries).err();
    Turn { journal, left: entries, waits_for_room, batch, dropped, error, renewed }
}

const fn is_snapshot(body: &Body) -> bool {
    matches!(body, Body::TargetSnapshot(_))
}

/// Adds an event to a batch, if it fits.
fn add(batch: &mut Batch, event: &Event) {
    let Ok(json) = serde_json::to_vec(event) else { return };
    if batch.json.len() + json.len() + 2 > MAX_BATCH_BYTES {
        return;
    }
    batch.json.pop();
    if batch.json.len() > 1 {
        batch.json.push(b',');
    }
    batch.json.extend_from_slice(&json);
    batch.json.push(b']');
}

impl Stamp {
    fn of(journal: &Journal) -> Self {
        Self {
            host: journal.host().to_owned(),
            epoch: journal.epoch().to_owned(),
            sequence: journal.sequence(),
            delivered: journal.is_delivered(),
            undelivered: journal.undelivered(),
        }
    }

    fn unsequenced(&self, number: u64, time: String, body: Body) -> Event {
        Event {
            specversion: "1.0".to_owned(),
            id: format!("{}-h{number}", self.epoch),
            source: format!("{SOURCE_PREFIX}{}", self.host),
            time,
            epoch: self.epoch.clone(),
            sequence: None,
            datacontenttype: "application/json".to_owned(),
            body,
        }
    }
}

async fn join<T>(task: Option<&mut JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Only spreads delays, so a kernel without random numbers is no reason to stop.
pub(super) fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
