//! The first day of a Debian server that was installed from a sealed tree, under `debian-host`: what its own programs change
//! is tolerated, and what somebody changes beside it is found, step by step.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::workspace;
use driftlock_tests::drift::{Drift, Report};
use driftlock_tests::machine::{Role, Root};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::verdict::{Alert, Verdicts};
use libtest_mimic::Trial;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::plant::planted;

const NEEDS: &[Requirement] =
    &[Requirement::Root, Requirement::Debootstrap, Requirement::DebianMirror, Requirement::SystemdNspawn];

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("the_first_day_of_a_debian_server_is_quiet_but_for_what_is_planted", NEEDS, first_day)]
}

/// What an image is freed of before it is sealed: each host makes its own. And a repository without a network.
const PREPARE: &str = r#"
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_* /etc/ld.so.cache /var/cache/ldconfig/aux-cache
rm -rf /var/log/wtmp /var/log/btmp /var/log/lastlog /var/log/private /var/cache/private /var/lib/private
rm -rf /var/lib/systemd/coredump
find /usr/lib/python3* /usr/share/python3 -name __pycache__ -prune -exec rm -r {} +
mkdir -m 700 -p /root/.ssh
mkdir -p /srv/repository
printf 'Package: nothing\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nFilename: ./nothing.deb\nSize: 1\nSHA256: %064d\n' 0 >/srv/repository/Packages
printf 'deb [trusted=yes] file:/srv/repository ./\n' >/etc/apt/sources.list
"#;

/// Something that programs do, which rules tolerate it, and what somebody does beside it.
struct Step {
    name: &'static str,
    line: &'static str,
    rules: &'static [&'static str],
    path: &'static str,
    change: fn(&Path) -> Result<()>,
    alert: fn(&str) -> Alert,
}

/// Before the first boot, as what installs a host does.
const INSTALLED: [Step; 3] = [
    Step {
        name: "identity",
        line: "systemd-machine-id-setup && ssh-keygen -A",
        rules: &["machine-id", "ssh-host-keys"],
        path: "root/.ssh/authorized_keys",
        change: |at| Ok(fs::write(at, "ssh-ed25519 AAAA somebody\n")?),
        alert: |path| Alert::by("logins", "critical", Drift::added(path)),
    },
    Step {
        name: "ldconfig",
        line: "ldconfig",
        rules: &["ld-so-cache", "ldconfig-aux"],
        path: "etc/ld.so.preload",
        change: |at| Ok(fs::write(at, "/var/tmp/hook.so\n")?),
        alert: |path| Alert::by("loader-preload", "critical", Drift::added(path)),
    },
    Step {
        name: "tmpfiles",
        line: "systemd-tmpfiles --create --remove --boot",
        rules: &["private-state", "caches", "systemd-state", "login-records"],
        path: "etc/tmpfiles.d/x.conf",
        change: |at| Ok(fs::write(at, "f /etc/cron.d/x - - - - * * * * * root id\n")?),
        alert: |path| Alert::uncovered(Drift::added(path)),
    },
];

/// While it runs.
const RUNNING: [Step; 10] = [
    Step {
        name: "boot",
        line: "systemctl is-system-running",
        rules: &["systemd-state", "journal"],
        path: "var/log/alternatives.log",
        change: |at| {
            fs::remove_file(at)?;
            Ok(symlink("/dev/null", at)?)
        },
        alert: |path| Alert::by("logs-of-packages", "high", Drift::changed(path, &["type"])),
    },
    Step {
        name: "journald",
        line: "logger one line; journalctl --sync; journalctl --rotate; journalctl --vacuum-size=1M",
        rules: &["journal"],
        path: "var/log/journal/disk",
        change: device,
        alert: |path| Alert::by("devices", "high", Drift::added(path)),
    },
    Step {
        name: "names",
        line: "hostnamectl hostname web-7; timedatectl set-timezone Europe/Berlin",
        rules: &["names", "clock"],
        path: "etc/passwd",
        change: |at| append(at, "toor::0:0::/root:/bin/sh\n"),
        alert: |path| Alert::by("accounts", "high", Drift::changed(path, &["content"])),
    },
    Step {
        name: "alternatives",
        line: "update-alternatives --set pager /bin/more",
        rules: &["alternatives", "alternatives-state"],
        path: "usr/bin/less",
        change: |at| append(at, "\0"),
        alert: |path| Alert::by("programs", "high", Drift::changed(path, &["content"])),
    },
    Step {
        name: "python",
        line: "python3 -c 'import string'; py3compile -p python3-minimal; python3 -m compileall -q /usr/lib/python3.11",
        rules: &["python-bytecode"],
        path: "usr/lib/python3.11/os.py",
        change: |at| append(at, "system('id')\n"),
        alert: |path| Alert::uncovered(Drift::changed(path, &["content"])),
    },
    Step {
        name: "cron and dpkg",
        line: "run-parts /etc/cron.daily; systemctl start dpkg-db-backup.service; touch /var/lib/dpkg/status-old; \
               systemctl start dpkg-db-backup.service",
        rules: &["backups"],
        path: "etc/cron.d/x",
        change: |at| Ok(fs::write(at, "* * * * * root id\n")?),
        alert: |path| Alert::by("schedules", "high", Drift::added(path)),
    },
    Step {
        name: "apt",
        line: "apt-get -q update; apt-cache policy",
        rules: &["apt-lists"],
        path: "var/cache/apt/shell",
        change: set_id,
        alert: |path| Alert::by("apt-lists", "high", Drift::added(path)),
    },
    Step {
        name: "debconf",
        line: "echo 'tzdata tzdata/Areas select Europe' | debconf-set-selections",
        rules: &["dpkg-locks"],
        path: "usr/share/debconf/confmodule",
        change: |at| append(at, "id\n"),
        alert: |path| Alert::uncovered(Drift::changed(path, &["content"])),
    },
    Step {
        name: "temporary files",
        line: "systemctl start systemd-tmpfiles-clean.service; \
               setpriv --reuid nobody --clear-groups mktemp -d /var/tmp/XXXXXX",
        rules: &["temporary"],
        path: "var/tmp/disk",
        change: device,
        alert: |path| Alert::by("temporary", "high", Drift::added(path)),
    },
    Step {
        name: "logrotate",
        line: "systemctl start logrotate.service; logrotate --force /etc/logrotate.conf",
        rules: &["logs-of-packages", "login-records", "service-state"],
        path: "var/log/dpkg.log.1",
        change: |at| {
            let text = fs::read_to_string(at)?;
            let lines = text.lines().enumerate().filter(|(number, _)| *number != 7);
            Ok(fs::write(at, lines.map(|(_, line)| format!("{line}\n")).collect::<String>())?)
        },
        alert: |_| Alert::by("logs-of-packages", "high", Drift::changed("var/log/dpkg.log", &["content"])),
    },
];

