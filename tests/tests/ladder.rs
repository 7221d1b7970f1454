//! Which way of watching the real agent gets from a real kernel, and what it says of it: where privileges, watches or the mount
//! table are not as wanted. Belongs here: what takes a namespace of its own to be so.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::binaries::{binaries, workspace};
use driftlock_tests::namespace::{self, within};
use driftlock_tests::process::Stream;
use driftlock_tests::require::{Requirement, run, trial, trial_with};
use driftlock_tests::sandbox::{NOBODY, Sandbox};
use driftlock_tests::tree::Tree;

fn main() -> ExitCode {
    let users = &[Requirement::Namespaces];
    let mounts = &[Requirement::MountNamespace];
    let mut trials = vec![
        trial("a_way_that_was_named_and_cannot_be_had_ends_the_agent", users, named_and_refused),
        trial("the_best_that_can_be_had_is_taken_and_the_better_is_said_to_be_refused", users, next_rung),
        trial("where_watches_run_out_what_matters_most_is_watched", users, few_watches),
    ];
    let rights = &[Requirement::Root];
    trials.push(trial("what_the_unit_and_its_example_grant_is_enough_for_fanotify", rights, packaged_rights));
    for mode in ["fanotify", "inotify"] {
        let name = format!("another_file_system_that_is_part_of_the_root_is_watched_{mode}");
        trials.push(trial_with(name, mounts, move || crossed(mode)));
    }
    for mode in ["fanotify", "inotify", "sweep"] {
        let name = format!("what_is_mounted_over_a_part_is_said_at_once_{mode}");
        trials.push(trial_with(name, mounts, move || mounted_over(mode)));
    }
    run(trials)
}

/// Directories without anything that matters, more than there are watches.
const PLAIN: usize = 300;
/// Watches of a user namespace.
const WATCHES: usize = 100;

/// A sealed tree, and an agent's home for it.
struct Stage {
    // Before the sandbox, which ends last.
    home: AgentHome,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("usr/local/bin/app", "program\n")?.mode("usr/local/bin/app", 0o755)?;
        tree.file("usr/lib/x/libx.so.1", "library\n")?.file("etc/ssl/app.conf", "level = 1\n")?;
        // Before and behind what matters in the order of names, so that neither order favours it.
        for n in 0..PLAIN {
            tree.file(format!("data/{n}/deep/f"), "f")?.file(format!("var/{n}/deep/f"), "f")?;
        }
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        let mut home = AgentHome::new(&sandbox, "h")?.target("app", tree.root(), &manifest);
        home.log = "info,driftlock_agent=debug".to_owned();
        Ok(Self { home, tree, sandbox })
    }

    /// Starts the agent in a user namespace of its own, in which it is root, after `before`.
    fn start_as_nobody(&self, before: &str) -> Result<Agent> {
        let mut command = self.sandbox.bare_command(&PathBuf::from("unshare"));
        let script = format!("{before}\nexec \"$0\" \"$@\"");
        command.args(["--user", "--map-root-user", "sh", "-euc", &script]).arg(&binaries().driftlock);
        self.home.start_by(command)
    }

    fn start(&self) -> Result<Agent> {
        self.home.start(&self.sandbox)
    }

    /// Changes a file and waits for its drift; it must have been found through a hint.
    fn hinted(&self, agent: &mut Agent, path: &str) -> Result<()> {
        let before = agent.process().written(Stream::Stderr);
        self.tree.file(path, "changed\n")?;
        logged(agent, before, &["drift", path])?;
        let log = since(agent, before);
        ensure!(log.contains("occasion=Hint") && !log.contains("occasion=Sweep"), "not found by a hint: {log}");
        Ok(())
    }
}

fn since(agent: &mut Agent, line: usize) -> String {
    let text = agent.process().text(Stream::Stderr);
    text.lines().skip(line).collect::<Vec<_>>().join("\n")
}

