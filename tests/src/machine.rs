//! Owns machines under test: a Debian of its own on which the real systemd runs, in a container of systemd-nspawn that has
//! the network of this machine. It ends with its test, whatever happens. Must not own what runs on it.
//!
//! The root it is copied from is made once for a machine and kept outside the checkout.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::debian::{SUITE, fixtures, mirror, run};
use crate::image::sha256;
use crate::sandbox::{Finished, Sandbox};
use crate::wait::eventually;

/// Changes whenever this file makes another root.
const RECIPE: &str = "1";

/// What is installed beside what every Debian has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A systemd, and nothing that does anything by itself.
    Plain,
    /// What a server has and what changes files on it: cron, logrotate, OpenSSH, Python, two pagers to choose from.
    Server,
}

/// What would change the root while a test looks at it.
const MASKED: [&str; 5] =
    ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"];
/// The same on a server, and what would listen on this machine's network.
const MASKED_ON_SERVERS: [&str; 3] = ["logrotate.timer", "ssh.service", "ssh.socket"];

/// A Debian root of a test, not running. Removed when dropped.
#[derive(Debug)]
pub struct Root {
    dir: TempDir,
}

/// A running machine. Killed when dropped.
#[derive(Debug)]
pub struct Machine {
    nspawn: Child,
    leader: Pid,
    name: String,
    sandbox: Sandbox,
    // The last to go.
    root: Root,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "machine",
            Self::Server => "server",
        }
    }

    const fn packages(self) -> &'static str {
        match self {
            Self::Plain => "systemd,systemd-sysv,dbus",
            Self::Server => "systemd,systemd-sysv,dbus,cron,less,logrotate,openssh-server,python3-minimal",
        }
    }

    const fn masked(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Server => &MASKED_ON_SERVERS,
        }
    }
}

impl Root {
    /// A fresh one for a plain machine.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        Self::of(Role::Plain)
    }

    /// A fresh one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn of(role: Role) -> Result<Self> {
        let base = base(role)?;
        let dir = tempfile::Builder::new().prefix("driftlock-machine-").tempdir()?;
        let root = Self { dir };
        run(Command::new("cp").args(["-a", "--reflink=auto", "--no-target-directory"]).arg(base).arg(root.path()))?;
        Ok(root)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// What no other machine is called.
    fn name(&self) -> Result<String> {
        Ok(self.dir.path().file_name().context("a name")?.to_string_lossy().replace('.', ""))
    }

    /// The path of a file in it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// Runs a line of shell in it, without a systemd, as whoever prepares an image does.
    ///
    /// # Errors
    /// If it does not end with 0.
    pub fn shell(&self, line: &str) -> Result<()> {
        let name = self.name()?;
        let mut command = Command::new("systemd-nspawn");
        command.args(["--register=no", "--keep-unit", "--as-pid2", "--pipe", "--quiet", "--machine", &name]);
        command.arg("--directory").arg(self.path()).args(["sh", "-euc", line]);
        let ran = run(command.stdin(Stdio::null()));
        forget(&name);
        ran
    }

    /// Starts its systemd and waits until everything is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn boot(self) -> Result<Machine> {
        let name = self.name()?;
        let mut command = Command::new("systemd-nspawn");
        command.args(["--boot", "--register=no", "--keep-unit", "--console=pipe", "--quiet", "--machine"]).arg(&name);
        command.arg("--directory").arg(self.path());
        let log = fs::File::create(self.dir.path().join("console"))?;
        let nspawn = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("nspawn")?;
        let mut machine = Machine { leader: Pid::from_raw(0), nspawn, name, sandbox: Sandbox::new()?, root: self };
        machine.come_up().with_context(|| machine.console())?;
        Ok(machine)
    }
}

impl Machine {
    /// Its root, seen from outside: what is written there is there.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The path from outside of what it has at `path`, mounted there or not.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Runs a command on it, as its root, to its end.
    ///
    /// # Errors
    /// If it cannot be started or does not end.
    pub fn try_run<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Result<Finished> {
        let leader = self.leader.to_string();
        let enter = ["--target", &leader, "--mount", "--uts", "--ipc", "--pid", "--root", "--wd", "--"];
        let mut arguments: Vec<std::ffi::OsString> = enter.iter().map(Into::into).collect();
        arguments.extend(command.into_iter().map(|argument| argument.as_ref().to_owned()));
        self.sandbox.command(Path::new("nsenter"), arguments).env("TMPDIR", "/tmp").env("HOME", "/root").run()
    }

