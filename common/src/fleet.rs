//! Owns what an operator says of a fleet: which hosts there should be, after how long one is silent, and when one may be.
//! Its TOML form and every reason to refuse it. Must not own what is known of a host, or a clock.

mod quiet;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::host_name::{HostName, HostPattern};
use crate::section::{At, Problem, Problems, Section, quoted, table_of, text_of};

pub use quiet::{MAX_QUIET_S, MAX_WINDOW_S, Quiet, When};

/// The largest file, in bytes: names for a hundred thousand hosts.
pub const MAX_FLEET: usize = 8 * 1024 * 1024;
/// Bounds of `silent.after`, in seconds: ten seconds and thirty days.
pub const SILENT_AFTER_S: (u64, u64) = (10, 30 * 86_400);
/// The longest reason, in bytes.
const MAX_REASON: usize = 255;

const TOP: &[&str] = &["expected", "silent", "quiet"];
const SILENT: &[&str] = &["hosts", "labels", "after"];
const QUIET: &[&str] = &["hosts", "labels", "reason", "from", "until", "at", "for", "days"];

/// What an operator says of a fleet. Nothing said is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Hosts that should be there, by the names of their credentials.
    pub expected: BTreeSet<HostName>,
    silent: Vec<Silent>,
    quiet: Vec<Quiet>,
}

/// Which hosts a rule is about: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whom {
    /// One of these matches the name; every name if there is none.
    hosts: Vec<HostPattern>,
    /// Each of these is among the labels.
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Silent {
    whom: Whom,
    after_s: u64,
}

/// Everything that is wrong with a fleet file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FleetError {
    /// At least one, in the order of the text.
    pub problems: Vec<Problem>,
}

// === impl Fleet ===

impl Fleet {
    /// Reads the text of a fleet file.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, FleetError> {
        let one = |problem| FleetError { problems: vec![problem] };
        let text = text_of(bytes, MAX_FLEET).map_err(one)?;
        let table = table_of(text).map_err(one)?;
        let mut problems = Problems::new(text);
        let top = Section::new("", TOP, table.get_ref(), &mut problems);
        let fleet = Self {
            expected: expected(&top, &mut problems),
            silent: rules(&top, "silent", &mut problems, silent),
            quiet: rules(&top, "quiet", &mut problems, quiet::read),
        };
        let mut problems = problems.finish();
        problems.sort();
        if problems.is_empty() { Ok(fleet) } else { Err(FleetError { problems }) }
    }

    /// After how many seconds such a host is silent, by the first rule that is about it.
    pub fn silent_after(&self, host: &str, labels: &BTreeMap<String, String>) -> Option<u64> {
        self.silent.iter().find(|rule| rule.whom.is(host, labels)).map(|rule| rule.after_s)
    }

    /// The quiet time that such a host is in, of several the one that ends last, and when it ends: in seconds since 1970.
    pub fn quiet(&self, host: &str, labels: &BTreeMap<String, String>, now: i64) -> Option<(&Quiet, i64)> {
        let about = self.quiet.iter().filter(|quiet| quiet.whom.is(host, labels));
        about.filter_map(|quiet| Some((quiet, quiet.when.end(now)?))).max_by_key(|(_, end)| *end)
    }
}

// === impl Whom ===

impl Whom {
    fn is(&self, host: &str, labels: &BTreeMap<String, String>) -> bool {
        self.names(host) && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    fn names(&self, host: &str) -> bool {
        self.hosts.is_empty()
            || host.parse().is_ok_and(|name: HostName| self.hosts.iter().any(|pattern| pattern.matches(&name)))
    }

    fn read(section: &Section<'_>, problems: &mut Problems<'_>) -> Self {
        let mut hosts = Vec::new();
        for At { value, offset } in section.texts("hosts", problems).unwrap_or_default() {
            match value.parse() {
                Ok(pattern) => hosts.push(pattern),
                Err(error) => problems.add(offset, format!("hosts: {}: {error}", quoted(value))),
            }
        }
        let labels = section.take("labels", problems, "a table of texts: { role = \"batch\" }", |value| {
            let texts = value
                .as_table()?
                .iter()
                .map(|(key, value)| Some((key.get_ref().to_string(), value.get_ref().as_str()?.to_owned())));
            texts.collect::<Option<BTreeMap<_, _>>>()
        });
        Self { hosts, labels: labels.map(|at| at.value).unwrap_or_default() }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts.is_empty() && self.labels.is_empty() {
            return f.write_str("every host");
        }
        let hosts = self.hosts.iter().map(HostPattern::to_string);
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}"));
        f.write_str(&hosts.chain(labels).collect::<Vec<_>>().join(" "))
    }
}

