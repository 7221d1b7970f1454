//! Owns the ways of events to whoever is told besides the collector: a bounded queue and a thread for each, so that none of
//! them holds up anything, and what is to be said of one that does not take what it is given. Must not own what an event is.

mod file;
mod journald;
mod record;
mod stdout;
mod syslog;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use driftlock_common::event::Body;
use tokio::sync::Notify;

use crate::config;
use record::Record;

/// Events that may wait for one sink. Over this they are given up, and counted.
const MAX_WAITING: usize = 4096;
/// What waits for one sink may be so large, in bytes.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The first pause before what failed is tried again; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A sink works again if nothing went wrong for so long: of one that takes every second event nobody wants to hear all the
/// time, least of all in events that it is to take.
const SETTLED: Duration = Duration::from_secs(10);

/// What takes events, one after the other, on a thread of its own.
trait Drain: Send {
    /// Takes an event. If it is not taken it will be given again.
    fn take(&mut self, record: &Record) -> io::Result<()>;

    /// Whether nothing can be taken any more after that.
    fn is_over(&self, error: &io::Error) -> bool {
        let _any = error;
        false
    }
}

/// All sinks of an agent. Clones are the same sinks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sinks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    sinks: Vec<Sink>,
    /// See [`SETTLED`].
    settled: Duration,
    /// Something is to be said, perhaps.
    changed: Arc<Notify>,
    said: Mutex<Said>,
}

#[derive(Debug)]
struct Sink {
    name: String,
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// There is an event, or an end.
    more: Condvar,
    changed: Arc<Notify>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Record>>,
    bytes: usize,
    /// Nothing more comes.
    closed: bool,
    /// Nothing more is taken.
    over: bool,
    /// Why the last try failed; empty if it did not.
    trouble: String,
    /// When something last went wrong, until it is settled.
    wrong: Option<Instant>,
    /// Events that were given up since then.
    lost: u64,
}

/// What was said.
#[derive(Debug, Default)]
struct Said {
    /// Of which sinks, by their place, and how many events they had lost.
    failing: Vec<(usize, u64)>,
}

impl Sinks {
    /// Begins with those that are configured, for the host of this name.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn start(kinds: &BTreeSet<config::Sink>, host: &str) -> io::Result<Self> {
        let drains = kinds.iter().map(|kind| {
            let drain: Box<dyn Drain> = match kind {
                config::Sink::Stdout => Box::new(stdout::Lines(io::stdout())),
                config::Sink::File(path) => Box::new(file::Appended::to(path.clone())),
                config::Sink::Journald(path) => Box::new(journald::Journal::at(path.clone())),
                config::Sink::Syslog(settings) => Box::new(syslog::Receiver::of(settings.clone(), host)),
            };
            (kind.to_string(), drain)
        });
        Self::of(drains.collect(), MAX_WAITING, SETTLED)
    }

    fn of(drains: Vec<(String, Box<dyn Drain>)>, waiting: usize, settled: Duration) -> io::Result<Self> {
        let changed = Arc::new(Notify::new());
        let start = |(name, drain): (String, Box<dyn Drain>)| {
            let changed = changed.clone();
            let queue = Arc::new(Queue { state: Mutex::default(), more: Condvar::new(), changed, waiting });
            let ours = queue.clone();
            let thread = thread::Builder::new().name("sink".to_owned()).spawn(move || ours.drain(drain))?;
            Ok(Sink { name, queue, thread: Mutex::new(Some(thread)) })
        };
        let sinks = drains.into_iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Shared { sinks, settled, changed, said: Mutex::default() })))
    }

    /// Hands an event over, which was written as this JSON at this time. Never waits for a sink.
    pub(crate) fn offer(&self, body: &Body, time: &str, json: &[u8]) {
        // A snapshot says nothing new.
        if self.0.sinks.is_empty() || matches!(body, Body::TargetSnapshot(_)) {
            return;
        }
        let record = Arc::new(Record::of(body, time, json));
        self.0.sinks.iter().for_each(|sink| sink.queue.put(&record));
    }

    /// Comes back when there may be something to say; never without sinks.
    pub(crate) async fn changed(&self) {
        let settled = self.0.sinks.iter().filter_map(|sink| sink.queue.lock().settles(self.0.settled)).min();
        let settle = async {
            match settled {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.0.changed.notified() => {}
            () = settle => {}
        }
    }

    /// What is to be said now, one after the other: what fails and how many events were given up in one line, or that all is
    /// well. Nothing, if that was said.
    pub(crate) fn news(&self) -> Vec<Option<String>> {
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (mut failing, mut lines, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let mut is_news = false;
        for (place, sink) in self.0.sinks.iter().enumerate() {
            let mut state = sink.queue.lock();
            if state.wrong.is_none() {
                continue;
            }
            let before = said.failing.iter().find(|(other, _)| *other == place).map(|(_, lost)| *lost);
            let settled = state.settles(self.0.settled).is_some_and(|at| at <= now);
            // Each number would be an event for every event that is lost.
            let is_more = state.lost > before.unwrap_or(0);
            let is_much_more = state.lost >= 2 * before.unwrap_or(0).max(1);
            is_news |= before.is_none() || (is_more && (settled || is_much_more));
            let line = state.line(&sink.name);
            if settled {
                *state = State { trouble: String::new(), wrong: None, lost: 0, ..std::mem::take(&mut *state) };
            } else {
                failing.push((place, state.lost));
                lines.push(line.clone());
            }
            all.push(line);
        }
        let mut news = Vec::new();
        let was_open = !said.failing.is_empty();
        if is_news {
            // One that is open keeps what it says.
            news.extend(was_open.then_some(None));
            news.push(Some(all.join("; ")));
        } else {
            // As it was said.
            failing.iter_mut().for_each(|(place, lost)| {
                *lost = said.failing.iter().find(|(other, _)| other == place).map_or(0, |(_, lost)| *lost);
            });
        }
        if all.len() > lines.len() {
            news.push(None);
            news.extend((!lines.is_empty()).then(|| Some(lines.join("; "))));
        }
        said.failing = failing;
        news
    }

    /// Waits until what was handed over is taken, at most `limit`; what has failed is tried once more.
    pub(crate) async fn finish(&self, limit: Duration) {
        let threads: Vec<_> = self.0.sinks.iter().filter_map(Sink::close).collect();
        let joined = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join())));
        // Those that are still at it end with the process.
        let _late = tokio::time::timeout(limit, joined).await;
        for sink in &self.0.sinks {
            let left = sink.queue.lock().waiting.len();
            if left > 0 {
                tracing::warn!(sink = sink.name, left, "stopped before it took everything");
            }
        }
    }
}

