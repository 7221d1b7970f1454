//! Owns a machine on which both packages were installed by dpkg: putting them there, configuring them, asking the
//! packaged collector. Must not own what has to come of it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::collector::{findings, token_of};
use driftlock_tests::drift::{Drift, drifts, ensure_same};
use driftlock_tests::http;
use driftlock_tests::machine::{Machine, Root};
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::require::Requirement;
use driftlock_tests::wait::eventually;

/// What such a machine needs.
pub(super) const NEEDS: &[Requirement] = &[
    Requirement::Root,
    Requirement::Debootstrap,
    Requirement::DebianMirror,
    Requirement::SystemdNspawn,
    Requirement::CargoDeb,
];

pub(super) const AGENT: &str = "driftlock-agent.service";
pub(super) const COLLECTOR: &str = "driftlock-collector.service";
const HOST: &str = "web-1";

/// The machine, and where its collector answers.
pub(super) struct Host {
    pub(super) machine: Machine,
    address: SocketAddr,
}

impl Host {
    /// Boots a machine and installs the first revision of both packages.
    pub(super) fn install() -> Result<Self> {
        let machine = Root::new()?.boot()?;
        let host = Self { machine, address: free_port()? };
        host.dpkg_install(Package::Agent, Revision::First)?;
        host.dpkg_install(Package::Collector, Revision::First)?;
        Ok(host)
    }

    /// `dpkg -i`, with the package's own scripts.
    pub(super) fn dpkg_install(&self, package: Package, revision: Revision) -> Result<String> {
        let deb = built(Step::Deb, revision)?.package(package)?;
        self.machine.copy(&deb, "/opt/package.deb")?;
        let said = self.machine.run(["dpkg", "-i", "/opt/package.deb"])?;
        fs::remove_file(self.machine.root().at("/opt/package.deb"))?;
        Ok(said)
    }

    /// Tells the collector its address and the host's token, and starts it.
    pub(super) fn start_collector(&self) -> Result<()> {
        let root = self.machine.root();
        fs::write(root.at("/etc/driftlock-collector/options"), format!("OPTIONS=\"--listen {}\"\n", self.address))?;
        // Written into what the package made, so that owner and mode are the package's.
        fs::write(root.at("/etc/driftlock-collector/tokens"), format!("{HOST} {}\n", token_of(HOST)))?;
        self.machine.run(["systemctl", "enable", "--now", COLLECTOR])?;
        Ok(())
    }

    /// Configures the agent with these targets, as TOML, and starts it.
    pub(super) fn start_agent(&self, targets: &str) -> Result<()> {
        let token = self.machine.root().at("/etc/driftlock/token");
        fs::write(&token, token_of(HOST))?;
        fs::set_permissions(&token, Permissions::from_mode(0o600))?;
        let report = format!("endpoint = \"http://{}\"\ntoken_file = \"/etc/driftlock/token\"", self.address);
        let config = format!("{targets}\n[watch]\nsweep = \"10m\"\n[report]\n{report}\nheartbeat = \"1s\"\n");
        fs::write(self.machine.root().at("/etc/driftlock/agent.toml"), config)?;
        self.machine.run(["driftlock", "check-config"])?;
        self.machine.run(["systemctl", "enable", "--now", AGENT])?;
        Ok(())
    }

    /// Adds settings to the agent's unit, and starts it again.
    pub(super) fn drop_in(&self, settings: &str) -> Result<()> {
        let folder = self.machine.root().at("/etc/systemd/system/driftlock-agent.service.d");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("test.conf"), format!("[Service]\n{settings}\n"))?;
        self.machine.shell(&format!("systemctl daemon-reload; systemctl restart {AGENT}"))?;
        Ok(())
    }

    /// Waits until the collector holds the host for `clean`, `drifted`, `blind` or `silent`.
    pub(super) fn eventually_is(&self, state: &str) -> Result<()> {
        let is = || {
            let hosts = http::get(self.address, "/v1/hosts")?.json()?;
            ensure!(hosts["hosts"][0]["host"] == HOST && hosts["hosts"][0]["state"] == state, "{hosts}");
            Ok::<_, anyhow::Error>(())
        };
        let journal = || self.machine.journal(AGENT).unwrap_or_default();
        eventually(&format!("the host to be {state}"), is).with_context(journal)
    }

    /// Waits until the open findings are exactly these.
    pub(super) fn eventually_open(&self, expected: &BTreeSet<Drift>) -> Result<()> {
        let same = || ensure_same(expected, &drifts(&findings(self.address, "open")?)?);
        let journal = || self.machine.journal(AGENT).unwrap_or_default();
        eventually(&format!("{} open findings", expected.len()), same).with_context(journal)
    }

    /// Every difference that was ever reported, open or not.
    pub(super) fn ever_reported(&self) -> Result<BTreeSet<Drift>> {
        drifts(&findings(self.address, "")?)
    }
}

/// A target, as TOML, sealed in a manifest of its name.
pub(super) fn target(name: &str, root: &str) -> String {
    let manifest = format!("/etc/driftlock/{name}.manifest");
    format!("[[target]]\nname = {name:?}\nroot = {root:?}\nmanifest = {manifest:?}\nallow_unsigned = true\n")
}

/// An address of loopback on which nobody listens, outside of what the kernel gives to others meanwhile, and another one for
/// each machine. It stays the same when the collector is started again.
fn free_port() -> Result<SocketAddr> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 5_000)?;
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| first + 7 * TAKEN.fetch_add(1, Ordering::Relaxed)).take(500);
    Ok(SocketAddr::from(([127, 0, 0, 1], ports.find(free).context("no free port")?)))
}
