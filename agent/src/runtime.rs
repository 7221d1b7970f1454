//! Owns carrying out: a thin loop that waits for whatever happens next, tells the monitor, and does what it says. Must not
//! own decisions about findings, or the form of anything.
//!
//! One thread runs the loop. Scans run on the hashing pool, whatever touches the state directory on a blocking thread
//! (the journal goes there and comes back), sending in a task of its own; their results come back as messages.

pub(crate) mod binary;
mod clock;
mod collected;
mod hold;
mod live;
mod look;
mod membership;
mod memory;
mod remembered;
mod spool;
mod switch;
mod tell;

#[cfg(test)]
mod stories;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::Running;
use driftlock_common::exit::Exit;
use driftlock_common::host_name::HostName;
use driftlock_common::path::TreePath;
use driftlock_common::status::{AgentStatus, CollectorStatus, Status};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::baseline::remove_others;
use crate::config::{Config, Limits, Mode, Socket, State, Trust};
use crate::control::{self, ListenError, Listener, Question};
use crate::deliver::{Client, ClientError, Timeouts};
use crate::failure::Failure;
use crate::identity::{Directory, Identity, IdentityError};
use crate::journal::{Journal, JournalError, Starts};
use crate::known_time::{self, KnownTime, Passed};
use crate::monitor::{Action, Ending, Event, Monitor, Now, Plan};
use crate::pool::Pool;
use crate::process::Process;
use crate::scan::pace::{self, Allowance};
use crate::sink::Sinks;
use crate::state_file;
use crate::supply::fetch::Had;
use crate::systemd::{self, Watchdog};
use crate::watch::{self, Armed, HintSender, Refusal, Seen, Watcher};
use clock::ClockSet;
use collected::Collected;
use hold::Hold;
use live::{Live, Order};
use membership::Membership;
pub(crate) use memory::directories as memory_directories;
use spool::Spool;

/// Results of scans and armings that may wait; then the scan waits.
const MAX_RESULTS: usize = 1024;
/// How long a stop waits for what is still to be delivered.
const GRACE: Duration = Duration::from_secs(5);

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

