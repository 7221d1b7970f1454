//! Written so that no file is closed, or by its path without being opened.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::watched::{Bound, Mode, Watched};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Bounds, Evasion};

const fn evasion(name: &'static str, test: fn(Mode, Bound) -> Result<()>) -> Evasion {
    Evasion { name, needs: super::NAMESPACE, bounds: Bounds::HELD, test }
}

pub(super) const EVASIONS: &[Evasion] = &[
    evasion("write_through_a_descriptor_held_open", |mode, bound| {
        held(mode, bound, |file| Ok(file.write_all_at(b"E", 0)?))
    }),
    evasion("truncation_through_a_descriptor_held_open", |mode, bound| held(mode, bound, |file| Ok(file.set_len(3)?))),
    evasion("hole_punched_through_a_descriptor_held_open", |mode, bound| {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        held(mode, bound, |file| Ok(fallocate(file, hole, 0, 3)?))
    }),
    evasion("truncation_by_path", by_path),
];

fn tree(sandbox: &Sandbox) -> Result<Tree> {
    let tree = sandbox.tree("tree")?;
    tree.file("bin/app", "sealed")?.file("etc/app.toml", "level = 1\n")?;
    Ok(tree)
}

/// Opened before anything was watched, and not closed.
fn held(mode: Mode, bound: Bound, write: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let file = File::options().write(true).open(tree.path("bin/app"))?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    watched.finds(|_| write(&file), &[Drift::changed("bin/app", &["content"])])?;
    drop(file);
    Ok(())
}

fn by_path(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let change = |_: &mut Watched| {
        nix::unistd::truncate(&tree.path("bin/app"), 3)?;
        ensure!(fs::read(tree.path("bin/app"))? == b"sea");
        Ok(())
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}
