//! Under another name: through links, by names that change places, and where no path is long enough to reach.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::watched::{Bound, Mode, Watched};
use rustix::fs::{CWD, Mode as Permissions, OFlags, RenameFlags, mkdirat, openat, renameat_with};

use super::{Bounds, Evasion};

const fn evasion(name: &'static str, bounds: Bounds, test: fn(Mode, Bound) -> Result<()>) -> Evasion {
    Evasion { name, needs: super::NAMESPACE, bounds, test }
}

pub(super) const EVASIONS: &[Evasion] = &[
    evasion("write_through_a_hard_link_made_before", Bounds::FOREIGN, linked_before),
    evasion("write_through_a_hard_link_made_while_watched", Bounds::FOREIGN, linked_while_watched),
    evasion("two_files_exchanged", Bounds::HINTED, exchanged),
    evasion("directory_replaced_by_a_symlink", Bounds::HINTED, swapped),
    evasion("directory_changed_elsewhere_and_moved_back", Bounds::HINTED, moved_back),
    evasion("change_deeper_than_any_path_reaches", Bounds::HINTED, deep),
];

fn tree(sandbox: &Sandbox) -> Result<Tree> {
    let tree = sandbox.tree("tree")?;
    tree.file("bin/app", "sealed")?.file("bin/other", "as long")?.file("etc/app.toml", "level = 1\n")?;
    Ok(tree)
}

fn outside(sandbox: &Sandbox) -> Result<PathBuf> {
    fs::create_dir(sandbox.path("outside"))?;
    Ok(sandbox.path("outside/link"))
}

fn linked_before(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let link = outside(&sandbox)?;
    fs::hard_link(tree.path("bin/app"), &link)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    write_through(&mut watched, &link)
}

fn linked_while_watched(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let link = outside(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    fs::hard_link(tree.path("bin/app"), &link)?;
    write_through(&mut watched, &link)
}

fn write_through(watched: &mut Watched, link: &Path) -> Result<()> {
    watched.finds(|_| Ok(fs::write(link, "SEALED")?), &[Drift::changed("bin/app", &["content"])])
}

fn exchanged(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let [one, other] = ["bin/app", "bin/other"].map(|path| tree.path(path));
    let change = |_: &mut Watched| Ok(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)?);
    watched.finds(change, &["bin/app", "bin/other"].map(|path| Drift::changed(path, &["content"])))
}

/// Whoever opens `bin/app` gets another file.
fn swapped(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let evil = sandbox.path("evil");
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let bin = tree.path("bin");
    let change = |_: &mut Watched| {
        fs::rename(&bin, &evil)?;
        symlink(&evil, &bin)?;
        ensure!(fs::read(tree.path("bin/app"))? == b"sealed", "by its path all is as it was");
        Ok(())
    };
    let expected = [Drift::changed("bin", &["type"]), Drift::removed("bin/app"), Drift::removed("bin/other")];
    watched.finds(change, &expected)
}

/// What is in it was changed where nobody watched.
fn moved_back(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let elsewhere = sandbox.path("elsewhere");
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let change = |_: &mut Watched| {
        fs::rename(tree.path("bin"), &elsewhere)?;
        tamper::content_under_old_size_and_time(&elsewhere, "app")?;
        Ok(fs::rename(&elsewhere, tree.path("bin"))?)
    };
    // It was away for a moment, in which it may have been looked for.
    watched.finds_at_last(change, &[Drift::changed("bin/app", &["content"])])
}

fn deep(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let name = "n".repeat(200);
    let path = vec![name.as_str(); 25].join("/");
    ensure!(path.len() > 4096, "{} bytes are no path that is too long", path.len());
    let none = Permissions::empty();
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut deepest = openat(CWD, tree.root(), directory, none)?;
    for _ in 0..25 {
        mkdirat(&deepest, &name, Permissions::from_raw_mode(0o755))?;
        deepest = openat(&deepest, &name, directory, none)?;
    }
    let write = |file: &str, content: &[u8]| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(&deepest, file, flags, Permissions::from_raw_mode(0o644))?;
        ensure!(rustix::io::write(file, content)? == content.len());
        Ok(())
    };
    write("sealed", b"sealed")?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let at = |file: &str| format!("{path}/{file}");
    let change = |_: &mut Watched| {
        write("sealed", b"SEALED")?;
        write("added", b"added")?;
        tamper::append(tree.root(), "etc/app.toml").map(drop)
    };
    let expected = [
        Drift::changed(at("sealed"), &["content"]),
        Drift::added(at("added")),
        Drift::changed("etc/app.toml", &["content"]),
    ];
    watched.finds(change, &expected)
}
