//! Owns the agent's state directory: its identity, the events that the collector has not acknowledged, and what is open.
//! An event counts as given when it is on disk; an event and the state it makes are one record. Must not own sending, or
//! deciding what is an event.
//!
//! On disk: `lock`, held by the one agent; `host`, the host's id; `checkpoint`, the state up to a sequence; and segments
//! `EPOCH-FIRST.log` of records that only grow. State is the fold of events over the checkpoint, so nothing of it is held
//! in memory. A checkpoint is made when the segments since the last one have grown to its size, so that at most twice as
//! much is written for checkpoints as for events, however much is open. What is torn at the very end was never given and is
//! cut off; what is damaged anywhere else ends the epoch: the collector is then told everything anew.

mod checkpoint;
mod directory;
mod frame;
mod segment;
mod starts;
mod state;

#[cfg(test)]
mod faults;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use driftlock_common::event::{Body, ConditionBody, Event, FindingBody, MAX_BATCH_BYTES, SOURCE_PREFIX, sequence_text};
use driftlock_common::exit::Exit;

use crate::failure::Failure;
use checkpoint::Checkpoint;
pub(crate) use directory::LOCK;
use directory::{Directory, UNTOLD};
use frame::Record;
use segment::{Segment, Tail};
pub use starts::Starts;
use state::State;

/// A segment that has grown to this, in bytes, is closed.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// The most bytes written before the next flush, so that a large report does not hold up the first of it.
const MAX_WRITE: u64 = 4 * 1024 * 1024;

/// The state directory, while this agent holds it.
#[derive(Debug)]
pub struct Journal {
    directory: Directory,
    host: String,
    epoch: String,
    /// Closed segments and, last, the one that grows. Empty until the first event.
    segments: VecDeque<Segment>,
    /// The highest sequence given.
    sequence: u64,
    /// The highest sequence acknowledged.
    acked: u64,
    /// Where the first event after `acked` may stand.
    cursor: Cursor,
    /// What the checkpoint on disk holds.
    checkpointed: Checkpointed,
    /// Bound of all segments together, in bytes.
    limit: u64,
    /// Events that were given up to make room, and not said yet: what was to be written instead failed.
    dropped: u64,
    /// Whether events of this epoch were given up because there was no collector to tell.
    untold: bool,
    /// `None` if they cannot be counted, as on a full disk.
    starts: Option<Starts>,
}

/// A place in the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    /// From the first one there is.
    segment: usize,
    /// In bytes.
    offset: u64,
}

/// A checkpoint on disk.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpointed {
    /// The sequence up to which it has everything.
    sequence: u64,
    /// In bytes.
    len: u64,
}

/// An event that has no sequence yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// RFC 3339.
    pub time: String,
    /// What it says.
    pub body: Body,
}

/// What was found in the state directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What was open.
    pub findings: Vec<FindingBody>,
    /// What was wrong.
    pub conditions: Vec<ConditionBody>,
    /// What of it had to be given up, in one line; empty if nothing.
    pub damage: String,
}

