//! `driftlock scan --report`: a pipeline's scan is told to a collector, or the pipeline fails.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::collector::{Collector, CollectorHome, token_of};
use driftlock_tests::fake::{Act, FakeCollector, Then};
use driftlock_tests::process::Process;
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use std::net::SocketAddr;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_scan_is_told_as_a_host_that_is_gone_after_it", &[], told),
        trial("a_scan_that_is_not_delivered_ends_with_69_whatever_it_found", &[], not_delivered),
        trial("a_scan_is_delivered_once_over_a_bad_line", &[], over_a_bad_line),
        trial("a_report_that_cannot_be_sent_is_said_before_anything_is_scanned", &[], said_before),
    ]
}

const HOST: &str = "ci-7";

struct Pipeline {
    tree: Tree,
    manifest: PathBuf,
    token: PathBuf,
    sandbox: Sandbox,
}

impl Pipeline {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("bin/app", "program\n")?.file("etc/app.toml", "level = 1\n")?.file("etc/spare", "spare\n")?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let token = sandbox.write("token", token_of(HOST))?;
        fs::set_permissions(&token, Permissions::from_mode(0o600))?;
        Ok(Self { tree, manifest, token, sandbox })
    }

    fn arguments(&self, collector: &str) -> Vec<String> {
        let shown = |path: &Path| path.display().to_string();
        let (manifest, token, root) = (shown(&self.manifest), shown(&self.token), shown(self.tree.root()));
        let words = ["scan", "--manifest", &manifest, "--report", collector, "--report-token-file", &token];
        let more = ["--report-host", HOST, "--report-target", "image", &root];
        words.iter().chain(&more).map(|word| (*word).to_owned()).collect()
    }

    fn scan(&self, collector: SocketAddr) -> Result<Finished> {
        self.sandbox.driftlock(self.arguments(&format!("http://{collector}"))).run()
    }
}

fn state_of(collector: &Collector) -> Result<String> {
    let hosts = collector.hosts()?;
    let host = hosts.iter().find(|host| host["host"] == HOST).with_context(|| format!("{hosts:?}"))?;
    Ok(host["state"].as_str().unwrap_or_default().to_owned())
}

fn told() -> Result<()> {
    let pipeline = Pipeline::new()?;
    let collector = CollectorHome::new(&pipeline.sandbox, &[HOST])?.start(&pipeline.sandbox)?;
    pipeline.scan(collector.address())?.expect(0)?;
    ensure!(collector.open()?.is_empty() && state_of(&collector)? == "retired", "{:?}", collector.hosts()?);
    let root = pipeline.tree.root();
    let expected = [tamper::append(root, "bin/app")?, tamper::remove(root, "etc/spare")?, tamper::add(root, "new")?];
    let finished = pipeline.scan(collector.address())?.expect(7)?;
    ensure!(finished.text()?.contains("bin/app"), "what was found is on stdout as ever: {finished:?}");
    ensure!(collector.open()? == expected.into_iter().collect(), "{:?}", collector.open()?);
    let targets: Vec<_> = collector.findings("open")?.iter().map(|finding| finding["target"].clone()).collect();
    ensure!(targets.iter().all(|target| target == "image"), "{targets:?}");
    // A line for each, and the next run of the pipeline finds all of it put right.
    fs::write(root.join("bin/app"), "program\n")?;
    fs::remove_file(root.join("new"))?;
    let mut ndjson = pipeline.arguments(&format!("http://{}", collector.address()));
    ndjson.extend(["--format", "ndjson"].map(str::to_owned));
    pipeline.sandbox.driftlock(ndjson).run()?.expect(2)?;
    ensure!(collector.open()?.len() == 1, "{:?}", collector.open()?);
    pipeline.tree.file("etc/spare", "spare\n")?;
    pipeline.scan(collector.address())?.expect(0)?;
    ensure!(collector.open()?.is_empty() && state_of(&collector)? == "retired", "{:?}", collector.hosts()?);
    Ok(())
}

fn not_delivered() -> Result<()> {
    let pipeline = Pipeline::new()?;
    tamper::append(pipeline.tree.root(), "bin/app")?;
    for (acts, says) in [
        (vec![Act::Status(401)], "the collector refuses: 401"),
        (vec![Act::Status(403)], "the collector refuses: 403"),
        (vec![Act::Status(404); 9], "does not take it"),
        (vec![Act::Status(413); 9], "too large for the collector"),
    ] {
        let fake = FakeCollector::start(acts, Then::Accept)?;
        let finished = pipeline.scan(fake.address())?.expect(69)?;
        ensure!(finished.text()?.contains("bin/app"), "what was found is on stdout: {finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        ensure!(last.contains("what was found is not delivered") && last.contains(says), "{says}: {finished:?}");
    }
    // Nobody answers, and somebody wants it to end.
    let fake = FakeCollector::start([Act::Silence], Then::Accept)?;
    let mut command = pipeline.sandbox.bare_command(&driftlock_tests::binaries::binaries().driftlock);
    let scan = Process::spawn("scan", command.args(pipeline.arguments(&format!("http://{}", fake.address()))))?;
    eventually("the collector to be asked", || if fake.acted() == 1 { Ok(()) } else { Err("not yet") })?;
    scan.signal(Signal::SIGTERM)?;
    ensure!(scan.exit()? == 69, "an end that was asked for delivers nothing");
    Ok(())
}

fn over_a_bad_line() -> Result<()> {
    let pipeline = Pipeline::new()?;
    let root = pipeline.tree.root();
    let expected = [tamper::append(root, "bin/app")?, tamper::remove(root, "etc/spare")?];
    let collector = CollectorHome::new(&pipeline.sandbox, &[HOST])?.start(&pipeline.sandbox)?;
    let acts = [Act::Status(503), Act::LoseAnswer, Act::HangUp, Act::CutRequest, Act::Page, Act::TooMany(0)];
    let wire = FakeCollector::start(acts, Then::Forward(collector.address()))?;
    pipeline.scan(wire.address())?.expect(6)?;
    ensure!(wire.acted() == 6 && collector.open()? == expected.into_iter().collect(), "{:?}", collector.open()?);
    wire.history()?.check()?;
    ensure!(state_of(&collector)? == "retired", "{:?}", collector.hosts()?);
    Ok(())
}

fn said_before() -> Result<()> {
    let pipeline = Pipeline::new()?;
    let with = |change: &[(usize, &str)]| -> Result<Finished> {
        let mut arguments = pipeline.arguments("http://127.0.0.1:9");
        for (index, value) in change {
            (*value).clone_into(&mut arguments[*index]);
        }
        pipeline.sandbox.driftlock(arguments).run()
    };
    let (junk, nowhere) = (pipeline.sandbox.write("junk", "")?, pipeline.sandbox.path("nowhere"));
    let (junk, nowhere) = (junk.display().to_string(), nowhere.display().to_string());
    for (code, change) in [
        (64, vec![(4, "http://collector.example")]),
        (64, vec![(4, "ftp://127.0.0.1")]),
        (64, vec![(8, "ci/7")]),
        (64, vec![(10, "a target")]),
        (65, vec![(6, junk.as_str())]),
        (66, vec![(6, nowhere.as_str())]),
        (78, vec![(4, "https://127.0.0.1:9"), (7, "--report-ca-file"), (8, junk.as_str())]),
    ] {
        let finished = with(&change)?.expect(code)?;
        ensure!(finished.stdout.is_empty(), "{change:?}: {finished:?}");
    }
    Ok(())
}
