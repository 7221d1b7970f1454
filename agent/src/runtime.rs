//! Owns carrying out: a thin loop that waits for whatever happens next, tells the monitor, and does what it says. Must not
//! own decisions about findings, or the form of anything.
//!
//! One thread runs the loop. Scans run on the hashing pool, whatever touches the state directory on a blocking thread
//! (the journal goes there and comes back), sending in a task of its own; their results come back as messages.

mod hold;
mod live;
mod look;
mod memory;
mod remembered;
mod sink;
mod spool;
mod switch;
mod tell;

#[cfg(test)]
mod stories;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use driftlock_common::condition::ConditionReason;
use driftlock_common::exit::Exit;
use driftlock_common::path::TreePath;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::config::{Config, Limits, Mode, Sink as SinkKind, State};
use crate::deliver::{Client, ClientError, Timeouts};
use crate::failure::Failure;
use crate::journal::{Journal, JournalError};
use crate::monitor::{Action, Ending, Event, Monitor, Now, Plan};
use crate::pool::Pool;
use crate::process::Process;
use crate::scan::pace::{self, Allowance};
use crate::systemd::{self, Watchdog};
use crate::watch::{self, Armed, HintSender, Seen, Watcher};
use live::{Live, Order};
use sink::Sink;
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
    /// The state cannot be kept in memory.
    #[error("state_dir = \"memory\" needs /dev/shm: mount a tmpfs and name a directory on it instead")]
    Memory(#[source] std::io::Error),
    /// Standard output has no thread.
    #[error("cannot start writing to standard output")]
    Sink(#[source] std::io::Error),
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
    Armed { target: String, generation: u64, watchers: Vec<Box<dyn Watcher>>, armed: Armed, mounts: Vec<TreePath> },
    /// The process that the root belongs to is not there, or no longer; why, in one line.
    Away { target: String, generation: u64, detail: String },
}

/// The loop, and everything that it carries out with.
struct Runtime {
    config: Config,
    monitor: Monitor,
    live: BTreeMap<String, Live>,
    pool: Arc<Pool>,
    allowance: Arc<Allowance>,
    state_dir: PathBuf,
    /// Where the state is, if it is to go with the agent.
    _memory: Option<TempDir>,
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
    let mut watchdog = Watchdog::of_the_service();
    systemd::ready(runtime.config.targets.len());
    while !runtime.stopping {
        watchdog.turned();
        let deadline = runtime.monitor.deadline();
        let event = tokio::select! {
            biased;
            reason = &mut shutdown => Some(Event::Shutdown { reason: reason.name().to_owned() }),
            reload = reloads.recv(), if reloads_open => match reload {
                Some(reload) => {
                    systemd::reloading();
                    let event = runtime.reload(reload).await;
                    systemd::ready(runtime.config.targets.len());
                    event
                }
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
            () = watchdog.next() => None,
        };
        runtime.tell(event);
    }
    systemd::stopping();
    drop(hints);
    runtime.live.values().for_each(Live::remember);
    runtime.spool.flush(GRACE).await;
    Ok(())
}

/// What scans may use from now on.
fn allowance(config: &Config) -> Arc<Allowance> {
    let Limits { read, cpu, .. } = config.limits;
    let allowance = Allowance::new(pace::Limits { read, cpu, yields: true });
    if let Some(why) = allowance.unmeasured() {
        tracing::debug!(why, "scans do not make room for others: the kernel does not say whether they wait");
    }
    allowance
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
        Seen::Hint(hint, _actor) => Event::Hint { target, hint },
        Seen::Degraded(armed) => Event::Degraded { target, armed },
    }
}

impl Runtime {
    async fn begin(config: Config, hint_sender: HintSender, done: mpsc::Sender<Done>) -> Result<Self, RunError> {
        let client = Client::new(&config.report, Timeouts::default())?;
        let pool = Arc::new(Pool::of_low_priority(config.limits.threads)?);
        let allowance = allowance(&config);
        let (state_dir, memory) = match &config.state {
            State::Directory(path) => (path.clone(), None),
            State::Memory => {
                let memory = memory::make().map_err(RunError::Memory)?;
                (memory.path().to_owned(), Some(memory))
            }
        };
        let (journal, recovered) = Journal::open(&state_dir, config.host.id.as_deref(), config.report.spool)?;
        let sink = config.sinks.contains(&SinkKind::Stdout).then(Sink::stdout).transpose().map_err(RunError::Sink)?;
        let own_state = Some(journal.identity()?);
        tell::started(&config, &journal, &recovered);
        let seed = u64::from(spool::random());
        let mut runtime = Self {
            monitor: Monitor::new(recovered.findings, recovered.conditions, seed),
            live: BTreeMap::new(),
            pool,
            allowance,
            state_dir,
            _memory: memory,
            own_state,
            spool: Spool::new(journal, client, sink),
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

    /// Reads the manifests and policies of the configuration, and makes the plan. What is refused leaves what was accepted
    /// last.
    async fn take_targets(&mut self) -> Plan {
        let mut live = BTreeMap::new();
        let mut targets = Vec::with_capacity(self.config.targets.len());
        for target in &self.config.targets {
            let before = self.live.remove(&target.name);
            let (now, plan) = Live::load(target.clone(), before, &self.config, &self.state_dir).await;
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
        let fixed = |config: &Config| (config.state.clone(), config.host.id.clone(), config.sinks.clone());
        if fixed(&config) != fixed(&self.config) {
            return refused("state_dir, host.id and sinks cannot change while the agent runs: restart it".to_owned());
        }
        let client = match Client::new(&config.report, Timeouts::default()) {
            Ok(client) => client,
            Err(error) => return refused(format!("{:#}", anyhow::Error::new(error))),
        };
        match Pool::of_low_priority(config.limits.threads) {
            Ok(pool) => self.pool = Arc::new(pool),
            Err(error) => return refused(error.to_string()),
        }
        self.allowance = allowance(&config);
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
            Action::Scan { scan, target, scopes, occasion } => {
                tell::scan(&target, scan, occasion, scopes.len());
                if let Some(live) = self.live.get_mut(&target) {
                    let order = Order { scan, scopes, occasion };
                    live.scan(order, self.own_state, &self.config, &self.allowance, &self.pool, &self.done);
                }
            }
            Action::Hurry { scan } => self.live.values().for_each(|live| live.hurry(scan)),
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
        let (hold, location, watched) = live.watched(&self.state_dir);
        let of_process = live.is_of_process();
        let mode = self.config.watch.mode;
        let hints = self.hint_sender.clone();
        // The walk over all directories takes seconds on a large tree.
        tokio::task::spawn_blocking(move || {
            let message = match hold.root(&location) {
                Ok(root) => {
                    let (watcher, armed) = watch::arm(mode, &target.as_str().into(), watched, &root, &hints);
                    let end = root.process().map(|process| say_when_ended(&done, &target, generation, process));
                    match end.transpose() {
                        Ok(end) => {
                            let watchers = [watcher].into_iter().chain(end).collect();
                            let mounts = root.process().map(|process| process.mounts().to_vec()).unwrap_or_default();
                            Done::Armed { target, generation, watchers, armed, mounts }
                        }
                        Err(error) => Done::Away { target, generation, detail: error.to_string() },
                    }
                }
                Err(detail) if of_process => Done::Away { target, generation, detail },
                // The scan that follows says that the root is not there.
                Err(detail) => {
                    let armed = Armed {
                        degraded: if mode == Mode::Sweep { String::new() } else { detail },
                        ..Armed::nothing()
                    };
                    Done::Armed { target, generation, watchers: Vec::new(), armed, mounts: Vec::new() }
                }
            };
            // If nobody listens any more, the agent is stopping, and the watcher goes with the message.
            let _unheard = done.blocking_send(message);
        });
    }

    fn done(&mut self, done: Done) -> Option<Event> {
        match done {
            Done::Event(Event::Scanned { scan, ending: Ending::RootLost(detail) }) => {
                let of_process = |(_, live): &(&String, &mut Live)| live.is_scanning(scan) && live.is_of_process();
                match self.live.iter_mut().find(of_process) {
                    // It ended, or went elsewhere: there will be another.
                    Some((target, live)) => Some(away(target.clone(), detail, live)),
                    None => Some(Event::Scanned { scan, ending: Ending::RootLost(detail) }),
                }
            }
            Done::Event(event) => Some(event),
            Done::Armed { target, generation, watchers, armed, mounts } => {
                // A later arming, or another configuration, took its place: the watcher goes.
                let live = self.live.get_mut(&target).filter(|live| live.is_of(generation))?;
                live.armed(watchers);
                tell::armed(&target, &armed);
                Some(Event::Armed { target, armed, mounts })
            }
            Done::Away { target, generation, detail } => {
                let live = self.live.get_mut(&target).filter(|live| live.is_of(generation))?;
                Some(away(target, detail, live))
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

/// The process of a target's root is not there.
fn away(target: String, detail: String, live: &mut Live) -> Event {
    if live.away() {
        tell::away(&target, &detail);
    }
    Event::Away { target, detail }
}

/// Says that the process of a target ended, once it did.
fn say_when_ended(
    done: &mpsc::Sender<Done>,
    target: &str,
    generation: u64,
    process: &Process,
) -> std::io::Result<Box<dyn Watcher>> {
    let (done, target) = (done.clone(), target.to_owned());
    watch::when_ended(process, move || {
        // If nobody listens any more, the agent is stopping.
        let _unheard = done.blocking_send(Done::Away { target, generation, detail: "its process ended".to_owned() });
    })
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
            RunError::Memory(_) => Self::new(Exit::CannotCreate, error),
            RunError::Sink(_) | RunError::Pool(_) => Self::new(Exit::Io, error),
        }
    }
}
