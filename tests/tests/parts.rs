//! A root that several manifests describe together: a base image, an application's release, a rendered configuration.
//! Each tampering is found, and names the manifest that it breaks; what they are together is what one of everything would
//! be. Belongs here: what needs more than one manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::digest::Algorithm;
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::{MAX_PARTS, TreeBuilder};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::collector::CollectorHome;
use driftlock_tests::drift::{Drift, Report, drifts, ensure_same};
use driftlock_tests::http;
use driftlock_tests::image::{Layer, Layout};
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use driftlock_tests::require::Requirement::{Overlay, Root};
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::tamper;
use driftlock_tests::tree::{Tree, below};
use driftlock_tests::wait::eventually;
use serde_json::Value;

/// Random roots of three parts each.
const SEEDS: u64 = 24;

fn main() -> ExitCode {
    run(vec![
        trial("what_is_deployed_is_clean_and_each_tampering_names_the_manifest_it_breaks", &[Root], each_names_its_own),
        trial("every_form_names_it", &[Root], every_form),
        trial("less_than_all_of_it_is_named_as_such", &[Root], narrowed),
        trial("parts_are_what_an_overlay_of_their_trees_is", &[Root, Overlay], as_an_overlay),
        trial("an_agent_reports_which_one_was_broken_and_takes_a_replaced_one", &[Root], by_an_agent),
        trial("what_cannot_be_laid_over_each_other_is_refused", &[], refused),
    ])
}

/// A deployed root and what it was deployed from, in order.
struct Deployed {
    sandbox: Sandbox,
    root: Tree,
    configuration: Tree,
    /// Base, application, configuration.
    manifests: [PathBuf; 3],
}

const SEALED: &[(&str, &str)] = &[
    ("etc/passwd", "root\n"),
    ("usr/bin/tool", "tool\n"),
    ("opt/runtime", "runtime\n"),
    ("srv/app/bin", "app\n"),
    ("etc/nginx/conf.d/app.conf", "listen 80\n"),
];
const RENDERED: &[(&str, &str)] =
    &[("etc/nginx/nginx.conf", "workers 8\n"), ("etc/hosts", "127.0.0.1 db\n"), ("etc/app.toml", "level = 1\n")];

impl Deployed {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let content = |path: &str| SEALED.iter().find(|(name, _)| *name == path).map_or("", |(_, content)| content);
        let file = |layer: Layer, path: &str| layer.file(path, content(path).as_bytes());
        let first = ["etc/", "etc/nginx/", "usr/", "usr/bin/"].iter().fold(Layer::new(), |layer, path| layer.dir(path));
        let first = file(file(first, "etc/passwd"), "usr/bin/tool").file("etc/nginx/nginx.conf", b"workers 1\n");
        let second = file(Layer::new().dir("opt/"), "opt/runtime");
        let image = Layout::create(sandbox.path("image"))?.layer(&first.finish())?.layer(&second.finish())?.finish()?;
        // Nothing is said of the directories that it lies in.
        let release = file(file(Layer::new(), "srv/app/bin"), "etc/nginx/conf.d/app.conf").finish();
        let release = sandbox.write("release.tar", release)?;
        let configuration = sandbox.tree("configuration")?;
        let root = sandbox.tree("root")?;
        for (path, content) in SEALED.iter().chain(RENDERED) {
            root.file(path, content)?;
        }
        for (path, content) in RENDERED {
            configuration.file(path, content)?;
        }
        // What a runtime writes.
        root.file("etc/hostname", "web-1\n")?;
        let base = sandbox.path("base.manifest");
        let sealed = ["seal", "--exclude-set", "oci-runtime-1", &image.source(), "-o"].map(OsString::from);
        sandbox.driftlock(sealed.into_iter().chain([base.clone().into()])).run()?.expect(0)?;
        let app = sandbox.seal(format!("tar:{}", release.display()), "app.manifest")?;
        let rendered = sandbox.seal(source(&configuration), "configuration.manifest")?;
        Ok(Self { sandbox, root, configuration, manifests: [base, app, rendered] })
    }

    fn scan(&self, more: &[&str]) -> Result<Finished> {
        scan(&self.sandbox, &self.manifests, self.root.root(), more)
    }

    /// What is done to it, each with what must be found and the manifest that says so.
    fn tamper(&self) -> Result<Vec<(Drift, Option<&Path>)>> {
        let [base, app, configuration] = &self.manifests;
        let root = self.root.root();
        fs::write(root.join("etc/hostname"), "web-2\n")?;
        Ok(vec![
            (tamper::append(root, "usr/bin/tool")?, Some(base)),
            (tamper::setuid(root, "opt/runtime")?, Some(base)),
            (tamper::chmod(root, "usr", 0o700)?, Some(base)),
            (tamper::content_under_old_size_and_time(root, "srv/app/bin")?, Some(app)),
            (tamper::remove(root, "etc/nginx/conf.d/app.conf")?, Some(app)),
            // Sealed by the base too, with other content.
            (tamper::write(root, "etc/nginx/nginx.conf", "workers 1\n")?, Some(configuration)),
            // Left out by the base.
            (tamper::append(root, "etc/hosts")?, Some(configuration)),
            (tamper::chmod(root, "etc", 0o711)?, Some(configuration)),
            (tamper::add(root, "etc/extra")?, None),
        ])
    }
}

