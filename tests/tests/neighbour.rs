//! Scanning beside others: what a scan and the agent may take, when they make room, and who need not wait for that. Only
//! bounds that a busy machine cannot break are asserted: that something took at least as long as it has to.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use driftlock_agent::baseline::{Accept, Baseline};
use driftlock_agent::pool::Pool;
use driftlock_agent::scan::pace::{Allowance, Limits, Occasion, Pace};
use driftlock_agent::scan::{Options, Root, Scope, compare};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::process::Stream;
use driftlock_tests::require::{Requirement, run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;

fn main() -> ExitCode {
    run(vec![
        trial("a_scan_reads_no_faster_than_it_is_told", &[], a_scan_reads_no_faster),
        trial("a_rate_that_is_none_is_usage", &[], a_rate_that_is_none),
        trial("a_scan_makes_room_while_others_wait_without_it", &[Requirement::Pressure], a_scan_makes_room),
        trial("the_hashing_threads_of_an_agent_read_in_the_idle_class", &[Requirement::Ionice], idle_class),
        trial("the_first_look_of_an_agent_reads_no_faster_than_it_is_told", &[], the_first_look_reads_no_faster),
        trial("sweeps_take_no_more_than_their_share_of_a_core", &[], sweeps_keep_to_their_share),
        trial("a_hint_does_not_wait_for_a_slow_sweep", &[], a_hint_does_not_wait),
    ])
}

/// What may be read at once before anybody waits, and a little more.
const FREE: Duration = Duration::from_millis(100);

/// A file without content on disk: it is read and hashed all the same.
fn large_file(tree: &Tree, name: &str, bytes: u64) -> Result<()> {
    tree.file(name, "")?;
    Ok(File::options().write(true).open(tree.path(name))?.set_len(bytes)?)
}

fn seal(sandbox: &Sandbox, tree: &Tree) -> Result<std::path::PathBuf> {
    let manifest = sandbox.path("manifest");
    let source = format!("dir:{}", tree.root().display());
    let words = ["seal".as_ref(), "--no-sha256".as_ref(), source.as_ref(), "-o".as_ref(), manifest.as_os_str()];
    sandbox.driftlock(words).run()?.expect(0)?;
    Ok(manifest)
}

fn a_scan_reads_no_faster() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    large_file(&tree, "large", 1_000_000)?;
    for index in 0..100 {
        tree.file(format!("d{}/{index}", index % 7), vec![7; 5000])?;
    }
    let manifest = seal(&sandbox, &tree)?;
    let words = ["scan", "--threads", "4", "--read", "1MB/s", "--manifest"].map(std::ffi::OsStr::new);
    let command = sandbox.driftlock(words.into_iter().chain([manifest.as_os_str(), tree.root().as_os_str()]));
    let began = Instant::now();
    command.run()?.expect(0)?;
    let took = began.elapsed();
    ensure!(took + FREE >= Duration::from_millis(1500), "1.5 MB at 1 MB/s took {took:?}");
    Ok(())
}

fn a_rate_that_is_none() -> Result<()> {
    let sandbox = Sandbox::new()?;
    for rate in ["", "200MB", "0MB/s", "99kB/s", "none", "-1MB/s", "1.5MB/s"] {
        let rate = format!("--read={rate}");
        let finished = sandbox.driftlock(["scan", &rate, "--manifest", "m", "."]).run()?.expect(64)?;
        ensure!(finished.stderr.contains("write a rate like 200MB/s"), "{rate}: {finished:?}");
    }
    Ok(())
}

/// Held alone while the host is made busy, which would make room of what others look at.
static HOST: RwLock<()> = RwLock::new(());

/// A shell that keeps a processor busy. Killed when dropped.
struct Busy(Child);