/// Waits for a line of the log with all of `words`, at line `from` or behind; the line.
fn logged(agent: &mut Agent, from: usize, words: &[&str]) -> Result<String> {
    let wanted = |line: &str| words.iter().all(|word| line.contains(word)).then(|| line.to_owned());
    agent.process().line_after(Stream::Stderr, from, wanted).with_context(|| format!("{words:?}"))
}

const LOOKED: &[&str] = &["looked at everything"];

fn named_and_refused() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.watch = "fanotify".to_owned();
    let mut agent = stage.start_as_nobody("")?;
    let line = logged(&mut agent, 0, &["driftlock: ", "watch.mode", "target app", "fanotify cannot be used"])?;
    ensure!(line.contains("Operation not permitted") && line.contains("CAP_SYS_ADMIN"), "{line}");
    let code = agent.exit()?;
    ensure!(code == 78, "{code}");
    // A root that is not there says nothing of what could be had.
    fs::rename(stage.tree.root(), stage.sandbox.path("away"))?;
    let mut agent = stage.start_as_nobody("")?;
    logged(&mut agent, 0, &["root_lost"])?;
    agent.kill()
}

fn next_rung() -> Result<()> {
    let stage = Stage::new()?;
    let mut agent = stage.start_as_nobody("")?;
    let refused = logged(&mut agent, 0, &["a better way of watching cannot be had", "fanotify cannot be used"])?;
    ensure!(refused.contains("CAP_SYS_ADMIN"), "{refused}");
    logged(&mut agent, 0, &["watching", "mode=\"inotify\"", "unwatched=0"])?;
    logged(&mut agent, 0, LOOKED)?;
    stage.hinted(&mut agent, "var/7/deep/f")?;
    // No trouble, and nothing to resolve: so it is with most agents.
    let log = agent.process().text(Stream::Stderr);
    ensure!(!log.contains("watch_degraded"), "{log}");
    agent.kill()
}

/// The capabilities of the packaged unit, and of its example.
fn packaged_capabilities(files: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(workspace().join("packaging/systemd").join(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=CAP_"));
        found.push(line.with_context(|| format!("{file} grants nothing"))?.to_lowercase());
    }
    Ok(found)
}

fn packaged_rights() -> Result<()> {
    for (files, mode) in
        [(&["driftlock-agent.service", "fanotify.conf"][..], "fanotify"), (&["driftlock-agent.service"], "inotify")]
    {
        let stage = Stage::new()?;
        let program = stage.sandbox.driftlock_for_everyone()?;
        for dir in [stage.home.config_file().parent(), stage.home.state_dir().parent()].into_iter().flatten() {
            chown(dir, Some(NOBODY), Some(NOBODY))?;
        }
        // Only by its capability can it be read.
        fs::set_permissions(stage.tree.path("etc/ssl"), Permissions::from_mode(0o700))?;
        let granted = packaged_capabilities(files)?;
        let granted: String = granted.iter().map(|name| format!(",+{name}")).collect();
        let mut command = stage.sandbox.bare_command(&PathBuf::from("setpriv"));
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
        command.args(["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}=-all{granted}")));
        command.arg("--no-new-privs").arg(program);
        let mut agent = stage.home.start_by(command)?;
        logged(&mut agent, 0, &["watching", &format!("mode={mode:?}"), "unwatched=0"])?;
        logged(&mut agent, 0, LOOKED)?;
        stage.hinted(&mut agent, "etc/ssl/app.conf")?;
        agent.kill()?;
    }
    Ok(())
}

