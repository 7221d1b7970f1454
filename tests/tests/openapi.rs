//! The collector's API is as its document says: every answer about a fleet that has everything an answer can hold, read by a
//! validator of somebody else; and whatever schemathesis makes up of the document, as each of those who may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::digest::Digest;
use driftlock_common::path::to_base64;
use driftlock_tests::binaries::workspace;
use driftlock_tests::collector::{Collector, CollectorHome, token_of};
use driftlock_tests::require::Requirement::{JsonSchema, Schemathesis};
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::signed::bundle;
use driftlock_tests::wait::PATIENCE;
use driftlock_tests::{http, schema};
use serde_json::{Value, json};

const TIME: &str = "2026-01-02T03:04:05Z";
/// Every value that a schema allows or forbids in turn, then what chance makes of it.
const ALL_PHASES: &str = "coverage,fuzzing";
const READ_TOKEN: &str = "whoever-has-this-may-read-it";

fn main() -> ExitCode {
    run(vec![
        trial("every_answer_is_as_the_document_says_and_shows_all_that_it_says", &[JsonSchema], every_answer),
        trial("whatever_who_may_read_asks_is_answered_as_documented", &[Schemathesis], reading),
        trial("whatever_a_host_says_with_a_token_is_answered_as_documented", &[Schemathesis], as_host),
        trial("whatever_batch_a_host_reports_is_answered_as_documented", &[Schemathesis], reporting),
        trial("whatever_a_host_says_with_a_certificate_is_answered_as_documented", &[Schemathesis], with_certificate),
        trial("whatever_who_may_push_says_is_answered_as_documented", &[Schemathesis], pushing),
        trial("whatever_a_stranger_says_is_answered_as_documented", &[Schemathesis], as_stranger),
    ])
}

/// A collector with everything in it, and who may ask it.
struct Stage {
    sandbox: Sandbox,
    home: CollectorHome,
}

