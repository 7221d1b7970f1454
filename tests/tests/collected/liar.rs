//! Owns what stands between an agent and its collector, hands everything on, and lies about what it is told to. Must not own
//! what an agent should make of that.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use driftlock_tests::http::Head;
use driftlock_tests::wait::PATIENCE;

/// What is answered to every request for a path that begins so.
pub(super) struct Lie {
    path: String,
    /// `None`: without end.
    body: Option<Vec<u8>>,
}

/// A collector that lies. Ends when dropped.
pub(super) struct Liar {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    to: SocketAddr,
    lies: Mutex<Vec<Lie>>,
    stopped: AtomicBool,
}

impl Lie {
    /// This, with 200.
    pub(super) fn at(path: &str, body: &[u8]) -> Self {
        Self { path: path.to_owned(), body: Some(body.to_owned()) }
    }

    /// Zeros, for as long as somebody takes them.
    pub(super) fn endless(path: &str) -> Self {
        Self { path: path.to_owned(), body: None }
    }
}

impl Liar {
    pub(super) fn before(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { to, lies: Mutex::default(), stopped: AtomicBool::new(false) });
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

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, these and no others.
    pub(super) fn lie(&self, lies: Vec<Lie>) {
        *self.state.lies.lock().unwrap_or_else(PoisonError::into_inner) = lies;
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees that it is to stop.
        let _woken = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let Some(head) = Head::read(&mut reader)? else { return Ok(()) };
        let length = head.header("content-length").unwrap_or("0").parse()?;
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body)?;
        let path = head.first.split(' ').nth(1).unwrap_or_default();
        let lie = {
            let lies = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
            lies.iter().find(|lie| path.starts_with(&lie.path)).map(|lie| lie.body.clone())
        };
        match lie {
            Some(Some(body)) => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
                stream.write_all(&body)?;
            }
            Some(None) => {
                write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
                while stream.write_all(&[0; 65_536]).is_ok() {}
            }
            None => {
                let mut upstream = TcpStream::connect(self.to)?;
                upstream.set_read_timeout(Some(PATIENCE))?;
                write!(upstream, "{}\r\n", head.first)?;
                for (name, value) in head.headers.iter().filter(|(name, _)| name != "connection" && name != "host") {
                    write!(upstream, "{name}: {value}\r\n")?;
                }
                write!(upstream, "host: {}\r\nconnection: close\r\n\r\n", self.to)?;
                upstream.write_all(&body)?;
                std::io::copy(&mut upstream, &mut stream)?;
            }
        }
        // An end without a length is one that was meant.
        Ok(stream.shutdown(Shutdown::Write)?)
    }
}
