//! The watch: what it costs at rest, while it is set up, while much changes, and whoever writes beside it. The parts, and
//! what each promises; they are named on the command line, or all of them run:
//!
//! - `rest`: an agent with a collector beside 100,000 files in 10,000 directories, five minutes without a sweep, heartbeats
//!   included: at most 20 MB resident on fanotify, on inotify at most 0.4 kB more for each directory; at most 0.3 s of
//!   processor time. Measured on the static binary that is shipped; `--smoke` takes that of the bench's own build.
//! - `set-up`: from nothing to hints of 100,000 directories, median of five: below 10 ms on fanotify, 1.5 s on inotify.
//! - `burst`: 100,000 files change as fast as two threads can: every one is reported, none twice, if the spool has room for
//!   them. The time is printed.
//! - `writer`: what a writer beside the target pays in processor time while the agent watches its file system, in 30
//!   alternating pairs: at most 5 % more on fanotify. One writes files of 64 KiB in pieces of 4 KiB, another pieces of 100
//!   bytes into one file that stays open.
//! - `foreign`: 10,000 events a second beside the target for 20 seconds cost the agent less than 3 % of a core.
//! - `removal`: `rm -rf` of 10,000 watched directories costs the agent less than 2 s of processor time.
//!
//! `--mode fanotify` or `--mode inotify` takes one of the two. `--smoke` does the same on little, and holds no promise.
//! fanotify needs root. How long a change takes is another bench: `latency`.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_agent::baseline::LeftOut;
use driftlock_agent::config::Mode;
use driftlock_agent::scan::{Mounts, Root};
use driftlock_agent::watch::{self, Watched};
use driftlock_benches::median;
use driftlock_benches::promise::Promises;
use driftlock_benches::reading::{own_processor, processor, resident};
use driftlock_common::pattern::Excludes;
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::binaries::binaries;
use driftlock_tests::collector::CollectorHome;
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::process::Stream;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::{pass, within};

const HOST: &str = "bench";
/// How long a burst may take before the bench is given up.
const PATIENCE: Duration = Duration::from_mins(15);
/// Bound of the spool in a burst, in MB: in less, events are given up and told anew, each as open, when the collector is slow.
const SPOOL: u64 = 256;
/// An agent that is asked counts what is open: seldom enough not to be what is measured.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// A part: its name, and what runs it.
type Part = (&'static str, fn(&Bench, &mut Promises) -> Result<()>);

const PARTS: [Part; 6] = [
    ("rest", rest),
    ("set-up", set_up),
    ("burst", burst),
    ("writer", writer),
    ("foreign", foreign),
    ("removal", removal),
];
const MODES: [(&str, Mode); 2] = [("fanotify", Mode::Fanotify), ("inotify", Mode::Inotify)];

/// What was asked for.
struct Bench {
    smoke: bool,
    modes: Vec<(&'static str, Mode)>,
}

/// A sealed tree of small files.
struct Stage {
    root: PathBuf,
    manifest: PathBuf,
    sandbox: Sandbox,
}

fn main() -> Result<()> {
    let mut bench = Bench { smoke: false, modes: MODES.to_vec() };
    let mut parts = Vec::new();
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--smoke" => bench.smoke = true,
            "--mode" => {
                let wanted = arguments.next().context("--mode which?")?;
                bench.modes.retain(|(name, _)| *name == wanted);
                ensure!(!bench.modes.is_empty(), "--mode fanotify or inotify");
            }
            name => match PARTS.into_iter().find(|(part, _)| *part == name) {
                Some(part) => parts.push(part),
                None => bail!("unknown part {name}; known: {}", PARTS.map(|(part, _)| part).join(", ")),
            },
        }
    }
    if parts.is_empty() {
        parts.extend(PARTS);
    }
    let mut promises = Promises::new(!bench.smoke);
    for (name, part) in parts {
        println!("{name}");
        part(&bench, &mut promises)?;
    }
    promises.end()
}

impl Bench {
    /// A number, or the small one that only shows that the bench works.
    const fn or<T: Copy>(&self, real: T, smoke: T) -> T {
        if self.smoke { smoke } else { real }
    }
}

