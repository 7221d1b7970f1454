//! `dev` as a person sees it: what it prints, what its page says, and that nothing is left of it.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    temporary: TempDir,
    page: String,
    tree: PathBuf,
}

impl Dev {
    fn start(directory: Option<&Path>) -> Self {
        let temporary = TempDir::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_driftlock-collector"))
            .arg("dev")
            .args(directory)
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut field = |name: &str| loop {
            let line = lines.next().expect("it ended before it said where to look").unwrap();
            if let Some(value) = line.trim().strip_prefix(name) {
                break value.trim().to_owned();
            }
        };
        let page = field("page").strip_prefix("http://").unwrap().to_owned();
        let tree = PathBuf::from(field("tree"));
        Self { child, lines, temporary, page, tree }
    }

    /// The next line that is told of a change, without its time.
    fn told(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("it ended").unwrap();
            let mut words = line.split_whitespace();
            if words.next().is_some_and(|time| time.len() == 8 && time.matches(':').count() == 2) {
                break words.collect::<Vec<_>>().join(" ");
            }
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.page).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.page).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Waits until the page says that its one host is in `state`.
    fn wait_for(&self, state: &str) {
        while !self.get("/v1/hosts").contains(&format!("\"state\":\"{state}\"")) {
            std::thread::yield_now();
        }
    }

    fn end(mut self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let left: Vec<_> = fs::read_dir(self.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended already if the test passed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn the_sample_drifts_and_is_put_right_before_ones_eyes() {
    let mut dev = Dev::start(None);
    dev.wait_for("clean");
    let shop = dev.tree.join("usr/bin/shop");
    let sealed = fs::read(&shop).unwrap();
    fs::write(&shop, b"tampered").unwrap();
    assert_eq!(dev.told(), "changed usr/bin/shop (content)");
    assert!(dev.get("/findings").contains("usr/bin/shop"));
    fs::write(&shop, sealed).unwrap();
    assert_eq!(dev.told(), "resolved usr/bin/shop");
    let hostile = dev.tree.join("a\nb");
    fs::write(&hostile, "").unwrap();
    assert_eq!(dev.told(), "added a\\x0ab");
    fs::remove_file(&hostile).unwrap();
    assert_eq!(dev.told(), "resolved a\\x0ab");
    dev.wait_for("clean");
    dev.end("-INT");
}

#[test]
fn a_directory_is_sealed_as_it_is() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("kept"), "as it is").unwrap();
    let mut dev = Dev::start(Some(directory.path()));
    dev.wait_for("clean");
    fs::write(directory.path().join("new"), "").unwrap();
    assert_eq!(dev.told(), "added new");
    dev.end("-TERM");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing of its own is left in it");
}

#[test]
fn a_directory_that_holds_the_temporary_one_does_not_watch_itself() {
    let directory = TempDir::new().unwrap();
    let outer = Dev::start(Some(directory.path()));
    let temporary = outer.temporary.path().to_owned();
    outer.end("-TERM");
    assert!(!temporary.exists());
}

#[test]
fn what_cannot_be_sealed_is_named() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_driftlock-collector")).args(["dev", "/nonexistent"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(66), "{text}");
    assert!(text.starts_with("driftlock-collector: /nonexistent: ") && text.lines().count() == 1, "{text}");
}
