//! The page cache after a scan is the page cache before it: what was there stays, what was not is not left behind, and
//! what a scan is charged for meanwhile is small. Real files on a disk, as they are and as a layer of an overlay; what is
//! cached is what `fincore` tells.
//!
//! The kernel takes pages back when it likes, so "stays" is not "every page" here: a scan that drops what it should
//! not drops all of it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::bulk;
use driftlock_tests::memory_group::MemoryGroup;
use driftlock_tests::overlay::{Layer, Overlay};
use driftlock_tests::page_cache::{ON_DISK, bring_in, evict, evict_all, resident, resident_at_rest};
use driftlock_tests::require::{Requirement, run, trial_with};
use tempfile::TempDir;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Larger than anything that the kernel reads ahead or that is read at once, and no multiple of any of it.
const LARGE: u64 = 100 * MIB + 5000;

/// Promised for a scan of 2 GB. What is scanned here is less, for the time it takes: `benches/benches/memory.rs` scans
/// all of it.
const CHARGED: u64 = 64_000_000;
const SCANNED: u64 = 500_000_000;

/// Where the files are that are scanned.
#[derive(Clone, Copy, Debug)]
enum Place {
    Disk,
    Layer(Layer),
}

const DISK: Where = Where {
    name: "disk",
    place: Place::Disk,
    needs: &[Requirement::Disk, Requirement::Fincore],
    to_count: &[Requirement::Disk, Requirement::MemoryGroup],
};
const LOWER: Where = Where {
    name: "lower",
    place: Place::Layer(Layer::Lower),
    needs: &[Requirement::Disk, Requirement::Fincore, Requirement::Overlay],
    to_count: &[Requirement::Disk, Requirement::MemoryGroup, Requirement::Overlay],
};
const UPPER: Where = Where { name: "upper", place: Place::Layer(Layer::Upper), ..LOWER };

/// A place, what looking at the cache there needs, and what counting memory there needs.
struct Where {
    name: &'static str,
    place: Place,
    needs: &'static [Requirement],
    to_count: &'static [Requirement],
}

type Case = (&'static str, fn(&Stage) -> Result<()>);

const CASES: &[Case] = &[
    ("small_files_stay_or_are_not_left_behind", small_files),
    ("a_large_file_is_not_left_behind", a_large_file),
    ("a_file_that_was_there_stays", a_file_that_was_there),
    ("the_half_that_an_application_read_stays", a_half),
    ("pieces_that_were_there_stay", pieces),
    ("a_file_that_grows_meanwhile_is_not_left_behind", a_growing_file),
    ("sealing_leaves_nothing_behind", sealing),
];

fn main() -> ExitCode {
    let of = |at: &Where, needs, (name, test): Case| {
        let place = at.place;
        trial_with(format!("{}::{name}", at.name), needs, move || test(&Stage::new(place)?))
    };
    let mut trials = Vec::new();
    for at in [&DISK, &LOWER, &UPPER] {
        trials.extend(CASES.iter().map(|case| of(at, at.needs, *case)));
    }
    for at in [&DISK, &LOWER] {
        trials.push(of(at, at.to_count, ("little_is_charged_for_a_large_scan", little_is_charged)));
    }
    run(trials)
}

/// A tree of files on a disk, and how it is scanned.
struct Stage {
    place: Place,
    temp: TempDir,
}

impl Stage {
    fn new(place: Place) -> Result<Self> {
        let temp = tempfile::Builder::new().prefix("driftlock-test-").tempdir_in(ON_DISK)?;
        fs::create_dir(temp.path().join("tree"))?;
        Ok(Self { place, temp })
    }

    /// A file of the tree, of `size` bytes.
    fn file(&self, name: &str, size: u64) -> Result<PathBuf> {
        let path = self.tree().join(name);
        bulk::write(&path, size)?;
        Ok(path)
    }

    fn tree(&self) -> PathBuf {
        self.temp.path().join("tree")
    }

    /// Where `driftlock` finds the tree, and its command line with what is around it.
    fn command(&self, verb: impl FnOnce(&Path) -> Vec<OsString>) -> Result<Vec<OsString>> {
        let tree = self.tree();
        let line = |root: &Path| {
            let mut line = vec![OsString::from(&binaries().driftlock)];
            line.extend(verb(root));
            line
        };
        Ok(match self.place {
            Place::Disk => line(&tree),
            Place::Layer(layer) => {
                let overlay = Overlay::new(&tree, layer, self.temp.path())?;
                overlay.around(line(overlay.root()))
            }
        })
    }

    /// Seals what is there, of which nothing is cached.
    fn seal(&self) -> Result<()> {
        evict_all(&self.tree())?;
        finish(&self.command(|root| {
            let mut source = OsString::from("dir:");
            source.push(root);
            vec!["seal".into(), source, "-o".into(), self.temp.path().join("manifest").into()]
        })?)
    }

    fn scan_command(&self) -> Result<Vec<OsString>> {
        self.command(|root| {
            vec!["scan".into(), "--manifest".into(), self.temp.path().join("manifest").into(), root.into()]
        })
    }

    /// Seals what is there, makes the cache what it is to be, and scans.
    fn scan_after(&self, prepare: impl FnOnce() -> Result<()>) -> Result<()> {
        self.seal()?;
        prepare()?;
        finish(&self.scan_command()?)
    }
}

/// Runs a command line to its end, which must be 0.
fn finish(line: &[impl AsRef<OsStr>]) -> Result<()> {
    let output = command(line).output()?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}\n{}{}", output.status, said(&output.stdout), said(&output.stderr));
    Ok(())
}

