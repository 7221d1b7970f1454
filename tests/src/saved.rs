//! Owns remembering one path exactly as it was, and putting it back, never through a link. Must not own what is done to it
//! in between.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags, XattrFlags};

use crate::naive::{CAPABILITY, capability};

/// A path as it was. Restores content, owner, mode and file capability; times are not kept.
#[derive(Clone, Debug)]
pub struct Saved {
    path: PathBuf,
    was: Was,
}

#[derive(Clone, Debug)]
enum Was {
    Absent,
    File { content: Vec<u8>, mode: u32, uid: u32, gid: u32, capability: Option<Vec<u8>> },
    Symlink { target: PathBuf, uid: u32, gid: u32 },
    Directory { mode: u32, uid: u32, gid: u32 },
}

impl Saved {
    /// Remembers `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is neither absent nor a file, symlink or directory.
    pub fn take(path: PathBuf) -> Result<Self> {
        let Ok(meta) = path.symlink_metadata() else {
            return Ok(Self { path, was: Was::Absent });
        };
        let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        let was = if meta.is_file() {
            Was::File { content: fs::read(&path)?, mode, uid, gid, capability: capability(&path)? }
        } else if meta.is_symlink() {
            Was::Symlink { target: fs::read_link(&path)?, uid, gid }
        } else if meta.is_dir() {
            Was::Directory { mode, uid, gid }
        } else {
            bail!("{}: not kept", path.display());
        };
        Ok(Self { path, was })
    }

    /// Puts it back. What a directory held is not touched, unless the path was no directory.
    ///
    /// # Errors
    /// If that fails.
    pub fn restore(&self) -> Result<()> {
        self.restore_at(&self.path)
    }

    /// As [`Saved::restore`], at another path.
    ///
    /// # Errors
    /// As [`Saved::restore`].
    pub fn restore_at(&self, path: &Path) -> Result<()> {
        self.put_back(path).with_context(|| format!("restore {}", path.display()))
    }

    fn put_back(&self, path: &Path) -> Result<()> {
        match &self.was {
            Was::Absent => clear(path)?,
            Was::File { content, mode, uid, gid, capability } => {
                clear(path)?;
                // Exactly this file, whoever puts a link there meanwhile.
                let mut file = File::create_new(path)?;
                file.write_all(content)?;
                // In this order: a change of owner drops capabilities and the setuid bit.
                fchown(&file, Some(*uid), Some(*gid))?;
                file.set_permissions(Permissions::from_mode(*mode))?;
                if let Some(capability) = capability {
                    rustix::fs::fsetxattr(&file, CAPABILITY, capability, XattrFlags::empty())?;
                }
            }
            Was::Symlink { target, uid, gid } => {
                clear(path)?;
                symlink(target, path)?;
                lchown(path, Some(*uid), Some(*gid))?;
            }
            Was::Directory { mode, uid, gid } => {
                if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    clear(path)?;
                    fs::create_dir(path)?;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = File::from(rustix::fs::open(path, flags, Mode::empty())?);
                fchown(&directory, Some(*uid), Some(*gid))?;
                directory.set_permissions(Permissions::from_mode(*mode))?;
            }
        }
        Ok(())
    }
}

/// Removes whatever is at `path`.
fn clear(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}
