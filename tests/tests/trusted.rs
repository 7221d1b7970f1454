//! Whom commands and agents believe: keys and trust files, bundles, assignments, by the host's clock; what is refused, and
//! what an agent does then. Belongs here: what needs the real command or the real agent. Attacks on the bytes themselves
//! are beside the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::trust::Timestamp;
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::binaries::binaries;
use driftlock_tests::clock::Clock;
use driftlock_tests::collector::{Collector, CollectorHome};
use driftlock_tests::drift::Drift;
use driftlock_tests::http;
use driftlock_tests::require::{Requirement, run, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::signed::{assign, bundle, key, key_id, public_key, put};
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use serde_json::Value;

const HOST: &str = "web-1";

fn main() -> ExitCode {
    run(vec![
        trial("scan_believes_what_a_key_signed_and_refuses_everything_else", &[], scan_by_key),
        trial("scan_says_by_which_key_in_every_form", &[], scan_says_by_which_key),
        trial("a_clock_far_off_is_refused_and_said", &[Requirement::Faketime], a_clock_far_off),
        trial("check_config_says_whom_it_trusts_and_everything_that_is_wrong", &[], check_config),
        trial("an_agent_shows_by_whom_its_manifest_is_signed", &[], an_agent_shows_the_key),
        trial("a_bare_manifest_where_a_bundle_was_is_refused_and_the_last_baseline_stays", &[], a_bare_manifest),
        trial("a_key_file_replaced_while_running_takes_effect", &[], a_key_file_replaced),
        trial("without_a_trusted_manifest_heartbeats_go_on", &[], untrusted_from_the_start),
        trial("an_assignment_moves_a_target_on_and_back_and_a_replayed_one_is_refused", &[], assignments),
        trial("a_new_release_is_no_alarm_in_its_window_and_what_is_stale_is_one_finding_after_it", &[], switching),
        trial("what_expires_while_an_agent_runs_is_said_at_that_moment", &[], expiry),
        trial("an_agent_that_starts_with_a_refused_bundle_goes_on_with_the_last_baseline", &[], restarted),
        trial("what_is_kept_of_the_last_baseline_is_not_believed_blindly", &[], kept_and_changed),
        trial("a_clock_set_back_under_a_restarted_agent_brings_back_nothing", &[], clock_set_back),
        trial("a_clock_that_was_ahead_by_mistake_ends_nothing_for_ever", &[], clock_ahead),
    ])
}

fn sealed(sandbox: &Sandbox) -> Result<(Tree, PathBuf)> {
    let tree = sandbox.tree("tree")?;
    tree.file("etc/app.toml", "level = 1\n")?.file("bin/app", "program\n")?;
    let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
    Ok((tree, manifest))
}

fn scan(sandbox: &Sandbox, manifest: &Path, root: &Path, more: &[&str]) -> Result<Finished> {
    let mut arguments = vec!["scan".to_owned(), "--manifest".to_owned(), manifest.display().to_string()];
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments.push(root.display().to_string());
    sandbox.driftlock(arguments).run()
}

fn scan_by_key() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, bare) = sealed(&sandbox)?;
    let app = sandbox.path("app.bundle");
    bundle(&bare, &app, &[1])?;
    let [one, two] = [1, 2].map(|number| public_key(&sandbox, number).map(|path| format!("--key={}", path.display())));
    let (one, two) = (one?, two?);
    let private = sandbox.write("private.pub", key(1)?.to_pem().as_ref())?;
    let private = format!("--key={}", private.display());
    for (manifest, arguments, code, says) in [
        (&app, vec![one.as_str()], 0, ""),
        (&app, vec![&two, &one], 0, ""),
        (&app, vec!["--require-signed", &one], 0, ""),
        (&app, vec!["--allow-unsigned"], 0, ""),
        (&bare, vec![], 0, ""),
        (&bare, vec!["--allow-unsigned"], 0, ""),
        (&app, vec![], 77, "--key FILE, or --allow-unsigned"),
        (&app, vec![&two], 77, "signed by 0 of the 1 trusted key(s)"),
        (&app, vec!["--require-signed"], 77, "no key is trusted with manifests: name the key"),
        (&bare, vec![&one], 77, "nobody signed it: name a bundle"),
        (&bare, vec!["--require-signed"], 77, "nobody signed it"),
        (&app, vec![&one, "--allow-unsigned"], 64, "cannot be used with"),
        (&app, vec!["--key=nowhere.pub"], 66, "nowhere.pub"),
        (&app, vec![&private], 65, "give its public key"),
    ] {
        let finished = scan(&sandbox, manifest, tree.root(), &arguments)?.expect(code)?;
        ensure!(finished.stderr.contains(says), "{arguments:?}: {finished:?}");
        if code != 0 && code != 64 {
            ensure!(finished.stdout.is_empty() && finished.stderr.lines().count() == 1, "{finished:?}");
        }
    }
    Ok(())
}

