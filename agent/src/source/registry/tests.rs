//! What takes time with the limits of the product, with shorter ones: a server that is silent, that trickles, that breaks
//! off. Everything else is tested from outside.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use driftlock_common::digest::Digest;

use super::super::problem::SourceError;
use super::limits::Limits;
use super::reference::Reference;
use super::*;

/// What a server does with each connection: the channel ends when the test does.
type Act = fn(TcpStream, &Receiver<()>);

struct Server {
    address: String,
    _alive: Sender<()>,
}

impl Server {
    fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (alive, ended) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if matches!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)) {
                    return;
                }
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                act(stream, &ended);
            }
        });
        Self { address, _alive: alive }
    }

    fn registry(&self, limits: Limits) -> Registry {
        let Ok(Reference::Tagged(repository, _)) = Reference::parse(&format!("{}/app", self.address)) else {
            panic!("{}", self.address)
        };
        Registry::with(&repository, limits, Access::Pull).unwrap()
    }
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
const QUICK: Limits =
    Limits { silence: Duration::from_secs(20), window: Duration::from_millis(200), tries: 3, backoff: None };
const IMPATIENT: Limits = Limits { silence: Duration::from_millis(200), ..QUICK };

fn silent_until_the_end(_stream: TcpStream, ended: &Receiver<()>) {
    let _ended = ended.recv();
}

fn silent_after_the_head(mut stream: TcpStream, ended: &Receiver<()>) {
    stream.write_all(HEAD).unwrap();
    stream.write_all(b"x").unwrap();
    let _ended = ended.recv();
}

fn trickling(mut stream: TcpStream, ended: &Receiver<()>) {
    stream.write_all(HEAD).unwrap();
    // The other side leaves at last.
    while stream.write_all(b"x").is_ok() {
        if ended.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn breaking_off(mut stream: TcpStream, _ended: &Receiver<()>) {
    stream.write_all(HEAD).unwrap();
    stream.write_all(b"x").unwrap();
}

fn blob(size: u64) -> (Digest, Option<u64>) {
    (Digest::sha256(b"what nobody has"), Some(size))
}

fn exit_and_words(error: SourceError) -> (u8, String) {
    let failure = crate::failure::Failure::from(error);
    (failure.exit.code(), failure.to_string())
}

#[test]
fn time_is_limited_for_documents() {
    for (act, limits, says) in [
        (silent_until_the_end as Act, IMPATIENT, "sends nothing for 0 s"),
        (silent_after_the_head, IMPATIENT, "sends nothing for 0 s"),
        (trickling, QUICK, "sends less than 4096 bytes a second"),
        (breaking_off, QUICK, "broke off 3 times"),
    ] {
        let server = Server::start(act);
        let (digest, size) = blob(1_000_000);
        let error = server.registry(limits).document(digest, size, 1_000_000).unwrap_err();
        let (code, words) = exit_and_words(error);
        assert!(code == 69 && words.contains(says), "{code} {words}");
        assert!(words.starts_with(&format!("registry:{}/app: blob sha256:", server.address)), "{words}");
    }
}

#[test]
fn time_is_limited_for_layers() {
    for (act, limits, says) in [
        (silent_until_the_end as Act, IMPATIENT, "sends nothing for 0 s"),
        (silent_after_the_head, IMPATIENT, "sends nothing for 0 s"),
        (trickling, QUICK, "sends less than 4096 bytes a second"),
        // One that always begins anew never comes to the end.
        (breaking_off, QUICK, "broke off 3 times"),
    ] {
        let server = Server::start(act);
        let registry = server.registry(limits);
        let (digest, size) = blob(1_000_000);
        let mut download = Download::new(&registry.client, digest, size.unwrap());
        let problem = Problem::of_stream(std::io::copy(&mut download, &mut std::io::sink()).unwrap_err());
        assert!(problem.to_string().contains(says), "{problem}");
        // What was said once is not said again.
        download.finish().unwrap();
    }
}
