//! Starting, stopping, dying, forgetting and reloading, with the real agent and the real collector: whatever happens
//! to them, the open findings at the collector are in the end what an independent look at the tree says, each once.
//! Belongs here: what needs more than one process or more than one life.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::drift::Drift;
use driftlock_tests::fake::{Act, FakeCollector, Then};
use driftlock_tests::process::Stream;
use driftlock_tests::require::{run, trial, trial_with};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::storm::Storm;
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::{eventually, pass};
use serde_json::Value;

fn main() -> ExitCode {
    let mut trials = vec![
        trial("changes_while_the_agent_is_stopped_are_reported_at_its_start", &[], changes_while_stopped),
        trial(
            "what_was_read_before_a_restart_is_not_read_again_unless_its_state_is_damaged",
            &[],
            read_before_a_restart,
        ),
        trial("a_stop_as_asked_is_told_and_is_no_error", &[], a_stop_as_asked),
        trial("a_change_is_reported_and_resolved_while_watching", &[], a_change_while_watching),
        trial("sweeps_alone_find_everything", &[], sweeps_alone),
        trial("a_bad_configuration_is_refused_and_the_old_one_stays", &[], a_bad_configuration_is_refused),
        trial("a_good_configuration_is_taken", &[], a_good_configuration_is_taken),
        trial("replaced_files_are_taken_without_a_signal", &[], replaced_files_are_taken),
        trial("a_lost_root_is_a_condition_and_nothing_is_removed", &[], a_lost_root),
        trial("a_collector_that_is_not_there_yet", &[], a_collector_that_is_not_there_yet),
        trial("two_agents_with_one_identity_are_shown", &[], two_agents_with_one_identity),
        trial("two_agents_cannot_use_one_state_directory", &[], two_agents_one_state),
    ];
    let redirect = || Act::Redirect(String::new());
    let misbehaviour = [
        ("answers_500", vec![Act::Status(500), Act::Status(500)]),
        ("answers_503", vec![Act::Status(503), Act::Status(503)]),
        ("answers_429", vec![Act::TooMany(1), Act::TooMany(0)]),
        ("redirects", vec![redirect(), redirect()]),
        ("answers_with_a_page", vec![Act::Page, Act::Page]),
        ("answers_garbage", vec![Act::Garbage, Act::Garbage]),
        ("stops_within_an_answer", vec![Act::HalfAnswer, Act::HalfAnswer]),
        ("hangs_up", vec![Act::HangUp, Act::HangUp]),
        ("never_answers", vec![Act::Silence]),
    ];
    trials.extend(misbehaviour.map(|(name, acts)| {
        let test = move || a_collector_that_misbehaves(&acts);
        trial_with(format!("a_collector_that_{name}_loses_and_doubles_nothing"), &[], test)
    }));
    trials.push(trial("a_collector_that_refuses_the_token_is_said_so", &[], a_collector_that_refuses_the_token));
    trials.extend([1, 2, 3, 4].map(|seed| {
        trial_with(format!("killing_at_random_loses_and_doubles_nothing_{seed}"), &[], move || storm(seed, 12))
    }));
    run(trials)
}

const HOST: &str = "web-1";

/// A sealed tree, a collector, and a wire between it and the agent on which everything is seen.
struct Stage {
    // In the order in which they are to end: the sandbox last.
    collector: Collector,
    wire: FakeCollector,
    home: AgentHome,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.toml", "level = 1\n")?.file("bin/app", "program\n")?.mode("bin/app", 0o755)?;
        tree.file("etc/spare", "spare\n")?.symlink("bin/current", "app")?.dir("var/empty")?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let collector = CollectorHome::new(&sandbox, &[HOST])?.start(&sandbox)?;
        let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
        let home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest).reports_to(wire.address());
        Ok(Self { collector, wire, home, tree, sandbox })
    }

    fn start(&self) -> Result<Agent> {
        self.home.start(&self.sandbox)
    }

    /// Starts the agent and waits until the collector says that all is well.
    fn start_clean(&self) -> Result<Agent> {
        let agent = self.start()?;
        self.collector.eventually_host(HOST, "clean")?;
        Ok(agent)
    }

    fn eventually_open(&self, expected: impl IntoIterator<Item = Drift>) -> Result<()> {
        self.collector.eventually_open(&expected.into_iter().collect())
    }

    fn eventually_condition(&self, reason: &str, open: bool) -> Result<()> {
        eventually(&format!("condition {reason} to be open: {open}"), || {
            let conditions = self.collector.conditions()?;
            ensure!(conditions.contains(reason) == open, "{conditions:?}");
            Ok::<_, anyhow::Error>(())
        })
    }
}

