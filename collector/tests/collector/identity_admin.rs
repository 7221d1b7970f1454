//! The verbs of an operator, as the real process, with a collector that runs and without; and what `serve` refuses.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use axum::body::Body;
use axum::http::Request;
use driftlock_common::enrolment::EnrolmentToken;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::identity_kit::connect;

const BINARY: &str = env!("CARGO_BIN_EXE_driftlock-collector");

struct Running {
    child: Child,
    url: String,
}

impl Running {
    fn start(data: &Path, more: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", data, more)
    }

    fn start_at(listen: &str, data: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", listen, "--data"])
            .arg(data)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let url = loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the collector ended before it listened");
            if let Some((_, url)) = line.split_once("listening on ") {
                break url.trim().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, url }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    let (verb, rest) = arguments.split_first().unwrap();
    Command::new(BINARY).arg(verb).arg("--data").arg(data).args(rest).output().unwrap()
}

fn text(output: &Output) -> String {
    let shown = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{shown}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output) -> (i32, String) {
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    (output.status.code().unwrap(), said)
}

/// Everything that an operator does, the same with a collector and without.
fn every_verb(data: &Path) {
    let token: EnrolmentToken =
        text(&run(data, &["enroll-token", "web-*", "--label", "role=web"])).trim().parse().unwrap();
    let report = text(&run(data, &["token", "add", "--report", "ci-*", "--valid", "1h"]));
    assert!(report.starts_with("dlt_") && report.lines().count() == 1);
    let listed = text(&run(data, &["token", "list"]));
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(!listed.contains(token.secret()) && !listed.contains(report.trim()));
    let line = listed.lines().find(|line| line.contains("ci-*")).unwrap();
    assert!(line.contains("report") && line.contains("valid"), "{line}");
    let (id, _) = line.split_once(' ').unwrap();
    text(&run(data, &["token", "end", id]));
    assert!(text(&run(data, &["token", "list"])).lines().any(|line| line.starts_with(id) && line.contains("ended")));
    text(&run(data, &["revoke", "web-1"]));
    text(&run(data, &["revoke", "web-1", "--lift"]));

    let first = text(&run(data, &["ca", "list"]));
    assert!(first.starts_with(&token.authority().to_hex()), "{first}");
    assert!(text(&run(data, &["ca", "show"])).starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(text(&run(data, &["ca", "rotate"])).lines().count(), 2);
    let old = token.authority().to_hex();
    let (code, said) = refused(&run(data, &["ca", "retire", &old]));
    assert_eq!(code, 77, "{said}");
    assert!(said.contains("--force"), "{said}");
    let left = text(&run(data, &["ca", "retire", &old[..12], "--force"]));
    assert!(left.lines().count() == 1 && !left.contains(&old), "{left}");

    for (arguments, code) in [
        (&["ca", "retire", "ffffffffffff"][..], 64),
        (&["token", "end", "ffffffffffff"], 64),
        (&["token", "end", "../revoke"], 64),
        (&["enroll-token", "web-1", "--valid", "31d"], 64),
        (&["token", "add", "--read", "--valid", "0s"], 64),
        (&["enroll-token", "web-1", "--label", "x"], 64),
    ] {
        let (found, said) = refused(&run(data, arguments));
        assert_eq!(found, code, "{arguments:?} {said}");
    }
}

#[test]
fn verbs_without_a_collector() {
    let directory = tempfile::tempdir().unwrap();
    every_verb(&directory.path().join("data"));
}

#[test]
fn verbs_with_a_collector_that_runs() {
    // Longer than the name of a socket can be.
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("d".repeat(120)).join("data");
    for tls in ["on", "off"] {
        let data = data.join(tls);
        let running = Running::start(&data, &["--tls", tls]);
        assert!(running.url.starts_with(if tls == "on" { "https://" } else { "http://" }), "{}", running.url);
        let mode = std::fs::metadata(data.join("admin.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        every_verb(&data);
        drop(running);
        // It was killed: its socket is there, and nobody behind it.
        assert!(data.join("admin.sock").exists());
        assert_eq!(text(&run(&data, &["ca", "list"])).lines().count(), 1);
        drop(Running::start(&data, &[]));
    }
}

#[tokio::test]
async fn beyond_loopback_it_is_tls_and_reading_needs_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = directory.path().join("read");
    std::fs::write(&file, "token-for-reading-0123\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let more = ["--allow-host", "collector.example", "--read-token-file", file.to_str().unwrap()];
    let running = Running::start_at("0.0.0.0:0", &data, &more);
    let port = running.url.strip_prefix("https://0.0.0.0:").unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let ca = text(&run(&data, &["ca", "show"]));
    let made = text(&run(&data, &["token", "add", "--read"]));
    let report = text(&run(&data, &["token", "add", "--report", "web-1"]));
    let mut client = connect(address, &ca).await.unwrap();
    let mut get = async |path: &str, token: Option<&str>| {
        let mut request = Request::get(path).header("host", "collector.example");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        client.send(request.body(Body::empty()).unwrap()).await.unwrap().0.as_u16()
    };
    for path in ["/", "/findings", "/v1/hosts", "/v1/findings", "/v1/conditions", "/v1/stream", "/metrics"] {
        assert_eq!(get(path, None).await, 401, "{path}");
    }
    assert_eq!(get("/healthz", None).await, 200);
    for (token, status) in [("token-for-reading-0123", 200), (made.as_str(), 200), (report.as_str(), 401)] {
        assert_eq!(get("/v1/hosts", Some(token)).await, status);
    }
    // Who speaks without TLS hears nothing of what there is.
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: collector.example\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn what_serve_does_not_do_beyond_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let key = directory.path().join("key.pem");
    std::fs::write(&key, "x").unwrap();
    let key = key.to_str().unwrap();
    for (arguments, code, part) in [
        (&["serve", "--listen", "0.0.0.0:0", "--tls", "off"][..], 78, "always TLS"),
        (&["serve", "--listen", "127.0.0.1:0", "--tls", "off", "--tls-cert", key, "--tls-key", key], 78, "different"),
        (&["serve", "--listen", "127.0.0.1:0", "--tls-cert", key, "--tls-key", key], 65, "no certificates"),
        (&["serve", "--listen", "127.0.0.1:0", "--tls-cert", "/nowhere", "--tls-key", key], 66, "/nowhere"),
        (&["serve", "--listen", "127.0.0.1:0", "--client-ca", key], 65, "no certificates"),
        (&["serve", "--listen", "127.0.0.1:0", "--tls", "on", "--allow-host", "a\u{e9}"], 78, "not a DNS name"),
    ] {
        let (found, said) = refused(&run(&data, arguments));
        assert_eq!(found, code, "{arguments:?} {said}");
        assert!(said.contains(part), "{said}");
    }
    let usage = run(&data, &["serve", "--tls-cert", key]);
    assert_eq!(usage.status.code(), Some(64));
}

#[test]
fn a_key_that_others_can_read_or_that_is_damaged_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    text(&run(&data, &["ca", "list"]));
    let mut files = std::fs::read_dir(data.join("ca")).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "pem")).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(refused(&run(&data, &["ca", "list"])).0, 78);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = directory.path().join("other");
    text(&run(&other, &["ca", "list"]));
    let other = std::fs::read_dir(other.join("ca")).unwrap().next().unwrap().unwrap().path();
    let (good, foreign) = (std::fs::read_to_string(&file).unwrap(), std::fs::read_to_string(other).unwrap());
    let (certificate, key) = (good.find("-----BEGIN CERT").unwrap(), foreign.find("-----BEGIN CERT").unwrap());
    for damaged in
        [String::new(), good[..certificate].to_owned(), format!("{}{}", &foreign[..key], &good[certificate..])]
    {
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(refused(&run(&data, &["ca", "list"])).0, 65);
    }
    std::fs::write(&file, good).unwrap();
    text(&run(&data, &["ca", "list"]));
}
