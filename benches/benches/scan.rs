//! Full scans beside what else goes through a tree: b3sum, AIDE, mtree, find, and the floors under them. Prints tables in
//! Markdown; medians of rounds in which each has its turn.
//!
//! - Without a mode: `/usr`, 200,000 files of 1 to 16 KiB, and 8 files of 1 GiB, caches warm; `--tree usr|small|large`
//!   chooses, `--rounds N` says how many rounds (the slow ones take part in three of them).
//! - `--cold`: the page cache is dropped before each run, as root; scan and b3sum alone.
//! - `--growth`: 10,000, 100,000 and 1,000,000 files, and the exponent with which time grows.
//! - `--budget`: the processor time of a scan that is held to 20 % of a core.
//!
//! `--dir DIR` says where trees are made (default `/var/tmp`); they are removed afterwards. `--smoke` does all of that on
//! little, and holds no promise.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_agent::baseline::{Accept, Baseline};
use driftlock_agent::pool::Pool;
use driftlock_agent::scan::pace::{Allowance, Limits, Occasion, Pace};
use driftlock_agent::scan::{Options, Root, Scope, compare};
use driftlock_benches::floor::{self, Floor};
use driftlock_benches::program::{memory, timed};
use driftlock_benches::promise::Promises;
use driftlock_benches::table::{Amount, Row, markdown};
use driftlock_benches::turns::{FAST, SLOW, Turn, take_turns};
use driftlock_benches::{driftlock, growth, peer, trees};
use driftlock_tests::page_cache::ON_DISK;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use tempfile::TempDir;

/// Of the scan of `/usr`, its manifest loaded.
const TO_B3SUM: f64 = 0.60;
const TO_AIDE: f64 = 0.08;
/// Of a scan, to reading and hashing without comparing, on every tree.
const TO_FLOOR: f64 = 1.25;
/// Of a sweep of `/usr` in which nothing changed, the loading of the manifest and the state taken off.
const SWEEP_TO_FIND: f64 = 0.35;
/// Files of 1 to 16 KiB in a second.
const SMALL_RATE: f64 = 200_000.0;
/// Of b3sum to the scan, nothing cached.
const COLD: f64 = 2.0;
/// Anonymous memory, for `/usr` and for a million files.
const MEMORY: f64 = 40e6;
const MEMORY_OF_A_MILLION: f64 = 160e6;
/// Time must not grow faster than this power of the number of files.
const GROWTH: f64 = 1.1;
/// Of one core, in percent, and how far the average may be off.
const SHARE: NonZeroU32 = NonZeroU32::new(20).expect("not 0");
const OFF: f64 = 0.25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Warm,
    Cold,
    Growth,
    Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Usr,
    Small,
    Large,
}

struct Wish {
    mode: Mode,
    trees: Vec<Kind>,
    dir: PathBuf,
    rounds: usize,
    smoke: bool,
}

fn main() -> Result<()> {
    let wish = wish()?;
    let mut promises = Promises::new(!wish.smoke);
    let modes: &[Mode] = if wish.smoke { &[Mode::Warm, Mode::Cold, Mode::Growth, Mode::Budget] } else { &[wish.mode] };
    for mode in modes {
        match mode {
            Mode::Warm => wish.trees.iter().try_for_each(|kind| warm(&wish, *kind, &mut promises))?,
            Mode::Cold => wish.trees.iter().try_for_each(|kind| cold(&wish, *kind, &mut promises))?,
            Mode::Growth => grow(&wish, &mut promises)?,
            Mode::Budget => budget(&wish, &mut promises)?,
        }
    }
    promises.end()
}

fn wish() -> Result<Wish> {
    let mut wish = Wish { mode: Mode::Warm, trees: Vec::new(), dir: ON_DISK.into(), rounds: 7, smoke: false };
    let mut args = env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{} needs a value", arg.display()));
        match arg.to_str() {
            // Cargo says so to every bench.
            Some("--bench") => {}
            Some("--tree") => wish.trees.push(match value()?.to_str() {
                Some("usr") => Kind::Usr,
                Some("small") => Kind::Small,
                Some("large") => Kind::Large,
                _ => bail!("--tree is usr, small or large"),
            }),
            Some("--dir") => wish.dir = value()?.into(),
            Some("--rounds") => wish.rounds = value()?.to_string_lossy().parse()?,
            Some("--cold") => wish.mode = Mode::Cold,
            Some("--growth") => wish.mode = Mode::Growth,
            Some("--budget") => wish.mode = Mode::Budget,
            Some("--smoke") => (wish.smoke, wish.rounds) = (true, 1),
            _ => bail!("unknown argument {}", arg.display()),
        }
    }
    ensure!(wish.rounds > 0, "--rounds is at least 1");
    if wish.trees.is_empty() {
        wish.trees = match wish.mode {
            Mode::Warm => vec![Kind::Usr, Kind::Small, Kind::Large],
            Mode::Cold | Mode::Growth | Mode::Budget => vec![Kind::Usr],
        };
    }
    Ok(wish)
}

