//! A package's life on a machine, by dpkg and its scripts: installed, configured, started, upgraded in mid-watch, removed,
//! installed again, purged.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::{eventually, pass};
use libtest_mimic::Trial;

use crate::host::{AGENT, COLLECTOR, Host, NEEDS, target};

/// The promise of the installed agent, in bytes.
const MAX_INSTALLED: u64 = 10_000_000;

pub(super) fn trials() -> Vec<Trial> {
    let reads = &[Requirement::CargoDeb, Requirement::DpkgDeb];
    vec![
        trial("the_debian_packages_hold_what_they_should_and_no_more", reads, contents),
        trial("the_debian_packages_live_from_installation_to_purge", NEEDS, life),
    ]
}

fn contents() -> Result<()> {
    let files = |package| -> Result<Vec<String>> {
        let deb = built(Step::Deb, Revision::First)?.package(package)?;
        let said = Sandbox::new()?.command(Path::new("dpkg-deb"), ["-c".as_ref(), deb.as_os_str()]).run()?.expect(0)?;
        // -rwxr-xr-x 0/0 9000000 2026-01-01 00:00 ./usr/bin/driftlock
        Ok(said.text()?.lines().filter(|line| line.starts_with('-')).map(str::to_owned).collect())
    };
    let agent = files(Package::Agent)?;
    let size = |line: &String| line.split_whitespace().nth(2).and_then(|size| size.parse().ok()).unwrap_or(u64::MAX);
    let installed: u64 = agent.iter().map(size).fold(0, u64::saturating_add);
    ensure!(installed < MAX_INSTALLED, "{installed} bytes: {agent:#?}");
    for (lines, expected) in [(agent, AGENT_FILES), (files(Package::Collector)?, COLLECTOR_FILES)] {
        let found = lines.iter().map(|line| -> Result<(String, String)> {
            let words: Vec<&str> = line.split_whitespace().collect();
            ensure!(words[1] == "0/0", "{line}");
            Ok((words[5].trim_start_matches("./").to_owned(), words[0].to_owned()))
        });
        let found: BTreeSet<(String, String)> = found.collect::<Result<_>>()?;
        let pages = |path: &str| path.starts_with("usr/share/man/");
        ensure!(found.iter().filter(|(path, _)| pages(path)).count() > 2, "no manual pages: {found:#?}");
        let mode = |path: &str| if path.starts_with("usr/bin/") { "-rwxr-xr-x" } else { "-rw-r--r--" };
        let expected: BTreeSet<_> = expected.iter().map(|path| ((*path).to_owned(), mode(path).to_owned())).collect();
        let found = found.into_iter().filter(|(path, _)| !pages(path)).collect::<BTreeSet<_>>();
        ensure!(found == expected, "found {found:#?}, expected {expected:#?}");
    }
    Ok(())
}

/// Beside manual pages.
const AGENT_FILES: &[&str] = &[
    "etc/driftlock/agent.toml",
    "usr/bin/driftlock",
    "usr/lib/systemd/system/driftlock-agent.service",
    "usr/lib/sysusers.d/driftlock.conf",
    "usr/share/bash-completion/completions/driftlock",
    "usr/share/doc/driftlock/copyright",
    "usr/share/doc/driftlock/examples/fanotify.conf",
    "usr/share/doc/driftlock/examples/process-targets.conf",
    "usr/share/driftlock/policies/container.toml",
    "usr/share/driftlock/policies/debian-host.toml",
    "usr/share/driftlock/policies/rpm-host.toml",
    "usr/share/driftlock/policies/tests/container.toml",
    "usr/share/driftlock/policies/tests/debian-host.toml",
    "usr/share/driftlock/policies/tests/rpm-host.toml",
    "usr/share/fish/vendor_completions.d/driftlock.fish",
    "usr/share/zsh/vendor-completions/_driftlock",
];
const COLLECTOR_FILES: &[&str] = &[
    "etc/driftlock-collector/options",
    "usr/bin/driftlock-collector",
    "usr/lib/systemd/system/driftlock-collector.service",
    "usr/lib/sysusers.d/driftlock-collector.conf",
    "usr/share/bash-completion/completions/driftlock-collector",
    "usr/share/doc/driftlock-collector/copyright",
    "usr/share/fish/vendor_completions.d/driftlock-collector.fish",
    "usr/share/zsh/vendor-completions/_driftlock-collector",
];

