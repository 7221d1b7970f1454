//! The gate script, `packaging/pipeline/gate.sh`, run as nobody at what umoci unpacks of a real image without privileges.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::workspace;
use driftlock_tests::debian::{self, TAG};
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::require::Requirement::{self, DebianMirror, Debootstrap, Root, Skopeo, Umoci};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::{schema, tamper};
use libtest_mimic::Trial;
use serde_json::Value;

/// Root makes the image; the gate runs without.
const NEEDS: &[Requirement] = &[Root, Debootstrap, DebianMirror, Umoci, Skopeo, Requirement::JsonSchema];

/// What nobody can make, so that umoci makes empty files: the image's devices.
const DEVICES: [&str; 8] = ["console", "full", "null", "ptmx", "random", "tty", "urandom", "zero"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_gate_passes_a_clean_unpack_and_refuses_a_tampered_one", NEEDS, passes_clean_and_refuses_tampered),
        trial("the_gate_has_no_verdict_where_there_is_nothing_to_judge", &[], no_verdict),
    ]
}

/// A place where nobody can work: the script, the binary, and room.
struct Job {
    sandbox: Sandbox,
    script: PathBuf,
}

impl Job {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        sandbox.driftlock_for_everyone()?;
        let script = sandbox.path("gate.sh");
        fs::copy(workspace().join("packaging/pipeline/gate.sh"), &script)?;
        fs::set_permissions(sandbox.path("tmp"), Permissions::from_mode(0o777))?;
        Ok(Self { sandbox, script })
    }

    /// Runs the gate with a form for its report, as a job would.
    fn gate(&self, arguments: &[&str], format: &str) -> Result<Finished> {
        let mut path = self.sandbox.path("").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let arguments = [self.script.as_os_str()].into_iter().chain(arguments.iter().map(AsRef::as_ref));
        let gate = self.sandbox.command("/bin/sh".as_ref(), arguments).env("PATH", path).unprivileged();
        gate.env("REPORT", self.report()).env("FORMAT", format).run()
    }

    fn report(&self) -> PathBuf {
        self.sandbox.path("tmp/report")
    }

    /// The findings of the gate, from the form that the kit reads; the exit code is `code`, and what was said has `says`.
    fn findings(&self, arguments: &[&str], code: i32, says: &str) -> Result<Report> {
        let finished = self.gate(arguments, "ndjson")?.expect(code)?;
        ensure!(finished.stderr.contains(says) && finished.stdout.is_empty(), "{finished:?}");
        Report::from_ndjson(&Finished { stdout: fs::read(self.report())?, ..finished })
    }

    /// How many results the report has in the form that a pipeline keeps.
    fn results(&self, arguments: &[&str], code: i32) -> Result<usize> {
        self.gate(arguments, "sarif")?.expect(code)?;
        schema::sarif(&self.report())?;
        let log: Value = serde_json::from_slice(&fs::read(self.report())?)?;
        log["runs"][0]["results"].as_array().map(Vec::len).context("results")
    }

    /// That nothing of an unpack is left behind.
    fn left_nothing(&self) -> Result<()> {
        let left: Vec<_> = fs::read_dir(self.sandbox.path("tmp"))?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left == ["report"], "left behind: {left:?}");
        Ok(())
    }
}

