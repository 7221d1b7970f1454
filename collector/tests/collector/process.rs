//! The real process over a real socket: refusals at start, its end, and SIGKILL under load.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE};
use tempfile::TempDir;

use crate::kit::{FakeAgent, TOKEN};

const BINARY: &str = env!("CARGO_BIN_EXE_driftlock-collector");

fn write_secret(path: &Path, text: &str, mode: u32) {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let tokens = directory.join("tokens");
        write_secret(&tokens, &format!("web-1 {TOKEN}\n"), 0o600);
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.join("data"))
            .arg("--tokens")
            .arg(&tokens)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the collector ended before it listened");
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.trim().to_owned();
            }
        };
        // Keeps the pipe empty.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, address }
    }

    fn request(&self, head: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(
            stream,
            "{head}\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        status.zip(body).ok_or_else(|| std::io::Error::other("cut off"))
    }

    fn post(&self, body: &[u8]) -> std::io::Result<Answer> {
        let head =
            format!("POST /v1/events HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {BATCH_MEDIA_TYPE}");
        let (status, body) = self.request(&head, body)?;
        assert_eq!(status, 200, "{body}");
        Ok(serde_json::from_str(&body)?)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1"), b"").unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn open_paths(process: &Process) -> Vec<String> {
    let mut paths = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, body) = process.get(&format!("/v1/findings?state=open&limit=1000&cursor={cursor}"));
        assert_eq!(status, 200, "{body}");
        let part: serde_json::Value = serde_json::from_str(&body).unwrap();
        paths.extend(part["findings"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap().to_owned()));
        match part["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return paths,
        }
    }
}

#[test]
fn sigkill_loses_nothing_that_was_acknowledged() {
    let directory = TempDir::new().unwrap();
    let mut agent = FakeAgent::new(1);
    let mut sent = Vec::new();
    let mut acknowledged = 0;
    for round in 0..4 {
        let process = Process::start(directory.path());
        let id = process.child.id().to_string();
        let mut posts = 0;
        let mut killer = None;
        loop {
            // As a spool does: everything from the first that was not acknowledged.
            while sent.len() < usize::try_from(acknowledged).unwrap() + 3 {
                let path = format!("f{}", sent.len());
                sent.push(agent.opened(path));
            }
            // Dies while posts go on, at another place each time.
            posts += 1;
            if posts == 5 + 7 * round {
                killer = Some(Command::new("kill").args(["-9", &id]).spawn().unwrap());
            }
            let waiting = &sent[usize::try_from(acknowledged).unwrap()..];
            match process.post(&serde_json::to_vec(waiting).unwrap()) {
                Ok(answer) => {
                    assert!(answer.ack >= acknowledged, "the acknowledgement went back");
                    acknowledged = answer.ack;
                }
                Err(_) => break,
            }
        }
        assert!(killer.unwrap().wait().unwrap().success());
    }
    let process = Process::start(directory.path());
    let mut paths = open_paths(&process);
    paths.sort();
    paths.dedup();
    let found = paths.len() as u64;
    assert!(acknowledged > 0 && found >= acknowledged, "{found} of {acknowledged} acknowledged are there");
    let mut expected: Vec<String> = (0..found).map(|n| format!("f{n}")).collect();
    expected.sort();
    assert_eq!(paths, expected, "none is missing in between and none is double");
}

#[test]
fn a_stop_as_asked_ends_with_0_although_a_stream_is_open() {
    let directory = TempDir::new().unwrap();
    let mut process = Process::start(directory.path());
    let mut stream = TcpStream::connect(&process.address).unwrap();
    write!(stream, "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    process.signal("-TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}

#[test]
fn tokens_are_read_again_on_sighup() {
    let directory = TempDir::new().unwrap();
    let process = Process::start(directory.path());
    let status = |token: &str| {
        let head =
            format!("POST /v1/events HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Type: {BATCH_MEDIA_TYPE}");
        process.request(&head, b"[]").unwrap().0
    };
    assert_eq!((status(TOKEN), status("token-of-web-2-0123456789")), (200, 401));
    write_secret(&directory.path().join("tokens"), "web-2 token-of-web-2-0123456789\n", 0o600);
    process.signal("-HUP");
    while status("token-of-web-2-0123456789") != 200 {
        std::thread::yield_now();
    }
    assert_eq!(status(TOKEN), 401);
}

fn serve(directory: &Path, more: &[&str]) -> Output {
    Command::new(BINARY)
        .args(["serve", "--data"])
        .arg(directory.join("data"))
        .arg("--tokens")
        .arg(directory.join("tokens"))
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn what_is_refused_at_start_says_why_in_one_line() {
    let directory = TempDir::new().unwrap();
    let tokens = directory.path().join("tokens");
    let check = |output: Output, code: i32, part: &str| {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(part), "{part:?} is not in {text}");
        text
    };
    check(serve(directory.path(), &["--sate", "x"]), 64, "--sate");
    check(serve(directory.path(), &[]), 66, "tokens");
    write_secret(&tokens, &format!("web-1 {TOKEN}\n"), 0o604);
    std::fs::set_permissions(&tokens, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    let text = check(serve(directory.path(), &[]), 78, "chmod");
    assert_eq!(text.lines().count(), 1, "{text}");
    std::fs::remove_file(&tokens).unwrap();
    write_secret(&tokens, "web-1\n", 0o600);
    check(serve(directory.path(), &[]), 78, "line 1");
    write_secret(&tokens, &format!("web-1 {TOKEN}\n"), 0o600);
    check(serve(directory.path(), &["--listen", "0.0.0.0:0", "--tls", "off"]), 78, "always TLS");
    std::fs::create_dir(directory.path().join("data")).unwrap();
    std::fs::write(
        directory.path().join("data/collector.sqlite3"),
        "not a database, though long enough to look at".repeat(30),
    )
    .unwrap();
    check(serve(directory.path(), &[]), 65, "not a database");
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    std::fs::write(directory.path().join("data"), "").unwrap();
    check(serve(directory.path(), &[]), 73, "data");
    std::fs::remove_file(directory.path().join("data")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(serve(directory.path(), &["--listen", &address]), 74, &address);
}