fn scan_says_by_which_key() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, bare) = sealed(&sandbox)?;
    let app = sandbox.path("app.bundle");
    bundle(&bare, &app, &[1])?;
    let id = key_id(1)?;
    let key = format!("--key={}", public_key(&sandbox, 1)?.display());
    let said = |more: &[&str]| -> Result<String> {
        let mut arguments = vec![key.as_str()];
        arguments.extend(more);
        Ok(scan(&sandbox, &app, tree.root(), &arguments)?.expect(0)?.text()?.to_owned())
    };
    let summary: Value = serde_json::from_str(&said(&["--format=json"])?)?;
    let manifest = &summary["summary"]["manifest"];
    ensure!(manifest["trust"] == "signed" && manifest["key"] == id.as_str(), "{summary}");
    ensure!(said(&[])?.contains(&format!(", signed by {id}")), "{}", said(&[])?);
    ensure!(said(&["--format=junit"])?.contains(&format!("name=\"manifest.key\" value=\"{id}\"")));
    let unseen = scan(&sandbox, &app, tree.root(), &["--allow-unsigned", "--format=json"])?.expect(0)?;
    let unseen: Value = serde_json::from_str(unseen.text()?)?;
    let manifest = &unseen["summary"]["manifest"];
    ensure!(manifest["trust"] == "unsigned" && manifest.get("key").is_none(), "{unseen}");
    Ok(())
}

/// The clock of one process is another one.
fn a_clock_far_off() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, bare) = sealed(&sandbox)?;
    let app = sandbox.path("app.bundle");
    bundle(&bare, &app, &[1])?;
    let key = public_key(&sandbox, 1)?;
    let scan = |time: &str| {
        let arguments = [
            "-f".as_ref(),
            time.as_ref(),
            binaries().driftlock.as_os_str(),
            "scan".as_ref(),
            "--manifest".as_ref(),
            app.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
            tree.root().as_os_str(),
        ];
        sandbox.command(Path::new("faketime"), arguments).run()
    };
    scan("@2030-01-01 00:00:00")?.expect(0)?;
    let refused = scan("@2001-01-01 00:00:00")?.expect(77)?;
    let says = "this host's clock says 2001-01-01T00:00:0";
    ensure!(refused.stderr.contains(says) && refused.stderr.contains("set it"), "{refused:?}");
    Ok(())
}