impl Stage {
    /// Hosts join over TLS; then events come without, where this kit can speak.
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let home = CollectorHome::new(&sandbox, &["web-1"])?;
        let stage = Self { sandbox, home };
        let collector = stage.start("on")?;
        for (host, label) in [("web-2", "role=db"), ("web-3", "role=web")] {
            stage.enroll(&collector, host, label)?;
        }
        for words in [
            &["revoke", "web-3"][..],
            &["enroll-token", "db-*", "--replace"],
            &["token", "add", "--report", "ci-*"],
            &["ca", "rotate"],
        ] {
            stage.home.operator(&stage.sandbox, words)?;
        }
        let ended = stage.home.operator(&stage.sandbox, &["token", "list"])?;
        let ended = ended.lines().find(|line| line.contains("report")).and_then(|line| line.split(' ').next());
        stage.home.operator(&stage.sandbox, &["token", "end", ended.context("a token")?])?;
        ensure!(collector.stop()? == 0, "the collector did not stop");
        Ok(stage)
    }

    fn start(&self, tls: &str) -> Result<Collector> {
        let read = self.sandbox.write("read.token", READ_TOKEN)?;
        fs::set_permissions(&read, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let fleet = "[[quiet]]\nhosts = \"web-*\"\nat = \"00:00\"\nfor = \"24h\"\nreason = \"a kernel update\"\n";
        let fleet = self.sandbox.write("fleet.toml", fleet)?;
        let words = ["--tls".as_ref(), tls.as_ref(), "--fleet".as_ref(), fleet.as_os_str()];
        self.home.start_with(&self.sandbox, &[&words[..], &["--read-token-file".as_ref(), read.as_os_str()]].concat())
    }

    fn enroll(&self, collector: &Collector, host: &str, label: &str) -> Result<()> {
        let token = self.home.operator(&self.sandbox, &["enroll-token", host, "--label", label])?;
        let server = format!("https://{}", collector.address());
        let state = self.state(host);
        let words = ["enroll", "--server", &server, "--name", host, "--token", &token, "--state-dir"];
        let words = words.iter().map(Path::new).chain([state.as_path()]);
        self.sandbox.driftlock(words).run()?.expect(0).map(drop)
    }

    /// The state directory of a host that joined.
    fn state(&self, host: &str) -> PathBuf {
        self.sandbox.path(format!("{host}.state"))
    }

    /// Everything that an agent can say, and something that was pushed.
    fn fill(&self, collector: &Collector) -> Result<()> {
        let address = collector.address();
        let bearer = format!("Bearer {}", token_of("web-1"));
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/cloudevents-batch+json")];
        for batch in events() {
            let answer = http::send(address, "POST", "/v1/events", &headers, batch.to_string().as_bytes())?.json()?;
            ensure!(answer["rejected"].is_null(), "{answer}");
        }
        let push = fs::read_to_string(self.home.token_file(&self.sandbox, &["--push"])?)?;
        let push = format!("Bearer {push}");
        let tree = self.sandbox.tree("tree")?;
        tree.file("bin/app", "program\n")?;
        let manifest = self.sandbox.seal(format!("dir:{}", tree.root().display()), "app.manifest")?;
        let signed = self.sandbox.path("app.bundle");
        bundle(&manifest, &signed, &[1])?;
        let mut sha256 = Digest::sha256(b"");
        for file in [manifest, signed] {
            let bytes = fs::read(file)?;
            sha256 = Digest::sha256(&bytes);
            let path = format!("/v1/manifests/{sha256}");
            let pushed = http::send(address, "PUT", &path, &[("Authorization", &push)], &bytes)?;
            ensure!(pushed.status == 201, "{pushed:?}");
        }
        let point = json!({"hosts": "web-*", "sha256": sha256.to_hex()}).to_string();
        let pointed = http::send(
            address,
            "PUT",
            "/v1/targets/app/bundle",
            &[("Authorization", &push), ("Content-Type", "application/json")],
            point.as_bytes(),
        )?;
        ensure!(pointed.status == 200, "{pointed:?}");
        Ok(())
    }

    /// Has schemathesis ask what it makes up, with these arguments.
    fn schemathesis(&self, collector: &Collector, arguments: &[&str]) -> Result<()> {
        let file = self.sandbox.write("strict.json", strict(&document()?)?.to_string())?;
        let authority = self.sandbox.write("ca.pem", self.home.operator(&self.sandbox, &["ca", "show"])?)?;
        let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
            response_headers_conformance,response_schema_conformance,negative_data_rejection,ignored_auth,\
            unsupported_method";
        let url = format!("https://{}", collector.address());
        let [file, authority] = [file, authority].map(|path| path.display().to_string());
        let words = ["run", &file, "--url", &url, "--tls-verify", &authority];
        let more = ["--seed", "1", "--checks", checks, "--generation-database", "none"];
        let quiet = ["--no-color", "--warnings", "off", "--continue-on-failure", "--request-timeout", "30"];
        let program = Schemathesis.program().context("schemathesis")?;
        let all = [&words[..], &more, &quiet, arguments].concat();
        let finished = self.sandbox.command(&program, all).run_within(PATIENCE * 4)?;
        let said = String::from_utf8_lossy(&finished.stdout).into_owned();
        ensure!(finished.code == Some(0), "{said}\n{}", finished.stderr);
        ensure!(said.contains("No issues found"), "{said}");
        Ok(())
    }

    fn schemathesis_as(&self, authorization: &str, arguments: &[&str]) -> Result<()> {
        let header = format!("Authorization: Bearer {authorization}");
        self.with_everything(&[&["--header", &header], arguments].concat())
    }

    fn with_everything(&self, arguments: &[&str]) -> Result<()> {
        let collector = self.start("off")?;
        self.fill(&collector)?;
        ensure!(collector.stop()? == 0, "the collector did not stop");
        self.schemathesis(&self.start("on")?, arguments)
    }
}

fn document() -> Result<Value> {
    let file = workspace().join("collector/api/openapi.json");
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}

