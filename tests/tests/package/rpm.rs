//! The RPM packages, by rpm and their scripts, in a root with a database of its own.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::machine::Root;
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    let reads = &[Requirement::CargoGenerateRpm, Requirement::Rpm];
    let installs = &[
        Requirement::Root,
        Requirement::CargoGenerateRpm,
        Requirement::Rpm,
        Requirement::Debootstrap,
        Requirement::DebianMirror,
    ];
    vec![
        trial("the_rpm_packages_hold_what_they_should", reads, contents),
        trial("the_rpm_packages_are_installed_upgraded_and_removed", installs, life),
    ]
}

fn package(package: Package, revision: Revision) -> Result<PathBuf> {
    built(Step::Rpm, revision)?.package(package)
}

fn query(package: &Path, format: &str) -> Result<Vec<String>> {
    let arguments =
        ["--query".as_ref(), "--package".as_ref(), "--queryformat".as_ref(), format.as_ref(), package.as_os_str()];
    let said = Sandbox::new()?.command(Path::new("rpm"), arguments).run()?.expect(0)?;
    Ok(said.text()?.lines().map(str::to_owned).collect())
}

fn contents() -> Result<()> {
    let format = "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags} %{FILENAMES}\n]";
    let agent: BTreeSet<String> = query(&package(Package::Agent, Revision::First)?, format)?.into_iter().collect();
    for expected in [
        "-rwxr-xr-x root:root  /usr/bin/driftlock",
        "-rw-r--r-- root:root cn /etc/driftlock/agent.toml",
        "-rw-r--r-- root:root  /usr/lib/systemd/system/driftlock-agent.service",
        "-rw-r--r-- root:root  /usr/lib/sysusers.d/driftlock.conf",
        "-rw-r--r-- root:root d /usr/share/man/man1/driftlock-seal.1",
        "-rw-r--r-- root:root d /usr/share/man/man5/driftlock-agent.toml.5",
        "-rw-r--r-- root:root d /usr/share/man/man7/driftlock-policies.7",
        "-rw-r--r-- root:root  /usr/share/driftlock/policies/container.toml",
        "-rw-r--r-- root:root  /usr/share/driftlock/policies/debian-host.toml",
        "-rw-r--r-- root:root  /usr/share/driftlock/policies/rpm-host.toml",
        "-rw-r--r-- root:root  /usr/share/driftlock/policies/tests/container.toml",
        "-rw-r--r-- root:root  /usr/share/driftlock/policies/tests/debian-host.toml",
        "-rw-r--r-- root:root  /usr/share/driftlock/policies/tests/rpm-host.toml",
        "-rw-r--r-- root:root  /usr/share/bash-completion/completions/driftlock",
        "-rw-r--r-- root:root  /usr/share/zsh/site-functions/_driftlock",
        "-rw-r--r-- root:root  /usr/share/fish/vendor_completions.d/driftlock.fish",
    ] {
        ensure!(agent.contains(expected), "no {expected:?} in {agent:#?}");
    }
    let collector = query(&package(Package::Collector, Revision::First)?, format)?;
    for expected in [
        "-rwxr-xr-x root:root  /usr/bin/driftlock-collector",
        "-rw-r--r-- root:root cn /etc/driftlock-collector/options",
    ] {
        ensure!(collector.iter().any(|file| file == expected), "no {expected:?} in {collector:#?}");
    }
    // Static: no library is required.
    for which in [Package::Agent, Package::Collector] {
        let requires = query(&package(which, Revision::First)?, "[%{REQUIRENAME}\n]")?;
        ensure!(!requires.iter().any(|name| name.contains(".so")), "{requires:?}");
    }
    Ok(())
}

/// A root in which only rpm's own database knows of packages.
struct Rpm {
    root: Root,
    sandbox: Sandbox,
}

impl Rpm {
    fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
        let root = self.root.path();
        let mut all: Vec<_> = ["--root".into(), root.into_os_string()].into();
        all.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        // Its scripts run in the root, which has no directory of the sandbox.
        self.sandbox.command(Path::new("rpm"), all).env("TMPDIR", "/tmp").run()?.expect(0)
    }

    fn upgrade(&self, revision: Revision) -> Result<Finished> {
        let packages = [package(Package::Agent, revision)?, package(Package::Collector, revision)?];
        // What dpkg has installed there, rpm does not know.
        let options = ["--upgrade", "--nodeps"].map(OsStr::new).into_iter();
        self.run(options.chain(packages.iter().map(|package| package.as_os_str())))
    }
}

fn life() -> Result<()> {
    let rpm = Rpm { root: Root::new()?, sandbox: Sandbox::new()? };
    let at = |path: &str| rpm.root.at(path);
    let exists = |path: &str| at(path).symlink_metadata().is_ok();
    let said = rpm.upgrade(Revision::First)?;
    ensure!(said.text()?.contains("systemctl enable --now driftlock-agent"), "says what to do: {said:?}");
    let inside = |command: &str| -> Result<String> {
        let arguments = [at("/").as_os_str(), "sh".as_ref(), "-euc".as_ref(), command.as_ref()].map(OsStr::to_owned);
        let finished = rpm.sandbox.command(Path::new("chroot"), arguments).run()?.expect(0)?;
        Ok(finished.text()?.trim_end().to_owned())
    };
    let owners = inside("stat -c '%a %U:%G' /etc/driftlock-collector/tokens; id -un driftlock; driftlock --version")?;
    let version = concat!("driftlock ", env!("CARGO_PKG_VERSION"));
    ensure!(owners == format!("640 root:driftlock-collector\ndriftlock\n{version}"), "{owners}");

    inside("driftlock policy test /usr/share/driftlock/policies/tests")?;

    // What the operator wrote and what the agent knows survive an upgrade and a removal.
    fs::write(at("/etc/driftlock/agent.toml"), "# the operator's\n")?;
    fs::write(at("/etc/driftlock-collector/tokens"), "web-1 the-token-of-that-host\n")?;
    fs::create_dir_all(at("/var/lib/driftlock"))?;
    fs::write(at("/var/lib/driftlock/host"), "identity\n")?;
    rpm.upgrade(Revision::Second)?;
    let versions = rpm.run(["--query", "--queryformat", "%{RELEASE} ", "driftlock", "driftlock-collector"])?;
    ensure!(versions.text()? == "2 2 ", "{versions:?}");
    let kept = |file: &str| fs::read_to_string(at(file)).with_context(|| file.to_owned());
    ensure!(kept("/etc/driftlock/agent.toml")? == "# the operator's\n", "the configuration was replaced");
    ensure!(kept("/etc/driftlock-collector/tokens")? == "web-1 the-token-of-that-host\n", "the tokens were replaced");
    ensure!(exists("/usr/bin/driftlock") && exists("/usr/bin/driftlock-collector"), "the programs are gone");

    rpm.run(["--erase", "driftlock", "driftlock-collector"])?;
    ensure!(!exists("/usr/bin/driftlock") && !exists("/usr/lib/systemd/system/driftlock-agent.service"), "still there");
    ensure!(kept("/var/lib/driftlock/host")? == "identity\n", "the state was to be kept");
    ensure!(kept("/etc/driftlock/agent.toml.rpmsave")? == "# the operator's\n", "the configuration was to be kept");
    Ok(())
}