impl Stage {
    /// `directories`, a hundred in one, with `files` in each.
    fn new(directories: usize, files: usize) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let root = sandbox.path("tree");
        for number in 0..directories {
            let directory = root.join(directory(number));
            fs::create_dir_all(&directory)?;
            for file in 0..files {
                fs::write(directory.join(format!("file-{file}")), format!("content {number} {file}\n"))?;
            }
        }
        let manifest = sandbox.seal(format!("dir:{}", root.display()), "tree.manifest")?;
        Ok(Self { root, manifest, sandbox })
    }

    /// An agent of this tree that looks once and then watches.
    fn home(&self, mode: &str) -> Result<AgentHome> {
        let mut home = AgentHome::new(&self.sandbox, HOST)?.target("tree", &self.root, &self.manifest);
        home.watch = mode.to_owned();
        home.sweep = 24 * 3600;
        home.heartbeat = 30;
        Ok(home)
    }

    fn start(&self, home: &AgentHome) -> Result<Agent> {
        self.start_by(&binaries().driftlock, home)
    }

    /// As [`Stage::start`], of this binary.
    fn start_by(&self, binary: &Path, home: &AgentHome) -> Result<Agent> {
        let mut agent = home.start_by(self.sandbox.bare_command(binary))?;
        agent.process().line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
        Ok(agent)
    }
}

fn directory(number: usize) -> String {
    format!("{}/{}", number / 100, number % 100)
}

fn rest(bench: &Bench, promises: &mut Promises) -> Result<()> {
    let (directories, files) = bench.or((10_000, 10), (100, 2));
    let stage = Stage::new(directories, files)?;
    let binary = if bench.smoke {
        binaries().driftlock.clone()
    } else {
        built(Step::Binaries, Revision::First)?.binary(Package::Agent)
    };
    let collector = CollectorHome::new(&stage.sandbox, &[HOST])?.start(&stage.sandbox)?;
    let mut unwatched = None;
    for (name, _) in &bench.modes {
        let home = stage.home(name)?.reports_to(collector.address());
        let mut agent = stage.start_by(&binary, &home)?;
        let id = agent.process().id();
        // What it still has to say, and to give back.
        pass(bench.or(Duration::from_secs(20), Duration::ZERO));
        let before = processor(id)?;
        pass(bench.or(Duration::from_mins(5), Duration::from_millis(100)));
        let (spent, memory) = (processor(id)? - before, resident(id)?);
        let megabytes = kilobytes(memory) / 1000.0;
        println!("{name}: {megabytes:.1} MB resident, {spent:?} of processor time");
        promises.at_most(&format!("{name}, processor seconds in 5 minutes"), spent.as_secs_f64(), 0.3);
        match (*name, unwatched) {
            ("fanotify", _) => {
                promises.at_most("fanotify, MB resident", megabytes, 20.0);
                unwatched = Some(memory);
            }
            (_, Some(unwatched)) => {
                let each = kilobytes(memory.saturating_sub(unwatched)) / f64::from(u32::try_from(directories)?);
                promises.at_most("inotify, kB more for each directory", each, 0.4);
            }
            (_, None) => println!("- without fanotify there is nothing to compare it with"),
        }
        agent.stop()?;
        home.forget()?;
    }
    collector.stop()?;
    Ok(())
}

fn set_up(bench: &Bench, promises: &mut Promises) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.path("tree");
    let directories = bench.or(100_000, 200);
    for number in 0..directories {
        fs::create_dir_all(tree.join(directory(number)))?;
    }
    for (name, mode) in &bench.modes {
        let mut times = Vec::new();
        for _ in 0..5 {
            let root = Arc::new(Root::open(&tree)?);
            let watched = Watched {
                left_out: LeftOut::new(None, Excludes::none()),
                own_state: None,
                mounts: Mounts::Report,
                sealed: None,
            };
            let (hints, _kept) = watch::channel();
            let start = Instant::now();
            let (watcher, armed) = watch::arm(*mode, &"tree".into(), &watched, &root, &hints);
            times.push(start.elapsed());
            ensure!(armed.mode.name() == *name && armed.degraded.is_empty(), "{armed:?}");
            drop(watcher);
        }
        let median = median(&times).context("no times")?;
        println!("{name}: {directories} directories in {median:.2?} (median of {})", times.len());
        let most = if *name == "fanotify" { 0.01 } else { 1.5 };
        promises.at_most(&format!("{name}, seconds"), median.as_secs_f64(), most);
    }
    Ok(())
}