fn few_watches() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.watch = "inotify".to_owned();
    let mut agent = stage.start_as_nobody(&format!("echo {WATCHES} >/proc/sys/user/max_inotify_watches"))?;
    let wrong = logged(&mut agent, 0, &["watch_degraded", "max_user_watches"])?;
    let all = 1 + 2 + 4 * PLAIN + ["usr", "usr/local", "usr/local/bin", "usr/lib", "usr/lib/x", "etc", "etc/ssl"].len();
    // The root's own place and the agent's configuration take some of them.
    let unwatched: usize = wrong
        .split_once("detail=\"")
        .and_then(|(_, detail)| detail.split_once(' '))
        .and_then(|(count, _)| count.parse().ok())
        .with_context(|| wrong.clone())?;
    ensure!((all - WATCHES..all - WATCHES / 2).contains(&unwatched), "{unwatched} of {all}: {wrong}");
    logged(&mut agent, 0, LOOKED)?;
    for path in ["usr/local/bin/app", "usr/lib/x/libx.so.1", "etc/ssl/app.conf"] {
        stage.hinted(&mut agent, path)?;
    }
    agent.kill()
}

fn mounted_over(mode: &str) -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.watch = mode.to_owned();
    within(|| {
        let mut agent = stage.start()?;
        logged(&mut agent, 0, LOOKED)?;
        let at = stage.tree.path("usr/local/bin");
        let before = agent.process().written(Stream::Stderr);
        namespace::tmpfs(&at)?;
        logged(&mut agent, before, &["mount_over", "path=\"usr/local/bin\"", "tmpfs (none) is mounted there"])?;
        logged(&mut agent, before, &["drift", "usr/local/bin", "change=\"unverifiable\"", "reason=\"mount\""])?;
        // What was there when the agent started is said again: nobody else may have seen it come.
        agent.kill()?;
        let mut agent = stage.start()?;
        logged(&mut agent, 0, LOOKED)?;
        let before = agent.process().written(Stream::Stderr);
        namespace::unmount(&at)?;
        logged(&mut agent, before, &["condition resolved", "mount_over", "path=\"usr/local/bin\""])?;
        logged(&mut agent, before, &["drift resolved", "usr/local/bin"])?;
        // Over the root itself.
        namespace::tmpfs(stage.tree.root())?;
        logged(&mut agent, before, &["mount_over", "path=\"\""])?;
        logged(&mut agent, before, &["root_lost"])?;
        ensure!(!since(&mut agent, before).contains("occasion=Sweep"), "found by a sweep");
        namespace::unmount(stage.tree.root())?;
        logged(&mut agent, before, &["condition resolved", "mount_over", "path=\"\""])?;
        logged(&mut agent, before, &["condition resolved", "root_lost"])?;
        agent.kill()
    })
}

fn crossed(mode: &str) -> Result<()> {
    let mut stage = Stage::new()?;
    stage.home.keys = "mounts = \"cross\"".to_owned();
    stage.home.watch = mode.to_owned();
    within(|| {
        let mut agent = stage.start()?;
        logged(&mut agent, 0, LOOKED)?;
        let at = stage.tree.path("etc/ssl");
        let before = agent.process().written(Stream::Stderr);
        namespace::tmpfs(&at)?;
        // It is looked into, and watched as everything else is.
        logged(&mut agent, before, &["watching", &format!("mode={mode:?}")])?;
        logged(&mut agent, before, &["drift", "etc/ssl/app.conf", "change=\"removed\""])?;
        logged(&mut agent, before, LOOKED)?;
        stage.hinted(&mut agent, "etc/ssl/added")?;
        ensure!(!since(&mut agent, before).contains("mount_over"), "it is part of the root");
        let before = agent.process().written(Stream::Stderr);
        namespace::unmount(&at)?;
        logged(&mut agent, before, &["watching", &format!("mode={mode:?}")])?;
        logged(&mut agent, before, &["drift resolved", "etc/ssl/app.conf"])?;
        logged(&mut agent, before, &["drift resolved", "etc/ssl/added"])?;
        logged(&mut agent, before, LOOKED)?;
        stage.hinted(&mut agent, "etc/ssl/app.conf")?;
        let log = since(&mut agent, 0);
        ensure!(!log.contains("reason=\"overflow\""), "nothing was lost: {log}");
        agent.kill()
    })
}
