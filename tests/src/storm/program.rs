//! Owns the storm as a program of its own: what it is told, its threads, and the guard around it. Must not own what a
//! thread does.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use walkdir::WalkDir;

use super::changes::Changes;
use super::operation::Sight;
use super::relative;
use super::touched::Touched;
use crate::binaries::binaries;
use crate::process::{Process, Stream};
use crate::random::Random;
use crate::sandbox::Sandbox;
use crate::saved::Saved;
use crate::tree::below;

/// Changes a tree at full speed, and ends by itself.
#[derive(Clone, Debug, Parser)]
pub struct Order {
    /// The tree, as a storm made and sealed it.
    pub root: PathBuf,
    /// A copy of it as it was sealed.
    #[arg(long)]
    pub pristine: PathBuf,
    /// A directory on the same file system to move things to, with the second names of `linked/…`.
    #[arg(long)]
    pub outside: PathBuf,
    /// Where it is written which paths were reached for.
    #[arg(long)]
    pub log: PathBuf,
    /// Which operations.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    pub threads: u64,
    /// Operations of each thread, at most.
    #[arg(long, default_value_t = 1_000_000)]
    pub operations: u64,
    /// Milliseconds, at most.
    #[arg(long, default_value_t = 60_000)]
    pub milliseconds: u64,
    /// `inotify` or `fanotify`: without what those are blind to.
    #[arg(long)]
    pub seen_by: Option<String>,
}

/// A storm in a process of its own. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    process: Process,
    log: PathBuf,
}

/// What the program does: carries an order out, and says how much was done.
///
/// # Errors
/// If the tree is not one that a storm made.
pub fn run_order(order: &Order) -> Result<String> {
    let sight = match order.seen_by.as_deref() {
        None => Sight::All,
        Some("inotify") => Sight::Inotify,
        Some("fanotify") => Sight::Fanotify,
        Some(other) => anyhow::bail!("--seen-by {other}: neither inotify nor fanotify"),
    };
    let mut saved = Vec::new();
    for entry in WalkDir::new(&order.pristine).sort_by_file_name() {
        let at = relative(&order.pristine, entry?.path())?.to_owned();
        saved.push((at.clone(), Saved::take(below(&order.pristine, &at))?));
    }
    let deadline = Instant::now() + Duration::from_millis(order.milliseconds);
    let mut threads = Vec::new();
    for number in 0..order.threads {
        let random = Random::new(order.seed.wrapping_mul(1000).wrapping_add(number));
        let mut changes = Changes::new(&order.root, Some(&order.outside), saved.clone(), random)?;
        let operations = order.operations;
        threads.push(thread::spawn(move || {
            for _ in 0..operations {
                if Instant::now() >= deadline {
                    break;
                }
                changes.change(sight);
            }
            (changes.counts(), changes.into_touched())
        }));
    }
    let mut touched = Touched::default();
    let (mut drawn, mut done) = (0, 0);
    for thread in threads {
        let (counts, reached) = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        drawn += counts.0;
        done += counts.1;
        touched.merge(reached);
    }
    touched.write(&order.log)?;
    Ok(format!("{drawn} operations, {done} of them possible"))
}

impl Order {
    /// Starts the program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, sandbox: &Sandbox) -> Result<Running> {
        let mut command = sandbox.bare_command(&binaries().storm);
        let option = |name: &str, path: &Path| [name.as_ref(), path.as_os_str()].map(ToOwned::to_owned);
        command.arg(&self.root).args(option("--pristine", &self.pristine)).args(option("--outside", &self.outside));
        command.args(option("--log", &self.log));
        for (name, number) in [
            ("--seed", self.seed),
            ("--threads", self.threads),
            ("--operations", self.operations),
            ("--milliseconds", self.milliseconds),
        ] {
            command.arg(name).arg(number.to_string());
        }
        if let Some(sight) = &self.seen_by {
            command.arg("--seen-by").arg(sight);
        }
        Ok(Running { process: Process::spawn("storm", &mut command)?, log: self.log.clone() })
    }
}

impl Running {
    /// Whether it still goes on.
    pub fn goes_on(&mut self) -> bool {
        self.process.check_running().is_ok()
    }

    /// Waits for its end; how many operations there were, and what they reached for.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn end(self) -> Result<(u64, Touched)> {
        let count = |line: &str| line.split_once(" operations").and_then(|(count, _)| count.parse().ok());
        let operations = self.process.line(Stream::Stdout, count)?;
        let code = self.process.exit()?;
        ensure!(code == 0, "the storm ended with {code}");
        Ok((operations, Touched::read(&self.log).context("what the storm reached for")?))
    }
}
