//! Owns the TOML form of whom a target believes: its keys, what they mean together, and every reason to refuse it. Must not
//! own judging.
//!
//! Keys stand in the file itself, so that one rename replaces all of it, and no moment has half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::anchor::{Anchor, Anchors, MAX_KEYS, Quorum, Role, Source};
use super::key::{KeyId, PublicKey};
use super::timestamp::Timestamp;
use crate::digest::{Algorithm, OciDigest};
use crate::section::{At, Problem, Problems, Section, quoted, table_of, text_of};

/// The largest trust file, in bytes.
pub const MAX_ROOTS: usize = 256 * 1024;

const TOP: &[&str] = &["version", "key", "role", "source"];
const KEY: &[&str] = &["name", "pem", "not_before", "expires", "revoked"];
const ROLES: &[&str] = &["manifest", "assignment"];
const ROLE: &[&str] = &["keys", "threshold"];
const SOURCE: &[&str] = &["repository", "image"];

/// Everything that is wrong with a trust file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RootsError {
    /// At least one, in the order of the text.
    pub problems: Vec<Problem>,
}

impl Anchors {
    /// Reads the text of a trust file.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, RootsError> {
        let one = |problem| RootsError { problems: vec![problem] };
        let text = text_of(bytes, MAX_ROOTS).map_err(one)?;
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
        let keys = keys(&top, &mut problems);
        let quorums = roles(&top, &keys, &mut problems);
        let source = source(&top, &mut problems);
        let mut problems = problems.finish();
        problems.sort();
        if problems.is_empty() { Ok(Self { keys, quorums, source }) } else { Err(RootsError { problems }) }
    }
}

fn keys(top: &Section<'_>, problems: &mut Problems<'_>) -> Vec<Anchor> {
    let tables = top.tables("key", problems);
    if tables.is_empty() && top.offset("key").is_none() {
        problems.add_whole("there is no [[key]]: nothing would be trusted");
    }
    if let Some(too_many) = tables.get(MAX_KEYS) {
        problems.add(too_many.offset, format!("more than {MAX_KEYS} keys"));
        return Vec::new();
    }
    let mut keys: Vec<Anchor> = Vec::new();
    for At { value: table, offset } in tables {
        let Some(anchor) = anchor(table, offset, problems) else { continue };
        if keys.iter().any(|other| other.name == anchor.name) {
            problems.add(offset, format!("a key {} is there already: names are unique", quoted(&anchor.name)));
        }
        if let Some(other) = keys.iter().find(|other| other.key.id() == anchor.key.id()) {
            let (one, two) = (quoted(&other.name), quoted(&anchor.name));
            problems.add(offset, format!("{one} and {two} are one key: it would be counted once, leave one out"));
        }
        keys.push(anchor);
    }
    keys
}

/// `None` if too little of it could be read for a key; then there is a problem.
fn anchor(table: &DeTable<'_>, offset: usize, problems: &mut Problems<'_>) -> Option<Anchor> {
    let section = Section::new("key.", KEY, table, problems);
    for key in ["name", "pem"] {
        if section.offset(key).is_none() {
            problems.add(offset, format!("key.{key} is missing"));
        }
    }
    let name = section.text("name", problems);
    if let Some(At { value, offset }) = name
        && (value.is_empty() || value.len() > 128 || value.chars().any(char::is_control))
    {
        problems.add(offset, "key.name is 1 to 128 bytes of text");
    }
    let pem = section.text("pem", problems);
    let key = pem.and_then(|At { value, offset }| {
        PublicKey::from_pem(value).map_err(|error| problems.add(offset, format!("key.pem: {error}"))).ok()
    });
    let not_before = instant(&section, "not_before", problems);
    let expires = instant(&section, "expires", problems);
    if let (Some(begin), Some(end)) = (not_before, expires)
        && begin >= end
    {
        problems.add(offset, format!("a key that counts from {begin} until {end} never does"));
    }
    let revoked = section.take("revoked", problems, "true or false", DeValue::as_bool);
    Some(Anchor {
        name: name?.value.to_owned(),
        key: key?,
        not_before,
        expires,
        revoked: revoked.is_some_and(|at| at.value),
    })
}