impl Busy {
    fn new() -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Ok(Self(shell.spawn().context("sh")?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It does not end by itself.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn a_scan_makes_room() -> Result<()> {
    let _alone = HOST.write().unwrap_or_else(PoisonError::into_inner);
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    for index in 0..300 {
        tree.file(format!("d{}/{index}", index % 7), index.to_string())?;
    }
    let baseline = Baseline::load(&seal(&sandbox, &tree)?, &Accept::Unsigned)?;
    let (root, pool) = (Root::open(tree.root())?, Pool::new(None)?);
    let never = AtomicBool::new(false);
    let allowance = Allowance::new(Limits { yields: true, ..Limits::default() });
    ensure!(allowance.unmeasured().is_none(), "{allowance:?}");
    let scan = |occasion| {
        let options = Options { pace: Some(Pace::new(&allowance, occasion)), ..Options::default() };
        let drifts = Mutex::new(Vec::new());
        let push = |drift| drifts.lock().expect("no thread panics").push(drift);
        let outcome = compare(&root, baseline.manifest(), &options, &Scope::All, &pool, &never, &push);
        ensure!(outcome.complete() && drifts.lock().expect("no thread panics").is_empty(), "{outcome:?} {drifts:?}");
        Ok::<_, anyhow::Error>(outcome.stats.waited)
    };
    let cores = thread::available_parallelism()?.get();
    let _others = (0..2 * cores).map(|_| Busy::new()).collect::<Result<Vec<_>>>()?;
    let mut waited = Duration::ZERO;
    eventually("a pause because others had to wait", || {
        // As one long scan: what is known of the others outlives each of these.
        for _ in 0..50 {
            waited += scan(Occasion::Whole)?;
        }
        ensure!(allowance.given_way() > 0, "paused {waited:?} in all, and nobody seemed to wait");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(waited > Duration::ZERO, "given way without a pause");
    // Whoever waits for the answer does not wait for others.
    let hints = (0..50).map(|_| scan(Occasion::Hint)).sum::<Result<Duration>>()?;
    ensure!(hints.is_zero(), "hints waited {hints:?}");
    Ok(())
}

struct Stage {
    home: AgentHome,
    tree: Tree,
    sandbox: Sandbox,
    _host: RwLockReadGuard<'static, ()>,
}

impl Stage {
    /// A tree with a small file, `etc/app`, and a large one of `bytes`; an agent that sweeps it every second.
    fn new(bytes: u64, limits: &str) -> Result<Self> {
        let host = HOST.read().unwrap_or_else(PoisonError::into_inner);
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app", "sealed\n")?;
        large_file(&tree, "large", bytes)?;
        let manifest = seal(&sandbox, &tree)?;
        let mut home = AgentHome::new(&sandbox, "host")?.target("app", tree.root(), &manifest);
        home.sweep = 1;
        home.limits = limits.to_owned();
        Ok(Self { home, tree, sandbox, _host: host })
    }

    /// Makes the large file another one of the same size: what is not as sealed is read in every sweep.
    fn never_as_sealed(self) -> Result<Self> {
        File::options().write(true).open(self.tree.path("large"))?.write_all_at(b"other", 0)?;
        Ok(self)
    }

    fn start(&self) -> Result<Agent> {
        self.home.start(&self.sandbox)
    }
}

/// Waits for a line of the log that has all of `words`, after the first `from` lines; how many lines there were up to it.
fn logged(agent: &mut Agent, from: usize, words: &[&str]) -> Result<usize> {
    let line = agent.process().line_after(Stream::Stderr, from, |line| {
        words.iter().all(|word| line.contains(word)).then(|| line.to_owned())
    })?;
    let text = agent.process().text(Stream::Stderr);
    let number = text.lines().skip(from).position(|other| other == line).context("the line is there")?;
    Ok(from + number + 1)
}

const LOOKED: &[&str] = &["looked at everything"];

fn idle_class() -> Result<()> {
    let stage = Stage::new(1000, "threads = 3")?;
    let mut agent = stage.start()?;
    logged(&mut agent, 0, LOOKED)?;
    let class = |id: &str| -> Result<String> {
        let output = Command::new("ionice").args(["-p", id]).output().context("ionice")?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let id = agent.process().id().to_string();
    let mut hashing = 0;
    for thread in std::fs::read_dir(Path::new("/proc").join(&id).join("task"))? {
        let thread = thread?;
        let name = std::fs::read_to_string(thread.path().join("comm"))?;
        if name.starts_with("hash-") {
            let class = class(&thread.file_name().to_string_lossy())?;
            ensure!(class == "idle", "{name} has {class:?}");
            hashing += 1;
        }
    }
    ensure!(hashing == 3, "{hashing} hashing threads");
    // What is to be kept of a finding is written as everybody else writes.
    ensure!(class(&id)? == class(&std::process::id().to_string())?, "the whole agent is in the class {}", class(&id)?);
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn the_first_look_reads_no_faster() -> Result<()> {
    let stage = Stage::new(3_000_000, "read = \"2MB/s\"")?;
    let began = Instant::now();
    let mut agent = stage.start()?;
    logged(&mut agent, 0, LOOKED)?;
    let took = began.elapsed();
    ensure!(took + FREE >= Duration::from_millis(1500), "3 MB at 2 MB/s took {took:?}");
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn sweeps_keep_to_their_share() -> Result<()> {
    // Takes a fifth of a second of a core or so: without a limit a sweep every second would be a sixth of one.
    let mut stage = Stage::new(1 << 28, "cpu = \"5%\"\nread = \"none\"")?.never_as_sealed()?;
    // By fanotify the events of everything else on this file system would be counted too.
    stage.home.watch = "sweep".to_owned();
    let mut agent = stage.start()?;
    let first = logged(&mut agent, 0, LOOKED)?;
    let id = agent.process().id();
    let (began, before) = (Instant::now(), processor_time(id)?);
    let second = logged(&mut agent, first, LOOKED)?;
    logged(&mut agent, second, LOOKED)?;
    let (took, used) = (began.elapsed(), processor_time(id)? - before);
    // Everything else that the agent does is in the last part.
    let most = took / 20 + took / 80 + Duration::from_millis(100);
    ensure!(used <= most, "{used:?} of processor time in {took:?}");
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

/// What a process used so far, in user and kernel mode.
fn processor_time(id: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name may hold anything, and ends at the last bracket.
    let fields: Vec<&str> = stat.rsplit(')').next().context("fields")?.split_whitespace().collect();
    let ticks = [11, 12].iter().map(|at| Ok(fields.get(*at).context("utime, stime")?.parse::<u64>()?));
    let ticks = ticks.sum::<Result<u64>>()?;
    let hertz = NonZeroU64::new(rustix::param::clock_ticks_per_second()).context("ticks")?;
    Ok(Duration::from_millis(ticks * 1000 / hertz))
}

fn a_hint_does_not_wait() -> Result<()> {
    // A sweep at this share takes minutes, which is longer than anything is waited for here.
    let mut stage = Stage::new(4 << 30, "cpu = \"1%\"\nread = \"none\"")?.never_as_sealed()?;
    stage.home.log = "info,driftlock_agent=debug".to_owned();
    let mut agent = stage.start()?;
    // Hurries the first look too, or it would make room for whatever else this machine does.
    let first = logged(&mut agent, 0, &["looking", "occasion=Whole"])?;
    stage.tree.file("etc/app", "sealed\n")?;
    let looked = logged(&mut agent, first, LOOKED)?;
    let sweep = logged(&mut agent, looked, &["looking", "occasion=Sweep"])?;
    stage.tree.file("etc/app", "changed\n")?;
    let drift = logged(&mut agent, sweep, &["drift", "etc/app"])?;
    ensure!(drift > sweep, "found by the sweep itself");
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}
