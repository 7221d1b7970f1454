//! Owns the load of a fleet whose hosts keep their connections: what is due when, whatever was answered by then, and how
//! long each answer took. Must not own what a host says.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use driftlock_tests::random::Random;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::link::{Door, Link};
use crate::reporter::{HEARTBEAT_S, Reporter};

/// Handshakes at a time.
const HANDSHAKES: usize = 64;
/// Events of a batch, each as often as the others: their median is 5.
const EVENTS: [usize; 9] = [1, 1, 2, 3, 5, 5, 8, 13, 21];

/// A host that is connected.
#[derive(Debug)]
pub struct Agent {
    /// What it says.
    pub reporter: Reporter,
    link: Link,
}

/// Hosts that are connected. Each has one request under way at a time.
pub type Agents = Vec<Arc<Mutex<Agent>>>;

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests in a second, heartbeats of every host within them.
    pub requests: u32,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From when each request was due to its answer: it waits for the host's earlier ones, and for the sender.
    pub from_due: Vec<Duration>,
    /// From when each request was sent to its answer.
    pub from_sent: Vec<Duration>,
    /// Events in them, heartbeats not counted.
    pub events: usize,
}

/// What is due: when, whose, and how many events; none is a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    after: Duration,
    host: usize,
    events: usize,
}

/// Everything that is due, in order. Heartbeats are spread evenly; batches come when they come, from any host.
#[derive(Debug)]
struct Schedule {
    hosts: usize,
    random: Random,
    beat: Due,
    batch: Due,
    beats: u32,
    between_batches: f64,
}

impl Schedule {
    fn new(hosts: usize, requests: u32) -> Self {
        let beats_each_s = hosts as f64 / HEARTBEAT_S as f64;
        let between_batches = 1.0 / (f64::from(requests) - beats_each_s);
        let first = Due { after: Duration::ZERO, host: 0, events: 0 };
        let mut schedule =
            Self { hosts, random: Random::new(2026), beat: first, batch: first, beats: 0, between_batches };
        schedule.next_batch();
        schedule
    }

    fn next_batch(&mut self) {
        // Uniform in (0, 1]: the pauses of independent hosts are exponential.
        let uniform = (self.random.below(1 << 32) + 1) as f64 / f64::from(u32::MAX);
        self.batch.after += Duration::from_secs_f64((-uniform.min(1.0).ln() * self.between_batches).max(0.0));
        self.batch.host = usize::try_from(self.random.below(self.hosts as u64)).unwrap_or(0);
        self.batch.events = *self.random.pick(&EVENTS);
    }
}

impl Iterator for Schedule {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        let due = if self.beat.after <= self.batch.after { self.beat } else { self.batch };
        if due.events == 0 {
            self.beats += 1;
            self.beat.host = (self.beat.host + 1) % self.hosts;
            self.beat.after = Duration::from_secs(HEARTBEAT_S).mul_f64(f64::from(self.beats) / self.hosts as f64);
        } else {
            self.next_batch();
        }
        Some(due)
    }
}

/// Connects every host, and has each say that it is there: the collector closes what says nothing.
///
/// # Errors
/// If one is not taken in.
pub async fn connect(door: &Door, reporters: Vec<Reporter>) -> Result<Agents> {
    let mut reporters = reporters.into_iter();
    let (mut agents, mut connecting) = (Vec::new(), JoinSet::new());
    loop {
        while connecting.len() < HANDSHAKES
            && let Some(reporter) = reporters.next()
        {
            let door = door.clone();
            connecting.spawn(async move {
                let link = door.connect(reporter.host()).await?;
                let mut agent = Agent { reporter, link };
                agent.send(0).await?;
                Ok::<_, anyhow::Error>(agent)
            });
        }
        match connecting.join_next().await {
            Some(agent) => agents.push(Arc::new(Mutex::new(agent??))),
            None => return Ok(agents),
        }
    }
}

/// Sends what is due until the time is over and everything is answered.
///
/// # Errors
/// If a request is not answered as it should be.
pub async fn run(agents: &Agents, pace: Pace) -> Result<Outcome> {
    let (mut outcome, mut under_way) = (Outcome::default(), JoinSet::new());
    let began = Instant::now();
    for Due { after, host, events } in
        Schedule::new(agents.len(), pace.requests).take_while(|due| due.after < pace.time)
    {
        let due = began + after;
        sleep_until(due).await;
        let agent = Arc::clone(&agents[host]);
        outcome.events += events;
        under_way.spawn(async move {
            let mut agent = agent.lock().await;
            let sent = Instant::now();
            agent.send(events).await?;
            Ok::<_, anyhow::Error>((due.elapsed(), sent.elapsed()))
        });
        while let Some(answered) = under_way.try_join_next() {
            outcome.count(answered??);
        }
    }
    while let Some(answered) = under_way.join_next().await {
        outcome.count(answered??);
    }
    Ok(outcome)
}

impl Agent {
    /// Sends some events, or a heartbeat, and checks the answer.
    ///
    /// # Errors
    /// If it is not answered as it should be.
    pub async fn send(&mut self, events: usize) -> Result<()> {
        let batch = if events == 0 { self.reporter.heartbeat()? } else { self.reporter.batch(events)? };
        self.reporter.check(&self.link.report(&batch).await?)
    }
}

impl Outcome {
    fn count(&mut self, (from_due, from_sent): (Duration, Duration)) {
        self.from_due.push(from_due);
        self.from_sent.push(from_sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_in_order_as_much_as_asked_and_every_host_beats_in_its_time() {
        let within = Duration::from_secs(2 * HEARTBEAT_S);
        let dues: Vec<Due> = Schedule::new(600, 100).take_while(|due| due.after < within).collect();
        assert!(dues.is_sorted_by_key(|due| due.after));
        assert!((5800..6200).contains(&dues.len()), "{}", dues.len());
        let mut beats = vec![0; 600];
        dues.iter().filter(|due| due.events == 0).for_each(|due| beats[due.host] += 1);
        assert!(beats.iter().all(|beats| *beats == 2));
        let mut events: Vec<usize> = dues.iter().map(|due| due.events).filter(|events| *events > 0).collect();
        events.sort_unstable();
        assert_eq!(events[events.len() / 2], 5);
    }
}