/// Events to be sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// A JSON array of events.
    pub json: Vec<u8>,
    /// How many.
    pub events: usize,
    /// The highest sequence among them.
    pub last: u64,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// How many of the entries are on disk now, from the first.
    pub entries: usize,
    /// How many waiting events were dropped to make room.
    pub dropped: u64,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent holds it.
    #[error("{} is in use by another agent", .0.display())]
    Locked(PathBuf),
    /// It cannot be made.
    #[error("{}", .0.display())]
    Create(PathBuf, #[source] io::Error),
    /// Reading or writing in it failed.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// No random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Journal {
    /// Takes the state directory, and makes it if it is not there. `host` overrides its identity.
    ///
    /// # Errors
    /// If another agent holds it, or it cannot be read or written.
    pub fn open(path: &Path, host: Option<&str>, limit: u64) -> Result<(Self, Recovered), JournalError> {
        let directory = Directory::open(path)?;
        let host = match host {
            Some(host) => host.to_owned(),
            None => directory.host_id()?,
        };
        let starts =
            Starts::begin(&directory).inspect_err(|error| tracing::warn!(%error, "this start is not counted")).ok();
        let mut journal = Self {
            starts,
            directory,
            host,
            epoch: String::new(),
            segments: VecDeque::new(),
            sequence: 0,
            acked: 0,
            cursor: Cursor::default(),
            checkpointed: Checkpointed::default(),
            limit,
            dropped: 0,
            untold: false,
        };
        let recovered = match journal.recover()? {
            Ok(state) => {
                let (findings, conditions) = state.into_open();
                Recovered { findings, conditions, damage: String::new() }
            }
            Err(damage) => {
                journal.new_epoch()?;
                Recovered { damage, ..Recovered::default() }
            }
        };
        journal.untold = journal.directory.read(UNTOLD)?.is_some_and(|epoch| epoch == journal.epoch.as_bytes());
        Ok((journal, recovered))
    }

    /// The host's id.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The epoch.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The highest sequence given in this epoch; 0 if none.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often an agent was started with this directory; `None` if they cannot be counted.
    pub const fn starts(&self) -> Option<Starts> {
        self.starts
    }

    /// Remembers that the agent stopped as it was asked to.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn stopped(&self) -> Result<(), JournalError> {
        self.starts.map_or(Ok(()), |starts| starts.end(&self.directory))
    }

    /// Whether events of this epoch were given up because there was no collector to tell. One that comes now must not miss them.
    pub const fn is_untold(&self) -> bool {
        self.untold
    }

    /// Whether every event is acknowledged.
    pub const fn is_delivered(&self) -> bool {
        self.acked == self.sequence
    }

    /// Whether what waits takes up more than half of the room.
    pub fn is_half_full(&self) -> bool {
        let waiting = self.segments.iter().skip(self.cursor.segment).map(Segment::len).sum::<u64>();
        waiting.saturating_sub(self.cursor.offset) > self.limit / 2
    }

    /// Events that are not acknowledged.
    pub const fn undelivered(&self) -> u64 {
        self.sequence.saturating_sub(self.acked)
    }

    /// Device and inode of the directory.
    ///
    /// # Errors
    /// If that cannot be told.
    pub fn identity(&self) -> Result<(u64, u64), JournalError> {
        self.directory.identity()
    }

    /// Puts entries on disk, as many as fit into one write, and flushes them. If there is no room, everything that waits is
    /// given up first: what is open is not lost by that, a snapshot says it.
    ///
    /// # Errors
    /// If they are not on disk. They have no sequence then, and may be given again.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Appended, JournalError> {
        self.append_and_tell(entries, |_, _| {})
    }

    /// As [`Journal::append`]; `given` is told each entry that is on disk now, with its event's JSON.
    ///
    /// # Errors
    /// As [`Journal::append`]; nothing is told then.
    pub fn append_and_tell(
        &mut self,
        entries: &[Entry],
        mut given: impl FnMut(&Entry, &[u8]),
    ) -> Result<Appended, JournalError> {
        let mut bytes = Vec::new();
        let mut written = 0;
        for entry in entries {
            let event = self.event(entry, self.sequence + 1 + written as u64);
            frame::put(&mut bytes, &Record::Event(event));
            written += 1;
            if bytes.len() as u64 > MAX_WRITE.min(self.limit / 4) {
                break;
            }
        }
        if written == 0 {
            return Ok(Appended { entries: 0, dropped: 0 });
        }
        let room = self.limit.saturating_sub(bytes.len() as u64);
        if self.bytes() > room {
            // What nobody waits for goes first.
            self.checkpoint()?;
        }
        if self.bytes() > room {
            self.dropped += self.sequence - self.acked;
            self.acked = self.sequence;
            self.checkpoint()?;
        }
        if self.segments.back().is_none_or(|segment| segment.len() > SEGMENT_BYTES) {
            if self.bytes_since_checkpoint() > self.checkpointed.len.max(SEGMENT_BYTES) {
                self.checkpoint()?;
            }
            self.segments.push_back(Segment::create(&self.directory, &self.epoch, self.sequence + 1)?);
        }
        let last = self.sequence + written as u64;
        if let Some(segment) = self.segments.back_mut() {
            segment.append(&bytes, last)?;
        }
        self.sequence = last;
        for (entry, (record, _)) in entries.iter().zip(frame::records(&bytes)) {
            if let Record::Event(event) = record {
                given(entry, &event.json);
            }
        }
        Ok(Appended { entries: written, dropped: std::mem::take(&mut self.dropped) })
    }

    /// The next events to send, at most `max_events`; `None` if all are acknowledged.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn batch(&mut self, max_events: usize) -> Result<Option<Batch>, JournalError> {
        let mut batch = Batch { json: vec![b'['], events: 0, last: 0 };
        let Cursor { segment, offset: mut from } = self.cursor;
        for segment in self.segments.iter().skip(segment) {
            for (record, _) in frame::records(&segment.read(from)?) {
                let Record::Event(event) = record else { continue };
                if event.sequence <= self.acked {
                    continue;
                }
                let full = batch.events == max_events || batch.json.len() + event.json.len() + 2 > MAX_BATCH_BYTES;
                if full && batch.events > 0 {
                    return Ok(Some(batch.close()));
                }
                if batch.events > 0 {
                    batch.json.push(b',');
                }
                batch.json.extend_from_slice(&event.json);
                batch.events += 1;
                batch.last = event.sequence;
            }
            from = 0;
        }
        Ok((batch.events > 0).then(|| batch.close()))
    }

    /// Everything up to `sequence` is acknowledged, or given up. The note of it is not flushed: an event sent twice is a
    /// duplicate to the collector.
    ///
    /// # Errors
    /// If a segment cannot be read or written.
    pub fn acknowledge(&mut self, sequence: u64) -> Result<(), JournalError> {
        let sequence = sequence.min(self.sequence);
        if sequence <= self.acked {
            return Ok(());
        }
        self.acked = sequence;
        let growing = self.segments.len().saturating_sub(1);
        while self.cursor.segment < growing && self.segments[self.cursor.segment].last() <= sequence {
            self.cursor = Cursor { segment: self.cursor.segment + 1, offset: 0 };
        }
        if let Some(segment) = self.segments.get(self.cursor.segment) {
            for (record, end) in frame::records(&segment.read(self.cursor.offset)?) {
                match record {
                    Record::Event(event) if event.sequence > sequence => break,
                    Record::Event(_) | Record::Ack(_) => self.cursor.offset += end,
                }
            }
        }
        self.let_go(1)?;
        let mut bytes = Vec::new();
        frame::put(&mut bytes, &Record::Ack(sequence));
        match self.segments.back_mut() {
            Some(segment) => segment.note(&bytes),
            None => Ok(()),
        }
    }

    /// Gives up everything that waits: there is no collector to tell. That is remembered, also over a restart.
    ///
    /// # Errors
    /// As [`Journal::acknowledge`].
    pub fn tell_nobody(&mut self) -> Result<(), JournalError> {
        if !self.untold && self.acked < self.sequence {
            self.directory.replace(UNTOLD, self.epoch.as_bytes())?;
            self.untold = true;
        }
        self.acknowledge(self.sequence)
    }

    /// Begins another epoch: for damage, for a collector that was not told this one from its beginning, or a collector that knows events which this directory never gave.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new_epoch(&mut self) -> Result<(), JournalError> {
        self.epoch = directory::random_hex()?;
        self.sequence = 0;
        self.acked = 0;
        self.untold = false;
        self.cursor = Cursor::default();
        self.segments.clear();
        let fresh = Checkpoint { epoch: self.epoch.clone(), acked: 0, state: State::default() };
        self.checkpointed = Checkpointed { sequence: 0, len: fresh.write(&self.directory)? };
        // Segments of another epoch mean nothing any more, also if this is interrupted here.
        segment::remove_others(&self.directory, &self.epoch)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(Segment::len).sum()
    }

    fn bytes_since_checkpoint(&self) -> u64 {
        let since = self.segments.iter().filter(|segment| segment.last() > self.checkpointed.sequence);
        since.map(Segment::len).sum()
    }

    /// Removes the segments of which nothing waits and the checkpoint has everything, but for the last `keep`.
    fn let_go(&mut self, keep: usize) -> Result<(), JournalError> {
        let over = self.acked.min(self.checkpointed.sequence);
        while self.segments.len() > keep && self.segments.front().is_some_and(|segment| segment.last() <= over) {
            let gone = self.segments.pop_front();
            self.cursor = match self.cursor.segment.checked_sub(1) {
                Some(segment) => Cursor { segment, ..self.cursor },
                None => Cursor::default(),
            };
            if let Some(segment) = gone {
                segment.remove(&self.directory)?;
            }
        }
        Ok(())
    }

    fn event(&self, entry: &Entry, sequence: u64) -> frame::EventRecord {
        let text = sequence_text(sequence);
        let event = Event {
            specversion: "1.0".to_owned(),
            id: format!("{}-{text}", self.epoch),
            source: format!("{SOURCE_PREFIX}{}", self.host),
            time: entry.time.clone(),
            epoch: self.epoch.clone(),
            sequence: Some(text),
            datacontenttype: "application/json".to_owned(),
            body: entry.body.clone(),
        };
        let json = serde_json::to_vec(&event).expect("an event is strings, numbers and lists of them");
        frame::EventRecord { sequence, json }
    }

    /// Writes the state up to now, and removes the segments of which nothing waits.
    fn checkpoint(&mut self) -> Result<(), JournalError> {
        let mut checkpoint = match Checkpoint::read(&self.directory)? {
            Some(checkpoint) if checkpoint.epoch == self.epoch => checkpoint,
            // What is open is then said by the next snapshot.
            _ => Checkpoint { epoch: self.epoch.clone(), acked: 0, state: State::default() },
        };
        for segment in &self.segments {
            if segment.last() > checkpoint.state.sequence() {
                for (record, _) in frame::records(&segment.read(0)?) {
                    checkpoint.state.fold(&record);
                }
            }
        }
        checkpoint.acked = self.acked;
        let sequence = checkpoint.state.sequence();
        self.checkpointed = Checkpointed { sequence, len: checkpoint.write(&self.directory)? };
        self.let_go(0)
    }

    /// Reads everything back. The inner error says what is damaged.
    fn recover(&mut self) -> Result<Result<State, String>, JournalError> {
        let found = segment::list(&self.directory)?;
        let Some(checkpoint) = Checkpoint::read(&self.directory)? else {
            if self.directory.has_checkpoint() || !found.is_empty() {
                return Ok(Err("the checkpoint is damaged or missing".to_owned()));
            }
            self.new_epoch()?;
            return Ok(Ok(State::default()));
        };
        let Checkpoint { epoch, acked, mut state } = checkpoint;
        self.checkpointed = Checkpointed { sequence: state.sequence(), len: self.directory.checkpoint_len()? };
        self.epoch = epoch;
        self.acked = acked;
        segment::remove_others(&self.directory, &self.epoch)?;
        let mut segments: Vec<_> = found.into_iter().filter(|(name, ..)| *name == self.epoch).collect();
        segments.sort_by_key(|(_, first, _)| *first);
        let count = segments.len();
        let mut last = 0;
        for (index, (_, first, path)) in segments.into_iter().enumerate() {
            let bytes = std::fs::read(&path).map_err(|error| JournalError::Io(path.clone(), error))?;
            let mut good = 0;
            for (record, end) in frame::records(&bytes) {
                good += end;
                match &record {
                    Record::Event(event) if event.sequence <= last || event.sequence < first => {
                        return Ok(Err(format!("{}: events out of order", path.display())));
                    }
                    Record::Event(event) => last = event.sequence,
                    Record::Ack(ack) => self.acked = self.acked.max(*ack),
                }
                state.fold(&record);
            }
            match frame::tail(&bytes, good) {
                Tail::Clean => {}
                Tail::Torn if index + 1 == count => {}
                Tail::Torn | Tail::Damaged => {
                    return Ok(Err(format!("{}: damaged at byte {good}", path.display())));
                }
            }
            self.segments.push_back(Segment::reopen(path, good, last.max(first.saturating_sub(1)))?);
        }
        self.sequence = state.sequence().max(last);
        self.acked = self.acked.min(self.sequence);
        if last != 0 && last < state.sequence() && self.acked < state.sequence() {
            // What the checkpoint knows and nobody acknowledged is in no segment: a tail was lost that had been given.
            return Ok(Err("segments end before the checkpoint".to_owned()));
        }
        Ok(Ok(state))
    }
}

impl Batch {
    fn close(mut self) -> Self {
        self.json.push(b']');
        self
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let exit = match &error {
            JournalError::Locked(_) => Exit::Refused,
            JournalError::Create(..) => Exit::CannotCreate,
            JournalError::Io(..) | JournalError::Random(_) => Exit::Io,
        };
        Self::new(exit, error)
    }
}
