//! Owns the trees that a bench scans: one that is there, and those that are made, the same every time. Must not own what
//! is measured with them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use driftlock_tests::bulk;
use driftlock_tests::random::Random;

/// Files in a directory.
const EACH: u64 = 200;
/// Directories in a directory.
const WIDE: u64 = 50;

/// Makes `files` files of `least` to `most` bytes, evenly spread, 200 in a directory.
///
/// # Errors
/// If it cannot be written.
pub fn small(root: &Path, files: u64, least: u64, most: u64) -> Result<()> {
    let mut random = Random::new(files);
    let block: Vec<u8> = (0..most.div_ceil(8) + EACH).flat_map(|_| random.next().to_le_bytes()).collect();
    for file in 0..files {
        let directory = file / EACH;
        let directory = root.join(format!("{}/{}", directory / WIDE, directory % WIDE));
        if file % EACH == 0 {
            fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        let size = usize::try_from(least + random.below(most - least + 1))?;
        // Another part of the block for each: no two in a directory are the same.
        let start = usize::try_from(file % EACH)? * 8;
        let path = directory.join(format!("file-{file}"));
        let mut out = File::create(&path).with_context(|| path.display().to_string())?;
        out.write_all(&block[start..start + size])?;
    }
    Ok(())
}

/// Makes `count` files of `bytes` bytes, in one directory.
///
/// # Errors
/// If it cannot be written.
pub fn large(root: &Path, count: u64, bytes: u64) -> Result<()> {
    fs::create_dir_all(root).with_context(|| root.display().to_string())?;
    (0..count).try_for_each(|file| bulk::write(&root.join(format!("file-{file}")), bytes))
}

/// A tree of some size that is there on every machine, and does not change.
pub fn little() -> PathBuf {
    let perl = PathBuf::from("/usr/lib/x86_64-linux-gnu/perl-base");
    if perl.is_dir() { perl } else { "/usr/bin".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_as_many_and_as_large_as_said_and_the_same_every_time() {
        let made = || {
            let temp = tempfile::tempdir().unwrap();
            small(temp.path(), 450, 10, 20).unwrap();
            let mut files: Vec<(PathBuf, Vec<u8>)> = ["0/0", "0/1", "0/2"]
                .iter()
                .flat_map(|directory| fs::read_dir(temp.path().join(directory)).unwrap())
                .map(|entry| entry.unwrap().path())
                .map(|path| (path.strip_prefix(temp.path()).unwrap().to_owned(), fs::read(&path).unwrap()))
                .collect();
            files.sort();
            files
        };
        let files = made();
        assert_eq!(files.len(), 450);
        assert!(files.iter().all(|(_, content)| (10..=20).contains(&content.len())));
        assert_eq!(files, made());
    }
}