fn changes_while_stopped() -> Result<()> {
    let stage = Stage::new()?;
    ensure!(stage.start_clean()?.stop()? == 0, "SIGTERM is a clean end");
    let root = stage.tree.root();
    let expected = [
        tamper::content_under_old_size_and_time(root, "bin/app")?,
        tamper::remove(root, "etc/spare")?,
        tamper::add(root, "var/empty/new")?,
    ];
    let agent = stage.start()?;
    stage.eventually_open(expected)?;
    agent.stop()?;
    let history = stage.wire.history()?;
    history.check()?;
    ensure!(history.times_opened(b"bin/app")? == 1, "reported once");
    // Again without a change: nothing new is said.
    let said = stage.wire.history()?.raised()?.len();
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "drifted")?;
    agent.stop()?;
    let history = stage.wire.history()?;
    history.check()?;
    ensure!(history.epochs() == 1, "restarting is no new life");
    ensure!(history.raised()?.len() == said && history.times_opened(b"bin/app")? == 1, "reported again");
    Ok(())
}

fn read_before_a_restart() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.sweep = 1;
    let looks = || -> Vec<(u64, u64)> {
        let events = stage.wire.events();
        let looks = events.iter().filter(|event| event["type"] == "dev.driftlock.target.verified.v1");
        let number = |summary: &Value, key: &str| summary[key].as_u64().unwrap_or(0);
        looks
            .map(|event| &event["data"]["summary"])
            .map(|summary| (number(summary, "remembered"), number(summary, "files_hashed")))
            .collect()
    };
    let next_look = |seen: usize, wanted: &dyn Fn(u64, u64) -> bool| {
        eventually("a look at everything", || match looks().get(seen..) {
            Some([]) | None => Err("none".to_owned()),
            Some(looks) => {
                let wanted = looks.iter().any(|(remembered, hashed)| wanted(*remembered, *hashed));
                wanted.then_some(()).ok_or_else(|| format!("{looks:?}"))
            }
        })
    };
    let agent = stage.start()?;
    next_look(0, &|remembered, hashed| remembered > 0 && hashed == 0)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    let seen = looks().len();
    let agent = stage.start()?;
    next_look(seen, &|_, _| true)?;
    let (remembered, hashed) = looks()[seen];
    ensure!(remembered > 0 && hashed == 0, "after the restart {hashed} files were read, {remembered} remembered");
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");

    let seen = looks().len();
    let states: Vec<_> = std::fs::read_dir(stage.home.state_dir())?.collect::<Result<_, _>>()?;
    let is_of_scans = |entry: &&std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"scan-");
    let state = states.iter().find(is_of_scans).map(std::fs::DirEntry::path);
    let state = state.context("a state file")?;
    let mut bytes = std::fs::read(&state)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&state, bytes)?;
    let mut agent = stage.start()?;
    next_look(seen, &|_, _| true)?;
    let (remembered, hashed) = looks()[seen];
    ensure!(remembered == 0 && hashed > 0, "the damaged state: {hashed} files were read, {remembered} remembered");
    let said = agent.process().text(Stream::Stderr);
    ensure!(said.matches("it is damaged or cut off: everything is read again").count() == 1, "{said}");
    agent.stop()?;
    stage.wire.history()?.check()
}

fn a_stop_as_asked() -> Result<()> {
    let stage = Stage::new()?;
    ensure!(stage.start_clean()?.stop()? == 0, "SIGTERM is a clean end");
    let told = stage.wire.events().iter().any(|event| event["type"] == "dev.driftlock.agent.stopped.v1");
    ensure!(told, "the collector is told before the end");
    stage.collector.eventually_host(HOST, "silent")?;
    ensure!(stage.collector.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn a_change_while_watching() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start_clean()?;
    let root = stage.tree.root();
    let changed = tamper::append(root, "etc/app.toml")?;
    stage.eventually_open([changed.clone()])?;
    let deep = [tamper::add_directory(root, "var/empty/new")?, tamper::add(root, "var/empty/new/file")?];
    stage.eventually_open([&[changed][..], &deep].concat())?;
    std::fs::remove_dir_all(stage.tree.path("var/empty/new"))?;
    stage.tree.file("etc/app.toml", "level = 1\n")?;
    stage.eventually_open([])?;
    stage.collector.eventually_host(HOST, "clean")?;
    agent.stop()?;
    stage.wire.history()?.check()
}

fn sweeps_alone() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.watch = "sweep".to_owned();
    stage.home.sweep = 1;
    let agent = stage.start_clean()?;
    let root = stage.tree.root();
    let expected = [tamper::content_under_old_size_and_time(root, "bin/app")?, tamper::add(root, "var/empty/new")?];
    stage.eventually_open(expected)?;
    stage.tree.file("bin/app", "program\n")?.mode("bin/app", 0o755)?;
    std::fs::remove_file(stage.tree.path("var/empty/new"))?;
    stage.eventually_open([])?;
    agent.stop()?;
    stage.wire.history()?.check()
}

