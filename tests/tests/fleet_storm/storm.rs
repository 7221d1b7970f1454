//! Owns a storm: a fleet that joins, lives while everything goes wrong, and comes to rest; and what must hold then. Must not
//! own what goes wrong.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::fleet::agent::Agent;
use driftlock_tests::fleet::endpoint::Endpoint;
use driftlock_tests::fleet::ledger::Ledger;
use driftlock_tests::fleet::model::Model;
use driftlock_tests::fleet::shown::Shown;
use driftlock_tests::namespace;
use driftlock_tests::random::Random;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::pass;
use tokio::runtime::{Builder, Runtime};

use crate::fleet::{Fleet, join, settle};
use crate::outage::{Disk, Outage, scratch};

/// Between two outages, in milliseconds, at most.
const BETWEEN: u64 = 1500;
/// A host that should be there, and never is.
const EXPECTED: &str = "expected = [\"host-of-nobody\"]\n";

/// A storm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    pub(crate) hosts: usize,
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
}

/// Tasks of hosts run on as many threads as there are cores; in the namespace of who makes it.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

impl Storm {
    pub(crate) fn run(self) -> Result<()> {
        println!("DRIFTLOCK_TEST_SEED={} with {} hosts for {} s", self.seed, self.hosts, self.lasts.as_secs());
        namespace::within(|| self.run_within()).with_context(|| format!("DRIFTLOCK_TEST_SEED={}", self.seed))
    }

    fn run_within(self) -> Result<()> {
        let disk = Disk::new()?;
        let sandbox = Sandbox::new()?;
        let fleet = sandbox.write("fleet.toml", EXPECTED)?.display().to_string();
        let data = disk.path("data").display().to_string();
        let mut endpoint = Endpoint::start(sandbox, &data, &["--fleet", &fleet])?;
        let held = self.blow(&mut endpoint, &disk);
        if held.is_err() {
            println!("{}", endpoint.log());
        }
        held
    }

    fn blow(self, endpoint: &mut Endpoint, disk: &Disk) -> Result<()> {
        let (runtime, begun) = (runtime()?, Instant::now());
        let random = &mut Random::new(self.seed);
        let agents = runtime.block_on(join(endpoint, self.hosts, random))?;
        println!("{} hosts joined after {} ms", agents.len(), begun.elapsed().as_millis());

        let storm = Instant::now();
        let fleet = {
            let _inside = runtime.enter();
            Fleet::live(agents, random, true)
        };
        let backup = disk.path("backup").display().to_string();
        let mut outages = 0;
        while storm.elapsed() < self.lasts || outages < Outage::ALL.len() {
            pass(Duration::from_millis(random.below(BETWEEN)));
            let outage = Outage::ALL.get(outages).copied().unwrap_or_else(|| *random.pick(&Outage::ALL));
            outage.strike(endpoint, disk, random, &fleet.counts).with_context(|| format!("{outage:?}"))?;
            outages += 1;
            if outages == Outage::ALL.len() / 2 {
                endpoint.verb(&["backup", &backup])?;
            }
        }
        let (taken, unknown) = fleet.counts.deliveries();
        let full = fleet.counts.full();
        ensure!(full > 0, "there was always room");
        for (number, why) in fleet.counts.whys() {
            println!("{number:6} {}", why.escape_debug());
        }
        let agents = runtime.block_on(fleet.end())?;

        // The last outage: what was acknowledged until now is there, whoever looks.
        endpoint.kill()?;
        let held = Ledger::open(endpoint.data(), scratch(endpoint))?.check(models(&agents))?;
        let waiting: usize = agents.iter().map(|agent| agent.model.waiting.len()).sum();
        println!(
            "{outages} outages in {} s: {taken} deliveries taken, {unknown} not known to be, {full} without room; {} events \
             acknowledged and {} kept, {waiting} still with their hosts",
            storm.elapsed().as_secs(),
            held.acknowledged,
            held.events,
        );
        endpoint.again()?;

        let (agents, shown) = runtime.block_on(calm(endpoint, agents))?;
        ensure!(shown.state("host-of-nobody") == Some("absent"), "{:?}", shown.state("host-of-nobody"));
        ensure!(shown.hosts().len() == agents.len() + 1, "others are shown too: {:?}", shown.hosts());

        endpoint.kill()?;
        let ledger = Ledger::open(endpoint.data(), scratch(endpoint))?;
        let held = ledger.check(models(&agents))?;
        ledger.check_tallies()?;
        let given: u64 = agents.iter().map(|agent| agent.model.life.last).sum();
        let lost: u64 = agents.iter().flat_map(|agent| &agent.model.earlier).map(|life| life.acknowledged).sum();
        ensure!(held.acknowledged == given + lost, "{held:?} of {given} and {lost}");
        ensure!(held.events == ledger.events()?, "{held:?}, and {} are kept", ledger.events()?);
        for agent in &agents {
            let holes = ledger.holes(&agent.model.host, &agent.model.life)?;
            ensure!(holes == 0, "{}: {holes} holes, although everything came", agent.model.host);
        }
        println!("{} events kept at the end, after {} s", held.events, begun.elapsed().as_secs());

        endpoint.restore(&backup)?;
        endpoint.again()?;
        runtime.block_on(know_again(endpoint, agents))
    }
}

/// Brings a fleet to rest, stops some hosts, and holds what is shown against what each of them knows.
async fn calm(endpoint: &Endpoint, agents: Vec<Agent>) -> Result<(Vec<Agent>, Shown)> {
    let mut agents = settle(agents).await?;
    let shown = Shown::read(endpoint).await?;
    agents.iter().try_for_each(|agent| shown.check(&agent.model)).context("at rest")?;
    for agent in agents.iter_mut().step_by(7) {
        agent.model.stop();
    }
    let agents = settle(agents).await?;
    let shown = Shown::read(endpoint).await?;
    agents.iter().try_for_each(|agent| shown.check(&agent.model)).context("after some stopped")?;
    Ok((agents, shown))
}

/// The collector is an older one. Whoever still runs is known again as it is.
async fn know_again(endpoint: &Endpoint, agents: Vec<Agent>) -> Result<()> {
    let agents = agents.into_iter().filter(|agent| !agent.model.stopped).collect();
    let agents = settle(agents).await.context("after a restore")?;
    let shown = Shown::read(endpoint).await?;
    agents.iter().try_for_each(|agent| shown.check(&agent.model)).context("after a restore")
}

fn models(agents: &[Agent]) -> impl Iterator<Item = &Model> {
    agents.iter().map(|agent| &agent.model)
}
