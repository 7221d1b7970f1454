//! Through a mapping that was there before: a store into a page that is dirty already moves no time and gives no event.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use driftlock_tests::disk::{Disk, Kind};
use driftlock_tests::drift::Drift;
use driftlock_tests::mapped::Mapped;
use driftlock_tests::namespace;
use driftlock_tests::require::Requirement::{Ext4, MountNamespace, Root};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::watched::{Bound, Mode, Watched};

use super::{Bounds, Evasion};

pub(super) const EVASIONS: &[Evasion] = &[
    Evasion {
        name: "store_through_a_held_mapping_on_tmpfs",
        needs: &[Root, MountNamespace],
        bounds: Bounds::READ,
        test: |mode, bound| {
            let sandbox = Sandbox::new()?;
            fs::create_dir(sandbox.path("memory"))?;
            namespace::tmpfs(&sandbox.path("memory"))?;
            let root = sandbox.path("memory/tree");
            let result = store(sandbox, &root, mode, bound);
            namespace::unmount(root.parent().unwrap_or(&root))?;
            // Nothing writes the page back, so that it stays dirty.
            ensure!(result?, "a time moved: this shows nothing");
            Ok(())
        },
    },
    Evasion {
        name: "store_through_a_held_mapping_on_ext4",
        needs: &[Root, MountNamespace, Ext4],
        bounds: Bounds::READ,
        test: |mode, bound| {
            let sandbox = Sandbox::new()?;
            let _disk = Disk::new(Kind::Ext4, sandbox.path("image"), sandbox.path("disk"))?;
            let root = sandbox.path("disk/tree");
            // Reading the device cleans the page, and the kernel does after a while: then a time may move.
            store(sandbox, &root, mode, bound).map(drop)
        },
    },
];

/// Whether no time moved.
fn store(sandbox: Sandbox, root: &Path, mode: Mode, bound: Bound) -> Result<bool> {
    let tree = Tree::create(root.to_owned())?;
    tree.file("mapped", "sealed")?.file("other", "other")?;
    let mut mapped = Mapped::open(&tree.path("mapped"))?;
    mapped.store(b's')?;
    let mut watched = Watched::start(sandbox, root, mode, bound)?;
    let moment = || {
        let stat = fs::metadata(tree.path("mapped"))?;
        Ok::<_, anyhow::Error>([stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()])
    };
    let before = moment()?;
    let mut same = false;
    let change = |_: &mut Watched| {
        mapped.store(b'S')?;
        ensure!(fs::read(tree.path("mapped"))? == b"Sealed", "the store is there to be read");
        same = moment()? == before;
        Ok(())
    };
    watched.finds(change, &[Drift::changed("mapped", &["content"])])?;
    Ok(same)
}
