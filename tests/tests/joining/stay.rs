//! An agent whose host has joined: it reports with its certificate, renews it, and takes another one over while it runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::fake::Act;
use driftlock_tests::process::Stream;
use driftlock_tests::require::trial;
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::enroll::Stage;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_host_that_joined_needs_no_endpoint_and_no_token", &[], needs_nothing_else),
        trial("certificates_are_renewed_and_no_report_is_missed", &[], renewed),
        trial("a_host_that_was_revoked_says_so_and_joins_again_while_its_agent_runs", &[], revoked_and_joined_again),
        trial("an_agent_that_runs_takes_over_what_joins_and_what_others_put_there", &[], taken_over),
    ]
}

struct Host {
    home: AgentHome,
    tree: Tree,
    stage: Stage,
}

impl Host {
    fn new() -> Result<Self> {
        let stage = Stage::new()?;
        let tree = stage.sandbox.tree("tree")?;
        tree.file("bin/app", "program\n")?.file("etc/app.toml", "level = 1\n")?;
        let manifest = stage.sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let mut home = AgentHome::new(&stage.sandbox, "web-1")?.target("app", tree.root(), &manifest);
        home.report = "heartbeat = \"1s\"".to_owned();
        Ok(Self { home, tree, stage })
    }

    fn join(&self) -> Result<()> {
        self.stage.enroll(&self.stage.authority.token(), &self.home.state_dir())?.expect(0)?;
        Ok(())
    }

    fn start(&self) -> Result<Agent> {
        self.home.start(&self.stage.sandbox)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.state_dir().join("identity").join(name)
    }

    /// SHA-256 of the certificates with which events came.
    fn certificates(&self) -> BTreeSet<String> {
        let requests = self.stage.collector.requests().into_iter();
        requests.filter(|(path, _)| path == "/v1/events").filter_map(|(_, certificate)| certificate).collect()
    }

    fn asked(&self, path: &str) -> usize {
        self.stage.collector.requests().iter().filter(|(asked, _)| asked == path).count()
    }

    fn beats(&self) -> usize {
        let events = self.stage.collector.events();
        events.iter().filter(|event| event["type"] == "dev.driftlock.agent.heartbeat.v1").count()
    }

    fn eventually_beats(&self) -> Result<()> {
        let before = self.beats();
        eventually("more signs of life", || {
            let now = self.beats();
            if now > before { Ok(()) } else { Err(format!("{now}")) }
        })
    }

    fn eventually_opened(&self, path: &[u8]) -> Result<()> {
        eventually("a finding to be told", || {
            let times = self.stage.collector.history()?.times_opened(path)?;
            ensure!(times == 1, "{times}");
            Ok::<_, anyhow::Error>(())
        })
    }

    fn eventually_condition(&self, reason: &str, open: bool) -> Result<Value> {
        eventually(&format!("{reason} to be open: {open}"), || {
            let status = self.home.control().status()?;
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.into_iter().find(|condition| condition["reason"] == reason);
            ensure!(found.is_some() == open, "{status}");
            Ok::<_, anyhow::Error>(found.unwrap_or_default())
        })
    }
}

fn needs_nothing_else() -> Result<()> {
    let host = Host::new()?;
    host.join()?;
    let agent = host.start()?;
    tamper::append(host.tree.root(), "bin/app")?;
    host.eventually_opened(b"bin/app")?;
    let status = host.home.control().status()?;
    ensure!(status["agent"]["collector"]["endpoint"] == host.stage.server().as_str(), "{status}");
    let until = status["agent"]["collector"]["certificate_until"].as_str().context("until when")?;
    ensure!(until.ends_with('Z'), "{until}");
    ensure!(agent.stop()? == 0, "a clean end");
    ensure!(host.certificates().len() == 1 && host.asked("/v1/renew") == 0, "{:?}", host.stage.collector.requests());
    // Whoever else would answer there is not told anything.
    host.stage.collector.speak(driftlock_tests::authority::Authority::new()?.server(&["127.0.0.1"])?);
    let before = host.stage.collector.requests().len();
    let mut agent = host.start()?;
    agent.process().line(Stream::Stderr, |line| line.contains("invalid peer certificate").then_some(()))?;
    agent.stop()?;
    ensure!(host.stage.collector.requests().len() == before, "{:?}", host.stage.collector.requests());
    Ok(())
}

