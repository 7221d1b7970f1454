//! What an agent says of its own watching, with a real collector: what could not be established and what waits, what came
//! and went unseen, how often it was started, and that its binary or what it is told by became another. Belongs here: what
//! is known of the watching itself. Findings are elsewhere.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::digest::Digest;
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::binaries::binaries;
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::require::{Requirement, run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use driftlock_tests::{http, namespace};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "web-1";

fn main() -> ExitCode {
    run(vec![
        trial("what_came_and_went_or_was_put_back_while_nobody_could_look_is_counted", &[], unseen),
        trial("what_is_not_established_is_said_with_its_reason_and_since_when", &[Requirement::Namespaces], gaps),
        trial("starts_and_stops_without_a_word_are_counted", &[], starts),
        trial("another_binary_is_a_condition_until_it_is_put_back_or_runs", &[], binary),
        trial("another_configuration_leaves_a_trace_and_stays_open_while_it_is_not_in_force", &[], configuration),
    ])
}

/// A sealed tree, an agent's home, a binary of its own, and a collector.
struct Stage {
    // In the order in which they are to end: the sandbox last.
    collector: Collector,
    home: AgentHome,
    program: PathBuf,
    manifest: PathBuf,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.conf", "level = 1\n")?.file("bin/app", "program\n")?.file("bin/tool", "tool\n")?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let collector = CollectorHome::new(&sandbox, &[HOST])?.start(&sandbox)?;
        let mut home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest);
        home = home.reports_to(collector.address());
        home.sweep = 2;
        let program = sandbox.path("driftlock");
        fs::copy(&binaries().driftlock, &program)?;
        Ok(Self { collector, home, program, manifest, tree, sandbox })
    }

    /// Starts the agent, and waits until it looked at everything and said so.
    fn start(&self) -> Result<Agent> {
        let before = self.host().map_or(Value::Null, |host| host["agent"]["starts"].clone());
        let agent = self.home.start_by(self.sandbox.bare_command(&self.program))?;
        self.eventually("the first heartbeat of this start", |host| {
            ensure!(host["agent"]["starts"].is_u64() && host["agent"]["starts"] != before);
            ensure!(coverage(host)["last_full"].is_string());
            Ok(())
        })?;
        Ok(agent)
    }

    fn host(&self) -> Result<Value> {
        self.collector.hosts()?.into_iter().next().context("no host yet")
    }

    fn eventually(&self, what: &str, holds: impl Fn(&Value) -> Result<()>) -> Result<()> {
        eventually(what, || {
            let host = self.host()?;
            holds(&host).with_context(|| host.to_string())
        })
    }

    /// The conditions of this reason, open or not, the newest first.
    fn conditions(&self, reason: &str) -> Result<Vec<Value>> {
        let answer = http::get(self.collector.address(), "/v1/conditions")?.json()?;
        let all = answer["conditions"].as_array().with_context(|| answer.to_string())?;
        Ok(all.iter().filter(|condition| condition["reason"] == reason).cloned().collect())
    }

    /// Waits until the newest condition of this reason is in `state`: it.
    fn eventually_condition(&self, reason: &str, state: &str) -> Result<Value> {
        eventually(&format!("{reason} to be {state}"), || {
            let newest = self.conditions(reason)?.into_iter().next().context("none yet")?;
            ensure!(newest["state"] == state, "{newest}");
            Ok::<_, anyhow::Error>(newest)
        })
    }
}

fn coverage(host: &Value) -> &Value {
    &host["targets"][0]["coverage"]
}

fn digest(path: &Path) -> Result<String> {
    Ok(format!("blake3:{}", Digest::blake3(&fs::read(path)?)))
}

/// Puts a file in the place of another, as a package manager does.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    Ok(fs::rename(&new, path)?)
}

