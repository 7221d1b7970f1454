//! Owns the test cases of a policy: a drift and a time, and what the policy is to say of it. Must not own files, or which
//! policy a case is for.

use std::fmt;

use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use super::rotation::{Cut, Fate, Rotated};
use super::{Context, MAX_POLICY, Moment, Policy, PolicyError, Severity, Verdict};
use crate::drift::{Attribute, Attributes, Change, Delta, Drift, Sealed};
use crate::gap::Reason;
use crate::node::{Device, FileType, Kind, Node, Xattrs};
use crate::path::{TreePath, from_base64};
use crate::section::{Problems, Section, quoted, table_of, text_of};
use crate::tree::Origin;

/// The most cases of one file.
pub const MAX_CASES: usize = 10_000;

const TOP: &[&str] = &["policy", "case"];
const CASE: &[&str] = &[
    "path",
    "path_b64",
    "change",
    "attributes",
    "type",
    "becomes",
    "mode",
    "capabilities",
    "fate",
    "time",
    "verdict",
    "severity",
    "rule",
];

/// A file of cases.
#[derive(Clone, Debug)]
pub struct Cases {
    /// The policy that they are for: a path beside the file.
    pub policy: String,
    /// In order; not empty.
    pub cases: Vec<Case>,
}

/// A drift, and what is to be said of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where it is written: a line, from 1.
    pub line: usize,
    /// What differs.
    pub drift: Drift,
    /// What else is known.
    pub context: Context,
    /// When.
    pub now: Moment,
    /// `None`: tolerated.
    pub severity: Option<Severity>,
    /// The id of the rule that is to decide; `None`: none.
    pub rule: Option<String>,
}

/// A case that went otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch<'a> {
    /// The case.
    expected: (Option<Severity>, Option<&'a str>),
    said: Verdict<'a>,
}

impl Cases {
    /// Reads a file of cases.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let one = |problem| PolicyError::new(vec![problem]);
        let text = text_of(bytes, MAX_POLICY).map_err(one)?;
        let table = table_of(text).map_err(one)?;
        let mut problems = Problems::new(text);
        let top = Section::new("", TOP, table.get_ref(), &mut problems);
        let policy = top.text("policy", &mut problems).map_or_else(String::new, |policy| policy.value.to_owned());
        if top.offset("policy").is_none() {
            problems.add_whole("policy is missing: the file that the cases are for, beside this one");
        }
        let tables = top.tables("case", &mut problems);
        if tables.is_empty() && top.offset("case").is_none() {
            problems.add_whole("there is no [[case]]");
        }
        if let Some(too_many) = tables.get(MAX_CASES) {
            problems.add(too_many.offset, format!("more than {MAX_CASES} cases"));
        }
        let tables = tables.into_iter().take(MAX_CASES);
        let cases = tables.filter_map(|table| Reader::new(table.value, table.offset, &mut problems).case()).collect();
        let problems = problems.finish();
        if problems.is_empty() { Ok(Self { policy, cases }) } else { Err(PolicyError::new(problems)) }
    }
}

impl Case {
    /// Whether the policy says what it is to say.
    ///
    /// # Errors
    /// What it says instead.
    pub fn check<'a>(&'a self, policy: &'a Policy) -> Result<Verdict<'a>, Mismatch<'a>> {
        let said = policy.judge(&self.drift, &self.context, self.now);
        let expected = (self.severity, self.rule.as_deref());
        if (said.severity(), said.rule().map(|rule| rule.id.as_str())) == expected {
            Ok(said)
        } else {
            Err(Mismatch { expected, said })
        }
    }
}

/// One `[[case]]`, while it is read.
struct Reader<'a, 'p, 't> {
    section: Section<'a>,
    offset: usize,
    problems: &'p mut Problems<'t>,
}

impl<'a, 'p, 't> Reader<'a, 'p, 't> {
    fn new(table: &'a DeTable<'a>, offset: usize, problems: &'p mut Problems<'t>) -> Self {
        Self { section: Section::new("case.", CASE, table, problems), offset, problems }
    }

