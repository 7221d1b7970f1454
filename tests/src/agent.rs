//! Owns agents under test: a configuration in a sandbox, and the real process that runs with it. Must not own what
//! it reports to.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::binaries::binaries;
use crate::collector::token_of;
use crate::control::Control;
use crate::process::Process;
use crate::sandbox::Sandbox;

/// Where an agent lives: its configuration, its state, its token. Starting it again from here is a restart.
#[derive(Clone, Debug)]
pub struct AgentHome {
    dir: PathBuf,
    id: String,
    /// Each with its name, its root, and its manifest as written.
    targets: Vec<(String, PathBuf, String)>,
    endpoint: Option<SocketAddr>,
    /// Time between sweeps, in seconds.
    pub sweep: u64,
    /// Time in which everything is read again, in seconds.
    pub full: u64,
    /// Time between heartbeats, in seconds.
    pub heartbeat: u64,
    /// Bound of the spool, in MB.
    pub spool: u64,
    /// `auto`, `fanotify`, `inotify` or `sweep`.
    pub watch: String,
    /// Lines of `[limits]`.
    pub limits: String,
    /// What is logged: `DRIFTLOCK_LOG`.
    pub log: String,
    /// Whether every target takes what nobody signed.
    pub unsigned: bool,
    /// Further keys of every target.
    pub keys: String,
    /// Lines of `[control]`.
    pub control: String,
    /// Lines of `[report]` where [`AgentHome::reports_to`] says nothing: of a host that joined.
    pub report: String,
    /// Whole `[[sink]]` sections.
    pub sinks: String,
}

/// A running agent. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl AgentHome {
    /// A home in `sandbox` for the host `id`, with its token.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(sandbox: &Sandbox, id: &str) -> Result<Self> {
        let dir = sandbox.path(format!("agent-{id}"));
        fs::create_dir_all(&dir)?;
        let home = Self {
            dir,
            id: id.to_owned(),
            targets: Vec::new(),
            endpoint: None,
            // Long: what is found in a test is found by watching, unless the test says otherwise.
            sweep: 600,
            full: 86_400,
            heartbeat: 1,
            spool: 64,
            watch: "auto".to_owned(),
            limits: String::new(),
            log: "info".to_owned(),
            unsigned: true,
            keys: String::new(),
            control: String::new(),
            report: String::new(),
            sinks: String::new(),
        };
        fs::write(home.token_file(), token_of(id))?;
        fs::set_permissions(home.token_file(), Permissions::from_mode(0o600))?;
        Ok(home)
    }

    /// Another target.
    #[must_use]
    pub fn target(mut self, name: &str, root: &Path, manifest: &Path) -> Self {
        self.targets.push((name.to_owned(), root.to_owned(), format!("{manifest:?}")));
        self
    }

    /// Another target, whose manifest the collector has.
    #[must_use]
    pub fn collected_target(mut self, name: &str, root: &Path) -> Self {
        self.targets.push((name.to_owned(), root.to_owned(), "\"collector\"".to_owned()));
        self
    }

    /// Another target, of several manifests over each other.
    #[must_use]
    pub fn laid_target(mut self, name: &str, root: &Path, manifests: &[PathBuf]) -> Self {
        self.targets.push((name.to_owned(), root.to_owned(), format!("{manifests:?}")));
        self
    }

    /// Where it reports.
    #[must_use]
    pub const fn reports_to(mut self, collector: SocketAddr) -> Self {
        self.endpoint = Some(collector);
        self
    }

    /// The host's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its socket, where it is unless configured.
    pub fn control(&self) -> Control {
        Control::new(self.state_dir().join("agent.sock"))
    }

    /// The configuration's file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// A second home with a copy of everything: a cloned machine.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn clone_machine(&self, name: &str) -> Result<Self> {
        let dir = self.dir.with_file_name(name);
        let options = ["-a", "--no-target-directory"];
        let status = std::process::Command::new("cp").args(options).arg(&self.dir).arg(&dir).status().context("cp")?;
        anyhow::ensure!(status.success(), "cp: {status}");
        Ok(Self { dir, ..self.clone() })
    }

    /// The configuration's text.
    pub fn config(&self) -> String {
        let mut text = format!("state_dir = {:?}\n\n[host]\nid = {:?}\n", self.state_dir(), self.id);
        for (name, root, manifest) in &self.targets {
            let unsigned = if self.unsigned { "allow_unsigned = true\n" } else { "" };
            let target = format!("name = {name:?}\nroot = {root:?}\nmanifest = {manifest}\n{unsigned}");
            let _infallible = write!(text, "\n[[target]]\n{target}{}\n", self.keys);
        }
        let _infallible = write!(text, "\n[watch]\nmode = {:?}\nsweep = \"{}s\"\n", self.watch, self.sweep);
        let _infallible = writeln!(text, "full = \"{}s\"", self.full);
        let _infallible = write!(text, "\n[limits]\n{}\n", self.limits);
        let _infallible = write!(text, "\n[control]\n{}\n{}\n", self.control, self.sinks);
        if let Some(endpoint) = self.endpoint {
            let token = self.token_file();
            let report = format!(
                "endpoint = \"http://{endpoint}\"\ntoken_file = {token:?}\nheartbeat = \"{}s\"\nspool = \"{}MB\"\n",
                self.heartbeat, self.spool
            );
            let _infallible = write!(text, "\n[report]\n{report}");
        } else if !self.report.is_empty() {
            let _infallible = write!(text, "\n[report]\n{}\n", self.report);
        }
        text
    }

    /// Writes the configuration and starts the agent.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, sandbox: &Sandbox) -> Result<Agent> {
        self.start_by(sandbox.bare_command(&binaries().driftlock))
    }

    /// As [`AgentHome::start`], by a command that takes the agent's arguments.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_by(&self, mut command: Command) -> Result<Agent> {
        fs::write(self.config_file(), self.config())?;
        command.arg("agent").arg("--config").arg(self.config_file()).env("DRIFTLOCK_LOG", &self.log);
        Ok(Agent { process: Process::spawn(&format!("agent {}", self.id), &mut command)? })
    }

    /// Deletes the state, as an operator's `rm -rf` does.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn forget(&self) -> Result<()> {
        fs::remove_dir_all(self.state_dir()).context("delete the state")
    }

    fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }
}

impl Agent {
    /// SIGTERM, and the exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(self) -> Result<i32> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.exit()
    }

    /// Waits for it to end by itself; the exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub fn exit(self) -> Result<i32> {
        self.process.exit()
    }

    /// SIGHUP.
    ///
    /// # Errors
    /// If it is gone.
    pub fn reload(&self) -> Result<()> {
        self.process.signal(Signal::SIGHUP)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub fn kill(self) -> Result<()> {
        self.process.kill()
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
