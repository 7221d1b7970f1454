//! The real process over a real socket: refusals at start, its end, and SIGKILL under load.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, Event};
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
        write_secret(&directory.join("tokens"), &format!("web-1 {TOKEN}\n"), 0o600);
        Self::spawn(directory, Command::new(BINARY))
    }

    fn spawn(directory: &Path, mut command: Command) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.join("data"))
            .arg("--tokens")
            .arg(directory.join("tokens"))
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
        request(&self.address, head, body)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1"), b"").unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

fn request(address: &str, head: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "{head}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::Error::other("cut off"))
}

/// Status and body of the answer to a batch.
fn post(address: &str, token: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
    let head = format!("POST /v1/events HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Type: {BATCH_MEDIA_TYPE}");
    request(address, &head, body)
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

/// An agent's spool: what is not acknowledged is sent again, from the first.
struct Spool {
    agent: FakeAgent,
    token: String,
    sent: Vec<Event>,
    acknowledged: usize,
}

impl Spool {
    fn new(number: u8) -> Self {
        Self { agent: FakeAgent::new(number), token: token(number), sent: Vec::new(), acknowledged: 0 }
    }

    /// Sends until the collector is gone.
    fn deliver(&mut self, address: &str) {
        loop {
            while self.sent.len() < self.acknowledged + 3 {
                let path = format!("f{}", self.sent.len());
                self.sent.push(self.agent.opened(path));
            }
            let body = serde_json::to_vec(&self.sent[self.acknowledged..]).unwrap();
            let Ok((status, answer)) = post(address, &self.token, &body) else { return };
            assert_eq!(status, 200, "{answer}");
            let ack = usize::try_from(serde_json::from_str::<Answer>(&answer).unwrap().ack).unwrap();
            assert!(ack >= self.acknowledged, "the acknowledgement went back");
            self.acknowledged = ack;
        }
    }
}

fn token(number: u8) -> String {
    format!("token-of-host-{number}-0123456789")
}

const HOSTS: u8 = 4;

fn write_tokens(directory: &Path) {
    let lines: String = (0..HOSTS).map(|number| format!("h{number} {}\n", token(number))).collect();
    write_secret(&directory.join("tokens"), &lines, 0o600);
}

/// What is stored is whole, every acknowledged event is there once, and nothing that was never sent.
fn check_stored(directory: &Path, spools: &[Spool]) {
    let connection = rusqlite::Connection::open(directory.join("data/collector.sqlite3")).unwrap();
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
    for (number, spool) in spools.iter().enumerate() {
        let mut statement =
            connection.prepare("SELECT sequence, json FROM events WHERE host = ?1 ORDER BY sequence").unwrap();
        let stored: Vec<(i64, String)> = statement
            .query_map([format!("h{number}")], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(spool.acknowledged > 0 && stored.len() >= spool.acknowledged, "{} are there", stored.len());
        for (at, (sequence, json)) in stored.iter().enumerate() {
            assert_eq!(usize::try_from(*sequence).unwrap(), at + 1, "none is missing in between and none is double");
            assert_eq!(*json, serde_json::to_string(&spool.sent[at]).unwrap());
        }
        let open: i64 = connection
            .query_row("SELECT count(*) FROM findings WHERE host = ?1", [format!("h{number}")], |row| row.get(0))
            .unwrap();
        assert_eq!(usize::try_from(open).unwrap(), stored.len());
    }
}

#[test]
fn sigkill_at_any_time_loses_nothing_that_was_acknowledged() {
    let directory = TempDir::new().unwrap();
    let mut spools: Vec<Spool> = (0..HOSTS).map(Spool::new).collect();
    let mut random = [0; 6];
    getrandom::fill(&mut random).unwrap();
    for moment in random {
        write_tokens(directory.path());
        let process = Process::spawn(directory.path(), Command::new(BINARY));
        std::thread::scope(|scope| {
            for spool in &mut spools {
                scope.spawn(|| spool.deliver(&process.address));
            }
            // From the first answers on, while posts go on.
            std::thread::park_timeout(Duration::from_millis(30 + u64::from(moment)));
            process.signal("-KILL");
        });
        drop(process);
        check_stored(directory.path(), &spools);
    }
}

#[test]
fn a_file_that_cannot_grow_acknowledges_nothing_that_is_not_there() {
    let directory = TempDir::new().unwrap();
    write_tokens(directory.path());
    let mut spools: Vec<Spool> = (0..HOSTS).map(Spool::new).collect();
    // As a full disk: a write beyond a megabyte fails, in the middle of a page of the log or of the database.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"", BINARY]);
    let process = Process::spawn(directory.path(), limited);
    for spool in &mut spools {
        loop {
            spool.sent.extend((0..20).map(|n| spool.agent.opened(format!("f{n}/{}", "x".repeat(200 + n)))));
            let body = serde_json::to_vec(&spool.sent[spool.acknowledged..]).unwrap();
            let (status, answer) = post(&process.address, &spool.token, &body).unwrap();
            if status != 200 {
                assert_eq!(status, 503, "{answer}");
                break;
            }
            spool.acknowledged = usize::try_from(serde_json::from_str::<Answer>(&answer).unwrap().ack).unwrap();
        }
    }
    assert!(spools.iter().any(|spool| spool.acknowledged > 0));
    // It still answers who reads, and takes everything when it can.
    assert_eq!(process.get("/readyz").0, 200);
    process.signal("-KILL");
    drop(process);
    let process = Process::spawn(directory.path(), Command::new(BINARY));
    for spool in &mut spools {
        let body = serde_json::to_vec(&spool.sent[spool.acknowledged..]).unwrap();
        let (status, answer) = post(&process.address, &spool.token, &body).unwrap();
        assert_eq!(status, 200, "{answer}");
        let answer: Answer = serde_json::from_str(&answer).unwrap();
        assert_eq!(usize::try_from(answer.ack).unwrap(), spool.sent.len());
        assert!(answer.accepted > 0);
    }
    let connection = rusqlite::Connection::open(directory.path().join("data/collector.sqlite3")).unwrap();
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
    for (number, spool) in spools.iter().enumerate() {
        let stored: i64 = connection
            .query_row("SELECT count(*) FROM events WHERE host = ?1", [format!("h{number}")], |row| row.get(0))
            .unwrap();
        assert_eq!(usize::try_from(stored).unwrap(), spool.sent.len());
    }
}

#[test]
fn a_running_collector_is_copied_and_the_copy_restored() {
    let directory = TempDir::new().unwrap();
    let process = Process::start(directory.path());
    let mut agent = FakeAgent::new(1);
    let body = serde_json::to_vec(&[agent.opened("a"), agent.opened("b")]).unwrap();
    assert_eq!(post(&process.address, TOKEN, &body).unwrap().0, 200);
    let run = |verb: &str, data: &str| {
        let mut command = Command::new(BINARY);
        command.current_dir(directory.path()).args([verb, "copy", "--data", data]);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(run("backup", "data"), (0, "copy: hosts 1, open findings 2, other files 1\n".into(), String::new()));
    for (verb, data, code, part) in [
        ("backup", "data", 73, "copy: is there already"),
        ("backup", "nowhere", 66, "nowhere/collector.sqlite3"),
        ("restore", "data", 78, "data: another collector uses this directory"),
    ] {
        let (found, told, complaint) = run(verb, data);
        assert_eq!((found, told.as_str()), (code, ""), "{complaint}");
        assert!(complaint.contains(part) && complaint.lines().count() == 1, "{complaint}");
    }
    drop(process);
    let told = "new: hosts 1, open findings 2, other files 1; every host is going to be asked for everything\n";
    assert_eq!(run("restore", "new"), (0, told.into(), String::new()));
    assert_eq!(run("restore", "new").0, 73);
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    std::fs::rename(directory.path().join("new"), directory.path().join("data")).unwrap();
    let process = Process::start(directory.path());
    let body = serde_json::to_vec(&[agent.opened("c")]).unwrap();
    let answer: Answer = serde_json::from_str(&post(&process.address, TOKEN, &body).unwrap().1).unwrap();
    assert_eq!((answer.accepted, answer.ack, answer.resync), (1, 3, true));
    std::fs::write(directory.path().join("copy"), "no copy").unwrap();
    assert_eq!(run("restore", "other").0, 65);
}

#[test]
fn what_is_too_old_is_forgotten_while_it_runs() {
    let directory = TempDir::new().unwrap();
    let process = Process::start(directory.path());
    let mut agent = FakeAgent::new(1);
    let body = serde_json::to_vec(&[agent.opened("a"), agent.opened("b"), agent.resolved("b")]).unwrap();
    assert_eq!(post(&process.address, TOKEN, &body).unwrap().0, 200);
    drop(process);
    let connection = rusqlite::Connection::open(directory.path().join("data/collector.sqlite3")).unwrap();
    connection.execute_batch("UPDATE events SET received_at = 1000; UPDATE findings SET received_at = 1000;").unwrap();
    drop(connection);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" --keep-days 1 --keep-bytes 1GB", BINARY]);
    let process = Process::spawn(directory.path(), command);
    while !process.get("/metrics").1.contains("stored_events 0\n") {
        std::thread::yield_now();
    }
    assert_eq!(open_paths(&process), ["a"]);
    assert!(process.get("/v1/findings?state=resolved").1.starts_with("{\"findings\":[],"));
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
fn hosts_that_come_at_once_find_a_place_while_it_is_busy() {
    // As many as one address may have.
    const HOSTS: usize = 512;
    let directory = TempDir::new().unwrap();
    let process = Process::start(directory.path());
    let address = process.address.parse().unwrap();
    process.signal("-STOP");
    // It accepts nothing: whoever finds no place would wait for ever.
    let come = |_| TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
    let waiting: Vec<TcpStream> = (0..HOSTS).map(come).collect();
    process.signal("-CONT");
    for mut stream in waiting {
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
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