    fn case(mut self) -> Option<Case> {
        let path = self.path();
        let node = self.node();
        let delta = self.delta(node);
        let fate = self.fate();
        let now = self.time();
        let severity = self.verdict();
        let rule = self.section.text("rule", self.problems).map(|rule| rule.value.to_owned());
        let line = self.problems.line(self.offset);
        let drift = Drift { path: path?, delta: delta? };
        Some(Case { line, drift, context: Context { fate }, now: now?, severity: severity?, rule })
    }

    fn complain(&mut self, what: &str) {
        self.problems.add(self.offset, what);
    }

    fn path(&mut self) -> Option<TreePath> {
        let bytes = match (self.section.offset("path"), self.section.offset("path_b64")) {
            (Some(_), None) => self.section.text("path", self.problems)?.value.as_bytes().to_vec(),
            (None, Some(_)) => {
                self.section
                    .take("path_b64", self.problems, "base64", |value| value.as_str().and_then(from_base64))?
                    .value
            }
            _ => {
                self.complain("a case has either path or path_b64");
                return None;
            }
        };
        TreePath::new(bytes).map_err(|error| self.problems.add(self.offset, format!("case.path: {error}"))).ok()
    }

    /// What is there, or was: a file unless said, with mode 0644.
    fn node(&mut self) -> Node {
        let file_type = self.file_type("type").unwrap_or(FileType::File);
        let mode = self.section.take("mode", self.problems, "four octal digits like \"0644\"", |value| {
            let text =
                value.as_str().filter(|text| text.len() == 4 && text.bytes().all(|b| (b'0'..b'8').contains(&b)))?;
            u16::from_str_radix(text, 8).ok()
        });
        let capabilities = self.section.take("capabilities", self.problems, "true or false", DeValue::as_bool);
        let mut node = bare(file_type);
        if file_type != FileType::Symlink {
            node.mode = Some(mode.map_or(0o644, |mode| mode.value));
        }
        if capabilities.is_some_and(|has| has.value) {
            node.xattrs = Xattrs::new(vec![(b"security.capability".as_slice().into(), b"1".as_slice().into())]);
        }
        node
    }

    fn file_type(&mut self, key: &str) -> Option<FileType> {
        let of_name = |name: &str| FileType::ALL.into_iter().find(|file_type| file_type.name() == name);
        self.section.word(key, self.problems, &FileType::ALL.map(FileType::name), of_name)
    }

    fn delta(&mut self, node: Node) -> Option<Delta> {
        if self.section.offset("change").is_none() {
            self.complain("case.change is missing");
        }
        let change = self.section.word("change", self.problems, &Change::ALL.map(Change::name), Change::of_name)?;
        let attributes: Option<Attributes> = self
            .section
            .words("attributes", self.problems, &Attribute::ALL.map(Attribute::name), Attribute::of_name)
            .map(|found| found.into_iter().collect());
        let becomes = self.file_type("becomes");
        let sealed = |node| Sealed { node, origin: Origin::default(), part: 0 };
        if change != Change::Changed && (attributes.is_some() || becomes.is_some()) {
            self.complain("case.attributes and case.becomes go with change = \"changed\" only");
            return None;
        }
        Some(match change {
            Change::Added => Delta::Added { observed: node, unverified: None, collapsed: None },
            Change::Removed => Delta::Removed { expected: sealed(node) },
            Change::Unverifiable => {
                Delta::Unverifiable { reason: Reason::Denied, covers: 1, expected: Some(sealed(node)) }
            }
            Change::Changed => match (attributes, becomes) {
                (Some(attributes), None) if !attributes.is_empty() && !attributes.contains(Attribute::Type) => {
                    // Of what is sealed, rules ask the type alone.
                    let expected = sealed(bare(node.file_type()));
                    Delta::Changed { attributes, expected, observed: node, unverified: None }
                }
                (None, Some(other)) if other != node.file_type() => {
                    let observed = Node { kind: bare(other).kind, ..node.clone() };
                    let attributes = Attributes::of(Attribute::Type);
                    Delta::Changed { attributes, expected: sealed(node), observed, unverified: None }
                }
                _ => {
                    self.complain("a changed path has either attributes, or the other type that it becomes");
                    return None;
                }
            },
        })
    }