/// Two batches with every key that there is.
fn events() -> [Value; 2] {
    let epoch = "00112233445566778899aabbccddeeff";
    let digest = format!("blake3:{}", "1".repeat(64));
    let node = json!({
        "type": "file", "size": 5, "mode": "0755", "uid": 0, "gid": 0, "mtime": 1, "blake3": "1".repeat(64),
        "sha256": "2".repeat(64), "target": "a\\xff", "target_b64": to_base64(b"a\xff"), "device": [1, 3],
        "xattrs": [{"name": "user.note", "value": "AA=="}],
    });
    let finding = json!({
        "path": "bin/\\xff", "path_b64": to_base64(b"bin/\xff"), "change": "changed", "attributes": ["content", "mode"],
        "expected": node, "observed": node, "manifest": "base", "layer": 1, "meta_layer": 2, "step": "RUN make",
        "unverified": ["xattrs"], "reason": "denied", "covers": 2, "collapsed": 3, "verdict": "alert",
        "severity": "high", "rule": "programs", "explanation": "it may not",
    });
    let told =
        |finding: &Value| json!({"target": "app", "finding": finding, "opened_at": TIME, "count": 2, "flapping": 3});
    let part = json!({
        "name": "base", "tree": digest, "sha256": "2".repeat(64), "trust": "signed", "key": "build", "origin": "image",
        "profile": "portable",
    });
    let manifest = json!({
        "tree": digest, "sha256": "2".repeat(64), "trust": "signed", "key": "build", "origin": "image", "parts": [part],
    });
    let gone = json!({"path": "etc/gone", "change": "removed", "expected": node});
    let condition = json!({"target": "app", "reason": "manifest_refused", "path": "etc", "detail": "it is damaged"});
    let whole = json!({"reason": "clock_step", "detail": "by an hour"});
    let sequenced = [
        (1, "target.snapshot", json!({"target": "app", "manifest": manifest, "part": 0, "last": true, "findings": []})),
        (2, "finding.opened", told(&finding)),
        (3, "finding.opened", told(&gone)),
        (4, "finding.resolved", json!({"target": "app", "path": "etc/gone"})),
        (5, "condition.opened", condition),
        (6, "condition.opened", whole.clone()),
        (7, "condition.resolved", whole),
        // One that never came: a hole.
        (
            9,
            "target.verified",
            json!({"target": "app", "summary": {
                "complete": true, "scope": "full", "profile": "portable", "added": 0, "removed": 0, "changed": 1,
                "unverifiable": 0, "entries": 9, "files_hashed": 5, "bytes_hashed": 100, "duration_ms": 1,
                "manifest": manifest, "excluded": {"manifest": [], "local": []}, "observed_tree": digest,
            }}),
        ),
    ];
    let mut events: Vec<Value> = sequenced
        .into_iter()
        .map(|(sequence, kind, data)| {
            let sequence = format!("{sequence:020}");
            json!({
                "specversion": "1.0", "id": format!("{epoch}-{sequence}"), "source": "urn:driftlock:host:claimed",
                "time": TIME, "epoch": epoch, "sequence": sequence, "datacontenttype": "application/json",
                "type": format!("dev.driftlock.{kind}.v1"), "data": data,
            })
        })
        .collect();
    let coverage = json!({
        "watch_mode": "inotify", "blind": ["mapping"], "last_sweep": TIME, "last_full": TIME, "unverifiable": 2,
        "gaps": {"denied": 2}, "oldest_unverified": {"path": "etc", "since": TIME}, "overflows": 1, "unwatched": 1,
        "clock_steps": 1, "transient": 1, "put_back": 1, "switch_until": TIME, "unjudged": {"entries": 1, "bytes": 2},
        "folded": 1, "excluded": ["var/**"], "mounts": ["mnt"], "virtual": ["proc"],
    });
    events.push(json!({
        "specversion": "1.0", "id": format!("{epoch}-h1"), "source": "urn:driftlock:host:claimed", "time": TIME,
        "epoch": epoch, "datacontenttype": "application/json", "type": "dev.driftlock.agent.heartbeat.v1",
        "data": {
            "host": "web-1.example", "labels": {"role": "web"}, "ephemeral": false, "version": "0.1.0",
            // Not the last that comes: what is open is not compared then. Before the stop, which would be undone.
            "interval_s": 3600, "sequence": 8,
            "agent": {
                "binary": digest, "config": digest, "started_at": TIME, "starts": 2, "stopped_before": true, "boot": "b",
            },
            "targets": [{
                "target": "app", "root": "/srv/app", "manifest": manifest, "policy": {"name": "web", "digest": digest},
                "open_findings": 1, "open_digest": digest, "coverage": coverage,
            }],
        },
    }));
    let stopped = json!([{
        "specversion": "1.0", "id": format!("{epoch}-{:020}", 10), "source": "urn:driftlock:host:claimed", "time": TIME,
        "epoch": epoch, "sequence": format!("{:020}", 10), "datacontenttype": "application/json",
        "type": "dev.driftlock.agent.stopped.v1", "data": {"reason": "SIGTERM", "ephemeral": false},
    }]);
    [Value::from(events), stopped]
}

/// The document with no keys in answers but those that it names: to its readers it leaves room for later ones.
fn strict(document: &Value) -> Result<Value> {
    let mut answers = BTreeSet::new();
    let mut waiting: Vec<&Value> = Vec::new();
    for methods in document["paths"].as_object().context("paths")?.values() {
        for operation in methods.as_object().context("methods")?.values() {
            waiting.push(&operation["responses"]);
        }
    }
    while let Some(value) = waiting.pop() {
        if let Some(name) = value["$ref"].as_str().and_then(|text| text.strip_prefix("#/components/schemas/"))
            && answers.insert(name.to_owned())
        {
            waiting.push(&document["components"]["schemas"][name]);
        }
        match value {
            Value::Object(object) => waiting.extend(object.values()),
            Value::Array(array) => waiting.extend(array),
            _ => {}
        }
    }
    let mut strict = document.clone();
    let schemas = strict["components"]["schemas"].as_object_mut().context("schemas")?;
    schemas.iter_mut().filter(|(name, _)| answers.contains(*name)).for_each(|(_, schema)| close(schema));
    Ok(strict)
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(close);
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Value::Array(array) => array.iter_mut().for_each(close),
        _ => {}
    }
}

