//! Owns the judgement of one drift: which rule covers it, and whether it allows it. Must not own what becomes of the
//! drift, which is reported whatever the verdict.

use serde::{Deserialize, Serialize};

use super::rotation::Fate;
use super::{Allow, Policy, Privilege, Rule, Severity};
use crate::drift::{Attribute, Attributes, Change, Delta, Drift};
use crate::node::{FileType, Kind, Node};
use crate::path::{Escaped, TreePath};

/// What a rule's tolerance never silences below this severity.
const LOUD: Severity = Severity::High;

/// A time in seconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(pub i64);

/// What is known about a drift besides the drift. It grows; what is not known is left at its default, which never
/// tolerates more.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What became of a growing file since it was looked at the last time.
    pub fate: Option<Fate>,
}

/// What a policy says of a drift. There is no third answer: what is tolerated is reported as tolerated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a drift that was judged is still to be reported"]
pub enum Verdict<'p> {
    /// Somebody is to know.
    Alert {
        /// How loudly.
        severity: Severity,
        /// The rule that covers the drift; `None`: no rule does.
        rule: Option<&'p Rule>,
        /// Why it is an alert.
        cause: Cause,
    },
    /// Expected; kept, counted and shown all the same.
    Tolerated {
        /// The rule that allows it.
        rule: &'p Rule,
    },
}

/// A verdict without its reasons: the word of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ruling {
    /// Somebody is to know.
    Alert,
    /// Expected.
    Tolerated,
}

/// Why a drift is an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No rule covers it.
    NoRule,
    /// Its rule allows nothing.
    Nothing,
    /// Its rule allows less.
    More,
    /// Something about it could not be established, and nobody can allow what is not known.
    Gap,
    /// It stands for others, which were not judged.
    Collapsed,
    /// It gives rights, and its rule does not name that.
    Privileged(Privilege),
    /// A growing file differs, and it is not known that it only grew.
    NotGrown,
    /// A growing file lost what it held.
    Cut,
}

/// A drift with what was said of it: the one cannot be had without the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged<'p> {
    /// What differs.
    pub drift: Drift,
    /// What the policy says of it; `None`: there is no policy, so it is an alert.
    pub verdict: Option<Verdict<'p>>,
}

/// A rule whose path matches, but which does not cover a drift, and the key that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'p> {
    /// The rule.
    pub rule: &'p Rule,
    /// `change`, `type` or `attributes`.
    pub key: &'static str,
}

impl Policy {
    /// What the policy says of a drift. The first rule that covers it decides: path, change and type, and for an alarm
    /// its attributes. A tolerating rule wants both types of a changed type, an alarm either. No rule of version 1
    /// depends on `now`.
    pub fn judge<'p>(&'p self, drift: &Drift, context: &Context, _now: Moment) -> Verdict<'p> {
        let path: Vec<&[u8]> = drift.path.components().collect();
        let facts = Facts::of(drift);
        match self.index.first(&path, |rule| uncovered(&self.rules[rule], &facts).is_none()) {
            Some(rule) => decide(&self.rules[rule], drift, &facts, context),
            None => Verdict::Alert {
                severity: Severity::default(),
                rule: None,
                cause: if drift.has_gap() { Cause::Gap } else { Cause::NoRule },
            },
        }
    }

    /// Whether what is in the regular file at `path`, where a node of type `sealed` was sealed or nothing was, makes no
    /// difference: whatever it is, and whatever else differs with it, the rule that covers the drift allows `any`. It
    /// knows nothing of what the file is besides: one that [gives rights](Privilege::is_given_by) must be read.
    pub fn leaves_unread(&self, path: &TreePath, sealed: Option<FileType>) -> bool {
        // A rule that asks for attributes may cover it, so all of them are said to differ.
        let (change, attributes) = match sealed {
            None => (Change::Added, Attributes::NONE),
            Some(FileType::File) => (Change::Changed, Attribute::ALL.into_iter().collect()),
            Some(_) => (Change::Changed, Attributes::of(Attribute::Type)),
        };
        let facts = Facts { change, types: [sealed, Some(FileType::File)], attributes };
        let path: Vec<&[u8]> = path.components().collect();
        let first = self.index.first(&path, |rule| uncovered(&self.rules[rule], &facts).is_none());
        first.is_some_and(|rule| self.rules[rule].allow == Allow::Any)
    }

    /// The rule that lets the regular file at `path` grow, where a node of type `sealed` was sealed or nothing was.
    pub fn growing(&self, path: &TreePath, sealed: Option<FileType>) -> Option<&Rule> {
        let change = if sealed.is_some() { Change::Changed } else { Change::Added };
        let facts =
            Facts { change, types: [sealed, Some(FileType::File)], attributes: Attributes::of(Attribute::Content) };
        let path: Vec<&[u8]> = path.components().collect();
        let first = self.index.first(&path, |rule| uncovered(&self.rules[rule], &facts).is_none());
        let is_file = sealed.is_none_or(|sealed| sealed == FileType::File);
        first.map(|rule| &self.rules[rule]).filter(|rule| is_file && matches!(rule.allow, Allow::Append(_)))
    }

    /// The rules whose path matches and which come before the one that decides, in order, each with the key by which it
    /// does not cover the drift. For people: it asks every rule.
    pub fn passed<'p>(&'p self, drift: &Drift) -> Vec<Passed<'p>> {
        let facts = Facts::of(drift);
        let matching = self.rules.iter().filter(|rule| rule.patterns().any(|pattern| pattern.matches(&drift.path)));
        matching.map_while(|rule| uncovered(rule, &facts).map(|key| Passed { rule, key })).collect()
    }
}

