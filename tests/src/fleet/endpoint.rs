//! Owns the real collector that a fleet reports to: its process with TLS and its own CA, killed and started again at the
//! same address over the same directory, what an operator asks of it, and reading it over the network. Must not own what it
//! should answer.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::enrolment::EnrolmentToken;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::identity::{Identity, Keys, Trust};
use super::wire::{Wire, request};
use crate::binaries::binaries;
use crate::collector::address_in;
use crate::http::Answer;
use crate::process::{Process, Stream};
use crate::sandbox::Sandbox;

/// A collector and its directory. Killed when dropped.
#[derive(Debug)]
pub struct Endpoint {
    sandbox: Sandbox,
    program: PathBuf,
    data: PathBuf,
    arguments: Vec<OsString>,
    process: Option<Process>,
    address: SocketAddr,
    trust: Trust,
    stranger: Arc<ClientConfig>,
    /// What is sent by who reads.
    read_token: Option<String>,
    /// What processes that ended had written.
    said: Vec<String>,
}

impl Endpoint {
    /// Starts a collector of the build under test over `data` in `sandbox`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(sandbox: Sandbox, data: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_program(sandbox, binaries().collector.clone(), data, arguments)
    }

    /// The same with this binary.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_program(sandbox: Sandbox, program: PathBuf, data: &str, arguments: &[&str]) -> Result<Self> {
        let data = sandbox.path(data);
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let (process, address) = spawn(&sandbox, &program, &data, &arguments, "127.0.0.1:0")?;
        let shown = sandbox.command(&program, ["ca".as_ref(), "show".as_ref(), "--data".as_ref(), data.as_os_str()]);
        let trust = Trust::new(shown.run()?.expect(0)?.text()?)?;
        let stranger = trust.stranger()?;
        Ok(Self {
            sandbox,
            program,
            data,
            arguments,
            process: Some(process),
            address,
            trust,
            stranger,
            read_token: None,
            said: Vec::new(),
        })
    }

    /// Reads with this token from now on.
    pub fn read_with(&mut self, token: &str) {
        self.read_token = Some(format!("Bearer {token}"));
    }

    /// SIGKILL. There is nobody at the address until [`Endpoint::again`].
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.end()?;
        self.said.push(process.text(Stream::Stderr));
        Ok(())
    }

    /// Starts it again, at the same address.
    ///
    /// # Errors
    /// If it does not start.
    pub fn again(&mut self) -> Result<()> {
        let listen = self.address.to_string();
        let (process, _) = spawn(&self.sandbox, &self.program, &self.data, &self.arguments, &listen)?;
        self.process = Some(process);
        Ok(())
    }

    /// Fails if it ended by itself.
    ///
    /// # Errors
    /// If it did.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_running)
    }

    /// Everything that it wrote as its log, by all its processes.
    pub fn log(&self) -> String {
        let now = self.process.as_ref().map(|process| process.text(Stream::Stderr));
        self.said.iter().cloned().chain(now).collect::<Vec<_>>().join("\n")
    }

    /// Its process, while it runs.
    pub const fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where its test is.
    pub const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Whom hosts believe.
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// How one connects without a certificate.
    pub const fn stranger(&self) -> &Arc<ClientConfig> {
        &self.stranger
    }

    // === for an operator ===

    /// A verb of the command line over its data.
    ///
    /// # Errors
    /// If it does not end with 0.
    pub fn verb(&self, arguments: &[&str]) -> Result<String> {
        let data = self.data.display().to_string();
        let arguments = arguments.iter().copied().chain(["--data", &data]);
        Ok(self.sandbox.command(&self.program, arguments).run()?.expect(0)?.text()?.trim().to_owned())
    }

    /// Makes its directory anew of a backup, while it does not run.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn restore(&self, backup: &str) -> Result<()> {
        ensure!(self.process.is_none(), "it runs");
        fs::remove_dir_all(&self.data)?;
        self.verb(&["restore", backup]).map(drop)
    }

    /// What the verbs ask over the socket of its directory: thousands of tokens are too many for a process each.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn admin(&self, path: &str, body: &Value) -> Result<Value> {
        let mut wire = Wire::over(UnixStream::connect(self.data.join("admin.sock")).await?);
        let headers = [("content-type", "application/json")];
        wire.ask(&request("POST", path, &headers, body.to_string().as_bytes())).await?.json()
    }

    /// A token with which one host may join, of a name or a pattern.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn token(&self, host: &str, valid_s: u64) -> Result<EnrolmentToken> {
        let asked = json!({"host": host, "labels": {}, "replace": false, "valid_s": valid_s});
        let made = self.admin("/enroll-token", &asked).await?;
        made["token"].as_str().context("a token")?.parse().context("a token")
    }

    /// A host that joins.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn join(&self, host: &str) -> Result<Identity> {
        let token = self.token(host, 3600).await?;
        Keys::new()?.join(&mut self.connect().await?, &self.trust, host, &token).await
    }

    // === for everyone ===

    /// A connection without a certificate.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn connect(&self) -> Result<Wire> {
        Wire::open(self.address, &self.stranger).await
    }

    /// The answer at a path.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.connect().await?.ask(&self.reads(path)).await
    }

    fn reads(&self, path: &str) -> Vec<u8> {
        let token: Vec<(&str, &str)> = self.read_token.iter().map(|token| ("authorization", token.as_str())).collect();
        request("GET", path, &token, &[])
    }

    /// All items of a list, page after page: `path` has a query already.
    ///
    /// # Errors
    /// If it does not answer as documented.
    pub async fn list(&self, path: &str, key: &str) -> Result<Vec<Value>> {
        let mut wire = self.connect().await?;
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = wire.ask(&self.reads(&format!("{path}{cursor}"))).await?.json()?;
            let Value::Array(more) = page[key].take() else { anyhow::bail!("no {key} in {page}") };
            items.extend(more);
            match &page["next"] {
                Value::Null => return Ok(items),
                Value::String(next) => cursor = format!("&cursor={next}"),
                next => cursor = format!("&cursor={next}"),
            }
        }
    }

    /// The value of one of its metrics, named with its labels as it is written, without the prefix.
    ///
    /// # Errors
    /// If there is none.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let answer = self.get("/metrics").await?;
        ensure!(answer.status == 200, "{}", answer.text());
        let text = answer.text();
        let prefix = format!("driftlock_collector_{name} ");
        let value =
            text.lines().find_map(|line| line.strip_prefix(&prefix)).with_context(|| format!("{name}: {text}"))?;
        Ok(value.parse()?)
    }
}

fn spawn(
    sandbox: &Sandbox,
    program: &Path,
    data: &Path,
    arguments: &[OsString],
    listen: &str,
) -> Result<(Process, SocketAddr)> {
    let mut command = sandbox.bare_command(program);
    command.args(["serve", "--tls", "on", "--listen", listen, "--data"]).arg(data).args(arguments);
    let process = Process::spawn("collector", &mut command)?;
    let address = process.line(Stream::Stderr, address_in)?;
    Ok((process, address))
}
