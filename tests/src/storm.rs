//! Owns a seeded stream of changes to a tree, hostile names included, and putting the tree back. Must not own who
//! watches it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;
use walkdir::WalkDir;

use crate::drift::Drift;
use crate::naive::{self, Look};
use crate::random::Random;
use crate::saved::Saved;
use crate::tree::{Tree, below};

/// Names of sealed and of added things.
const NAMES: [&[u8]; 10] = [
    b"plain",
    b"two\nlines",
    b"caf\xe9",
    b" ",
    b"-rf",
    b"\x1b[2J",
    b"<script>alert(1)</script>",
    "\u{202e}txt.exe".as_bytes(),
    b"back\\slash",
    b"100%\"'`$(x)",
];

/// A tree under a stream of changes.
#[derive(Debug)]
pub struct Storm {
    root: PathBuf,
    random: Random,
    sealed: Look,
    saved: Vec<Saved>,
    /// Paths that changes are made at: sealed ones, and others.
    paths: Vec<Vec<u8>>,
}

impl Storm {
    /// Fills `tree`, which is empty.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(tree: &Tree, seed: u64) -> Result<Self> {
        let mut paths = Vec::new();
        for dir in [&b"etc"[..], b"usr", b"usr/lib", b"usr/lib/d\xe9j\xe0", b"var"] {
            for (number, name) in NAMES.iter().enumerate() {
                let path = [dir, b"/", name].concat();
                match number {
                    0 => tree.symlink(&path, "../elsewhere")?,
                    _ => tree.file(&path, format!("sealed {number}\n"))?,
                };
                paths.push(path);
                paths.push([dir, b"/new-", name].concat());
            }
            paths.push(dir.to_owned());
        }
        let root = tree.root().to_owned();
        let sealed = naive::look(&root)?;
        let saved = sealed.keys().map(|path| Saved::take(below(&root, path))).collect::<Result<_>>()?;
        Ok(Self { root, random: Random::new(seed), sealed, saved, paths })
    }

    /// The seeded choices, for those who need more of them.
    pub const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Makes one change. It may be none: what it would change may be gone by an earlier one.
    pub fn change(&mut self) {
        let path = below(&self.root, self.random.pick(&self.paths));
        let other = below(&self.root, self.random.pick(&self.paths));
        let number = self.random.below(1000);
        // Whether it was possible does not matter: the second opinion looks at what came of it.
        let _possible = match self.random.below(12) {
            0..4 => fs::write(&path, format!("change {number}\n")),
            4 => fs::remove_file(&path),
            5 => fs::remove_dir_all(&path),
            6 => fs::create_dir_all(path.join("deeper/still")),
            7 => fs::rename(&path, &other),
            8 => symlink(format!("target-{number}"), &path),
            9 if !path.is_symlink() => {
                fs::set_permissions(&path, Permissions::from_mode(0o600 + number as u32 % 0o100))
            }
            _ => {
                let saved = self.random.pick(&self.saved);
                saved.restore().map_err(std::io::Error::other)
            }
        };
    }

    /// What differs now, by the second opinion.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn expected(&self) -> Result<BTreeSet<Drift>> {
        Ok(naive::diff(&self.sealed, &naive::look(&self.root)?))
    }

    /// Puts everything back.
    ///
    /// # Errors
    /// If that fails, or what was put back is not as sealed.
    pub fn calm(&self) -> Result<()> {
        // A directory may have lost the permission to look into it, which root does not notice and others do.
        for entry in WalkDir::new(&self.root).contents_first(true).min_depth(1) {
            let entry = entry?;
            let path = entry.path();
            if !self.sealed.contains_key(relative(&self.root, path)?) {
                if entry.file_type().is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        // In the order of paths: a directory before what is in it.
        for saved in &self.saved {
            saved.restore()?;
        }
        let left = self.expected()?;
        anyhow::ensure!(left.is_empty(), "not put back: {left:?}");
        Ok(())
    }
}

fn relative<'a>(root: &Path, path: &'a Path) -> Result<&'a [u8]> {
    use std::os::unix::ffi::OsStrExt as _;
    Ok(path.strip_prefix(root)?.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_changes_something_and_ends() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::create(dir.path().join("tree")).expect("a tree");
        let mut storm = Storm::prepare(&tree, 7).expect("a storm");
        for _ in 0..300 {
            storm.change();
        }
        let drifts = storm.expected().expect("a look");
        let changes: BTreeSet<&str> = drifts.iter().map(|drift| drift.change.as_str()).collect();
        assert_eq!(changes, BTreeSet::from(["added", "changed", "removed"]));
        storm.calm().expect("all put back");
    }
}
