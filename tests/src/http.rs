//! Owns just enough HTTP for a test on loopback: requests that are answered to the end of the connection. Must not
//! own any endpoint, and shares no code with the product's client or server.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::wait::PATIENCE;

/// The largest head that is read.
const MAX_HEAD: u64 = 64 * 1024;

/// What came before the body, of a request or of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first line.
    pub first: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The rest of the head.
    pub head: Head,
    /// The body.
    pub body: Vec<u8>,
}

/// A stream of server-sent events.
#[derive(Debug)]
pub struct EventStream {
    lines: BufReader<TcpStream>,
}

impl Head {
    /// Reads up to the empty line; `None` if the connection ended before anything came.
    ///
    /// # Errors
    /// If reading fails or it is no head.
    pub fn read(from: &mut impl std::io::BufRead) -> Result<Option<Self>> {
        let mut from = from.take(MAX_HEAD);
        let mut first = String::new();
        if from.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(from.read_line(&mut line)? > 0, "the head is cut off");
            let line = line.trim_end();
            if line.is_empty() {
                return Ok(Some(Self { first: first.trim_end().to_owned(), headers }));
            }
            let (name, value) = line.split_once(':').context("a header has no colon")?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// If the status is not 200 or the body is not JSON.
    pub fn json(&self) -> Result<Value> {
        ensure!(self.status == 200, "status {}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a GET and reads the whole answer.
///
/// # Errors
/// If nobody answers, or not with HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    answer(ask(address, path)?)
}

/// Sends a body as JSON and reads the whole answer.
///
/// # Errors
/// If nobody answers, or not with HTTP.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Answer> {
    send(address, "POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// If nobody answers, or not with HTTP.
pub fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
    let mut stream = connect(address)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\nConnection: close\r\n")?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    answer(stream)
}

/// An answer up to its length if it says one, else to the end of the connection.
fn answer(stream: TcpStream) -> Result<Answer> {
    let mut stream = BufReader::new(stream);
    let head = Head::read(&mut stream)?.context("closed without an answer")?;
    let status = head.first.split(' ').nth(1).context("no status")?.parse()?;
    let mut body = Vec::new();
    match head.header("content-length") {
        Some(length) => {
            let length = length.parse().context("a length")?;
            stream.take(length).read_to_end(&mut body)?;
            ensure!(body.len() as u64 == length, "the body is cut off");
        }
        None => drop(stream.read_to_end(&mut body)?),
    }
    Ok(Answer { status, head, body })
}

impl EventStream {
    /// Opens the stream at `path`; everything that happens after this returns is in it.
    ///
    /// # Errors
    /// If it is not answered with 200.
    pub fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let mut lines = BufReader::new(ask(address, path)?);
        let head = Head::read(&mut lines)?.context("closed without an answer")?;
        ensure!(head.first.contains(" 200"), "{}", head.first);
        Ok(Self { lines })
    }

    /// The payload of the next `data:` line.
    ///
    /// # Errors
    /// If the stream ends, or is silent for longer than [`PATIENCE`].
    pub fn next_data(&mut self) -> Result<String> {
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "the stream ended");
            if let Some(payload) = line.strip_prefix("data:") {
                return Ok(payload.trim().to_owned());
            }
        }
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// HTTP/1.0: the answer ends where the connection does, without chunks.
fn ask(address: SocketAddr, path: &str) -> Result<TcpStream> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: */*\r\n\r\n")?;
    Ok(stream)
}