impl fmt::Display for FleetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.problems.iter().map(Problem::to_string).collect();
        f.write_str(&problems.join("; "))
    }
}

// === reading ===

fn expected(top: &Section<'_>, problems: &mut Problems<'_>) -> BTreeSet<HostName> {
    let mut expected = BTreeSet::new();
    // An inventory may be empty, unlike other lists.
    if top
        .take("expected", &mut Problems::new(""), "", |value| value.as_array().filter(|list| list.is_empty()))
        .is_some()
    {
        return expected;
    }
    for At { value: text, offset } in top.texts("expected", problems).unwrap_or_default() {
        match text.parse() {
            Ok(name) => {
                if !expected.insert(name) {
                    problems.add(offset, format!("expected: {} stands there twice", quoted(text)));
                }
            }
            Err(error) => problems.add(offset, format!("expected: {}: {error}", quoted(text))),
        }
    }
    expected
}

fn rules<T>(
    top: &Section<'_>,
    key: &'static str,
    problems: &mut Problems<'_>,
    read: fn(&DeTable<'_>, usize, &mut Problems<'_>) -> Option<T>,
) -> Vec<T> {
    let tables = top.tables(key, problems);
    tables.into_iter().filter_map(|At { value, offset }| read(value, offset, problems)).collect()
}

fn silent(table: &DeTable<'_>, offset: usize, problems: &mut Problems<'_>) -> Option<Silent> {
    let section = Section::new("silent.", SILENT, table, problems);
    let whom = Whom::read(&section, problems);
    if section.offset("after").is_none() {
        problems.add(offset, "silent.after is missing: after = \"2h\"");
    }
    let should = "from \"10s\" to \"30d\", such as \"90s\", \"15m\" or \"2h\"";
    let (least, most) = SILENT_AFTER_S;
    let after = section
        .take("after", problems, should, |value| duration_s(value).filter(|seconds| (least..=most).contains(seconds)));
    Some(Silent { whom, after_s: after?.value })
}

/// Seconds of a text such as `90s`, `15m`, `2h` or `1d`.
fn duration_s(value: &DeValue<'_>) -> Option<u64> {
    let text = value.as_str()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(unit)
}

