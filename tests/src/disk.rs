//! Owns a file system of a test's own on a loop device, and writing to that device below the file system. To be used in a
//! mount namespace of the test's own ([`crate::namespace`]). Must not own what the file system holds.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::syncfs;

use crate::namespace;

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs, which has checksums of what it holds.
    Btrfs,
}

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    device: PathBuf,
    /// While it is open the device is this one: not mounted, it would be given to the next who wants one.
    open: File,
}

/// A place on the device of a [`Disk`].
#[derive(Clone, Copy, Debug)]
pub struct Block(u64);

impl Kind {
    /// The word that `mkfs.` and `mount` take.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// About the least that it takes, in MiB. The image has holes.
    const fn size(self) -> u64 {
        match self {
            Self::Ext4 => 16,
            Self::Xfs => 320,
            Self::Btrfs => 128,
        }
    }
}

impl Disk {
    /// Makes one in the image `image` and mounts it on the directory `at`, which is made.
    ///
    /// # Errors
    /// If it cannot be made or mounted.
    pub fn new(kind: Kind, image: PathBuf, at: PathBuf) -> Result<Self> {
        File::create_new(&image)?.set_len(kind.size() << 20)?;
        fs::create_dir_all(&at)?;
        run(Command::new(format!("mkfs.{}", kind.name())).arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &at]))?;
        let device = run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&at))?;
        let device = PathBuf::from(device.trim());
        let open = File::options().write(true).open(&device).with_context(|| device.display().to_string())?;
        Ok(Self { image, at, device, open })
    }

    /// Mounts it again after [`Disk::unmount`].
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(&self) -> Result<()> {
        run(Command::new("mount").args([&self.device, &self.at])).map(drop)
    }

    /// Unmounts it, so that the kernel knows nothing of its files any more.
    ///
    /// # Errors
    /// If it is in use.
    pub fn unmount(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.at)).map(drop)
    }

    /// Where the bytes `marker`, which are in one place only, lie on the device.
    ///
    /// # Errors
    /// If they do not, or in several places.
    pub fn find(&self, marker: &[u8]) -> Result<Block> {
        syncfs(File::open(&self.at)?)?;
        let device = fs::read(&self.image)?;
        let places = places(&device, marker);
        let [place] = places[..] else { bail!("{} places of {marker:?}", places.len()) };
        Ok(Block(u64::try_from(place)?))
    }

    /// Writes to the device.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, block: Block, bytes: &[u8]) -> Result<()> {
        self.open.write_all_at(bytes, block.0)?;
        Ok(self.open.sync_all()?)
    }

    /// Has debugfs do `requests`, a line each, while it is not mounted. ext4 only.
    ///
    /// # Errors
    /// If it cannot be run. It does not tell whether a request was good.
    pub fn edit(&self, requests: &str) -> Result<()> {
        let file = self.image.with_extension("debugfs");
        fs::write(&file, requests)?;
        run(Command::new("debugfs").args(["-w", "-f"]).args([&file, &self.device])).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be unmounted already.
        let _unmounted = namespace::unmount(&self.at);
    }
}

/// Where `needle` lies in `bytes`, each of its blocks looked at once.
fn places(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 512;
    let blocks = bytes.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0));
    blocks
        .filter_map(|(at, block)| {
            block.windows(needle.len()).position(|part| part == needle).map(|in_block| at * BLOCK + in_block)
        })
        .collect()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Why none of this kind can be mounted; `None` if one can.
pub fn missing(kind: Kind) -> Option<String> {
    let attempt = || {
        let place = tempfile::tempdir()?;
        let path = |name: &str| Path::new(place.path()).join(name);
        namespace::within(|| Disk::new(kind, path("image"), path("at")).map(drop))
    };
    attempt().err().map(|error: anyhow::Error| format!("needs to mount {}: {error:#}", kind.name()))
}