/// What rules ask about a drift.
struct Facts {
    change: Change,
    /// One or two; none if not known.
    types: [Option<FileType>; 2],
    attributes: Attributes,
}

impl Facts {
    fn of(drift: &Drift) -> Self {
        let (types, attributes) = match &drift.delta {
            Delta::Added { observed, .. } => ([Some(observed.file_type()), None], Attributes::NONE),
            Delta::Removed { expected } => ([Some(expected.node.file_type()), None], Attributes::NONE),
            Delta::Changed { attributes, expected, observed, .. } => {
                ([Some(expected.node.file_type()), Some(observed.file_type())], *attributes)
            }
            Delta::Unverifiable { expected, .. } => {
                ([expected.as_ref().map(|expected| expected.node.file_type()), None], Attributes::NONE)
            }
        };
        Self { change: drift.change(), types, attributes }
    }
}

/// The key by which a rule does not cover a drift at a path that it matches; `None` if it does.
fn uncovered(rule: &Rule, facts: &Facts) -> Option<&'static str> {
    if rule.changes.as_ref().is_some_and(|changes| !changes.contains(&facts.change)) {
        return Some("change");
    }
    if let Some(types) = &rule.types {
        let mut known = facts.types.iter().flatten();
        let covered = if rule.tolerates() {
            known.clone().next().is_some() && known.all(|known| types.contains(known))
        } else {
            known.any(|known| types.contains(known))
        };
        if !covered {
            return Some("type");
        }
    }
    if let Allow::Nothing(Some(attributes)) = rule.allow
        && attributes.intersection(facts.attributes).is_empty()
    {
        return Some("attributes");
    }
    None
}

/// What the rule that covers a drift says of it.
fn decide<'p>(rule: &'p Rule, drift: &Drift, facts: &Facts, context: &Context) -> Verdict<'p> {
    let alert = |severity, cause| Verdict::Alert { severity, rule: Some(rule), cause };
    if drift.has_gap() {
        return alert(rule.severity, Cause::Gap);
    }
    if matches!(drift.delta, Delta::Added { collapsed: Some(_), .. }) && rule.tolerates() {
        return alert(rule.severity, Cause::Collapsed);
    }
    if let Some((severity, cause)) = refusal(rule, drift, facts, context.fate.as_ref()) {
        return alert(severity, cause);
    }
    let unnamed = |privilege: &Privilege| {
        !rule.privileged.contains(privilege) && drift.observed().is_some_and(|node| privilege.is_given_by(node))
    };
    match Privilege::ALL.into_iter().find(unnamed) {
        Some(privilege) => alert(rule.severity.max(LOUD), Cause::Privileged(privilege)),
        None => Verdict::Tolerated { rule },
    }
}

/// Why a rule does not allow a drift that it covers.
fn refusal(rule: &Rule, drift: &Drift, facts: &Facts, fate: Option<&Fate>) -> Option<(Severity, Cause)> {
    let more = Some((rule.severity, Cause::More));
    let within = |allowed: Attributes| {
        let changed = facts.change == Change::Changed;
        if changed && facts.attributes.without(allowed).is_empty() { None } else { more }
    };
    match &rule.allow {
        Allow::Nothing(_) => Some((rule.severity, Cause::Nothing)),
        Allow::Attributes(attributes) => within(*attributes),
        Allow::Content => within([Attribute::Content, Attribute::Target, Attribute::Mtime].into_iter().collect()),
        Allow::Append(_) => append(rule, drift, facts, fate),
        Allow::Absent if facts.change == Change::Removed => None,
        Allow::Absent => more,
        Allow::Any => None,
    }
}