fn a_bad_configuration_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let mut agent = stage.start_clean()?;
    let good = stage.home.config();
    std::fs::write(stage.home.config_file(), good.replace("[watch]", "[watsh]"))?;
    agent.reload()?;
    stage.eventually_condition("config_refused", true)?;
    let expected = tamper::append(stage.tree.root(), "etc/app.toml")?;
    stage.eventually_open([expected])?;
    agent.process().check_running()?;
    std::fs::write(stage.home.config_file(), good)?;
    agent.reload()?;
    stage.eventually_condition("config_refused", false)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn a_good_configuration_is_taken() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start_clean()?;
    let other = stage.sandbox.tree("other")?;
    other.file("file", "content\n")?;
    let manifest = stage.sandbox.seal(format!("dir:{}", other.root().display()), "other.manifest")?;
    let expected = tamper::append(other.root(), "file")?;
    let more = stage.home.clone().target("other", other.root(), &manifest);
    std::fs::write(stage.home.config_file(), more.config())?;
    agent.reload()?;
    stage.eventually_open([expected])?;
    // A target that is no longer watched has no findings.
    std::fs::write(stage.home.config_file(), stage.home.config())?;
    agent.reload()?;
    stage.eventually_open([])?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    stage.wire.history()?.check()
}

/// A container has nobody who could send a signal.
fn replaced_files_are_taken() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start_clean()?;
    let expected = tamper::append(stage.tree.root(), "etc/app.toml")?;
    stage.eventually_open([expected])?;
    // What was drift is what was built now.
    let source = format!("dir:{}", stage.tree.root().display());
    let new = stage.sandbox.seal(&source, "new.manifest")?;
    std::fs::rename(new, stage.sandbox.path("tree.manifest"))?;
    stage.eventually_open([])?;
    let expected = tamper::append(stage.tree.root(), "bin/app")?;
    stage.eventually_open([expected])?;
    let bad = stage.sandbox.write("bad.toml", stage.home.config().replace("[watch]", "[watsh]"))?;
    std::fs::rename(bad, stage.home.config_file())?;
    stage.eventually_condition("config_refused", true)?;
    let good = stage.sandbox.write("good.toml", stage.home.config())?;
    std::fs::rename(good, stage.home.config_file())?;
    stage.eventually_condition("config_refused", false)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    stage.wire.history()?.check()
}

fn a_lost_root() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.sweep = 1;
    let agent = stage.start_clean()?;
    let (root, away) = (stage.tree.root().to_owned(), stage.sandbox.path("away"));
    std::fs::rename(&root, &away)?;
    stage.eventually_condition("root_lost", true)?;
    let removed = |drift: &Drift| drift.change == "removed";
    ensure!(
        !stage.collector.open()?.iter().any(removed),
        "a lost root is not a removal: {:?}",
        stage.collector.open()?
    );
    std::fs::rename(&away, &root)?;
    stage.eventually_condition("root_lost", false)?;
    stage.eventually_open([])?;
    agent.stop()?;
    Ok(())
}

fn a_collector_that_is_not_there_yet() -> Result<()> {
    let stage = Stage::new()?;
    // A port that nobody listens on. Outside of what the kernel gives to others meanwhile.
    let port = (20_000..32_000)
        .step_by(7)
        .map(|port| port + u16::try_from(std::process::id() % 7).expect("below 7"))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port")?;
    let address = format!("127.0.0.1:{port}");
    let home = stage.home.clone().reports_to(address.parse()?);
    let expected = tamper::append(stage.tree.root(), "etc/app.toml")?;
    let mut agent = home.start(&stage.sandbox)?;
    eventually("the finding to be in the state directory", || {
        let written = walkdir::WalkDir::new(home.state_dir()).into_iter().flatten();
        let found = written.filter(|file| file.file_type().is_file()).any(|file| {
            std::fs::read(file.path()).is_ok_and(|bytes| bytes.windows(12).any(|part| part == b"etc/app.toml"))
        });
        ensure!(found, "nothing of it");
        Ok::<_, anyhow::Error>(())
    })?;
    agent.process().check_running()?;
    let elsewhere = Sandbox::new()?;
    let collector = CollectorHome::new(&elsewhere, &[HOST])?.start_at(&elsewhere, &address)?;
    collector.eventually_open(&BTreeSet::from([expected]))?;
    agent.stop()?;
    Ok(())
}

