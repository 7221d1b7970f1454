//! Owns what a policy says: its rules, in order, and what each allows. Must not own reading files or a clock, or what
//! becomes of a drift: every drift that is judged is still there to be reported.
//!
//! A policy is read ([`Policy::parse`]) from TOML; the first rule that covers a drift decides ([`Policy::judge`]), and
//! where none does, the drift is an alert: an empty policy alerts on everything.

mod braces;
pub mod case;
pub mod check;
mod index;
mod judge;
mod read;
pub mod rotation;
mod sensitive;
pub mod simulate;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::section::Problem;
pub use judge::{Cause, Context, Judged, Moment, Passed, Ruling, Verdict};

use crate::digest::{Digest, OciDigest};
use crate::drift::{Attributes, Change};
use crate::node::{FileType, Kind, Node};
use crate::path::TreePath;
use crate::pattern::Pattern;
use index::Index;

/// The largest policy, in bytes.
pub const MAX_POLICY: usize = 1024 * 1024;
/// The most rules of a policy.
pub const MAX_RULES: usize = 10_000;
/// The most patterns of a policy, once its braces are expanded.
pub const MAX_PATTERNS: usize = 65_536;
/// The most patterns that one text with braces may stand for.
pub const MAX_EXPANSION: usize = 1024;
/// The most patterns that the rotated names of one rule may stand for.
pub const MAX_ROTATED: usize = 16_384;
/// The longest pattern of a policy, in bytes. Matching takes at most this many steps for each byte of a path.
pub const MAX_PATTERN: usize = 1024;
/// The longest id and name, in bytes.
pub const MAX_ID: usize = 128;
/// The longest reason, in bytes.
pub const MAX_REASON: usize = 1024;
/// The most rotated files that may be kept.
pub const MAX_KEEP: u32 = 10_000;

/// The set-user-id and set-group-id bits of a mode.
pub const SET_ID: u16 = 0o6000;

/// Domain separation of [`Policy::digest`].
pub const CONTEXT: &str = "driftlock 2026 policy v1";

/// How loudly an alert is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth keeping.
    Info,
    /// Worth a look some day.
    Low,
    /// What no rule speaks of, and what a rule gives no other severity.
    #[default]
    Medium,
    /// Worth a look now.
    High,
    /// Somebody is to be woken.
    Critical,
}

/// What a rule allows of the drifts that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Nothing: the rule only says how loudly to alert. With attributes, it covers changes of any of these alone.
    Nothing(Option<Attributes>),
    /// These attributes may differ, all others not.
    Attributes(Attributes),
    /// The content of a file and the target of a link may differ, with the time that goes with it.
    Content,
    /// A file may be made and grow, and may be rotated.
    Append(Rotation),
    /// The path may be missing.
    Absent,
    /// Everything that can be established.
    Any,
}

/// How a growing file is rotated.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rotation {
    /// What the rotated files are called, relative to the directory of the file.
    pub names: Vec<Pattern>,
    /// How many of them are kept, so that the oldest may go; `None`: none may go.
    pub keep: Option<u32>,
}

/// What lets a file give rights to whoever uses it, or reaches past the file system: never tolerated unless named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    /// A file with a set-user-id or set-group-id bit.
    SetId,
    /// A file with capabilities.
    Capabilities,
    /// A character or block device.
    Device,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in the policy.
    pub id: String,
    /// Where it is written: a line, from 1.
    pub line: usize,
    /// Which paths it covers; not empty.
    pub paths: Vec<Pattern>,
    /// The rotated files that it covers: [`Rotation::names`] in the directories of `paths`.
    pub rotated: Vec<Pattern>,
    /// Which changes it covers; `None`: all.
    pub changes: Option<Vec<Change>>,
    /// Which types it covers; `None`: all.
    pub types: Option<Vec<FileType>>,
    /// What it allows.
    pub allow: Allow,
    /// How loudly what it does not allow is said.
    pub severity: Severity,
    /// What it tolerates besides, because it names it.
    pub privileged: Vec<Privilege>,
    /// Why, for whoever reads an alert or reviews the policy; not empty.
    pub reason: String,
}

