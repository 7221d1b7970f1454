//! Owns the two sides of a finding as rows of text. Must not own deciding what differs: the finding says it.

use driftlock_common::drift::{Attribute, Change};
use driftlock_common::finding::{Finding, NodeView};
use driftlock_common::path::from_base64;

use super::shown::Shown;
use crate::clock::Timestamp;

/// One attribute on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// What it is.
    pub(super) label: &'static str,
    /// As sealed; absent where nothing was.
    pub(super) sealed: Option<Shown>,
    /// As on disk; absent where nothing is, or it was not established.
    pub(super) observed: Option<Shown>,
    /// Whether it is (part of) the difference.
    pub(super) differs: bool,
}

/// The rows of a finding, in the order of its attributes. A side that a finding does not have is empty everywhere.
pub(super) fn compare(finding: &Finding) -> Vec<Row> {
    let views = [finding.expected.as_ref(), finding.observed.as_ref()];
    ROWS.iter()
        .filter_map(|(label, attribute, value)| {
            let [sealed, observed] = views.map(|view| view.and_then(value));
            if sealed.is_none() && observed.is_none() {
                return None;
            }
            let differs = match finding.change {
                // Only what is on one side is seen at all; it is the difference.
                Change::Added | Change::Removed => true,
                // SHA-256 is carried beside the verified digest and is on the sealed side alone.
                Change::Changed => {
                    finding.attributes.contains(*attribute)
                        && (sealed != observed || finding.unverified.contains(*attribute))
                }
                Change::Unverifiable => false,
            };
            Some(Row { label, sealed, observed, differs })
        })
        .collect()
}

/// How an attribute is read out of a side.
type Value = fn(&NodeView) -> Option<Shown>;

const ROWS: [(&str, Attribute, Value); 11] = [
    ("type", Attribute::Type, |view| Some(Shown::name(&view.file_type))),
    ("size", Attribute::Content, |view| view.size.map(|size| Shown::name(&bytes(size)))),
    ("blake3", Attribute::Content, |view| view.blake3.map(|digest| Shown::name(&digest.to_hex()))),
    ("sha256", Attribute::Content, |view| view.sha256.map(|digest| Shown::name(&digest.to_hex()))),
    ("link target", Attribute::Target, |view| match &view.target_b64 {
        Some(base64) => from_base64(base64).map(|bytes| Shown::bytes(&bytes)),
        None => view.target.as_deref().map(Shown::name),
    }),
    ("mode", Attribute::Mode, |view| view.mode.as_deref().map(|mode| Shown::name(&symbolic(mode)))),
    ("owner", Attribute::Uid, |view| view.uid.map(|uid| Shown::name(&uid.to_string()))),
    ("group", Attribute::Gid, |view| view.gid.map(|gid| Shown::name(&gid.to_string()))),
    ("xattrs", Attribute::Xattrs, |view| {
        let xattrs = view.xattrs.as_ref()?;
        let list: Vec<String> = xattrs.iter().map(|xattr| format!("{}={}", xattr.name, xattr.value)).collect();
        Some(if list.is_empty() { Shown::name("none") } else { Shown::escaped_text(&list.join(" ")) })
    }),
    ("device", Attribute::Device, |view| view.device.map(|[major, minor]| Shown::name(&format!("{major}, {minor}")))),
    ("modified", Attribute::Mtime, |view| {
        view.mtime.map(|seconds| Shown::name(&Timestamp::from_millis(seconds.saturating_mul(1000)).to_string()))
    }),
];

/// A number of bytes, exact.
pub(super) fn bytes(number: u64) -> String {
    grouped(number) + " B"
}

/// A number in groups that stay on one line, exact.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Octal digits with the letters of `ls -l` behind them; anything else as it is.
fn symbolic(mode: &str) -> String {
    let Ok(bits) = u16::from_str_radix(mode, 8) else { return mode.to_owned() };
    let mut letters = String::new();
    for (shift, special, set, alone) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bit = |bit: u16| bits >> shift & bit != 0;
        letters.push(if bit(4) { 'r' } else { '-' });
        letters.push(if bit(2) { 'w' } else { '-' });
        letters.push(match (bits & special != 0, bit(1)) {
            (true, true) => set,
            (true, false) => alone,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    format!("{mode}  {letters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_sizes() {
        for (mode, text) in [
            ("0755", "0755  rwxr-xr-x"),
            ("4755", "4755  rwsr-xr-x"),
            ("2644", "2644  rw-r-Sr--"),
            ("1777", "1777  rwxrwxrwt"),
            ("<b>", "<b>"),
        ] {
            assert_eq!(symbolic(mode), text);
        }
        for (number, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1\u{202f}000 B"), (1_234_567, "1\u{202f}234\u{202f}567 B")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn only_what_the_finding_names_differs() {
        let finding: Finding = serde_json::from_str(
            r#"{"path":"a","change":"changed","attributes":["content","mode"],
                "expected":{"type":"file","size":5,"mode":"0755","uid":0},
                "observed":{"type":"file","size":5,"mode":"4755","uid":0},"unverified":["content"],"reason":"io"}"#,
        )
        .unwrap();
        let differs: Vec<_> = compare(&finding).into_iter().map(|row| (row.label, row.differs)).collect();
        assert_eq!(differs, [("type", false), ("size", true), ("mode", true), ("owner", false)]);
    }
}
