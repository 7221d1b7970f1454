//! Owns reading what sinks write, by the letter of each format: RFC 5424, RFC 6587, the journal's native protocol. Knows
//! nothing of how it was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSliceMut, Read as _, Seek as _};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;

use rustix::fs::SealFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::super::record::Record;
use super::super::{Drain as _, journald};
use super::syslog;
use crate::config::SyslogTo;

/// A message of RFC 5424.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) priority: u8,
    pub(super) time: String,
    pub(super) host: String,
    pub(super) app: String,
    pub(super) process: String,
    pub(super) id: String,
    /// Each with its name and its parameters, as they were before they were escaped.
    pub(super) elements: Vec<(String, Vec<(String, String)>)>,
    pub(super) text: String,
}

impl Message {
    /// Reads one, and panics at what the RFC does not allow.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let rest = bytes.strip_prefix(b"<").expect("PRI");
        let end = rest.iter().position(|byte| *byte == b'>').expect("PRI");
        let priority: u8 = std::str::from_utf8(&rest[..end]).unwrap().parse().unwrap();
        assert!(priority <= 191);
        let mut rest = rest[end..].strip_prefix(b">1 ").expect("VERSION");
        let mut word = |most: usize| {
            let end = rest.iter().position(|byte| *byte == b' ').expect("SP");
            let word = &rest[..end];
            assert!((1..=most).contains(&end) && word.iter().all(|byte| (33..=126).contains(byte)), "{word:?}");
            rest = &rest[end + 1..];
            String::from_utf8(word.to_vec()).unwrap()
        };
        let (time, host, app, process, id) = (word(64), word(255), word(48), word(128), word(32));
        let mut elements = Vec::new();
        if let Some(none) = rest.strip_prefix(b"-") {
            rest = none;
        }
        while let Some(element) = rest.strip_prefix(b"[") {
            let (read, after) = parse_element(element);
            elements.push(read);
            rest = after;
        }
        let rest = match rest {
            b"" => rest,
            rest => rest.strip_prefix(b" ").expect("SP before MSG"),
        };
        let text = match rest.strip_prefix(b"\xef\xbb\xbf") {
            Some(text) => std::str::from_utf8(text).expect("what begins with a BOM is UTF-8"),
            None => {
                assert!(rest.is_ascii(), "without a BOM nobody knows what it is");
                std::str::from_utf8(rest).unwrap()
            }
        };
        Self { priority, time, host, app, process, id, elements, text: text.to_owned() }
    }

    /// The exact path that the text names.
    pub(super) fn path(&self) -> Vec<u8> {
        let value = self.text.split(" path=\"").nth(1).expect("a path").split('"').next().unwrap();
        unescape(value)
    }
}

type Element = (String, Vec<(String, String)>);

fn parse_element(bytes: &[u8]) -> (Element, &[u8]) {
    let is_name = |byte: &u8| (33..=126).contains(byte) && !b"=]\"".contains(byte);
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| !is_name(byte)).unwrap();
        assert!((1..=32).contains(&end), "SD-NAME");
        (String::from_utf8(bytes[..end].to_vec()).unwrap(), end)
    };
    let (id, end) = name(bytes);
    let (mut rest, mut params) = (&bytes[end..], Vec::new());
    while let Some(param) = rest.strip_prefix(b" ") {
        let (key, end) = name(param);
        let mut value = Vec::new();
        let mut at = param[end..].strip_prefix(b"=\"").expect("PARAM-VALUE");
        loop {
            match at {
                [b'\\', escaped @ (b'"' | b'\\' | b']'), after @ ..] => {
                    value.push(*escaped);
                    at = after;
                }
                [b'"', after @ ..] => {
                    at = after;
                    break;
                }
                [b']', ..] => panic!("an unescaped ] in a value"),
                [byte, after @ ..] => {
                    value.push(*byte);
                    at = after;
                }
                [] => panic!("a value without end"),
            }
        }
        params.push((key, String::from_utf8(value).expect("a value is UTF-8")));
        rest = at;
    }
    ((id, params), rest.strip_prefix(b"]").expect("]"))
}

/// The messages of a stream with their length before them, and what is not whole yet.
pub(super) fn frames(mut bytes: &[u8]) -> (Vec<Vec<u8>>, &[u8]) {
    let mut frames = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b' ') {
        assert!(bytes[0] != b'0' && bytes[..end].iter().all(u8::is_ascii_digit), "MSG-LEN");
        let length: usize = std::str::from_utf8(&bytes[..end]).unwrap().parse().unwrap();
        let Some(frame) = bytes[end + 1..].get(..length) else { break };
        frames.push(frame.to_vec());
        bytes = &bytes[end + 1 + length..];
    }
    (frames, bytes)
}

/// What stands for a path in text, back to its bytes.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        (bytes, rest) = match (byte, after) {
            (b'\\', [b'\\', after @ ..]) => ([bytes, vec![b'\\']].concat(), after),
            (b'\\', [b'x', a, b, after @ ..]) => {
                let hex = std::str::from_utf8(&[*a, *b]).unwrap().to_owned();
                ([bytes, vec![u8::from_str_radix(&hex, 16).unwrap()]].concat(), after)
            }
            (b'\\', _) => panic!("an escape that is none: {text}"),
            (byte, after) => {
                bytes.push(*byte);
                (bytes, after)
            }
        };
    }
    bytes
}

/// The message of a record, as it comes over a socket.
pub(super) fn sent(record: &Record, enterprise: Option<u32>, most: usize) -> Message {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    syslog(SyslogTo::Unix(path), enterprise).take(record).unwrap();
    let mut block = vec![0; 1 << 20];
    let read = socket.recv(&mut block).unwrap();
    assert!(read <= most, "{read} bytes");
    Message::parse(&block[..read])
}

/// What comes to a journal's socket of a record: the datagram, or what the file holds that came with it.
pub(super) fn through_a_socket(record: &Record) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    journald::Journal::at(path).take(record).unwrap();
    let mut block = vec![0; 1 << 20];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut block)], &mut control, RecvFlags::empty()).unwrap();
    let files: Vec<File> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files.map(File::from)),
            _ => None,
        })
        .flatten()
        .collect();
    let Some(mut file) = files.into_iter().next() else { return block[..received.bytes].to_vec() };
    assert_eq!(received.bytes, 0, "a file comes alone");
    // What systemd's journald asks of a file before it maps it.
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL), "{seals:?}");
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The fields of an entry, each there once.
pub(super) fn journal_entry(mut bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut fields = BTreeMap::new();
    while !bytes.is_empty() {
        let line = bytes.iter().position(|byte| *byte == b'\n').expect("a line feed");
        let (name, value, after) = match bytes[..line].iter().position(|byte| *byte == b'=') {
            Some(equals) => (&bytes[..equals], &bytes[equals + 1..line], &bytes[line + 1..]),
            None => {
                let (length, after) = bytes[line + 1..].split_first_chunk::<8>().expect("a length");
                let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
                assert_eq!(after[length], b'\n');
                (&bytes[..line], &after[..length], &after[length + 1..])
            }
        };
        // journald drops a field of any other name.
        let name = std::str::from_utf8(name).unwrap();
        let good = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        assert!((1..=64).contains(&name.len()) && name.bytes().all(good) && name.as_bytes()[0].is_ascii_uppercase());
        assert!(fields.insert(name.to_owned(), value.to_vec()).is_none(), "{name} twice");
        bytes = after;
    }
    fields
}
