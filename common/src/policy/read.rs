//! Owns the TOML form of a policy: its keys, what they mean together, and every reason to refuse it. Must not own
//! judging.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::braces;
use super::{
    Allow, MAX_ID, MAX_KEEP, MAX_PATTERN, MAX_PATTERNS, MAX_POLICY, MAX_REASON, MAX_ROTATED, MAX_RULES, PolicyError,
    Privilege, Rotation, Rule, Severity,
};
use crate::drift::{Attribute, Attributes, Change};
use crate::node::FileType;
use crate::pattern::Pattern;
use crate::section::{At, Problems, Section, quoted, table_of, text_of};

const TOP: &[&str] = &["version", "name", "rule"];
const RULE: &[&str] =
    &["id", "path", "change", "attributes", "type", "allow", "rotate", "keep", "privileged", "severity", "reason"];

/// The name and the rules of a policy.
pub(super) fn read(bytes: &[u8]) -> Result<(String, Vec<Rule>), PolicyError> {
    let one = |problem| PolicyError::new(vec![problem]);
    let text = text_of(bytes, MAX_POLICY).map_err(one)?;
    let table = table_of(text).map_err(one)?;
    let mut problems = Problems::new(text);
    let top = Section::new("", TOP, table.get_ref(), &mut problems);
    match top.number("version", &mut problems) {
        Some(At { value: 1, .. }) => {}
        Some(At { value, offset }) => {
            problems.add(offset, format!("version {value} is not known: this driftlock reads version 1"));
        }
        None if top.offset("version").is_none() => problems.add_whole("version is missing: version = 1"),
        None => {}
    }
    let name = top.text("name", &mut problems);
    if let Some(At { value, offset }) = name {
        check_id("name", value, offset, &mut problems);
    } else if top.offset("name").is_none() {
        problems.add_whole("name is missing");
    }
    let rules = rules(&top, &mut problems);
    let problems = problems.finish();
    if problems.is_empty() {
        Ok((name.map_or_else(String::new, |name| name.value.to_owned()), rules))
    } else {
        Err(PolicyError::new(problems))
    }
}

fn rules(top: &Section<'_>, problems: &mut Problems<'_>) -> Vec<Rule> {
    let tables = top.tables("rule", problems);
    if let Some(too_many) = tables.get(MAX_RULES) {
        problems.add(too_many.offset, format!("more than {MAX_RULES} rules"));
        return Vec::new();
    }
    let mut rules = Vec::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    let mut patterns = 0;
    for At { value: table, offset } in tables {
        let Some(rule) = Reader::new(table, offset, problems).rule() else { continue };
        patterns += rule.patterns().count();
        if patterns > MAX_PATTERNS {
            problems.add(offset, format!("more than {MAX_PATTERNS} patterns, braces expanded"));
            break;
        }
        if let Some(line) = lines.insert(rule.id.clone(), rule.line) {
            problems.add(offset, format!("rule {} is there already, on line {line}: ids are unique", quoted(&rule.id)));
        }
        rules.push(rule);
    }
    rules
}

/// Ids and names: what can stand in a log, a file name and a query without quotes.
fn check_id(what: &str, id: &str, offset: usize, problems: &mut Problems<'_>) {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let begins = id.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !begins || id.len() > MAX_ID || !id.bytes().all(allowed) {
        let should = format!("at most {MAX_ID} of a-z 0-9 - . _, beginning with a letter or a digit");
        problems.add(offset, format!("{what} is {}, not {should}", quoted(id)));
    }
}

/// One `[[rule]]`, while it is read.
struct Reader<'a, 'p, 't> {
    section: Section<'a>,
    offset: usize,
    problems: &'p mut Problems<'t>,
}

impl<'a, 'p, 't> Reader<'a, 'p, 't> {
    fn new(table: &'a DeTable<'a>, offset: usize, problems: &'p mut Problems<'t>) -> Self {
        Self { section: Section::new("rule.", RULE, table, problems), offset, problems }
    }

