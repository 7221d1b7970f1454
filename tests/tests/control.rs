//! Asking a running agent on its host: `status`, `rescan`, `wait`, the socket behind them and who may use it, and clients
//! that behave badly. Belongs here: what needs an agent that runs. Commands without one are rows of `bad_input`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::binaries::binaries;
use driftlock_tests::control::{Control, samples};
use driftlock_tests::namespace;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::{Requirement, run, trial, trial_with};
use driftlock_tests::sandbox::{Finished, NOBODY, Sandbox};
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::{eventually, pass};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let mut trials = vec![
        trial("status_says_what_is_watched_and_what_is_open", &[], what_is_watched),
        trial("status_for_people_fits_a_terminal_and_hides_nothing_in_it", &[], for_people),
        trial("a_wait_does_not_believe_an_older_look", &[], a_wait_does_not_believe),
        trial("a_wait_for_a_manifest_ends_when_it_is_compared_with", &[], a_wait_for_a_manifest),
        trial("a_wait_outlives_the_agent_and_believes_the_next_one", &[], a_wait_outlives),
        trial("a_rescan_looks_at_one_target_or_all", &[], a_rescan),
        trial("a_killed_agent_leaves_a_socket_that_the_next_one_replaces", &[], a_killed_agent),
        trial("a_socket_belongs_to_one_agent", &[], one_agent),
        trial("only_the_agents_user_and_its_group_may_ask", &[Requirement::Root], who_may_ask),
        trial("an_agent_that_is_not_to_be_asked_has_no_socket", &[], off),
        trial("an_agent_in_memory_is_found", &[Requirement::MountNamespace], in_memory),
        trial("prometheus_reads_the_metrics", &[Requirement::PrometheusClient], prometheus),
        trial("clients_that_behave_badly_cost_the_agent_little", &[], hostile_clients),
        trial("what_is_no_agent_is_not_believed", &[], no_agent),
    ];
    trials.extend(REQUESTS.iter().map(|row| {
        let name = format!("request_{}", row.name.replace(' ', "_"));
        trial_with(name, &[], || a_bad_request(row))
    }));
    run(trials)
}

const HOST: &str = "web-1";

/// A sealed tree and an agent's home.
struct Stage {
    home: AgentHome,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.toml", "level = 1\n")?.file("bin/app", "program\n")?.mode("bin/app", 0o755)?;
        tree.file("etc/spare", "spare\n")?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest);
        Ok(Self { home, tree, sandbox })
    }

    /// An agent that finds nothing by itself: it looks once, and then only when it is asked.
    fn sweeping(mut self) -> Self {
        self.home.watch = "sweep".to_owned();
        self
    }

    fn start(&self) -> Result<Agent> {
        let mut agent = self.home.start(&self.sandbox)?;
        agent.process().line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
        Ok(agent)
    }

    fn run(&self, words: &[&str]) -> Result<Finished> {
        self.sandbox.driftlock(self.words(words)).run()
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let config = self.home.config_file().display().to_string();
        words.iter().map(|word| (*word).to_owned()).chain(["--config".to_owned(), config]).collect()
    }

    fn wait(&self, code: i32, says: &str) -> Result<()> {
        let finished = self.run(&["wait", "--target", "app", "--timeout", "60s"])?.expect(code)?;
        ensure!(finished.text()?.contains(says), "{says:?} is not said\n{finished:?}");
        Ok(())
    }
}

fn status(stage: &Stage) -> Result<Value> {
    Ok(serde_json::from_str(stage.run(&["status", "--format", "json"])?.expect(0)?.text()?)?)
}

