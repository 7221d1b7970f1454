//! Owns the pattern language of excludes and policies: parsing, matching over raw bytes, and the named sets. Must not own
//! where patterns come from.

mod overlap;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::path::{MAX_PATH, TreePath};

/// A pattern over paths relative to a tree's root, case sensitive.
///
/// `*` matches any bytes but `/` within a component; `**` is only a whole component and matches any number of
/// components (at least one at the end, so that `d/**` keeps `d` itself); `\` takes the next character literally.
/// `? [ ] { } !` are refused unless escaped: other languages give them meanings that this one does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: String,
    components: Vec<Component>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Component {
    /// `**`
    Any,
    /// Literal pieces with a `*` between each two.
    Glob(Vec<Vec<u8>>),
}

/// Why a text is not a pattern, as an exclude; [`PatternError::reason`] is the same of any pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternError {
    /// Empty, or with an empty component: a leading, trailing or doubled slash.
    EmptyComponent(String),
    /// `.` or `..` as a component.
    DotComponent(String),
    /// `**` with something beside it.
    PartialDoubleStar(String),
    /// One of `? [ ] { } !` without a backslash.
    Reserved(String, char),
    /// A backslash at the end.
    TrailingBackslash(String),
    /// NUL or another control character.
    Control(String),
    /// Longer than a path can be.
    TooLong,
    /// A name that is not one of [`SETS`].
    UnknownSet(String),
}

/// The patterns of a header or a configuration: sorted by bytes, unique.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Excludes(Vec<Pattern>);

/// The named sets. The meaning of a name never changes; another meaning is another name.
///
/// `oci-runtime-1`: what container runtimes write or mount into a root (OCI runtime-spec config-linux.md,
/// "Default Filesystems" and "Default Devices"; files that Docker, Podman and containerd create).
pub const SETS: &[(&str, &[&str])] = &[(
    "oci-runtime-1",
    &[
        ".dockerenv",
        "dev/**",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
        "proc/**",
        "run/.containerenv",
        "run/secrets",
        "sys/**",
        "var/run/secrets",
    ],
)];

// === impl PatternError ===

impl PatternError {
    /// What is wrong with the pattern, without the pattern.
    pub fn reason(&self) -> String {
        let reason = match self {
            Self::EmptyComponent(_) => {
                "has an empty component: patterns are relative to the root, without slashes at the ends"
            }
            Self::DotComponent(_) => "has a component \".\" or \"..\"",
            Self::PartialDoubleStar(_) => "has \"**\" inside a component: it stands only for whole components",
            Self::Reserved(_, ch) => {
                return format!("has an unescaped {ch:?}: only * and ** are special; write \\{ch} for the character");
            }
            Self::TrailingBackslash(_) => "ends in a backslash",
            Self::Control(_) => "holds a control character",
            Self::TooLong => "is longer than 65536 bytes",
            Self::UnknownSet(_) => "is no set",
        };
        reason.to_owned()
    }
}

