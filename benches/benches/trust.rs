//! From a bundle to a baseline: signatures verified, the manifest beside it hashed, read and put in order, in a process of its
//! own each time; beside it the same manifest without a bundle.
//!
//! Promise: 120,000 entries in less than 250 ms and 40 MB of anonymous memory. `--smoke` reads few and holds no promise.

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_agent::baseline::{Accept, Baseline, Terms};
use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::node::{Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::{Origin, Tree};
use driftlock_common::trust::{Anchors, Timestamp};
use driftlock_tests::signed::{bundle, key};

const ENTRIES: u32 = 120_000;
const SMOKE: u32 = 2_000;
const ROUNDS: usize = 9;
const TIME: Duration = Duration::from_millis(250);
/// In bytes.
const MEMORY: u64 = 40_000_000;
/// What a process that only loads is told.
const LOAD: &str = "--load";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(ENTRIES, ROUNDS),
        ["--smoke"] => compare(SMOKE, 1),
        [LOAD, path] => load(Path::new(path)),
        _ => bail!("unknown arguments {args:?}"),
    }
}

/// Files of some length in directories of a hundred, with everything that an image's have.
fn manifest(entries: u32) -> Result<Manifest> {
    let entry = |number: u32| -> Result<Vec<(TreePath, Node, Origin)>> {
        let name = format!("usr/share/doc/package-{:05}", number / 100);
        let directory = || Ok::<_, anyhow::Error>((TreePath::new(name.as_str())?, directory(), Origin::default()));
        let content = Some(Digest::blake3(&number.to_le_bytes()));
        let node =
            Node { mode: Some(0o644), uid: Some(0), gid: Some(0), ..Node::bare(Kind::File { size: Some(4), content }) };
        let origin = Origin { sha256: Some(Digest::sha256(&number.to_le_bytes())), layer: Some(3), meta_layer: None };
        let file = (TreePath::new(format!("{name}/file-{number:08}.txt"))?, node, origin);
        Ok(if number.is_multiple_of(100) { vec![directory()?, file] } else { vec![file] })
    };
    let mut all = Vec::new();
    for path in ["usr", "usr/share", "usr/share/doc"] {
        all.push((TreePath::new(path)?, directory(), Origin::default()));
    }
    for number in 0..entries {
        all.extend(entry(number)?);
    }
    let header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
    Ok(Manifest { header, tree: Tree::from_sorted(all)? })
}

fn directory() -> Node {
    Node { mode: Some(0o755), uid: Some(0), gid: Some(0), ..Node::implicit_directory() }
}

fn compare(entries: u32, rounds: usize) -> Result<()> {
    let temp = tempfile::tempdir()?;
    let bare = temp.path().join("app.manifest");
    std::fs::write(&bare, manifest(entries)?.encode())?;
    let signed = temp.path().join("app.bundle");
    bundle(&bare, &signed, &[1])?;
    let mut lines = Vec::new();
    for (name, path) in [("manifest", &bare), ("bundle", &signed)] {
        let mut runs = (0..rounds).map(|_| run(path)).collect::<Result<Vec<_>>>()?;
        runs.sort();
        let (time, memory) = runs[rounds / 2];
        println!("{name:<9} {entries} entries: {:.1} ms, {:.1} MB anonymous", ms(time), megabytes(memory)?);
        lines.push((time, memory));
    }
    println!("promised for a bundle of {ENTRIES}: less than {:.0} ms and {:.0} MB", ms(TIME), megabytes(MEMORY)?);
    let (time, memory) = lines[1];
    if entries == ENTRIES {
        ensure!(time < TIME && memory < MEMORY, "the promise is not held");
    }
    Ok(())
}

/// Time of the loading alone, and the most anonymous memory of the process.
fn run(path: &Path) -> Result<(Duration, u64)> {
    let output = Command::new(env::current_exe()?).arg(LOAD).arg(path).output()?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let (micros, bytes) = text.trim().split_once(' ').context("two numbers")?;
    Ok((Duration::from_micros(micros.parse()?), bytes.parse()?))
}

fn load(path: &Path) -> Result<()> {
    let accept = if path.extension().is_some_and(|extension| extension == "bundle") {
        let anchors = Arc::new(Anchors::any_of([("build".to_owned(), key(1)?.public().clone())]));
        Accept::Signed(Terms { anchors, now: Timestamp::EARLIEST, assigned: None })
    } else {
        Accept::Bare
    };
    let begun = Instant::now();
    let baseline = Baseline::load(path, &accept)?;
    let time = begun.elapsed();
    std::hint::black_box(&baseline);
    println!("{} {}", time.as_micros(), peak()?);
    Ok(())
}

/// The most that was resident, less what is of files now: an upper bound of the anonymous.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    };
    Ok(field("VmHWM:")?.saturating_sub(field("RssFile:")?))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn megabytes(bytes: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(bytes / 1000)?) / 1000.0)
}