/// A sealed and signed tree, a collector, and an agent that believes the key 1.
struct Stage {
    // In the order in which they are to end: the sandbox last.
    collector: Collector,
    home: AgentHome,
    tree: Tree,
    bare: PathBuf,
    bundle: PathBuf,
    key: PathBuf,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let (tree, bare) = sealed(&sandbox)?;
        let app = sandbox.path("app.bundle");
        bundle(&bare, &app, &[1])?;
        let key = public_key(&sandbox, 1)?;
        let collector = CollectorHome::new(&sandbox, &[HOST])?.start(&sandbox)?;
        let mut home = AgentHome::new(&sandbox, HOST)?.target("app", tree.root(), &app).reports_to(collector.address());
        home.unsigned = false;
        home.keys = format!("trust = [{key:?}]\n");
        Ok(Self { collector, home, tree, bare, bundle: app, key, sandbox })
    }

    fn start(&self) -> Result<Agent> {
        self.home.start(&self.sandbox)
    }

    /// As [`Stage::start`], and its first heartbeat came.
    fn start_and_hear(&self) -> Result<Agent> {
        let starts = || Ok::<_, anyhow::Error>(self.host()?["agent"]["starts"].clone());
        let before = starts()?;
        let agent = self.start()?;
        eventually("a heartbeat of another run", || {
            ensure!(starts()? != before, "{before}");
            Ok::<_, anyhow::Error>(())
        })?;
        Ok(agent)
    }

    fn host(&self) -> Result<Value> {
        let hosts = self.collector.hosts()?;
        hosts.into_iter().find(|host| host["host"] == HOST).context("no such host")
    }

    /// What the collector knows of the target.
    fn target(&self) -> Result<Value> {
        Ok(self.host()?["targets"][0].clone())
    }

    /// Waits for a condition, or for its end; the lines of what is open.
    fn eventually(&self, reason: &str, open: bool) -> Result<String> {
        eventually(&format!("{reason} {open}"), || {
            let said = http::get(self.collector.address(), "/v1/conditions?state=open")?.json()?.to_string();
            ensure!(said.contains(&format!("\"{reason}\"")) == open, "{said}");
            Ok::<_, anyhow::Error>(said)
        })
    }

    /// What is compared with what was accepted last is still found.
    fn still_finds(&self, content: &str) -> Result<()> {
        self.tree.file("etc/app.toml", content)?;
        self.collector.eventually_open(&[Drift::changed("etc/app.toml", &["content"])].into())
    }
}

fn check_config() -> Result<()> {
    let stage = Stage::new()?;
    let file = stage.sandbox.path("checked.toml");
    let check = |home: &AgentHome| {
        fs::write(&file, home.config())?;
        stage.sandbox.driftlock(["check-config".as_ref(), "--config".as_ref(), file.as_os_str()]).run()
    };
    let text = check(&stage.home)?.expect(0)?.text()?.to_owned();
    ensure!(text.contains("signed") && text.contains(&key_id(1)?) && text.contains("k1.pub"), "{text}");
    let roots = stage.sandbox.write("trust.toml", "version = 1\n[[key]]\nname = 'build'\npem = 'x'\nexpire = 1\n")?;
    let mut home = stage.home.clone();
    home.keys = format!("trust = {roots:?}\n");
    let refused = check(&home)?.expect(78)?;
    for says in [
        "target app: ",
        "trust.toml:4:7: key.pem: not a key",
        "trust.toml:5:1: unknown key key.expire; did you mean key.expires?",
        "there is no [role.manifest]",
    ] {
        ensure!(refused.stderr.contains(says), "{says}: {refused:?}");
    }
    let mut home = stage.home.clone();
    home.keys = format!("trust = {:?}\n", stage.key);
    let refused = check(&home)?.expect(78)?;
    ensure!(refused.stderr.contains("a key stands in a list, trust = ["), "{refused:?}");
    home.keys.clear();
    let refused = check(&home)?.expect(78)?;
    ensure!(refused.stderr.contains("nobody is trusted with this manifest"), "{refused:?}");
    Ok(())
}

