//! Owns hostile text as a person sees it: one line, nothing invisible, what was escaped set apart from what was there.
//! Must not own HTML: the parts are escaped again by the template engine.

use driftlock_common::path::Escaped;

/// Text in parts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Shown {
    /// In order.
    pub(super) parts: Vec<Part>,
}

/// A run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The characters.
    pub(super) text: String,
    /// Whether they stand for a byte that is not shown.
    pub(super) escape: bool,
}

impl Shown {
    /// Raw bytes: a backslash is doubled, so that an escape cannot be forged.
    pub(super) fn bytes(bytes: &[u8]) -> Self {
        Self::split(&Escaped(bytes).to_string())
    }

    /// A name, raw.
    pub(super) fn name(name: &str) -> Self {
        Self::bytes(name.as_bytes())
    }

    /// Text that its sender escaped already: a backslash stays single, all else is escaped again in case it was not.
    pub(super) fn escaped_text(text: &str) -> Self {
        Self::split(&Escaped(text.as_bytes()).to_string().replace("\\\\", "\\"))
    }

    /// Whether there is nothing to show.
    pub(super) const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn split(text: &str) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while let Some(ch) = rest.chars().next() {
            let (length, escape) = match rest.as_bytes() {
                [b'\\', b'x', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => (4, true),
                [b'\\', b'\\', ..] => (2, false),
                _ => (ch.len_utf8(), false),
            };
            let (piece, tail) = rest.split_at(length);
            rest = tail;
            match parts.last_mut() {
                Some(last) if last.escape == escape => last.text.push_str(piece),
                _ => parts.push(Part { text: piece.to_owned(), escape }),
            }
        }
        Self { parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(shown: &Shown) -> Vec<(&str, bool)> {
        shown.parts.iter().map(|part| (part.text.as_str(), part.escape)).collect()
    }

    #[test]
    fn escapes_are_set_apart_and_cannot_be_forged() {
        for (bytes, expected) in [
            (&b"usr/bin"[..], vec![("usr/bin", false)]),
            (b"a\nb", vec![("a", false), ("\\x0a", true), ("b", false)]),
            (b"a\\x0ab", vec![("a\\\\x0ab", false)]),
            (b"\xff\xfe", vec![("\\xff\\xfe", true)]),
            ("\u{202e}é".as_bytes(), vec![("\\xe2\\x80\\xae", true), ("é", false)]),
            (b"", vec![]),
        ] {
            assert_eq!(parts(&Shown::bytes(bytes)), expected);
        }
        assert_eq!(
            parts(&Shown::escaped_text("/srv/\\x0a\u{202e}")),
            [("/srv/", false), ("\\x0a\\xe2\\x80\\xae", true)]
        );
    }
}