/// Rules in order, of which the first that covers a drift decides.
#[derive(Clone, Debug)]
pub struct Policy {
    name: String,
    digest: OciDigest,
    rules: Vec<Rule>,
    index: Index,
}

/// Everything that is wrong with a policy's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// At least one, in the order of the text.
    pub problems: Vec<Problem>,
}

// === impl Policy ===

impl Policy {
    /// Reads the text of a policy.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let (name, rules) = read::read(bytes)?;
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(bytes);
        let index = Index::new(&rules);
        Ok(Self { name, digest: OciDigest::blake3(Digest::from(hasher.finalize())), rules, index })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What identifies it: BLAKE3 `derive_key` with [`CONTEXT`] over the exact bytes it was read from, comments and
    /// line ends too. Two texts of one meaning are two policies, because what was reviewed is the text.
    pub const fn digest(&self) -> OciDigest {
        self.digest
    }

    /// In order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

// === impl Rule ===

impl Rule {
    /// Whether it can tolerate anything.
    pub const fn tolerates(&self) -> bool {
        !matches!(self.allow, Allow::Nothing(_))
    }

    /// Where the siblings of the file at `path` lie, if it may grow: their directory, and the file's own name there, which
    /// may be one that it was rotated to. `None` if no pattern matches.
    pub fn siblings_of(&self, path: &TreePath) -> Option<(TreePath, TreePath)> {
        let Allow::Append(rotation) = &self.allow else { return None };
        let names: Vec<&[u8]> = path.components().collect();
        // So many names of the path belong to the file.
        let own = if self.paths.iter().any(|pattern| pattern.matches(path)) {
            1
        } else {
            let depth = |pattern: &Pattern| pattern.as_str().split('/').count();
            let is_name = |pattern: &&Pattern| {
                let own = names.len().checked_sub(depth(pattern)).map(|at| &names[at..]);
                own.is_some_and(|own| pattern.matches_split(own))
            };
            depth(rotation.names.iter().find(is_name)?)
        };
        let (directory, file) = names.split_at(names.len().checked_sub(own)?);
        Some((TreePath::new(directory.join(&b'/')).ok()?, TreePath::new(file.join(&b'/')).ok()?))
    }

    /// All patterns, those of rotated files too.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.paths.iter().chain(&self.rotated)
    }

    /// The one at this place of [`Rule::patterns`], where there is one.
    fn pattern(&self, at: usize) -> &Pattern {
        self.paths.get(at).unwrap_or_else(|| &self.rotated[at - self.paths.len()])
    }
}

// === impl Allow ===

impl Allow {
    /// The words of a policy, in the order of how much they allow.
    pub const NAMES: [&str; 6] = ["nothing", "attributes", "content", "append", "absent", "any"];

    /// The word of a policy.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Nothing(_) => "nothing",
            Self::Attributes(_) => "attributes",
            Self::Content => "content",
            Self::Append(_) => "append",
            Self::Absent => "absent",
            Self::Any => "any",
        }
    }
}

// === impl Severity ===

impl Severity {
    /// All, quietest first.
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word of policies and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity of a word.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == name)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Privilege ===

impl Privilege {
    /// All.
    pub const ALL: [Self; 3] = [Self::SetId, Self::Capabilities, Self::Device];

    /// The word of a policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SetId => "set-id",
            Self::Capabilities => "capabilities",
            Self::Device => "device",
        }
    }

    /// The privilege of a word.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|privilege| privilege.name() == name)
    }

    /// Whether a node gives rights in this way, as far as it is specified.
    pub fn is_given_by(self, node: &Node) -> bool {
        const CAPABILITY: &[u8] = b"security.capability";
        match (self, &node.kind) {
            (Self::Device, Kind::Char(_) | Kind::Block(_)) => true,
            (Self::SetId, Kind::File { .. }) => node.mode.is_some_and(|mode| mode & SET_ID != 0),
            (Self::Capabilities, Kind::File { .. }) => {
                node.xattrs.as_ref().is_some_and(|xattrs| xattrs.iter().any(|(name, _)| name == CAPABILITY))
            }
            _ => false,
        }
    }
}

// === impl PolicyError ===

impl PolicyError {
    /// In the order of the text.
    fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        Self { problems }
    }
}

impl fmt::Display for PolicyError {
    /// One line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}
