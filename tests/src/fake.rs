//! Owns a collector that misbehaves on command: it answers as scripted, and afterwards takes everything or hands it
//! on to a real one. With a CA it speaks TLS, and takes hosts in. Must not own what an agent should make of that.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::authority::{Authority, pem_body};
use crate::history::History;
use crate::http::Head;
use crate::wait::{PATIENCE, pass};

/// What it does with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Answers with this status and an empty body.
    Status(u16),
    /// Answers 429 and asks for so many seconds of peace.
    TooMany(u64),
    /// Sends the client elsewhere.
    Redirect(String),
    /// Answers 200 with a page instead of the answer to a batch.
    Page,
    /// Writes something that is not HTTP.
    Garbage,
    /// Stops in the middle of an answer.
    HalfAnswer,
    /// Reads the request and closes.
    HangUp,
    /// Reads the request and never answers.
    Silence,
    /// Reads half of the request and closes.
    CutRequest,
    /// Lets the request through after this time.
    Late(Duration),
    /// Lets the request through, and closes without the answer.
    LoseAnswer,
}

/// What it does when the script is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Acknowledges everything.
    Accept,
    /// Hands everything to the collector at this address, and its answers back.
    Forward(SocketAddr),
}

/// A collector that misbehaves on command. Ends when dropped.
#[derive(Debug)]
pub struct FakeCollector {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    script: Mutex<VecDeque<Act>>,
    then: Mutex<Then>,
    /// Requests that the script met.
    acted: Mutex<usize>,
    /// Events of requests that were let through.
    events: Mutex<Vec<Value>>,
    /// With TLS: the CA, and how it is spoken.
    tls: Option<(Arc<Authority>, Mutex<Arc<ServerConfig>>)>,
    /// Of each host that joined: its name and its receipt key, by the SHA-256 of each certificate that it was given.
    hosts: Mutex<BTreeMap<String, (String, String)>>,
    /// Paths of requests that were let through, each with the SHA-256 of the certificate that it came with.
    requests: Mutex<Vec<(String, Option<String>)>>,
    /// SHA-256 of certificates that are refused.
    revoked: Mutex<Vec<String>>,
    /// Connections that are never answered.
    silent: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl FakeCollector {
    /// Listens on loopback.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(script: impl IntoIterator<Item = Act>, then: Then) -> Result<Self> {
        Self::listen(script, then, None)
    }

    /// Listens on loopback with a certificate of `authority` for it, and takes in who has one of its tokens.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn encrypted(authority: &Arc<Authority>, script: impl IntoIterator<Item = Act>) -> Result<Self> {
        let config = authority.server(&["127.0.0.1", "localhost"])?;
        Self::listen(script, Then::Accept, Some((Arc::clone(authority), Mutex::new(config))))
    }

    fn listen(
        script: impl IntoIterator<Item = Act>,
        then: Then,
        tls: Option<(Arc<Authority>, Mutex<Arc<ServerConfig>>)>,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            script: Mutex::new(script.into_iter().collect()),
            then: Mutex::new(then),
            acted: Mutex::default(),
            events: Mutex::default(),
            tls,
            hosts: Mutex::default(),
            requests: Mutex::default(),
            revoked: Mutex::default(),
            silent: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let ours = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ours.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let ours = Arc::clone(&ours);
                // A connection that breaks is the client's to notice.
                thread::spawn(move || drop(ours.serve(stream)));
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests the script met.
    pub fn acted(&self) -> usize {
        *lock(&self.state.acted)
    }

    /// Forgets what is left of the script.
    pub fn behave(&self) {
        lock(&self.state.script).clear();
    }

    /// Puts more into the script.
    pub fn act(&self, more: impl IntoIterator<Item = Act>) {
        lock(&self.state.script).extend(more);
    }

    /// Changes what comes after the script.
    pub fn then(&self, then: Then) {
        *lock(&self.state.then) = then;
    }

    /// Speaks TLS in another way from the next connection on.
    pub fn speak(&self, config: Arc<ServerConfig>) {
        if let Some((_, current)) = &self.state.tls {
            *lock(current) = config;
        }
    }

    /// Paths of requests that were let through, each with the SHA-256 of the certificate that it came with.
    pub fn requests(&self) -> Vec<(String, Option<String>)> {
        lock(&self.state.requests).clone()
    }

    /// Refuses every certificate that was given so far.
    pub fn revoke(&self) {
        *lock(&self.state.revoked) = lock(&self.state.hosts).keys().cloned().collect();
    }

    /// The events that were let through, in order, repetitions included.
    pub fn events(&self) -> Vec<Value> {
        lock(&self.state.events).clone()
    }

    /// The same as a history.
    ///
    /// # Errors
    /// As [`History::of`].
    pub fn history(&self) -> Result<History> {
        History::of(self.events())
    }
}

impl Drop for FakeCollector {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        for stream in lock(&self.state.silent).drain(..) {
            // It may be closed on the other side already.
            let _closed = stream.shutdown(Shutdown::Both);
        }
        // Wakes the listener, so that it sees that it is to stop.
        let _woken = TcpStream::connect(self.address);
    }
}

/// Of a connection, whatever is spoken on it.
trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

