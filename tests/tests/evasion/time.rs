//! At the right moment: while nobody looks, or so that no time shows it.

use std::collections::BTreeSet;
use std::fs::{self, File};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::disk::{Disk, Kind};
use driftlock_tests::drift::Drift;
use driftlock_tests::require::Requirement::{Ext4, MountNamespace, Root};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use driftlock_tests::watched::{Bound, Mode, Watched};
use nix::sys::signal::Signal;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::{Bounds, Evasion};

const fn evasion(name: &'static str, bounds: Bounds, test: fn(Mode, Bound) -> Result<()>) -> Evasion {
    Evasion { name, needs: super::NAMESPACE, bounds, test }
}

pub(super) const EVASIONS: &[Evasion] = &[
    evasion("size_and_time_put_back", Bounds::HINTED, time_put_back),
    evasion("change_while_the_agent_is_stopped", Bounds::HINTED, while_stopped),
    evasion("change_while_the_agent_is_down", Bounds::SHOWN, while_down),
    evasion("change_put_back_between_two_looks", Bounds::NEVER, put_back),
    evasion("file_added_and_removed_between_two_looks", Bounds::NEVER, transient),
    Evasion { name: "inode_flag", needs: &[Root, MountNamespace, Ext4], bounds: Bounds::NEVER, test: flag },
];

fn tree(sandbox: &Sandbox) -> Result<Tree> {
    let tree = sandbox.tree("tree")?;
    tree.file("bin/app", "sealed")?.file("etc/app.toml", "level = 1\n")?;
    Ok(tree)
}

fn time_put_back(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let change = |_: &mut Watched| tamper::content_under_old_size_and_time(tree.root(), "bin/app").map(drop);
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}

fn while_stopped(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let change = |watched: &mut Watched| {
        watched.signal(Signal::SIGSTOP)?;
        tamper::content_under_old_size_and_time(tree.root(), "bin/app")?;
        tamper::remove(tree.root(), "etc/app.toml")?;
        watched.signal(Signal::SIGCONT)
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"]), Drift::removed("etc/app.toml")])
}

fn while_down(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let change = |watched: &mut Watched| {
        watched.stop()?;
        tamper::content_under_old_size_and_time(tree.root(), "bin/app")?;
        watched.resume()
    };
    watched.finds(change, &[Drift::changed("bin/app", &["content"])])
}

/// Nothing differs any more when it is looked at, so nothing is raised.
fn put_back(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    watched.signal(Signal::SIGSTOP)?;
    tamper::content_under_old_size_and_time(tree.root(), "bin/app")?;
    fs::write(tree.path("bin/app"), "sealed")?;
    watched.signal(Signal::SIGCONT)?;
    counted(&watched, mode, "put_back")?;
    only_the_next(&mut watched, &tree)
}

fn transient(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = tree(&sandbox)?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    watched.signal(Signal::SIGSTOP)?;
    tamper::add(tree.root(), "bin/evil")?;
    tamper::remove(tree.root(), "bin/evil")?;
    watched.signal(Signal::SIGCONT)?;
    counted(&watched, mode, "transient")?;
    only_the_next(&mut watched, &tree)
}

fn flag(mode: Mode, bound: Bound) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let _disk = Disk::new(Kind::Ext4, sandbox.path("image"), sandbox.path("disk"))?;
    let tree = Tree::create(sandbox.path("disk/tree"))?;
    tree.file("bin/app", "sealed")?.file("etc/app.toml", "level = 1\n")?;
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let file = File::open(tree.path("bin/app"))?;
    let flags = ioctl_getflags(&file)?;
    ioctl_setflags(&file, flags | IFlags::IMMUTABLE)?;
    ensure!(fs::write(tree.path("bin/app"), "x").is_err(), "it cannot be written any more");
    let nothing = only_the_next(&mut watched, &tree);
    ioctl_setflags(&file, flags)?;
    nothing
}

/// Where events tell of it, a heartbeat has a count of what was no finding.
fn counted(watched: &Watched, mode: Mode, what: &str) -> Result<()> {
    if mode == Mode::Sweep {
        return Ok(());
    }
    eventually(&format!("{what} to be counted"), || {
        let events = watched.events();
        let last = events.iter().rfind(|event| event["type"] == "dev.driftlock.agent.heartbeat.v1");
        let coverage = &last.context("a heartbeat")?["data"]["targets"][0]["coverage"];
        ensure!(coverage[what].as_u64().is_some_and(|count| count > 0), "{coverage}");
        Ok::<_, anyhow::Error>(())
    })
}

/// After two more looks at everything, the next change is found, and nothing else was.
fn only_the_next(watched: &mut Watched, tree: &Tree) -> Result<()> {
    watched.wait_for_looks(2)?;
    let next = tamper::append(tree.root(), "etc/app.toml")?;
    watched.eventually_open(&BTreeSet::from([next.clone()]))?;
    let raised = watched.history()?.raised()?;
    ensure!(raised == BTreeSet::from([next.path]), "{raised:?}");
    Ok(())
}
