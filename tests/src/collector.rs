//! Owns collectors under test: data and tokens in a sandbox, the real process, and reading its interface. Must not
//! own what it should answer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::binaries::binaries;
use crate::drift::{Drift, drifts, ensure_same};
use crate::http;
use crate::process::{Process, Stream};
use crate::sandbox::Sandbox;
use crate::wait::eventually;

/// Where a collector lives. Starting it again from here is a restart.
#[derive(Clone, Debug)]
pub struct CollectorHome {
    dir: PathBuf,
}

/// A running collector. Killed when dropped.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    address: SocketAddr,
}

impl CollectorHome {
    /// A home in `sandbox` that knows these hosts by their tokens.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(sandbox: &Sandbox, hosts: &[&str]) -> Result<Self> {
        let home = Self { dir: sandbox.path("collector") };
        fs::create_dir_all(&home.dir)?;
        let tokens: String = hosts.iter().map(|host| format!("{host} {}\n", token_of(host))).collect();
        fs::write(home.tokens(), tokens)?;
        fs::set_permissions(home.tokens(), Permissions::from_mode(0o600))?;
        Ok(home)
    }

    /// Starts it on a port of the kernel's choice, and waits until it says which.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&self, sandbox: &Sandbox) -> Result<Collector> {
        self.start_at(sandbox, "127.0.0.1:0")
    }

    /// As [`CollectorHome::start`], with more arguments.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_with(&self, sandbox: &Sandbox, arguments: &[&OsStr]) -> Result<Collector> {
        self.start_so(sandbox, "127.0.0.1:0", arguments)
    }

    /// As [`CollectorHome::start`], on this address.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_at(&self, sandbox: &Sandbox, listen: &str) -> Result<Collector> {
        self.start_so(sandbox, listen, &[])
    }

    fn start_so(&self, sandbox: &Sandbox, listen: &str, arguments: &[&OsStr]) -> Result<Collector> {
        let mut command = sandbox.bare_command(&binaries().collector);
        command.args(["serve", "--listen", listen, "--data"]).arg(self.dir.join("data"));
        command.arg("--tokens").arg(self.tokens()).args(arguments);
        let process = Process::spawn("collector", &mut command)?;
        let address = process.line(Stream::Stderr, address_in)?;
        Ok(Collector { process, address })
    }

    /// What an operator types: a verb and its arguments, for this collector, whether it runs or not. What it says on
    /// standard output.
    ///
    /// # Errors
    /// If it is refused.
    pub fn operator(&self, sandbox: &Sandbox, arguments: &[&str]) -> Result<String> {
        let mut command = sandbox.bare_command(&binaries().collector);
        command.args(arguments).arg("--data").arg(self.dir.join("data"));
        let output = command.output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A file with a token that the collector made, for `--push`, `--read`, or `--report` and hosts.
    ///
    /// # Errors
    /// If it is refused.
    pub fn token_file(&self, sandbox: &Sandbox, scope: &[&str]) -> Result<PathBuf> {
        let token = self.operator(sandbox, &[&["token", "add"], scope].concat())?;
        let file = self.dir.join(format!("{}.token", scope.concat()));
        fs::write(&file, token)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        Ok(file)
    }

    fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }
}

/// The token of a host.
pub fn token_of(host: &str) -> String {
    format!("{host}-may-report-by-this-token")
}

/// The first loopback address with a port in a line of output.
pub fn address_in(line: &str) -> Option<SocketAddr> {
    let from = &line[line.find("127.0.0.1:")?..];
    let end = from.find(|ch: char| !ch.is_ascii_digit() && ch != '.' && ch != ':').unwrap_or(from.len());
    from[..end].parse().ok()
}

impl Collector {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All findings in `state` (`open`, `resolved`, or nothing for both), page after page.
    ///
    /// # Errors
    /// If it does not answer as documented.
    pub fn findings(&self, state: &str) -> Result<Vec<Value>> {
        findings(self.address, state)
    }

    /// The open findings as differences.
    ///
    /// # Errors
    /// As [`Collector::findings`], and if a path stands twice.
    pub fn open(&self) -> Result<BTreeSet<Drift>> {
        drifts(&self.findings("open")?)
    }

    /// Waits until the open findings are exactly `expected`.
    ///
    /// # Errors
    /// If they do not become so; what is missing and what is too much is said.
    pub fn eventually_open(&self, expected: &BTreeSet<Drift>) -> Result<()> {
        let what = format!("{} open findings at the collector", expected.len());
        eventually(&what, || ensure_same(expected, &self.open()?))
    }

    /// The reasons of the open conditions.
    ///
    /// # Errors
    /// If it does not answer as documented.
    pub fn conditions(&self) -> Result<BTreeSet<String>> {
        let answer = http::get(self.address, "/v1/conditions?state=open")?.json()?;
        let conditions = answer["conditions"].as_array().with_context(|| answer.to_string())?;
        let reason = |condition: &Value| condition["reason"].as_str().map(str::to_owned).context("a reason");
        conditions.iter().map(reason).collect()
    }

    /// The hosts as answered.
    ///
    /// # Errors
    /// If it does not answer as documented.
    pub fn hosts(&self) -> Result<Vec<Value>> {
        let answer = http::get(self.address, "/v1/hosts")?.json()?;
        answer["hosts"].as_array().cloned().with_context(|| answer.to_string())
    }

    /// Waits until the host is in this state: `clean`, `drifted`, `blind`, `silent`.
    ///
    /// # Errors
    /// If it does not become so.
    pub fn eventually_host(&self, id: &str, state: &str) -> Result<()> {
        eventually(&format!("host {id} to be {state}"), || {
            let hosts = self.hosts()?;
            let host = hosts.iter().find(|host| host["host"] == id).with_context(|| format!("{hosts:?}"))?;
            ensure!(host["state"] == state, "{host}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// SIGTERM, and the exit code.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(self) -> Result<i32> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.exit()
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

/// All findings in `state` (nothing for every one) of the collector at `address`, page after page.
///
/// # Errors
/// If it does not answer as documented.
pub fn findings(address: SocketAddr, state: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = http::get(address, &format!("/v1/findings?state={state}&limit=200{cursor}"))?.json()?;
        all.extend(answer["findings"].as_array().with_context(|| answer.to_string())?.iter().cloned());
        match &answer["next"] {
            Value::Null => return Ok(all),
            Value::String(next) => cursor = format!("&cursor={next}"),
            next => cursor = format!("&cursor={next}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_a_line() {
        let expected = "127.0.0.1:8123".parse().ok();
        for line in ["listening on http://127.0.0.1:8123", "at http://127.0.0.1:8123/ now", "addr=127.0.0.1:8123"] {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("listening on [::1]:8123"), None);
    }
}