fn burst(bench: &Bench, promises: &mut Promises) -> Result<()> {
    let (directories, files) = bench.or((10_000, 10), (50, 4));
    for (name, _) in &bench.modes {
        // What was changed is not as sealed: each has a tree of its own.
        let stage = Stage::new(directories, files)?;
        let collector = CollectorHome::new(&stage.sandbox, &[HOST])?.start(&stage.sandbox)?;
        let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
        let mut home = stage.home(name)?.reports_to(wire.address());
        home.spool = SPOOL;
        let mut agent = stage.start(&home)?;
        let before = processor(agent.process().id())?;
        let start = Instant::now();
        change_everything(&stage.root, directories, files)?;
        let written = start.elapsed();
        let changed = (directories * files) as u64;
        within(PATIENCE, "everything to be reported", || {
            pass(BETWEEN_LOOKS);
            let status = home.control().status()?;
            let open = &status["targets"][0]["open"]["alerts"]["medium"];
            let waits = &status["agent"]["collector"]["undelivered"];
            ensure!(open.as_u64() == Some(changed) && waits.as_u64() == Some(0), "{open} open, {waits} undelivered");
            Ok::<_, anyhow::Error>(())
        })?;
        let reported = start.elapsed();
        let spent = processor(agent.process().id())? - before;
        println!(
            "{name}: {changed} files changed in {written:.1?}, reported after {reported:.1?}, {spent:?} of processor time"
        );
        agent.stop()?;
        let history = wire.history()?;
        // Of one path no second finding is opened while the first one is.
        history.check()?;
        let expected: BTreeSet<Vec<u8>> = (0..directories)
            .flat_map(|number| (0..files).map(move |file| format!("{}/file-{file}", directory(number)).into_bytes()))
            .collect();
        let raised = history.raised()?;
        let missing = expected.difference(&raised).count();
        let false_ones = raised.difference(&expected).count();
        promises.at_most(&format!("{name}, changes not reported"), float(missing)?, 0.0);
        promises.at_most(&format!("{name}, reported and never changed"), float(false_ones)?, 0.0);
        let stored = collector.findings("open")?.len();
        ensure!(stored == expected.len(), "{stored} are stored of {}", expected.len());
        collector.stop()?;
    }
    Ok(())
}

/// Each file once, by two threads.
fn change_everything(root: &Path, directories: usize, files: usize) -> Result<()> {
    let half = |first: usize| -> Result<()> {
        for number in (first..directories).step_by(2) {
            for file in 0..files {
                let path = root.join(directory(number)).join(format!("file-{file}"));
                File::options().append(true).open(path)?.write_all(b"changed\n")?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0)?;
        other.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?
    })
}

fn writer(bench: &Bench, promises: &mut Promises) -> Result<()> {
    let stage = Stage::new(20, 5)?;
    let beside = stage.sandbox.path("beside");
    fs::create_dir(&beside)?;
    let (pairs, rounds) = bench.or((30, 10), (2, 1));
    type Writer = fn(&Path, usize) -> Result<Duration>;
    let writers: [(&str, Writer); 2] = [("files of 64 KiB", write_files), ("pieces of 100 bytes", write_pieces)];
    for (name, _) in &bench.modes {
        for (what, write) in writers {
            write(&beside, rounds)?;
            let (mut alone, mut watched) = (Vec::new(), Vec::new());
            for pair in 0..pairs {
                // Each begins as often as the other.
                for with in [pair % 2 == 0, pair % 2 == 1] {
                    let home = stage.home(name)?;
                    let agent = with.then(|| stage.start(&home)).transpose()?;
                    let time = write(&beside, rounds)?;
                    if with {
                        watched.push(time)
                    } else {
                        alone.push(time)
                    }
                    agent.map(Agent::stop).transpose()?;
                }
            }
            let (alone, watched) = (median(&alone).context("no times")?, median(&watched).context("no times")?);
            let ratio = watched.as_secs_f64() / alone.as_secs_f64();
            println!("{name}, {what}: {alone:.2?} alone, {watched:.2?} watched (medians of {pairs}): {ratio:.3}");
            if *name == "fanotify" {
                promises.at_most(&format!("fanotify, {what}, ratio"), ratio, 1.05);
            }
        }
    }
    Ok(())
}

