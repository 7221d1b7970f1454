//! What is charged to a control group of its own through a full scan of 2 GB that is not in the page cache, on a disk
//! and as the lower layer of an overlay: the memory of the process, what it brought into the page cache, and the
//! kernel's own. Beside it what reading the same files in the common way is charged.
//!
//! Promise: less than 64 MB. `--smoke` scans little and holds no promise. Needs root, and `/var/tmp` on a disk.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_benches::driftlock;
use driftlock_tests::bulk;
use driftlock_tests::memory_group::MemoryGroup;
use driftlock_tests::overlay::{Layer, Overlay};
use driftlock_tests::page_cache::{ON_DISK, evict_all};
use driftlock_tests::require::Requirement;

const CHARGED: u64 = 64_000_000;
const SCANNED: u64 = 2_000_000_000;
const SMOKE: u64 = 20_000_000;

fn main() -> Result<()> {
    let mut bytes = SCANNED;
    for arg in env::args().skip(1) {
        match arg.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--smoke" => bytes = SMOKE,
            _ => bail!("unknown argument {arg}"),
        }
    }
    let needs = [Requirement::Disk, Requirement::Overlay, Requirement::MemoryGroup];
    let missing: Vec<String> = needs.into_iter().filter_map(Requirement::missing).collect();
    ensure!(missing.is_empty(), "{}", missing.join("; "));
    let temp = tempfile::Builder::new().prefix("driftlock-bench-").tempdir_in(ON_DISK)?;
    let tree = temp.path().join("tree");
    bulk::make(&tree, bytes)?;
    let driftlock = driftlock()?;
    let manifest = temp.path().join("manifest");
    let mut source = OsString::from("dir:");
    source.push(&tree);
    run(&[driftlock.clone().into(), "seal".into(), source, "-o".into(), manifest.clone().into()])?;

    let scan = |root: &Path| -> Vec<OsString> {
        let words = [driftlock.as_path(), Path::new("scan"), Path::new("--manifest"), &manifest, root];
        words.map(OsString::from).into()
    };
    let overlay = Overlay::new(&tree, Layer::Lower, temp.path())?;
    let read = ["find".into(), tree.clone().into(), "-type".into(), "f".into(), "-exec".into(), "cat".into()];
    let read = read.into_iter().chain(["{}".into(), "+".into()]).collect::<Vec<OsString>>();
    let on_disk = charged("scan, disk", &scan(&tree), &tree)?;
    let on_overlay = charged("scan, overlay", &overlay.around(scan(overlay.root())), &tree)?;
    charged("find | cat", &read, &tree)?;
    println!("promised for a scan of {SCANNED} bytes: less than {:.1} MB", megabytes(CHARGED)?);
    if bytes == SCANNED {
        ensure!(on_disk.max(on_overlay) < CHARGED, "more is charged than promised");
    }
    Ok(())
}

/// What is charged for `line`, in bytes, when nothing of `tree` is cached.
fn charged(name: &str, line: &[OsString], tree: &Path) -> Result<u64> {
    evict_all(tree)?;
    let group = MemoryGroup::new()?;
    let started = Instant::now();
    run(&group.around(line))?;
    let elapsed = started.elapsed();
    let peak = group.peak()?;
    println!("{name:<14} {:>8.1} MB charged at most, {:>7.3} s", megabytes(peak)?, elapsed.as_secs_f64());
    Ok(peak)
}

fn run(line: &[OsString]) -> Result<()> {
    let (program, args) = line.split_first().context("a command")?;
    let mut command = Command::new(program);
    let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn megabytes(bytes: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(bytes / 1000)?) / 1000.0)
}
