//! Manifests by way of the collector: pushed there, had by agents, verified against what the host trusts. The collector lies
//! in every way that it can, and never changes what counts. Belongs here: what needs the real push, collector and agent.

mod liar;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::digest::Digest;
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::collector::{Collector, CollectorHome, token_of};
use driftlock_tests::drift::Drift;
use driftlock_tests::http;
use driftlock_tests::process::Stream;
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::signed::{assign, bundle, public_key};
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use liar::{Liar, Lie};
use serde_json::Value;

const HOST: &str = "web-1";

fn main() -> ExitCode {
    run(vec![
        trial("an_agent_has_its_manifest_from_the_collector_and_keeps_it_for_a_start_without_one", &[], had_and_kept),
        trial("whatever_a_collector_says_of_a_bundle_or_a_manifest_the_last_accepted_stays", &[], lies),
        trial("an_assignment_binds_the_target_and_an_older_one_is_refused_whoever_hands_it_out", &[], assigned),
        trial("push_sends_nothing_that_nobody_could_use_and_needs_its_token", &[], push_refuses),
    ])
}

/// A collector, a liar before it, an agent that believes the key 1 and has its manifest from there.
struct Stage {
    // In the order in which they are to end: the sandbox last.
    agent: Option<Agent>,
    liar: Liar,
    collector: Option<Collector>,
    /// The file with the token by which manifests are pushed.
    pushing: PathBuf,
    home: AgentHome,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new(more: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.toml", "level = 1\n")?.file("bin/app", "program\n")?;
        let collectors = CollectorHome::new(&sandbox, &[HOST])?;
        let collector = collectors.start(&sandbox)?;
        let pushing = collectors.token_file(&sandbox, &["--push"])?;
        let liar = Liar::before(collector.address())?;
        let key = public_key(&sandbox, 1)?;
        let mut home = AgentHome::new(&sandbox, HOST)?.collected_target("app", tree.root()).reports_to(liar.address());
        home.unsigned = false;
        home.keys = format!("trust = [{key:?}]\n{more}");
        home.sinks = "[[sink]]\ntype = \"stdout\"\n".to_owned();
        Ok(Self { agent: None, liar, collector: Some(collector), pushing, home, tree, sandbox })
    }

    /// Seals the tree as it is and signs it; where the bundle is, and SHA-256 of its manifest.
    fn release(&self, name: &str, by: &[u8]) -> Result<(PathBuf, Digest)> {
        let bare = self.sandbox.seal(format!("dir:{}", self.tree.root().display()), &format!("{name}.bare"))?;
        let file = self.sandbox.path(format!("{name}.bundle"));
        let sha256 = bundle(&bare, &file, by)?;
        Ok((file, sha256))
    }

