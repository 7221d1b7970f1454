//! Change to finding stored, on an idle machine: real agent and collector, loopback, inotify.
//!
//! Measured is the time from before the write to a sealed file until `GET /v1/stream` names its path: the collector
//! sends that after its transaction is on disk. The reader of the stream is this process, so its wake-up is included.
//! Changes are made one at a time, each to a file of its own, with a pause of varying length between them, so that they
//! meet every phase of whatever runs on a timer. `--smoke` makes 5 changes instead of 200: it only shows that the bench
//! works.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
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
    let changes = if std::env::args().any(|argument| argument == "--smoke") { 5 } else { 200 };
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    let path = |number: usize| format!("dir-{}/file-{number}", number / 20);
    for number in 0..FILES {
        tree.file(path(number), format!("content {number}\n"))?;
    }
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let collector = CollectorHome::new(&sandbox, &["bench"])?.start(&sandbox)?;
    let home = AgentHome::new(&sandbox, "bench")?.target("tree", tree.root(), &manifest);
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
    anyhow::ensure!(stored.len() == changes, "{} findings of {changes} changes", stored.len());
    agent.stop()?;
    collector.stop()?;

    times.sort_unstable();
    let percentile = |percent: usize| times.get((times.len() - 1) * percent / 100).copied().context("no times");
    println!(
        "change to finding stored, {changes} changes: p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, max {:.1?}",
        percentile(50)?,
        percentile(90)?,
        percentile(99)?,
        percentile(100)?
    );
    Ok(())
}

fn await_path(stream: &mut EventStream, path: &str) -> Result<()> {
    loop {
        let event: Value = serde_json::from_str(&stream.next_data()?).context("a line of the stream")?;
        if event["path"] == path {
            return Ok(());
        }
    }
}