fn unseen() -> Result<()> {
    let stage = Stage::new()?;
    let mut agent = stage.start()?;
    let quiet = stage.host()?;
    ensure!(coverage(&quiet).get("transient").is_none() && coverage(&quiet).get("put_back").is_none(), "{quiet}");
    // While it stands still, so that it surely looks too late.
    agent.process().signal(Signal::SIGSTOP)?;
    fs::write(stage.tree.path("bin/implant"), "here for a moment")?;
    fs::remove_file(stage.tree.path("bin/implant"))?;
    fs::write(stage.tree.path("bin/app"), "another one")?;
    fs::write(stage.tree.path("bin/app"), "program\n")?;
    agent.process().signal(Signal::SIGCONT)?;
    stage.eventually("both to be counted", |host| {
        ensure!(coverage(host)["transient"] == 1 && coverage(host)["put_back"] == 1);
        Ok(())
    })?;
    ensure!(stage.collector.findings("")?.is_empty(), "nothing differed when it was looked at");
    // What is said to differ and to be over is not unseen.
    fs::write(stage.tree.path("bin/tool"), "other\n")?;
    eventually("the finding", || {
        ensure!(stage.collector.findings("open")?.len() == 1);
        Ok::<_, anyhow::Error>(())
    })?;
    fs::write(stage.tree.path("bin/tool"), "tool\n")?;
    stage.eventually("nothing to be open", |host| {
        ensure!(host["open_findings"] == 0 && host["targets"][0]["coverage"]["put_back"] == 1);
        Ok(())
    })?;
    ensure!(agent.stop()? == 0);
    Ok(())
}

fn gaps() -> Result<()> {
    namespace::within(|| {
        let stage = Stage::new()?;
        let agent = stage.start()?;
        let before = stage.host()?;
        ensure!(coverage(&before).get("gaps").is_none() && coverage(&before)["unverifiable"] == 0, "{before}");
        namespace::tmpfs(&stage.tree.path("bin"))?;
        stage.eventually("the gap", |host| {
            let coverage = coverage(host);
            // The directory and both files.
            ensure!(coverage["unverifiable"] == 3 && coverage["gaps"] == json!({"mount": 3}));
            ensure!(
                coverage["oldest_unverified"]["path"] == "bin" && coverage["oldest_unverified"]["since"].is_string()
            );
            Ok(())
        })?;
        let page = http::get(stage.collector.address(), &format!("/host?name={HOST}"))?.text();
        ensure!(page.contains("3 not established: mount 3") && page.contains("waits for a verdict since"), "{page}");
        namespace::unmount(&stage.tree.path("bin"))?;
        stage.eventually("no gap", |host| {
            let coverage = coverage(host);
            ensure!(coverage.get("gaps").is_none() && coverage.get("oldest_unverified").is_none());
            Ok(())
        })?;
        ensure!(agent.stop()? == 0);
        Ok(())
    })
}

fn starts() -> Result<()> {
    let stage = Stage::new()?;
    let said = |host: &Value| (host["agent"]["starts"].as_u64(), host["agent"]["stopped_before"].as_bool());
    let agent = stage.start()?;
    let first = stage.host()?;
    ensure!(said(&first) == (Some(1), None), "{first}");
    let read = coverage(&first)["last_full"].as_str().context("read")?.to_owned();
    agent.kill()?;
    let agent = stage.start()?;
    let second = stage.host()?;
    ensure!(said(&second) == (Some(2), Some(false)), "{second}");
    ensure!(agent.stop()? == 0);
    let agent = stage.start()?;
    let third = stage.host()?;
    ensure!(said(&third) == (Some(3), Some(true)), "{third}");
    // What was read before the stop needs not be read again, and is known to have been read then.
    let again = coverage(&third)["last_full"].as_str().context("read")?;
    ensure!(again.get(..19) >= read.get(..19), "{again} after {read}");
    ensure!(third["agent"]["binary"] == digest(&stage.program)?, "{third}");
    ensure!(third["agent"]["config"] == digest(&stage.home.config_file())?, "{third}");
    ensure!(agent.stop()? == 0);
    Ok(())
}