/// Files in one directory, each written in pieces and closed; the processor time of it.
fn write_files(beside: &Path, rounds: usize) -> Result<Duration> {
    let piece = [7; 4096];
    let before = own_processor()?;
    for _ in 0..rounds {
        for number in 0..500 {
            let mut file = File::create(beside.join(format!("file-{number}")))?;
            for _ in 0..16 {
                file.write_all(&piece)?;
            }
        }
    }
    Ok(own_processor()? - before)
}

/// Pieces of one file that stays open; the processor time of it.
fn write_pieces(beside: &Path, rounds: usize) -> Result<Duration> {
    let piece = [7; 100];
    let file = File::create(beside.join("open"))?;
    file.write_all_at(&piece, 0)?;
    let before = own_processor()?;
    for _ in 0..rounds * 50_000 {
        file.write_all_at(&piece, 0)?;
    }
    Ok(own_processor()? - before)
}

fn foreign(bench: &Bench, promises: &mut Promises) -> Result<()> {
    const A_SECOND: u32 = 10_000;
    /// Events at a time.
    const BATCH: u32 = 100;
    let stage = Stage::new(20, 5)?;
    let beside = stage.sandbox.path("beside");
    // Of many files: two events of one that wait together are one.
    for number in 0..1000 {
        stage.sandbox.write(format!("beside/{}/file-{number}", number / 100), "")?;
    }
    let seconds = bench.or(20, 1);
    for (name, _) in &bench.modes {
        let home = stage.home(name)?;
        let mut agent = stage.start(&home)?;
        let id = agent.process().id();
        // What it still has to say of its start.
        pass(bench.or(Duration::from_secs(5), Duration::ZERO));
        let (before, start) = (processor(id)?, Instant::now());
        for batch in 0..seconds * A_SECOND / BATCH {
            for event in 0..BATCH {
                let number = (batch * BATCH + event) % 1000;
                File::options().write(true).open(beside.join(format!("{}/file-{number}", number / 100)))?;
            }
            let due = Duration::from_secs(1) * (batch + 1) * BATCH / A_SECOND;
            pass(due.saturating_sub(start.elapsed()));
        }
        let took = start.elapsed();
        let share = 100.0 * (processor(id)? - before).as_secs_f64() / took.as_secs_f64();
        let rate = f64::from(seconds * A_SECOND) / took.as_secs_f64();
        println!("{name}: {rate:.0} foreign events a second, {share:.2} % of a core");
        promises.at_most(&format!("{name}, percent of a core"), share, 3.0);
        promises.at_least(&format!("{name}, events a second"), rate, 9000.0);
        agent.stop()?;
    }
    Ok(())
}

fn removal(bench: &Bench, promises: &mut Promises) -> Result<()> {
    let directories = bench.or(10_000, 100);
    for (name, _) in &bench.modes {
        let stage = Stage::new(directories, 1)?;
        let home = stage.home(name)?;
        let mut agent = stage.start(&home)?;
        let id = agent.process().id();
        let before = processor(id)?;
        for entry in fs::read_dir(&stage.root)? {
            fs::remove_dir_all(entry?.path())?;
        }
        // The directories, what holds a hundred of them, and the files.
        let gone = (2 * directories + directories.div_ceil(100)) as u64;
        within(PATIENCE, "everything to be missed", || {
            pass(BETWEEN_LOOKS);
            let status = home.control().status()?;
            let open = &status["targets"][0]["open"]["alerts"]["medium"];
            ensure!(open.as_u64() == Some(gone), "{open} open");
            Ok::<_, anyhow::Error>(())
        })?;
        let spent = processor(id)? - before;
        println!("{name}: {directories} directories removed, {spent:?} of processor time");
        promises.at_most(&format!("{name}, processor seconds"), spent.as_secs_f64(), 2.0);
        agent.stop()?;
    }
    Ok(())
}

fn kilobytes(bytes: u64) -> f64 {
    bytes as f64 / 1e3
}

fn float(number: usize) -> Result<f64> {
    Ok(f64::from(u32::try_from(number)?))
}
