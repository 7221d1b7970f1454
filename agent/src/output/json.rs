//! Owns the lines of the ndjson form. Must not own the shape of a finding or a summary: that is the core's.

use driftlock_common::finding::{Finding, Summary};
use driftlock_common::manifest::SealedIn;
use driftlock_common::policy::Judged;
use serde::Serialize;

/// An object with its `type` as the first key.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    line_type: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

/// `{"type":"finding",…}` and a line feed.
pub fn finding_line(judged: &Judged<'_>, sealed_in: SealedIn<'_>) -> Vec<u8> {
    line("finding", &Finding::of(judged, sealed_in))
}

/// `{"type":"summary",…}` and a line feed.
pub fn summary_line(summary: &Summary) -> Vec<u8> {
    line("summary", summary)
}

fn line<T: Serialize>(line_type: &'static str, body: &T) -> Vec<u8> {
    let mut bytes = to_json(&Line { line_type, body });
    bytes.push(b'\n');
    bytes
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists of them always have a JSON form")
}

#[cfg(test)]
mod tests {
    use driftlock_common::drift::{Delta, Drift};
    use driftlock_common::gap::Reason;
    use driftlock_common::path::TreePath;

    use super::super::sample;
    use super::*;

    #[test]
    fn the_type_comes_first_and_the_order_of_keys_stays() {
        let delta = Delta::Unverifiable { reason: Reason::Denied, covers: 3, expected: None };
        let drift = Drift { path: TreePath::new("a\nb").unwrap(), delta };
        assert_eq!(
            String::from_utf8(finding_line(&drift.into(), (&sample::header()).into())).unwrap(),
            "{\"type\":\"finding\",\"path\":\"a\\\\x0ab\",\"path_b64\":\"YQpi\",\"change\":\"unverifiable\",\"reason\":\"denied\",\"covers\":3}\n"
        );
    }
}