fn binary() -> Result<()> {
    let stage = Stage::new()?;
    let (original, old) = (fs::read(&stage.program)?, digest(&stage.program)?);
    let agent = stage.start()?;
    let mut longer = original.clone();
    longer.extend_from_slice(b"a later build");
    replace(&stage.program, &longer, 0o755)?;
    let said = stage.eventually_condition("binary_replaced", "open")?;
    let (new, detail) = (digest(&stage.program)?, said["detail"].as_str().unwrap_or_default().to_owned());
    ensure!(detail.contains(&old) && detail.contains(&new), "{said}");
    ensure!(stage.host()?["agent"]["binary"] == *old, "what runs is still the old one");
    // A configuration that is taken makes the old binary no newer.
    agent.reload()?;
    replace(&stage.program, &original, 0o755)?;
    stage.eventually_condition("binary_replaced", "resolved")?;
    fs::remove_file(&stage.program)?;
    let said = stage.eventually_condition("binary_replaced", "open")?;
    ensure!(said["detail"].as_str().is_some_and(|detail| detail.contains("cannot be read")), "{said}");
    // An upgrade ends with another start.
    replace(&stage.program, &longer, 0o755)?;
    ensure!(agent.stop()? == 0);
    let agent = stage.start()?;
    stage.eventually_condition("binary_replaced", "resolved")?;
    ensure!(stage.host()?["agent"]["binary"] == *new);
    ensure!(agent.stop()? == 0);
    Ok(())
}

fn configuration() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    let file = stage.home.config_file();
    let (text, old) = (fs::read(&file)?, digest(&file)?);
    // One that is taken: opened and resolved, with what it was and what it is.
    OpenOptions::new().append(true).open(&file)?.write_all(b"# a remark\n")?;
    let new = digest(&file)?;
    let taken = stage.eventually_condition("config_replaced", "resolved")?;
    let detail = taken["detail"].as_str().unwrap_or_default();
    ensure!(detail.ends_with(&format!("agent.toml: {old} became {new}")), "{taken}");
    stage.eventually("the new one to be in force", |host| {
        ensure!(host["agent"]["config"] == *new);
        Ok(())
    })?;
    // One that is not.
    replace(&file, b"nonsense = 1\n", 0o600)?;
    stage.eventually_condition("config_replaced", "open")?;
    stage.eventually_condition("config_refused", "open")?;
    ensure!(stage.host()?["agent"]["config"] == *new, "the last accepted one is in force");
    replace(&file, &text, 0o600)?;
    stage.eventually_condition("config_replaced", "resolved")?;
    stage.eventually_condition("config_refused", "resolved")?;
    // A manifest that is not taken: the file that the agent is told by is not what is in force.
    let manifest = fs::read(&stage.manifest)?;
    replace(&stage.manifest, b"nonsense", 0o600)?;
    stage.eventually_condition("manifest_refused", "open")?;
    let open = stage.eventually_condition("config_replaced", "open")?;
    ensure!(open["detail"].as_str().is_some_and(|detail| detail.contains("tree.manifest: blake3:")), "{open}");
    replace(&stage.manifest, &manifest, 0o600)?;
    stage.eventually_condition("config_replaced", "resolved")?;
    // Nobody learns the digest of the token.
    let token = stage.home.config_file().with_file_name("token");
    OpenOptions::new().append(true).open(&token)?.write_all(b"\n")?;
    let said = eventually("the token", || {
        let said = stage.conditions("config_replaced")?.into_iter().next().context("none")?;
        ensure!(said["detail"].as_str().is_some_and(|detail| detail.ends_with("token: another content")), "{said}");
        Ok::<_, anyhow::Error>(said)
    })?;
    ensure!(!said.to_string().contains(&digest(&token)?), "{said}");
    ensure!(agent.stop()? == 0);
    Ok(())
}