fn append(rule: &Rule, drift: &Drift, facts: &Facts, fate: Option<&Fate>) -> Option<(Severity, Cause)> {
    if facts.types.iter().flatten().any(|file_type| *file_type != FileType::File) {
        return Some((rule.severity, Cause::More));
    }
    let cut = Some((rule.severity.max(LOUD), Cause::Cut));
    if let Some(Fate::Cut(_)) = fate {
        return cut;
    }
    let grows: Attributes = [Attribute::Content, Attribute::Mtime].into_iter().collect();
    match &drift.delta {
        // Seen for the first time, there is nothing that it could have lost.
        Delta::Added { .. } => None,
        Delta::Removed { .. } => match fate {
            Some(Fate::Rotated(_)) => None,
            _ => cut,
        },
        Delta::Changed { attributes, .. } if !attributes.without(grows).is_empty() => {
            Some((rule.severity, Cause::More))
        }
        Delta::Changed { attributes, .. } if !attributes.contains(Attribute::Content) => None,
        Delta::Changed { expected, observed, .. } => match fate {
            Some(Fate::Grown | Fate::Rotated(_)) => None,
            _ if size(observed) < size(&expected.node) => cut,
            _ => Some((rule.severity, Cause::NotGrown)),
        },
        Delta::Unverifiable { .. } => Some((rule.severity, Cause::Gap)),
    }
}

const fn size(node: &Node) -> Option<u64> {
    match node.kind {
        Kind::File { size, .. } => size,
        Kind::Directory | Kind::Symlink { .. } | Kind::Char(_) | Kind::Block(_) | Kind::Fifo | Kind::Socket => None,
    }
}

// === impl Verdict ===

impl<'p> Verdict<'p> {
    /// Whether somebody is to know.
    pub const fn is_alert(&self) -> bool {
        matches!(self, Self::Alert { .. })
    }

    /// The word of reports.
    pub const fn ruling(&self) -> Ruling {
        match self {
            Self::Alert { .. } => Ruling::Alert,
            Self::Tolerated { .. } => Ruling::Tolerated,
        }
    }

    /// How loudly it is said; `None` if it is tolerated.
    pub const fn severity(&self) -> Option<Severity> {
        match self {
            Self::Alert { severity, .. } => Some(*severity),
            Self::Tolerated { .. } => None,
        }
    }

    /// The rule that decided, if one did.
    pub const fn rule(&self) -> Option<&'p Rule> {
        match self {
            Self::Alert { rule, .. } => *rule,
            Self::Tolerated { rule } => Some(rule),
        }
    }
}

impl std::fmt::Display for Verdict<'_> {
    /// Why, as one line: the cause of an alert with the reason of its rule, or the reason of the rule that tolerates. A
    /// reason is escaped as names are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alert { rule: None, cause, .. } => write!(f, "{cause}"),
            Self::Alert { rule: Some(rule), cause: Cause::Nothing, .. } | Self::Tolerated { rule } => {
                write!(f, "{}", Escaped(rule.reason.as_bytes()))
            }
            Self::Alert { rule: Some(rule), cause, .. } => write!(f, "{cause}: {}", Escaped(rule.reason.as_bytes())),
        }
    }
}

// === impl Ruling ===

impl Ruling {
    /// The word of reports: `alert` or `tolerated`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Tolerated => "tolerated",
        }
    }
}

// === impl Judged ===

impl<'p> Judged<'p> {
    /// Whether somebody is to know: only what a policy tolerates is not an alert.
    pub const fn is_alert(&self) -> bool {
        !matches!(self.verdict, Some(Verdict::Tolerated { .. }))
    }

    /// How loudly it is said; `None` if it is tolerated.
    pub fn severity(&self) -> Option<Severity> {
        self.verdict.map_or_else(|| Some(Severity::default()), |verdict| verdict.severity())
    }

    /// The rule that decided, if one did.
    pub fn rule(&self) -> Option<&'p Rule> {
        self.verdict.and_then(|verdict| verdict.rule())
    }

    /// What the drift sets in the exit code of a scan: nothing if it is tolerated.
    pub const fn exit_bits(&self) -> u8 {
        if self.is_alert() { self.drift.exit_bits() } else { 0 }
    }
}

impl From<Drift> for Judged<'_> {
    /// Without a policy.
    fn from(drift: Drift) -> Self {
        Self { drift, verdict: None }
    }
}

// === impl Cause ===

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoRule => "no rule covers it",
            Self::Nothing => "the rule allows nothing",
            Self::More => "the rule allows less",
            Self::Gap => "it could not be established",
            Self::Collapsed => "it stands for others that were not judged",
            Self::Privileged(Privilege::SetId) => "it is set-user-id or set-group-id, which the rule does not name",
            Self::Privileged(Privilege::Capabilities) => "it has file capabilities, which the rule does not name",
            Self::Privileged(Privilege::Device) => "it is a device, which the rule does not name",
            Self::NotGrown => "it is not known that it only grew",
            Self::Cut => "it lost what it held, and no rotation explains it",
        })
    }
}