    /// `None` if too little of it could be read for a rule; then there is a problem.
    fn rule(mut self) -> Option<Rule> {
        let id = self.needed("id");
        if let Some(At { value, offset }) = id {
            check_id("rule.id", value, offset, self.problems);
        }
        let paths = self.patterns("path");
        if self.section.offset("path").is_none() {
            self.missing("path");
        }
        let changes = self.section.words("change", self.problems, &Change::ALL.map(Change::name), Change::of_name);
        let types = {
            let of_name = |name: &str| FileType::ALL.into_iter().find(|file_type| file_type.name() == name);
            self.section.words("type", self.problems, &FileType::ALL.map(FileType::name), of_name)
        };
        let allow = self.allow();
        let privileged = self
            .section
            .words("privileged", self.problems, &Privilege::ALL.map(Privilege::name), Privilege::of_name)
            .unwrap_or_default();
        let severity = self
            .section
            .word("severity", self.problems, &Severity::ALL.map(Severity::name), Severity::of_name)
            .unwrap_or_default();
        let reason = self.reason();
        let (id, allow) = (id?.value.to_owned(), allow?);
        self.check_together(&allow, changes.as_deref(), types.as_deref(), &privileged);
        let rotated = match &allow {
            Allow::Append(rotation) => self.rotated(&paths, rotation),
            Allow::Nothing(_) | Allow::Attributes(_) | Allow::Content | Allow::Absent | Allow::Any => Vec::new(),
        };
        let line = self.problems.line(self.offset);
        Some(Rule { id, line, paths, rotated, changes, types, allow, severity, privileged, reason })
    }

    fn missing(&mut self, key: &str) {
        self.problems.add(self.offset, format!("rule.{key} is missing"));
    }