/// The disk of every machine, for whoever may write here.
fn device(at: &Path) -> Result<()> {
    Ok(mknod(at, SFlag::S_IFBLK, Mode::from_bits_truncate(0o666), makedev(8, 0))?)
}

/// A shell for everybody, as root.
fn set_id(at: &Path) -> Result<()> {
    fs::write(at, "#!/bin/sh\n")?;
    Ok(fs::set_permissions(at, Permissions::from_mode(0o4755))?)
}

fn append(at: &Path, text: &str) -> Result<()> {
    Ok(File::options().append(true).open(at)?.write_all(text.as_bytes())?)
}

/// The server, seen from outside. What was as sealed is not read again by the next scan, under whichever policy.
struct Server {
    sandbox: Sandbox,
    root: PathBuf,
    manifest: PathBuf,
    state: PathBuf,
}

impl Server {
    fn scan(&self, policy: &[&OsStr]) -> Result<Finished> {
        let mut arguments: Vec<&OsStr> = ["scan", "--format", "ndjson", "--manifest"].map(OsStr::new).to_vec();
        arguments.extend([self.manifest.as_os_str(), "--state".as_ref(), self.state.as_os_str()]);
        arguments.extend(policy);
        arguments.push(self.root.as_os_str());
        self.sandbox.driftlock(arguments).run()
    }

    fn judged(&self) -> Result<Verdicts> {
        let policy = workspace().join("packaging/policies/debian-host.toml");
        Verdicts::of(&self.scan(&["--policy".as_ref(), policy.as_os_str()])?)
    }

    /// After a step: quiet, all of it listed without a policy, and what is planted is found.
    fn check(&self, step: &Step) -> Result<()> {
        let judged = self.judged()?;
        judged.expect([])?;
        for rule in step.rules {
            ensure!(judged.tolerated.values().any(|by| by == rule), "nothing for {rule}: {:#?}", judged.tolerated);
        }
        self.everything_is_listed(&judged)?;
        let seen = planted(&self.root, &self.sandbox.path("aside"), step.path, step.change, || self.judged())?;
        seen.expect([(step.alert)(step.path)])
    }

    /// Without the policy everything is an alert; all that it does not say is what it does not read.
    fn everything_is_listed(&self, judged: &Verdicts) -> Result<()> {
        let bare = Report::from_ndjson(&self.scan(&["--no-policy".as_ref()])?)?;
        ensure!(bare.findings.iter().all(|finding| finding.get("verdict").is_none()), "judged by no policy");
        let unlisted: Vec<_> = judged.report.drifts.iter().filter(|drift| !bare.has(&drift.path)).collect();
        ensure!(unlisted.is_empty(), "listed under the policy alone: {unlisted:?}");
        let unsaid: Vec<_> = bare.drifts.iter().filter(|drift| !judged.report.has(&drift.path)).collect();
        let unread = |drift: &&Drift| **drift == Drift::changed(&drift.path, &["content"]);
        ensure!(unsaid.iter().all(unread), "not said under the policy: {unsaid:?}");
        let unjudged = judged.report.summary["unjudged"]["entries"].as_u64().unwrap_or(0);
        ensure!(unjudged >= unsaid.len() as u64, "{unsaid:?}, but {}", judged.report.summary);
        Ok(())
    }
}

fn first_day() -> Result<()> {
    let machine = Root::of(Role::Server)?;
    machine.shell(PREPARE)?;
    let sandbox = Sandbox::new()?;
    let root = machine.path();
    let manifest = sandbox.seal(format!("dir:{}", root.display()), "server.manifest")?;
    let state = sandbox.path("state");
    let server = Server { sandbox, root, manifest, state };
    let none = server.judged()?;
    ensure!(none.report.drifts.is_empty(), "{:?}", none.report.drifts);
    for step in &INSTALLED {
        machine.shell(step.line).and_then(|()| server.check(step)).with_context(|| step.name)?;
    }
    let machine = machine.boot()?;
    for step in &RUNNING {
        machine.shell(step.line).and_then(|_| server.check(step)).with_context(|| step.name)?;
    }
    Ok(())
}