fn what_is_watched() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    let found = status(&stage)?;
    ensure!(found == stage.home.control().status()?.with_targets_of(&found), "the socket says the same: {found:#}");
    let target = &found["targets"][0];
    for (pointer, expected) in [
        ("/agent/host", json!(HOST)),
        ("/targets/0/target", json!("app")),
        ("/targets/0/root", json!(stage.tree.root())),
        ("/targets/0/manifest/trust", json!("unsigned")),
        ("/targets/0/open", json!({"exit": 0})),
        ("/targets/0/last_look/complete", json!(true)),
        ("/targets/0/activity/doing", json!("watching")),
    ] {
        ensure!(found.pointer(pointer) == Some(&expected), "{pointer} is not {expected}: {found:#}");
    }
    let mode = target["coverage"]["watch_mode"].as_str().context("a mode")?;
    ensure!(matches!(mode, "inotify" | "fanotify"), "{mode}");
    ensure!(target["coverage"]["blind"].as_array().is_some_and(|list| !list.is_empty()), "{target:#}");
    // Found by watching, without anybody asking for a look.
    let looks = target["looks"].clone();
    tamper::setuid(stage.tree.root(), "bin/app")?;
    tamper::add(stage.tree.root(), "etc/new")?;
    eventually("two open findings", || {
        let target = status(&stage)?["targets"][0].clone();
        let wanted = json!({"alerts": {"medium": 2}, "exit": 5});
        ensure!(target["open"] == wanted && target["looks"] == looks, "{target:#}");
        Ok::<_, anyhow::Error>(())
    })?;
    fs::remove_dir_all(stage.tree.root())?;
    eventually("a condition", || {
        let target = status(&stage)?["targets"][0].clone();
        ensure!(target["conditions"][0]["reason"] == "root_lost", "{target:#}");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(agent.stop()? == 0, "a clean end");
    ensure!(!stage.home.control().path().exists(), "the socket goes with the agent");
    let finished = stage.run(&["status"])?.expect(69)?;
    ensure!(finished.stderr.contains("no agent is running"), "{finished:?}");
    Ok(())
}

/// For comparing two answers of one agent: what a target says of itself may move with time.
trait WithTargetsOf {
    fn with_targets_of(self, other: &Value) -> Value;
}

impl WithTargetsOf for Value {
    fn with_targets_of(mut self, other: &Value) -> Value {
        self["targets"] = other["targets"].clone();
        self
    }
}

fn for_people() -> Result<()> {
    let sandbox = Sandbox::new()?;
    // A name that would clear the screen and forge a line.
    let tree = sandbox.tree("tree\u{1b}[2J\n  root       fine\u{9b}31m")?;
    tree.file("a", "1\n")?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest);
    // TOML's escapes are not Rust's.
    fs::create_dir_all(home.config_file().parent().context("a place")?)?;
    let config = home.config().replace("\\u{1b}", "\\u001b").replace("\\u{9b}", "\\u009b");
    fs::write(home.config_file(), config)?;
    let mut command = sandbox.bare_command(&binaries().driftlock);
    let agent = Process::spawn("agent", command.arg("agent").arg("--config").arg(home.config_file()))?;
    agent.line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
    tamper::append(tree.root(), "a")?;
    let config = home.config_file().display().to_string();
    let text = eventually("a text that says so", || {
        let finished = sandbox.driftlock(["status", "--config", &config]).run()?.expect(0)?;
        ensure!(finished.text()?.contains("app: DRIFTED, 1 alert: 1 medium\n"), "{finished:?}");
        Ok::<_, anyhow::Error>(finished.text()?.to_owned())
    })?;
    ensure!(text.chars().all(|ch| ch == '\n' || !ch.is_control()), "{text:?}");
    ensure!(text.contains("\\x1b[2J\\x0a"), "{text}");
    // Words that cannot be broken are as long as they are.
    let long = |line: &&str| line.chars().count() > 80 && !line.contains("\\x1b");
    ensure!(!text.lines().any(|line| long(&line)), "{text}");
    for row in ["agent", "collector", "  root", "  manifest", "  watched by", "  in time", "  last look", "  now"] {
        ensure!(text.lines().filter(|line| line.starts_with(row)).count() == 1, "{row}\n{text}");
    }
    agent.kill()
}