impl State {
    fn serve(&self, tcp: TcpStream) -> Result<()> {
        tcp.set_read_timeout(Some(PATIENCE))?;
        let (mut wire, certificate): (Box<dyn Wire>, _) = match &self.tls {
            None => (Box::new(tcp.try_clone()?), None),
            Some((_, config)) => {
                let config = Arc::clone(&lock(config));
                let mut stream = StreamOwned::new(ServerConnection::new(config)?, tcp.try_clone()?);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                let certificate = stream.conn.peer_certificates().and_then(<[_]>::first);
                let certificate = certificate.map(|certificate| hex::encode(Sha256::digest(certificate)));
                (Box::new(stream), certificate)
            }
        };
        let mut reader = BufReader::new(&mut wire);
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        ensure!(head.header("transfer-encoding").is_none(), "the kit reads no chunks: {head:?}");
        let length: u64 = head.header("content-length").unwrap_or("0").parse()?;
        let act = lock(&self.script).pop_front();
        let cut = act == Some(Act::CutRequest);
        let mut body = Vec::new();
        reader.take(if cut { length / 2 } else { length }).read_to_end(&mut body)?;
        let request = Request { head, body, certificate };
        match act {
            Some(act) => {
                *lock(&self.acted) += 1;
                self.misbehave(act, &request, &mut wire, tcp)
            }
            None => self.take(&request, &mut wire),
        }
    }

    fn misbehave(&self, act: Act, request: &Request, mut stream: &mut dyn Wire, tcp: TcpStream) -> Result<()> {
        match act {
            Act::Status(status) => answer(&mut stream, status, "", b""),
            Act::TooMany(seconds) => answer(&mut stream, 429, &format!("Retry-After: {seconds}\r\n"), b""),
            Act::Redirect(to) => answer(&mut stream, 307, &format!("Location: {to}\r\n"), b""),
            Act::Page => answer(&mut stream, 200, "Content-Type: text/html\r\n", b"<html>welcome to the hotel</html>"),
            Act::Garbage => Ok(stream.write_all(b"220 mail ready\r\n\r\n\xff\xfe\x00")?),
            Act::HalfAnswer => Ok(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"accepted\":")?),
            Act::HangUp | Act::CutRequest => Ok(()),
            Act::Late(time) => {
                pass(time);
                self.take(request, stream)
            }
            Act::LoseAnswer => self.take(request, &mut std::io::sink()),
            Act::Silence => {
                lock(&self.silent).push(tcp);
                Ok(())
            }
        }
    }

    fn take(&self, request: &Request, mut stream: &mut dyn Write) -> Result<()> {
        let Request { head, body, certificate } = request;
        if let Some((authority, _)) = &self.tls {
            let path = head.first.split(' ').nth(1).unwrap_or_default().to_owned();
            lock(&self.requests).push((path.clone(), certificate.clone()));
            let answered = self.member(authority, &path, request)?;
            if let Some((status, body)) = answered {
                let headers = "Content-Type: application/json\r\n";
                return answer(&mut stream, status, headers, body.to_string().as_bytes());
            }
        }
        let plain = match head.header("content-encoding") {
            Some("zstd") => zstd::decode_all(&body[..])?,
            Some(other) => anyhow::bail!("content-encoding {other}"),
            None => body.clone(),
        };
        let events: Vec<Value> = serde_json::from_slice(&plain).context("a batch")?;
        lock(&self.events).extend(events.iter().cloned());
        let then = *lock(&self.then);
        match then {
            Then::Accept => {
                let sequence = |event: &Value| event["sequence"].as_str().and_then(|text| text.parse::<u64>().ok());
                let ack = events.iter().filter_map(sequence).max().unwrap_or(0);
                let accepted = json!({"accepted": events.len(), "duplicates": 0, "ack": ack});
                answer(&mut stream, 200, "Content-Type: application/json\r\n", accepted.to_string().as_bytes())
            }
            Then::Forward(to) => {
                let mut upstream = TcpStream::connect(to)?;
                upstream.set_read_timeout(Some(PATIENCE))?;
                write!(upstream, "{}\r\n", head.first)?;
                for (name, value) in head.headers.iter().filter(|(name, _)| name != "connection" && name != "host") {
                    write!(upstream, "{name}: {value}\r\n")?;
                }
                write!(upstream, "host: {to}\r\nconnection: close\r\n\r\n")?;
                upstream.write_all(body)?;
                std::io::copy(&mut upstream, &mut stream)?;
                Ok(())
            }
        }
    }

    /// What is said to who wants to join or to renew, or may not report; `None`: it may.
    fn member(&self, authority: &Authority, path: &str, request: &Request) -> Result<Option<(u16, Value)>> {
        let problem = |status: u16, detail: &str| Ok(Some((status, json!({"status": status, "detail": detail}))));
        if path == "/v1/enroll" {
            let asked: Value = serde_json::from_slice(&request.body)?;
            let answered = authority.enroll(&asked)?;
            self.remember(&answered.1, asked["receipt_key"].as_str().unwrap_or_default())?;
            return Ok(Some(answered));
        }
        let certificate = request.certificate.clone().unwrap_or_default();
        let member = lock(&self.hosts).get(&certificate).cloned();
        let Some((host, receipt_key)) = member else { return problem(401, "who are you?") };
        if lock(&self.revoked).contains(&certificate) {
            return problem(403, "this certificate was revoked");
        }
        if path == "/v1/renew" {
            let answered = authority.renew(&serde_json::from_slice(&request.body)?, &host, &receipt_key)?;
            self.remember(&answered.1, &receipt_key)?;
            return Ok(Some(answered));
        }
        Ok(None)
    }

    fn remember(&self, issued: &Value, receipt_key: &str) -> Result<()> {
        if let (Some(pem), Some(host)) = (issued["certificate"].as_str(), issued["host"].as_str()) {
            let der = pem_body(pem)?;
            let member = (host.to_owned(), receipt_key.to_owned());
            lock(&self.hosts).insert(hex::encode(Sha256::digest(der)), member);
        }
        Ok(())
    }
}

struct Request {
    head: Head,
    body: Vec<u8>,
    /// SHA-256 of the client's certificate.
    certificate: Option<String>,
}

fn answer(stream: &mut impl Write, status: u16, headers: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status} Scripted\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(body)?;
    Ok(())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
