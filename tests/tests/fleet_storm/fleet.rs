//! Owns hosts that live: what happens to them, when they report, and how they come to rest. Must not own what goes wrong.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use driftlock_tests::fleet::agent::{Agent, Reply};
use driftlock_tests::fleet::endpoint::Endpoint;
use driftlock_tests::fleet::model::{CONDITIONS, Kind, Model};
use driftlock_tests::random::Random;
use driftlock_tests::wait::PATIENCE;
use tokio::task::JoinSet;

use crate::fault::{Fault, Outcome, deliver};

/// Paths that differ now and then, hostile ones among them.
const PATHS: [&[u8]; 10] = [
    b"etc/app.toml",
    b"bin/app",
    b"lib/libapp.so.1",
    b"share/a name with blanks",
    b"share/<script>alert(1)</script>",
    b"share/'); DROP TABLE events; --",
    b"share/line\nfeed",
    b"share/\x1b[2Jescape",
    b"share/\xff\xfe not UTF-8",
    "share/\u{202e}txt.exe".as_bytes(),
];
/// Deliveries of the whole fleet in a second, about.
const RATE: u64 = 150;
/// Events of a batch at most, so that it is no larger than a batch may be.
const MOST: usize = 200;
/// How soon a host that finds nobody tries again, at first and at last.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How much longer a fleet is waited for, for each of its hosts.
const EACH: Duration = Duration::from_millis(100);