    fn needed(&mut self, key: &str) -> Option<At<&'a str>> {
        if self.section.offset(key).is_none() {
            self.missing(key);
        }
        self.section.text(key, self.problems)
    }

    fn reason(&mut self) -> String {
        let Some(At { value, offset }) = self.needed("reason") else { return String::new() };
        if value.trim().is_empty() {
            self.problems.add(offset, "rule.reason is empty: say why, for whoever reads the alert");
        } else if value.len() > MAX_REASON {
            self.problems.add(offset, format!("rule.reason is longer than {MAX_REASON} bytes"));
        } else if value.chars().any(char::is_control) {
            self.problems.add(offset, "rule.reason holds a control character");
        }
        value.to_owned()
    }

    /// Patterns, braces expanded.
    fn patterns(&mut self, key: &str) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for At { value: text, offset } in self.section.texts(key, self.problems).unwrap_or_default() {
            let expanded = braces::expand(text).and_then(|all| {
                let parse = |text: String| text.parse::<Pattern>().map_err(|error| error.reason());
                all.into_iter().map(parse).collect::<Result<Vec<_>, _>>()
            });
            match expanded {
                Ok(expanded) => patterns.extend(expanded),
                Err(why) => self.problems.add(offset, format!("rule.{key} {} {why}", quoted(text))),
            }
        }
        patterns
    }

    fn allow(&mut self) -> Option<Allow> {
        let At { value: word, offset } = self.needed("allow")?;
        let attributes = {
            let words = Attribute::ALL.map(Attribute::name);
            let found = self.section.words("attributes", self.problems, &words, Attribute::of_name);
            found.map(|found| found.into_iter().collect::<Attributes>())
        };
        let allow = match (word, attributes) {
            ("nothing", attributes) => Allow::Nothing(attributes),
            ("attributes", Some(attributes)) => {
                if attributes.contains(Attribute::Type) {
                    let what = "rule.attributes has type, which allow = \"attributes\" cannot allow: a file that became \
                                something else is only allowed by \"any\"";
                    self.problems.add(offset, what);
                }
                Allow::Attributes(attributes)
            }
            ("attributes", None) => {
                self.problems.add(offset, "rule.attributes is missing: allow = \"attributes\" allows those it names");
                return None;
            }
            ("content", _) => Allow::Content,
            ("append", _) => Allow::Append(self.rotation()),
            ("absent", _) => Allow::Absent,
            ("any", _) => Allow::Any,
            _ => {
                // `word` says it with the nearest.
                self.section.word("allow", self.problems, &Allow::NAMES, |_| None::<()>);
                return None;
            }
        };
        let named = matches!(allow, Allow::Nothing(_) | Allow::Attributes(_));
        self.refuse("attributes", !named, "goes with allow = \"attributes\" or \"nothing\" only");
        let append = matches!(allow, Allow::Append(_));
        self.refuse("rotate", !append, "goes with allow = \"append\" only");
        self.refuse("keep", !append, "goes with allow = \"append\" only");
        Some(allow)
    }

    fn rotation(&mut self) -> Rotation {
        let names = self.patterns("rotate");
        let starred = |name: &&Pattern| name.as_str().rsplit_once('/').is_some_and(|(at, _)| at.contains(['*', '\\']));
        if let (Some(name), Some(offset)) = (names.iter().find(starred), self.section.offset("rotate")) {
            let what = "has a star or a backslash in a directory: name it";
            self.problems.add(offset, format!("rule.rotate {} {what}", quoted(name.as_str())));
        }
        let keep = self.section.number("keep", self.problems).and_then(|At { value, offset }| {
            let keep = u32::try_from(value).ok().filter(|keep| (1..=MAX_KEEP).contains(keep));
            if keep.is_none() {
                self.problems.add(offset, format!("rule.keep is not 1 to {MAX_KEEP}"));
            }
            keep
        });
        self.refuse("keep", self.section.offset("rotate").is_none(), "goes with rotate only");
        Rotation { names, keep }
    }

    /// The rotated names in every directory that a path is in.
    fn rotated(&mut self, paths: &[Pattern], rotation: &Rotation) -> Vec<Pattern> {
        if paths.len() * rotation.names.len() > MAX_ROTATED {
            let what = format!("rule.rotate stands for more than {MAX_ROTATED} patterns beside its paths");
            self.problems.add(self.offset, what);
            return Vec::new();
        }
        let mut rotated: Vec<Pattern> = Vec::new();
        for path in paths {
            let directory = match path.as_str().rsplit_once('/') {
                // Whatever is below may be in any directory below.
                Some((_, "**")) => path.as_str(),
                None if path.as_str() == "**" => "**",
                Some((directory, _)) => directory,
                None => "",
            };
            for name in &rotation.names {
                let text = if directory.is_empty() { name.as_str().to_owned() } else { format!("{directory}/{name}") };
                match text.parse::<Pattern>() {
                    Ok(pattern) if text.len() <= MAX_PATTERN => rotated.push(pattern),
                    _ => {
                        let what = format!("rule.rotate {} is longer than {MAX_PATTERN} bytes", quoted(&text));
                        self.problems.add(self.offset, what);
                        return rotated;
                    }
                }
            }
        }
        rotated.sort();
        rotated.dedup();
        rotated
    }

    /// A key that says nothing beside the others.
    fn refuse(&mut self, key: &str, refused: bool, why: &str) {
        if let (true, Some(offset)) = (refused, self.section.offset(key)) {
            self.problems.add(offset, format!("rule.{key} {why}"));
        }
    }

    /// A rule that contradicts itself would look as if it did something.
    fn check_together(
        &mut self,
        allow: &Allow,
        changes: Option<&[Change]>,
        types: Option<&[FileType]>,
        privileged: &[Privilege],
    ) {
        let (tolerable, of_types): (&[Change], &[FileType]) = match allow {
            Allow::Nothing(None) => (&Change::ALL, &FileType::ALL),
            Allow::Nothing(Some(_)) => (&[Change::Changed], &FileType::ALL),
            Allow::Attributes(_) => (&[Change::Changed], &FileType::ALL),
            Allow::Content => (&[Change::Changed], &[FileType::File, FileType::Symlink]),
            Allow::Append(_) => (&[Change::Added, Change::Removed, Change::Changed], &[FileType::File]),
            Allow::Absent => (&[Change::Removed], &FileType::ALL),
            Allow::Any => (&[Change::Added, Change::Removed, Change::Changed], &FileType::ALL),
        };
        let why = if matches!(allow, Allow::Nothing(Some(_))) {
            "attributes belong to".to_owned()
        } else {
            format!("allow = \"{}\" speaks of", allow.name())
        };
        let name = |changes: &[Change]| changes.iter().map(|change| change.name()).collect::<Vec<_>>().join(", ");
        let contradicts = changes.is_some_and(|changes| !changes.iter().any(|change| tolerable.contains(change)));
        self.refuse("change", contradicts, &format!("contradicts the rule: {why} {} only", name(tolerable)));
        let contradicts = types.is_some_and(|types| !types.iter().any(|file_type| of_types.contains(file_type)));
        let names = of_types.iter().map(|file_type| file_type.name()).collect::<Vec<_>>().join(", ");
        self.refuse("type", contradicts, &format!("contradicts the rule: {why} {names} only"));
        let alarms = !privileged.is_empty() && matches!(allow, Allow::Nothing(_));
        self.refuse("privileged", alarms, "contradicts the rule: it names what is allowed, and nothing is");
    }
}