    fn push(&self, more: &[&str], files: &[&Path]) -> Result<Finished> {
        let address = self.collector()?.address();
        let mut arguments = vec!["push".to_owned(), "--to".to_owned(), format!("http://{address}")];
        arguments.extend(["--token-file".to_owned(), self.pushing.display().to_string()]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments.extend(files.iter().map(|file| file.display().to_string()));
        self.sandbox.driftlock(arguments).run()
    }

    fn collector(&self) -> Result<&Collector> {
        self.collector.as_ref().context("no collector")
    }

    fn start(&mut self) -> Result<()> {
        self.agent = Some(self.home.start(&self.sandbox)?);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let code = self.agent.take().context("no agent")?.stop()?;
        ensure!(code == 0, "exit {code}");
        Ok(())
    }

    fn open(&self, expected: &[Drift]) -> Result<()> {
        self.collector()?.eventually_open(&expected.iter().cloned().collect())
    }

    /// The manifest that the agent says it compares with.
    fn compares_with(&self, sha256: Digest) -> Result<()> {
        eventually("the agent to compare with it", || {
            let hosts = self.collector()?.hosts()?;
            let host = hosts.iter().find(|host| host["host"] == HOST).context("no such host")?;
            ensure!(host["targets"][0]["manifest"]["sha256"] == sha256.to_string(), "{host}");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Waits until the condition is open and says this, or is not open.
    fn refused(&self, says: Option<&str>) -> Result<()> {
        eventually(&format!("manifest_refused {says:?}"), || {
            let open = http::get(self.collector()?.address(), "/v1/conditions?state=open")?.json()?;
            let lines = open["conditions"].as_array().context("conditions")?;
            let line =
                lines.iter().find(|one| one["reason"] == "manifest_refused").map(|one| one["detail"].to_string());
            let found = match (&line, says) {
                (Some(line), Some(says)) => line.contains(says),
                (line, says) => line.is_none() && says.is_none(),
            };
            ensure!(found, "{line:?}");
            Ok::<_, anyhow::Error>(())
        })
    }
}

fn changed() -> Drift {
    Drift::changed("etc/app.toml", &["content"])
}

fn had_and_kept() -> Result<()> {
    let mut stage = Stage::new("")?;
    // Before anything was pushed there is nothing to compare with, and that is said.
    stage.start()?;
    stage.refused(Some("nothing was had from the collector yet"))?;
    let (first, sha256) = stage.release("first", &[1])?;
    let said = stage.push(&["--for", "web-*/app"], &[&first])?.expect(0)?;
    ensure!(said.stderr.contains(&format!("pushed manifest {sha256}")), "{said:?}");
    stage.compares_with(sha256)?;
    stage.refused(None)?;
    stage.collector()?.eventually_host(HOST, "clean")?;
    stage.tree.file("etc/app.toml", "level = 2\n")?;
    stage.open(&[changed()])?;
    // The next release is pushed, and nothing on the host is touched.
    let (second, sha256) = stage.release("second", &[1])?;
    stage.push(&["--for", "web-1/app"], &[&second])?.expect(0)?;
    stage.compares_with(sha256)?;
    stage.open(&[])?;
    // Who pushed what, and what counts where.
    let listing = http::get(stage.collector()?.address(), "/v1/manifests")?.json()?;
    let kinds: Vec<&Value> = listing["items"].as_array().context("items")?.iter().map(|item| &item["kind"]).collect();
    ensure!(kinds == ["manifest", "bundle", "manifest", "bundle"], "{listing}");
    ensure!(listing["items"][0]["pushed_by"].as_str().is_some_and(|by| by.contains("127.0.0.1")), "{listing}");
    let hosts: Vec<&Value> =
        listing["pointers"].as_array().context("pointers")?.iter().map(|one| &one["hosts"]).collect();
    ensure!(hosts == ["web-*", "web-1"], "{listing}");
    // No collector any more: a start goes on with what was had.
    stage.stop()?;
    ensure!(stage.collector.take().context("a collector")?.stop()? == 0);
    stage.tree.file("etc/app.toml", "level = 3\n")?;
    stage.start()?;
    let found = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        let is =
            event["type"] == "dev.driftlock.finding.opened.v1" && event["data"]["finding"]["path"] == "etc/app.toml";
        is.then_some(())
    };
    stage.agent.as_mut().context("no agent")?.process().line(Stream::Stdout, found)?;
    stage.stop()
}

fn lies() -> Result<()> {
    let mut stage = Stage::new("")?;
    let (good, accepted) = stage.release("good", &[1])?;
    stage.push(&["--for", "*/app"], &[&good])?.expect(0)?;
    stage.start()?;
    stage.collector()?.eventually_host(HOST, "clean")?;

    stage.tree.file("etc/app.toml", "implant\n")?;
    stage.open(&[changed()])?;
    let (next, sha256) = stage.release("next", &[1])?;
    let (foreign, _) = stage.release("foreign", &[2])?;
    // Everything is there to be lied about, and nothing says yet that it counts.
    stage.push(&[], &[&next, &foreign])?.expect(0)?;
    let [next_bundle, foreign_bundle] = [&next, &foreign].map(fs::read);
    let (next_bundle, foreign_bundle) = (next_bundle?, foreign_bundle?);
    let mut torn = next_bundle.clone();
    torn.truncate(torn.len() / 2);
    let bundles = |bytes: &[u8]| Lie::at("/v1/targets/app/bundle", bytes);
    for (lies, says) in [
        // Another target's, which others signed.
        (vec![bundles(&foreign_bundle)], "signed by 0 of the 1 trusted key(s)"),
        (vec![bundles(&torn)], "no manifest, and not a bundle"),
        (vec![bundles(b"{\"driftlock\":1}")], "neither a Sigstore bundle nor a DSSE envelope"),
        (vec![Lie::endless("/v1/targets/app/bundle")], "a bundle of more than"),
        // A bundle that would count, and not its manifest.
        (
            vec![bundles(&next_bundle), Lie::at("/v1/manifests/", b"{\"driftlock\":1}\n")],
            "is not the one that was signed",
        ),
        (vec![bundles(&next_bundle), Lie::at("/v1/manifests/", b"")], "is not the one that was signed"),
        (vec![bundles(&next_bundle), Lie::endless("/v1/manifests/")], "more than so many entries can be"),
    ] {
        stage.liar.lie(lies);
        stage.refused(Some(says))?;
        stage.compares_with(accepted)?;
        stage.open(&[changed()])?;
        // Through a restart too.
        if says.contains("signed by 0") {
            stage.stop()?;
            stage.start()?;
            stage.refused(Some(says))?;
            stage.compares_with(accepted)?;
        }
        stage.liar.lie(Vec::new());
        stage.refused(None)?;
    }
    // Said by who may say it, the same release counts.
    stage.push(&["--for", "*/app"], &[&next])?.expect(0)?;
    stage.compares_with(sha256)?;
    stage.open(&[])?;
    stage.stop()
}

fn assigned() -> Result<()> {
    let mut stage = Stage::new("assignment = \"collector\"\n")?;
    let file = stage.sandbox.path("app.assignment");
    let (old, old_sha256) = stage.release("old", &[1])?;
    let first = assign(&file, 1, 1, old_sha256, None)?;
    stage.push(&[], &[&old])?.expect(0)?;
    stage.push(&["--for", "*/app"], &[&file])?.expect(0)?;
    stage.start()?;
    stage.compares_with(old_sha256)?;
    stage.collector()?.eventually_host(HOST, "clean")?;
    // A bundle alone changes nothing, before or after it is said that it counts.
    stage.tree.file("etc/app.toml", "level = 2\n")?;
    let (new, new_sha256) = stage.release("new", &[1])?;
    stage.push(&["--for", "*/app"], &[&new])?.expect(0)?;
    stage.open(&[changed()])?;
    assign(&file, 1, 2, new_sha256, None)?;
    stage.push(&["--for", "*/app"], &[&file])?.expect(0)?;
    stage.compares_with(new_sha256)?;
    stage.open(&[])?;
    // The one before, as it was signed.
    stage.liar.lie(vec![Lie::at("/v1/targets/app/assignment", &first)]);
    stage.refused(Some("its serial is 1, and 2 was accepted before"))?;
    stage.compares_with(new_sha256)?;
    stage.liar.lie(Vec::new());
    stage.refused(None)?;
    // Another target's bundle, which the same key signed, where only the assignment tells them apart.
    let other = fs::read(&old)?;
    stage.liar.lie(vec![Lie::at(&format!("/v1/manifests/{new_sha256}/bundle"), &other)]);
    stage.refused(Some("not about what is assigned"))?;
    stage.compares_with(new_sha256)?;
    // Without a collector that can be believed a start goes on with what was accepted.
    stage.stop()?;
    stage.start()?;
    stage.compares_with(new_sha256)?;
    stage.liar.lie(Vec::new());
    stage.refused(None)?;
    stage.stop()
}

fn push_refuses() -> Result<()> {
    let stage = Stage::new("")?;
    let (good, _) = stage.release("good", &[1])?;
    let bare = stage.sandbox.path("good.bare");
    let junk = stage.sandbox.write("junk", "{}")?;
    let alone = stage.sandbox.write("elsewhere/good.bundle", fs::read(&good)?)?;
    for (more, file, code, says) in [
        (&["--for", "*/app"][..], &bare, 64, "a manifest that nobody signed is for no target"),
        (&[], &junk, 65, "neither a Sigstore bundle nor a DSSE envelope"),
        (&[], &alone, 66, "is not beside it"),
        (&[], &stage.sandbox.path("nothing"), 66, "nothing"),
        (&["--for", "web-1"], &good, 64, "HOST-PATTERN/TARGET"),
    ] {
        let said = stage.push(more, &[file])?.expect(code)?;
        ensure!(said.stderr.contains(says), "{said:?}");
    }
    ensure!(http::get(stage.collector()?.address(), "/v1/manifests")?.json()?["items"] == serde_json::json!([]));
    // A host's own token is none for pushing.
    let host = stage.sandbox.write("host.token", token_of(HOST))?;
    let address = stage.collector()?.address();
    let push = |to: &str, token: &Path| {
        let arguments = ["push", "--to", to, "--token-file"].map(str::to_owned).into_iter();
        stage.sandbox.driftlock(arguments.chain([token, &good].map(|path| path.display().to_string()))).run()
    };
    let said = push(&format!("http://{address}"), &host)?.expect(77)?;
    ensure!(said.stderr.contains("a token for pushing is needed"), "{said:?}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    push(&format!("http://{nobody}"), &stage.pushing)?.expect(69)?;
    stage.push(&[], &[&bare, &good])?.expect(0)?;
    let again = stage.push(&[], &[&good])?.expect(0)?;
    ensure!(again.stderr.contains("there already: bundle"), "{again:?}");
    Ok(())
}