fn instant(section: &Section<'_>, key: &str, problems: &mut Problems<'_>) -> Option<Timestamp> {
    let read = |value: &DeValue<'_>| Timestamp::parse(&value.as_datetime()?.to_string());
    section.take(key, problems, "a time like 2026-11-30T12:00:00Z", read).map(|at| at.value)
}

fn roles(top: &Section<'_>, keys: &[Anchor], problems: &mut Problems<'_>) -> BTreeMap<Role, Quorum> {
    let mut quorums = BTreeMap::new();
    let Some(section) = top.table("role", problems, "role.", ROLES) else {
        if top.offset("role").is_none() {
            problems.add_whole("there is no [role.manifest]: no key could sign anything");
        }
        return quorums;
    };
    if section.offset("manifest").is_none() {
        problems
            .add(top.offset("role").unwrap_or_default(), "there is no [role.manifest]: no manifest would be trusted");
    }
    for (role, prefix) in [(Role::Manifest, "role.manifest."), (Role::Assignment, "role.assignment.")] {
        let Some(one) = section.table(role.name(), problems, prefix, ROLE) else { continue };
        quorums.extend(quorum(&one, prefix, &section, role, keys, problems).map(|quorum| (role, quorum)));
    }
    quorums
}

fn quorum(
    section: &Section<'_>,
    prefix: &str,
    roles: &Section<'_>,
    role: Role,
    keys: &[Anchor],
    problems: &mut Problems<'_>,
) -> Option<Quorum> {
    let begin = roles.offset(role.name()).unwrap_or_default();
    if section.offset("keys").is_none() {
        problems.add(begin, format!("{prefix}keys is missing"));
    }
    let mut members: BTreeSet<KeyId> = BTreeSet::new();
    let mut alive = 0;
    for At { value: name, offset } in section.texts("keys", problems)? {
        match keys.iter().find(|anchor| anchor.name == name) {
            Some(anchor) if !members.insert(anchor.key.id()) => {
                problems.add(offset, format!("{prefix}keys names {} twice", quoted(name)));
            }
            Some(anchor) => alive += usize::from(!anchor.revoked),
            None => problems.add(offset, format!("{prefix}keys names {}, and there is no such [[key]]", quoted(name))),
        }
    }
    let threshold = section.number("threshold", problems);
    let at = threshold.as_ref().map_or(begin, |at| at.offset);
    let threshold = threshold.map_or(1, |at| usize::try_from(at.value).unwrap_or(usize::MAX));
    if threshold == 0 || threshold > members.len() {
        problems.add(at, format!("{prefix}threshold is between 1 and the number of its keys"));
    } else if threshold > alive {
        problems.add(at, format!("{prefix}threshold is {threshold}, and only {alive} of its keys are not revoked"));
    }
    Some(Quorum { threshold, members })
}

fn source(top: &Section<'_>, problems: &mut Problems<'_>) -> Source {
    let Some(section) = top.table("source", problems, "source.", SOURCE) else { return Source::default() };
    let repositories = section.texts("repository", problems).unwrap_or_default();
    for At { value, offset } in &repositories {
        if value.is_empty() || value.contains(['@', ' ']) {
            problems.add(*offset, "source.repository is a name without a tag or a digest: registry.example/app");
        }
    }
    let mut images = Vec::new();
    for At { value, offset } in section.texts("image", problems).unwrap_or_default() {
        match value.parse::<OciDigest>() {
            Ok(OciDigest { algorithm: Algorithm::Sha256, digest }) => images.push(digest),
            _ => problems.add(offset, "source.image is a digest: sha256:…"),
        }
    }
    Source { repositories: repositories.into_iter().map(|at| at.value.to_owned()).collect(), images }
}

impl fmt::Display for RootsError {
    /// One line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}
