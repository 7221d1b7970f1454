//! Owns what two patterns have in common: whether a path can match both, and whether one matches all that the other
//! does. Must not own matching.

use super::{Component, Pattern};

/// What a pattern is made of on one level: something single, or a star that stands for any number of these.
trait Token {
    fn is_star(&self) -> bool;
    /// Whether something single can be both.
    fn meets(&self, other: &Self) -> bool;
    /// Whether everything single that the other can be is this too.
    fn covers(&self, other: &Self) -> bool;
}

/// A byte; `None` is `*`.
impl Token for Option<u8> {
    fn is_star(&self) -> bool {
        self.is_none()
    }

    fn meets(&self, other: &Self) -> bool {
        self == other
    }

    fn covers(&self, other: &Self) -> bool {
        self == other
    }
}

/// A component as its bytes; `None` is `**` for any number of components, none too.
impl Token for Option<Vec<Option<u8>>> {
    fn is_star(&self) -> bool {
        self.is_none()
    }

    fn meets(&self, other: &Self) -> bool {
        matches!((self, other), (Some(a), Some(b)) if meet(a, b))
    }

    fn covers(&self, other: &Self) -> bool {
        matches!((self, other), (Some(a), Some(b)) if cover(a, b))
    }
}

impl Pattern {
    /// Whether there is a path that both match.
    pub fn meets(&self, other: &Self) -> bool {
        let apart = self.literal_prefix().zip(other.literal_prefix()).any(|(a, b)| a != b);
        !apart && meet(&self.tokens(), &other.tokens())
    }

    /// Whether this matches every path that `other` matches. Sound: true is certain. Not complete: where two stars can
    /// be divided in ways that only together cover the other, it is false.
    pub fn covers(&self, other: &Self) -> bool {
        // What begins with these names must begin so in the other too: settles nearly all pairs.
        let mut theirs = other.literal_prefix();
        let begins = self.literal_prefix().all(|name| theirs.next() == Some(name));
        self == other || (begins && cover(&self.tokens(), &other.tokens()))
    }

    fn tokens(&self) -> Vec<Option<Vec<Option<u8>>>> {
        let bytes = |piece: &Vec<u8>| piece.iter().copied().map(Some).collect::<Vec<_>>();
        let mut tokens: Vec<_> = self
            .components
            .iter()
            .map(|component| match component {
                Component::Any => None,
                Component::Glob(pieces) => Some(pieces.iter().map(bytes).collect::<Vec<_>>().join(&None)),
            })
            .collect();
        // At the end `**` takes at least one component: `**` for none or more, and `*`.
        if tokens.last().is_some_and(Option::is_none) {
            tokens.push(Some(vec![None]));
        }
        tokens
    }
}

fn meet<T: Token>(a: &[T], b: &[T]) -> bool {
    table(a, b, |i, j, at| match (a.get(i), b.get(j)) {
        (None, None) => true,
        (Some(x), _) if x.is_star() => at(i + 1, j) || (j < b.len() && at(i, j + 1)),
        (_, Some(y)) if y.is_star() => at(i, j + 1) || (i < a.len() && at(i + 1, j)),
        (Some(x), Some(y)) => at(i + 1, j + 1) && x.meets(y),
        (Some(_), None) | (None, Some(_)) => false,
    })
}

fn cover<T: Token>(a: &[T], b: &[T]) -> bool {
    table(a, b, |i, j, at| match (a.get(i), b.get(j)) {
        (None, None) => true,
        (Some(x), _) if x.is_star() => at(i + 1, j) || (j < b.len() && at(i, j + 1)),
        (Some(x), Some(y)) => !y.is_star() && at(i + 1, j + 1) && x.covers(y),
        (Some(_), None) | (None, Some(_)) => false,
    })
}

/// Fills a table of answers for what is left of both from its end, so that the work is the product of the lengths.
fn table<T>(a: &[T], b: &[T], answer: impl Fn(usize, usize, &dyn Fn(usize, usize) -> bool) -> bool) -> bool {
    let width = b.len() + 1;
    let mut known = vec![false; (a.len() + 1) * width];
    for i in (0..=a.len()).rev() {
        for j in (0..=b.len()).rev() {
            let value = answer(i, j, &|i, j| known[i * width + j]);
            known[i * width + j] = value;
        }
    }
    known[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::TreePath;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn what_meets_and_what_covers() {
        for (a, b, meets, covers) in [
            ("a", "a", true, true),
            ("a", "b", false, false),
            ("a/*", "a/b", true, true),
            ("a/b", "a/*", true, false),
            ("a/**", "a", false, false),
            ("a/**", "a/b/c", true, true),
            ("a/**", "a/**", true, true),
            ("a/**", "a/**/x", true, true),
            ("a/**/x", "a/**", true, false),
            ("**", "a/*/**", true, true),
            ("**/x", "x", true, true),
            ("**/x", "a/*", true, false),
            ("a*c", "ab*c", true, true),
            ("a*c", "*b", false, false),
            ("a*", "*b", true, false),
            ("*.log", "*.gz", false, false),
            ("a/*", "a/**", true, false),
            ("**/*", "**", true, true),
            ("\\*", "a", false, false),
            ("*", "\\*", true, true),
        ] {
            let (a, b) = (pattern(a), pattern(b));
            assert_eq!(a.meets(&b), meets, "{a} {b}");
            assert_eq!(b.meets(&a), meets, "{b} {a}");
            assert_eq!(a.covers(&b), covers, "{a} {b}");
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        let component = prop_oneof![Just("**".to_owned()), "(a|b|\\*a|a\\*|b\\*|\\*|a\\*b|ab)"];
        proptest::collection::vec(component, 1..4).prop_map(|components| components.join("/"))
    }

    proptest! {
        /// Against every path of at most five short components: two for the beginning, two for the end, one between.
        #[test]
        fn both_agree_with_trying_every_path(a in texts(), b in texts()) {
            let names = ["a", "b", "ab", "ba"];
            let mut paths: Vec<String> = names.map(str::to_owned).to_vec();
            for depth in 1..5 {
                let longer: Vec<String> = paths.iter().filter(|path| path.split('/').count() == depth)
                    .flat_map(|path| names.map(|name| format!("{path}/{name}"))).collect();
                paths.extend(longer);
            }
            let (a, b) = (pattern(&a), pattern(&b));
            let both = |path: &String| {
                let path = TreePath::new(path.as_str()).unwrap();
                (a.matches(&path), b.matches(&path))
            };
            let all: Vec<(bool, bool)> = paths.iter().map(both).collect();
            if all.iter().any(|(a, b)| *a && *b) {
                prop_assert!(a.meets(&b), "{a} {b}");
            }
            if a.covers(&b) {
                prop_assert!(all.iter().all(|(a, b)| *a || !*b), "{a} {b}");
            }
            // Whatever these can match at all, they match within this alphabet and depth.
            if a.meets(&b) {
                prop_assert!(all.iter().any(|(a, b)| *a && *b), "{a} {b}");
            }
        }
    }
}
