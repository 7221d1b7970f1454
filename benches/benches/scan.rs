//! A full scan of `/usr` against its manifest, beside `b3sum` over the same files: pairs of runs by turns, medians.
//!
//! Promise: the ratio is at most 0.65, and the scan, with the loading of its manifest, stays under 80 MB.
//! `--smoke` runs one pair on a small tree and holds no promise. `--root DIR` and `--pairs N` choose others.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_agent::pool::Pool;
use driftlock_agent::scan::{ObserveTerms, Root, observe};
use driftlock_benches::{driftlock, median, peak_of_children, peer};
use driftlock_common::digest::Algorithm;
use driftlock_common::manifest::{Header, Manifest, Source, SourceKind};
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

const RATIO: f64 = 0.65;
const MEMORY: u64 = 80_000_000;

fn main() -> Result<()> {
    let mut root = PathBuf::from("/usr");
    let mut pairs = 5;
    let mut promise = true;
    let mut args = env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{} needs a value", arg.display()));
        match arg.to_str() {
            // Cargo says so to every bench.
            Some("--bench") => {}
            Some("--seal") => return seal(Path::new(&value()?), Path::new(&value()?)),
            Some("--root") => root = value()?.into(),
            Some("--pairs") => pairs = value()?.to_string_lossy().parse()?,
            Some("--smoke") => {
                root = "/usr/lib/x86_64-linux-gnu/perl-base".into();
                if !root.is_dir() {
                    root = "/usr/bin".into();
                }
                pairs = 1;
                promise = false;
            }
            _ => bail!("unknown argument {}", arg.display()),
        }
    }
    let (driftlock, b3sum) = (driftlock()?, peer("b3sum", "DRIFTLOCK_B3SUM")?);
    let temp = tempfile::tempdir()?;
    let manifest = temp.path().join("manifest");
    // In a process of its own, because what it needs would count as the memory of every child of this one.
    let sealing = Command::new(env::current_exe()?).arg("--seal").arg(&root).arg(&manifest).status()?;
    ensure!(sealing.success(), "sealing failed");

    let script = "find \"$1\" -xdev -type f -print0 | xargs -0 \"$0\" > /dev/null";
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut peak = 0;
    for pair in 0..=pairs {
        let scan = timed(Command::new(&driftlock).arg("scan").arg("--manifest").arg(&manifest).arg(&root))?;
        // b3sum maps whole files, so only the first run shows what the scan needs.
        if pair == 0 {
            peak = peak_of_children()?;
        }
        let sum = timed(Command::new("sh").arg("-c").arg(script).arg(&b3sum).arg(&root))?;
        // The first pair warms the cache.
        if pair > 0 {
            println!("{:>4}  scan {:>7.3} s  b3sum {:>7.3} s", pair, scan.as_secs_f64(), sum.as_secs_f64());
            ours.push(scan);
            theirs.push(sum);
        }
    }
    let (ours, theirs) = (median(&ours).context("no pair")?, median(&theirs).context("no pair")?);
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    let megabytes = f64::from(u32::try_from(peak / 1000)?) / 1000.0;
    println!("{}: {} bytes of manifest", root.display(), fs::metadata(&manifest)?.len());
    println!("scan   median {:.3} s, peak {megabytes:.1} MB resident", ours.as_secs_f64());
    println!("b3sum  median {:.3} s", theirs.as_secs_f64());
    println!("ratio  {ratio:.3} (promised: at most {RATIO})");
    if promise {
        ensure!(ratio <= RATIO, "the scan is slower than promised");
        ensure!(peak < MEMORY, "the scan needs more memory than promised");
    }
    Ok(())
}

fn seal(root: &Path, file: &Path) -> Result<()> {
    let terms = ObserveTerms {
        profile: Profile::Portable,
        content: Algorithm::Blake3,
        excludes: Excludes::none(),
        sha256: true,
    };
    let observation = observe(&Root::open(root)?, &terms, &Pool::new(None)?);
    ensure!(observation.gaps.is_empty(), "cannot be read as a whole: {:?}", observation.gaps);
    let mut header = Header::new(terms.profile, terms.content, terms.excludes);
    header.source =
        Some(Source { kind: SourceKind::Dir, manifest: None, config: None, platform: None, layers: Vec::new() });
    fs::write(file, Manifest { header, tree: observation.tree }.encode())?;
    Ok(())
}

fn timed(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    let elapsed = started.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}: is the tree being changed?");
    Ok(elapsed)
}
