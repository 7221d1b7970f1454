//! driftlock beside a real application: two containers of podman in one process namespace, the agent from its own image on
//! a root that is read only, without a capability more than the application has. Whatever starts anew, only tampering is
//! ever reported. Belongs here: what needs containers that see each other.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::collector::{Collector, CollectorHome, token_of};
use driftlock_tests::drift::Drift;
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::nginx;
use driftlock_tests::packages::{Revision, Step, built};
use driftlock_tests::podman::{Container, Driver, Podman};
use driftlock_tests::require::Requirement::{self, Buildah, DebianMirror, Debootstrap, Root, Runc, Skopeo, Umoci};
use driftlock_tests::require::{run, trial};
use driftlock_tests::wait::eventually;
use serde_json::Value;

const NEEDS: &[Requirement] = &[Root, Debootstrap, DebianMirror, Umoci, Skopeo, Buildah, Requirement::Podman, Runc];
const HOST: &str = "pod-1";
const APPLICATION: &str = "localhost/application:latest";
const DRIFTLOCK: &str = "localhost/driftlock:latest";

fn main() -> ExitCode {
    run(vec![
        trial("only_tampering_is_reported_whatever_starts_anew", NEEDS, only_tampering_is_reported),
        trial("a_container_in_the_place_of_another_is_looked_at_anew", NEEDS, another_container),
        trial("a_sidecar_that_may_not_look_says_what_it_lacks", NEEDS, what_it_lacks),
    ])
}

/// What stands around the two containers: a process namespace that outlives them, a collector, a wire to it.
struct Pod {
    collector: Collector,
    wire: FakeCollector,
    podman: Podman,
}

impl Pod {
    fn new() -> Result<Self> {
        let podman = Podman::new(Driver::Overlay)?;
        let sandbox = podman.sandbox();
        let application = nginx::image()?;
        podman.load(&application.archive, APPLICATION)?;
        podman.load(&built(Step::Image, Revision::First)?.image(), DRIFTLOCK)?;

        let files = sandbox.path("driftlock-files");
        fs::create_dir(&files)?;
        let manifest = files.join("app.manifest").display().to_string();
        let source = format!("oci:{}", application.layout.display());
        let mut seal = vec!["seal", &source, "-o", &manifest, "--exclude-set", "oci-runtime-1"];
        seal.extend(nginx::WRITTEN.iter().flat_map(|pattern| ["--exclude", pattern]));
        sandbox.driftlock(seal).run()?.expect(0)?;
        fs::write(files.join("token"), token_of(HOST))?;
        fs::set_permissions(files.join("token"), Permissions::from_mode(0o600))?;

        let collector = CollectorHome::new(sandbox, &[HOST])?.start(sandbox)?;
        let wire = FakeCollector::start([], Then::Forward(collector.address()))?;
        // What a pause container is to a pod.
        podman.start("pause", &["--network=none"], APPLICATION, &["sleep", "infinity"])?;
        Ok(Self { collector, wire, podman })
    }

    fn application(&self) -> Result<Container<'_>> {
        self.podman.start("app", &["--network=none", "--pid=container:pause"], APPLICATION, &nginx::COMMAND)
    }

    fn sidecar(&self, options: &[&str]) -> Result<Container<'_>> {
        let files = format!("--volume={}:/etc/driftlock:ro", self.podman.sandbox().path("driftlock-files").display());
        let config = format!("--env=DRIFTLOCK_CONFIG={}", configuration(self.wire.address()));
        let all = ["--network=host", "--pid=container:pause", "--read-only", &files, &config];
        self.podman.start("driftlock", &[&all[..], options].concat(), DRIFTLOCK, &["agent"])
    }

    fn eventually_open(&self, expected: &[Drift]) -> Result<()> {
        self.collector.eventually_open(&expected.iter().cloned().collect())
    }

    /// What was ever raised, and that no condition was.
    fn raised(&self) -> Result<BTreeSet<Vec<u8>>> {
        let opened: Vec<Value> = self
            .wire
            .events()
            .into_iter()
            .filter(|event| event["type"] == "dev.driftlock.condition.opened.v1")
            .collect();
        ensure!(opened.is_empty(), "a condition was opened: {opened:#?}");
        let history = self.wire.history()?;
        history.check()?;
        history.raised()
    }
}

/// As packaging/kubernetes/sidecar.yaml has it, but for what a test needs to be quick.
fn configuration(collector: SocketAddr) -> String {
    format!(
        r#"
state_dir = "memory"
[host]
id = "{HOST}"
ephemeral = true
[[target]]
name = "app"
process = "nginx"
manifest = "/etc/driftlock/app.manifest"
allow_unsigned = true
[[sink]]
type = "stdout"
[watch]
sweep = "600s"
[report]
endpoint = "http://{collector}"
token_file = "/etc/driftlock/token"
heartbeat = "1s"
"#
    )
}

