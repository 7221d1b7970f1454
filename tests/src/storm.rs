//! Owns a tree that a storm of changes goes over: what is sealed of it, what differs afterwards by the second opinion, and
//! putting it back. Must not own the changes themselves (`changes`), or who watches the tree.

mod changes;
mod operation;
mod program;
mod touched;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use walkdir::WalkDir;

pub use changes::Changes;
pub use operation::{Operation, Sight};
pub use program::{Order, Running, run_order};
pub use touched::Touched;

use crate::drift::Drift;
use crate::naive::{self, Look};
use crate::random::Random;
use crate::saved::Saved;
use crate::tree::{Tree, below};

/// Directories in which anything may happen, to themselves too.
const WILD: [&[u8]; 5] = [b"etc", b"usr", b"usr/lib", b"usr/lib/d\xe9j\xe0", b"var"];
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
/// Files of one directory, of which every other one is left alone.
const WIDE: usize = 120;
/// Directories beside each other, with a file in each. More than the 100 that a test may let an agent watch.
const MANY: usize = 110;
/// Directories below each other.
const DEEP: usize = 24;
/// Files that have a name outside of the tree too, and are written through that one only.
pub(crate) const LINKED: usize = 6;
/// Files to which happens only what makes no difference.
pub(crate) const STILL: usize = 8;

/// A tree under a stream of changes.
#[derive(Debug)]
pub struct Storm {
    root: PathBuf,
    sealed: Look,
    saved: Arc<[Saved]>,
    changes: Changes,
}

impl Storm {
    /// Fills `tree`, which is empty.
    ///
    /// # Errors
    /// If that fails.
    pub fn prepare(tree: &Tree, seed: u64) -> Result<Self> {
        fill(tree)?;
        let root = tree.root().to_owned();
        let sealed = naive::look(&root)?;
        let saved: Arc<[Saved]> =
            sealed.keys().map(|path| Saved::take(below(&root, path))).collect::<Result<Vec<_>>>()?.into();
        let kept = sealed.keys().cloned().zip(saved.iter().cloned()).collect();
        let changes = Changes::new(&root, None, kept, Random::new(seed))?;
        Ok(Self { root, sealed, saved, changes })
    }

    /// Copies the tree to `pristine`, and gives the files `linked/…` their second names in `outside`: what a storm of
    /// another process needs.
    ///
    /// # Errors
    /// If that fails.
    pub fn equip(&self, pristine: &Path, outside: &Path) -> Result<()> {
        let status = Command::new("cp").args(["-a", "--"]).arg(&self.root).arg(pristine).status().context("cp")?;
        ensure!(status.success(), "cp: {status}");
        fs::create_dir(outside)?;
        for number in 0..LINKED {
            fs::hard_link(self.root.join(format!("linked/{number}")), outside.join(format!("linked-{number}")))?;
        }
        Ok(())
    }

    /// The seeded choices, for those who need more of them.
    pub const fn random(&mut self) -> &mut Random {
        self.changes.random()
    }

    /// Makes one change. It may be none: what it would change may be gone by an earlier one.
    pub fn change(&mut self) {
        self.changes.change(Sight::All);
    }

    /// What differs now, by the second opinion.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn expected(&self) -> Result<BTreeSet<Drift>> {
        Ok(naive::diff(&self.sealed, &naive::look(&self.root)?))
    }

    /// Puts back what differs, and touches nothing else.
    ///
    /// # Errors
    /// If that fails, or what was put back is not as sealed.
    pub fn calm(&self) -> Result<()> {
        let differs: BTreeSet<Vec<u8>> = self.expected()?.into_iter().map(|drift| drift.path).collect();
        for entry in WalkDir::new(&self.root).contents_first(true).min_depth(1) {
            let entry = entry?;
            let path = entry.path();
            if !self.sealed.contains_key(relative(&self.root, path)?) {
                if entry.file_type().is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        // In the order of paths: a directory before what is in it.
        for (_, saved) in self.sealed.keys().zip(&*self.saved).filter(|(path, _)| differs.contains(*path)) {
            saved.restore()?;
        }
        let left = self.expected()?;
        ensure!(left.is_empty(), "not put back: {left:?}");
        Ok(())
    }
}

/// Every path that is sealed, and nothing else: the same in every run.
fn fill(tree: &Tree) -> Result<()> {
    for dir in WILD {
        for (number, name) in NAMES.iter().enumerate() {
            let path = [dir, b"/", name].concat();
            match number {
                0 => tree.symlink(&path, "../elsewhere")?,
                _ => tree.file(&path, format!("sealed {number}\n"))?,
            };
        }
    }
    for number in 0..WIDE {
        tree.file(wide(number), format!("wide {number}\n"))?;
    }
    for number in 0..MANY {
        tree.file([&many(number)[..], b"/file"].concat(), format!("many {number}\n"))?;
    }
    tree.file([&deep(DEEP - 1)[..], b"/bottom"].concat(), "deep\n")?;
    for number in 0..LINKED {
        tree.file(format!("linked/{number}"), format!("linked {number}\n"))?;
    }
    for number in 0..STILL {
        tree.file(format!("still/{number}"), format!("still {number}\n"))?;
        tree.file(format!("steady/{number}/beside"), format!("steady {number}\n"))?;
    }
    Ok(())
}

fn wide(number: usize) -> Vec<u8> {
    format!("wide/{number:03}").into_bytes()
}

fn many(number: usize) -> Vec<u8> {
    format!("many/{number:03}").into_bytes()
}

fn deep(number: usize) -> Vec<u8> {
    let names: Vec<String> = (0..=number).map(|level| format!("down {level}")).collect();
    format!("deep/{}", names.join("/")).into_bytes()
}

/// Where changes are made, some likelier than others: sealed paths, and others.
fn places() -> Vec<Vec<u8>> {
    let mut places = Vec::new();
    for dir in WILD {
        for name in NAMES {
            places.push([dir, b"/", name].concat());
            places.push([dir, b"/new-", name].concat());
        }
        places.push(dir.to_owned());
    }
    places.extend((0..WIDE).step_by(2).map(wide));
    for number in 0..MANY {
        places.push(many(number));
        places.push([&many(number)[..], b"/file"].concat());
    }
    places.extend((0..DEEP).step_by(3).map(deep));
    places
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
        for _ in 0..600 {
            storm.change();
        }
        let drifts = storm.expected().expect("a look");
        let changes: BTreeSet<&str> = drifts.iter().map(|drift| drift.change.as_str()).collect();
        assert_eq!(changes, BTreeSet::from(["added", "changed", "removed"]));
        let touched = storm.changes.into_touched();
        for drift in &drifts {
            assert!(touched.may_differ(&drift.path), "{drift:?} was not logged");
        }
        for untouched in [&b"steady/3/beside"[..], b"steady", b"wide/001", b"wide", b"many", b"", b"still/1"] {
            assert!(!touched.may_differ(untouched), "{}", untouched.escape_ascii());
        }
    }

    #[test]
    fn a_storm_is_put_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::create(dir.path().join("tree")).expect("a tree");
        let mut storm = Storm::prepare(&tree, 8).expect("a storm");
        for _ in 0..600 {
            storm.change();
        }
        storm.calm().expect("all put back");
    }
}
