//! What the service manager is told, by the real programs over a real socket: the test is the service manager.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::binaries::binaries;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::PATIENCE;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("the_agent_says_when_it_is_ready_alive_reloading_and_stopping", &[], agent),
        trial("the_collector_says_when_it_is_ready_alive_reloading_and_stopping", &[], collector),
        trial("an_agent_that_is_refused_is_never_ready", &[], refused),
        trial("without_a_service_manager_nothing_is_said_or_missed", &[], alone),
    ]
}

/// A service manager's socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(sandbox: &Sandbox) -> Result<Self> {
        let path = sandbox.path("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, path })
    }

    /// Lets `command` be a service that is watched; signs of life come every 50 ms.
    fn watch(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path).env("WATCHDOG_USEC", "100000");
    }

    /// The next message that has `line`.
    fn next(&self, line: &str) -> Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).with_context(|| format!("nobody said {line}"))?;
            let message = std::str::from_utf8(&buffer[..length])?;
            if message.lines().any(|said| said == line) {
                return Ok(message.to_owned());
            }
        }
    }

    /// What no service may fail to say, in this order.
    fn life(&self, service: &Process, status: &str) -> Result<()> {
        let ready = self.next("READY=1")?;
        ensure!(ready.contains(status), "{ready}");
        for _ in 0..3 {
            self.next("WATCHDOG=1")?;
        }
        service.signal(Signal::SIGHUP)?;
        let reloading = self.next("RELOADING=1")?;
        ensure!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
        self.next("READY=1")?;
        self.next("WATCHDOG=1")?;
        service.signal(Signal::SIGTERM)?;
        self.next("STOPPING=1")?;
        Ok(())
    }
}

fn agent() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let manager = Manager::new(&sandbox)?;
    let mut command = agent_command(&sandbox)?;
    manager.watch(&mut command);
    let agent = Process::spawn("agent", &mut command)?;
    manager.life(&agent, "STATUS=watching 1 target\n")?;
    ensure!(agent.exit()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn collector() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let manager = Manager::new(&sandbox)?;
    let tokens = sandbox.write("tokens", "web-1 a-token-of-some-length\n")?;
    fs::set_permissions(&tokens, Permissions::from_mode(0o600))?;
    let mut command = sandbox.bare_command(&binaries().collector);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(sandbox.path("data")).arg("--tokens").arg(tokens);
    manager.watch(&mut command);
    let collector = Process::spawn("collector", &mut command)?;
    manager.life(&collector, "STATUS=listening on http://127.0.0.1:")?;
    ensure!(collector.exit()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let manager = Manager::new(&sandbox)?;
    let config = sandbox.write("agent.toml", "[watsh]\n")?;
    let mut command = sandbox.bare_command(&binaries().driftlock);
    command.args(["agent", "--config"]).arg(config);
    manager.watch(&mut command);
    ensure!(Process::spawn("agent", &mut command)?.exit()? == 78, "refused");
    manager.socket.set_nonblocking(true)?;
    let said = manager.socket.recv(&mut [0; 4096]);
    ensure!(said.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{said:?}");
    Ok(())
}

fn alone() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let agent = Process::spawn("agent", &mut agent_command(&sandbox)?)?;
    agent.line(Stream::Stderr, |line| line.contains("looked at everything").then_some(()))?;
    agent.signal(Signal::SIGTERM)?;
    ensure!(!agent.text(Stream::Stderr).contains("service manager"), "{agent:?}");
    ensure!(agent.exit()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn agent_command(sandbox: &Sandbox) -> Result<Command> {
    let tree = sandbox.tree("tree")?;
    tree.file("file", "content\n")?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let home = AgentHome::new(sandbox, "web-1")?.target("app", tree.root(), &manifest);
    fs::write(home.config_file(), home.config())?;
    let mut command = sandbox.bare_command(&binaries().driftlock);
    command.arg("agent").arg("--config").arg(home.config_file());
    Ok(command)
}
