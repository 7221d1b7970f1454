//! Owns which pages of a file are in the page cache, as a test makes it so and another program sees it. Must not own
//! what should be there.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Advice, fadvise, statfs, syncfs};
use walkdir::WalkDir;

use crate::wait::eventually;

/// Where a test has files that the page cache holds as it holds those of a server: `/tmp` is often in memory.
pub const ON_DISK: &str = "/var/tmp";

/// `TMPFS_MAGIC`, `RAMFS_MAGIC` and `OVERLAYFS_SUPER_MAGIC` of the kernel's `magic.h`.
const NO_DISK: [(u64, &str); 3] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs"), (0x794c_7630, "overlayfs")];

/// Why [`ON_DISK`] is no such place; `None` if it is one.
pub fn no_disk() -> Option<String> {
    let kind = match statfs(ON_DISK) {
        Ok(stat) => stat.f_type,
        Err(error) => return Some(format!("needs {ON_DISK}: {error}")),
    };
    let (_, name) = NO_DISK.iter().find(|(magic, _)| i128::from(*magic) == i128::from(kind))?;
    Some(format!("needs {ON_DISK} on a disk: it is {name}"))
}

/// Drops the pages of `file` that lie in `bytes`, after what was written of it is on the disk.
///
/// # Errors
/// If it cannot be opened or written back.
pub fn evict(file: &Path, bytes: Range<u64>) -> Result<()> {
    let file = File::open(file).with_context(|| file.display().to_string())?;
    file.sync_all()?;
    // To the kernel a length of 0 is everything.
    let Some(len) = NonZeroU64::new(bytes.end.saturating_sub(bytes.start)) else { return Ok(()) };
    fadvise(&file, bytes.start, Some(len), Advice::DontNeed)?;
    Ok(())
}

/// Drops all pages of the files below `directory`, after what was written of its file system is on the disk.
///
/// # Errors
/// If a file cannot be opened.
pub fn evict_all(directory: &Path) -> Result<()> {
    syncfs(File::open(directory).with_context(|| directory.display().to_string())?)?;
    for entry in WalkDir::new(directory) {
        let entry = entry?;
        if entry.file_type().is_file() {
            fadvise(File::open(entry.path())?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Brings in the pages of `file` that lie in `bytes` and no others.
///
/// # Errors
/// If it cannot be read.
pub fn bring_in(file: &Path, bytes: Range<u64>) -> Result<()> {
    let file = File::open(file).with_context(|| file.display().to_string())?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut buffer = vec![0; usize::try_from(bytes.end - bytes.start)?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, bytes.start)?;
    Ok(())
}

/// As [`resident`], once what the kernel still reads ahead has arrived: pages on their way are not counted. The device says
/// how many reads are on their way, and once it is none, all that began before has come.
///
/// # Errors
/// As [`resident`], and if it never comes to rest.
pub fn resident_at_rest(files: &[impl AsRef<Path>]) -> Result<u64> {
    let mut last = None;
    eventually("reading ahead to come to its end", || {
        let reading = reads_under_way(files)?;
        ensure!(reading == 0, "{reading} reads of the device are under way");
        let now = resident(files)?;
        let before = last.replace(now);
        ensure!(before == Some(now), "{before:?}, then {now}");
        Ok::<_, anyhow::Error>(now)
    })
}

/// How many reads the devices of `files` have not answered yet; none of a file system that has no device of its own
/// (kernel, Documentation/ABI/stable/sysfs-block, `inflight`).
fn reads_under_way(files: &[impl AsRef<Path>]) -> Result<u64> {
    let devices = files.iter().map(|file| Ok(fs::metadata(file)?.dev())).collect::<Result<BTreeSet<u64>>>()?;
    devices.into_iter().try_fold(0, |sum, device| {
        let path = format!("/sys/dev/block/{}:{}/inflight", rustix::fs::major(device), rustix::fs::minor(device));
        let Ok(text) = fs::read_to_string(&path) else { return Ok(sum) };
        let reads: u64 = text.split_whitespace().next().context("no number")?.parse().context(path)?;
        Ok(sum + reads)
    })
}

/// How many bytes of `files` are in the page cache, in whole pages: as `fincore` tells.
///
/// # Errors
/// If it does not.
pub fn resident(files: &[impl AsRef<Path>]) -> Result<u64> {
    let output = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .args(files.iter().map(AsRef::as_ref))
        .output()?;
    ensure!(output.status.success(), "fincore: {}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<u64> =
        String::from_utf8(output.stdout)?.lines().map(|line| line.trim().parse()).collect::<Result<_, _>>()?;
    ensure!(lines.len() == files.len(), "fincore told of {} files of {}", lines.len(), files.len());
    Ok(lines.iter().sum())
}