fn a_wait_does_not_believe() -> Result<()> {
    let stage = Stage::new()?.sweeping();
    let agent = stage.start()?;
    let root = stage.tree.root();
    stage.wait(0, "app: as sealed, no alert")?;
    // Nothing but the look that the wait asks for can know of these.
    tamper::add(root, "etc/new")?;
    stage.wait(1, "1 alert")?;
    tamper::append(root, "etc/app.toml")?;
    stage.wait(5, "2 alerts")?;
    tamper::remove(root, "etc/spare")?;
    stage.wait(7, "3 alerts")?;
    fs::remove_file(root.join("etc/new"))?;
    fs::write(root.join("etc/app.toml"), "level = 1\n")?;
    stage.wait(2, "1 alert")?;
    // What cannot be looked at is not verified, and the wait says why when its time is up.
    fs::rename(root, stage.sandbox.path("elsewhere"))?;
    let finished = stage.run(&["wait", "--target", "app", "--timeout", "1s"])?.expect(8)?;
    ensure!(finished.stdout.is_empty(), "{finished:?}");
    ensure!(finished.stderr.contains("app was not verified within 1s: root_lost: "), "{finished:?}");
    let finished = stage.run(&["wait", "--target", "ap", "--timeout", "1s"])?.expect(64)?;
    ensure!(finished.stderr == "driftlock: no target ap; did you mean app?\n", "{finished:?}");
    agent.kill()
}

fn a_wait_for_a_manifest() -> Result<()> {
    let stage = Stage::new()?.sweeping();
    let agent = stage.start()?;
    let root = stage.tree.root();
    // A deployment: the tree first, its manifest in one step.
    fs::write(root.join("bin/app"), "another program\n")?;
    let next = stage.sandbox.seal(format!("dir:{}", root.display()), "next.manifest")?;
    let wait = |manifest: &Path, timeout: &str| {
        let manifest = manifest.display().to_string();
        stage.run(&["wait", "--target", "app", "--manifest", &manifest, "--timeout", timeout])
    };
    let finished = wait(&next, "1s")?.expect(8)?;
    ensure!(finished.stderr.contains("it is compared with another manifest"), "{finished:?}");
    let deployed = stage.sandbox.path("tree.manifest");
    fs::copy(&next, deployed.with_extension("new"))?;
    fs::rename(deployed.with_extension("new"), &deployed)?;
    let finished = wait(&next, "60s")?.expect(0)?;
    ensure!(finished.text()? == "app: as sealed, no alert\n", "{finished:?}");
    // A bundle stands for the manifest that it states.
    stage.sandbox.driftlock(["keygen", "-o", "build"]).run()?.expect(0)?;
    stage.sandbox.driftlock(["sign", "next.manifest", "--key", "build.key", "-o", "next.bundle"]).run()?.expect(0)?;
    wait(&stage.sandbox.path("next.bundle"), "60s")?.expect(0)?;
    let torn = stage.sandbox.write("torn.bundle", "{\"payload")?;
    let finished = wait(&torn, "60s")?.expect(65)?;
    ensure!(finished.stderr.contains("torn.bundle"), "{finished:?}");
    let finished = wait(Path::new("/nowhere"), "60s")?.expect(66)?;
    ensure!(finished.stderr.contains("/nowhere"), "{finished:?}");
    agent.kill()
}

fn a_wait_outlives() -> Result<()> {
    let stage = Stage::new()?.sweeping();
    let agent = stage.start()?;
    fs::write(stage.tree.root().join("bin/app"), "another program\n")?;
    let next = stage.sandbox.seal(format!("dir:{}", stage.tree.root().display()), "next.manifest")?;
    let looks = status(&stage)?["targets"][0]["looks"].clone();
    let mut command = stage.sandbox.bare_command(&binaries().driftlock);
    let words = ["wait", "--target", "app", "--timeout", "80s", "--manifest"];
    let wait = Process::spawn("wait", command.args(stage.words(&words[..5])).arg("--manifest").arg(&next))?;
    eventually("the look that the wait asked for", || {
        let now = status(&stage)?["targets"][0]["looks"].clone();
        ensure!(now != looks, "{now}");
        Ok::<_, anyhow::Error>(())
    })?;
    agent.kill()?;
    fs::copy(&next, stage.sandbox.path("tree.manifest"))?;
    let agent = stage.start()?;
    ensure!(wait.exit()? == 0, "the next agent has looked");
    // One that is stopped in the middle does not answer, and that is no verdict.
    let mut agent = agent;
    agent.process().signal(Signal::SIGSTOP)?;
    let finished = stage.run(&["wait", "--target", "app", "--timeout", "1s"])?.expect(8)?;
    ensure!(finished.stderr.contains("not verified within 1s: the agent does not answer"), "{finished:?}");
    agent.kill()
}

