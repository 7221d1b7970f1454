//! Owns syslog messages (RFC 5424) and the ways that they go: a unix socket, UDP (RFC 5426), TCP with the length before each
//! (RFC 6587 section 3.4.1). Must not own what they say.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::record::cut;
use super::{Drain, Record};
use crate::config::{Syslog, SyslogTo};
use crate::http;

/// The largest message over a local socket or TCP, in bytes: what rsyslog takes unless it is told otherwise.
const MAX_MESSAGE: usize = 8192;
/// The largest message over UDP, in bytes: what every receiver should take (RFC 5426 section 3.2).
const MAX_DATAGRAM: usize = 2048;
/// How long a connection, and one message, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What begins a message that is UTF-8 and not ASCII alone.
const BOM: &str = "\u{feff}";

/// A receiver of syslog messages.
pub(super) struct Receiver {
    settings: Syslog,
    /// As a header has it.
    host: String,
    way: Option<Way>,
}

enum Way {
    Unix(UnixDatagram),
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpStream),
}

impl Receiver {
    /// `host` is who sends.
    pub(super) fn of(settings: Syslog, host: &str) -> Self {
        Self { settings, host: header_word(host, 255), way: None }
    }

    fn way(&mut self) -> io::Result<&mut Way> {
        let way = match self.way.take() {
            // A receiver says nothing: what there is to read is the end.
            Some(Way::Tcp(stream)) if is_closed(&stream) => None,
            way => way,
        };
        let way = match way {
            Some(way) => way,
            None => self.connect()?,
        };
        Ok(self.way.insert(way))
    }

    fn connect(&self) -> io::Result<Way> {
        match &self.settings.to {
            SyslogTo::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.connect(path)?;
                Ok(Way::Unix(socket))
            }
            SyslogTo::Udp(host, port) => {
                let to = first_address(host, *port)?;
                let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                // Not connected: the kernel would say of one message that nobody wanted the one before.
                Ok(Way::Udp(UdpSocket::bind(SocketAddr::new(any, 0))?, to))
            }
            SyslogTo::Tcp(host, port) => {
                let mut error = io::Error::from(io::ErrorKind::NotFound);
                for to in http::addresses_of(host, *port)? {
                    match TcpStream::connect_timeout(&to, PATIENCE) {
                        Ok(stream) => {
                            stream.set_write_timeout(Some(PATIENCE))?;
                            return Ok(Way::Tcp(stream));
                        }
                        Err(refused) => error = refused,
                    }
                }
                Err(error)
            }
        }
    }
}

impl Drain for Receiver {
    fn take(&mut self, record: &Record) -> io::Result<()> {
        let most = if matches!(self.settings.to, SyslogTo::Udp(..)) { MAX_DATAGRAM } else { MAX_MESSAGE };
        let message = message(record, &self.settings, &self.host, std::process::id(), most);
        let sent = match self.way()? {
            Way::Unix(socket) => socket.send(message.as_bytes()).map(|_| ()),
            Way::Udp(socket, to) => socket.send_to(message.as_bytes(), *to).map(|_| ()),
            Way::Tcp(stream) => stream.write_all(format!("{} {message}", message.len()).as_bytes()),
        };
        if sent.is_err() {
            // What was sent of a message over TCP ends with its connection.
            self.way = None;
        }
        sent
    }
}

fn first_address(host: &str, port: u16) -> io::Result<SocketAddr> {
    http::addresses_of(host, port)?.into_iter().next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn is_closed(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let read = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        read
    };
    match look() {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// A message of at most `most` bytes. Elements of structured data are whole, or not there.
fn message(record: &Record, settings: &Syslog, host: &str, process: u32, most: usize) -> String {
    let priority = settings.facility.number() * 8 + record.level.number();
    let Record { time, kind, .. } = record;
    let mut text = format!("<{priority}>1 {time} {host} driftlock {process} {kind} ");
    // Registered in RFC 5424 section 7: the one kind of element that takes no enterprise number.
    text.push_str(concat!("[origin software=\"driftlock\" swVersion=\"", env!("CARGO_PKG_VERSION"), "\"]"));
    if let Some(enterprise) = settings.enterprise {
        put_element(&mut text, record, enterprise, most / 2);
    }
    let line = record.line(most.saturating_sub(text.len() + 1 + BOM.len()));
    text.push(' ');
    if !line.is_ascii() {
        text.push_str(BOM);
    }
    text.push_str(&line);
    text
}

/// The fields as an element of structured data, as long as the text stays below `most` bytes.
fn put_element(text: &mut String, record: &Record, enterprise: u32, most: usize) {
    const CUT: &str = " cut=\"true\"]";
    let _infallible = write!(text, "[driftlock@{enterprise}");
    for (name, value) in &record.fields {
        let piece = format!(" {name}=\"{}\"", param(&cut(value, most / 4)));
        if text.len() + piece.len() + CUT.len() > most {
            text.push_str(CUT);
            return;
        }
        text.push_str(&piece);
    }
    text.push(']');
}

/// RFC 5424 section 6.3.3: `"`, `\` and `]` have a backslash before them. There is nothing else to escape, because no value of a
/// record has control characters.
fn param(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for ch in value.chars() {
        if matches!(ch, '"' | '\\' | ']') {
            text.push('\\');
        }
        text.push(ch);
    }
    text
}

/// A word of a header: printable ASCII without blanks.
fn header_word(word: &str, most: usize) -> String {
    let plain = |ch: char| if ch.is_ascii_graphic() { ch } else { '-' };
    let word: String = word.chars().map(plain).take(most).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}
