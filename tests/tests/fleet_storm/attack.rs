//! Owns attacks on a collector that a fleet reports to meanwhile: each is refused as expected and counted, and afterwards the
//! fleet is served as before. Must not own what an attacker does.

mod credential;
mod crowd;
mod name;
mod speech;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::fleet::agent::{Agent, Reply, post};
use driftlock_tests::fleet::endpoint::Endpoint;
use driftlock_tests::fleet::identity::Identity;
use driftlock_tests::fleet::ledger::Ledger;
use driftlock_tests::fleet::model::Model;
use driftlock_tests::fleet::shown::Shown;
use driftlock_tests::fleet::wire::{Wire, request};
use driftlock_tests::http::Answer;
use driftlock_tests::random::Random;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::PATIENCE;
use rustls::ClientConfig;
use serde_json::Value;

use crate::fleet::{Fleet, join, settle};
use crate::storm::runtime;

/// Honest hosts that report meanwhile.
const HONEST: usize = 40;
const READ_TOKEN: &str = "who-has-this-may-read";
/// What is counted, as the metrics name it.
const REFUSED: &str = "batches_total{result=\"refused\"}";
const REJECTED: &str = "events_total{result=\"rejected\"}";
const NOT_JOINED: &str = "enrolments_total{result=\"refused\"}";
const HANDSHAKES: &str = "handshakes_failed_total";

/// An attack: what counts it, and what it does, which gives how often it has to be counted.
struct Attack<'a> {
    name: &'static str,
    counted: Option<&'static str>,
    run: Pin<Box<dyn Future<Output = Result<u64>> + 'a>>,
}

impl<'a> Attack<'a> {
    fn new(
        name: &'static str,
        counted: impl Into<Option<&'static str>>,
        run: impl Future<Output = Result<u64>> + 'a,
    ) -> Self {
        Self { name, counted: counted.into(), run: Box::pin(run) }
    }
}

/// What is attacked.
struct Stage {
    endpoint: Endpoint,
    /// How many say nothing.
    silent: usize,
}

/// An attacker that has a certificate of its own.
struct Evil {
    agent: Agent,
    identity: Identity,
}

/// Runs every attack, one after the other, while a fleet reports; `silent` is the size of the largest crowd.
pub(crate) fn run(seed: u64, silent: usize) -> Result<()> {
    println!("DRIFTLOCK_TEST_SEED={seed}");
    let sandbox = Sandbox::new()?;
    let token = sandbox.write("read.token", READ_TOKEN)?;
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let token = token.display().to_string();
    let mut endpoint = Endpoint::start(sandbox, "data", &["--read-token-file", &token])?;
    endpoint.read_with(READ_TOKEN);
    let mut stage = Stage { endpoint, silent };
    let models = match runtime()?.block_on(stage.attacked(&mut Random::new(seed))) {
        Ok(models) => models,
        Err(error) => {
            println!("{}", stage.endpoint.log());
            return Err(error);
        }
    };
    // What is kept is what was said, whoever said it.
    stage.endpoint.kill()?;
    let ledger = Ledger::open(stage.endpoint.data(), &stage.endpoint.sandbox().path("tmp"))?;
    ledger.check(&models)?;
    ledger.check_tallies()
}

impl Stage {
    async fn attacked(&mut self, random: &mut Random) -> Result<Vec<Model>> {
        let honest = join(&self.endpoint, HONEST, random).await?;
        let fleet = Fleet::live(honest, random, false);
        let bystander = self.bystander("bystander").await?;
        let mut gone = self.bystander("gone").await?;
        gone.model.interval_s = 1;
        ensure!(gone.deliver(10).await?, "the last word of a host");
        gone.model.gone = true;
        let attacks = speech::attacks(self, &bystander)
            .into_iter()
            .chain(credential::attacks(self))
            .chain(name::attacks(self))
            .chain(crowd::attacks(self, &fleet.counts));
        for attack in attacks {
            let begun = Instant::now();
            self.run_one(attack, &fleet).await?;
            println!("{:>6} ms", begun.elapsed().as_millis());
        }
        let mut agents = settle(fleet.end().await?).await?;
        agents.extend([bystander, gone]);
        let is_silent = async || Ok(Shown::read(&self.endpoint).await?.state("gone") == Some("silent"));
        self.until(|silent| *silent, is_silent).await.context("a host that is gone")?;
        let shown = Shown::read(&self.endpoint).await?;
        for agent in &agents {
            shown.check(&agent.model)?;
        }
        let known: BTreeSet<&str> = agents.iter().map(|agent| agent.model.host.as_str()).collect();
        for host in shown.hosts() {
            ensure!(known.contains(host) || host.starts_with("evil-"), "{host} is nobody");
        }
        name::check_log(&self.endpoint.log())?;
        Ok(agents.into_iter().map(|agent| agent.model).collect())
    }