fn an_agent_shows_the_key() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    let manifest = stage.target()?["manifest"].clone();
    ensure!(manifest["trust"] == "signed" && manifest["key"] == key_id(1)?.as_str(), "{manifest}");
    let page = http::get(stage.collector.address(), &format!("/host?name={HOST}"))?.text();
    ensure!(page.contains("signed") && page.contains(&key_id(1)?), "{page}");
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn a_bare_manifest() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    let good = fs::read(&stage.bundle)?;
    put(&stage.bundle, &fs::read(&stage.bare)?)?;
    let said = stage.eventually("manifest_refused", true)?;
    ensure!(said.contains("nobody signed it"), "{said}");
    stage.still_finds("other\n")?;
    ensure!(stage.target()?["manifest"]["trust"] == "signed", "{}", stage.target()?);
    put(&stage.bundle, &good)?;
    stage.eventually("manifest_refused", false)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn a_key_file_replaced() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    put(&stage.key, key(2)?.public().to_pem().as_bytes())?;
    let said = stage.eventually("manifest_refused", true)?;
    ensure!(said.contains("signed by 0 of the 1 trusted key(s)"), "{said}");
    stage.still_finds("other\n")?;
    // Signed anew by the key that is trusted now.
    bundle(&stage.bare, &stage.bundle, &[2])?;
    stage.eventually("manifest_refused", false)?;
    eventually("the other key", || {
        let manifest = stage.target()?["manifest"].clone();
        ensure!(manifest["key"] == key_id(2)?.as_str(), "{manifest}");
        Ok::<_, anyhow::Error>(())
    })?;
    put(&stage.key, b"-----BEGIN nonsense")?;
    let said = stage.eventually("manifest_refused", true)?;
    ensure!(said.contains("k1.pub: "), "{said}");
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn untrusted_from_the_start() -> Result<()> {
    let stage = Stage::new()?;
    bundle(&stage.bare, &stage.bundle, &[2])?;
    let agent = stage.start()?;
    stage.eventually("manifest_refused", true)?;
    stage.collector.eventually_host(HOST, "blind")?;
    ensure!(stage.target()?["manifest"].is_null(), "{}", stage.target()?);
    bundle(&stage.bare, &stage.bundle, &[1])?;
    stage.eventually("manifest_refused", false)?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn assignments() -> Result<()> {
    let mut stage = Stage::new()?;
    let bundles = stage.sandbox.path("bundles");
    fs::create_dir(&bundles)?;
    let file = stage.sandbox.path("app.assignment");
    let release = |bare: &Path, name: &str| -> Result<_> {
        let sha256 = bundle(bare, &bundles.join(name), &[1])?;
        fs::rename(bundles.join(name), bundles.join(format!("{sha256}.bundle")))?;
        Ok(sha256)
    };
    let old = release(&stage.bare, "old")?;
    let next = stage.sandbox.tree("next")?;
    next.file("etc/app.toml", "level = 2\n")?.file("bin/app", "program\n")?;
    let bare = stage.sandbox.seal(format!("dir:{}", next.root().display()), "next.manifest")?;
    let new = release(&bare, "new")?;
    stage.home = AgentHome::new(&stage.sandbox, HOST)?
        .target("app", stage.tree.root(), &bundles)
        .reports_to(stage.collector.address());
    stage.home.unsigned = false;
    stage.home.keys = format!("trust = [{:?}]\nassignment = {file:?}\n", stage.key);

    let first = assign(&file, 1, 1, old, None)?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    // The next release: the assignment is all that is replaced.
    assign(&file, 1, 2, new, None)?;
    let as_in = |level: &str| stage.collector.eventually_open(&[Drift::changed("etc/app.toml", &[level])].into());
    as_in("content")?;
    stage.tree.file("etc/app.toml", "level = 2\n")?;
    stage.collector.eventually_host(HOST, "clean")?;
    // Somebody puts the old one back.
    put(&file, &first)?;
    let said = stage.eventually("manifest_refused", true)?;
    ensure!(said.contains("its serial is 1, and 2 was accepted before"), "{said}");
    // A restart forgets nothing, and goes on with what was accepted last.
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    let agent = stage.start_and_hear()?;
    stage.collector.eventually_host(HOST, "blind")?;
    stage.eventually("manifest_refused", true)?;
    ensure!(stage.target()?["manifest"]["sha256"] == new.to_string(), "{}", stage.target()?);
    // Going back is a new assignment of the old manifest.
    stage.tree.file("etc/app.toml", "level = 1\n")?;
    assign(&file, 1, 3, old, None)?;
    stage.eventually("manifest_refused", false)?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn switching() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.tree.file("share/old", "old\n")?.file("share/stale", "stale\n")?;
    let old = stage.sandbox.seal(format!("dir:{}", stage.tree.root().display()), "old.manifest")?;
    bundle(&old, &stage.bundle, &[1])?;
    let next = stage.sandbox.tree("next")?;
    next.file("etc/app.toml", "level = 2\n")?.file("bin/app", "program\n")?.file("share/new", "new\n")?;
    let new = stage.sandbox.seal(format!("dir:{}", next.root().display()), "new.manifest")?;
    let keys = stage.home.keys.clone();
    stage.home.keys = format!("{keys}switch_window = \"1h\"\n");
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;

    let switched = bundle(&new, &stage.bundle, &[1])?;
    let is_switching = |wanted: bool| {
        eventually(&format!("switching {wanted}"), || {
            let target = stage.target()?;
            ensure!(target["manifest"]["sha256"] == switched.to_string(), "{target}");
            ensure!(target["coverage"]["switch_until"].is_string() == wanted, "{target}");
            Ok::<_, anyhow::Error>(())
        })
    };
    is_switching(true)?;
    // Nothing of the new release is there yet, and that is no finding; what is in neither is one at once.
    let foreign: BTreeSet<Drift> = [Drift::added("share/foreign")].into();
    stage.tree.file("share/foreign", "foreign\n")?;
    stage.collector.eventually_open(&foreign)?;
    // Step by step.
    stage.tree.file("etc/app.toml", "level = 2\n")?.file("share/new", "new\n")?;
    fs::remove_file(stage.tree.path("share/old"))?;
    // A restart meanwhile forgets nothing: the file that stays is looked at again, and is not said.
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    stage.tree.file("share/foreign", "other\n")?;
    let agent = stage.start()?;
    is_switching(true)?;
    eventually("the foreign file as it is now", || {
        let open = stage.collector.findings("open")?;
        ensure!(open.len() == 1 && open[0]["observed"]["size"] == 6, "{open:#?}");
        Ok::<_, anyhow::Error>(())
    })?;
    // The end of it: what is still as before is found, once.
    fs::write(stage.home.config_file(), stage.home.config().replace("\"1h\"", "\"0s\""))?;
    is_switching(false)?;
    stage.collector.eventually_open(&[Drift::added("share/foreign"), Drift::added("share/stale")].into())?;
    fs::remove_file(stage.tree.path("share/foreign"))?;
    fs::remove_file(stage.tree.path("share/stale"))?;
    stage.collector.eventually_host(HOST, "clean")?;
    let mut said: Vec<_> = stage.collector.findings("")?.iter().map(|finding| finding["path"].clone()).collect();
    said.sort_by_key(ToString::to_string);
    ensure!(said == ["share/foreign", "share/stale"], "{said:?}");

    // The other way its end comes by itself.
    fs::write(stage.home.config_file(), stage.home.config().replace("\"1h\"", "\"3s\""))?;
    bundle(&old, &stage.bundle, &[1])?;
    stage.collector.eventually_open(
        &[
            Drift::changed("etc/app.toml", &["content"]),
            Drift::removed("share/old"),
            Drift::removed("share/stale"),
            Drift::added("share/new"),
        ]
        .into(),
    )?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn expiry() -> Result<()> {
    let mut stage = Stage::new()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    // Long enough for the agent to begin on a busy machine.
    let end = Timestamp::from_unix(i64::try_from(now)? + 15);
    let roots = format!(
        "version = 1\n[[key]]\nname = \"build\"\npem = \"\"\"\n{}\"\"\"\nexpires = {end}\n[role.manifest]\nkeys = [\"build\"]\n",
        key(1)?.public().to_pem()
    );
    let file = stage.sandbox.write("trust.toml", &roots)?;
    stage.home.keys = format!("trust = {file:?}\n");
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    let said = stage.eventually("manifest_expired", true)?;
    ensure!(said.contains(&format!("counted until {end}")), "{said}");
    stage.still_finds("other\n")?;
    // A restart changes nothing; without what it kept the manifest was never trusted.
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    let agent = stage.start_and_hear()?;
    stage.eventually("manifest_expired", true)?;
    stage.still_finds("another\n")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    stage.home.forget()?;
    let agent = stage.start()?;
    eventually("no manifest", || {
        ensure!(stage.target()?["manifest"].is_null(), "{}", stage.target()?);
        Ok::<_, anyhow::Error>(())
    })?;
    stage.eventually("manifest_expired", true)?;
    put(&file, roots.replace(&format!("expires = {end}\n"), "").as_bytes())?;
    stage.eventually("manifest_expired", false)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn restarted() -> Result<()> {
    let stage = Stage::new()?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    let accepted = stage.target()?["manifest"].clone();
    let good = fs::read(&stage.bundle)?;
    // However it ended, and whatever lies there by then.
    agent.kill()?;
    fs::remove_file(&stage.bundle)?;
    fs::remove_file(stage.bundle.with_file_name(format!("{}.manifest", text(&accepted["sha256"])?)))?;
    let agent = stage.start_and_hear()?;
    stage.eventually("manifest_refused", true)?;
    stage.still_finds("other\n")?;
    ensure!(stage.target()?["manifest"] == accepted, "{}", stage.target()?);
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    for (attack, bytes) in [
        ("a bare manifest where a bundle was", fs::read(&stage.bare)?),
        ("a truncated bundle", good[..good.len() - 2].to_vec()),
    ] {
        put(&stage.bundle, &bytes)?;
        let agent = stage.start_and_hear()?;
        stage.tree.file("etc/app.toml", "level = 1\n")?;
        stage.collector.eventually_open(&BTreeSet::new())?;
        stage.still_finds("other\n")?;
        stage.eventually("manifest_refused", true)?;
        ensure!(stage.target()?["manifest"] == accepted, "{attack}: {}", stage.target()?);
        ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    }
    // The next release is accepted by a restart as ever, and is then the last one.
    stage.tree.file("etc/app.toml", "level = 2\n")?;
    let next = stage.sandbox.seal(format!("dir:{}", stage.tree.root().display()), "next.manifest")?;
    let next = bundle(&next, &stage.bundle, &[1])?;
    let agent = stage.start()?;
    stage.eventually("manifest_refused", false)?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    fs::remove_file(&stage.bundle)?;
    let agent = stage.start_and_hear()?;
    stage.eventually("manifest_refused", true)?;
    stage.still_finds("other\n")?;
    ensure!(stage.target()?["manifest"]["sha256"] == next.to_string(), "{}", stage.target()?);
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("{value} is no text"))
}

fn kept_and_changed() -> Result<()> {
    let mut stage = Stage::new()?;
    let agent = stage.start()?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    put(&stage.bundle, &fs::read(&stage.bare)?)?;
    let is_untrusted = |stage: &Stage, why: &str| -> Result<()> {
        let agent = stage.start_and_hear()?;
        ensure!(stage.target()?["manifest"].is_null(), "{why}: {}", stage.target()?);
        stage.eventually("manifest_refused", true)?;
        ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
        Ok(())
    };
    let kept: Vec<PathBuf> = fs::read_dir(stage.home.state_dir())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"accepted-")))
        .collect();
    ensure!(kept.len() == 2, "{kept:?}");
    for path in &kept {
        let good = fs::read(path)?;
        // What would make the changed file as it should be.
        let other = String::from_utf8(good.clone())?.replacen("etc/app.toml", "etc/app.tomm", 1).into_bytes();
        fs::write(path, if other == good { b"driftlock accepted 1\n".to_vec() } else { other })?;
        is_untrusted(&stage, "what is kept was changed")?;
        fs::write(path, good)?;
    }
    // Of another root it says nothing.
    let elsewhere = stage.sandbox.tree("elsewhere")?;
    let home = stage.home.clone();
    stage.home = AgentHome::new(&stage.sandbox, HOST)?
        .target("app", elsewhere.root(), &stage.bundle)
        .reports_to(stage.collector.address());
    (stage.home.unsigned, stage.home.keys) = (home.unsigned, home.keys.clone());
    is_untrusted(&stage, "another root")?;
    stage.home = home;
    let agent = stage.start_and_hear()?;
    stage.still_finds("other\n")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

