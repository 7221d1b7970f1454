//! The agent under a policy, with a real collector: what it says of each finding, what becomes of another policy and of one
//! that is refused, and logs that a real process writes and that are rotated meanwhile. Belongs here: what needs an agent
//! and a policy. The many ways of logrotate are elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::process::Process;
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "web-1";
const LOG: &str = "var/log/app.log";

const POLICY: &str = r#"
version = 1
name = "web"

[[rule]]
id = "rendered"
path = "etc/app.conf"
allow = "content"
reason = "rendered at boot"

[[rule]]
id = "logs"
path = "var/log/app.log"
allow = "append"
rotate = ["app.log.{1..3}", "app.log.{1..3}.gz"]
keep = 3
reason = "the application logs there"

[[rule]]
id = "cache"
path = "var/cache/**"
allow = "any"
reason = "the application can make it again"

[[rule]]
id = "programs"
path = "bin/**"
allow = "nothing"
severity = "critical"
reason = "programs come with a release"
"#;

/// Appends lines to the file of its argument, and opens it again at SIGHUP, as a daemon does.
const WRITER: &str = r#"trap 'exec >>"$0"' HUP; exec >>"$0"; n=0
while :; do n=$((n+1)); echo "request $n was answered in good time"; sleep 0.02; done"#;

fn main() -> ExitCode {
    run(vec![
        trial("a_policy_is_in_force_changed_refused_and_right_again", &[], changed_and_refused),
        trial("without_an_accepted_policy_everything_is_an_alert", &[], refused_from_the_start),
        trial("a_log_that_is_written_and_rotated_is_no_alert_and_one_line_less_is_one", &[], rotated_and_cut),
        trial("what_was_read_of_a_log_survives_the_agent", &[], cut_while_the_agent_was_down),
        trial("check_config_refuses_a_bad_policy_with_its_lines", &[], check_config),
    ])
}