impl std::error::Error for PatternError {}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyComponent(text)
            | Self::DotComponent(text)
            | Self::PartialDoubleStar(text)
            | Self::Reserved(text, _)
            | Self::TrailingBackslash(text)
            | Self::Control(text) => write!(f, "exclude {text:?} {}", self.reason()),
            Self::TooLong => write!(f, "an exclude {}", self.reason()),
            Self::UnknownSet(name) => write!(f, "there is no exclude set {name:?}; known: oci-runtime-1"),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// The text it was parsed from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The components before the first one that holds a star: whatever matches begins with them.
    pub(crate) fn literal_prefix(&self) -> impl Iterator<Item = &[u8]> {
        self.components.iter().map_while(|component| match component {
            Component::Glob(pieces) => match pieces.as_slice() {
                [literal] => Some(literal.as_slice()),
                _ => None,
            },
            Component::Any => None,
        })
    }

    /// The longest component without a star behind those of [`Pattern::literal_prefix`]: whatever matches has it there.
    pub(crate) fn literal_behind(&self) -> Option<&[u8]> {
        let behind = self.components.iter().skip(self.literal_prefix().count());
        let literals = behind.filter_map(|component| match component {
            Component::Glob(pieces) if pieces.len() == 1 => pieces.first(),
            Component::Glob(_) | Component::Any => None,
        });
        literals.max_by_key(|literal| literal.len()).map(Vec::as_slice)
    }

    /// What is behind the last star of the last component, if that holds one: the name of whatever matches ends so.
    pub(crate) fn suffix(&self) -> Option<&[u8]> {
        match self.components.last() {
            Some(Component::Glob(pieces)) if pieces.len() > 1 => pieces.last().map(Vec::as_slice),
            _ => None,
        }
    }

    /// [`Pattern::matches`] for a path that was split already.
    pub(crate) fn matches_split(&self, path: &[&[u8]]) -> bool {
        // Most patterns that begin with a star are settled by the name.
        if let (Some(Component::Glob(pieces)), Some(name)) = (self.components.last(), path.last())
            && !matches_name(pieces, name)
        {
            return false;
        }
        matches_components(&self.components, path)
    }

    /// Whether the pattern matches exactly this path (not its descendants).
    pub fn matches(&self, path: &TreePath) -> bool {
        matches_components(&self.components, &path.components().collect::<Vec<_>>())
    }
}

/// Greedy matching with one point of return per kind of star: linear in practice, quadratic at worst.
fn matches_components(pattern: &[Component], path: &[&[u8]]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while s < path.len() {
        match pattern.get(p) {
            // At the end `**` stands for what is below, so it takes at least one component, which is there.
            Some(Component::Any) if p + 1 == pattern.len() => return true,
            Some(Component::Any) => {
                retry = Some((p, s));
                p += 1;
                continue;
            }
            Some(Component::Glob(pieces)) if matches_name(pieces, path[s]) => {
                p += 1;
                s += 1;
                continue;
            }
            _ => {}
        }
        match retry {
            Some((star, from)) => {
                retry = Some((star, from + 1));
                p = star + 1;
                s = from + 1;
            }
            None => return false,
        }
    }
    p == pattern.len()
}

fn matches_name(pieces: &[Vec<u8>], name: &[u8]) -> bool {
    let [first, rest @ ..] = pieces else { return false };
    let Some(mut left) = name.strip_prefix(first.as_slice()) else { return false };
    let [middle @ .., last] = rest else { return left.is_empty() };
    for piece in middle {
        let Some(at) = find(left, piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATH {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Control(text.to_owned()));
        }
        let mut components = Vec::new();
        for raw in text.split('/') {
            components.push(match raw {
                "" => return Err(PatternError::EmptyComponent(text.to_owned())),
                "." | ".." => return Err(PatternError::DotComponent(text.to_owned())),
                "**" => Component::Any,
                _ => Component::Glob(pieces(raw, text)?),
            });
        }
        // Two `**` side by side say what one says (the last one still needs its one component).
        components.dedup_by(|a, b| matches!((a, b), (Component::Any, Component::Any)));
        Ok(Self { text: text.to_owned(), components })
    }
}

