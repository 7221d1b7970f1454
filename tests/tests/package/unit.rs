//! The units as they stand: what systemd itself says of them, and that the agent's has nothing that shows it another tree.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use driftlock_tests::binaries::workspace;
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;

/// Exposure, in tenths, that systemd-analyze may at most find: 0 is none, 100 all. The agent cannot have what gives it a
/// mount namespace of its own, and reads everything.
const AGENT: (&str, u32) = ("driftlock-agent.service", 35);
const COLLECTOR: (&str, u32) = ("driftlock-collector.service", 15);

/// systemd.exec(5): options that give a service a mount namespace, other users, another host name, or hide processes. To
/// an agent all of them lie.
const LIES: [&str; 27] = [
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "InaccessiblePaths",
    "LoadCredential",
    "MountAPIVFS",
    "MountFlags",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
];

pub(super) fn trials() -> Vec<Trial> {
    let analyze = &[Requirement::SystemdAnalyze];
    vec![
        trial("systemd_finds_the_units_no_more_exposed_than_promised", analyze, exposure),
        trial("no_option_of_the_agents_unit_shows_it_another_tree", &[], no_lies),
        trial("the_example_for_fanotify_allows_the_calls_that_the_unit_refuses", analyze, fanotify),
    ]
}

fn unit(name: &str) -> PathBuf {
    workspace().join("packaging/systemd").join(name)
}

fn exposure() -> Result<()> {
    for (name, threshold) in [AGENT, COLLECTOR] {
        let judge = |threshold: u32| {
            let options =
                ["security", "--offline=yes", "--no-pager", &format!("--threshold={threshold}")].map(String::from);
            let unit = unit(name).display().to_string();
            Sandbox::new()?.command(Path::new("systemd-analyze"), options.into_iter().chain([unit])).run()
        };
        judge(threshold)?.expect(0)?;
        ensure!(judge(1)?.code != Some(0), "the threshold means nothing here");
    }
    Ok(())
}

/// What watching by fanotify calls beyond what every agent does.
const FANOTIFY: [&str; 4] = ["fanotify_init", "fanotify_mark", "name_to_handle_at", "open_by_handle_at"];

fn fanotify() -> Result<()> {
    let text = fs::read_to_string(unit("fanotify.conf"))?;
    let allowed = text.lines().find_map(|line| line.strip_prefix("SystemCallFilter=")).unwrap_or_default();
    let mut allowed: Vec<&str> = allowed.split(' ').collect();
    allowed.sort_unstable();
    ensure!(allowed == FANOTIFY, "{allowed:?}");
    // What the unit takes away with a set has to be given back; nothing else is privileged about it.
    let set = Sandbox::new()?
        .command(Path::new("systemd-analyze"), ["syscall-filter", "--no-pager", "@privileged", "@system-service"])
        .run()?
        .expect(0)?;
    let known: Vec<&str> = set.text()?.lines().map(str::trim).collect();
    for call in FANOTIFY {
        ensure!(known.contains(&call), "{call} is in no set of the unit: {known:?}");
    }
    Ok(())
}

fn no_lies() -> Result<()> {
    let text = fs::read_to_string(unit(AGENT.0))?;
    let settings: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    ensure!(settings.contains(&"CapabilityBoundingSet"), "no settings were read: {settings:?}");
    for lie in LIES {
        ensure!(!settings.contains(&lie), "{lie} shows the agent another tree");
    }
    Ok(())
}
