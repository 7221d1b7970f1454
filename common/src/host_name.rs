//! Owns what a host is called at the collector: names, and patterns over them. Must not own who may use a name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name or pattern, in bytes.
pub const MAX_LENGTH: usize = 128;

/// The name of a host's credential, under which the collector keeps what the host reports. 1 to [`MAX_LENGTH`] bytes of
/// `A–Z a–z 0–9 . _ -`, the first and the last a letter or digit; case counts. It stands in URIs, files and pages as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

/// Names of hosts: as a [`HostName`] with `*` for any number of its bytes, none too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern(Box<str>);

/// Why a text is no name of a host, or no pattern. The text itself is not repeated: it may be hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostNameError {
    /// Not a name.
    #[error(
        "a host's name is 1 to 128 letters, digits, dots, underscores and hyphens, first and last a letter or digit"
    )]
    Name,
    /// Not a pattern.
    #[error("a pattern of hosts is 1 to 128 letters, digits, dots, underscores and hyphens, with * for any of them")]
    Pattern,
}

const fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

// === impl HostName ===

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let bytes = text.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        let fits = bytes.len() <= MAX_LENGTH
            && bytes.iter().all(|byte| is_letter(*byte))
            && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric));
        if fits { Ok(Self(text.into())) } else { Err(HostNameError::Name) }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// The pattern that this one name matches.
    pub fn exactly(name: &HostName) -> Self {
        Self(name.0.clone())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one name that matches, if it has no `*`.
    pub fn one_name(&self) -> Option<HostName> {
        self.0.parse().ok()
    }

    /// Whether it covers `name`. Takes time in proportion to both lengths at most.
    pub fn matches(&self, name: &HostName) -> bool {
        let mut parts = self.0.split('*');
        let (Some(first), last) = (parts.next(), self.0.rsplit('*').next()) else { return false };
        if first.len() == self.0.len() {
            return *first == *name.0;
        }
        let last = last.unwrap_or_default();
        let middle = name.0.strip_prefix(first).and_then(|rest| rest.strip_suffix(last));
        // What stands between two stars is looked for from the left: taking the first place leaves most for the others.
        let between = parts.filter(|part| !part.is_empty());
        let mut wanted: Vec<&str> = between.collect();
        if !last.is_empty() {
            wanted.pop();
        }
        middle.is_some_and(|middle| {
            wanted.iter().try_fold(middle, |rest, part| rest.find(part).map(|at| &rest[at + part.len()..])).is_some()
        })
    }
}

impl FromStr for HostPattern {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let is_one_name = || text.parse::<HostName>().is_ok();
        let fits =
            !text.is_empty() && text.len() <= MAX_LENGTH && text.bytes().all(|byte| is_letter(byte) || byte == b'*');
        if fits && (text.contains('*') || is_one_name()) { Ok(Self(text.into())) } else { Err(HostNameError::Pattern) }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        let longest = "a".repeat(MAX_LENGTH);
        for good in ["a", "0", "web-1", "web-1.example.org", "A_b..c", &longest] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for bad in [
            "", ".", "-a", "a-", "_", "a.", "..", "a b", "a/b", "a\0", "a\n", "a%41", "é", "a*", "[::1]", "a:1",
            &too_long,
        ] {
            assert_eq!(bad.parse::<HostName>(), Err(HostNameError::Name), "{bad:?}");
        }
        assert!(!HostNameError::Name.to_string().contains('\n'));
    }

    #[test]
    fn patterns() {
        for (pattern, matching, others) in [
            ("web-1", vec!["web-1"], vec!["web-10", "Web-1", "web"]),
            ("*", vec!["a", "web-1"], vec![]),
            ("web-*", vec!["web-1", "web-x.y"], vec!["web", "a-web-1", "web"]),
            ("*.example", vec!["a.example", "a.b.example"], vec!["example", "a.example.b"]),
            ("a*b*c", vec!["abc", "a-b-c", "abbcc", "aXbXbXc"], vec!["acb", "ab", "ac", "abcb"]),
            ("*1*", vec!["1", "web-1-a"], vec!["web-2"]),
            ("aa*aa", vec!["aaaa", "aabaa"], vec!["aaa", "aa"]),
            ("a**b", vec!["ab", "axb"], vec!["a", "b"]),
        ] {
            let pattern: HostPattern = pattern.parse().unwrap();
            for name in matching {
                assert!(pattern.matches(&name.parse().unwrap()), "{pattern} {name}");
            }
            for name in others {
                assert!(!pattern.matches(&name.parse().unwrap()), "{pattern} {name}");
            }
        }
        for bad in ["", "web-", "a b", "a?", "[a]", "a\n*", "é*", &"*".repeat(MAX_LENGTH + 1)] {
            assert_eq!(bad.parse::<HostPattern>(), Err(HostNameError::Pattern), "{bad:?}");
        }
        assert_eq!("web-1".parse::<HostPattern>().unwrap().one_name(), "web-1".parse().ok());
        assert_eq!("web-*".parse::<HostPattern>().unwrap().one_name(), None);
    }

    /// What a pattern means, said the slow way.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match pattern {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|skipped| naive(rest, &name[skipped..])),
            [byte, rest @ ..] => name.first() == Some(byte) && naive(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_says(pattern in "[ab*]{1,8}", name in "[ab]{1,8}") {
            let parsed: HostPattern = pattern.parse().unwrap();
            prop_assert_eq!(parsed.matches(&name.parse().unwrap()), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
