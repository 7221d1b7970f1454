//! Change to finding stored, on an idle machine: real agent and collector, loopback, each way of watching.
//!
//! Measured is the time from before the write to a sealed file until `GET /v1/stream` names its path: the collector
//! sends that after its transaction is on disk. The reader of the stream is this process, so its wake-up is included.
//! Changes are made one at a time, each to a file of its own, with a pause of varying length between them, so that they
//! meet every phase of whatever runs on a timer.
//!
//! Promise: half of them within 75 ms, 99 of 100 within 500 ms. `--mode fanotify` or `--mode inotify` takes one of the two;
//! fanotify needs root. `--smoke` makes 5 changes instead of 200, and holds no promise: it only shows that the bench works.

use std::collections::BTreeSet;
use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_benches::promise::Promises;
use driftlock_tests::agent::AgentHome;
use driftlock_tests::collector::CollectorHome;
use driftlock_tests::http::EventStream;
use driftlock_tests::random::Random;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use driftlock_tests::wait::pass;
use serde_json::Value;

/// Files of the tree, in directories of 20.
const FILES: usize = 1000;

fn main() -> Result<()> {
    let (mut changes, mut modes) = (200, vec!["fanotify", "inotify"]);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--smoke" => changes = 5,
            "--mode" => {
                let wanted = arguments.next().context("--mode which?")?;
                modes.retain(|mode| *mode == wanted);
                ensure!(!modes.is_empty(), "--mode fanotify or inotify");
            }
            _ => bail!("unknown argument {argument}"),
        }
    }
    let mut promises = Promises::new(changes == 200);
    for mode in modes {
        let times = measure(mode, changes)?;
        let percentile = |percent: usize| times.get((times.len() - 1) * percent / 100).copied().context("no times");
        println!(
            "{mode}: change to finding stored, {changes} changes: p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, max {:.1?}",
            percentile(50)?,
            percentile(90)?,
            percentile(99)?,
            percentile(100)?
        );
        promises.at_most(&format!("{mode}, p50 in seconds"), percentile(50)?.as_secs_f64(), 0.075);
        promises.at_most(&format!("{mode}, p99 in seconds"), percentile(99)?.as_secs_f64(), 0.5);
    }
    promises.end()
}

/// How long each of some changes took, the fastest first.
fn measure(mode: &str, changes: usize) -> Result<Vec<Duration>> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    let path = |number: usize| format!("dir-{}/file-{number}", number / 20);
    for number in 0..FILES {
        tree.file(path(number), format!("content {number}\n"))?;
    }
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let collector = CollectorHome::new(&sandbox, &["bench"])?.start(&sandbox)?;
    let mut home = AgentHome::new(&sandbox, "bench")?.target("tree", tree.root(), &manifest);
    home.watch = mode.to_owned();
    let agent = home.reports_to(collector.address()).start(&sandbox)?;
    collector.eventually_host("bench", "clean")?;

    let mut stream = EventStream::open(collector.address(), "/v1/stream")?;
    let mut random = Random::new(2026);
    let mut times = Vec::with_capacity(changes);
    for number in 0..changes {
        pass(Duration::from_millis(20 + random.below(100)));
        let path = path(number * (FILES / changes));
        let start = Instant::now();
        tamper::append(tree.root(), &path)?;
        await_path(&mut stream, &path)?;
        times.push(start.elapsed());
    }
    let stored: BTreeSet<_> = collector.open()?;
    ensure!(stored.len() == changes, "{} findings of {changes} changes", stored.len());
    agent.stop()?;
    collector.stop()?;
    times.sort_unstable();
    Ok(times)
}

fn await_path(stream: &mut EventStream, path: &str) -> Result<()> {
    loop {
        let event: Value = serde_json::from_str(&stream.next_data()?).context("a line of the stream")?;
        if event["path"] == path {
            return Ok(());
        }
    }
}
