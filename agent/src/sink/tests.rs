//! What each sink makes of hostile names, read back by readers of these formats that share no code with the writers; what
//! becomes of files and connections that come and go; what is said of a sink that fails.

mod hostile;
mod reader;
mod trouble;

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use driftlock_common::condition::ConditionReason;
use driftlock_common::drift::Change;
use driftlock_common::event::{Body, ConditionBody, Event, FindingBody};
use driftlock_common::finding::{Finding, NodeView, path_fields};
use driftlock_common::policy::{Ruling, Severity};

use super::record::Record;
use super::syslog::Receiver;
use super::{Drain, file};
use crate::config::{Facility, Syslog, SyslogTo};

const TIME: &str = "2026-01-02T03:04:05.678Z";

/// A finding at a path, as large as one gets beside it.
fn finding(path: &[u8]) -> FindingBody {
    let (path, path_b64) = path_fields(path);
    let side = |mode: &str| NodeView { file_type: "file".into(), mode: Some(mode.into()), ..NodeView::default() };
    let finding = Finding {
        path,
        path_b64,
        change: Change::Changed,
        attributes: [driftlock_common::drift::Attribute::Mode].into_iter().collect(),
        expected: Some(side("0755")),
        observed: Some(side("4755")),
        manifest: None,
        layer: None,
        meta_layer: None,
        step: None,
        unverified: [].into_iter().collect(),
        reason: None,
        covers: None,
        collapsed: None,
        verdict: Some(Ruling::Alert),
        severity: Some(Severity::High),
        rule: Some("set-id".into()),
        explanation: None,
    };
    FindingBody { target: "app".into(), finding, opened_at: TIME.into(), count: 1, flapping: None }
}

/// The JSON of an event, as the journal has it.
fn json(body: &Body) -> Vec<u8> {
    let event = Event {
        specversion: "1.0".into(),
        id: "e-1".into(),
        source: "urn:driftlock:host:h".into(),
        time: TIME.into(),
        epoch: "e".into(),
        sequence: Some("00000000000000000001".into()),
        datacontenttype: "application/json".into(),
        body: body.clone(),
    };
    serde_json::to_vec(&event).unwrap()
}

fn record_of(body: &Body) -> Record {
    Record::of(body, TIME, &json(body))
}

fn record(path: impl AsRef<[u8]>) -> Record {
    record_of(&Body::FindingOpened(finding(path.as_ref())))
}

fn syslog(to: SyslogTo, enterprise: Option<u32>) -> Receiver {
    Receiver::of(Syslog { to, facility: Facility::default(), enterprise }, "web-1")
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_private_grows_and_is_opened_anew_when_it_was_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.json");
    let mut sink = file::Appended::to(path.clone());
    let [a, b, c, d] = ["a", "b", "c", "d"].map(record);
    sink.take(&a).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    // Renamed, as logrotate does; copied and truncated, as it does too; removed.
    fs::rename(&path, dir.path().join("events.json.1")).unwrap();
    sink.take(&b).unwrap();
    assert_eq!(lines(&dir.path().join("events.json.1")), [a.json.as_str()]);
    assert_eq!(lines(&path), [b.json.as_str()]);
    fs::write(&path, "").unwrap();
    sink.take(&c).unwrap();
    assert_eq!(lines(&path), [c.json.as_str()], "a hole where it was written before");
    fs::remove_file(&path).unwrap();
    sink.take(&d).unwrap();
    assert_eq!(lines(&path), [d.json.as_str()]);
}

#[test]
fn a_file_is_never_a_link_nor_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("events.json"), dir.path().join("other"));
    let mut sink = file::Appended::to(path.clone());
    fs::write(&other, "kept\n").unwrap();
    symlink(&other, &path).unwrap();
    let refused = sink.take(&record("a")).unwrap_err().to_string();
    assert!(refused.contains("symbolic link"), "{refused}");
    assert_eq!(fs::read(&other).unwrap(), b"kept\n");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(sink.take(&record("a")).is_err(), "a FIFO that nobody reads");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(sink.take(&record("a")).is_err());
    fs::remove_dir(&path).unwrap();
    sink.take(&record("a")).unwrap();
    // Replaced by a link after it was opened.
    fs::remove_file(&path).unwrap();
    symlink(&other, &path).unwrap();
    assert!(sink.take(&record("b")).is_err());
    assert_eq!(fs::read(&other).unwrap(), b"kept\n");
}