/// What came to pass.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    taken: AtomicU64,
    unknown: AtomicU64,
    full: AtomicU64,
    /// Why it is not known, and how often.
    whys: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    /// Batches for which there was no room.
    pub(crate) fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// Deliveries of which the host knows that they were taken, and of which it does not.
    pub(crate) fn deliveries(&self) -> (u64, u64) {
        (self.taken.load(Ordering::Relaxed), self.unknown.load(Ordering::Relaxed))
    }

    /// Why deliveries were not known to be taken, the most frequent first.
    pub(crate) fn whys(&self) -> Vec<(u64, String)> {
        let whys = self.whys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whys: Vec<(u64, String)> = whys.iter().map(|(why, number)| (*number, why.clone())).collect();
        whys.sort_by(|a, b| b.cmp(a));
        whys
    }

    fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Taken => &self.taken,
            Outcome::Unknown(why) => {
                if why.contains("store_unavailable") {
                    self.full.fetch_add(1, Ordering::Relaxed);
                }
                // What is the same but for numbers is one reason.
                let why = why.chars().filter(|ch| !ch.is_ascii_digit()).take(160).collect();
                *self.whys.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_default() += 1;
                &self.unknown
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Hosts that report.
#[derive(Debug)]
pub(crate) struct Fleet {
    lives: JoinSet<Result<Agent>>,
    over: Arc<AtomicBool>,
    pub(crate) counts: Arc<Counts>,
}

/// Joins so many hosts, some of which have clocks that are wrong.
///
/// # Errors
/// If one is refused.
pub(crate) async fn join(endpoint: &Endpoint, hosts: usize, random: &mut Random) -> Result<Vec<Agent>> {
    let mut agents = Vec::with_capacity(hosts);
    for number in 0..hosts {
        let host = format!("host-{number:05}");
        let identity = endpoint.join(&host).await.with_context(|| host.clone())?;
        let mut model = Model::new(&host, random);
        let seconds = |random: &mut Random, most: u64| -> Result<i64> {
            let most = i64::try_from(random.below(most))?;
            Ok(if random.below(2) == 0 { most } else { -most })
        };
        model.skew_s = match random.below(10) {
            // Days.
            0 => 86_400 + seconds(random, 86_000)? * 5,
            // No more than clocks may differ.
            1..=4 => seconds(random, 200)?,
            _ => 0,
        };
        model.ephemeral = random.below(10) == 0;
        // What it would say of itself from then on.
        model.interval_s = 30;
        agents.push(Agent::new(model, identity.config, endpoint.address()));
    }
    Ok(agents)
}

impl Fleet {
    /// Lets them live, with faults or without, each by choices of its own.
    pub(crate) fn live(agents: Vec<Agent>, random: &mut Random, faults: bool) -> Self {
        let (over, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let pause = 2000 * agents.len() as u64 / RATE;
        let mut lives = JoinSet::new();
        for agent in agents {
            let life = Life {
                agent,
                random: Random::new(random.next()),
                over: Arc::clone(&over),
                counts: Arc::clone(&counts),
                faults,
                pause: pause.max(2),
            };
            lives.spawn(life.go_on());
        }
        Self { lives, over, counts }
    }

    /// Lets what they do now be the last of it.
    ///
    /// # Errors
    /// If one of them met what must not be.
    pub(crate) async fn end(mut self) -> Result<Vec<Agent>> {
        self.over.store(true, Ordering::Relaxed);
        let mut agents = Vec::new();
        while let Some(agent) = self.lives.join_next().await {
            agents.push(agent??);
        }
        agents.sort_by(|a, b| a.model.host.cmp(&b.model.host));
        Ok(agents)
    }
}

/// Has every host deliver what waits, and what the collector asks for, until nothing does.
///
/// # Errors
/// If one does not come to rest.
pub(crate) async fn settle(agents: Vec<Agent>) -> Result<Vec<Agent>> {
    // Each may have to connect anew, which costs both sides more than anything else.
    let patience = PATIENCE + EACH * u32::try_from(agents.len())?;
    let mut resting = JoinSet::new();
    for agent in agents {
        resting.spawn(rest(agent, patience));
    }
    let mut agents = Vec::new();
    while let Some(agent) = resting.join_next().await {
        agents.push(agent??);
    }
    agents.sort_by(|a, b| a.model.host.cmp(&b.model.host));
    Ok(agents)
}

async fn rest(mut agent: Agent, patience: Duration) -> Result<Agent> {
    let deadline = Instant::now() + patience;
    let mut pause = PAUSE;
    let (mut asked_again, mut last) = (0, String::new());
    loop {
        let waited = agent.model.waiting.len();
        if waited == 0 && agent.model.stopped {
            return Ok(agent);
        }
        if Instant::now() >= deadline {
            bail!(
                "{} still has {waited} events to deliver; it was asked for everything {asked_again} times; at last: {last}",
                agent.model.host
            );
        }
        let batch = agent.model.batch(MOST, true);
        match agent.post(&batch).await.with_context(|| agent.model.host.clone())? {
            Reply::Answered(answer) => {
                agent.model.take(&answer);
                // The heartbeat told of everything, and the collector wants no more.
                if waited <= MOST && agent.model.waiting.is_empty() {
                    return Ok(agent);
                }
                asked_again += u64::from(answer.resync);
                (pause, last) = (PAUSE, format!("{answer:?}"));
            }
            Reply::Again(why) => {
                last = why;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

struct Life {
    agent: Agent,
    random: Random,
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    faults: bool,
    /// Milliseconds between two reports, at most.
    pause: u64,
}

impl Life {
    async fn go_on(mut self) -> Result<Agent> {
        let mut is_known = false;
        while !self.over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(self.random.below(self.pause))).await;
            for _ in 0..self.random.below(5) {
                self.something_happens(is_known);
            }
            let fault = if self.faults { Fault::choose(&mut self.random) } else { Fault::Nothing };
            let outcome = deliver(&mut self.agent, fault, &mut self.random).await;
            let outcome = outcome.with_context(|| format!("{}: {fault:?}", self.agent.model.host))?;
            is_known = matches!(outcome, Outcome::Taken) && matches!(fault, Fault::Nothing);
            self.counts.count(&outcome);
        }
        Ok(self.agent)
    }

    /// A new state directory is made by a new machine, long after the last word of the old one: `is_known` if that has
    /// arrived, so that it does not come later as the word of a twin.
    fn something_happens(&mut self, is_known: bool) {
        let (model, random) = (&mut self.agent.model, &mut self.random);
        let path = *random.pick(&PATHS);
        match random.below(100) {
            0..55 => {
                let kind = *random.pick(&[Kind::Drift, Kind::Drift, Kind::Unverifiable, Kind::Tolerated]);
                model.differs(path, kind, random.below(1_000_000));
            }
            55..85 => model.is_as_sealed(path),
            85..95 => model.condition(random.pick(&CONDITIONS).0),
            95..98 => {
                model.stop();
                model.start();
            }
            98 => model.start(),
            _ if is_known => model.lose_state(random),
            _ => {}
        }
    }
}