/// Notes which keys of which schemas stand in an answer.
fn note(document: &Value, schema: &Value, place: &str, value: &Value, seen: &mut BTreeMap<String, BTreeSet<String>>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let named = document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        let name = reference.rsplit('/').next().unwrap_or_default();
        return note(document, named, name, value, seen);
    }
    for one in schema["anyOf"].as_array().into_iter().flatten().filter(|_| value.is_object()) {
        note(document, one, place, value, seen);
    }
    for item in value.as_array().into_iter().flatten() {
        note(document, &schema["items"], place, item, seen);
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        for (key, schema) in properties {
            let keys = seen.entry(place.to_owned()).or_default();
            if object.contains_key(key) {
                keys.insert(key.clone());
            }
            note(document, schema, &format!("{place}.{key}"), &object.get(key).cloned().unwrap_or_default(), seen);
        }
    }
}

/// Every list that needs no more than a token for reading: valid, without a key that is not named; and each key that is
/// named stands in one of them.
fn every_answer() -> Result<()> {
    let stage = Stage::new()?;
    let collector = stage.start("off")?;
    stage.fill(&collector)?;
    let document = document()?;
    let closed = strict(&document)?;
    let authorization = format!("Bearer {READ_TOKEN}");
    let mut seen = BTreeMap::new();
    let mut lists = 0;
    for (path, methods) in document["paths"].as_object().context("paths")? {
        let answer = &methods["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if answer["$ref"].is_null() {
            continue;
        }
        let got = http::send(collector.address(), "GET", path, &[("Authorization", &authorization)], b"")?.json()?;
        let mut schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "components": closed["components"],
        });
        schema["$ref"] = answer["$ref"].clone();
        let schema = stage.sandbox.write("answer.schema.json", schema.to_string())?;
        let file = stage.sandbox.write("answer.json", got.to_string())?;
        schema::json(&schema, &file).with_context(|| format!("{path}: {got}"))?;
        note(&document, answer, "", &got, &mut seen);
        lists += 1;
    }
    ensure!(lists >= 10, "{lists} lists");
    let schemas = document["components"]["schemas"].as_object().context("schemas")?;
    let mut missing = Vec::new();
    for (name, keys) in &seen {
        let Some(properties) = schemas.get(name).and_then(|schema| schema["properties"].as_object()) else { continue };
        missing.extend(properties.keys().filter(|key| !keys.contains(*key)).map(|key| format!("{name}.{key}")));
    }
    ensure!(missing.is_empty(), "the document names what no answer has: {missing:?}");
    Ok(())
}

fn reading() -> Result<()> {
    // A stream does not end.
    let arguments = ["--include-tag", "read", "--include-tag", "page", "--exclude-path", "/v1/stream"];
    let arguments = [&arguments[..], &["--phases", ALL_PHASES, "-n", "5"]].concat();
    Stage::new()?.schemathesis_as(READ_TOKEN, &arguments)
}

fn as_host() -> Result<()> {
    let all = ["--include-tag", "host", "--exclude-operation-id", "report", "--phases", ALL_PHASES, "-n", "8"];
    Stage::new()?.schemathesis_as(&token_of("web-1"), &all)
}

fn reporting() -> Result<()> {
    // What is systematic about a batch takes a minute: its schema is the largest.
    let few = ["--include-operation-id", "report", "--phases", "fuzzing", "-n", "12"];
    // A batch is taken although an event in it is refused: what is wrong with that is in the answer.
    let few = [&few[..], &["--exclude-checks", "negative_data_rejection"]].concat();
    Stage::new()?.schemathesis_as(&token_of("web-1"), &few)
}

fn with_certificate() -> Result<()> {
    let stage = Stage::new()?;
    let identity = stage.state("web-2").join("identity");
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| identity.join(name).display().to_string());
    let credential = ["--request-cert", &certificate, "--request-cert-key", &key, "--include-operation-id", "renew"];
    let more = ["--include-operation-id", "wanted", "--include-operation-id", "manifest"];
    let phases = ["--phases", ALL_PHASES, "-n", "20"];
    stage.with_everything(&[&credential[..], &more, &phases].concat())
}

fn pushing() -> Result<()> {
    let stage = Stage::new()?;
    let token = fs::read_to_string(stage.home.token_file(&stage.sandbox, &["--push"])?)?;
    stage.schemathesis_as(&token, &["--include-tag", "push", "--phases", ALL_PHASES, "-n", "20"])
}

fn as_stranger() -> Result<()> {
    Stage::new()?.with_everything(&["--include-tag", "open", "--phases", ALL_PHASES, "-n", "20"])
}