fn source(tree: &Tree) -> String {
    format!("dir:{}", tree.root().display())
}

fn scan(sandbox: &Sandbox, manifests: &[PathBuf], root: &Path, more: &[&str]) -> Result<Finished> {
    let mut line: Vec<OsString> = vec!["scan".into()];
    for manifest in manifests {
        line.extend(["--manifest".into(), manifest.into()]);
    }
    line.extend(more.iter().map(OsString::from).chain([root.into()]));
    sandbox.driftlock(line).run()
}

/// Which manifest each finding names, and that nothing else is found than `expected`.
fn ensure_named(expected: &[(Drift, Option<&Path>)], findings: &[Value]) -> Result<()> {
    ensure_same(&expected.iter().map(|(drift, _)| drift.clone()).collect(), &drifts(findings)?)?;
    for finding in findings {
        let path = Drift::path_of(finding)?;
        let named = expected.iter().find(|(drift, _)| drift.path == path).and_then(|(_, manifest)| *manifest);
        ensure!(finding.get("manifest").and_then(Value::as_str) == named.and_then(Path::to_str), "{finding}");
    }
    Ok(())
}

fn each_names_its_own() -> Result<()> {
    let deployed = Deployed::new()?;
    let clean = Report::from_ndjson(&deployed.scan(&["--format", "ndjson"])?.expect(0)?)?;
    let Value::Object(manifest) = &clean.summary["manifest"] else { anyhow::bail!("{}", clean.summary) };
    ensure!(clean.summary["scope"] == "full" && clean.summary["complete"] == true, "{}", clean.summary);
    ensure!(clean.summary["observed_tree"] == manifest["tree"], "{}", clean.summary);
    let parts = manifest["parts"].as_array().context("parts")?;
    let said: Vec<_> = parts.iter().map(|part| (part["name"].as_str(), part["origin"].as_str())).collect();
    let origins = [Some("image"), Some("archive"), Some("dir")];
    let named: Vec<_> = deployed.manifests.iter().map(|path| path.to_str()).zip(origins).collect();
    ensure!(said == named && manifest["origin"] == "several" && manifest["trust"] == "unsigned", "{manifest:?}");
    // Whoever has the files can tell the digest of the whole.
    let digests = deployed.sandbox.command(
        Path::new("sh"),
        ["-c", "sha256sum \"$@\" | cut -c1-64 | sha256sum", "-"]
            .map(OsStr::new)
            .into_iter()
            .chain(deployed.manifests.iter().map(AsRef::as_ref)),
    );
    let digest = digests.run()?.expect(0)?;
    ensure!(digest.text()?.starts_with(manifest["sha256"].as_str().context("sha256")?), "{digest:?} {manifest:?}");

    let expected = deployed.tamper()?;
    let found = Report::from_ndjson(&deployed.scan(&["--format", "ndjson"])?.expect(7)?)?;
    ensure_named(&expected, &found.findings)?;
    // The layer is that of the manifest that is named.
    let layers: BTreeMap<&str, Option<u64>> =
        found.findings.iter().filter_map(|f| Some((f["path"].as_str()?, f["layer"].as_u64()))).collect();
    for (path, layer) in [("usr/bin/tool", Some(0)), ("opt/runtime", Some(1)), ("etc/hosts", None)] {
        ensure!(layers[path] == layer, "{path}: {layers:?}");
    }
    // In another order the base is on top: the rendered configuration is no longer what is expected.
    let [base, app, configuration] = deployed.manifests.clone();
    let deployed = Deployed::new()?;
    let names = |name: &Path| deployed.sandbox.path(name.file_name().unwrap_or_default());
    let turned = [names(&configuration), names(&app), names(&base)];
    let found = scan(&deployed.sandbox, &turned, deployed.root.root(), &["--format", "ndjson"])?.expect(4)?;
    ensure_named(
        &[(Drift::changed("etc/nginx/nginx.conf", &["content"]), Some(&turned[2]))],
        &Report::from_ndjson(&found)?.findings,
    )
}

