//! The same under a running agent, which remembers what it saw: rotated until the oldest goes, and a line less in
//! what was never sealed.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::binaries::workspace;
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::drift::Drift;
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::require::trial_with;
use driftlock_tests::verdict::Alert;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::log::{DEBIAN, LOG, Logged, NEEDS, STYLES, Style, cut, without_line};

const HOST: &str = "web-1";

pub(super) fn trials() -> Vec<Trial> {
    let trial = |style: Style| {
        let name = format!("the_agent_is_quiet_under_logrotate_by_{}_and_a_line_less_is_not", style.name);
        trial_with(name, NEEDS, move || watched(style, Logged::new(1)?))
    };
    let mut trials = Vec::from(STYLES.map(trial));
    trials.push(trial_with("the_agent_is_quiet_under_logrotate_by_the_policy_for_debian", NEEDS, || {
        watched(DEBIAN, Logged::under(workspace().join("packaging/policies/debian-host.toml"), 1)?)
    }));
    trials
}

/// What the agent said, and the collector that knows what is open.
struct Told {
    wire: FakeCollector,
    collector: Collector,
}

impl Told {
    /// Waits until the agent has seen the log and every rotated file, and tolerates them.
    fn eventually_tolerated(&self, logged: &Logged) -> Result<()> {
        let there: BTreeSet<String> = logged.rotated()?.into_iter().chain([LOG.to_owned()]).collect();
        eventually("the log and what it was rotated to to be tolerated", || {
            let open = self.collector.findings("open")?;
            let tolerated =
                open.iter().filter(|finding| finding["verdict"] == "tolerated" && finding["rule"] == "logs");
            let paths: BTreeSet<String> =
                tolerated.filter_map(|finding| finding["path"].as_str().map(str::to_owned)).collect();
            ensure!(paths == there, "{paths:?} of {there:?}; alerts: {:?}", self.alerts()?);
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Waits until a file was told as it is.
    fn eventually_told(&self, logged: &Logged, path: &str) -> Result<()> {
        eventually(&format!("{path} to be told as it is"), || {
            let is = blake3::hash(&fs::read(logged.tree.path(path))?).to_hex();
            let open = self.collector.findings("open")?;
            let told = open.iter().find(|finding| finding["path"] == path).context("it is not open")?;
            ensure!(told["observed"]["blake3"] == is.as_str(), "{is}, but {told}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Every alert that was ever told.
    fn alerts(&self) -> Result<Vec<Alert>> {
        let told = |event: &Value| match event["type"].as_str() {
            Some("dev.driftlock.finding.opened.v1" | "dev.driftlock.finding.updated.v1") => {
                Alert::from_json(&event["data"]["finding"]).transpose()
            }
            _ => None,
        };
        self.wire.events().iter().filter_map(told).collect()
    }
}

fn watched(style: Style, logged: Logged) -> Result<()> {
    let collector = CollectorHome::new(&logged.sandbox, &[HOST])?.start(&logged.sandbox)?;
    let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
    let home = AgentHome::new(&logged.sandbox, HOST)?.target("app", logged.tree.root(), &logged.manifest);
    let mut home = home.reports_to(wire.address());
    home.keys = format!("policy = {:?}", logged.policy);
    // That what is tolerated went on is told after a look at everything.
    home.sweep = 1;
    let agent = home.start(&logged.sandbox)?;
    collector.eventually_host(HOST, "clean")?;
    let told = Told { wire, collector };

    let writer = logged.writer()?;
    // Until the oldest goes. More often in ten minutes, and what is there only until it is packed would flap.
    for round in 0..=style.keep {
        logged.eventually_grown()?;
        logged.rotate(style, &writer)?;
        logged.eventually_grown()?;
        told.eventually_tolerated(&logged).with_context(|| format!("rotation {round}"))?;
    }
    logged.expect_rotated(style)?;
    writer.kill()?;
    // What the agent did not see cannot be missed.
    for path in logged.rotated()?.iter().map(String::as_str).chain([LOG]) {
        told.eventually_told(&logged, path)?;
    }
    ensure!(told.alerts()?.is_empty(), "a rotation is no alert: {:?}", told.alerts()?);

    let newest = logged.rotated()?.into_iter().next().context("a rotated file")?;
    without_line(&logged.tree.path(&newest), 1)?;
    told.eventually_told(&logged, &newest)?;
    eventually("the alert", || {
        let alerts = told.alerts()?;
        let expected = Alert { drift: Drift::added(newest.as_str()), ..cut(LOG) };
        ensure!(alerts.iter().collect::<BTreeSet<_>>() == BTreeSet::from([&expected]), "{alerts:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    told.wire.history()?.check()?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}