/// A sealed tree, a policy, a collector, and a wire between it and the agent on which everything is seen.
struct Stage {
    // In the order in which they are to end: the sandbox last.
    collector: Collector,
    wire: FakeCollector,
    home: AgentHome,
    policy: PathBuf,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new(policy: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.conf", "level = 1\n")?.file("etc/spare", "spare\n")?.file("bin/app", "program\n")?;
        tree.file(LOG, "the application begins\n")?.file("var/cache/page", "cached\n")?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let policy = sandbox.write("web.toml", policy)?;
        let collector = CollectorHome::new(&sandbox, &[HOST])?.start(&sandbox)?;
        let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
        let mut home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &manifest).reports_to(wire.address());
        // What is tolerated and grows is said by a sweep at once.
        home.sweep = 2;
        home.keys = format!("policy = {policy:?}\n");
        Ok(Self { collector, wire, home, policy, tree, sandbox })
    }

    fn start(&self) -> Result<Agent> {
        self.home.start(&self.sandbox)
    }

    /// The policy's file becomes another, as an editor writes it.
    fn replace_policy(&self, text: &str) -> Result<()> {
        let new = self.sandbox.write("new.toml", text)?;
        Ok(fs::rename(new, &self.policy)?)
    }

    /// The open findings, a line each: what is said of a path, and by which rule.
    fn open(&self) -> Result<BTreeSet<String>> {
        self.collector.findings("open")?.iter().map(line).collect()
    }

    fn eventually_open(&self, expected: &[&str]) -> Result<()> {
        let expected: BTreeSet<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        eventually("the findings", || {
            let open = self.open()?;
            ensure!(open == expected, "{open:#?}");
            Ok::<_, anyhow::Error>(())
        })
    }

    fn eventually_refused(&self, open: bool) -> Result<()> {
        eventually("the condition", || {
            let conditions = self.collector.conditions()?;
            ensure!(conditions.contains("policy_refused") == open, "{conditions:?}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Waits until what was last told of a path is of as many bytes as it has now.
    fn eventually_told(&self, path: &str) -> Result<()> {
        eventually(&format!("{path} to be told as it is"), || {
            let size = fs::metadata(self.tree.path(path))?.len();
            let findings = self.collector.findings("open")?;
            let told = findings.iter().find(|finding| finding["path"] == path).context("it is not open")?;
            ensure!(told["observed"]["size"] == size, "{size}, but {told}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Every alert that was ever told, a line each and as often as it was told.
    fn alerts(&self) -> Result<Vec<String>> {
        let events = self.wire.events();
        let told = |event: &&Value| {
            matches!(
                event["type"].as_str(),
                Some("dev.driftlock.finding.opened.v1" | "dev.driftlock.finding.updated.v1")
            ) && event["data"]["finding"]["verdict"] != "tolerated"
        };
        events.iter().filter(told).map(|event| line(&event["data"]["finding"])).collect()
    }

    fn log(&self, suffix: &str) -> PathBuf {
        self.tree.path(format!("{LOG}{suffix}"))
    }

    fn writer(&self) -> Result<Process> {
        // What is ignored when a shell begins it cannot trap, and under nohup SIGHUP is.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", "sh", "-c", WRITER]).arg(self.log(""));
        Process::spawn("writer", &mut command)
    }
}

fn line(finding: &Value) -> Result<String> {
    let path = finding["path"].as_str().with_context(|| finding.to_string())?;
    let said = finding["severity"].as_str().or_else(|| finding["verdict"].as_str()).unwrap_or("no policy");
    Ok(format!("{path} {said} {}", finding["rule"].as_str().unwrap_or("-")))
}

fn changed_and_refused() -> Result<()> {
    let stage = Stage::new(POLICY)?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    for path in ["etc/app.conf", "etc/spare", "bin/app"] {
        stage.tree.file(path, "other\n")?;
    }
    stage.eventually_open(&["bin/app critical programs", "etc/app.conf tolerated rendered", "etc/spare medium -"])?;
    // What is in force, and what nobody vouches for then, is in every sign of life.
    eventually("a heartbeat of a look under the policy", || {
        let beat = stage.wire.events().into_iter().rfind(|event| event["type"] == "dev.driftlock.agent.heartbeat.v1");
        let target = beat.context("no heartbeat")?["data"]["targets"][0].clone();
        ensure!(target["policy"]["name"] == "web", "{target}");
        ensure!(target["coverage"]["unjudged"] == json!({"entries": 1, "bytes": 7}), "{target}");
        Ok::<_, anyhow::Error>(())
    })?;

    let quieter = POLICY.replace("\"etc/app.conf\"", "[\"etc/app.conf\", \"etc/spare\"]").replace("critical", "low");
    stage.replace_policy(&quieter)?;
    stage.eventually_open(&[
        "bin/app low programs",
        "etc/app.conf tolerated rendered",
        "etc/spare tolerated rendered",
    ])?;

    stage.replace_policy(&POLICY.replace("allow = \"content\"", "allow = \"contents\""))?;
    stage.eventually_refused(true)?;
    // The one before stays.
    stage.tree.file("etc/spare", "another\n")?;
    stage.eventually_told("etc/spare")?;
    stage.eventually_open(&[
        "bin/app low programs",
        "etc/app.conf tolerated rendered",
        "etc/spare tolerated rendered",
    ])?;

    stage.replace_policy(POLICY)?;
    stage.eventually_refused(false)?;
    stage.eventually_open(&["bin/app critical programs", "etc/app.conf tolerated rendered", "etc/spare medium -"])?;
    stage.wire.history()?.check()?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn refused_from_the_start() -> Result<()> {
    let stage = Stage::new("version = 1\nname = 'web'\nrules = []\n")?;
    let agent = stage.start()?;
    stage.eventually_refused(true)?;
    stage.tree.file("etc/app.conf", "other\n")?;
    stage.eventually_open(&["etc/app.conf no policy -"])?;
    let detail =
        driftlock_tests::http::get(stage.collector.address(), "/v1/conditions?state=open")?.json()?.to_string();
    ensure!(detail.contains("web.toml:3:1: ") && detail.contains("rules"), "{detail}");
    // As a volume of a container is filled late: no signal.
    stage.replace_policy(POLICY)?;
    stage.eventually_refused(false)?;
    stage.eventually_open(&["etc/app.conf tolerated rendered"])?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn rotated_and_cut() -> Result<()> {
    let stage = Stage::new(POLICY)?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    let writer = stage.writer()?;
    let is_open = |path: &str| {
        eventually(&format!("{path} to be tolerated"), || {
            let open = stage.open()?;
            ensure!(open.contains(&format!("{path} tolerated logs")), "{open:#?}");
            Ok::<_, anyhow::Error>(())
        })
    };
    is_open(LOG)?;
    // Renamed, and opened anew when the daemon is told.
    for _ in 0..2 {
        if stage.log(".1").exists() {
            fs::rename(stage.log(".1"), stage.log(".2"))?;
        }
        fs::rename(stage.log(""), stage.log(".1"))?;
        fs::write(stage.log(""), "")?;
        writer.signal(Signal::SIGHUP)?;
        is_open(&format!("{LOG}.1"))?;
    }
    is_open(&format!("{LOG}.2"))?;
    let packed = Command::new("gzip").arg(stage.log(".2")).status()?;
    ensure!(packed.success(), "gzip: {packed}");
    is_open(&format!("{LOG}.2.gz"))?;
    // Copied and truncated under the daemon, which knows nothing of it.
    fs::copy(stage.log(""), stage.log(".3"))?;
    fs::OpenOptions::new().write(true).open(stage.log(""))?.set_len(0)?;
    is_open(&format!("{LOG}.3"))?;
    eventually("the log to have something that can be cut", || {
        let written = fs::read_to_string(stage.log(""))?;
        ensure!(written.lines().count() > 10, "{written}");
        Ok::<_, anyhow::Error>(())
    })?;
    writer.kill()?;
    stage.eventually_told(LOG)?;
    ensure!(stage.alerts()?.is_empty(), "a rotation is no alert: {:#?}", stage.alerts()?);

    // As sed -i does.
    let text = fs::read_to_string(stage.log(""))?;
    let kept: String =
        text.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| format!("{line}\n")).collect();
    let without = stage.tree.path("var/log/sedXXXX");
    fs::write(&without, &kept)?;
    fs::rename(&without, stage.log(""))?;
    let cut = format!("{LOG} high logs");
    eventually("the cut", || {
        let open = stage.open()?;
        ensure!(open.contains(&cut), "{open:#?}");
        Ok::<_, anyhow::Error>(())
    })?;
    // It stays one when the log goes on, and when the agent begins anew.
    fs::write(stage.log(""), format!("{kept}and on it goes\n"))?;
    stage.eventually_told(LOG)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    let agent = stage.start()?;
    fs::write(stage.log(""), format!("{kept}and on it goes\nand on\n"))?;
    stage.eventually_told(LOG)?;
    let open: Vec<String> = stage.open()?.into_iter().filter(|line| !line.contains(" tolerated ")).collect();
    ensure!(open == [cut.as_str()], "{open:#?}");
    let alerts = stage.alerts()?;
    let told_as: BTreeSet<&str> = alerts.iter().map(String::as_str).filter(|line| !line.contains("sedXXXX")).collect();
    ensure!(told_as == BTreeSet::from([cut.as_str()]), "{alerts:#?}");
    stage.wire.history()?.check()?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn cut_while_the_agent_was_down() -> Result<()> {
    let stage = Stage::new(POLICY)?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    let lines = |count: usize| (0..count).map(|n| format!("line {n}\n")).collect::<String>();
    fs::write(stage.log(""), format!("the application begins\n{}", lines(100)))?;
    stage.eventually_told(LOG)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    // Still all that was sealed, but not all that was read, although it is longer now.
    fs::write(stage.log(""), format!("the application begins\n{}{}", lines(50), lines(99)))?;
    let agent = stage.start()?;
    stage.eventually_open(&[&format!("{LOG} high logs")])?;
    ensure!(stage.alerts()?.len() == 1, "{:#?}", stage.alerts()?);
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn check_config() -> Result<()> {
    let stage = Stage::new(POLICY)?;
    let file = stage.sandbox.write("checked.toml", stage.home.config())?;
    let check = || stage.sandbox.driftlock(["check-config".as_ref(), "--config".as_ref(), file.as_os_str()]).run();
    let text = check()?.expect(0)?.text()?.to_owned();
    ensure!(text.contains("policy name") && text.contains("web"), "{text}");
    stage.replace_policy("version = 2\nname = 'web'\n[[rule]]\nid = 'x'\n")?;
    let refused = check()?.expect(78)?;
    for place in ["web.toml:1:11: version 2", "web.toml:3:1: rule.path is missing"] {
        ensure!(refused.stderr.contains(place), "{place}: {refused:?}");
    }
    fs::remove_file(&stage.policy)?;
    let refused = check()?.expect(78)?;
    ensure!(
        refused.stderr.contains("target app: ") && refused.stderr.contains("web.toml: No such file"),
        "{refused:?}"
    );
    Ok(())
}
