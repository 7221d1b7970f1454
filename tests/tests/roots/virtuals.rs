//! What the kernel makes, mounted inside a root: left out by its type and named, unless it hides what was built. The mounts
//! are real, and only the command sees them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::binaries::binaries;
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::process::Process;
use driftlock_tests::require::Requirement::{self, Namespaces, Root};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use super::held::{Held, scan};

const NEEDS: &[Requirement] = &[Root, Namespaces];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("virtuals::what_the_kernel_makes_is_left_out_and_named", NEEDS, left_out),
        trial("virtuals::in_the_root_of_a_process_they_are_known_too", NEEDS, of_a_process),
        trial("virtuals::what_was_built_is_not_hidden_by_them", NEEDS, hiding),
        trial("virtuals::a_whole_system_is_sealed_and_scanned_from_its_root", NEEDS, whole_system),
        trial("virtuals::an_agent_that_crosses_mounts_does_not_watch_them", NEEDS, crossing_agent),
    ]
}

/// A tree with places for all of it, as images have them, and its manifest.
fn sealed(sandbox: &Sandbox) -> Result<(Tree, PathBuf)> {
    let tree = sandbox.tree("system")?;
    tree.file("etc/conf", "level = 1\n")?.file("bin/app", "#!/bin/sh\n")?.mode("bin/app", 0o755)?;
    for name in ["proc", "sys", "run", "mnt/pts", "mnt/mqueue"] {
        tree.dir(name)?;
    }
    // What builders leave there.
    tree.file("dev/console", "")?.symlink("dev/stdin", "/proc/self/fd/0")?.dir("dev/pts")?;
    mknodat(CWD, tree.path("dev/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "manifest")?;
    Ok((tree, manifest))
}

/// Some in directories, one inside another, one where nothing was sealed, one that is a file.
const MOUNTS: &str = "mount -t proc proc \"$root/proc\"; mount -t sysfs sysfs \"$root/sys\"
    mount -t devtmpfs dev \"$root/dev\"; mount -t devpts pts \"$root/dev/pts\"; mount -t devpts pts \"$root/mnt/pts\"
    mount -t mqueue mqueue \"$root/mnt/mqueue\"; mkdir \"$root/new\"; mount -t proc proc \"$root/new\"
    touch \"$root/netns\"; mount --bind /proc/self/ns/net \"$root/netns\"";
const VIRTUAL: [&str; 7] = ["dev", "mnt/mqueue", "mnt/pts", "netns", "new", "proc", "sys"];
/// Holds files that somebody wrote.
const TMPFS: &str = "\nmount -t tmpfs run \"$root/run\"; mkdir \"$root/run/app\"; touch \"$root/run/app/pid\"";

/// The command line of `program` in a mount namespace, once `script` has mounted something below `$root`.
fn within<A: AsRef<OsStr>>(root: &Path, script: &str, program: impl IntoIterator<Item = A>) -> Vec<OsString> {
    let script = format!("root=$1; shift; {script}\nexec \"$@\"");
    let mut line: Vec<OsString> = ["--mount", "sh", "-euc", &script, "sh"].map(OsString::from).into();
    line.push(root.into());
    line.extend(program.into_iter().map(|word| word.as_ref().to_owned()));
    line
}

fn driftlock_within<'a>(
    sandbox: &Sandbox,
    root: &Path,
    script: &str,
    arguments: impl IntoIterator<Item = &'a OsStr>,
) -> Result<Finished> {
    let program = [binaries().driftlock.as_os_str()].into_iter().chain(arguments);
    sandbox.command(Path::new("unshare"), within(root, script, program)).run()
}

fn left_out() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = sealed(&sandbox)?;
    let report = |script: &str, more: &[&str], code| {
        let arguments = scan(&manifest, tree.root(), more);
        Report::from_ndjson(&driftlock_within(&sandbox, tree.root(), script, arguments)?.expect(code)?)
    };
    let first = report(MOUNTS, &[], 0)?;
    let summary = &first.summary;
    ensure!(first.findings.is_empty() && summary["complete"] == true, "{:?}", first.findings);
    ensure!(summary["excluded"]["virtual"] == json!(VIRTUAL), "{summary}");
    ensure!(summary["scope"] == "partial" && summary["observed_tree"].is_null(), "{summary}");
    ensure!(summary["excluded"].get("mounts").is_none(), "{summary}");

    // As before, beside what is another matter: what was made for the mounts, and a file system for files.
    fs::write(tree.path("etc/conf"), "level = 2\n")?;
    let second = report(&format!("{}{TMPFS}", MOUNTS.replace("mkdir", "true")), &[], 12)?;
    ensure!(second.summary["excluded"]["virtual"] == json!(VIRTUAL), "{}", second.summary);
    let [conf, run] = &second.findings[..] else { anyhow::bail!("{:?}", second.findings) };
    let (conf, run) = if conf["path"] == "run" { (run, conf) } else { (conf, run) };
    ensure!(conf["path"] == "etc/conf" && conf["change"] == "changed", "{conf}");
    let said = json!([run["path"], run["change"], run["reason"], run["covers"]]);
    ensure!(said == json!(["run", "unverifiable", "mount", 1]), "{run}");

    // Excluded is excluded, and not met.
    let third = report(&MOUNTS.replace("mkdir", "true"), &["--exclude", "mnt", "--exclude", "dev/**"], 4)?;
    ensure!(third.summary["excluded"]["virtual"] == json!(["dev", "netns", "new", "proc", "sys"]), "{}", third.summary);

    // Without them everything is there to be compared.
    let none = report("true", &[], 5)?;
    let expected = [Drift::added("new"), Drift::added("netns"), Drift::changed("etc/conf", &["content"])];
    ensure_same(&BTreeSet::from(expected), &none.drifts)?;
    ensure!(none.summary["excluded"].get("virtual").is_none() && none.summary["scope"] == "full", "{}", none.summary);

    let plain = ["scan".as_ref(), "--manifest".as_ref(), manifest.as_os_str(), tree.root().as_os_str()];
    let text = driftlock_within(&sandbox, tree.root(), &MOUNTS.replace("mkdir", "true"), plain)?.expect(4)?;
    let named = format!("; left out as the kernel's: {}\n", VIRTUAL.join(" "));
    ensure!(text.text()?.contains(&named), "{text:?}");
    Ok(())
}

