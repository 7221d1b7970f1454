//! By mounts: what lies over a sealed path hides it, and the layers of an overlay can be changed behind its back.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::disk::{Disk, Kind};
use driftlock_tests::drift::Drift;
use driftlock_tests::namespace;
use driftlock_tests::require::Requirement::{Ext4, MountNamespace, Overlay, Root};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use driftlock_tests::watched::{Bound, Mode, Watched};

use super::{Bounds, Evasion, NAMESPACE};

pub(super) const EVASIONS: &[Evasion] = &[
    Evasion {
        name: "file_mounted_over",
        needs: NAMESPACE,
        bounds: Bounds::MOUNTED,
        test: |mode, bound| over("bin/app", "evil", mode, bound),
    },
    Evasion {
        name: "directory_mounted_over",
        needs: NAMESPACE,
        bounds: Bounds::MOUNTED,
        test: |mode, bound| over("bin", "evil.d", mode, bound),
    },
    Evasion { name: "root_mounted_over", needs: NAMESPACE, bounds: Bounds::MOUNTED, test: over_the_root },
    Evasion {
        name: "write_through_a_mount_elsewhere",
        needs: NAMESPACE,
        bounds: Bounds::HINTED,
        test: through_another,
    },
    Evasion {
        name: "upper_layer_of_an_overlay_changed",
        needs: &[Root, MountNamespace, Ext4, Overlay],
        bounds: Bounds::SHOWN.on_an_overlay(),
        test: |mode, bound| layer("upper", mode, bound),
    },
    Evasion {
        name: "lower_layer_of_an_overlay_changed",
        needs: &[Root, MountNamespace, Ext4, Overlay],
        bounds: Bounds::SHOWN.on_an_overlay(),
        test: |mode, bound| layer("lower", mode, bound),
    },
];

fn tree(sandbox: &Sandbox) -> Result<Tree> {
    let tree = sandbox.tree("tree")?;
    tree.file("bin/app", "sealed")?.file("etc/app.toml", "level = 1\n")?;
    sandbox.write("evil", "evil")?;
    sandbox.write("evil.d/app", "evil")?;
    Ok(tree)
}

/// A mount. Gone when dropped.
pub(super) struct Mount(PathBuf);

impl Mount {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The namespace ends with the test anyway, but the sandbox is removed before that.
        let _unmounted = namespace::unmount(&self.0);
    }
}

fn over(path: &str, by: &str, mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let by = sandbox.path(by);
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let at = Mount(tree.path(path));
    let change = |_: &mut Watched| {
        namespace::bind(&by, at.path())?;
        ensure!(fs::read(tree.path("bin/app"))? == b"evil", "who opens it gets another");
        Ok(())
    };
    watched.finds(change, &[Drift::unverifiable(path)])
}

/// The same directory under another path, in a mount namespace that the agent is not in.
fn through_another(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let (elsewhere, bin) = (sandbox.path("elsewhere"), tree.path("bin"));
    fs::create_dir(&elsewhere)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let change = |_: &mut Watched| {
        namespace::within(|| {
            namespace::bind(&bin, &elsewhere)?;
            Ok(fs::write(elsewhere.join("app"), "SEALED")?)
        })
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}

/// No path is said to be changed or gone: nothing of the tree can be told any more, and that is said.
fn over_the_root(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let at = Mount(tree.root().to_owned());
    watched.finds(|_| namespace::tmpfs(at.path()), &[Drift::unverifiable("")])?;
    eventually("that the root is lost and why is said", || {
        let events = watched.events();
        let opened = |event: &&serde_json::Value| event["type"] == "dev.driftlock.condition.opened.v1";
        let reasons: BTreeSet<_> =
            events.iter().filter(opened).filter_map(|event| event["data"]["reason"].as_str()).collect();
        ensure!(reasons == BTreeSet::from(["mount_over", "root_lost"]), "{reasons:?}");
        Ok::<_, anyhow::Error>(())
    })
}

/// An overlay of the directory `lower`, with what it needs in `place`, of the same file system.
pub(super) fn overlay(sandbox: &Sandbox, lower: &Path, place: &Path) -> Result<Mount> {
    let [upper, work] = ["upper", "work"].map(|name| place.join(name));
    let merged = sandbox.path("merged");
    for directory in [&upper, &work, &merged] {
        fs::create_dir_all(directory)?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mounted = Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&merged).status();
    ensure!(mounted.context("mount")?.success(), "an overlay");
    Ok(Mount(merged))
}

/// The layers' files are changed where they lie, as a host can that runs a container.
fn layer(changed: &str, mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let place = sandbox.path("disk");
    let _disk = Disk::new(Kind::Ext4, sandbox.path("image"), place.clone())?;
    let lower = Tree::create(place.join("lower"))?;
    lower.file("bin/lower", "sealed")?.file("bin/upper", "to be replaced")?;
    let merged = overlay(&sandbox, lower.root(), &place)?;
    fs::write(merged.path().join("bin/upper"), "sealed")?;
    let file = place.join(changed).join("bin").join(changed);
    ensure!(fs::read(&file)? == b"sealed", "{}", file.display());
    let mut watched = Watched::start(sandbox, merged.path(), mode, bound)?;
    let change = |_: &mut Watched| {
        fs::write(&file, "SEALED")?;
        ensure!(fs::read(merged.path().join("bin").join(changed))? == b"SEALED", "it is seen from inside");
        Ok(())
    };
    watched.finds(change, &[Drift::changed(format!("bin/{changed}"), &["content"])])
}