/// A tree, sealed.
struct Sealed {
    name: String,
    root: PathBuf,
    manifest: PathBuf,
    amount: Amount,
    floors: rayon::ThreadPool,
    driftlock: PathBuf,
    temp: TempDir,
}

impl Sealed {
    fn make(wish: &Wish, kind: Kind) -> Result<Self> {
        let temp = tempfile::Builder::new().prefix("driftlock-bench-").tempdir_in(&wish.dir)?;
        let made = temp.path().join("tree");
        let (name, root) = match (kind, wish.smoke) {
            (Kind::Usr, false) => ("`/usr`", "/usr".into()),
            (Kind::Usr, true) => ("a directory of the system", trees::little()),
            (Kind::Small, _) => ("files of 1 to 16 KiB", made),
            (Kind::Large, false) => ("files of 1 GiB", made),
            (Kind::Large, true) => ("files of 9 MiB", made),
        };
        match (kind, wish.smoke) {
            (Kind::Usr, _) => {}
            (Kind::Small, smoke) => trees::small(&root, if smoke { 2000 } else { 200_000 }, 1 << 10, 16 << 10)?,
            (Kind::Large, smoke) => trees::large(&root, 8, if smoke { 9 << 20 } else { 1 << 30 })?,
        }
        Self::seal(name, root, temp)
    }

    fn seal(name: &str, root: PathBuf, temp: TempDir) -> Result<Self> {
        let (driftlock, manifest) = (driftlock()?, temp.path().join("manifest"));
        let mut source = OsString::from("dir:");
        source.push(&root);
        timed(Command::new(&driftlock).arg("seal").arg(source).arg("-o").arg(&manifest))?;
        let floors = rayon::ThreadPoolBuilder::new().build()?;
        // Brings everything into the page cache, where a scan leaves nothing.
        let amount = floor::run(&root, Floor::Read, &floors)?;
        Ok(Self { name: name.to_owned(), root, manifest, amount, floors, driftlock, temp })
    }

    fn title(&self, how: &str) {
        let Amount { files, bytes } = self.amount;
        println!("\n### {}, {how}: {files} files, {:.2} GB\n", self.name, bytes as f64 / 1e9);
    }

    fn scan(&self) -> Command {
        let mut command = Command::new(&self.driftlock);
        command.arg("scan").arg("--manifest").arg(&self.manifest).arg(&self.root);
        command
    }

    fn sweep(&self) -> Command {
        let mut command = Command::new(&self.driftlock);
        command.arg("scan").arg("--state").arg(self.temp.path().join("state"));
        command.arg("--manifest").arg(&self.manifest).arg(&self.root);
        command
    }

    fn b3sum(&self) -> Result<Command> {
        const SCRIPT: &str = "find \"$1\" -xdev -type f -print0 | xargs -0 \"$0\" > /dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).arg(peer("b3sum", "DRIFTLOCK_B3SUM")?).arg(&self.root);
        Ok(command)
    }

    fn find(&self) -> Command {
        let mut command = Command::new("find");
        command.arg(&self.root).args(["-printf", "%s %m %u\\n"]);
        command
    }

    fn mtree(&self) -> Result<Command> {
        let mut command = Command::new(peer("mtree", "DRIFTLOCK_MTREE")?);
        command.args(["-c", "-k", "sha256", "-p"]).arg(&self.root);
        Ok(command)
    }

    /// AIDE, making its database anew.
    fn aide(&self) -> Result<Command> {
        let place = self.temp.path();
        let root = self.root.to_str().context("a root that is text")?;
        ensure!(!root.contains(|ch: char| ch.is_whitespace() || "\\[](){}^$*+?|".contains(ch)), "{root} as a pattern");
        let config = place.join("aide.conf");
        let text = format!(
            "database_in=file:{0}/aide.db\ndatabase_out=file:{0}/aide.db\ngzip_dbout=no\nnum_workers=2\n\
             report_url=file:{0}/aide.report\n{1} ftype+p+u+g+s+l+sha256\n",
            place.display(),
            root.replace('.', "\\.")
        );
        fs::write(&config, text)?;
        let mut command = Command::new(peer("aide", "DRIFTLOCK_AIDE")?);
        command.arg("--init").arg("--config").arg(config);
        Ok(command)
    }