#[test]
fn messages_over_tcp_have_their_length_before_them_and_survive_a_receiver_that_goes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sink = syslog(SyslogTo::Tcp("127.0.0.1".into(), port), None);
    let names = [&b"a\nb"[..], b"\xff", "\u{e9}".as_bytes()];
    names.iter().for_each(|name| sink.take(&record(name)).unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    while reader::frames(&bytes).0.len() < names.len() {
        let mut block = [0; 4096];
        let read = stream.read(&mut block).unwrap();
        bytes.extend_from_slice(&block[..read]);
    }
    let (frames, rest) = reader::frames(&bytes);
    assert!(rest.is_empty());
    for (frame, name) in frames.iter().zip(names) {
        assert_eq!(reader::Message::parse(frame).path(), name);
    }
    // Closed by the receiver: the next message goes over another connection, whole.
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    drop(stream);
    sink.take(&record("next")).unwrap();
    drop(sink);
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let (frames, _) = reader::frames(&bytes);
    assert_eq!(frames.iter().map(|frame| reader::Message::parse(frame).path()).collect::<Vec<_>>(), [b"next"]);
    drop(listener);
    assert!(syslog(SyslogTo::Tcp("127.0.0.1".into(), port), None).take(&record("x")).is_err(), "nobody is there");
}

#[test]
fn datagrams_are_a_message_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut sink = syslog(SyslogTo::Unix(path.clone()), None);
    sink.take(&record("a")).unwrap();
    let mut block = vec![0; 65_536];
    let read = socket.recv(&mut block).unwrap();
    assert_eq!(reader::Message::parse(&block[..read]).path(), b"a");
    // The receiver is started anew: its socket is another.
    drop(socket);
    fs::remove_file(&path).unwrap();
    assert!(sink.take(&record("b")).is_err());
    let socket = UnixDatagram::bind(&path).unwrap();
    sink.take(&record("b")).unwrap();
    let read = socket.recv(&mut block).unwrap();
    assert_eq!(reader::Message::parse(&block[..read]).path(), b"b");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut sink = syslog(SyslogTo::Udp("localhost".into(), port), None);
    sink.take(&record("c")).unwrap();
    let read = socket.recv(&mut block).unwrap();
    assert_eq!(reader::Message::parse(&block[..read]).path(), b"c");
    // Nobody there any more: nobody knows, and nothing is said.
    drop(socket);
    (0..3).for_each(|_| sink.take(&record("d")).unwrap());
}

#[test]
fn how_loudly_something_is_said_is_its_priority() {
    let of = |severity, verdict| {
        let mut body = finding(b"a");
        (body.finding.severity, body.finding.verdict) = (severity, verdict);
        record_of(&Body::FindingUpdated(body))
    };
    let alert = |severity| of(Some(severity), Some(Ruling::Alert));
    let condition = |open| {
        let reason = ConditionReason::RootLost;
        let body = ConditionBody { target: None, reason, path: None, detail: "gone\nforged".into() };
        record_of(&if open { Body::ConditionOpened(body) } else { Body::ConditionResolved(body) })
    };
    for (record, number) in [
        (alert(Severity::Critical), 2),
        (alert(Severity::High), 3),
        (alert(Severity::Medium), 4),
        (of(None, None), 4),
        (alert(Severity::Low), 5),
        (alert(Severity::Info), 6),
        (of(None, Some(Ruling::Tolerated)), 6),
        (condition(true), 3),
        (condition(false), 5),
    ] {
        let message = reader::sent(&record, None, 8192);
        assert_eq!(message.priority, 3 * 8 + number, "{message:?}");
        assert_eq!((message.time.as_str(), message.host.as_str(), message.app.as_str()), (TIME, "web-1", "driftlock"));
        let fields = reader::journal_entry(&reader::through_a_socket(&record));
        assert_eq!(fields["PRIORITY"], number.to_string().as_bytes());
    }
    let message = reader::sent(&condition(true), None, 8192);
    assert_eq!(message.id, "condition.opened");
    assert!(message.text.contains("reason=\"root_lost\"") && message.text.contains("detail=\"gone\\x0aforged\""));
    let tolerated = reader::sent(&of(None, Some(Ruling::Tolerated)), None, 8192);
    assert!(tolerated.text.contains("severity=\"tolerated\""), "{tolerated:?}");
}

#[test]
fn a_host_s_name_is_one_word_of_a_header() {
    for (name, word) in [("web-1", "web-1"), ("a b\nc", "a-b-c"), ("\u{e9}", "-"), ("", "-")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        let to = SyslogTo::Unix(path);
        let settings = Syslog { to, facility: Facility::named("local7").unwrap(), enterprise: None };
        Receiver::of(settings, name).take(&record("a")).unwrap();
        let mut block = vec![0; 65_536];
        let read = socket.recv(&mut block).unwrap();
        let message = reader::Message::parse(&block[..read]);
        assert_eq!((message.host.as_str(), message.priority), (word, 23 * 8 + 3));
    }
}
