//! The same with the real collector: a host joins, reports, renews, is revoked, and joins again; and a pipeline's token speaks
//! for its hosts alone.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::binaries::binaries;
use driftlock_tests::collector::address_in;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::tamper;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_host_joins_renews_under_another_ca_is_revoked_and_joins_again", &[], whole_life),
        trial("a_pipelines_token_speaks_for_its_hosts_alone", &[], a_pipelines_token),
    ]
}

struct Stage {
    address: SocketAddr,
    _collector: Process,
    data: PathBuf,
    sandbox: Sandbox,
}

impl Stage {
    fn new(lifetime: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let data = sandbox.path("collector");
        let mut command = sandbox.bare_command(&binaries().collector);
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls", "on", "--certificate-lifetime", lifetime]);
        let collector = Process::spawn("collector", command.arg("--data").arg(&data))?;
        let address = collector.line(Stream::Stderr, address_in)?;
        Ok(Self { address, _collector: collector, data, sandbox })
    }

    /// A verb of the collector's, to its end.
    fn admin(&self, words: &[&str]) -> Result<String> {
        let (verb, more) = words.split_at(1);
        let data = [Path::new("--data"), &self.data];
        let arguments = verb.iter().map(Path::new).chain(data).chain(more.iter().map(Path::new));
        Ok(self.sandbox.collector(arguments).run()?.expect(0)?.text()?.trim_end().to_owned())
    }

    fn server(&self) -> String {
        format!("https://{}", self.address)
    }

    fn enroll(&self, token: &str, state_dir: &Path) -> Result<Finished> {
        let server = self.server();
        let words = ["enroll", "--server", &server, "--name", "web-1", "--token", token, "--state-dir"];
        self.sandbox.driftlock(words.iter().map(Path::new).chain([state_dir])).run()
    }

    fn get(&self, path: &str) -> Result<Value> {
        // What was set up already is the same.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let authorities = reqwest::Certificate::from_pem_bundle(self.admin(&["ca", "show"])?.as_bytes())?;
        let client = reqwest::Client::builder().tls_certs_only(authorities).build()?;
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = format!("{}{path}", self.server());
        tokio.block_on(async { Ok(client.get(url).send().await?.error_for_status()?.json().await?) })
    }

    fn eventually(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(&format!("{path} to be as wanted"), || {
            let answer = self.get(path)?;
            ensure!(wanted(&answer), "{answer}");
            Ok::<_, anyhow::Error>(answer)
        })
    }
}

fn whole_life() -> Result<()> {
    let stage = Stage::new("20s")?;
    let tree = stage.sandbox.tree("tree")?;
    tree.file("bin/app", "program\n")?.file("etc/app.toml", "level = 1\n")?;
    let manifest = stage.sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    let mut home = AgentHome::new(&stage.sandbox, "web-1")?.target("app", tree.root(), &manifest);
    home.report = "heartbeat = \"1s\"".to_owned();
    let token = stage.admin(&["enroll-token", "web-1"])?;
    let finished = stage.enroll(&token, &home.state_dir())?.expect(0)?;
    ensure!(finished.text()? == "web-1\n", "{finished:?}");
    let other = stage.enroll(&token, &stage.sandbox.path("other"))?.expect(77)?;
    ensure!(other.stderr.contains("was used"), "{other:?}");
    let agent = home.start(&stage.sandbox)?;
    let host = |state: &'static str| {
        move |answer: &Value| {
            let hosts = answer["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
            hosts.iter().any(|host| host["host"] == "web-1" && host["state"] == state)
        }
    };
    stage.eventually("/v1/hosts", host("clean"))?;
    // Another CA beside the first, of which the host learns when it renews.
    let until = || -> Result<String> {
        let status = home.control().status()?;
        Ok(status["agent"]["collector"]["certificate_until"].as_str().with_context(|| status.to_string())?.to_owned())
    };
    let first = until()?;
    stage.admin(&["ca", "rotate"])?;
    eventually("a renewal", || {
        let now = until()?;
        ensure!(now != first, "{now}");
        Ok::<_, anyhow::Error>(())
    })?;
    let authorities = fs::read_to_string(home.state_dir().join("identity/ca.pem"))?;
    ensure!(authorities.matches("BEGIN CERTIFICATE").count() == 2, "{authorities}");
    let open = |count: usize| {
        move |answer: &Value| answer["findings"].as_array().is_some_and(|findings| findings.len() == count)
    };
    tamper::append(tree.root(), "bin/app")?;
    stage.eventually("/v1/findings?state=open", open(1))?;
    stage.admin(&["revoke", "web-1"])?;
    tamper::add(tree.root(), "etc/new")?;
    let condition = |is_open: bool| {
        eventually("what the agent says of it", || {
            let status = home.control().status()?;
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().any(|condition| condition["reason"] == "collector_refused");
            ensure!(found == is_open, "{status}");
            Ok::<_, anyhow::Error>(())
        })
    };
    condition(true)?;
    ensure!(open(1)(&stage.get("/v1/findings?state=open")?), "what was revoked reports");
    let for_any = stage.admin(&["enroll-token", "web-*"])?;
    let taken = stage.enroll(&for_any, &home.state_dir())?.expect(77)?;
    ensure!(taken.stderr.lines().count() == 1, "{taken:?}");
    // Whoever revoked it means this host.
    let token = stage.admin(&["enroll-token", "web-1"])?;
    stage.enroll(&token, &home.state_dir())?.expect(0)?;
    stage.eventually("/v1/findings?state=open", open(2))?;
    stage.eventually("/v1/hosts", host("drifted"))?;
    condition(false)?;
    ensure!(agent.stop()? == 0, "a clean end");
    Ok(())
}

fn a_pipelines_token() -> Result<()> {
    let stage = Stage::new("30d")?;
    let tree = stage.sandbox.tree("tree")?;
    tree.file("bin/app", "program\n")?;
    let manifest = stage.sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    tamper::append(tree.root(), "bin/app")?;
    let token = stage.sandbox.write("token", stage.admin(&["token", "add", "--report", "ci-*"])?)?;
    let ca = stage.sandbox.write("ca.pem", stage.admin(&["ca", "show"])?)?;
    let scan = |host: &str, ca: &Path| {
        let server = stage.server();
        let words = ["scan", "--report", &server, "--report-host", host].map(Path::new);
        let more = [
            Path::new("--report-token-file"),
            &token,
            Path::new("--report-ca-file"),
            ca,
            Path::new("--manifest"),
            &manifest,
            tree.root(),
        ];
        stage.sandbox.driftlock(words.into_iter().chain(more)).run()
    };
    scan("ci-7", &ca)?.expect(4)?;
    let findings = stage.get("/v1/findings?state=open")?;
    ensure!(findings["findings"][0]["host"] == "ci-7" && findings["findings"][0]["path"] == "bin/app", "{findings}");
    let refused = scan("web-1", &ca)?.expect(69)?;
    ensure!(refused.stderr.contains("does not speak for this host"), "{refused:?}");
    let hosts = stage.get("/v1/hosts")?;
    ensure!(hosts["hosts"].as_array().is_some_and(|hosts| hosts.len() == 1), "{hosts}");
    ensure!(hosts["hosts"][0]["state"] == "retired", "{hosts}");
    Ok(())
}