fn is_reason(text: &str) -> bool {
    text.len() <= MAX_REASON && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
expected = ["web-1", "web-2", "db.example"]

[[silent]]
labels = { role = "batch" }
after  = "2h"

[[silent]]
hosts = ["build-*", "ci"]
after = "15m"

[[quiet]]
hosts  = "web-*"
from   = "2026-12-01T22:00:00Z"
until  = "2026-12-01T23:30:00Z"
reason = "kernel update"

[[quiet]]
labels = { role = "web" }
at     = "23:30"
for    = "1h"
days   = ["sat"]
"#;

    fn labels(role: &str) -> BTreeMap<String, String> {
        [("role".to_owned(), role.to_owned()), ("zone".to_owned(), "a".to_owned())].into()
    }

    fn unix(text: &str) -> i64 {
        crate::trust::Timestamp::parse(text).unwrap().unix()
    }

    #[test]
    fn the_first_rule_about_a_host_says_when_it_is_silent() {
        let fleet = Fleet::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(fleet.expected.iter().map(HostName::as_str).collect::<Vec<_>>(), ["db.example", "web-1", "web-2"]);
        for (host, role, expected) in [
            ("build-7", "batch", Some(7200)),
            ("build-7", "web", Some(900)),
            ("ci", "", Some(900)),
            ("build", "", None),
            ("a/b", "", None),
            ("..", "web", None),
            ("..", "batch", Some(7200)),
        ] {
            assert_eq!(fleet.silent_after(host, &labels(role)), expected, "{host} {role}");
        }
        assert_eq!(fleet.silent_after("x", &BTreeMap::new()), None);
        assert_eq!(Fleet::parse(b""), Ok(Fleet::default()));
        assert_eq!(Fleet::parse(b"expected = []"), Ok(Fleet::default()));
    }

    #[test]
    fn a_quiet_time_is_that_of_the_host_and_of_several_the_one_that_ends_last() {
        let fleet = Fleet::parse(EXAMPLE.as_bytes()).unwrap();
        let end = |host: &str, role: &str, now: &str| fleet.quiet(host, &labels(role), unix(now)).map(|(_, end)| end);
        let one = Some(unix("2026-12-01T23:30:00Z"));
        for (host, role, now, expected) in [
            ("web-1", "", "2026-12-01T21:59:59Z", None),
            ("web-1", "", "2026-12-01T22:00:00Z", one),
            ("web-1", "", "2026-12-01T23:29:59Z", one),
            ("web-1", "", "2026-12-01T23:30:00Z", None),
            ("db-1", "", "2026-12-01T22:30:00Z", None),
            // 2026-12-05 is a Saturday: the window goes on into Sunday.
            ("db-1", "web", "2026-12-05T23:29:59Z", None),
            ("db-1", "web", "2026-12-06T00:29:59Z", Some(unix("2026-12-06T00:30:00Z"))),
            ("db-1", "web", "2026-12-06T00:30:00Z", None),
            ("db-1", "web", "2026-12-06T23:45:00Z", None),
        ] {
            assert_eq!(end(host, role, now), expected, "{host} {role} {now}");
        }
        let (quiet, _) = fleet.quiet("web-1", &labels(""), unix("2026-12-01T22:30:00Z")).unwrap();
        assert_eq!((quiet.reason.as_str(), quiet.whom.to_string().as_str()), ("kernel update", "web-*"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_what_to_do() {
        for (text, expected) in [
            ("expectd = []", "1:1: unknown key expectd; did you mean expected?"),
            ("expected = [\"a\", \"a\"]", "1:18: expected: \"a\" stands there twice"),
            ("expected = [1]", "expected is not a text, nor a list of texts that is not empty"),
            ("expected = [\"a\\nb\"]", "expected: \"a\\x0ab\": a host's name is"),
            ("[silent]\nafter = \"2h\"", "silent is not written [[silent]], with two brackets"),
            ("[[silent]]\nhosts = \"a\"", "silent.after is missing"),
            ("[[silent]]\nafter = \"9s\"", "silent.after is not from \"10s\" to \"30d\""),
            ("[[silent]]\nafter = \"31d\"", "silent.after is not from \"10s\" to \"30d\""),
            ("[[silent]]\nafter = 20", "silent.after is not from"),
            ("[[silent]]\nafter = \"h\"", "silent.after is not from"),
            ("[[silent]]\nafter = \"é\"", "silent.after is not from"),
            ("[[silent]]\nafter = \"1h\"\nhosts = \"[ab]\"", "hosts: \"[ab]\": a pattern of hosts is"),
            ("[[silent]]\nafter = \"1h\"\nlabels = { a = 1 }", "silent.labels is not a table of texts"),
            ("[[quiet]]\nreason = \"x\"", "a quiet time has from and until, or at and for"),
            (
                "[[quiet]]\nat = \"02:00\"\nfrom = \"2026-12-01T22:00:00Z\"",
                "a quiet time has from and until, or at and for",
            ),
            ("[[quiet]]\nfrom = \"2026-12-01T22:00:00Z\"\nuntil = \"2026-12-01T22:00:00Z\"", "ends before it begins"),
            ("[[quiet]]\nfrom = \"2026-12-01T22:00:00Z\"\nuntil = \"2026-12-09T22:00:00Z\"", "longer than 7 days"),
            ("[[quiet]]\nfrom = \"today\"\nuntil = \"2026-12-01T22:00:00Z\"", "quiet.from is not RFC 3339"),
            ("[[quiet]]\nat = \"24:00\"\nfor = \"1h\"", "quiet.at is not a time of day in UTC"),
            ("[[quiet]]\nat = \"02:00\"\nfor = \"25h\"", "quiet.for is not from \"1m\" to \"24h\""),
            (
                "[[quiet]]\nat = \"02:00\"\nfor = \"1h\"\ndays = [\"sunday\"]",
                "quiet.days is not \"sunday\": one of mon, tue",
            ),
            ("[[quiet]]\nat = \"02:00\"\nfor = \"1h\"\nreason = \"a\\nb\"", "quiet.reason is one line"),
            (
                "[[quiet]]\nfrom = \"2026-12-01T22:00:00Z\"\nuntil = \"2026-12-01T23:00:00Z\"\ndays = [\"sun\"]",
                "days goes with at",
            ),
            ("a = ", "1:5:"),
        ] {
            let error = Fleet::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(Fleet::parse(b"\xff").is_err());
        assert!(Fleet::parse(&vec![b'#'; MAX_FLEET + 1]).unwrap_err().to_string().contains("larger than"));
    }
}