    /// Takes a floor and gives how long it took.
    fn floor(&self, floor: Floor) -> Result<Duration> {
        let began = Instant::now();
        floor::run(&self.root, floor, &self.floors)?;
        Ok(began.elapsed())
    }

    /// Loads the manifest in this process.
    fn load(&self) -> Result<Duration> {
        let began = Instant::now();
        let baseline = Baseline::load(&self.manifest, &Accept::Unsigned)?;
        let took = began.elapsed();
        drop(baseline);
        Ok(took)
    }
}

const SCAN: &str = "driftlock scan, manifest loaded";
const LOAD: &str = "loading the manifest alone";
const SWEEP: &str = "driftlock scan with state, nothing changed";
const B3SUM: &str = "find, xargs b3sum";
const AIDE: &str = "AIDE --init, sha256, 2 workers";
const MTREE: &str = "mtree -c -k sha256";
const FIND: &str = "find -printf '%s %m %u'";
const HASH: &str = "floor: read and BLAKE3";
const READ: &str = "floor: read";
const STAT: &str = "floor: statx";

fn warm(wish: &Wish, kind: Kind, promises: &mut Promises) -> Result<()> {
    let sealed = Sealed::make(wish, kind)?;
    let (mut scan, mut b3sum, mut find) = (sealed.scan(), sealed.b3sum()?, sealed.find());
    let mut turns: Vec<Turn<'_>> = vec![
        (SCAN, FAST, Box::new(move || timed(&mut scan))),
        (LOAD, FAST, Box::new(|| sealed.load())),
        (HASH, FAST, Box::new(|| sealed.floor(Floor::Hash))),
        (READ, FAST, Box::new(|| sealed.floor(Floor::Read))),
        (STAT, FAST, Box::new(|| sealed.floor(Floor::Stat))),
        (FIND, FAST, Box::new(move || timed(&mut find))),
        (B3SUM, FAST, Box::new(move || timed(&mut b3sum))),
    ];
    if keeps_state(&sealed.driftlock)? {
        // The first one makes the state; timestamps that are too young for it are not in it.
        timed(&mut sealed.sweep())?;
        let mut sweep = sealed.sweep();
        turns.push((SWEEP, FAST, Box::new(move || timed(&mut sweep))));
    }
    if promises.are_held() {
        let (mut aide, mut mtree) = (sealed.aide()?, sealed.mtree()?);
        turns.push((MTREE, SLOW, Box::new(move || timed(&mut mtree))));
        turns.push((AIDE, SLOW, Box::new(move || timed(&mut aide))));
    }
    let rows = take_turns(&mut turns, wish.rounds)?;
    drop(turns);
    sealed.title("warm");
    print!("{}", markdown("scan", &rows, sealed.amount));
    println!();
    let peak = memory(&mut sealed.scan())? as f64;
    println!("- anonymous memory of the scan (RssAnon, every 2 ms): {:.1} MB at most", peak / 1e6);
    let seconds = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, Row::seconds);
    promises.at_most("scan ÷ read and BLAKE3", seconds(SCAN) / seconds(HASH), TO_FLOOR);
    match kind {
        Kind::Usr => {
            promises.at_most("scan ÷ b3sum", seconds(SCAN) / seconds(B3SUM), TO_B3SUM);
            if promises.are_held() {
                promises.at_most("scan ÷ AIDE", seconds(SCAN) / seconds(AIDE), TO_AIDE);
            }
            if rows.iter().any(|row| row.name == SWEEP) {
                let sweep = seconds(SWEEP) - seconds(LOAD);
                promises.at_most("sweep less loading ÷ find -printf", sweep / seconds(FIND), SWEEP_TO_FIND);
            }
            promises.at_most("bytes of anonymous memory", peak, MEMORY);
        }
        Kind::Small => {
            promises.at_least("files in a second", sealed.amount.files as f64 / seconds(SCAN), SMALL_RATE);
        }
        Kind::Large => {}
    }
    Ok(())
}

/// Whether `scan` has a state: not every version does.
fn keeps_state(driftlock: &Path) -> Result<bool> {
    let help = Command::new(driftlock).args(["scan", "--help"]).output()?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("--state"))
}

