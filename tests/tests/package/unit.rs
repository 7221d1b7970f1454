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

fn no_lies() -> Result<()> {
    let text = fs::read_to_string(unit(AGENT.0))?;
    let settings: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    ensure!(settings.contains(&"CapabilityBoundingSet"), "no settings were read: {settings:?}");
    for lie in LIES {
        ensure!(!settings.contains(&lie), "{lie} shows the agent another tree");
    }
    Ok(())
}