    /// As [`Machine::try_run`]; what it wrote, without the last line's end.
    ///
    /// # Errors
    /// If it does not end with 0.
    pub fn run<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Result<String> {
        let finished = self.try_run(command)?.expect(0)?;
        Ok(finished.text()?.trim_end().to_owned())
    }

    /// Runs a line of shell.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn shell(&self, line: &str) -> Result<String> {
        self.run(["sh", "-euc", line])
    }

    /// A property of a unit, as `systemctl show` says it.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        self.run(["systemctl", "show", "--value", "--property", property, unit])
    }

    /// The state of a unit: `active`, `inactive`, `failed`.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn state(&self, unit: &str) -> Result<String> {
        self.property(unit, "ActiveState")
    }

    /// The main process of a unit.
    ///
    /// # Errors
    /// If it has none.
    pub fn main_pid(&self, unit: &str) -> Result<String> {
        let pid = self.property(unit, "MainPID")?;
        ensure!(pid != "0", "{unit} does not run: {}", self.journal(unit)?);
        Ok(pid)
    }

    /// Copies a file of this machine to it.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy(&self, file: &Path, to: &str) -> Result<()> {
        fs::copy(file, self.root.at(to)).with_context(|| format!("{} to {to}", file.display()))?;
        Ok(())
    }

    /// What a unit said.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.run(["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    fn come_up(&mut self) -> Result<()> {
        let parent = self.nspawn.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        let leader = eventually("the machine's first process", || {
            let children = fs::read_to_string(&children)?;
            let first = children.split_whitespace().next().context("no process yet")?;
            // nspawn's own helper comes before it and is followed by it.
            ensure!(fs::read_to_string(format!("/proc/{first}/comm"))?.trim() == "systemd", "not systemd yet");
            Ok::<i32, anyhow::Error>(first.parse()?)
        })?;
        self.leader = Pid::from_raw(leader);
        eventually("the machine to be up", || {
            let said = self.try_run(["systemctl", "is-system-running"])?;
            match said.text()?.trim() {
                "running" => Ok(()),
                state => bail!("{state}: {}", self.try_run(["systemctl", "--failed", "--no-legend"])?.text()?),
            }
        })
    }

    fn console(&self) -> String {
        fs::read_to_string(self.root.dir.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process ends with nspawn, all others with that one. Either may be gone already.
        if self.leader.as_raw() > 0 {
            let _ended = kill(self.leader, Signal::SIGKILL);
        }
        let _ended = self.nspawn.kill();
        let _reaped = self.nspawn.wait();
        forget(&self.name);
        let _absent = fs::remove_file(self.root.dir.path().join(".#root.lck"));
    }
}

/// Takes away what nspawn leaves where it is not the only one of its kind.
fn forget(name: &str) {
    let _absent = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(name));
}

/// The root that all of a role are copied from.
fn base(role: Role) -> Result<PathBuf> {
    let mirror = mirror().context("no Debian mirror in /etc/apt")?;
    let fixtures = fixtures()?;
    let name = role.name();
    let key = sha256(format!("{name} {RECIPE} {SUITE} {mirror}").as_bytes());
    let place = fixtures.join(format!("{name}-{SUITE}-{}", &key[..16]));
    if !place.exists() {
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(&fixtures)?;
        let made = work.path().join("root");
        let include = format!("--include={}", role.packages());
        run(Command::new("debootstrap").args(["--variant=minbase", &include, SUITE]).arg(&made).arg(mirror))?;
        fs::remove_dir_all(made.join("var/cache/apt"))?;
        fs::remove_dir_all(made.join("var/lib/apt/lists"))?;
        for unit in MASKED.iter().chain(role.masked()) {
            symlink("/dev/null", made.join("etc/systemd/system").join(unit))?;
        }
        // Whole or not at all. If another test was faster, its root serves as well.
        if let Err(error) = fs::rename(&made, &place) {
            ensure!(place.exists(), "{}: {error}", place.display());
        }
    }
    Ok(place)
}
