//! `driftlock check-config`: everything that the agent would refuse, at once, and what it would use.

use std::fmt::Write as _;

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::policy::Policy;

use super::agent;
use crate::admit::{self, AdmitError};
use crate::baseline::Baseline;
use crate::cli::CheckConfigArgs;
use crate::config::{Config, Location, Manifests, State, Target};
use crate::deliver::{Client, Timeouts};
use crate::failure::{Failure, Outcome};
use crate::identity::Directory;
use crate::output::{self, Output};
use crate::policy_file::{self, PolicyFileError};
use crate::process::{Process, Selector};
use crate::scan::Root;

/// Runs the verb.
pub fn run(args: CheckConfigArgs) -> Outcome {
    let config = match agent::load(args.config) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let mut worst = Exit::Found(0);
    let mut refuse = |failure: Failure| {
        output::complain(&failure);
        worst = Exit::Configuration;
    };
    let mut text = String::new();
    let identity = match &config.state {
        State::Directory(path) => Directory::of(path).load(),
        State::Memory => Ok(None),
    };
    let identity = identity.unwrap_or_else(|error| {
        refuse(error.into());
        None
    });
    if let Err(error) = Client::new(&config.report, identity.as_ref(), Timeouts::default()) {
        refuse(Failure::new(Exit::Configuration, error));
    }
    write_agent(&mut text, &config);
    if let Some(identity) = &identity {
        let endpoint = identity.endpoint.as_ref().map_or_else(|| "a collector".to_owned(), ToString::to_string);
        line(&mut text, "identity", &format!("{} at {endpoint} until {}", identity.name(), identity.until));
    }
    for target in &config.targets {
        let manifest = admit::look(target, &config.host.labels, &config.state);
        let policy = target.policy.as_deref().map(policy_file::load);
        write_target(
            &mut text,
            target,
            manifest.as_ref().ok(),
            policy.as_ref().and_then(|policy| policy.as_ref().ok()),
        );
        let about = |failure: Failure| Failure {
            exit: failure.exit,
            error: failure.error.context(format!("target {}", target.name)),
        };
        match manifest {
            Err(AdmitError::Anchors(error)) => {
                error
                    .lines()
                    .into_iter()
                    .for_each(|line| refuse(about(Failure::new(Exit::Configuration, anyhow!(line)))));
            }
            // The agent asks for it when it runs.
            Err(AdmitError::NothingHad(_)) => line(&mut text, "  tree", "nothing was had from the collector yet"),
            Err(error) => refuse(about(error.into())),
            Ok(_) => {}
        }
        match policy {
            Some(Err(PolicyFileError::Malformed(lines))) => {
                lines.into_iter().for_each(|line| refuse(about(Failure::new(Exit::Configuration, anyhow!(line)))));
            }
            Some(Err(error)) => refuse(about(error.into())),
            Some(Ok(_)) | None => {}
        }
        match &target.root {
            Location::Directory(path) => {
                if let Err(error) = Root::open(path).and_then(|root| root.check_readable()) {
                    refuse(about(error.into()));
                }
            }
            // One that is not there is waited for, so it is nothing that the agent would refuse.
            Location::Process(selector) => line(&mut text, "  process", &found(selector)),
        }
    }
    let mut stdout = Output::stdout();
    stdout.write(text.as_bytes())?;
    stdout.finish()?;
    Ok(worst)
}

fn write_agent(text: &mut String, config: &Config) {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let auto = |value: &Option<String>| value.clone().unwrap_or_else(|| "auto".to_owned());
    let lines = [
        ("state_dir", config.state.to_string()),
        ("host.id", auto(&config.host.id)),
        ("host.name", auto(&config.host.name)),
        ("host.ephemeral", config.host.ephemeral.to_string()),
        ("watch.mode", config.watch.mode.name().to_owned()),
        ("watch.sweep", config.watch.sweep.map_or_else(|| "auto".to_owned(), |sweep| format!("{sweep:?}"))),
        ("watch.full", format!("{:?}", config.watch.full)),
        ("limits.threads", config.limits.threads.to_string()),
        ("limits.cpu", or_none(config.limits.cpu.map(|percent| format!("{percent}% of one core")))),
        ("limits.read", or_none(config.limits.read.map(|rate| format!("{rate} bytes/s")))),
        ("limits.hash_limit", format!("{} bytes", config.limits.hash_limit)),
        ("report.endpoint", or_none(config.report.endpoint.as_ref().map(ToString::to_string))),
        ("report.token_file", or_none(config.report.token_file.as_ref().map(|path| path.display().to_string()))),
        ("report.ca_file", or_none(config.report.ca_file.as_ref().map(|path| path.display().to_string()))),
        ("report.heartbeat", format!("{:?}", config.report.heartbeat)),
        ("report.spool", format!("{} bytes", config.report.spool)),
        ("control.socket", config.socket.to_string()),
    ];
    for (key, value) in lines {
        line(text, key, &value);
    }
    for (name, value) in &config.host.labels {
        line(text, "host.labels", &format!("{name} = {value}"));
    }
    config.sinks.iter().for_each(|sink| line(text, "sink", &sink.to_string()));
}

fn write_target(text: &mut String, target: &Target, baseline: Option<&Baseline>, policy: Option<&Policy>) {
    line(text, "target", &target.name);
    line(text, "  root", &target.root.to_string());
    for manifest in target.manifests.files() {
        line(text, "  manifest", &manifest.display().to_string());
    }
    if let Manifests::Collector { assigned } = target.manifests {
        line(text, "  manifest", if assigned { "the collector's, by its assignment" } else { "the collector's" });
    }
    for file in target.trust.files() {
        line(text, "  trusts", &file.display().to_string());
    }
    if let Some(file) = &target.assignment {
        line(text, "  assignment", &file.display().to_string());
    }
    if !target.switch_window.is_zero() {
        line(text, "  switch_window", &format!("{:?}", target.switch_window));
    }
    if let Some(baseline) = baseline {
        let (view, manifest) = (baseline.view(), baseline.manifest());
        line(text, "  tree", &view.tree.to_string());
        line(text, "  entries", &manifest.tree.len().to_string());
        line(text, "  profile", manifest.header.profile.name());
        line(text, "  trust", &view.trust);
        let keys = view.key.iter().chain(view.parts.iter().filter_map(|part| part.key.as_ref()));
        keys.for_each(|key| line(text, "  key", key));
        if let Some(until) = baseline.until() {
            line(text, "  trusted until", &until.to_string());
        }
    }
    if let Some(file) = &target.policy {
        line(text, "  policy", &file.display().to_string());
    }
    if let Some(policy) = policy {
        line(text, "  policy name", policy.name());
        line(text, "  policy digest", &policy.digest().to_string());
        line(text, "  policy rules", &policy.rules().len().to_string());
    }
    for pattern in target.exclude.iter() {
        line(text, "  exclude", pattern);
    }
    line(text, "  id_map", &target.id_map.to_string());
}

fn found(selector: &Selector) -> String {
    match Process::find(selector) {
        Ok(process) => format!("{} is there", process.pid()),
        Err(error) => error.to_string(),
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(text, "{key:<18} {}", Escaped(value.as_bytes()));
}
