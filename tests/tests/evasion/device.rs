//! Below the file system: what is written to its device shows in no stat, and in no page that is cached.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::disk::{Block, Disk, Kind};
use driftlock_tests::drift::Drift;
use driftlock_tests::page_cache;
use driftlock_tests::require::Requirement::{Btrfs, Ext4, MountNamespace, Overlay, Root, Xfs};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use driftlock_tests::watched::{Bound, Mode, Watched};
use nix::sys::signal::Signal;

use super::{Bounds, Evasion};

pub(super) const EVASIONS: &[Evasion] = &[
    Evasion {
        name: "block_written_below_ext4",
        needs: &[Root, MountNamespace, Ext4],
        bounds: Bounds::READ,
        test: |mode, bound| raw_write(Kind::Ext4, mode, bound),
    },
    Evasion {
        name: "block_written_below_xfs",
        needs: &[Root, MountNamespace, Xfs],
        bounds: Bounds::READ,
        test: |mode, bound| raw_write(Kind::Xfs, mode, bound),
    },
    Evasion {
        name: "block_written_below_btrfs",
        needs: &[Root, MountNamespace, Btrfs],
        bounds: Bounds::READ,
        test: |mode, bound| raw_write(Kind::Btrfs, mode, bound),
    },
    Evasion {
        name: "block_written_below_an_overlay",
        needs: &[Root, MountNamespace, Ext4, Overlay],
        bounds: Bounds::READ.on_an_overlay(),
        test: below_an_overlay,
    },
    Evasion {
        name: "page_cache_unlike_the_device",
        needs: &[Root, MountNamespace, Ext4],
        bounds: Bounds::READ,
        test: poisoned,
    },
    Evasion {
        name: "device_changed_while_unmounted",
        needs: &[Root, MountNamespace, Ext4],
        bounds: Bounds::READ,
        test: while_unmounted,
    },
    Evasion {
        name: "change_time_forged_on_the_device",
        needs: &[Root, MountNamespace, Ext4],
        bounds: Bounds::READ,
        test: forged_time,
    },
];

/// Found once in the image, and what is written there instead.
const MARKER: &[u8] = b"Zq8-the sealed program-4Kx";
const EVIL: &[u8] = b"Zq8-the other program!-4Kx";

/// A file system with one file of more than a block, not a multiple of it, so that it lies in blocks of its own.
struct Stage {
    disk: Disk,
    tree: Tree,
}

impl Stage {
    fn new(sandbox: &Sandbox, kind: Kind) -> Result<Self> {
        let disk = Disk::new(kind, sandbox.path("image"), sandbox.path("disk"))?;
        let tree = Tree::create(sandbox.path("disk/tree"))?;
        let mut content = MARKER.to_vec();
        content.resize(300_001, b'x');
        tree.file("bin/app", content)?.file("etc/app.toml", "level = 1\n")?;
        Ok(Self { disk, tree })
    }

    fn block(&self) -> Result<Block> {
        self.disk.find(MARKER)
    }
}

fn begins_with(file: &Path, bytes: &[u8]) -> Result<bool> {
    Ok(fs::read(file)?.starts_with(bytes))
}

fn raw_write(kind: Kind, mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let Stage { disk, tree } = Stage::new(&sandbox, kind)?;
    let block = disk.find(MARKER)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let file = tree.path("bin/app");
    ensure!(begins_with(&file, MARKER)?, "now it is cached");
    let expected = match kind {
        Kind::Ext4 | Kind::Xfs => Drift::changed("bin/app", &["content"]),
        // Its checksum is not as it was.
        Kind::Btrfs => Drift::unverifiable("bin/app"),
    };
    let cached = file.clone();
    watched.finds(|_| disk.write(block, EVIL), &[expected])?;
    ensure!(begins_with(&cached, MARKER)?, "who reads it as programs do sees nothing");
    Ok(())
}

fn below_an_overlay(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let Stage { disk, tree } = Stage::new(&sandbox, Kind::Ext4)?;
    let block = disk.find(MARKER)?;
    let merged = super::mount::overlay(&sandbox, tree.root(), &sandbox.path("disk"))?;
    ensure!(begins_with(&merged.path().join("bin/app"), MARKER)?, "now it is cached");
    let mut watched = Watched::start(sandbox, merged.path(), mode, bound)?;
    watched.finds(|_| disk.write(block, EVIL), &[Drift::changed("bin/app", &["content"])])
}

/// What "Dirty Pipe" (CVE-2022-0847) and its like leave behind: the cached pages are others, the device is as it was, no time
/// has moved. Here the device is changed and changed back, and is read in between.
fn poisoned(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let Stage { disk, tree } = Stage::new(&sandbox, Kind::Ext4)?;
    let block = disk.find(MARKER)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let file = tree.path("bin/app");
    let size = file.metadata()?.len();
    let change = |watched: &mut Watched| {
        watched.signal(Signal::SIGSTOP)?;
        eventually("the page cache to keep what the device had", || {
            disk.write(block, EVIL)?;
            page_cache::evict(&file, 0..size)?;
            ensure!(begins_with(&file, EVIL)?, "it is read from the device");
            disk.write(block, MARKER)?;
            // The agent takes with it what it brought in, if it was not stopped yet.
            ensure!(begins_with(&file, EVIL)?, "it was read again");
            Ok::<_, anyhow::Error>(())
        })?;
        watched.signal(Signal::SIGCONT)
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}

fn while_unmounted(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let stage = Stage::new(&sandbox, Kind::Ext4)?;
    let (disk, block) = (&stage.disk, stage.block()?);
    let mut watched = Watched::start(sandbox, stage.tree.root(), mode, bound)?;
    let change = |watched: &mut Watched| {
        watched.stop()?;
        disk.unmount()?;
        disk.write(block, EVIL)?;
        disk.mount()?;
        watched.resume()
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}

/// Written as any program writes, and then every time put back, that of the inode's change too.
fn forged_time(mode: Mode, bound: Bound) -> Result<()> {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let sandbox = Sandbox::new()?;
    let Stage { disk, tree } = Stage::new(&sandbox, Kind::Ext4)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let file = tree.path("bin/app");
    let before = file.metadata()?;
    let change = |watched: &mut Watched| {
        watched.stop()?;
        File::options().write(true).open(&file)?.write_all_at(EVIL, 0)?;
        disk.unmount()?;
        // Beside the seconds lie the nanoseconds, above two bits for years beyond 2038 (Documentation/filesystems/ext4).
        let times = [("ctime", before.ctime(), before.ctime_nsec()), ("mtime", before.mtime(), before.mtime_nsec())];
        let requests = times.map(|(field, seconds, nanos)| {
            let set = "set_inode_field /tree/bin/app";
            format!("{set} {field} @{seconds}\n{set} {field}_extra {}\n", nanos << 2)
        });
        disk.edit(&requests.concat())?;
        disk.mount()?;
        let after = file.metadata().context("mounted again")?;
        let moment = |of: &fs::Metadata| [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()];
        ensure!(moment(&after) == moment(&before), "{:?} is not {:?}", moment(&after), moment(&before));
        ensure!((after.ino(), after.dev()) == (before.ino(), before.dev()), "the same inode of the same device");
        watched.resume()
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}
