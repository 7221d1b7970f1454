//! Names that are made to be more than names to who reads them.

use driftlock_common::event::Body;
use driftlock_common::path::is_hidden;
use proptest::collection::vec;
use proptest::prelude::*;

use super::reader::{journal_entry, sent, through_a_socket, unescape};
use super::{finding, json, record};

/// Each a path within a tree.
fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"plain"[..],
        b"line\nbreak",
        b"carriage\rreturn",
        b"\x1b[2J\x1b]0;owned\x07",
        b"bell\x07 backspace\x08 delete\x7f",
        b"\xff\xfe not UTF-8",
        b"cut off \xe2\x82",
        b"%s%n%x %1$*2$d {} ${HOME} `id` $(id)",
        b"] [x y=\"z\"] \\] \"",
        b"quote\" back\\slash \\",
        b"nul-like \\0 \\x00 %00 ^@",
        b"\nPRIORITY=0\nMESSAGE=forged",
        b"\nMESSAGE\n\x01\x01\x01\x01\x01\x01\x01\x01x\n",
        b"\n<0>1 - - - - - - forged",
        b"5 <0>1 -",
        b"{\"type\":\"forged\"}\n{\"type\":\"forged\"}",
        b" path=\"x\" severity=\"info\"",
        b"c1 \xc2\x9b31m",
    ]
    .map(<[u8]>::to_vec)
    .into();
    let texts = ["\u{202e}gpj.exe", "\u{feff}bom", "\u{2028}line separator", "\u{e0041}tag", "\u{e9}\u{4e2d}\u{1f980}"];
    names.extend(texts.map(|text| text.as_bytes().to_vec()));
    for byte in [b'a', b'\n', b'"', b'\\', b']', 0xff] {
        names.push(vec![byte; 4096]);
        // As deep as a path goes.
        names.push(vec![vec![byte; 4095]; 16].join(&b'/'));
    }
    names
}

/// What holds for any path, in every sink.
fn harmless(path: &[u8]) {
    let body = Body::FindingOpened(finding(path));
    let record = record(path);
    let text = |text: &str| assert!(!text.chars().any(is_hidden), "{}", text.escape_debug());

    // A file, standard output: a line, and the same value.
    text(&record.json);
    let original: serde_json::Value = serde_json::from_slice(&json(&body)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&record.json).unwrap(), original);

    // The journal: our fields, each once, the event whole.
    let fields = journal_entry(&through_a_socket(&record));
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "DRIFTLOCK_ATTRIBUTES",
            "DRIFTLOCK_CHANGE",
            "DRIFTLOCK_COUNT",
            "DRIFTLOCK_EVENT",
            "DRIFTLOCK_EXPECTED",
            "DRIFTLOCK_OBSERVED",
            "DRIFTLOCK_PATH",
            "DRIFTLOCK_RULE",
            "DRIFTLOCK_SEVERITY",
            "DRIFTLOCK_TARGET",
            "DRIFTLOCK_TYPE",
            "MESSAGE",
            "PRIORITY",
            "SYSLOG_IDENTIFIER"
        ]
    );
    let field = |name: &str| std::str::from_utf8(&fields[name]).unwrap();
    fields.keys().for_each(|name| text(field(name)));
    assert_eq!(unescape(field("DRIFTLOCK_PATH")), path);
    assert_eq!(field("PRIORITY"), "3");
    assert_eq!(field("DRIFTLOCK_EVENT"), record.json);
    assert!(
        field("MESSAGE").starts_with("finding opened change=\"changed\" attributes=\"mode\" target=\"app\" path=\"")
    );

    // Syslog: one message within its bound, structured data of ours alone.
    for (enterprise, most) in [(None, 8192), (Some(32473), 8192)] {
        let message = sent(&record, enterprise, most);
        text(&message.text);
        assert_eq!((message.priority, message.id.as_str()), (27, "finding.opened"));
        assert!(message.process.parse::<u32>().is_ok());
        let ids: Vec<&str> = message.elements.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, if enterprise.is_some() { vec!["origin", "driftlock@32473"] } else { vec!["origin"] });
        let escaped = field("DRIFTLOCK_PATH");
        if let Some((_, params)) = message.elements.get(1) {
            params.iter().for_each(|(_, value)| text(value));
            let value = |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
            assert_eq!(value("change"), Some("changed"));
            match value("path") {
                Some(path) if path == escaped => assert_eq!(value("cut"), None),
                // What is cut says so, and how much of it is missing.
                Some(cut) => {
                    let (head, missing) = cut.split_once("...(").unwrap();
                    assert!(escaped.starts_with(head));
                    assert_eq!(missing, format!("{} bytes more)", escaped.len() - head.len()));
                }
                None => assert_eq!(value("cut"), Some("true")),
            }
        }
        let is_cut = message.text.contains(" bytes more)") || message.text.ends_with(" ...");
        assert!(escaped.len() > 512 || !is_cut, "{}", message.text);
        if !is_cut {
            assert_eq!(message.path(), path);
        }
    }
}

#[test]
fn hostile_names_are_names_to_every_reader() {
    names().iter().for_each(|name| harmless(name));
}

#[test]
fn what_is_too_large_for_a_datagram_is_handed_to_the_journal_in_a_sealed_file() {
    let path = vec![vec![b'\n'; 4095]; 16].join(&b'/');
    let record = record(&path);
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let buffer = rustix::net::sockopt::socket_send_buffer_size(&socket).unwrap();
    assert!(record.json.len() > buffer, "{} bytes fit into {buffer}: this tests nothing", record.json.len());
    let fields = journal_entry(&through_a_socket(&record));
    assert_eq!(fields["DRIFTLOCK_EVENT"], record.json.as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_name_is_a_name_to_every_reader(
        name in vec(prop_oneof![4 => 1_u8..=255, 1 => prop::sample::select(b"\n\r\x1b\"\\]%=<>".to_vec())], 1..300)
    ) {
        let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'/' { b'_' } else { byte }).collect();
        prop_assume!(name != b"." && name != b"..");
        harmless(&name);
    }
}