fn every_form() -> Result<()> {
    let deployed = Deployed::new()?;
    for (format, words) in [("text", "\npart 3        "), ("sarif", "\"parts\""), ("json", "\"parts\""), ("junit", "")]
    {
        let clean = deployed.scan(&["--format", format])?.expect(0)?;
        ensure!(clean.text()?.contains(words), "{format}: {clean:?}");
    }
    let expected = deployed.tamper()?;
    for format in ["text", "json", "sarif", "junit"] {
        let finished = deployed.scan(&["--format", format])?.expect(7)?;
        let text = finished.text()?;
        for (drift, manifest) in &expected {
            let path = String::from_utf8(drift.path.clone())?;
            let Some(manifest) = manifest else { continue };
            let name = manifest.to_str().context("a name")?;
            let has = match format {
                "json" | "sarif" => {
                    let value: Value = serde_json::from_str(text)?;
                    let list = if format == "json" { &value["findings"] } else { &value["runs"][0]["results"] };
                    let one = list
                        .as_array()
                        .into_iter()
                        .flatten()
                        .find(|one| one["path"] == *path || one["properties"]["path"] == *path);
                    let one = one.with_context(|| format!("{format}: no {path}"))?;
                    let message = one["message"]["text"].as_str().unwrap_or(name);
                    (one["manifest"] == *name || one["properties"]["manifest"] == *name) && message.contains(name)
                }
                _ => text.split('\n').any(|line| line.contains(&path) && line.contains(name)),
            };
            ensure!(has, "{format}: {path} does not name {name}\n{text}");
        }
    }
    Ok(())
}

fn narrowed() -> Result<()> {
    let deployed = Deployed::new()?;
    let full = deployed.sandbox.path("full.manifest");
    let line = ["seal", "--profile", "full", &source(&deployed.configuration), "-o"].map(OsString::from);
    deployed.sandbox.driftlock(line.into_iter().chain([full.clone().into()])).run()?.expect(0)?;
    let manifests = [deployed.manifests[0].clone(), full];
    let more = ["--format", "ndjson", "--exclude", "srv", "--exclude", "etc/nginx/conf.d"];
    let found = scan(&deployed.sandbox, &manifests, deployed.root.root(), &more)?.expect(0)?;
    let summary = Report::from_ndjson(&found)?.summary;
    ensure!(summary["profile"] == "portable" && summary["scope"] == "partial", "{summary}");
    fs::remove_dir_all(deployed.root.path("srv"))?;
    fs::remove_dir_all(deployed.root.path("etc/nginx/conf.d"))?;
    // The times that one of them sealed are not compared: nothing is claimed of the whole.
    let found = scan(&deployed.sandbox, &manifests, deployed.root.root(), &more[..2])?.expect(0)?;
    let summary = Report::from_ndjson(&found)?.summary;
    ensure!(summary["scope"] == "partial" && summary.get("observed_tree").is_none(), "{summary}");
    ensure!(summary["manifest"]["parts"][1]["profile"] == "full", "{summary}");
    Ok(())
}