fn command(line: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null());
    command
}

/// That what is in the cache of `files` is nearly all of `before` bytes.
fn stays(files: &[impl AsRef<Path>], before: u64) -> Result<()> {
    let now = resident(files)?;
    ensure!(before > 0 && now >= before - before / 10, "of {before} bytes that were cached, {now} are left");
    Ok(())
}

/// That what is in the cache of `files` is nearly nothing beyond `before` bytes, of `size` that were read.
fn nothing_left(files: &[impl AsRef<Path>], before: u64, size: u64) -> Result<()> {
    let now = resident(files)?;
    ensure!(now <= before + size / 100, "of {size} bytes read {now} are cached, {before} were before");
    Ok(())
}

fn small_files(stage: &Stage) -> Result<()> {
    let sizes = (0..300_u64).map(|n| 1 + n * 67 % (24 * KIB));
    let files: Vec<(PathBuf, u64)> =
        sizes.enumerate().map(|(n, size)| Ok((stage.file(&n.to_string(), size)?, size))).collect::<Result<_>>()?;
    let (there, gone): (Vec<_>, Vec<_>) = files.into_iter().enumerate().partition(|(n, _)| n % 3 == 0);
    let paths = |files: &[(usize, (PathBuf, u64))]| files.iter().map(|(_, (path, _))| path.clone()).collect::<Vec<_>>();
    let total: u64 = gone.iter().map(|(_, (_, size))| size).sum();
    stage.scan_after(|| there.iter().try_for_each(|(_, (path, size))| bring_in(path, 0..*size)))?;
    stays(&paths(&there), there.iter().map(|(_, (_, size))| size.next_multiple_of(4 * KIB)).sum())?;
    nothing_left(&paths(&gone), 0, total)
}

fn a_large_file(stage: &Stage) -> Result<()> {
    let file = stage.file("large", LARGE)?;
    stage.scan_after(|| evict(&file, 0..LARGE))?;
    nothing_left(&[file], 0, LARGE)
}

fn a_file_that_was_there(stage: &Stage) -> Result<()> {
    let file = stage.file("large", LARGE)?;
    stage.scan_after(|| bring_in(&file, 0..LARGE))?;
    stays(&[file], LARGE)
}

fn a_half(stage: &Stage) -> Result<()> {
    let file = stage.file("large", LARGE)?;
    let mut before = 0;
    stage.scan_after(|| {
        // As an application reads, with the kernel reading ahead and leaving marks where it would go on.
        let mut half = std::io::Read::take(File::open(&file)?, LARGE / 2);
        std::io::copy(&mut half, &mut std::io::sink())?;
        before = resident_at_rest(&[&file])?;
        Ok(())
    })?;
    ensure!(before < LARGE - LARGE / 5, "half of it was to be cached, and {before} bytes are");
    nothing_left(&[&file], before, LARGE)?;
    // It is this half that is there.
    evict(&file, before..u64::MAX / 2)?;
    stays(&[file], before)
}

fn pieces(stage: &Stage) -> Result<()> {
    let file = stage.file("large", LARGE)?;
    let pieces = || (0..LARGE - 64 * KIB).step_by(257 * 4096).map(|start| start..start + 16 * KIB);
    stage.scan_after(|| pieces().try_for_each(|piece| bring_in(&file, piece)))?;
    let before = pieces().map(|piece| piece.end - piece.start).sum();
    nothing_left(&[&file], before, LARGE)?;
    stays(&[&file], before)?;
    // It is these pieces that are there.
    let mut end = 0;
    for piece in pieces() {
        evict(&file, end..piece.start)?;
        end = piece.end;
    }
    stays(&[file], before)
}

fn a_growing_file(stage: &Stage) -> Result<()> {
    let file = stage.file("large", LARGE)?;
    stage.seal()?;
    evict(&file, 0..LARGE)?;
    let mut growing = File::options().append(true).open(&file)?;
    let mut grown = 0;
    let mut scan = command(&stage.scan_command()?).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let status = loop {
        growing.write_all(&[0; 512])?;
        grown += 512;
        if let Some(status) = scan.try_wait()? {
            break status;
        }
    };
    // Changed, or unstable as well: what is larger than sealed was never clean.
    let code = status.code().context("ended by a signal")?;
    ensure!(code & !(4 | 8) == 0 && code != 0, "exit code {code} for a file that grew");
    // What was written is cached because it was written.
    nothing_left(&[file], grown, LARGE)
}

fn sealing(stage: &Stage) -> Result<()> {
    let file = stage.file("large", LARGE)?;
    stage.seal()?;
    nothing_left(&[file], 0, LARGE)
}

fn little_is_charged(stage: &Stage) -> Result<()> {
    let largest = bulk::make(&stage.tree(), SCANNED)?;
    stage.seal()?;
    let counted = |line: &[OsString]| -> Result<u64> {
        evict_all(&stage.tree())?;
        let group = MemoryGroup::new()?;
        finish(&group.around(line))?;
        group.peak()
    };
    let charged = counted(&stage.scan_command()?)?;
    ensure!(charged < CHARGED, "{charged} bytes were charged for a scan of {SCANNED}");
    // That the group counts the cache: reading the largest file in the common way is charged more than is allowed.
    let read = counted(&["cat".into(), largest.into()])?;
    ensure!(read > CHARGED, "only {read} bytes were charged for reading a file the common way");
    Ok(())
}
