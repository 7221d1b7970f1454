//! Owns seeded trees and seeded tampering, hostile names included. Must not own what is found of them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use walkdir::WalkDir;

use crate::random::Random;
use crate::tamper::CAP_NET_RAW;

/// Makes trees, and tampers with them.
#[derive(Clone, Debug)]
pub struct RandomTree {
    random: Random,
    names: &'static [&'static [u8]],
    /// Whether owners, devices and capabilities may be made, as only root may.
    privileged: bool,
}

/// Any bytes that a name may have.
pub const HOSTILE: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"a-b",
    b"a.b",
    b"A",
    b" ",
    b"a b",
    b"...",
    b"-rf",
    b"*",
    b"~",
    b"\\x41",
    b"'\"$(id)`",
    b"\n",
    b"x\ny",
    b"\x1b[31mred",
    b"\xff\xfe",
    b"\xc3\xa9",
    b"e\xcc\x81",
    b"\xe2\x80\xaegpj.exe",
    b"\x01",
    b".hidden",
    b"\x7f",
];

impl RandomTree {
    /// The same seed and names give the same trees.
    pub const fn new(seed: u64, names: &'static [&'static [u8]], privileged: bool) -> Self {
        Self { random: Random::new(seed), names, privileged }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("below a usize")
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn name(&mut self) -> Vec<u8> {
        if self.chance(12) { vec![b'n'; 255] } else { self.pick(self.names).to_vec() }
    }

    fn bytes(&mut self) -> Vec<u8> {
        // Around the sizes at which BLAKE3 and the reader change their ways.
        let len = match self.below(8) {
            0 => 0,
            1 => 1024,
            2 => 1025,
            3 => 128 * 1024,
            4 => 128 * 1024 + 1,
            _ => self.below(300),
        };
        let seed = self.random.next().to_le_bytes();
        seed.into_iter().cycle().take(len).collect()
    }

    /// Something new at `path`, where nothing is.
    fn create(&mut self, path: &Path) -> Result<()> {
        match self.below(if self.privileged { 9 } else { 7 }) {
            0 | 1 => fs::create_dir(path)?,
            2..=4 => fs::write(path, self.bytes())?,
            5 => symlink(OsStr::from_bytes(&self.name()), path)?,
            6 => {
                let file_type = if self.chance(2) { FileType::Fifo } else { FileType::Socket };
                mknodat(CWD, path, file_type, Mode::from_raw_mode(0o640), 0)?;
            }
            _ => {
                let file_type = if self.chance(2) { FileType::CharacterDevice } else { FileType::BlockDevice };
                let minor = u32::try_from(self.below(500))?;
                mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), makedev(240, minor))?;
            }
        }
        Ok(())
    }

    /// Fills `root`, which is empty, with some thirty entries.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn fill(&mut self, root: &Path) -> Result<()> {
        let mut directories = vec![root.to_owned()];
        for _ in 0..10 + self.below(40) {
            let path = self.pick(&directories).join(OsStr::from_bytes(&self.name()));
            if path.symlink_metadata().is_err() {
                self.create(&path)?;
                if path.symlink_metadata()?.is_dir() {
                    directories.push(path.clone());
                }
                if self.chance(2) {
                    self.attributes(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Other attributes for what is at `path`.
    fn attributes(&mut self, path: &Path) -> Result<()> {
        let metadata = path.symlink_metadata()?;
        if self.privileged && self.chance(3) {
            let id = |random: &mut Self| u32::try_from(random.below(70_000));
            lchown(path, Some(id(self)?), Some(id(self)?))?;
        }
        if metadata.is_symlink() {
            return Ok(());
        }
        if metadata.is_file() && self.chance(3) {
            let time = UNIX_EPOCH + Duration::from_secs(self.random.next() % 2_000_000_000);
            OpenOptions::new().append(true).open(path)?.set_modified(time)?;
        }
        if metadata.is_file() && self.privileged && self.chance(3) {
            let value = if self.chance(2) { CAP_NET_RAW } else { [2; 20].map(|_| 0) };
            // The kernel takes only what has the form of a capability.
            let _refused = rustix::fs::lsetxattr(path, "security.capability", &value, XattrFlags::empty());
        }
        if (metadata.is_file() || metadata.is_dir()) && self.chance(3) {
            let value = self.bytes();
            let value = &value[..value.len().min(200)];
            // Not every file system has user attributes; the second opinion then sees none either.
            let _refused = rustix::fs::lsetxattr(path, "user.note", value, XattrFlags::empty());
        }
        // The owner keeps what lets him read.
        let least = if metadata.is_dir() { 0o700 } else { 0o600 };
        let mode = u32::try_from(self.below(0o10_000))? | least;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Changes a few things somewhere below `root`.
    ///
    /// # Errors
    /// If that fails.
    pub fn tamper(&mut self, root: &Path) -> Result<()> {
        for _ in 0..1 + self.below(8) {
            let all: Vec<PathBuf> = WalkDir::new(root)
                .sort_by_file_name()
                .into_iter()
                .map(|entry| Ok(entry?.into_path()))
                .collect::<Result<_>>()?;
            let path = self.pick(&all).clone();
            self.tamper_with(root, &path, &all)?;
        }
        Ok(())
    }

    fn tamper_with(&mut self, root: &Path, path: &Path, all: &[PathBuf]) -> Result<()> {
        let metadata = path.symlink_metadata()?;
        if metadata.is_dir() && (path == root || self.chance(2)) {
            let new = path.join(OsStr::from_bytes(&self.name()));
            if new.symlink_metadata().is_err() {
                self.create(&new)?;
            }
            return if self.chance(4) { self.attributes(path) } else { Ok(()) };
        }
        match self.below(7) {
            0 => remove(path),
            1 => {
                remove(path)?;
                self.create(path)
            }
            2 if metadata.is_file() => {
                // Size and time as before: only the content tells.
                let mut bytes = fs::read(path)?;
                if let Some(byte) = bytes.first_mut() {
                    *byte ^= 1;
                }
                fs::write(path, bytes)?;
                Ok(File::options().append(true).open(path)?.set_modified(metadata.modified()?)?)
            }
            3 if metadata.is_file() => Ok(OpenOptions::new().append(true).open(path)?.write_all(b"more")?),
            4 => {
                let onto = self.pick(all);
                // A directory into itself, or over something that is not empty.
                let _impossible = fs::rename(path, onto);
                Ok(())
            }
            5 if metadata.is_file() => {
                let directory = path.parent().unwrap_or(root);
                let _exists = fs::hard_link(path, directory.join("hard link"));
                Ok(())
            }
            _ => self.attributes(path),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)?
    } else {
        fs::remove_file(path)?
    }
    Ok(())
}