fn passes_clean_and_refuses_tampered() -> Result<()> {
    let image = debian::image()?;
    let job = Job::new()?;
    // The image lies where nobody cannot come to.
    let copy = job.sandbox.path("layout");
    for command in [
        Command::new("cp").arg("-r").arg(&image.layout).arg(&copy),
        Command::new("chmod").args(["-R", "a+rX"]).arg(&copy),
    ] {
        let status = command.status()?;
        ensure!(status.success(), "{command:?}: {status}");
    }
    let manifest = job.sandbox.seal(format!("oci:{}", image.layout.display()), "image.manifest")?;
    let manifest = manifest.to_str().context("a path of text")?;
    let unpacked = format!("layout:{TAG}");
    let no_devices = ["--exclude", "dev/*"];

    // As the image is: only what an unpack without privileges cannot make is another.
    let devices: BTreeSet<Drift> =
        DEVICES.iter().map(|name| Drift::changed(format!("dev/{name}"), &["type"])).collect();
    let report = job.findings(&[manifest, &unpacked], 4, "refused: the tree is not what was sealed")?;
    ensure_same(&devices, &report.drifts)?;
    ensure!(report.summary["profile"] == "content" && report.summary["complete"] == true, "{}", report.summary);
    // Without them it is clean; here sealed on the spot.
    let clean = [&["oci:layout", &unpacked], &no_devices[..]].concat();
    ensure!(job.results(&clean, 0)? == 0, "a clean tree has no results");
    job.left_nothing()?;

    // An unpack that somebody can come to.
    let bundle = job.sandbox.path("tmp/bundle");
    let umoci = Requirement::Umoci.program().context("umoci")?;
    let unpack = ["unpack", "--rootless", "--image", &unpacked, "tmp/bundle"];
    job.sandbox.command(&umoci, unpack).unprivileged().run()?.expect(0)?;
    let root = bundle.join("rootfs");
    let tree = root.to_str().context("a path of text")?;
    let arguments = [&[manifest, tree], &no_devices[..]].concat();
    let report = job.findings(&arguments, 0, "gate: passed")?;
    ensure!(report.drifts.is_empty() && report.summary["scope"] == "partial", "{}", report.summary);
    ensure!(report.summary["excluded"]["local"][0] == "dev/*", "{}", report.summary);
    ensure!(report.summary["files_hashed"].as_u64() > Some(1000), "it was read: {}", report.summary);
    let expected = tampered(&root)?;
    let report = job.findings(&arguments, 7, "refused: the tree is not what was sealed")?;
    ensure_same(&expected, &report.drifts)?;
    ensure!(job.results(&arguments, 7)? == expected.len(), "one result for each");
    // What is named does not fail any more; what is left does.
    let arguments = [&arguments[..], &["--exclude", "usr/bin/*", "--fail-on", "removed,changed"]].concat();
    let report = job.findings(&arguments, 4, "refused")?;
    ensure_same(&expected.into_iter().filter(|d| !d.path.starts_with(b"usr/bin/")).collect(), &report.drifts)?;
    let arguments = [&arguments[..], &["--only", "target", "--exclude", "etc/issue"]].concat();
    job.findings(&arguments, 0, "gate: passed")?;

    // What nobody may read is no pass, whatever fails.
    fs::set_permissions(root.join("etc/passwd"), Permissions::from_mode(0o000))?;
    std::os::unix::fs::chown(root.join("etc/passwd"), Some(0), Some(0))?;
    let gap = [manifest, tree, "--exclude", "dev/*", "--fail-on", "unverifiable"];
    job.findings(&gap, 8, "refused: not everything could be verified")?;
    Ok(())
}

fn tampered(root: &Path) -> Result<BTreeSet<Drift>> {
    Ok(BTreeSet::from([
        tamper::content_under_old_size_and_time(root, "usr/bin/dpkg")?,
        tamper::remove(root, "usr/bin/tac")?,
        tamper::add(root, "usr/bin/implant")?,
        tamper::add(root, b"usr/caf\xe9")?,
        tamper::append(root, "etc/group")?,
        tamper::file_to_directory(root, "etc/issue")?,
    ]))
}

fn no_verdict() -> Result<()> {
    let job = Job::new()?;
    let tree = job.sandbox.tree("tree")?;
    tree.file("etc/motd", "hello\n")?;
    let good = job.sandbox.seal(format!("dir:{}", tree.root().display()), "good.manifest")?;
    let broken = job.sandbox.write("broken.manifest", "{\"driftlock\":1")?;
    let [good, broken] = [good, broken].map(|path| path.display().to_string());
    for (arguments, code, says) in [
        (&[][..], 64, "usage: gate.sh"),
        (&[good.as_str()], 64, "usage: gate.sh"),
        (&[good.as_str(), "tree", "--only", "colour"], 64, "no verdict: the scan ended with 64"),
        (&[broken.as_str(), "tree"], 65, "no verdict: the scan ended with 65"),
        (&["no.manifest", "tree"], 66, "no verdict: the scan ended with 66"),
        (&["oci:nowhere", "tree"], 66, "nowhere"),
        (&[good.as_str(), "nowhere:tag"], 74, "nowhere:tag cannot be unpacked"),
        (&[good.as_str(), "tree", "--require-signed"], 77, "no verdict: the scan ended with 77"),
    ] {
        let finished = job.gate(arguments, "sarif")?.expect(code)?;
        ensure!(finished.stderr.contains(says) && !finished.stderr.contains("passed"), "{arguments:?}: {finished:?}");
    }
    ensure!(job.gate(&[&good, "tree"], "text")?.expect(0)?.stderr == "gate: passed\n", "the good one passes");
    job.left_nothing()
}