fn of_a_process() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = sealed(&sandbox)?;
    // Its table is another one than that of whoever scans.
    let held = Held::start(&sandbox, tree.root(), &["--mount"], &format!("{MOUNTS}{TMPFS}"))?;
    let report = Report::from_ndjson(&sandbox.driftlock(scan(&manifest, &held.root(), &[])).run()?.expect(0)?)?;
    ensure!(report.summary["excluded"]["virtual"] == json!(VIRTUAL), "{}", report.summary);
    ensure!(report.summary["excluded"]["mounts"] == json!(["run"]), "{}", report.summary);
    Ok(())
}

fn hiding() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = sealed(&sandbox)?;
    // The kernel's over a directory of sealed files; and a file that was made in one in the place of a program.
    let script = "mount -t proc proc \"$root/etc\"; mount -t devtmpfs dev \"$root/dev\"
        made=\"$root/dev/driftlock-test-$$\"; echo evil > \"$made\"; mount --bind \"$made\" \"$root/bin/app\"; rm \"$made\"";
    let arguments = scan(&manifest, tree.root(), &[]);
    let report = Report::from_ndjson(&driftlock_within(&sandbox, tree.root(), script, arguments)?.expect(8)?)?;
    let found: BTreeSet<String> = report
        .findings
        .iter()
        .map(|finding| format!("{} {} {}", finding["path"], finding["reason"], finding["covers"]))
        .collect();
    let expected = ["\"bin/app\" \"mount\" 1", "\"etc\" \"mount\" 2"].map(str::to_owned);
    ensure!(found == BTreeSet::from(expected), "{found:?}");
    ensure!(report.summary["excluded"]["virtual"] == json!(["dev"]), "{}", report.summary);
    Ok(())
}