fn a_rescan() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let mut home = AgentHome::new(&sandbox, HOST)?;
    home.watch = "sweep".to_owned();
    let mut trees = Vec::new();
    for name in ["one", "two"] {
        let tree = sandbox.tree(name)?;
        tree.file("a", "1\n")?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), &format!("{name}.manifest"))?;
        home = home.target(name, tree.root(), &manifest);
        trees.push(tree);
    }
    let stage = Stage { home, tree: trees.remove(0), sandbox };
    let agent = stage.start()?;
    let looks = || -> Result<Vec<u64>> {
        let targets = status(&stage)?["targets"].as_array().cloned().context("targets")?;
        targets.iter().map(|target| target["last_look"]["number"].as_u64().context("a look")).collect()
    };
    let eventually_looks = |expected: &[u64]| {
        eventually("the looks", || {
            let looks = looks()?;
            ensure!(looks == expected, "{looks:?}");
            Ok::<_, anyhow::Error>(())
        })
    };
    eventually_looks(&[1, 1])?;
    let finished = stage.run(&["rescan", "two"])?.expect(0)?;
    ensure!(finished.text()? == "two: everything is looked at\n", "{finished:?}");
    eventually_looks(&[1, 2])?;
    stage.run(&["rescan"])?.expect(0)?;
    eventually_looks(&[2, 3])?;
    let finished = stage.run(&["rescan", "\u{1b}[2J"])?.expect(64)?;
    ensure!(finished.stderr == "driftlock: no target \\u{1b}[2J; there is one, two\n", "{finished:?}");
    agent.kill()
}

fn a_killed_agent() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    let first = status(&stage)?["agent"]["run"].clone();
    agent.kill()?;
    ensure!(stage.home.control().path().exists(), "SIGKILL leaves it");
    let finished = stage.run(&["status"])?.expect(69)?;
    ensure!(finished.stderr.contains("no agent is running"), "{finished:?}");
    let agent = stage.start()?;
    ensure!(status(&stage)?["agent"]["run"] != first, "another run");
    agent.kill()
}

fn one_agent() -> Result<()> {
    let mut stage = Stage::new()?;
    let shared = stage.sandbox.path("shared.sock");
    stage.home.control = format!("socket = {shared:?}");
    let first = stage.start()?;
    let mut other =
        AgentHome::new(&stage.sandbox, "web-2")?.target("app", stage.tree.root(), &stage.sandbox.path("tree.manifest"));
    other.control = stage.home.control.clone();
    let mut second = other.start(&stage.sandbox)?;
    let said =
        second.process().line(Stream::Stderr, |line| line.starts_with("driftlock: ").then(|| line.to_owned()))?;
    ensure!(said == format!("driftlock: control.socket: somebody answers at {} already", shared.display()), "{said}");
    ensure!(second.exit()? == 73, "cannot create");
    ensure!(status(&stage)?["agent"]["host"] == HOST, "the first one still answers");
    // Each in its own place they do not meet.
    other.control = String::new();
    let mut second = other.start(&stage.sandbox)?;
    second.process().line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
    ensure!(other.control().status()?["agent"]["host"] == "web-2", "the other one");
    ensure!(Control::new(&shared).status()?["agent"]["host"] == HOST, "the first one");
    first.kill()?;
    second.kill()
}