/// Three random trees, laid over each other by the kernel and sealed as one.
fn as_an_overlay() -> Result<()> {
    (0..SEEDS).try_for_each(|seed| one_overlay(seed).with_context(|| format!("seed {seed}")))
}

fn one_overlay(seed: u64) -> Result<()> {
    const COPY: &str = "mount -t overlay -o \"lowerdir=$0\" overlay merged && cp -a merged/. union/";
    let sandbox = Sandbox::new()?;
    let mut trees = Vec::new();
    let mut manifests = Vec::new();
    for part in 0..3 {
        let tree = sandbox.tree(&format!("part-{part}"))?;
        RandomTree::new(3 * seed + part, HOSTILE, true).fill(tree.root())?;
        manifests.push(sandbox.seal(source(&tree), &format!("{part}.manifest"))?);
        trees.push(tree);
    }
    let (union, _) = (sandbox.tree("union")?, sandbox.tree("merged")?);
    let lower: Vec<String> = trees.iter().rev().map(|tree| tree.root().display().to_string()).collect();
    let line = ["--mount", "sh", "-c", COPY, &lower.join(":")];
    sandbox.command(Path::new("unshare"), line).run()?.expect(0)?;
    let whole = [sandbox.seal(source(&union), "whole.manifest")?];

    let summary = |manifests: &[PathBuf]| -> Result<Report> {
        let finished = scan(&sandbox, manifests, union.root(), &["--format", "ndjson"])?;
        Report::from_ndjson(&finished)
    };
    let (several, one) = (summary(&manifests)?, summary(&whole)?);
    ensure!(several.findings.is_empty() && one.findings.is_empty(), "{:?}", several.findings);
    ensure!(several.summary["manifest"]["tree"] == one.summary["manifest"]["tree"], "{}", several.summary);

    RandomTree::new(seed, HOSTILE, true).tamper(union.root())?;
    let (mut several, one) = (summary(&manifests)?, summary(&whole)?);
    for finding in &mut several.findings {
        let path = Drift::path_of(finding)?;
        let last = trees.iter().rposition(|tree| below(tree.root(), &path).symlink_metadata().is_ok());
        let sealed = finding.get("expected").is_some();
        let expected = last.filter(|_| sealed).and_then(|last| manifests[last].to_str());
        ensure!(finding.get("manifest").and_then(Value::as_str) == expected, "{finding}, not {expected:?}");
        finding.as_object_mut().context("an object")?.remove("manifest");
    }
    let lines = |findings: &[Value]| findings.iter().map(Value::to_string).collect::<BTreeSet<_>>();
    ensure!(lines(&several.findings) == lines(&one.findings), "{:?}\n{:?}", several.findings, one.findings);
    ensure!(several.summary["observed_tree"] == one.summary["observed_tree"], "{}", several.summary);
    Ok(())
}