/// A system that the machine's own programs run in: sealed and scanned as `/`.
fn whole_system() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, _) = sealed(&sandbox)?;
    for name in ["usr", "tmp", "opt"] {
        tree.dir(name)?;
    }
    for link in ["lib", "lib64"] {
        tree.symlink(link, &format!("usr/{link}"))?;
    }
    fs::copy(sandbox.driftlock_for_everyone()?, tree.path("opt/driftlock"))?;
    let script = format!("{MOUNTS}{TMPFS}\nmount --bind /usr \"$root/usr\"");
    let inside = |script: &str, arguments: &[&str], code| {
        let program = ["chroot".as_ref(), tree.root().as_os_str(), "/opt/driftlock".as_ref()];
        let program = program.into_iter().chain(arguments.iter().map(AsRef::as_ref));
        sandbox.command(Path::new("unshare"), within(tree.root(), script, program)).run()?.expect(code)
    };
    let left_out = ["--exclude", "usr", "--exclude", "tmp/**"];
    let seal = ["seal", "dir:/", "-o", "/tmp/manifest"];
    // What is mounted and not the kernel's has to be left out by whoever seals.
    let refused = inside(&script, &[&seal[..], &left_out].concat(), 74)?;
    ensure!(refused.stderr.contains("run: mount; 1 paths could not be read"), "{refused:?}");
    let left_out = ["--exclude", "usr", "--exclude", "tmp/**", "--exclude", "run"];
    let script = script.replace("mkdir \"$root/new\"", "true");
    let said = inside(&script, &[&seal[..], &left_out].concat(), 0)?;
    ensure!(said.stderr.contains(&format!("left out as the kernel's: {}\n", VIRTUAL.join(" "))), "{said:?}");
    let manifest = fs::read_to_string(tree.path("tmp/manifest"))?;
    let header: Value = serde_json::from_str(manifest.lines().next().context("a header")?)?;
    let noted = json!({"code": "virtual-mount", "count": VIRTUAL.len()});
    ensure!(header["diagnostics"].as_array().is_some_and(|all| all.contains(&noted)), "{header}");
    // That there is something, and of what type; nothing of what the kernel says there.
    for line in [r#"{"p":"proc","t":"d"}"#, r#"{"p":"netns","t":"f"}"#] {
        ensure!(manifest.lines().any(|other| other == line), "no {line} in {manifest}");
    }
    ensure!(!manifest.contains("\"proc/"), "{manifest}");

    let scan = ["scan", "--format", "ndjson", "--manifest", "/tmp/manifest", "/"];
    let report = Report::from_ndjson(&inside(&script, &scan, 0)?)?;
    ensure!(report.findings.is_empty() && report.summary["complete"] == true, "{:?}", report.findings);
    ensure!(report.summary["excluded"]["virtual"] == json!(VIRTUAL), "{}", report.summary);
    tree.file("etc/conf", "level = 2\n")?.file("etc/new", "")?;
    let report = Report::from_ndjson(&inside(&script, &scan, 5)?)?;
    let expected = [Drift::changed("etc/conf", &["content"]), Drift::added("etc/new")];
    ensure_same(&BTreeSet::from(expected), &report.drifts)
}

fn crossing_agent() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = sealed(&sandbox)?;
    let wire = FakeCollector::start([], Then::Accept)?;
    let mut home =
        AgentHome::new(&sandbox, "host")?.target("system", tree.root(), &manifest).reports_to(wire.address());
    home.keys = "mounts = \"cross\"".to_owned();
    // Its watches can be counted.
    home.watch = "inotify".to_owned();
    let mut command = sandbox.bare_command(Path::new("unshare"));
    command.args(within(tree.root(), &format!("{MOUNTS}{TMPFS}"), [&binaries().driftlock]));
    let mut agent = home.start_by(command)?;
    eventually("a heartbeat that names what is virtual", || {
        let beat = wire.events().into_iter().rfind(|event| event["type"] == "dev.driftlock.agent.heartbeat.v1");
        let coverage = beat.context("no heartbeat")?["data"]["targets"][0]["coverage"].clone();
        ensure!(coverage["virtual"] == json!(VIRTUAL), "{coverage}");
        ensure!(coverage["unwatched"] == 0 && coverage["unverifiable"] == 0, "{coverage}");
        Ok::<_, anyhow::Error>(())
    })?;
    let verified = wire.events().into_iter().find(|event| event["type"] == "dev.driftlock.target.verified.v1");
    let summary = verified.context("nothing was verified")?["data"]["summary"].clone();
    ensure!(summary["excluded"]["virtual"] == json!(VIRTUAL) && summary["complete"] == true, "{summary}");
    // Beside the directories of the tree that nothing hides, those of the file system that is crossed, the directory that
    // the root lies in, and no other: each of what the kernel mounted has many.
    let directories = ["", "bin", "etc", "mnt", "run", "run/app"].len();
    let watches = watches_of(agent.process(), &tree)?;
    ensure!(watches == directories + 1, "{watches} watches");
    let raised = wire.history()?.raised()?;
    let expected = [&b"run"[..], b"run/app", b"run/app/pid"].map(<[u8]>::to_vec);
    ensure!(raised == BTreeSet::from(expected), "{raised:?}");
    ensure!(agent.stop()? == 0, "a clean end");
    Ok(())
}

/// How many watches the inotify instance has that watches `tree`: see proc_pid_fdinfo(5).
fn watches_of(agent: &Process, tree: &Tree) -> Result<usize> {
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(tree.root())?);
    let root = format!(" ino:{inode:x} ");
    for file in fs::read_dir(format!("/proc/{}/fdinfo", agent.id()))? {
        // It may be closed by now.
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        let watches: Vec<&str> = text.lines().filter(|line| line.starts_with("inotify ")).collect();
        if watches.iter().any(|watch| watch.contains(&root)) {
            return Ok(watches.len());
        }
    }
    anyhow::bail!("nothing watches {}", tree.root().display())
}