fn a_collector_that_misbehaves(acts: &[Act]) -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start_clean()?;
    let elsewhere = FakeCollector::start([], Then::Accept)?;
    let to = format!("http://{}/v1/events", elsewhere.address());
    stage.wire.act(acts.iter().map(|act| match act {
        Act::Redirect(_) => Act::Redirect(to.clone()),
        act => act.clone(),
    }));
    let root = stage.tree.root();
    let mut expected = BTreeSet::from([tamper::append(root, "etc/app.toml")?, tamper::remove(root, "etc/spare")?]);
    eventually("the collector to misbehave as scripted", || {
        ensure!(stage.wire.acted() == acts.len(), "{} of {} requests", stage.wire.acted(), acts.len());
        Ok::<_, anyhow::Error>(())
    })?;
    expected.insert(tamper::add(root, "var/empty/new")?);
    stage.collector.eventually_open(&expected)?;
    ensure!(elsewhere.events().is_empty(), "redirects are not followed");
    agent.stop()?;
    let history = stage.wire.history()?;
    history.check()?;
    for drift in &expected {
        ensure!(history.times_opened(&drift.path)? == 1, "{drift:?} was opened more than once");
    }
    ensure!(stage.collector.findings("")?.len() == expected.len(), "one row for each");
    Ok(())
}

fn a_collector_that_refuses_the_token() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start_clean()?;
    stage.wire.act([Act::Status(401), Act::Status(403)]);
    let expected = tamper::append(stage.tree.root(), "etc/app.toml")?;
    stage.eventually_open([expected])?;
    agent.stop()?;
    let refused = |event: &serde_json::Value| {
        event["type"] == "dev.driftlock.condition.opened.v1" && event["data"]["reason"] == "collector_refused"
    };
    ensure!(stage.wire.events().iter().any(refused), "that it was refused is said when it no longer is");
    stage.wire.history()?.check()
}

fn two_agents_with_one_identity() -> Result<()> {
    let stage = Stage::new()?;
    ensure!(stage.start_clean()?.stop()? == 0, "SIGTERM is a clean end");
    let clone = stage.home.clone_machine("clone")?;
    let _one = stage.start()?;
    let _two = clone.start(&stage.sandbox)?;
    tamper::append(stage.tree.root(), "etc/app.toml")?;
    stage.eventually_condition("identity_conflict", true)
}

fn two_agents_one_state() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = stage.start_clean()?;
    let config = stage.home.config_file();
    let arguments = ["agent".as_ref(), "--config".as_ref(), config.as_os_str()];
    let second = stage.sandbox.driftlock(arguments).run()?;
    ensure!(second.code.is_some_and(|code| code >= 64), "{second:?}");
    ensure!(second.stderr.contains(&*stage.home.state_dir().to_string_lossy()), "says where: {second:?}");
    first.process().check_running()
}

/// `strikes` deaths under a stream of changes; then the tree is left alone, compared, put back and compared again.
fn storm(seed: u64, strikes: u32) -> Result<()> {
    storm_of(seed, strikes).with_context(|| format!("seed {seed}"))
}

fn storm_of(seed: u64, strikes: u32) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    let mut storm = Storm::prepare(&tree, seed)?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let collectors = CollectorHome::new(&sandbox, &[HOST])?;
    let mut collector = collectors.start(&sandbox)?;
    let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
    let home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest).reports_to(wire.address());
    let mut agent = home.start(&sandbox)?;
    let mut lives = 1;
    for _ in 0..strikes {
        for _ in 0..10 + storm.random().below(30) {
            storm.change();
            // So that a death meets every stage of a change's way.
            pass(Duration::from_millis(storm.random().below(25)));
        }
        match storm.random().below(5) {
            0 | 1 => {
                collector.kill()?;
                storm.change();
                collector = collectors.start(&sandbox)?;
                wire.then(Then::Forward(collector.address()));
            }
            forget => {
                agent.kill()?;
                storm.change();
                if forget == 2 {
                    home.forget()?;
                    lives += 1;
                }
                agent = home.start(&sandbox)?;
            }
        }
    }
    let expected = storm.expected()?;
    ensure!(expected.len() > 10, "a storm that changes nothing shows nothing: {expected:?}");
    collector.eventually_open(&expected)?;
    storm.calm()?;
    collector.eventually_open(&BTreeSet::new())?;
    let history = wire.history()?;
    history.check()?;
    ensure!(history.epochs() <= lives, "{} epochs in {lives} lives", history.epochs());
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}