fn who_may_ask() -> Result<()> {
    let mut stage = Stage::new()?;
    // In a place that everybody may enter, so that nothing but the socket itself is in the way.
    let socket = stage.sandbox.path("agent.sock");
    stage.home.control = format!("socket = {socket:?}");
    let agent = stage.start()?;
    ensure!(fs::symlink_metadata(&socket)?.permissions().mode() & 0o777 == 0o660, "owner and group");
    let driftlock = stage.sandbox.driftlock_for_everyone()?;
    let words = ["status", "--socket", socket.to_str().context("text")?];
    let finished = stage.sandbox.command(&driftlock, words).unprivileged().run()?.expect(77)?;
    let says = format!("driftlock: {} may be asked by the agent's user, its group and root only\n", socket.display());
    ensure!(finished.stderr == says, "{finished:?}");
    // The configuration tells where to ask, and what only the agent may read is not needed for that.
    let mut open = fs::metadata(stage.home.config_file())?.permissions();
    open.set_mode(0o644);
    fs::set_permissions(stage.home.config_file(), open)?;
    chown(&socket, None, Some(NOBODY))?;
    let words = stage.words(&["status"]);
    let finished = stage.sandbox.command(&driftlock, words).unprivileged().run()?.expect(0)?;
    ensure!(finished.text()?.contains("app: as sealed"), "{finished:?}");
    agent.kill()
}

fn off() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.control = "socket = \"off\"".to_owned();
    let agent = stage.start()?;
    ensure!(!stage.home.control().path().exists(), "no socket");
    let finished = stage.run(&["status"])?.expect(69)?;
    ensure!(finished.stderr.contains("control.socket = \"off\""), "{finished:?}");
    agent.kill()
}

fn in_memory() -> Result<()> {
    namespace::within(|| {
        // The agents of others are not there.
        namespace::tmpfs(Path::new("/dev/shm"))?;
        let stage = Stage::new()?;
        let state = stage.home.state_dir().display().to_string();
        let config = stage.home.config().replace(&state, "memory");
        let ask = |words: &[&str]| stage.sandbox.driftlock(words).env("DRIFTLOCK_CONFIG", &config).run();
        let finished = ask(&["status"])?.expect(69)?;
        ensure!(finished.stderr.contains("keeps its state in memory"), "{finished:?}");
        let start = || -> Result<Process> {
            let mut command = stage.sandbox.bare_command(&binaries().driftlock);
            let agent = Process::spawn("agent", command.arg("agent").env("DRIFTLOCK_CONFIG", &config))?;
            agent.line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
            Ok(agent)
        };
        let agent = start()?;
        ask(&["wait", "--target", "app"])?.expect(0)?;
        let second = start()?;
        let finished = ask(&["status"])?.expect(64)?;
        ensure!(finished.stderr.contains("several agents keep their state in memory"), "{finished:?}");
        let socket = finished.stderr.split(' ').find(|word| word.starts_with("/dev/shm/")).context("a path")?;
        ask(&["status", "--socket", socket.trim_end()])?.expect(0)?;
        second.kill()?;
        agent.kill()
    })
}

