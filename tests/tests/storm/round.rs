//! Owns one round: a sealed tree, an agent that watches it, a collector, a storm with a fault beside it, and what must hold
//! when it is over. Must not own the faults themselves (`fault`).

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::binaries::binaries;
use driftlock_tests::clock::Clock;
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::drift::{Drift, drifts, ensure_same};
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::history::History;
use driftlock_tests::namespace;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::random::Random;
use driftlock_tests::require::Requirement;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::storm::{Order, Storm, Touched};
use driftlock_tests::wait::eventually;
use serde_json::Value;

use crate::fault::{FLOODED, Fault};

const HOST: &str = "web-1";
/// Time between sweeps where nothing may be found by one.
const NO_SWEEP: u64 = 600;
/// Directories that an agent may watch, where it may not watch all.
const WATCHES: u32 = 100;

/// How the tree is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Inotify,
    Sweep,
}

/// How it is watched, and what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) mode: Mode,
    pub(crate) fault: Fault,
    /// Sweeps come too late to find anything, and what the mode is blind to is left out.
    pub(crate) alone: bool,
}

const fn case(mode: Mode, fault: Fault, alone: bool) -> Case {
    Case { mode, fault, alone }
}

/// Each fault in each way of watching in which it can be.
pub(crate) const CASES: [Case; 17] = [
    case(Mode::Inotify, Fault::Nothing, true),
    case(Mode::Inotify, Fault::Nothing, false),
    case(Mode::Inotify, Fault::Overflow, true),
    case(Mode::Inotify, Fault::Limit, false),
    case(Mode::Inotify, Fault::Killed, true),
    case(Mode::Inotify, Fault::Stopped, true),
    case(Mode::Inotify, Fault::CollectorKilled, true),
    case(Mode::Inotify, Fault::Wire, true),
    case(Mode::Inotify, Fault::DiskFull, true),
    case(Mode::Inotify, Fault::Clock, true),
    case(Mode::Sweep, Fault::Nothing, false),
    case(Mode::Sweep, Fault::Killed, false),
    case(Mode::Sweep, Fault::Stopped, false),
    case(Mode::Sweep, Fault::CollectorKilled, false),
    case(Mode::Sweep, Fault::Wire, false),
    case(Mode::Sweep, Fault::DiskFull, false),
    case(Mode::Sweep, Fault::Clock, false),
];

/// One storm, and what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) case: Case,
    pub(crate) seed: u64,
    /// How long the storm is.
    pub(crate) storm: Duration,
    /// Whether everything is kept if something does not hold.
    pub(crate) keep: bool,
}

/// What happened in a round.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) operations: u64,
    pub(crate) events: usize,
    /// How often a finding was opened.
    pub(crate) opened: usize,
    /// What differed when the storm was over.
    pub(crate) differed: usize,
    /// Of what was open then, what flapped.
    pub(crate) flapping: usize,
}

/// Who plays.
#[derive(Debug)]
pub(crate) struct Stage {
    // In the order in which they are to end: the sandbox last.
    agent: Option<Agent>,
    collector: Option<Collector>,
    wire: FakeCollector,
    collectors: CollectorHome,
    home: AgentHome,
    clock: Option<Clock>,
    fault: Fault,
    random: Random,
    storm: Storm,
    /// What agents wrote that are no more.
    said: String,
    sandbox: Sandbox,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Inotify => "inotify",
            Self::Sweep => "sweep",
        }
    }
}

impl Case {
    pub(crate) fn name(self) -> String {
        let fault = match self.fault {
            Fault::Nothing => "a_storm",
            Fault::Overflow => "an_agent_that_stands_still_for_all_of_it",
            Fault::Limit => "a_hundred_watches",
            Fault::Killed => "an_agent_killed_again_and_again",
            Fault::Stopped => "an_agent_that_stands_still_now_and_then",
            Fault::CollectorKilled => "a_collector_killed_again_and_again",
            Fault::Wire => "a_broken_way_to_the_collector",
            Fault::DiskFull => "a_full_disk",
            Fault::Clock => "a_clock_that_is_set",
        };
        let alone = if self.alone { "_by_events_alone" } else { "" };
        format!("{}::{fault}{alone}", self.mode.name())
    }

    pub(crate) const fn needs(self) -> &'static [Requirement] {
        match self.fault {
            Fault::DiskFull => &[Requirement::Root, Requirement::MountNamespace],
            Fault::Limit => &[Requirement::Root, Requirement::Namespaces],
            _ => &[Requirement::Root],
        }
    }
}