fn cold(wish: &Wish, kind: Kind, promises: &mut Promises) -> Result<()> {
    if wish.smoke && !nix::unistd::geteuid().is_root() {
        println!("\n(nothing cold: only root may drop the page cache)");
        return Ok(());
    }
    let sealed = Sealed::make(wish, kind)?;
    let drop_caches = || -> Result<()> {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop the page cache, as root")
    };
    let (mut scan, mut b3sum) = (sealed.scan(), sealed.b3sum()?);
    let after = |command: &mut Command| {
        // On little, what is measured is not what matters: the caches of everybody else stay.
        if wish.smoke {
            driftlock_tests::page_cache::evict_all(&sealed.root)?;
        } else {
            drop_caches()?;
        }
        timed(command)
    };
    let mut rows = [Row::new("driftlock scan, manifest loaded"), Row::new(B3SUM)];
    for _ in 0..wish.rounds {
        rows[0].times.push(after(&mut scan)?);
        rows[1].times.push(after(&mut b3sum)?);
    }
    sealed.title("cold");
    print!("{}", markdown("scan", &rows, sealed.amount));
    println!();
    promises.at_least("b3sum ÷ scan, cold", rows[1].seconds() / rows[0].seconds(), COLD);
    Ok(())
}

fn grow(wish: &Wish, promises: &mut Promises) -> Result<()> {
    let sizes: [u64; 3] = if wish.smoke { [200, 600, 1800] } else { [10_000, 100_000, 1_000_000] };
    let (mut rows, mut points, mut peak) = (Vec::new(), Vec::new(), 0);
    for files in sizes {
        let temp = tempfile::Builder::new().prefix("driftlock-bench-").tempdir_in(&wish.dir)?;
        let root = temp.path().join("tree");
        trees::small(&root, files, 100, 1000)?;
        let sealed = Sealed::seal("files of 100 to 1000 bytes", root, temp)?;
        let mut scan = sealed.scan();
        timed(&mut scan)?;
        let mut row = Row::new(format!("{files} files"));
        for _ in 0..wish.rounds {
            row.times.push(timed(&mut scan)?);
        }
        points.push((files as f64, row.seconds()));
        rows.push((row, sealed.amount));
        peak = memory(&mut scan)?;
    }
    println!("\n### a scan as the tree grows, files of 100 to 1000 bytes, warm\n");
    println!("| | median | files/s |\n|---|---:|---:|");
    for (row, amount) in rows {
        let seconds = row.seconds();
        println!("| {} | {seconds:.3} s | {:.0} |", row.name, amount.files as f64 / seconds);
    }
    let exponent = growth::exponent(&points).context("an exponent")?;
    println!();
    promises.at_most("exponent of time over files", exponent, GROWTH);
    promises.at_most("bytes of anonymous memory for the largest", peak as f64, MEMORY_OF_A_MILLION);
    Ok(())
}

/// A sweep as the agent does it, in this process; pressure is not looked at, because it depends on the machine.
fn budget(wish: &Wish, promises: &mut Promises) -> Result<()> {
    let sealed = Sealed::make(wish, wish.trees.first().copied().unwrap_or(Kind::Usr))?;
    let baseline = Baseline::load(&sealed.manifest, &Accept::Unsigned)?;
    let (root, pool) = (Root::open(&sealed.root)?, Pool::new(None)?);
    let least = Duration::from_millis(if wish.smoke { 500 } else { 20_000 });
    let allowance = Allowance::new(Limits { cpu: Some(SHARE), ..Limits::default() });
    let (began, before) = (Instant::now(), processor_time()?);
    let mut waited = Duration::ZERO;
    let mut sweeps = 0;
    while began.elapsed() < least {
        let pace = Some(Pace::new(&allowance, Occasion::Sweep));
        let options = Options { pace, ..Options::default() };
        let never = AtomicBool::new(false);
        let outcome = compare(&root, baseline.manifest(), &options, &Scope::All, &pool, &never, &|_| ());
        ensure!(outcome.complete(), "{outcome:?}");
        waited += outcome.stats.waited;
        sweeps += 1;
    }
    let (took, used) = (began.elapsed(), processor_time()? - before);
    let share = 100.0 * used.as_secs_f64() / took.as_secs_f64();
    println!("\n### {}, held to {SHARE} % of one core\n", sealed.name);
    println!("- {sweeps} sweeps in {took:.1?}, {used:.2?} of processor time; {waited:.1?} waited by all threads");
    let wanted = f64::from(SHARE.get());
    promises.at_most("average share, in percent of a core", share, wanted * (1.0 + OFF));
    promises.at_least("average share, in percent of a core", share, wanted * (1.0 - OFF));
    Ok(())
}

/// What this process used so far, in user and kernel mode.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let of = |time: TimeVal| -> Result<Duration> {
        let (seconds, micros) = (u64::try_from(time.tv_sec())?, u64::try_from(time.tv_usec())?);
        Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
    };
    Ok(of(usage.user_time())? + of(usage.system_time())?)
}