fn by_an_agent() -> Result<()> {
    const HOST: &str = "web-1";
    let deployed = Deployed::new()?;
    let Deployed { sandbox, root, configuration, manifests } = &deployed;
    let collector = CollectorHome::new(sandbox, &[HOST])?.start(sandbox)?;
    let home = AgentHome::new(sandbox, HOST)?.laid_target("app", root.root(), manifests);
    let home = home.reports_to(collector.address());
    let checked = sandbox.write("checked.toml", home.config())?;
    let checked = sandbox.driftlock(["check-config".as_ref(), "--config".as_ref(), checked.as_os_str()]).run()?;
    let checked = checked.expect(0)?;
    for manifest in manifests {
        ensure!(checked.text()?.contains(manifest.to_str().context("a name")?), "{checked:?}");
    }
    let agent = home.start(sandbox)?;
    collector.eventually_host(HOST, "clean")?;
    let parts = || -> Result<Vec<Value>> {
        let hosts = collector.hosts()?;
        let parts = hosts[0]["targets"][0]["manifest"]["parts"].as_array().cloned();
        parts.with_context(|| format!("no parts: {hosts:?}"))
    };
    let before = parts()?;
    ensure!(before.len() == 3 && before[2]["name"].as_str() == manifests[2].to_str(), "{before:?}");

    // Sweeps are ten minutes apart: all of it is found by watching, what the base leaves out too.
    let expected = deployed.tamper()?;
    eventually("every finding to name its manifest", || ensure_named(&expected, &collector.findings("open")?))?;
    for path in ["/findings", "/host?name=web-1"] {
        let page = String::from_utf8(http::get(collector.address(), path)?.body)?;
        ensure!(page.contains("configuration.manifest"), "{path}: {page}");
    }

    // What was tampered with in the configuration is rendered so now: only the other two are broken.
    for path in ["etc/nginx/nginx.conf", "etc/hosts"] {
        configuration.file(path, fs::read(root.path(path))?)?;
    }
    configuration.mode("etc", 0o711)?;
    let new = sandbox.seal(source(configuration), "new.manifest")?;
    fs::rename(new, &manifests[2])?;
    let left: Vec<_> =
        expected.iter().filter(|(_, manifest)| *manifest != Some(manifests[2].as_path())).cloned().collect();
    eventually("the configuration to be as sealed", || ensure_named(&left, &collector.findings("open")?))?;
    let after = parts()?;
    ensure!(after[..2] == before[..2] && after[2]["sha256"] != before[2]["sha256"], "{before:?} {after:?}");

    // One that cannot be read: all of them are refused, and what was accepted stays in force.
    fs::rename(&manifests[1], sandbox.path("aside"))?;
    let refused = |open: bool| {
        eventually("the condition", || {
            let conditions = collector.conditions()?;
            ensure!(conditions.contains("manifest_refused") == open, "{conditions:?}");
            Ok::<_, anyhow::Error>(())
        })
    };
    refused(true)?;
    let detail = http::get(collector.address(), "/v1/conditions?state=open")?.json()?;
    ensure!(detail.to_string().contains("app.manifest: No such file"), "{detail}");
    ensure_named(&left, &collector.findings("open")?)?;
    fs::rename(sandbox.path("aside"), &manifests[1])?;
    refused(false)?;
    ensure!(agent.stop()? == 0, "SIGTERM is a clean end");
    Ok(())
}

fn refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    tree.file("a", "a\n")?;
    let good = sandbox.seal(source(&tree), "good")?;
    let second = sandbox.seal(source(&tree), "second")?;
    std::os::unix::fs::symlink(&good, sandbox.path("link"))?;
    let header = Header::new(Profile::Portable, Algorithm::Sha256, Excludes::none());
    let sha256 = Manifest { header, tree: TreeBuilder::new().finish() };
    let other = sandbox.write("sha256", sha256.encode())?;
    let broken = sandbox.write("broken", "{}\n")?;
    let (absent, link) = (sandbox.path("absent"), sandbox.path("link"));
    let too_many = vec![good.clone(); MAX_PARTS + 1];
    for (named, code, words) in [
        (&[good.clone(), good.clone()][..], 64, "good are the same file"),
        (&[good.clone(), second.clone(), link], 64, "link are the same file"),
        (&too_many, 64, "17 manifests: at most 16 are laid over each other"),
        (&[good.clone(), other], 65, "sha256 with sha256: seal them with the same content digest"),
        (&[good.clone(), broken.clone()], 65, "broken: no manifest, and not a bundle: "),
        (&[broken, good.clone()], 65, "broken: no manifest, and not a bundle: "),
        (&[good.clone(), second, absent], 66, "absent: No such file"),
    ] {
        let finished = scan(&sandbox, named, tree.root(), &[])?;
        ensure!(finished.code == Some(code) && finished.stderr.contains(words), "{words}: {finished:?}");
        ensure!(finished.stdout.is_empty() && finished.stderr.lines().count() == 1, "{words}: {finished:?}");
    }
    let none = sandbox.driftlock(["scan".as_ref(), tree.root().as_os_str()]).run()?;
    ensure!(none.code == Some(64) && none.stderr.contains("--manifest"), "{none:?}");
    Ok(())
}