impl Round {
    /// Runs it.
    ///
    /// # Errors
    /// If something does not hold.
    pub(crate) fn run(self) -> Result<Counts> {
        let run = || {
            let mut stage = Stage::new(self)?;
            let counts = stage.play(self);
            if counts.is_err() && self.keep {
                eprintln!("everything is kept in {}", stage.keep()?.display());
            }
            stage.end()?;
            counts
        };
        let counts = if self.case.fault == Fault::DiskFull { namespace::within(run) } else { run() };
        counts.with_context(|| format!("{} with seed {}", self.case.name(), self.seed))
    }
}

impl Stage {
    fn new(round: Round) -> Result<Self> {
        let Round { case, seed, .. } = round;
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        let storm = Storm::prepare(&tree, seed)?;
        storm.equip(&sandbox.path("pristine"), &sandbox.path("outside"))?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let collectors = CollectorHome::new(&sandbox, &[HOST])?;
        let collector = collectors.start(&sandbox)?;
        let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
        let mut home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest).reports_to(wire.address());
        home.watch = case.mode.name().to_owned();
        home.sweep = if case.alone { NO_SWEEP } else { 1 };
        if case.fault == Fault::DiskFull {
            fs::create_dir(home.state_dir())?;
            namespace::tmpfs_of(&home.state_dir(), "size=6m,mode=700")?;
        }
        let clock = (case.fault == Fault::Clock).then(|| Clock::new(&sandbox)).transpose()?;
        let mut stage = Self {
            agent: None,
            collector: Some(collector),
            wire,
            collectors,
            home,
            clock,
            fault: case.fault,
            random: Random::new(!seed),
            storm,
            said: String::new(),
            sandbox,
        };
        stage.start_agent()?;
        Ok(stage)
    }

    fn play(&mut self, round: Round) -> Result<Counts> {
        let Round { case, seed, storm, .. } = round;
        let limited = case.fault == Fault::Limit;
        let blind: BTreeSet<String> = limited.then(|| "watch_degraded".to_owned()).into_iter().collect();
        eventually("a first look at everything", || {
            self.agent()?.check_running()?;
            let looked = self.wire.events().iter().any(|event| event["type"] == "dev.driftlock.target.snapshot.v1");
            ensure!(looked, "none");
            Ok::<_, anyhow::Error>(())
        })?;
        self.eventually_agree(&BTreeSet::new()).context("before the storm")?;
        self.eventually_conditions(&blind).context("before the storm")?;
        let order = Order {
            root: self.sandbox.path("tree"),
            pristine: self.sandbox.path("pristine"),
            outside: self.sandbox.path("outside"),
            log: self.sandbox.path("touched"),
            seed,
            threads: 2,
            operations: 10_000_000,
            milliseconds: u64::try_from(storm.as_millis())?,
            seen_by: case.alone.then(|| case.mode.name().to_owned()),
        };
        let mut running = order.start(&self.sandbox)?;
        case.fault.strike(self, &mut running)?;
        let (operations, mut touched) = running.end()?;
        FLOODED.iter().for_each(|path| touched.harmless(path.as_bytes()));
        self.agent()?.check_running()?;
        let expected = self.storm.expected()?;
        ensure!(expected.len() > 30, "a storm that changes nothing shows nothing: {expected:?}");
        let flapping = self.eventually_agree(&expected).context("after the storm")?;
        self.eventually_conditions(&blind).context("after the storm")?;
        self.storm.calm()?;
        self.eventually_agree(&BTreeSet::new()).context("after all was put back")?;
        let agent = self.agent.take().context("an agent")?;
        let history = self.wire.history()?;
        history.check()?;
        ensure!(history.epochs() == 1, "{} epochs: the state was lost", history.epochs());
        nothing_false(&history, &touched)?;
        self.nothing_twice(&history)?;
        if let Some(reason) = case.fault.is_told_as(case.mode == Mode::Inotify) {
            ensure!(history.has_condition(reason), "nothing was told of {reason}: it did not happen");
        }
        ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
        let opened = history.openings()?.values().sum();
        Ok(Counts { operations, events: history.events(), opened, differed: expected.len(), flapping })
    }

    /// Waits until what is open is what differs. What flaps is open for some minutes more, and counted: whether it differs
    /// is not said of it.
    fn eventually_agree(&self, expected: &BTreeSet<Drift>) -> Result<usize> {
        let what = format!("{} open findings at the collector", expected.len());
        eventually(&what, || {
            let open = self.collector()?.findings("open")?;
            let (flapping, steady): (Vec<Value>, Vec<Value>) =
                open.into_iter().partition(|finding| !finding["flapping"].is_null());
            let flaps: BTreeSet<Vec<u8>> = flapping.iter().map(Drift::path_of).collect::<Result<_>>()?;
            let expected = expected.iter().filter(|drift| !flaps.contains(&drift.path)).cloned().collect();
            ensure_same(&expected, &drifts(&steady)?)?;
            Ok::<_, anyhow::Error>(flaps.len())
        })
    }

    fn eventually_conditions(&self, expected: &BTreeSet<String>) -> Result<()> {
        eventually(&format!("{expected:?} to be the open conditions"), || {
            let open = self.collector()?.conditions()?;
            ensure!(open == *expected, "{open:?}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// The collector has one row for each path that was ever opened, whatever was sent twice.
    fn nothing_twice(&self, history: &History) -> Result<()> {
        let rows: Vec<Vec<u8>> = self.collector()?.findings("")?.iter().map(Drift::path_of).collect::<Result<_>>()?;
        let stored: BTreeSet<&Vec<u8>> = rows.iter().collect();
        let openings = history.openings()?;
        ensure!(rows.len() == stored.len(), "{} rows of {} paths", rows.len(), stored.len());
        ensure!(stored == openings.keys().collect(), "{} paths stored, {} opened", stored.len(), openings.len());
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        let driftlock = &binaries().driftlock;
        let agent = match self.fault {
            Fault::Limit => {
                let unshare = self.sandbox.bare_command("unshare".as_ref());
                let mut agent = self.home.start_by(namespace::with_watches(unshare, WATCHES, driftlock))?;
                namespace::map_ids(agent.process().id())?;
                agent
            }
            _ => {
                let mut command = self.sandbox.bare_command(driftlock);
                if let Some(clock) = &self.clock {
                    clock.give(&mut command);
                }
                self.home.start_by(command)?
            }
        };
        self.agent = Some(agent);
        Ok(())
    }

    /// SIGKILL, and another one.
    pub(crate) fn restart_agent(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.process().check_running()?;
            self.said += &agent.process().text(Stream::Stderr);
            agent.kill()?;
        }
        self.start_agent()
    }

    pub(crate) fn kill_collector(&mut self) -> Result<()> {
        self.collector.take().context("a collector")?.kill()
    }

    pub(crate) fn start_collector(&mut self) -> Result<()> {
        let collector = self.collectors.start(&self.sandbox)?;
        self.wire.then(Then::Forward(collector.address()));
        self.collector = Some(collector);
        Ok(())
    }

    fn collector(&self) -> Result<&Collector> {
        self.collector.as_ref().context("a collector")
    }

    pub(crate) fn agent(&mut self) -> Result<&mut Process> {
        Ok(self.agent.as_mut().context("an agent")?.process())
    }

    pub(crate) const fn wire(&self) -> &FakeCollector {
        &self.wire
    }

    pub(crate) const fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.sandbox.path("tree")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.home.state_dir()
    }

    pub(crate) const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Some milliseconds, fewer than `bound`.
    pub(crate) const fn moment(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.random.below(bound))
    }

    /// Ends the agent, and what was mounted for it.
    fn end(mut self) -> Result<()> {
        drop(self.agent.take());
        if self.fault == Fault::DiskFull { namespace::unmount(&self.state_dir()) } else { Ok(()) }
    }

    /// Writes down what was said, and leaves everything where it is.
    fn keep(&mut self) -> Result<PathBuf> {
        let events: String = self.wire.events().iter().map(|event| format!("{event}\n")).collect();
        self.sandbox.write("events.ndjson", events)?;
        if let Some(agent) = &mut self.agent {
            self.said += &agent.process().text(Stream::Stderr);
        }
        self.sandbox.write("agent.log", &self.said)?;
        if let Some(collector) = &self.collector {
            let open: String = collector.findings("open")?.iter().map(|finding| format!("{finding}\n")).collect();
            self.sandbox.write("open.ndjson", open)?;
        }
        Ok(self.sandbox.keep().to_owned())
    }
}

/// No finding was ever told of a path that never differed.
fn nothing_false(history: &History, touched: &Touched) -> Result<()> {
    for finding in history.told() {
        let path = Drift::path_of(finding)?;
        let unstable = finding["change"] == "unverifiable" && finding["reason"] == "unstable";
        let fair = touched.may_differ(&path) || (unstable && touched.may_be_unstable(&path));
        ensure!(fair, "told of what never differed: {finding}");
    }
    Ok(())
}
