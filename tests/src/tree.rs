//! Owns trees on disk that a test makes. Must not own tampering: see [`crate::tamper`].

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A directory and what a test puts into it. Every mode is set, so that no umask shows.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes an empty one, with the directories above it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root)?;
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        Ok(Self { root })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it.
    pub fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        below(&self.root, path)
    }

    /// A file, mode 0644, with the directories above it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Result<&Self> {
        let path = self.with_parents(path)?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(self)
    }

    /// A directory, mode 0755, with those above it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn dir(&self, path: impl AsRef<[u8]>) -> Result<&Self> {
        let path = self.with_parents(path)?;
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(self)
    }

    /// A symlink, with the directories above it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn symlink(&self, path: impl AsRef<[u8]>, target: &str) -> Result<&Self> {
        let path = self.with_parents(path)?;
        symlink(target, &path).with_context(|| path.display().to_string())?;
        Ok(self)
    }

    /// A mode.
    ///
    /// # Errors
    /// If it cannot be set.
    pub fn mode(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<&Self> {
        fs::set_permissions(self.path(path), Permissions::from_mode(mode))?;
        Ok(self)
    }

    fn with_parents(&self, path: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(path);
        let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|above| *above != self.root).collect();
        for parent in parents.into_iter().rev() {
            if !parent.is_dir() {
                fs::create_dir(parent).with_context(|| parent.display().to_string())?;
                fs::set_permissions(parent, Permissions::from_mode(0o755))?;
            }
        }
        Ok(path)
    }
}

/// `path`, which is any bytes, below `root`.
pub fn below(root: &Path, path: impl AsRef<[u8]>) -> PathBuf {
    root.join(OsStr::from_bytes(path.as_ref()))
}