fn life() -> Result<()> {
    let host = Host::install()?;
    let machine = &host.machine;
    for unit in [AGENT, COLLECTOR] {
        ensure!(machine.state(unit)? == "inactive", "{unit} was started without a configuration");
        ensure!(machine.try_run(["systemctl", "is-enabled", unit])?.text()?.trim() == "disabled", "{unit} was enabled");
    }
    let verified = machine.try_run(["systemd-analyze", "verify", "--man=no", AGENT, COLLECTOR])?.expect(0)?;
    ensure!(!verified.stderr.contains("driftlock"), "{verified:?}");
    // The policies stand where their cases look for them.
    machine.run(["driftlock", "policy", "test", "/usr/share/driftlock/policies/tests"])?;
    // The examples add to the unit what they say.
    machine.shell(
        "mkdir /etc/systemd/system/driftlock-agent.service.d
        cp /usr/share/doc/driftlock/examples/*.conf /etc/systemd/system/driftlock-agent.service.d
        systemctl daemon-reload",
    )?;
    for set in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        let capabilities = machine.property(AGENT, set)?;
        ensure!(capabilities == "cap_dac_read_search cap_sys_ptrace cap_sys_admin", "{set}: {capabilities}");
    }
    let calls = machine.property(AGENT, "SystemCallFilter")?;
    let calls: Vec<&str> = calls.split(' ').collect();
    for call in ["openat2", "fanotify_init", "fanotify_mark", "open_by_handle_at", "name_to_handle_at"] {
        ensure!(calls.contains(&call), "{call}: {calls:?}");
    }
    for call in ["mount", "pivot_root", "bpf", "reboot"] {
        ensure!(!calls.contains(&call), "{call} is of no use to it");
    }
    machine.shell("rm -r /etc/systemd/system/driftlock-agent.service.d; systemctl daemon-reload")?;

    let owners = "stat -c '%a %U:%G %n' /etc/driftlock /etc/driftlock/agent.toml /etc/driftlock-collector/tokens";
    ensure!(
        machine.shell(owners)?
            == "755 root:root /etc/driftlock\n644 root:root /etc/driftlock/agent.toml\n\
                640 root:driftlock-collector /etc/driftlock-collector/tokens",
        "{}",
        machine.shell(owners)?
    );
    // The default configuration is all right but for what only the operator knows.
    let refused = machine.try_run(["driftlock", "check-config"])?.expect(78)?;
    ensure!(refused.stderr.contains("target") && refused.stderr.lines().count() == 1, "{refused:?}");

    // Configured and started.
    let tree = Tree::create(machine.root().at("/srv/shop"))?;
    for index in 0..40 {
        tree.file(format!("file-{index}"), format!("content of {index}\n"))?;
    }
    machine.run(["driftlock", "seal", "dir:/srv/shop", "-o", "/etc/driftlock/shop.manifest"])?;
    host.start_collector()?;
    host.start_agent(&target("shop", "/srv/shop"))?;
    host.eventually_is("clean")?;
    let owners = "stat -c '%a %U:%G %n' /var/lib/driftlock /var/lib/driftlock-collector";
    ensure!(
        machine.shell(owners)?
            == "700 driftlock:driftlock /var/lib/driftlock\n\
                700 driftlock-collector:driftlock-collector /var/lib/driftlock-collector",
        "{}",
        machine.shell(owners)?
    );
    // It can be asked, by members of its group too.
    let owners = "stat -c '%a %U:%G %n' /run/driftlock /run/driftlock/agent.sock";
    ensure!(
        machine.shell(owners)?
            == "750 driftlock:driftlock /run/driftlock\n660 driftlock:driftlock /run/driftlock/agent.sock",
        "{}",
        machine.shell(owners)?
    );
    machine.run(["driftlock", "wait", "--target", "shop"])?;
    let as_nobody = |groups| ["setpriv", "--reuid=nobody", "--regid=nogroup", groups, "driftlock", "status"];
    let said = machine.try_run(as_nobody("--groups=driftlock"))?.expect(0)?;
    ensure!(said.text()?.contains("shop: as sealed"), "{said:?}");
    machine.try_run(as_nobody("--clear-groups"))?.expect(77)?;
    let mut expected = BTreeSet::from([tamper::content_under_old_size_and_time(tree.root(), "file-0")?]);
    host.eventually_open(&expected)?;
    for unit in [AGENT, COLLECTOR] {
        let pid = machine.main_pid(unit)?;
        machine.run(["systemctl", "reload", unit])?;
        // While it reads, it is "reloading".
        eventually("the reload to end", || {
            let state = machine.state(unit)?;
            ensure!(state == "active", "{state}: {}", machine.journal(unit)?);
            Ok::<_, anyhow::Error>(())
        })?;
        ensure!(machine.main_pid(unit)? == pid, "{}", machine.journal(unit)?);
    }
    eventually("the configuration to be read again", || {
        let said = machine.journal(AGENT)?;
        ensure!(said.contains("configuration reloaded"), "{said}");
        Ok::<_, anyhow::Error>(())
    })?;

    // Both are upgraded while files change.
    let before = (machine.main_pid(AGENT)?, machine.main_pid(COLLECTOR)?);
    let config = fs::read(machine.root().at("/etc/driftlock/agent.toml"))?;
    let during = std::thread::scope(|scope| -> Result<Vec<Drift>> {
        let upgrade = scope.spawn(|| -> Result<()> {
            host.dpkg_install(Package::Agent, Revision::Second)?;
            host.dpkg_install(Package::Collector, Revision::Second)?;
            Ok(())
        });
        let mut drifts = Vec::new();
        for index in 1..39 {
            drifts.push(tamper::append(tree.root(), &format!("file-{index}"))?);
            // So that changes meet every stage of the upgrade.
            pass(Duration::from_millis(50));
        }
        upgrade.join().map_err(|_panic| anyhow::anyhow!("the upgrade panicked"))??;
        Ok(drifts)
    })?;
    expected.extend(during);
    expected.insert(tamper::remove(tree.root(), "file-39")?);
    host.eventually_open(&expected)?;
    ensure!(host.ever_reported()? == expected, "false findings: {:?}", host.ever_reported()?);
    let after = (machine.main_pid(AGENT)?, machine.main_pid(COLLECTOR)?);
    ensure!(before.0 != after.0 && before.1 != after.1, "not started again: {before:?} {after:?}");
    ensure!(fs::read(machine.root().at("/etc/driftlock/agent.toml"))? == config, "the configuration was replaced");
    let version = machine.run(["dpkg-query", "-W", "-f", "${Version}", "driftlock"])?;
    ensure!(version == format!("{}-2", env!("CARGO_PKG_VERSION")), "{version}");

    // Removed: gone but for what is the host's own.
    machine.run(["dpkg", "--remove", "driftlock"])?;
    ensure!(machine.state(AGENT)? == "inactive", "{}", machine.state(AGENT)?);
    let exists = |path: &str| machine.root().at(path).symlink_metadata().is_ok();
    ensure!(!exists("/usr/bin/driftlock") && !exists("/usr/lib/systemd/system/driftlock-agent.service"), "still there");
    let identity = fs::read(machine.root().at("/var/lib/driftlock/host")).context("the state was to be kept")?;
    ensure!(exists("/etc/driftlock/agent.toml") && exists("/etc/driftlock/token"), "configuration was to be kept");

    // Installed again: the same host, which finds what happened meanwhile.
    tree.file("file-0", "content of 0\n")?;
    expected.retain(|drift| drift.path != b"file-0");
    host.dpkg_install(Package::Agent, Revision::Second)?;
    machine.run(["systemctl", "start", AGENT])?;
    host.eventually_open(&expected)?;
    ensure!(fs::read(machine.root().at("/var/lib/driftlock/host"))? == identity, "another host");

    for package in ["driftlock", "driftlock-collector"] {
        machine.run(["dpkg", "--purge", package])?;
    }
    let left = machine.shell("ls -d /etc/driftlock* /var/lib/driftlock* /usr/bin/driftlock* 2>/dev/null || :")?;
    ensure!(left.is_empty(), "left behind: {left}");
    for unit in [AGENT, COLLECTOR] {
        ensure!(machine.state(unit)? == "inactive" && machine.property(unit, "LoadState")? == "not-found", "{unit}");
    }
    Ok(())
}
