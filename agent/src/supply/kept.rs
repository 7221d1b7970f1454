//! Owns what a target had from the collector, in the state directory: each time everything that belongs together in a
//! directory of its own, and which of them was accepted last. Must not own getting it, or accepting it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;
use tempfile::TempDir;

use crate::config::{Manifests, Target};

const BUNDLE: &str = "bundle";
const ASSIGNMENT: &str = "assignment";
/// Names the one that was accepted last.
const ACCEPTED: &str = "accepted";
/// What names of unfinished ones begin with.
const UNFINISHED: &str = ".next-";

/// What a target had from the collector.
#[derive(Clone, Debug)]
pub struct Kept {
    directory: PathBuf,
}

/// A bundle, the manifest beside it, and perhaps an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    directory: PathBuf,
}

/// One that is not whole yet. Gone when it is dropped.
#[derive(Debug)]
pub struct NextSet {
    directory: TempDir,
}

// === impl Kept ===

impl Kept {
    /// Of the target of that name, in a state directory.
    pub fn of(target: &str, state_dir: &Path) -> Self {
        // A name may hold what a file name may not.
        let name = Digest::blake3(target.as_bytes()).to_string();
        Self { directory: state_dir.join("collector").join(&name[..16]) }
    }

    /// The one that was accepted last.
    pub fn accepted(&self) -> Option<Set> {
        let name = std::fs::read_to_string(self.directory.join(ACCEPTED)).ok()?;
        // Whatever else stands there, it leads nowhere.
        let name: Digest = name.trim_end().parse().ok()?;
        Some(self.named(name)).filter(|set| set.directory.is_dir())
    }

    fn named(&self, name: Digest) -> Set {
        Set { directory: self.directory.join(name.to_string()) }
    }

    /// Begins another one.
    ///
    /// # Errors
    /// If the state directory cannot be written.
    pub fn begin(&self) -> io::Result<NextSet> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let directory = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.directory)?;
        Ok(NextSet { directory })
    }

    /// Names what is whole by what it is made of.
    ///
    /// # Errors
    /// If it cannot be read, or renamed.
    pub fn finish(&self, next: NextSet) -> io::Result<Set> {
        let digest = |name| std::fs::read(next.directory.path().join(name)).map(|bytes| Digest::sha256(&bytes));
        let bundle = digest(BUNDLE)?;
        let assignment = match digest(ASSIGNMENT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            digest => Some(digest?),
        };
        let parts: Vec<u8> = [Some(bundle), assignment].into_iter().flatten().flat_map(|one| *one.as_bytes()).collect();
        let set = self.named(Digest::sha256(&parts));
        if !set.directory.is_dir() {
            std::fs::rename(next.directory.path(), &set.directory)?;
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(set)
    }

    /// Remembers that one was accepted, and takes the others away.
    ///
    /// # Errors
    /// If that cannot be written; the one before is then the accepted one.
    pub fn accept(&self, set: &Set) -> io::Result<()> {
        if self.accepted().as_ref() != Some(set) {
            let name = set.directory.file_name().unwrap_or_default();
            let next = self.directory.join("accepted.next");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(name.as_encoded_bytes())?;
            file.sync_all()?;
            std::fs::rename(&next, self.directory.join(ACCEPTED))?;
            File::open(&self.directory)?.sync_all()?;
        }
        self.tidy(&[set]);
        Ok(())
    }

    /// Takes everything away but these.
    pub fn tidy(&self, sets: &[&Set]) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_kept = sets.iter().any(|set| set.directory == path);
            if path.is_dir() && !is_kept {
                // What cannot be removed is only in the way.
                let _left = std::fs::remove_dir_all(&path);
            }
        }
    }
}

// === impl Set ===

impl Set {
    /// The target, to be compared with this one.
    pub fn of(&self, target: &Target) -> Target {
        let assigned = matches!(target.manifests, Manifests::Collector { assigned: true });
        Target {
            manifests: Manifests::Files(vec![self.bundle()]),
            assignment: assigned.then(|| self.assignment()),
            ..target.clone()
        }
    }

    /// The bundle's file.
    pub fn bundle(&self) -> PathBuf {
        self.directory.join(BUNDLE)
    }

    /// The assignment's file, if there is one.
    pub fn assignment(&self) -> PathBuf {
        self.directory.join(ASSIGNMENT)
    }

    /// A file beside the bundle.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

// === impl NextSet ===

impl NextSet {
    /// The bundle's file.
    pub fn bundle(&self) -> PathBuf {
        self.directory.path().join(BUNDLE)
    }

    /// The assignment's file.
    pub fn assignment(&self) -> PathBuf {
        self.directory.path().join(ASSIGNMENT)
    }

    /// A file beside the bundle.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
