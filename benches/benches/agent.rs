//! The agent beside an application of 10,000 files: start to the first hint armed, and memory at rest.
//!
//! Measured on the static binary that is shipped (`packaging/build OUT binaries`), in the mode of a sidecar: state in
//! memory, no collector. Armed is when the agent says so in its log: a change after that line gives a hint. Memory is what
//! is resident (`VmRSS`) once the first look at everything has ended and the agent has been idle for a while.
//!
//! Promise: armed within 50 ms (median), less than 15 MB at rest. `--smoke` starts it three times on 100 files, with the
//! binary of the bench's own build, and holds no promise.

use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use driftlock_benches::reading::resident;
use driftlock_benches::{driftlock, median};
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::pass;
use nix::sys::signal::Signal;

const ARMED: Duration = Duration::from_millis(50);
const REST: u64 = 15_000_000;
/// Files in one directory.
const EACH: usize = 20;

fn main() -> Result<()> {
    let smoke = env::args().any(|argument| argument == "--smoke");
    let (files, starts) = if smoke { (100, 3) } else { (10_000, 20) };
    let binary = if smoke { driftlock()? } else { built(Step::Binaries, Revision::First)?.binary(Package::Agent) };
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("application")?;
    for number in 0..files {
        let content = format!("{number}\n").repeat(200 + number % 4000);
        tree.file(format!("lib/dir-{}/file-{number}", number / EACH), content)?;
    }
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "application.manifest")?;
    let config = format!(
        "state_dir = \"memory\"\n[[target]]\nname = \"app\"\nroot = {:?}\nmanifest = {manifest:?}\nallow_unsigned = true\n",
        tree.root()
    );

    let mut armed = Vec::with_capacity(starts);
    for _ in 0..starts {
        let start = Instant::now();
        let agent = begin(&sandbox, &binary, &config)?;
        agent.line(Stream::Stderr, |line| line.contains("watching").then_some(()))?;
        armed.push(start.elapsed());
        end(agent)?;
    }
    let armed = median(&armed).context("no starts")?;

    let agent = begin(&sandbox, &binary, &config)?;
    agent.line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
    pass(Duration::from_secs(if smoke { 0 } else { 10 }));
    let rest = resident(agent.id())?;
    end(agent)?;

    println!("{files} files: armed after {armed:.1?} (median of {starts}), at rest {:.1} MB resident", megabytes(rest));
    if !smoke {
        ensure!(armed < ARMED && rest < REST, "the promise is {ARMED:?} and {} bytes", REST);
    }
    Ok(())
}

fn begin(sandbox: &Sandbox, binary: &Path, config: &str) -> Result<Process> {
    Process::spawn("agent", sandbox.bare_command(binary).arg("agent").env("DRIFTLOCK_CONFIG", config))
}

fn end(agent: Process) -> Result<()> {
    agent.signal(Signal::SIGTERM)?;
    ensure!(agent.exit()? == 0, "SIGTERM is a clean end");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