fn only_tampering_is_reported() -> Result<()> {
    let pod = Pod::new()?;
    // There before the application, as a native sidecar is.
    let sidecar = pod.sidecar(&[])?;
    let application = pod.application()?;
    pod.collector.eventually_host(HOST, "clean")?;
    ensure!(pod.raised()?.is_empty(), "a clean application raises nothing: {:?}", pod.raised());
    // What is not looked at is said: what the container's runtime mounted.
    eventually("a heartbeat that names what is mounted", || {
        let beat = pod.wire.events().into_iter().rfind(|event| event["type"] == "dev.driftlock.agent.heartbeat.v1");
        let coverage = beat.context("no heartbeat")?["data"]["targets"][0]["coverage"].clone();
        let mounts = coverage["mounts"].as_array().cloned().unwrap_or_default();
        ensure!(["proc", "sys", "dev"].iter().all(|at| mounts.contains(&Value::from(*at))), "{coverage}");
        Ok::<_, anyhow::Error>(())
    })?;

    let page = Drift::changed("usr/share/nginx/html/index.html", &["content"]);
    application.exec(&["sh", "-c", "echo owned > /usr/share/nginx/html/index.html"])?;
    pod.eventually_open(std::slice::from_ref(&page))?;
    let implant = Drift::added("usr/local/bin/implant");
    application.exec(&["sh", "-c", "echo evil > /usr/local/bin/implant"])?;
    pod.eventually_open(&[page.clone(), implant.clone()])?;

    // The same root, another process: it is watched again, and nothing is said of the restart.
    application.restart()?;
    let module = Drift::removed("usr/bin/ldd");
    application.exec(&["rm", "/usr/bin/ldd"])?;
    let all = [page.clone(), implant.clone(), module];
    pod.eventually_open(&all)?;

    // Its state is gone with it, and the collector's is not.
    sidecar.restart()?;
    eventually("the restarted sidecar to be heard", || {
        let epochs = pod.wire.history()?.epochs();
        ensure!(epochs == 2, "{epochs} epochs");
        Ok::<_, anyhow::Error>(())
    })?;
    pod.eventually_open(&all)?;
    application.exec(&["rm", "/usr/local/bin/implant"])?;
    pod.eventually_open(&[all[0].clone(), all[2].clone()])?;

    let tampered: BTreeSet<Vec<u8>> = all.iter().map(|drift| drift.path.clone()).collect();
    ensure!(
        pod.raised()? == tampered,
        "raised beyond what was done: {:#?}",
        pod.wire.history()?.told().collect::<Vec<_>>()
    );
    ensure!(pod.collector.findings("")?.len() == 3, "the collector's memory: {:?}", pod.collector.findings("")?);
    on_standard_output(&sidecar, &tampered)
}

/// Standard output has a line of JSON for each event, and nothing else.
fn on_standard_output(sidecar: &Container<'_>, tampered: &BTreeSet<Vec<u8>>) -> Result<()> {
    let logs = sidecar.logs()?;
    let lines = logs.text()?.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>().context("a line")?;
    ensure!(lines.iter().all(|event| event["specversion"] == "1.0" && event["sequence"].is_string()), "{lines:#?}");
    let opened = lines.iter().filter(|event| event["type"] == "dev.driftlock.finding.opened.v1");
    let opened = opened.map(|event| Drift::path_of(&event["data"]["finding"])).collect::<Result<BTreeSet<_>>>()?;
    ensure!(opened == *tampered, "{opened:?}");
    Ok(())
}

fn another_container() -> Result<()> {
    let pod = Pod::new()?;
    let application = pod.application()?;
    let _sidecar = pod.sidecar(&[])?;
    pod.collector.eventually_host(HOST, "clean")?;
    application.exec(&["rm", "/usr/bin/ldd"])?;
    pod.eventually_open(&[Drift::removed("usr/bin/ldd")])?;
    // While it is taken apart nothing of it is drift; the new one is as it was built.
    application.remove()?;
    let application = pod.application()?;
    pod.eventually_open(&[])?;
    pod.collector.eventually_host(HOST, "clean")?;
    application.exec(&["sh", "-c", "echo >> /etc/nginx/nginx.conf"])?;
    pod.eventually_open(&[Drift::changed("etc/nginx/nginx.conf", &["content"])])?;
    let expected = [b"etc/nginx/nginx.conf".to_vec(), b"usr/bin/ldd".to_vec()];
    ensure!(pod.raised()? == BTreeSet::from(expected), "{:?}", pod.raised()?);
    Ok(())
}

fn what_it_lacks() -> Result<()> {
    let pod = Pod::new()?;
    let _application = pod.application()?;
    // Less than the application has: the kernel lets it see nothing.
    let sidecar = pod.sidecar(&["--cap-drop=all"])?;
    eventually("the sidecar to say what it lacks", || {
        let said = pod.podman.run(&["exec", "driftlock", "/driftlock", "doctor"])?;
        let lacks = said.code == Some(8) && said.text()?.contains("CAP_SYS_PTRACE");
        ensure!(lacks, "{said:?}\n{:?}", sidecar.logs());
        Ok::<_, anyhow::Error>(())
    })?;
    let hosts = pod.collector.hosts()?;
    ensure!(hosts.iter().all(|host| host["state"] != "clean"), "what cannot be seen is not clean: {hosts:?}");
    sidecar.stop()
}
