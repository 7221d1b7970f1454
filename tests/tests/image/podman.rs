//! A real image in a container of podman: its root scans clean against what was sealed of the image, seen from the host and
//! through the process, and what is done inside is all that is found. Belongs here: what the engine makes of an image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use driftlock_tests::debian;
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::podman::{Container, Driver, Podman};
use driftlock_tests::require::Requirement::{self, DebianMirror, Debootstrap, Root, Runc, Skopeo, Umoci};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;

const NEEDS: &[Requirement] = &[Root, Debootstrap, DebianMirror, Umoci, Skopeo, Requirement::Podman, Runc];
const IMAGE: &str = "localhost/debian:latest";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("only_what_is_done_in_a_container_is_found_in_its_root", NEEDS, only_what_is_done)]
}

fn only_what_is_done() -> Result<()> {
    let podman = Podman::new(Driver::Overlay)?;
    let sandbox = podman.sandbox();
    let image = debian::image()?;
    podman.load(&image.oci_archive, IMAGE)?;
    let manifest = sandbox.path("manifest");
    let source = format!("oci:{}", image.layout.display());
    let seal = ["seal", &source, "--exclude-set", "oci-runtime-1", "-o"].map(AsRef::as_ref);
    sandbox.driftlock(seal.into_iter().chain([manifest.as_os_str()])).run()?.expect(0)?;

    let container = podman.start("app", &["--network=none"], IMAGE, &["sleep", "infinity"])?;
    let mounted = podman.run(&["mount", "app"])?.expect(0)?;
    let from_the_host = PathBuf::from(mounted.text()?.trim());
    let roots = [from_the_host, format!("/proc/{}/root", container.pid()?).into()];
    for root in &roots {
        let report = scan(sandbox, &manifest, root, 0)?;
        ensure!(report.findings.is_empty(), "{}: {:?}", root.display(), report.drifts);
        ensure!(report.summary["complete"] == true, "{}", report.summary);
        ensure!(report.summary["entries"].as_u64() > Some(5000), "{}", report.summary);
    }
    let expected = tamper(&container)?;
    for root in &roots {
        let report = scan(sandbox, &manifest, root, 7)?;
        ensure_same(&expected, &report.drifts)?;
        ensure!(report.summary["complete"] == true, "{}", report.summary);
    }
    Ok(())
}

fn scan(sandbox: &Sandbox, manifest: &Path, root: &Path, code: i32) -> Result<Report> {
    let arguments = ["scan", "--format", "ndjson", "--manifest"].map(AsRef::as_ref);
    let arguments = arguments.into_iter().chain([manifest.as_os_str(), root.as_os_str()]);
    Report::from_ndjson(&sandbox.driftlock(arguments).run()?.expect(code)?)
}

/// What is done in the container, by its own programs, and what must be found of it.
fn tamper(container: &Container<'_>) -> Result<BTreeSet<Drift>> {
    let done: &[(&str, &[Drift])] = &[
        ("echo more >> /etc/passwd", &[Drift::changed("etc/passwd", &["content"])]),
        ("chmod u+s /usr/bin/env", &[Drift::changed("usr/bin/env", &["mode"])]),
        ("chown 1000:1001 /usr/bin/tac", &[Drift::changed("usr/bin/tac", &["uid", "gid"])]),
        (
            "cp -p /usr/bin/true /usr/bin/new && mv /usr/bin/new /usr/bin/dir",
            &[Drift::changed("usr/bin/dir", &["content"])],
        ),
        ("rm /usr/bin/yes", &[Drift::removed("usr/bin/yes")]),
        ("echo evil > /usr/local/bin/implant", &[Drift::added("usr/local/bin/implant")]),
        ("mkdir /var/.hidden && touch /var/.hidden/it", &[Drift::added("var/.hidden"), Drift::added("var/.hidden/it")]),
        ("touch \"$(printf '/opt/caf\\351')\"", &[Drift::added(b"opt/caf\xe9")]),
        ("ln -sfn /tmp/os-release /etc/os-release", &[Drift::changed("etc/os-release", &["target"])]),
        ("rmdir /opt/app/plugins && touch /opt/app/plugins", &[Drift::changed("opt/app/plugins", &["type"])]),
        // A whole directory that a lower layer has, emptied and made anew: the driver marks it opaque.
        (
            "rm -r /usr/share/common-licenses && mkdir /usr/share/common-licenses",
            &[Drift::removed("usr/share/common-licenses/NOTICE")],
        ),
        // Nothing is to be found of what is the runtime's, of times, and of what was copied up as it was.
        ("echo 192.0.2.1 there >> /etc/hosts && touch /run/.containerenv", &[]),
        ("touch -d 2000-01-01 /etc/issue /usr/bin/cat", &[]),
        ("cp /etc/debian_version /tmp/it && cat /tmp/it > /etc/debian_version && rm /tmp/it", &[]),
        ("chmod 600 /etc/motd && chmod 644 /etc/motd", &[]),
    ];
    for (command, _) in done {
        container.exec(&["sh", "-c", command])?;
    }
    Ok(done.iter().flat_map(|(_, drifts)| drifts.iter().cloned()).collect())
}
