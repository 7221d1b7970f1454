//! Owns lists in braces, which stand for several patterns: `app.log.{1..14}` and `{a,b}`. They are expanded when a policy
//! is read, and only there: excludes have none. Must not own patterns.

use super::{MAX_EXPANSION, MAX_PATTERN};
use crate::section::quoted;

/// Every text that `text` stands for, in order; itself if it has no braces. `{1..14}` counts up, with leading zeros
/// where its first number has them; `{a,b}` lists; several multiply. A backslash takes the meaning of the next character.
///
/// # Errors
/// What is wrong with the braces, in words that go behind the text.
pub(super) fn expand(text: &str) -> Result<Vec<String>, String> {
    let mut all = vec![String::new()];
    for part in parts(text)? {
        match part {
            Part::Literal(literal) => all.iter_mut().for_each(|text| text.push_str(literal)),
            Part::List(items) => {
                if all.len() * items.len() > MAX_EXPANSION {
                    return Err(format!("stands for more than {MAX_EXPANSION} patterns"));
                }
                all = all.iter().flat_map(|text| items.iter().map(move |item| format!("{text}{item}"))).collect();
            }
        }
        if all.iter().any(|text| text.len() > MAX_PATTERN) {
            return Err(format!("is longer than {MAX_PATTERN} bytes"));
        }
    }
    Ok(all)
}

enum Part<'a> {
    Literal(&'a str),
    List(Vec<String>),
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut open = None;
    let mut escaped = false;
    for (at, ch) in text.char_indices() {
        match (ch, open) {
            _ if escaped => {
                escaped = false;
                continue;
            }
            ('\\', _) => escaped = true,
            ('{', None) => {
                parts.push(Part::Literal(&text[from..at]));
                open = Some(at + 1);
            }
            ('{', Some(_)) => return Err("has braces within braces".to_owned()),
            ('}', Some(start)) => {
                parts.push(Part::List(list(&text[start..at])?));
                (open, from) = (None, at + 1);
            }
            ('}', None) => return Err("has a } without a {: write \\} for the character".to_owned()),
            _ => {}
        }
    }
    if open.is_some() {
        return Err("has a { without a }: write \\{ for the character".to_owned());
    }
    parts.push(Part::Literal(&text[from..]));
    Ok(parts)
}

fn list(inside: &str) -> Result<Vec<String>, String> {
    if let Some((first, last)) = inside.split_once("..") {
        return range(first, last).ok_or_else(|| {
            format!("has {} in braces, not a range of at most {MAX_EXPANSION} like {{1..14}}", quoted(inside))
        });
    }
    let items: Vec<String> = inside.split(',').map(str::to_owned).collect();
    if items.len() < 2 || items.iter().any(String::is_empty) {
        return Err(format!(
            "has {} in braces, neither a range like {{1..14}} nor a list like {{a,b}}",
            quoted(inside)
        ));
    }
    Ok(items)
}

/// Numbers of at most nine digits, upwards.
fn range(first: &str, last: &str) -> Option<Vec<String>> {
    let number = |text: &str| -> Option<u32> {
        let digits = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (from, to) = (number(first)?, number(last)?);
    let width = if first.starts_with('0') { first.len() } else { 1 };
    let count = usize::try_from(to.checked_sub(from)?).ok()?;
    (count < MAX_EXPANSION).then(|| (from..=to).map(|number| format!("{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_braces_stand_for() {
        for (text, expected) in [
            ("a", "a"),
            ("", ""),
            ("a.{1..3}", "a.1 a.2 a.3"),
            ("{08..11}", "08 09 10 11"),
            ("{7..7}x", "7x"),
            ("{a,b}/{1..2}.gz", "a/1.gz a/2.gz b/1.gz b/2.gz"),
            ("\\{a,b\\}", "\\{a,b\\}"),
            ("{a\\},b}", "a\\} b"),
            ("{*,\\*}", "* \\*"),
            ("{usr/lib,lib}/x", "usr/lib/x lib/x"),
        ] {
            assert_eq!(expand(text).unwrap().join(" "), expected, "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("{", "without a }"),
            ("a}", "without a {"),
            ("{a,{b,c}}", "within braces"),
            ("{a}", "neither a range"),
            ("{}", "neither a range"),
            ("{a,}", "neither a range"),
            ("{3..1}", "not a range"),
            ("{a..c}", "not a range"),
            ("{-1..3}", "not a range"),
            ("{1..}", "not a range"),
            ("{1..1025}", "not a range"),
            ("{0..999999999}", "not a range"),
            ("{1..99999999999}", "not a range"),
            ("{1..32}{1..33}", "more than 1024"),
            ("{1..1024}{1..1024}{1..1024}{1..1024}{1..1024}{1..1024}{1..1024}", "more than 1024"),
            ("\\{a,b}", "without a {"),
        ] {
            let said = expand(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        assert!(expand(&"x".repeat(MAX_PATTERN)).is_ok());
        assert!(expand(&"x".repeat(MAX_PATTERN + 1)).unwrap_err().contains("longer"));
        assert_eq!(expand("{1..1024}").unwrap().len(), MAX_EXPANSION);
    }
}