fn renewed() -> Result<()> {
    let host = Host::new()?;
    host.stage.authority.give_for(Duration::from_secs(14));
    host.join()?;
    let receipt = fs::read(host.at("receipt.key"))?;
    let key = fs::read(host.at("key.pem"))?;
    let agent = host.start()?;
    host.eventually_beats()?;
    tamper::append(host.tree.root(), "bin/app")?;
    host.eventually_opened(b"bin/app")?;
    eventually("a renewal, and reports with what it gave", || {
        let (renewals, certificates) = (host.asked("/v1/renew"), host.certificates().len());
        ensure!(renewals >= 1 && certificates >= 2, "{renewals} {certificates}");
        Ok::<_, anyhow::Error>(())
    })?;
    tamper::add(host.tree.root(), "etc/new")?;
    host.eventually_opened(b"etc/new")?;
    // Nothing was refused on the way: no certificate was used after its time, none before it was there.
    let conditions = host.home.control().status()?["conditions"].clone();
    ensure!(conditions.is_null(), "{conditions}");
    ensure!(agent.stop()? == 0, "a clean end");
    let history = host.stage.collector.history()?;
    history.check()?;
    ensure!(!history.has_condition("collector_refused") && !history.has_condition("identity_expiring"), "a condition");
    ensure!(fs::read(host.at("receipt.key"))? == receipt, "another receipt key");
    ensure!(fs::read(host.at("key.pem"))? != key, "the same key");
    Ok(())
}

fn revoked_and_joined_again() -> Result<()> {
    let host = Host::new()?;
    host.stage.authority.give_for(Duration::from_secs(12));
    host.join()?;
    let agent = host.start()?;
    host.eventually_beats()?;
    host.stage.collector.revoke();
    tamper::append(host.tree.root(), "bin/app")?;
    let refused = host.eventually_condition("collector_refused", true)?;
    ensure!(refused["detail"].as_str().is_some_and(|detail| detail.contains("was revoked")), "{refused}");
    let expiring = host.eventually_condition("identity_expiring", true)?;
    let detail = expiring["detail"].as_str().context("detail")?;
    ensure!(detail.contains("the certificate of web-1 end") && detail.contains("was revoked"), "{detail}");
    ensure!(host.stage.collector.history()?.times_opened(b"bin/app")? == 0, "it was told");
    // As an operator does it: the agent is not touched.
    host.stage.authority.give_for(Duration::from_hours(24));
    host.join()?;
    host.eventually_opened(b"bin/app")?;
    host.eventually_condition("collector_refused", false)?;
    host.eventually_condition("identity_expiring", false)?;
    ensure!(agent.stop()? == 0, "a clean end");
    host.stage.collector.history()?.check()
}

fn taken_over() -> Result<()> {
    let host = Host::new()?;
    // It runs, and knows no collector.
    let agent = host.start()?;
    tamper::append(host.tree.root(), "bin/app")?;
    eventually("the agent to answer", || host.home.control().status())?;
    host.join()?;
    host.eventually_beats()?;
    let first = host.certificates();
    // Somebody else keeps certificates up to date: first the key, then what belongs to it, each by renaming.
    let other = host.stage.sandbox.path("other");
    host.stage.enroll(&host.stage.authority.token(), &other)?.expect(0)?;
    let put = |name: &str| -> Result<()> {
        let draft = host.stage.sandbox.path("draft");
        fs::copy(other.join("identity").join(name), &draft)?;
        Ok(fs::rename(draft, host.at(name))?)
    };
    put("key.pem")?;
    let unusable = host.eventually_condition("identity_expiring", true)?;
    let detail = unusable["detail"].as_str().context("detail")?;
    ensure!(detail.contains("not that of the key in key.pem") && detail.contains("is used until"), "{detail}");
    host.eventually_beats()?;
    put("certificate.pem")?;
    host.eventually_condition("identity_expiring", false)?;
    eventually("reports with the other certificate", || {
        let certificates = host.certificates();
        if certificates.len() > first.len() { Ok(()) } else { Err(format!("{certificates:?}")) }
    })?;
    // One that is broken off in the middle of a request is not lost.
    host.stage.collector.act([Act::CutRequest, Act::LoseAnswer]);
    tamper::add(host.tree.root(), "etc/new")?;
    eventually("the finding", || {
        let raised = host.stage.collector.history()?.raised()?;
        ensure!(raised.contains(&b"etc/new"[..]), "{raised:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(agent.stop()? == 0, "a clean end");
    host.stage.collector.history()?.check()
}
