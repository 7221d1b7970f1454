//! The packaged agent under its unit sees what a shell of root sees: no option of the unit shows it another tree. And the
//! service manager replaces it when it hangs.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};

use anyhow::{Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::require::trial;
use driftlock_tests::tamper;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;

use crate::host::{AGENT, Host, NEEDS, target};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("the_agent_sees_what_a_shell_of_root_sees_and_is_replaced_when_it_hangs", NEEDS, sight)]
}

/// The capabilities as /proc/PID/status has them: CAP_DAC_READ_SEARCH alone.
const READ_SEARCH: &str = "0000000000000004";

fn sight() -> Result<()> {
    let host = Host::install()?;
    let machine = &host.machine;
    let root = machine.root().path();
    host.start_collector()?;

    // What others may not read: a home and root's own. What sandboxes like to replace: /tmp and /dev.
    fs::create_dir(root.join("home/alice"))?;
    for (file, owner) in [("home/alice/private", 1000), ("root/private", 0)] {
        fs::write(root.join(file), "private\n")?;
        fs::set_permissions(root.join(file), Permissions::from_mode(0o600))?;
        chown(root.join(file), Some(owner), Some(owner))?;
    }
    chown(root.join("home/alice"), Some(1000), Some(1000))?;
    fs::set_permissions(root.join("home/alice"), Permissions::from_mode(0o700))?;
    machine.shell("echo tmp > /tmp/file; mkdir -m 700 /dev/hidden; echo dev > /dev/hidden/file")?;
    // Sealed by the packaged program in a shell of root: the truth.
    let mut targets = String::new();
    for (name, source, excludes) in [
        // What is mounted into the root is looked at as a target of its own, or is no file at all.
        ("all", "/", &["dev", "proc", "run", "sys", "tmp", "var", "etc/driftlock", "etc/systemd"][..]),
        ("home", "/home", &[]),
        ("tmp", "/tmp", &[]),
        ("dev", "/dev", &["hugepages", "mqueue", "pts", "shm"]),
    ] {
        let excludes: String = excludes.iter().map(|path| format!(" --exclude {path}")).collect();
        machine.shell(&format!("driftlock seal dir:{source} -o /etc/driftlock/{name}.manifest{excludes}"))?;
        targets += &target(name, source);
    }
    host.start_agent(&targets)?;
    host.eventually_is("clean")?;

    // It is as little as it says, and where the first process is.
    let pid = machine.main_pid(AGENT)?;
    let status = machine.shell(&format!("cat /proc/{pid}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
    for (name, expected) in
        [("CapEff:", READ_SEARCH), ("CapBnd:", READ_SEARCH), ("NoNewPrivs:", "1"), ("Seccomp:", "2")]
    {
        ensure!(field(name).as_deref() == Some(expected), "{name} is not {expected}\n{status}");
    }
    let user = machine.shell(&format!("stat -c %U:%G /proc/{pid}"))?;
    ensure!(user == "driftlock:driftlock", "runs as {user}");
    let namespaces = machine.shell(&format!("readlink /proc/1/ns/mnt /proc/{pid}/ns/mnt"))?;
    ensure!(namespaces.lines().collect::<BTreeSet<_>>().len() == 1, "its own mount namespace: {namespaces}");

    // That "clean" could have failed: under a sandbox that is called harmless it is blind, and says where.
    host.drop_in("ProtectSystem=strict")?;
    host.eventually_is("blind")?;
    let hidden = BTreeSet::from(["home", "root"].map(unverifiable));
    host.eventually_open(&hidden)?;
    host.drop_in("WatchdogSec=2s\nRestartSec=100ms")?;
    host.eventually_is("clean")?;

    tamper::append(&root, "home/alice/private")?;
    machine.shell("echo more >> /tmp/file; echo more >> /dev/hidden/file; mknod -m 666 /dev/kmem c 1 2")?;
    let mut expected = BTreeSet::from([
        Drift::changed("home/alice/private", &["content"]),
        Drift::changed("alice/private", &["content"]),
        Drift::changed("file", &["content"]),
        Drift::changed("hidden/file", &["content"]),
        Drift::added("kmem"),
        tamper::append(&root, "root/private")?,
        tamper::setuid(&root, "usr/bin/true")?,
    ]);
    host.eventually_open(&expected)?;

    // It hangs; what is changed meanwhile is found by the one that takes its place.
    let pid = machine.main_pid(AGENT)?;
    machine.shell(&format!("kill -STOP {pid}"))?;
    expected.insert(tamper::chmod(&root, "usr/bin/false", 0o777)?);
    eventually("the service manager to replace it", || {
        let now = machine.main_pid(AGENT)?;
        ensure!(now != pid, "still process {pid}");
        Ok::<_, anyhow::Error>(())
    })?;
    host.eventually_open(&expected)?;
    ensure!(machine.property(AGENT, "NRestarts")? == "1", "{}", machine.journal(AGENT)?);
    expected.extend(hidden);
    ensure!(host.ever_reported()? == expected, "something else was reported: {:?}", host.ever_reported()?);
    Ok(())
}

fn unverifiable(path: &str) -> Drift {
    Drift { path: path.into(), change: "unverifiable".to_owned(), attributes: BTreeSet::new() }
}