impl Sink {
    fn close(&self) -> Option<JoinHandle<()>> {
        self.queue.lock().closed = true;
        self.queue.more.notify_all();
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, record: &Arc<Record>) {
        let mut state = self.lock();
        let weight = record.weight();
        // One alone is taken whatever its size: an event has a bound.
        let full = state.waiting.len() >= self.waiting || (state.bytes > 0 && state.bytes + weight > MAX_BYTES);
        if state.over || state.closed || full {
            state.lost += 1;
            state.wrong = Some(Instant::now());
            return;
        }
        state.bytes += weight;
        state.waiting.push_back(record.clone());
        self.more.notify_all();
    }

    /// Gives the drain one event after the other, each until it is taken.
    fn drain(&self, mut drain: Box<dyn Drain>) {
        let mut pause = FIRST_PAUSE;
        while let Some(record) = self.next() {
            match drain.take(&record) {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.taken(&record);
                }
                Err(error) => {
                    if !self.failed(&error, drain.is_over(&error)) {
                        return;
                    }
                    self.wait(pause);
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            }
        }
    }

    /// The next event; `None` after the last one.
    fn next(&self) -> Option<Arc<Record>> {
        let mut state = self.lock();
        loop {
            match state.waiting.front() {
                Some(record) => return Some(record.clone()),
                None if state.closed => return None,
                None => state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn taken(&self, record: &Record) {
        let mut state = self.lock();
        state.waiting.pop_front();
        state.bytes = state.bytes.saturating_sub(record.weight());
        if !state.trouble.is_empty() {
            state.trouble.clear();
            // From here on nothing is wrong.
            state.wrong = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Whether it is worth another try.
    fn failed(&self, error: &io::Error, over: bool) -> bool {
        let mut state = self.lock();
        state.wrong = Some(Instant::now());
        let why = error.to_string();
        if state.trouble != why {
            state.trouble = why;
            self.changed.notify_one();
        }
        if over {
            state.over = true;
            state.lost += state.waiting.len() as u64;
            state.waiting.clear();
            state.bytes = 0;
        }
        !over && !state.closed
    }

    /// Waits for `pause`, or for the end.
    fn wait(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// When all is well again if nothing goes wrong until then; `None` if all is, or something is wrong now.
    fn settles(&self, after: Duration) -> Option<Instant> {
        self.wrong.filter(|_| self.trouble.is_empty()).map(|at| at + after)
    }

    fn line(&self, name: &str) -> String {
        let why = match (self.trouble.as_str(), self.over) {
            ("", _) => "did not keep up",
            (why, _) => why,
        };
        let end = if self.over { "; nothing more is written to it" } else { "" };
        match self.lost {
            0 => format!("{name}: {why}{end}"),
            lost => format!("{name}: {why}; {lost} events were given up{end}"),
        }
    }
}