fn prometheus() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    tamper::append(stage.tree.root(), "etc/app.toml")?;
    let control = stage.home.control();
    let read = || -> Result<BTreeMap<_, f64>> {
        let answer = control.ask("GET", "/metrics")?;
        let kind = answer.head.header("content-type");
        ensure!(answer.status == 200 && kind == Some("text/plain; version=0.0.4; charset=utf-8"), "{answer:?}");
        samples(&stage.sandbox.write("metrics", answer.body)?)
    };
    let key = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (format!("driftlock_agent_{name}"), labels)
    };
    let open = key("target_open_findings", &[("target", "app"), ("severity", "medium")]);
    let found = eventually("an open finding", || {
        let found = read()?;
        ensure!(found.get(&open) == Some(&1.0), "{found:?}");
        Ok::<_, anyhow::Error>(found)
    })?;
    let app = [("target", "app")];
    for (name, labels, expected) in [
        ("target_verified", &app[..], 0.0),
        ("target_looks_total", &app, 1.0),
        ("target_overflows_total", &app, 0.0),
        ("target_unwatched_directories", &app, 0.0),
        ("target_open_findings", &[("target", "app"), ("severity", "critical")], 0.0),
        ("target_open_findings", &[("target", "app"), ("severity", "tolerated")], 0.0),
        ("target_watch_mode", &[("target", "app"), ("mode", "sweep")], 0.0),
        ("info", &[("version", env!("CARGO_PKG_VERSION")), ("host", HOST), ("name", &host_name()?)], 1.0),
    ] {
        ensure!(found.get(&key(name, labels)) == Some(&expected), "{name} {labels:?}: {found:#?}");
    }
    let started = found[&key("start_time_seconds", &[])];
    let swept = found[&key("target_last_sweep_timestamp_seconds", &app)];
    ensure!(started > 1.7e9 && swept >= started, "{started} {swept}");
    let watched: f64 =
        found.iter().filter(|((name, _), _)| name.ends_with("target_watch_mode")).map(|(_, value)| value).sum();
    ensure!((watched - 1.0).abs() < f64::EPSILON, "watched in one way");
    // Escapes are what the parser undoes, and a condition is there while it is open.
    fs::remove_dir_all(stage.tree.root())?;
    let lost = key("open_conditions", &[("reason", "root_lost"), ("target", "app")]);
    eventually("a condition", || {
        let found = read()?;
        ensure!(found.get(&lost) == Some(&1.0), "{found:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    agent.kill()
}

fn host_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// As many as the agent takes at a time and the kernel lets wait, nearly.
const MANY: usize = 180;
/// What they may cost: memory in kB, and descriptors.
const COST: u64 = 4_000;
const DESCRIPTORS: usize = 70;

fn hostile_clients() -> Result<()> {
    let stage = Stage::new()?;
    let mut agent = stage.start()?;
    let control = stage.home.control();
    control.status()?;
    let cost = |agent: u32| -> Result<(u64, usize)> {
        Ok((resident(agent)?, fs::read_dir(format!("/proc/{agent}/fd"))?.count()))
    };
    let agents = agent.process().id();
    let before = cost(agents)?;
    let mut clients: Vec<UnixStream> = Vec::new();
    // One that never blocks: where too many wait to be taken, the kernel says so.
    let tokio = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    for number in 0..MANY {
        let mut client = eventually("a place in the queue", || {
            let connected = tokio.block_on(tokio::net::UnixStream::connect(control.path()));
            connected.and_then(tokio::net::UnixStream::into_std)
        })?;
        // Some say nothing, some begin and say no more, some do not read, some wait for long, some never come to an end.
        let _gone = match number % 5 {
            0 => Ok(()),
            1 => client.write_all(b"GET /v1/st"),
            2 => client.write_all(b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"),
            3 => client.write_all(b"GET /v1/wait?target=app&timeout_s=50 HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => endless(&mut client),
        };
        clients.push(client);
    }
    // Meanwhile the agent does its work.
    let written = agent.process().written(Stream::Stderr);
    tamper::append(stage.tree.root(), "etc/app.toml")?;
    agent.process().line_after(Stream::Stderr, written, |line| line.contains("path=etc/app.toml").then_some(()))?;
    // While it takes the others, as far as it does.
    let (mut memory, mut descriptors) = (0, 0);
    for _ in 0..50 {
        let now = cost(agents)?;
        memory = memory.max(now.0.saturating_sub(before.0));
        descriptors = descriptors.max(now.1.saturating_sub(before.1));
        pass(Duration::from_millis(10));
    }
    let said = format!("{MANY} connections cost {memory} kB and {descriptors} descriptors");
    ensure!(memory < COST && descriptors < DESCRIPTORS, "{said}");
    drop(clients);
    eventually("an answer", || control.status().map(drop))?;
    ensure!(agent.stop()? == 0, "a clean end");
    Ok(())
}

/// As much of a request as the other side takes now: it ends by an error.
fn endless(client: &mut UnixStream) -> std::io::Result<()> {
    client.write_all(b"GET /v1/status HTTP/1.1\r\n")?;
    let line = format!("X: {}\r\n", "y".repeat(4000));
    loop {
        client.write_all(line.as_bytes())?;
    }
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(kib.trim().trim_end_matches(" kB").trim().parse()?)
}

fn no_agent() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let socket = sandbox.path("s");
    let listener = UnixListener::bind(&socket)?;
    let head = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (answer, code, says) in [
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), 65, "no agent of this version"),
        (head("{}"), 65, "no agent of this version"),
        (head("<html>"), 65, "no agent of this version"),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno".to_owned(), 65, "500"),
        (head("{\"error\":\"b\\u001bad\"}").replace("200", "503"), 69, "b\\u{1b}ad"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{".to_owned(), 69, "no answer"),
    ] {
        let words = ["status", "--socket", socket.to_str().context("text")?];
        let finished = thread::scope(|scope| -> Result<Finished> {
            let server = scope.spawn(|| -> Result<()> {
                let (mut client, _) = listener.accept()?;
                let mut request = [0; 4096];
                let _read = client.read(&mut request)?;
                client.write_all(answer.as_bytes())?;
                Ok(())
            });
            let finished = sandbox.driftlock(words).run()?;
            server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
            Ok(finished)
        })?;
        let finished = finished.expect(code)?;
        ensure!(finished.stderr.lines().count() == 1 && finished.stderr.contains(says), "{says}: {finished:?}");
    }
    Ok(())
}

/// What a client may send, and what is answered.
struct Request {
    name: &'static str,
    sends: &'static str,
    status: u16,
    says: &'static str,
}

const REQUESTS: &[Request] = &[
    Request { name: "an unknown path", sends: "GET /v1/stat HTTP/1.1\r\n\r\n", status: 404, says: "GET /v1/status" },
    Request { name: "a page", sends: "GET / HTTP/1.1\r\n\r\n", status: 404, says: "POST /v1/rescan" },
    Request { name: "a status that is sent", sends: "POST /v1/status HTTP/1.1\r\n\r\n", status: 405, says: "GET" },
    Request { name: "a rescan that is read", sends: "GET /v1/rescan HTTP/1.1\r\n\r\n", status: 405, says: "POST" },
    Request {
        name: "a rescan of an unknown target",
        sends: "POST /v1/rescan?target=ap HTTP/1.1\r\n\r\n",
        status: 404,
        says: "did you mean app?",
    },
    Request {
        name: "an unknown parameter",
        sends: "POST /v1/rescan?targe=app HTTP/1.1\r\n\r\n",
        status: 400,
        says: "unknown parameter targe",
    },
    Request {
        name: "a parameter too many",
        sends: "GET /v1/status?target=app HTTP/1.1\r\n\r\n",
        status: 400,
        says: "nothing can be said here",
    },
    Request {
        name: "a wait for nothing",
        sends: "GET /v1/wait HTTP/1.1\r\n\r\n",
        status: 400,
        says: "target is missing",
    },
    Request {
        name: "a wait without end",
        sends: "GET /v1/wait?target=app&timeout_s=-1 HTTP/1.1\r\n\r\n",
        status: 400,
        says: "timeout_s is not a whole number",
    },
    Request {
        name: "half a ticket",
        sends: "GET /v1/wait?target=app&after=1 HTTP/1.1\r\n\r\n",
        status: 400,
        says: "belong together",
    },
    Request {
        name: "a name with an escape",
        sends: "GET /v1/wait?target=%1b%5b2J&timeout_s=0 HTTP/1.1\r\n\r\n",
        status: 404,
        says: "\\\\u{1b}[2J",
    },
    Request { name: "another protocol", sends: "SSH-2.0-x\r\n\r\n", status: 400, says: "" },
    Request { name: "an old protocol", sends: "GET /v1/status HTTP/0.9\r\n\r\n", status: 400, says: "" },
];

fn a_bad_request(row: &Request) -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    let control = stage.home.control();
    let answer = control.send(row.sends.as_bytes())?;
    ensure!(answer.status == row.status && answer.text().contains(row.says), "{answer:?} {}", answer.text());
    ensure!(row.says.is_empty() || serde_json::from_slice::<Value>(&answer.body)?["error"].is_string(), "{answer:?}");
    control.status()?;
    agent.kill()
}
