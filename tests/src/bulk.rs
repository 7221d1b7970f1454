//! Owns large trees: as many bytes as wanted, in files of all sizes, quick to make and on the disk alone. Must not own
//! what is measured with them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::page_cache::evict_all;
use crate::random::Random;

/// What [`make`] makes of 1,000,000,000 bytes: how many files of how many bytes, the largest first.
const BILLION: [(u64, u64); 5] = [(1, 350_000_000), (4, 60_000_000), (80, 3_000_000), (1_300, 100_000), (4_700, 8_500)];

/// Makes a tree of about `bytes` bytes, none of which is in the page cache, in about 6,000 files for each 1,000,000,000;
/// its largest file has a third of it.
///
/// # Errors
/// If it cannot be written.
pub fn make(tree: &Path, bytes: u64) -> Result<PathBuf> {
    let scaled = |number: u64| number * (bytes / 1_000_000) / 1_000;
    let mut largest = None;
    for (count, size) in BILLION {
        let (count, size) = if count == 1 { (1, scaled(size)) } else { (scaled(count), size) };
        for n in 0..count {
            let path = tree.join(format!("{size}/{}/{n}", n / 100));
            fs::create_dir_all(path.parent().context("in a directory")?)?;
            write(&path, size)?;
            largest.get_or_insert(path);
        }
    }
    evict_all(tree)?;
    largest.context("no file at all")
}

/// Writes a file of `size` bytes that are no holes.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, size: u64) -> Result<()> {
    let mut random = Random::new(size);
    let block: Vec<u8> = (0..size.min(1 << 20).div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut left = size;
    while left > 0 {
        let len = left.min(block.len() as u64);
        file.write_all(&block[..usize::try_from(len)?])?;
        left -= len;
    }
    Ok(())
}
