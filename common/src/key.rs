//! Owns which known key an unknown one was meant to be. Must not own which keys there are.

/// What is wrong with `key`, where `known` are the keys of the table whose name with its dot is `prefix` (empty for the
/// top); `None` if it is known. The key is shortened and escaped.
pub fn problem(prefix: &str, known: &[&str], key: &str) -> Option<String> {
    if known.contains(&key) {
        return None;
    }
    let key: String = key.escape_default().take(MAX_SHOWN).collect();
    Some(match nearest(known, &key) {
        Some(known) => format!("unknown key {prefix}{key}; did you mean {prefix}{known}?"),
        None => format!("unknown key {prefix}{key}; known here: {}", known.join(", ")),
    })
}

/// The word of `known` that `word` is a slip of, if it is like one.
pub fn nearest<'a>(known: &[&'a str], word: &str) -> Option<&'a str> {
    if word.len() > MAX_SHOWN {
        return None;
    }
    let distances = known.iter().map(|known| (strsim::damerau_levenshtein(known, word), *known));
    let (distance, known) = distances.min()?;
    (distance <= 1 + known.len() / 3).then_some(known)
}

/// As many characters of a wrong word are repeated.
pub const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named_and_a_long_one_cut() {
        let known = ["name", "root", "mounts"];
        for (key, expected) in [
            ("root", None),
            ("roto", Some("unknown key t.roto; did you mean t.root?")),
            ("zzzzzz", Some("unknown key t.zzzzzz; known here: name, root, mounts")),
            ("a\u{1b}b", Some("unknown key t.a\\u{1b}b; known here: name, root, mounts")),
        ] {
            assert_eq!(problem("t.", &known, key).as_deref(), expected, "{key:?}");
        }
        let long = problem("", &known, &"x".repeat(100_000)).unwrap();
        assert!(long.len() < 120, "{long}");
    }
}