const DAY: i64 = 86_400;

/// A trust file with the key 1 until `end`, and the key 2.
fn until(stage: &Stage, end: Timestamp) -> Result<PathBuf> {
    let pem = |number| Ok::<_, anyhow::Error>(key(number)?.public().to_pem());
    let roots = format!(
        "version = 1\n[[key]]\nname = \"old\"\npem = \"\"\"\n{}\"\"\"\nexpires = {end}\n\
         [[key]]\nname = \"new\"\npem = \"\"\"\n{}\"\"\"\n[role.manifest]\nkeys = [\"old\", \"new\"]\n",
        pem(1)?,
        pem(2)?
    );
    stage.sandbox.write("trust.toml", &roots)
}

/// So many seconds from now.
fn in_seconds(seconds: i64) -> Result<Timestamp> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok(Timestamp::from_unix(i64::try_from(now)? + seconds))
}

fn start_with(stage: &Stage, clock: &Clock) -> Result<Agent> {
    let mut command = stage.sandbox.bare_command(&binaries().driftlock);
    clock.give(&mut command);
    stage.home.start_by(command)
}

fn clock_set_back() -> Result<()> {
    let mut stage = Stage::new()?;
    let clock = Clock::new(&stage.sandbox)?;
    let end = in_seconds(-DAY)?;
    stage.home.keys = format!("trust = {:?}\n", until(&stage, end)?);
    bundle(&stage.bare, &stage.bundle, &[2])?;
    let agent = start_with(&stage, &clock)?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");

    // By the clock alone the old key counts.
    clock.set(-30 * DAY)?;
    bundle(&stage.bare, &stage.bundle, &[1])?;
    let mut verify = stage.sandbox.bare_command(&binaries().driftlock);
    clock.give(&mut verify);
    verify.args(["verify", "--trust"]).arg(stage.sandbox.path("trust.toml")).arg(&stage.bundle);
    ensure!(verify.output()?.status.success(), "it does not count by the clock");
    let agent = start_with(&stage, &clock)?;
    let said = stage.eventually("manifest_expired", true)?;
    ensure!(said.contains(&format!("old counted until {end}; judged at ")), "{said}");
    let said = stage.eventually("clock_step", true)?;
    ensure!(said.contains("stop the agent and remove") && said.contains("time.state"), "{said}");
    stage.still_finds("other\n")?;
    let manifest = stage.target()?["manifest"].clone();
    ensure!(manifest["key"] == key_id(2)?.as_str(), "{manifest}");
    // Who asks what the agent would do hears the same.
    let mut check = stage.sandbox.bare_command(&binaries().driftlock);
    clock.give(&mut check);
    let checked = check.args(["check-config", "--config"]).arg(stage.home.config_file()).output()?;
    let complaint = String::from_utf8(checked.stderr)?;
    ensure!(checked.status.code() == Some(78) && complaint.contains("counted until"), "{complaint}");
    // Set right, nothing is to be said of the clock; a new signature is what it takes.
    clock.set(0)?;
    stage.eventually("clock_step", false)?;
    bundle(&stage.bare, &stage.bundle, &[2])?;
    stage.eventually("manifest_expired", false)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn clock_ahead() -> Result<()> {
    let mut stage = Stage::new()?;
    let clock = Clock::new(&stage.sandbox)?;
    stage.home.keys = format!("trust = {:?}\n", until(&stage, in_seconds(300 * DAY)?)?);
    let agent = start_with(&stage, &clock)?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    clock.set(3650 * DAY)?;
    let agent = start_with(&stage, &clock)?;
    stage.eventually("manifest_expired", true)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    clock.set(0)?;
    let agent = start_with(&stage, &clock)?;
    stage.eventually("manifest_expired", false)?;
    stage.collector.eventually_host(HOST, "clean")?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}