    fn fate(&mut self) -> Option<Fate> {
        let to = || TreePath::new("rotated").unwrap_or_default();
        self.section.word("fate", self.problems, &["grown", "rotated", "shrunk", "rewritten", "gone"], |word| {
            Some(match word {
                "grown" => Fate::Grown,
                "rotated" => Fate::Rotated(Rotated::Renamed { to: to() }),
                "shrunk" => Fate::Cut(Cut::Shrunk),
                "rewritten" => Fate::Cut(Cut::Rewritten),
                "gone" => Fate::Cut(Cut::Gone),
                _ => return None,
            })
        })
    }

    fn time(&mut self) -> Option<Moment> {
        if self.section.offset("time").is_none() {
            return Some(Moment::default());
        }
        let should = "a time with its zone like 2026-01-01T00:00:00Z";
        let time = self.section.take("time", self.problems, should, |value| value.as_datetime().and_then(moment));
        time.map(|time| time.value)
    }

    /// The severity that is wanted; the inner `None` is tolerated.
    fn verdict(&mut self) -> Option<Option<Severity>> {
        let tolerated = self.section.word("verdict", self.problems, &["alert", "tolerated"], |word| match word {
            "alert" => Some(false),
            "tolerated" => Some(true),
            _ => None,
        });
        let severity =
            self.section.word("severity", self.problems, &Severity::ALL.map(Severity::name), Severity::of_name);
        match (tolerated, severity) {
            (Some(true), None) if self.section.offset("rule").is_none() => {
                self.complain("case.rule is missing: what is tolerated is tolerated by a rule");
                None
            }
            (Some(true), None) => Some(None),
            (Some(false), Some(severity)) => Some(Some(severity)),
            (Some(true), Some(_)) => {
                self.complain("case.severity goes with verdict = \"alert\" only");
                None
            }
            (Some(false), None) => {
                self.complain("case.severity is missing: an alert has one");
                None
            }
            (None, _) => {
                if self.section.offset("verdict").is_none() {
                    self.complain("case.verdict is missing: \"alert\" or \"tolerated\"");
                }
                None
            }
        }
    }
}

fn bare(file_type: FileType) -> Node {
    const NULL: Device = Device { major: 1, minor: 3 };
    Node::bare(match file_type {
        FileType::File => Kind::File { size: None, content: None },
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink { target: Box::new([]) },
        FileType::Char => Kind::Char(Some(NULL)),
        FileType::Block => Kind::Block(Some(NULL)),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
    })
}

/// Seconds since 1970-01-01 UTC of a time with a zone (proleptic Gregorian calendar; a leap second counts as the next).
fn moment(time: &Datetime) -> Option<Moment> {
    let (date, clock, offset) = (time.date?, time.time?, time.offset?);
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
            - 1
            - 719_468;
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let seconds = i64::from(clock.hour) * 3600 + i64::from(clock.minute) * 60 + i64::from(clock.second.unwrap_or(0));
    Some(Moment(days * 86_400 + seconds - minutes * 60))
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |severity: Option<Severity>, rule: Option<&str>| {
            let verdict = severity.map_or_else(|| "tolerated".to_owned(), |severity| format!("an alert, {severity}"));
            let rule = rule.map_or_else(|| "no rule".to_owned(), |rule| format!("rule {}", quoted(rule)));
            format!("{verdict}, by {rule}")
        };
        let (severity, rule) = self.expected;
        let said = told(self.said.severity(), self.said.rule().map(|rule| rule.id.as_str()));
        write!(f, "expected {}, but it is {said}", told(severity, rule))?;
        match self.said {
            Verdict::Alert { cause, .. } => write!(f, " ({cause})"),
            Verdict::Tolerated { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        // From `date -u -d … +%s`.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("2026-11-29T23:43:18Z", 1_795_995_798),
            ("2026-11-30T01:43:18+02:00", 1_795_995_798),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(moment(&text.parse().unwrap()), Some(Moment(seconds)), "{text}");
        }
        assert_eq!(moment(&"2026-11-29".parse().unwrap()), None);
    }
}
