//! Owns reading `WWW-Authenticate` (RFC 9110 section 11.6.1): one field may hold several challenges, and the comma that
//! parts them also parts their parameters. Must not own answering a challenge.

use std::iter::Peekable;
use std::str::Chars;

/// The longest field that is read, in bytes: a realm is an address, a scope a repository's name.
pub const MAX_FIELD: usize = 8 * 1024;
/// The most challenges that are read.
pub const MAX_CHALLENGES: usize = 16;

/// What a server wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Names in lower case, in order; one that is given twice counts as it was given first.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter, its name in lower case.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a field; `None` if it is malformed or goes beyond the bounds. A scheme with a single token instead of
/// parameters (`Negotiate abc=`) is a challenge without parameters.
pub fn parse(field: &str) -> Option<Vec<Challenge>> {
    if field.len() > MAX_FIELD {
        return None;
    }
    let mut text = Text(field.chars().peekable());
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        // The grammar of lists allows empty elements (RFC 9110 section 5.6.1.2).
        while text.blanks() || text.take(',') {}
        if text.0.peek().is_none() {
            return Some(challenges);
        }
        let name = text.token()?;
        let blank = text.blanks();
        if text.take('=') {
            let last = challenges.last_mut()?;
            text.blanks();
            let value = if text.0.peek() == Some(&'"') { text.quoted()? } else { text.token()? };
            last.parameters.push((name.to_ascii_lowercase(), value));
        } else {
            if challenges.len() >= MAX_CHALLENGES {
                return None;
            }
            let mut challenge = Challenge { scheme: name.to_ascii_lowercase(), parameters: Vec::new() };
            if blank && let Some(first) = text.first_parameter()? {
                challenge.parameters.push(first);
            }
            challenges.push(challenge);
        }
        text.blanks();
        if !matches!(text.0.peek(), None | Some(',')) {
            return None;
        }
    }
}

#[derive(Clone)]
struct Text<'a>(Peekable<Chars<'a>>);

impl Text<'_> {
    fn take(&mut self, wanted: char) -> bool {
        self.0.next_if_eq(&wanted).is_some()
    }

    /// Whether there were any.
    fn blanks(&mut self) -> bool {
        let mut any = false;
        while self.0.next_if(|ch| matches!(ch, ' ' | '\t')).is_some() {
            any = true;
        }
        any
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> Option<String> {
        let mut token = String::new();
        while let Some(ch) = self.0.next_if(|ch| ch.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(*ch)) {
            token.push(ch);
        }
        (!token.is_empty()).then_some(token)
    }

    /// RFC 9110 section 5.6.4.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        self.0.next_if_eq(&'"')?;
        loop {
            match self.0.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.0.next()?),
                ch => text.push(ch),
            }
        }
    }

    /// What stands behind a scheme and a blank: `name=value`, a single token, or nothing.
    fn first_parameter(&mut self) -> Option<Option<(String, String)>> {
        if matches!(self.0.peek(), None | Some(',')) {
            return Some(None);
        }
        let mut ahead = self.clone();
        if let Some(name) = ahead.token() {
            ahead.blanks();
            if ahead.take('=') {
                ahead.blanks();
                let value = if ahead.0.peek() == Some(&'"') { ahead.quoted() } else { ahead.token() };
                if let Some(value) = value {
                    *self = ahead;
                    return Some(Some((name.to_ascii_lowercase(), value)));
                }
            }
        }
        // token68 (RFC 9110 section 11.2).
        let mut any = false;
        while self.0.next_if(|ch| ch.is_ascii_alphanumeric() || "-._~+/=".contains(*ch)).is_some() {
            any = true;
        }
        any.then_some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(field: &str) -> Option<String> {
        let one = |challenge: Challenge| {
            let parameters = challenge.parameters.into_iter().map(|(name, value)| format!(" {name}=<{value}>"));
            challenge.scheme + &parameters.collect::<String>()
        };
        parse(field).map(|all| all.into_iter().map(one).collect::<Vec<_>>().join(" | "))
    }

    #[test]
    fn challenges_as_servers_write_them() {
        let comma = r#"Bearer realm="https://auth.example/t?a=b,c",service="a, b",scope="repository:x:pull,push""#;
        for (field, means) in [
            ("", Some("")),
            (" , ,", Some("")),
            ("Basic", Some("basic")),
            (r#"Basic realm="x""#, Some("basic realm=<x>")),
            ("BASIC REALM=x", Some("basic realm=<x>")),
            (comma, Some("bearer realm=<https://auth.example/t?a=b,c> service=<a, b> scope=<repository:x:pull,push>")),
            (r#"Bearer realm="a\"b\\c""#, Some(r#"bearer realm=<a"b\c>"#)),
            (r#"Bearer realm = "x" , service=y"#, Some("bearer realm=<x> service=<y>")),
            (
                r#"Basic realm="a", Bearer realm="b",service="c""#,
                Some("basic realm=<a> | bearer realm=<b> service=<c>"),
            ),
            (r#"Negotiate, Basic realm="a""#, Some("negotiate | basic realm=<a>")),
            (r#"Negotiate dG9r/+==, Basic realm="a""#, Some("negotiate | basic realm=<a>")),
            ("Negotiate abc", Some("negotiate")),
            (r#"Bearer realm="x",,service="y","#, Some("bearer realm=<x> service=<y>")),
            (r#"Bearer realm="x",realm="y""#, Some("bearer realm=<x> realm=<y>")),
            (r#"Bearer realm="x", error="invalid_token""#, Some("bearer realm=<x> error=<invalid_token>")),
            (
                r#"Digest realm="x", qop="auth,auth-int", nonce=abc"#,
                Some("digest realm=<x> qop=<auth,auth-int> nonce=<abc>"),
            ),
            // Malformed.
            (r#"Bearer realm="x"#, None),
            (r#"Bearer realm="x\"#, None),
            (r#"Bearer realm="x" service="y""#, None),
            (r#"realm="x""#, None),
            (r#"="x""#, None),
            ("Bearer realm=", Some("bearer")),
            ("Bearer realm=,", Some("bearer")),
            ("Bearer \"x\"", None),
            ("Bear/er realm=x", None),
            ("é", None),
        ] {
            assert_eq!(shown(field).as_deref(), means, "{field}");
        }
    }

    #[test]
    fn a_field_has_bounds() {
        assert!(parse(&"x,".repeat(MAX_CHALLENGES)).is_some());
        assert!(parse(&"x,".repeat(MAX_CHALLENGES + 1)).is_none());
        assert!(parse(&" ".repeat(MAX_FIELD)).is_some());
        assert!(parse(&" ".repeat(MAX_FIELD + 1)).is_none());
    }

    #[test]
    fn the_first_of_two_parameters_counts() {
        let all = parse(r#"Bearer realm="x",realm="y""#).unwrap();
        assert_eq!(all[0].parameter("realm"), Some("x"));
        assert_eq!(all[0].parameter("scope"), None);
    }
}