fn pieces(component: &str, text: &str) -> Result<Vec<Vec<u8>>, PatternError> {
    let mut pieces = vec![Vec::new()];
    let mut chars = component.chars();
    let mut after_star = false;
    while let Some(ch) = chars.next() {
        let star = ch == '*';
        let literal = match ch {
            '*' if after_star => return Err(PatternError::PartialDoubleStar(text.to_owned())),
            '*' => {
                pieces.push(Vec::new());
                None
            }
            '?' | '[' | ']' | '{' | '}' | '!' => return Err(PatternError::Reserved(text.to_owned(), ch)),
            // A slash ends a component even behind a backslash, so a backslash there escapes nothing.
            '\\' => Some(chars.next().ok_or_else(|| PatternError::TrailingBackslash(text.to_owned()))?),
            other => Some(other),
        };
        if let (Some(ch), Some(piece)) = (literal, pieces.last_mut()) {
            piece.extend_from_slice(ch.encode_utf8(&mut [0; 4]).as_bytes());
        }
        after_star = star;
    }
    Ok(pieces)
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Excludes ===

impl Excludes {
    /// No excludes.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Parses patterns and expands named sets.
    ///
    /// # Errors
    /// If a pattern is not one, or a set is not known.
    pub fn new<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
        sets: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, PatternError> {
        let mut all = BTreeSet::new();
        for pattern in patterns {
            all.insert(pattern.parse::<Pattern>()?);
        }
        for name in sets {
            let (_, members) =
                SETS.iter().find(|(set, _)| *set == name).ok_or_else(|| PatternError::UnknownSet(name.to_owned()))?;
            for member in *members {
                all.insert(member.parse()?);
            }
        }
        Ok(Self(all.into_iter().collect()))
    }

    /// What any of several leaves out.
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let patterns: BTreeSet<Pattern> = all.into_iter().flat_map(|excludes| excludes.0.iter().cloned()).collect();
        Self(patterns.into_iter().collect())
    }

    /// Whether the path or one of its ancestors matches.
    pub fn excludes(&self, path: &TreePath) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let components: Vec<&[u8]> = path.components().collect();
        (1..=components.len())
            .any(|depth| self.0.iter().any(|p| matches_components(&p.components, &components[..depth])))
    }

    /// Whether the path itself matches: for walkers that never descend into an excluded directory.
    pub fn excludes_entry(&self, path: &TreePath) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let components: Vec<&[u8]> = path.components().collect();
        self.0.iter().any(|p| matches_components(&p.components, &components))
    }

    /// The patterns, sorted by bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(Pattern::as_str)
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        for (pattern, path, expected) in [
            ("etc/hosts", "etc/hosts", true),
            ("etc/hosts", "etc/hosts2", false),
            ("etc/hosts", "x/etc/hosts", false),
            ("ETC/hosts", "etc/hosts", false),
            ("*.log", "a.log", true),
            ("*.log", "d/a.log", false),
            ("**/*.log", "a.log", true),
            ("**/*.log", "d/e/a.log", true),
            ("d/**", "d", false),
            ("d/**", "d/a", true),
            ("d/**", "d/a/b", true),
            ("d/**/x", "d/x", true),
            ("d/**/x", "d/a/b/x", true),
            ("d/**/x/**/y", "d/x/q/x/y", true),
            ("d/**/x", "d/a/b/y", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("*", "anything", true),
            ("*", "a/b", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\?b", "a?b", true),
            ("**", "a", true),
            ("**", "", false),
            ("**/**", "a", true),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&TreePath::new(path).unwrap()), expected, "{pattern} {path}");
        }
        let raw = TreePath::new(b"a/\xff.log".to_vec()).unwrap();
        assert!("a/*.log".parse::<Pattern>().unwrap().matches(&raw));
    }

    #[test]
    fn what_is_refused() {
        for text in ["", "/a", "a/", "a//b", ".", "a/..", "a**", "**a", "***", "a?", "[a]", "!a", "{a}", "a\\", "a\0"] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_excluded_directory_excludes_what_is_below() {
        let excludes = Excludes::new(["var/cache", "tmp/**"], []).unwrap();
        for (path, expected) in
            [("var/cache", true), ("var/cache/a/b", true), ("var", false), ("tmp", false), ("tmp/a/b", true)]
        {
            assert_eq!(excludes.excludes(&TreePath::new(path).unwrap()), expected, "{path}");
        }
    }

    #[test]
    fn sets_are_sorted_patterns_and_unknown_names_are_refused() {
        let excludes = Excludes::new(["etc/hosts"], ["oci-runtime-1"]).unwrap();
        assert_eq!(excludes.iter().len(), SETS[0].1.len());
        assert!(excludes.iter().is_sorted());
        assert_eq!(Excludes::new([], ["x"]), Err(PatternError::UnknownSet("x".to_owned())));
    }
}
