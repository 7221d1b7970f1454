//! Owns an rsyslogd of a test's own, which listens in three ways and writes what it understood of each message. Must not own
//! what that has to be.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::process::Process;
use driftlock_tests::require::Requirement;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::eventually;
use serde_json::Value;

/// How it calls the ways that it listens.
pub(super) const WAYS: [&str; 3] = ["imuxsock", "imudp", "imtcp"];

/// A running rsyslogd. Killed when dropped.
pub(super) struct Rsyslog {
    _process: Process,
    socket: PathBuf,
    udp: u16,
    tcp: u16,
    written: PathBuf,
}

impl Rsyslog {
    pub(super) fn start(sandbox: &Sandbox) -> Result<Self> {
        let [socket, port, written, work] =
            ["log", "rsyslog-port", "rsyslog-lines", "rsyslog-work"].map(|name| sandbox.path(name));
        fs::create_dir(&work)?;
        // Nobody can ask the kernel for a port on its behalf; that somebody else gets it meanwhile is next to impossible.
        let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        // What it understood, as JSON of its own making, with how it came.
        let config = format!(
            r#"
global(workDirectory="{work}" maxMessageSize="64k" localHostname="receiver")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{socket}" UseSpecialParser="off" RateLimit.Interval="0")
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="{udp}")
module(load="imtcp")
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="{port}")
template(name="understood" type="list" option.jsonf="on") {{
    property(outname="way" name="inputname" format="jsonf")
    property(outname="priority" name="pri" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="app" name="app-name" format="jsonf")
    property(outname="process" name="procid" format="jsonf")
    property(outname="msgid" name="msgid" format="jsonf")
    property(outname="data" name="structured-data" format="jsonf")
    property(outname="text" name="msg" format="jsonf")
}}
action(type="omfile" file="{written}" template="understood")
"#,
            work = work.display(),
            socket = socket.display(),
            port = port.display(),
            written = written.display(),
        );
        let config = sandbox.write("rsyslog.conf", config)?;
        let program = Requirement::Rsyslogd.program().context("rsyslogd")?;
        let mut command = sandbox.bare_command(&program);
        command.arg("-n").arg("-f").arg(config).arg("-i").arg(sandbox.path("rsyslog.pid"));
        let process = Process::spawn("rsyslogd", &mut command)?;
        let tcp = eventually("rsyslogd to listen", || {
            let port = fs::read_to_string(&port).with_context(|| format!("{process:?}"))?;
            ensure!(socket.exists(), "{process:?}");
            Ok::<u16, anyhow::Error>(port.trim().parse()?)
        })?;
        Ok(Self { _process: process, socket, udp, tcp, written })
    }

    /// A sink for each way that it listens.
    pub(super) fn sinks(&self) -> String {
        let to = [
            format!("{}", self.socket.display()),
            format!("udp://localhost:{}", self.udp),
            format!("tcp://127.0.0.1:{}", self.tcp),
        ];
        to.map(|to| format!("[[sink]]\ntype = \"syslog\"\nto = {to:?}\nenterprise = 32473\n")).concat()
    }

    /// What came in one way.
    pub(super) fn messages(&self, way: &str) -> Result<Vec<Value>> {
        let text = fs::read_to_string(&self.written)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let all = whole.lines().map(|line| serde_json::from_str::<Value>(line).context(line.to_owned()));
        let all: Vec<Value> = all.collect::<Result<_>>()?;
        Ok(all.into_iter().filter(|message| message["way"] == way).collect())
    }
}
