//! Owns carrying out: a thin loop that waits for whatever happens next, tells the monitor, and does what it says. Must not
//! own decisions about findings, or the form of anything.
//!
//! One thread runs the loop. Scans run on the hashing pool, whatever touches the state directory on a blocking thread
//! (the journal goes there and comes back), sending in a task of its own; their results come back as messages.

mod live;
mod look;
mod spool;
mod tell;

#[cfg(test)]
mod stories;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use driftlock_common::condition::ConditionReason;
use driftlock_common::exit::Exit;
use tokio::sync::mpsc;

use crate::config::{Config, Mode};
use crate::deliver::{Client, ClientError, Timeouts};
use crate::failure::Failure;
use crate::journal::{Journal, JournalError};
use crate::monitor::{Action, Event, Monitor, Now, Plan};
use crate::pool::Pool;
use crate::watch::{self, Armed, HintSender, Nothing, Seen, Watcher};
use live::Live;
use spool::Spool;

/// Results of scans and armings that may wait; then the scan waits.
const MAX_RESULTS: usize = 1024;
/// How long a stop waits for what is still to be delivered.
const GRACE: Duration = Duration::from_secs(5);
/// Time between sweeps while a part of a target is not watched, unless sweeps are more frequent anyway.
const BLIND_SWEEP: Duration = Duration::from_mins(1);

/// Why the agent stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// The program around it asks.
    Asked,
}

/// Another configuration, or why it cannot be used, in one line.
pub type Reload = Result<Config, String>;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The way to the collector.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The hashing threads.
    #[error("cannot start hashing threads")]
    Pool(#[from] rayon::ThreadPoolBuildError),
}

/// What comes back from where it was done.
#[derive(Debug)]
enum Done {
    /// Part of a scan, or its end.
    Event(Event),
    /// Watches are set up.
    Armed { target: String, generation: u64, watcher: Option<Box<dyn Watcher>>, armed: Armed },
}

/// The loop, and everything that it carries out with.
struct Runtime {
    config: Config,
    monitor: Monitor,
    live: BTreeMap<String, Live>,
    pool: Arc<Pool>,
    own_state: Option<(u64, u64)>,
    spool: Spool,
    hint_sender: HintSender,
    done: mpsc::Sender<Done>,
    began: Instant,
    generation: u64,
    /// Events that carrying out an action made.
    next: VecDeque<Event>,
    stopping: bool,
}

/// Runs the agent until `shutdown` says so.
///
/// # Errors
/// If it cannot begin. What goes wrong later is a condition, not an error.
pub async fn run(config: Config, shutdown: impl Future<Output = StopReason>) -> Result<(), RunError> {
    let (_never, reloads) = mpsc::channel(1);
    run_reloading(config, shutdown, reloads).await
}

/// As [`run`], with another configuration whenever one comes.
///
/// # Errors
/// As [`run`].
pub async fn run_reloading(
    config: Config,
    shutdown: impl Future<Output = StopReason>,
    mut reloads: mpsc::Receiver<Reload>,
) -> Result<(), RunError> {
    let (hint_sender, mut hints) = watch::channel();
    let (done, mut results) = mpsc::channel(MAX_RESULTS);
    let mut runtime = Runtime::begin(config, hint_sender, done).await?;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut reloads_open = true;
    while !runtime.stopping {
        let deadline = runtime.monitor.deadline();
        let event = tokio::select! {
            biased;
            reason = &mut shutdown => Some(Event::Shutdown { reason: reason.name().to_owned() }),
            reload = reloads.recv(), if reloads_open => match reload {
                Some(reload) => runtime.reload(reload).await,
                None => {
                    reloads_open = false;
                    None
                }
            },
            step = runtime.spool.step() => {
                runtime.spooled(step);
                None
            },
            Some(done) = results.recv() => runtime.done(done),
            Some((target, seen)) = hints.next() => Some(seen_event(&target, seen)),
            () = wait_until(runtime.began, deadline) => Some(Event::Tick),
        };
        runtime.tell(event);
    }
    drop(hints);
    runtime.spool.flush(GRACE).await;
    Ok(())
}

async fn wait_until(began: Instant, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until((began + deadline).into()).await,
        None => std::future::pending().await,
    }
}

fn seen_event(target: &str, seen: Seen) -> Event {
    let target = target.to_owned();
    match seen {
        Seen::Hint(hint) => Event::Hint { target, hint },
        Seen::Degraded(armed) => Event::Degraded { target, armed },
    }
}

impl Runtime {
    async fn begin(config: Config, hint_sender: HintSender, done: mpsc::Sender<Done>) -> Result<Self, RunError> {
        let client = Client::new(&config.report, Timeouts::default())?;
        let pool = Arc::new(Pool::new(Some(config.limits.threads))?);
        let (journal, recovered) = Journal::open(&config.state_dir, config.host.id.as_deref(), config.report.spool)?;
        let own_state = Some(journal.identity()?);
        tell::started(&config, &journal, &recovered);
        let seed = u64::from(spool::random());
        let mut runtime = Self {
            monitor: Monitor::new(recovered.findings, recovered.conditions, seed),
            live: BTreeMap::new(),
            pool,
            own_state,
            spool: Spool::new(journal, client),
            hint_sender,
            done,
            began: Instant::now(),
            generation: 0,
            next: VecDeque::new(),
            stopping: false,
            config,
        };
        let plan = runtime.take_targets().await;
        runtime.tell(Some(Event::Configured(plan)));
        Ok(runtime)
    }

