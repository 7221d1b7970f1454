//! Owns a tree that a real agent watches in a given way, and what the agent must say of it by when: counted in the looks that
//! it took, never in seconds. Must not own what is done to the tree.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::agent::{Agent, AgentHome};
use crate::drift::{Drift, ensure_same};
use crate::fake::{FakeCollector, Then};
use crate::history::History;
use crate::process::Stream;
use crate::require::Requirement;
use crate::sandbox::Sandbox;
use crate::wait::eventually;

/// How it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One mark for each file system.
    Fanotify,
    /// One watch for each directory.
    Inotify,
    /// Nothing tells of a change.
    Sweep,
}

/// By when something is found at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// By an event, and a sweep is an hour away.
    Event,
    /// By the sweep that begins next.
    Sweep,
    /// When everything was read once more.
    Full,
    /// Not at all.
    Never,
}

/// Seconds between two sweeps, where they are to find something.
const SWEEP: u64 = 1;
/// Seconds in which everything is read, where that is to find something.
const FULL: u64 = 10;

/// A watched tree.
#[derive(Debug)]
pub struct Watched {
    // In the order in which they are to end.
    agent: Option<Agent>,
    wire: FakeCollector,
    home: AgentHome,
    bound: Bound,
    /// Where it all is.
    pub sandbox: Sandbox,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fanotify, Self::Inotify, Self::Sweep];

    /// The word of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Sweep => "sweep",
        }
    }

    /// What it takes, beside `needs`.
    pub fn needs(self, needs: &[Requirement]) -> Vec<Requirement> {
        let own: &[Requirement] = if self == Self::Fanotify { &[Requirement::Fanotify] } else { &[] };
        [needs, own].concat()
    }
}

impl Bound {
    /// The word of README.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Sweep => "sweep",
            Self::Full => "full",
            Self::Never => "never",
        }
    }

    /// The most looks at everything that may end before something is found that was done after the first of them began.
    const fn looks(self) -> u64 {
        // The one that was under way, the one that finds it, and one that had ended and was not told yet.
        const AROUND: u64 = 3;
        match self {
            Self::Event | Self::Never => 0,
            Self::Sweep => AROUND,
            // Two times around, with a tenth less between two looks.
            Self::Full => 2 * FULL * 10 / (SWEEP * 9) + 1 + AROUND,
        }
    }
}

impl Watched {
    /// Seals `root` as it is and has it watched in such a way that what has to be found by `bound` is found by nothing later;
    /// comes back when the agent has found that all is well, and, where it sweeps, relies on that.
    ///
    /// # Errors
    /// If the agent says anything else.
    pub fn start(sandbox: Sandbox, root: &Path, mode: Mode, bound: Bound) -> Result<Self> {
        let manifest = sandbox.seal(format!("dir:{}", root.display()), "tree.manifest")?;
        let wire = FakeCollector::start([], Then::Accept)?;
        let mut home = AgentHome::new(&sandbox, "host")?.target("app", root, &manifest).reports_to(wire.address());
        mode.name().clone_into(&mut home.watch);
        (home.sweep, home.full) = match bound {
            Bound::Event => (3600, 86_400),
            Bound::Sweep | Bound::Never => (SWEEP, 86_400),
            Bound::Full => (SWEEP, FULL),
        };
        let mut watched = Self { agent: None, wire, home, bound, sandbox };
        watched.resume()?;
        watched.wait_for_look("that all is well", 0, |summary| {
            let is = |key: &str| summary[key].as_u64().unwrap_or(u64::MAX);
            let clean = ["added", "removed", "changed", "unverifiable"].iter().all(|key| is(key) == 0);
            clean && (bound == Bound::Event || is("remembered") > 0)
        })?;
        Ok(watched)
    }

    /// Starts the agent, which was stopped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn resume(&mut self) -> Result<()> {
        self.agent = Some(self.home.start(&self.sandbox)?);
        Ok(())
    }

    /// Stops the agent.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
        }
        Ok(())
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.agent.as_mut().context("no agent")?.process().signal(signal)
    }

    /// As [`Watched::finds_at_last`], and each was opened once.
    ///
    /// # Errors
    /// If it was not so.
    pub fn finds(&mut self, change: impl FnOnce(&mut Self) -> Result<()>, expected: &[Drift]) -> Result<()> {
        self.finds_at_last(change, expected)?;
        let history = self.history()?;
        for Drift { path, .. } in expected {
            let times = history.times_opened(path)?;
            ensure!(times == 1, "{} was opened {times} times", path.escape_ascii());
        }
        Ok(())
    }

    /// Does `change` to the tree, waits until the open findings are exactly `expected`, checks that this was within the bound,
    /// and stops the agent.
    ///
    /// # Errors
    /// If it was not so.
    pub fn finds_at_last(&mut self, change: impl FnOnce(&mut Self) -> Result<()>, expected: &[Drift]) -> Result<()> {
        let before = self.looks();
        change(self)?;
        let expected: BTreeSet<Drift> = expected.iter().cloned().collect();
        self.eventually_open(&expected)?;
        let looks = self.looks().saturating_sub(before);
        let most = self.bound.looks();
        ensure!(looks <= most, "found after {looks} looks at everything, {most} are the bound");
        if self.bound == Bound::Full {
            // What only a part of the looks can see must not come and go with them.
            self.wait_for_looks(2)?;
        }
        self.stop()?;
        let history = self.history()?;
        history.check()?;
        ensure!(history.open()? == expected, "it did not last");
        Ok(())
    }

    /// Waits until the open findings are exactly `expected`.
    ///
    /// # Errors
    /// If they do not become so; what the agent logged is then said too.
    pub fn eventually_open(&mut self, expected: &BTreeSet<Drift>) -> Result<()> {
        let what = format!("{} open findings", expected.len());
        let found = eventually(&what, || ensure_same(expected, &self.history()?.open()?));
        found.map_err(|error| match &mut self.agent {
            Some(agent) => error.context(agent.process().text(Stream::Stderr)),
            None => error,
        })
    }

    /// Waits for so many more looks at everything, begun and ended.
    ///
    /// # Errors
    /// If they do not come.
    pub fn wait_for_looks(&self, more: u64) -> Result<()> {
        let before = self.looks();
        eventually("looks at everything", || {
            let looks = self.looks() - before;
            // One may have been under way.
            ensure!(looks > more, "{looks}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// What it said.
    ///
    /// # Errors
    /// If it contradicts itself.
    pub fn history(&self) -> Result<History> {
        self.wire.history()
    }

    /// Everything that it sent, repetitions and heartbeats included.
    pub fn events(&self) -> Vec<Value> {
        self.wire.events()
    }

    fn looks(&self) -> u64 {
        self.summaries().len() as u64
    }

    fn summaries(&self) -> Vec<Value> {
        let looked = |event: &Value| event["type"] == "dev.driftlock.target.verified.v1";
        self.events().iter().filter(|event| looked(event)).map(|event| event["data"]["summary"].clone()).collect()
    }

    fn wait_for_look(&self, what: &str, from: usize, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        eventually(what, || {
            let summaries = self.summaries();
            let found = summaries.get(from..).unwrap_or_default().iter().any(&wanted);
            ensure!(found, "{summaries:?}");
            Ok::<_, anyhow::Error>(())
        })
    }
}