    async fn run_one(&self, attack: Attack<'_>, fleet: &Fleet) -> Result<()> {
        let Attack { name, counted, run } = attack;
        print!("{name:60}");
        let before = match counted {
            Some(counted) => self.endpoint.metric(counted).await?,
            None => 0,
        };
        let expected = before + run.await.with_context(|| name.to_owned())?;
        if let Some(counted) = counted {
            // The other end of a connection may be seen late.
            let seen = self.until(|seen| *seen >= expected, || self.endpoint.metric(counted)).await?;
            ensure!(seen == expected, "{name}: {counted} is {seen} after {before}, and should be {expected}");
        }
        // Whoever is honest is served as before.
        let (taken, _) = fleet.counts.deliveries();
        self.until(|served| *served > taken + 5, async || Ok(fleet.counts.deliveries().0)).await.context(name)?;
        let (_, unknown) = fleet.counts.deliveries();
        ensure!(unknown == 0, "{name}: {unknown} batches of honest hosts were not taken");
        Ok(())
    }

    /// Asks until the answer is as wanted, at most for [`PATIENCE`]; the last answer.
    async fn until<T>(&self, is: impl Fn(&T) -> bool, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = ask().await?;
            if is(&found) {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "it does not become so");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An honest host that says something and then nothing more.
    async fn bystander(&self, name: &str) -> Result<Agent> {
        let mut bystander = self.evil(name).await?.agent;
        bystander.model.differs(b"etc/app.toml", driftlock_tests::fleet::model::Kind::Drift, 7);
        ensure!(bystander.deliver(10).await?, "the bystander is not heard");
        ensure!(bystander.deliver(10).await? && bystander.model.waiting.is_empty(), "the bystander is not at rest");
        Ok(bystander)
    }

    /// An attacker with this name.
    async fn evil(&self, name: &str) -> Result<Evil> {
        let identity = self.endpoint.join(name).await?;
        let model = Model::new(name, &mut Random::new(name.len() as u64));
        let agent = Agent::new(model, Arc::clone(&identity.config), self.endpoint.address());
        Ok(Evil { agent, identity })
    }

    /// The answer to a request over a connection of its own.
    async fn ask(&self, config: &Arc<ClientConfig>, request: &[u8]) -> Result<Answer> {
        Wire::open(self.endpoint.address(), config).await?.ask(request).await
    }

    /// The most memory that the collector has had, in bytes.
    fn peak(&self) -> Result<u64> {
        let process = self.endpoint.process().context("it runs")?.id();
        let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{process}/status")))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }
}

impl Evil {
    /// Says what waits, with a heartbeat, and expects that it is taken as its own.
    async fn says(&mut self) -> Result<()> {
        let batch = self.agent.model.batch(100, true);
        match self.agent.post(&batch).await? {
            Reply::Answered(answer) => {
                self.agent.model.take(&answer);
                Ok(())
            }
            Reply::Again(why) => anyhow::bail!("{why}"),
        }
    }

    /// Posts a batch as JSON.
    async fn posts(&mut self, json: &[u8]) -> Result<Answer> {
        let request = post(json);
        self.asks(&request).await
    }

    /// Posts a body with these headers.
    async fn posts_with(&mut self, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let mut all = vec![("content-type", "application/cloudevents-batch+json")];
        all.extend_from_slice(headers);
        self.asks(&request("POST", "/v1/events", &all, body)).await
    }

    /// The answer over the kept connection, or another if that has ended.
    async fn asks(&mut self, request: &[u8]) -> Result<Answer> {
        if let Ok(answer) = self.agent.wire().await?.ask(request).await {
            return Ok(answer);
        }
        self.agent.hang_up();
        self.agent.wire().await?.ask(request).await
    }
}

/// Fails unless an answer is this refusal.
fn expect(what: &str, answer: &Answer, status: u16, code: &str) -> Result<()> {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let seen = (answer.status, problem["code"].as_str().unwrap_or_default());
    ensure!(seen == (status, code), "{what}: {seen:?} instead of {:?}: {}", (status, code), answer.text());
    Ok(())
}