    /// Reads the manifests of the configuration, and makes the plan. A manifest that is refused leaves the one that was
    /// accepted last.
    async fn take_targets(&mut self) -> Plan {
        let mut live = BTreeMap::new();
        let mut targets = Vec::with_capacity(self.config.targets.len());
        for target in &self.config.targets {
            let before = self.live.remove(&target.name);
            let (now, plan) = Live::load(target.clone(), before, &self.config.watch).await;
            targets.push(plan);
            live.insert(target.name.clone(), now);
        }
        // What is left is no longer configured; the monitor says what to end of it.
        live.append(&mut self.live);
        self.live = live;
        Plan {
            host: self.config.host.name.clone().unwrap_or_else(live::kernel_host_name),
            labels: self.config.host.labels.clone(),
            ephemeral: self.config.host.ephemeral,
            heartbeat: self.config.report.heartbeat,
            targets,
        }
    }

    async fn reload(&mut self, reload: Reload) -> Option<Event> {
        let refused = |why: String| Some(Event::Trouble { reason: ConditionReason::ConfigRefused, detail: Some(why) });
        let config = match reload {
            Ok(config) => config,
            Err(why) => return refused(why),
        };
        if config.state_dir != self.config.state_dir || config.host.id != self.config.host.id {
            return refused("state_dir and host.id cannot change while the agent runs: restart it".to_owned());
        }
        let client = match Client::new(&config.report, Timeouts::default()) {
            Ok(client) => client,
            Err(error) => return refused(format!("{:#}", anyhow::Error::new(error))),
        };
        match Pool::new(Some(config.limits.threads)) {
            Ok(pool) => self.pool = Arc::new(pool),
            Err(error) => return refused(error.to_string()),
        }
        self.spool.set_client(client);
        self.config = config;
        tracing::info!(targets = self.config.targets.len(), "configuration reloaded");
        Some(Event::Configured(self.take_targets().await))
    }

    /// Tells the monitor an event and those that follow from it, and carries out what it says.
    fn tell(&mut self, event: Option<Event>) {
        self.next.extend(event);
        while let Some(event) = self.next.pop_front() {
            let now = self.now();
            for action in self.monitor.on(event, now) {
                self.perform(action, now);
            }
        }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { elapsed: self.began.elapsed(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
    }

    fn perform(&mut self, action: Action, now: Now) {
        match action {
            Action::Arm { target } => self.arm(target),
            Action::Disarm { target } => {
                self.live.remove(&target);
            }
            Action::Scan { scan, target, scopes } => {
                if let Some(live) = self.live.get_mut(&target) {
                    let limit = self.config.limits.hash_limit;
                    live.scan(scan, scopes, self.own_state, limit, &self.pool, &self.done);
                }
            }
            Action::Cancel { scan } => self.live.values().for_each(|live| live.cancel(scan)),
            Action::Record(body) => {
                tell::body(&body);
                self.spool.record(*body, now);
            }
            Action::Beat(beat) => self.spool.beat(*beat, now),
            Action::Stop => self.stopping = true,
        }
    }

    fn arm(&mut self, target: String) {
        let Some(live) = self.live.get_mut(&target) else { return };
        self.generation += 1;
        let generation = self.generation;
        live.disarm(generation);
        let done = self.done.clone();
        if self.config.watch.mode == Mode::Sweep {
            let armed = Armed { mode: "sweep", ..Armed::default() };
            live.armed(generation, Some(Box::new(Nothing)));
            self.next.push_back(Event::Armed { target, armed });
            return;
        }
        let watched = live.watched(&self.config.state_dir);
        let hints = self.hint_sender.clone();
        // The walk over all directories takes seconds on a large tree.
        tokio::task::spawn_blocking(move || {
            let (watcher, armed) = watch::arm(&target.as_str().into(), watched, &hints);
            // If nobody listens any more, the agent is stopping, and the watcher goes with the message.
            let _unheard = done.blocking_send(Done::Armed { target, generation, watcher, armed });
        });
    }

    fn done(&mut self, done: Done) -> Option<Event> {
        match done {
            Done::Event(event) => Some(event),
            Done::Armed { target, generation, watcher, armed } => {
                // A later arming, or another configuration, took its place: the watcher goes.
                let wanted = self.live.get_mut(&target).is_some_and(|live| live.armed(generation, watcher));
                wanted.then_some(Event::Armed { target, armed })
            }
        }
    }

    fn spooled(&mut self, step: spool::Step) {
        for (reason, detail) in step.troubles {
            self.next.push_back(Event::Trouble { reason, detail });
        }
        if step.resync {
            self.next.push_back(Event::Resync);
        }
    }
}

impl StopReason {
    /// The word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Asked => "asked",
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Journal(error) => error.into(),
            RunError::Client(error) => Self::new(Exit::Configuration, error),
            RunError::Pool(error) => Self::new(Exit::Io, error),
        }
    }
}