/// What became of what the agent itself depends on.
#[derive(Debug)]
pub enum News {
    /// Files that it is told by became others: which, and from what to what, in one line.
    Replaced(String),
    /// Another configuration, or why it cannot be used, in one line.
    Reload(Result<Box<Config>, String>),
    /// How its binary differs from what runs, in one line, or that it does not.
    Binary(Option<String>),
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state cannot be kept in memory.
    #[error("state_dir = \"memory\" needs /dev/shm: mount a tmpfs and name a directory on it instead")]
    Memory(#[source] std::io::Error),
    /// A sink has no thread.
    #[error("cannot start writing to the sinks")]
    Sink(#[source] std::io::Error),
    /// What the host is at its collector.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The way to the collector.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The socket that was asked for.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The hashing threads.
    #[error("cannot start hashing threads")]
    Pool(#[from] rayon::ThreadPoolBuildError),
    /// A target cannot be watched in the way that was asked for.
    #[error("watch.mode, for target {0} (\"auto\" takes what can be had)")]
    Mode(String, #[source] Refusal),
}

/// What comes back from where it was done.
#[derive(Debug)]
enum Done {
    /// Part of a scan, or its end.
    Event(Event),
    /// Watches are set up.
    Armed { target: String, generation: u64, watchers: Vec<Box<dyn Watcher>>, armed: Armed, mounts: Vec<TreePath> },
    /// What the collector has for a target.
    Had { target: String, had: Had },
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
    membership: Membership,
    /// Who asks the collector for manifests.
    collected: Option<Collected>,
    spool: Spool,
    /// By which what is signed is judged.
    time: KnownTime,
    hint_sender: HintSender,
    done: mpsc::Sender<Done>,
    began: Instant,
    started_at: String,
    starts: Option<Starts>,
    generation: u64,
    /// Events that carrying out an action made.
    next: VecDeque<Event>,
    stopping: bool,
    /// Another one each time the agent starts.
    run: String,
}

/// Runs the agent until `shutdown` says so.
///
/// # Errors
/// If it cannot begin. What goes wrong later is a condition, not an error.
pub async fn run(config: Config, shutdown: impl Future<Output = StopReason>) -> Result<(), RunError> {
    let (_never, news) = mpsc::channel(1);
    run_with_news(config, shutdown, news).await
}

/// As [`run`], with another configuration whenever one comes, and what else there is to say of the agent itself.
///
/// # Errors
/// As [`run`].
pub async fn run_with_news(
    config: Config,
    shutdown: impl Future<Output = StopReason>,
    mut news: mpsc::Receiver<News>,
) -> Result<(), RunError> {
    let (hint_sender, mut hints) = watch::channel();
    let (done, mut results) = mpsc::channel(MAX_RESULTS);
    let mut runtime = Runtime::begin(config, hint_sender, done).await?;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut news_open = true;
    let clock = ClockSet::new();
    let mut watchdog = Watchdog::of_the_service();
    let mut server = control::serve(runtime.listen()?);
    let mut answered = false;
    systemd::ready(runtime.config.targets.len());
    while !runtime.stopping {
        watchdog.turned();
        let deadline = runtime.monitor.deadline();
        let just_answered = std::mem::take(&mut answered);
        let event = tokio::select! {
            biased;
            reason = &mut shutdown => Some(Event::Shutdown { reason: reason.name().to_owned() }),
            () = clock.set() => {
                runtime.next.push_back(Event::ClockSet);
                runtime.readmit().await
            }
            said = news.recv(), if news_open => match said {
                Some(News::Reload(reload)) => {
                    systemd::reloading();
                    let event = runtime.reload(reload.map(|config| *config)).await;
                    systemd::ready(runtime.config.targets.len());
                    event
                }
                Some(News::Replaced(detail)) => {
                    // One that is open is about what was there before.
                    let reason = ConditionReason::ConfigReplaced;
                    runtime.next.push_back(Event::Trouble { reason, detail: None });
                    Some(Event::Trouble { reason, detail: Some(detail) })
                }
                Some(News::Binary(detail)) => {
                    Some(Event::Trouble { reason: ConditionReason::BinaryReplaced, detail })
                }
                None => {
                    news_open = false;
                    None
                }
            },
            step = runtime.spool.step() => {
                runtime.spooled(step);
                None
            },
            step = runtime.membership.step() => {
                runtime.joined(step);
                None
            },
            Some(done) = results.recv() => match done {
                Done::Had { target, had } => runtime.had(&target, had).await,
                done => runtime.done(done),
            },
            // Whoever asks without end has every second turn at most.
            question = server.next(), if !just_answered => {
                runtime.answer(question);
                answered = true;
                None
            }
            Some((target, seen)) = hints.next() => Some(seen_event(&target, seen)),
            () = std::future::ready(()), if just_answered => None,
            () = wait_until(runtime.began, deadline) => Some(Event::Tick),
            () = watchdog.next() => None,
        };
        let looked = matches!(event, Some(Event::Scanned { ending: Ending::Finished(Some(_)), .. }));
        runtime.tell(event);
        runtime.pass_time();
        if looked {
            server.looked();
        }
    }
    systemd::stopping();
    server.close().await;
    drop(hints);
    runtime.live.values().for_each(Live::remember);
    runtime.keep_time();
    runtime.spool.flush(GRACE).await;
    runtime.spool.stopped();
    Ok(())
}

/// The way to the collector, if there is one.
fn client(config: &Config, identity: Option<&Identity>) -> Result<Option<Client>, ClientError> {
    let client = Client::new(&config.report, identity, Timeouts::default())?;
    // Only an id that was chosen can be a name at the collector.
    let host = config.host.id.as_ref().and_then(|id| id.parse().ok());
    Ok(client.map(|client| client.for_host(host)))
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

/// Whether the way of watching that was asked for can be had: better said at the start than by a condition. Of a root that
/// is not there nothing can be said.
async fn check_mode(config: &Config) -> Result<(), RunError> {
    let mode = config.watch.mode;
    if matches!(mode, Mode::Auto | Mode::Sweep) {
        return Ok(());
    }
    for target in &config.targets {
        let location = target.root.clone();
        let check = move || Hold::default().root(&location).map_or(Ok(()), |root| watch::check(mode, &root));
        let checked = tokio::task::spawn_blocking(check).await;
        if let Ok(Err(refusal)) = checked {
            return Err(RunError::Mode(target.name.clone(), refusal));
        }
    }
    Ok(())
}

async fn wait_until(began: Instant, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until((began + deadline).into()).await,
        None => std::future::pending().await,
    }
}

fn now(elapsed: Duration) -> Now {
    Now { elapsed, unix_ms: known_time::now_ms() }
}

fn seen_event(target: &str, seen: Seen) -> Event {
    let target = target.to_owned();
    match seen {
        Seen::Hint(hint, _actor) => Event::Hint { target, hint },
        Seen::Degraded(armed) => Event::Degraded { target, armed },
        Seen::Mounted(covers) => Event::Mounted { target, covers },
    }
}

impl Runtime {
    async fn begin(config: Config, hint_sender: HintSender, done: mpsc::Sender<Done>) -> Result<Self, RunError> {
        check_mode(&config).await?;
        let pool = Arc::new(Pool::of_low_priority(config.limits.threads)?);
        let allowance = allowance(&config);
        let (state_dir, memory) = match &config.state {
            State::Directory(path) => (path.clone(), None),
            State::Memory => {
                let memory = memory::make().map_err(RunError::Memory)?;
                (memory.path().to_owned(), Some(memory))
            }
        };
        // State in memory holds none for longer than a run.
        let directory = memory.is_none().then(|| Directory::of(&state_dir));
        let identity = directory.as_ref().map(Directory::settled).transpose()?.flatten();
        let joined = identity.as_ref().and_then(|identity| identity.host.as_ref());
        let host = config.host.id.as_deref().or_else(|| joined.map(HostName::as_str));
        let (journal, recovered) = Journal::open(&state_dir, host, config.report.spool)?;
        // Once the state directory is there, so that it can be watched.
        let mut membership = Membership::begin(directory)?;
        let client = client(&config, membership.identity())?;
        membership.set_client(client.clone());
        let name = config.host.name.clone().unwrap_or_else(live::kernel_host_name);
        let sinks = Sinks::start(&config.sinks, &name).map_err(RunError::Sink)?;
        let own_state = Some(journal.identity()?);
        tell::started(&config, client.as_ref().map(Client::endpoint), &journal, &recovered);
        let seed = u64::from(spool::random());
        let starts = journal.starts();
        let time = KnownTime::open(&state_dir);
        let mut runtime = Self {
            starts,
            started_at: now(Duration::ZERO).rfc3339(),
            monitor: Monitor::new(recovered.findings, recovered.conditions, seed),
            live: BTreeMap::new(),
            pool,
            allowance,
            state_dir,
            _memory: memory,
            own_state,
            membership,
            collected: None,
            spool: Spool::new(journal, client, sinks),
            time,
            hint_sender,
            done,
            began: Instant::now(),
            generation: 0,
            next: VecDeque::new(),
            stopping: false,
            run: format!("{:08x}{:08x}", spool::random(), spool::random()),
            config,
        };
        let plan = runtime.take_targets().await;
        runtime.tell(Some(Event::Configured(plan)));
        runtime.pass_time();
        runtime.ask_collector();
        Ok(runtime)
    }

    /// Reads the manifests and policies of the configuration, and makes the plan. What is refused leaves what was accepted
    /// last.
    async fn take_targets(&mut self) -> Plan {
        let mut live = BTreeMap::new();
        let mut targets = Vec::with_capacity(self.config.targets.len());
        for target in &self.config.targets {
            let before = self.live.remove(&target.name);
            let judged = self.time.judged(known_time::now_ms());
            let (now, plan) = Live::load(target.clone(), before, &self.config, &self.state_dir, judged).await;
            targets.push(plan);
            live.insert(target.name.clone(), now);
        }
        // What is left is no longer configured; the monitor says what to end of it.
        live.append(&mut self.live);
        self.live = live;
        let (names, state_dir) =
            (targets.iter().map(|plan| plan.name.clone()).collect::<Vec<_>>(), self.state_dir.clone());
        // Waited for: the next plan may have targets that this one has not.
        let _ended = tokio::task::spawn_blocking(move || remove_others(&names, &state_dir)).await;
        Plan {
            host: self.config.host.name.clone().unwrap_or_else(live::kernel_host_name),
            labels: self.config.host.labels.clone(),
            ephemeral: self.config.host.ephemeral,
            heartbeat: self.config.report.heartbeat,
            running: Running {
                binary: binary::running(),
                config: self.config.digest,
                started_at: self.started_at.clone(),
                starts: self.starts.map_or(0, |starts| starts.number),
                stopped_before: self.starts.and_then(|starts| starts.stopped_before),
                boot: crate::scan::boot(),
            },
            targets,
        }
    }

    /// The socket at which the agent can be asked. One that nobody asked for by its path is nothing to stop for.
    fn listen(&self) -> Result<Option<Listener>, ListenError> {
        let Some(path) = control::of_agent(&self.config.socket, &self.state_dir) else { return Ok(None) };
        match (Listener::bind(&path), &self.config.socket) {
            (Ok(listener), _) => {
                tracing::debug!(path = %listener.path().display(), "can be asked");
                Ok(Some(listener))
            }
            (Err(error), Socket::Auto) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(error = format!("{error:#}"), "cannot be asked on this host");
                Ok(None)
            }
            (Err(error), Socket::At(_) | Socket::Off) => Err(error),
        }
    }

    fn answer(&mut self, question: Question) {
        // Whoever asked may be gone by now.
        let _unheard = question.answer.send(self.status());
        // What begins from here on is later than the answer.
        self.next.extend(question.look_at.into_iter().map(|target| Event::Wanted { target }));
    }

    fn status(&mut self) -> Status {
        let now = now(self.began.elapsed());
        let at = |elapsed| now.at(elapsed).rfc3339();
        let collector = self.spool.endpoint().map(|endpoint| CollectorStatus {
            endpoint: endpoint.to_string(),
            certificate_until: self.membership.identity().map(|identity| identity.until.to_string()),
            undelivered: self.spool.undelivered(),
            last_answer: self.spool.last_answer().map(|ago| at(now.elapsed.saturating_sub(ago))),
        });
        let agent = AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.spool.host().to_owned(),
            name: self.monitor.plan().map(|plan| plan.host.clone()).unwrap_or_default(),
            run: self.run.clone(),
            running: self.monitor.plan().map(|plan| plan.running.clone()),
            collector,
        };
        Status { agent, conditions: self.monitor.conditions(), targets: self.monitor.targets(now) }
    }

    async fn reload(&mut self, reload: Result<Config, String>) -> Option<Event> {
        let refused = |why: String| Some(Event::Trouble { reason: ConditionReason::ConfigRefused, detail: Some(why) });
        let config = match reload {
            Ok(config) => config,
            Err(why) => return refused(why),
        };
        let fixed = |config: &Config| {
            (config.state.clone(), config.host.id.clone(), config.sinks.clone(), config.socket.clone())
        };
        if fixed(&config) != fixed(&self.config) {
            return refused(
                "state_dir, host.id, sinks and control.socket cannot change while the agent runs: restart it"
                    .to_owned(),
            );
        }
        let client = match client(&config, self.membership.identity()) {
            Ok(client) => client,
            Err(error) => return refused(format!("{:#}", anyhow::Error::new(error))),
        };
        match Pool::of_low_priority(config.limits.threads) {
            Ok(pool) => self.pool = Arc::new(pool),
            Err(error) => return refused(error.to_string()),
        }
        self.allowance = allowance(&config);
        self.membership.set_client(client.clone());
        // A configuration that is taken is said to be all that is wrong.
        self.membership.say_again();
        self.spool.set_client(client);
        self.config = config;
        tracing::info!(targets = self.config.targets.len(), "configuration reloaded");
        let event = Event::Configured(self.take_targets().await);
        self.ask_collector();
        // The monitor takes back what was said of the agent.
        let detail = self.time.say_again();
        self.next.push_back(event);
        detail.map(|detail| Event::Trouble { reason: ConditionReason::ClockStep, detail: Some(detail) })
    }

    /// By another clock what was signed may count again, or no longer.
    async fn readmit(&mut self) -> Option<Event> {
        self.pass_time();
        if self.config.targets.iter().all(|target| target.trust == Trust::Nobody) {
            return None;
        }
        Some(Event::Readmitted(self.take_targets().await))
    }

    /// Takes note of the time that passed.
    fn pass_time(&mut self) {
        let Passed { said, save } = self.time.pass(known_time::now_ms(), self.began.elapsed());
        if let Some((file, lines)) = save {
            // On a full disk, for example: what is known is, until a restart.
            let write = move || state_file::write(&file, &lines).inspect_err(tell::time_not_kept);
            drop(tokio::task::spawn_blocking(write));
        }
        if let Some(detail) = said {
            self.tell(Some(Event::Trouble { reason: ConditionReason::ClockStep, detail }));
        }
    }

    fn keep_time(&mut self) {
        let _said = self.time.pass(known_time::now_ms(), self.began.elapsed());
        // It is said, and there is nobody left to do more.
        let _lost = self.time.save().inspect_err(tell::time_not_kept);
    }

    /// Asks the collector from now on, as the configuration and the way to it are now.
    fn ask_collector(&mut self) {
        // The one before ends first: it would have written the same files.
        self.collected = None;
        self.collected = Collected::ask(&self.config, self.spool.client(), &self.state_dir, &self.done);
    }

    /// The collector has this for a target.
    async fn had(&mut self, target: &str, had: Had) -> Option<Event> {
        let live = self.live.get_mut(target)?;
        if !live.had(had) {
            return None;
        }
        Some(Event::Configured(self.take_targets().await))
    }

    /// Tells the monitor an event and those that follow from it, and carries out what it says.
    fn tell(&mut self, event: Option<Event>) {
        self.next.extend(event);
        while let Some(event) = self.next.pop_front() {
            let now = now(self.began.elapsed());
            for action in self.monitor.on(event, now) {
                self.perform(action, now);
            }
        }
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
        let (hold, location, watched, allowed) = live.watched(&self.state_dir);
        let of_process = live.is_of_process();
        let mode = self.config.watch.mode;
        let hints = self.hint_sender.clone();
        // The walk over all directories takes seconds on a large tree.
        tokio::task::spawn_blocking(move || {
            let message = match hold.root(&location) {
                Ok(root) => {
                    let name = target.as_str().into();
                    let (watcher, mut armed) = watch::arm(mode, &name, &watched, &root, &hints);
                    let mounts = root.process().map(|process| process.mounts().to_vec()).unwrap_or_default();
                    let allowed = allowed.into_iter().chain(mounts.iter().cloned()).collect();
                    let over = watch::watch_mounts(&name, &watched, allowed, &root, &hints)
                        .inspect_err(|error| armed.lacks(&format!("mounts over it are found by sweeps only: {error}")))
                        .ok();
                    let end = root.process().map(|process| say_when_ended(&done, &target, generation, process));
                    match end.transpose() {
                        Ok(end) => {
                            let watchers = [watcher].into_iter().chain(over).chain(end).collect();
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
                live.armed(watchers, armed.mode);
                tell::armed(&target, &armed);
                Some(Event::Armed { target, armed, mounts })
            }
            Done::Had { .. } => None,
            Done::Away { target, generation, detail } => {
                let live = self.live.get_mut(&target).filter(|live| live.is_of(generation))?;
                Some(away(target, detail, live))
            }
        }
    }

    /// Reports with another identity from now on, if there is one.
    fn joined(&mut self, step: membership::Step) {
        self.trouble(step.troubles);
        if !step.changed {
            return;
        }
        let client = match client(&self.config, self.membership.identity()) {
            Ok(client) => client,
            Err(error) => return self.membership.refuse(format!("{:#}", anyhow::Error::new(error))),
        };
        self.membership.set_client(client.clone());
        match client {
            Some(client) if self.spool.endpoint() == Some(client.endpoint()) => self.spool.renew_client(client),
            client => self.spool.set_client(client),
        }
        self.ask_collector();
    }

    fn trouble(&mut self, troubles: impl IntoIterator<Item = (ConditionReason, Option<String>)>) {
        self.next.extend(troubles.into_iter().map(|(reason, detail)| Event::Trouble { reason, detail }));
    }

    fn spooled(&mut self, step: spool::Step) {
        self.trouble(step.troubles);
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
            RunError::Identity(error) => error.into(),
            RunError::Client(error) => Self::new(Exit::Configuration, error),
            RunError::Mode(..) => Self::new(Exit::Configuration, error),
            RunError::Memory(_) | RunError::Listen(_) => Self::new(Exit::CannotCreate, error),
            RunError::Sink(_) | RunError::Pool(_) => Self::new(Exit::Io, error),
        }
    }
}
