//! Owns baselines in few words, for tests. Must not own what is expected of them.

use std::path::{Path, PathBuf};

use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::node::{Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::{Origin, Tree};

use super::{Accept, Baseline, BaselineError};

/// A manifest of paths; those with a slash at the end are directories, the content of the others is their path.
pub(crate) fn manifest(profile: Profile, excludes: &[&str], paths: &[&str]) -> Manifest {
    let entry = |path: &&str| {
        let name = path.strip_suffix('/');
        let content = Some(Digest::blake3(path.as_bytes()));
        let kind = name.map_or(Kind::File { size: Some(path.len() as u64), content }, |_| Kind::Directory);
        (TreePath::new(name.unwrap_or(path)).unwrap(), Node::bare(kind), Origin::default())
    };
    let excludes = Excludes::new(excludes.iter().copied(), []).unwrap();
    Manifest {
        header: Header::new(profile, Algorithm::Blake3, excludes),
        tree: Tree::from_sorted(paths.iter().map(entry)).unwrap(),
    }
}

/// Written and read again.
pub(crate) fn load(parts: &[Manifest]) -> Result<Baseline, BaselineError> {
    let dir = tempfile::tempdir().unwrap();
    Baseline::load_all(&write(dir.path(), parts), &Accept::Unsigned)
}

/// Each as a file `0`, `1`, … of a directory.
pub(crate) fn write(dir: &Path, parts: &[Manifest]) -> Vec<PathBuf> {
    let write = |(index, manifest): (usize, &Manifest)| {
        let path = dir.join(index.to_string());
        std::fs::write(&path, manifest.encode()).unwrap();
        path
    };
    parts.iter().enumerate().map(write).collect()
}
