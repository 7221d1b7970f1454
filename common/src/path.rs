//! Owns names and paths inside a tree: raw bytes, relative to the root, their order and their two spellings
//! (exact for machines, escaped for people). Must not own the file system, or any lossy conversion.

use std::cmp::Ordering;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// The longest component (file name) of a path, in bytes.
pub const MAX_COMPONENT: usize = 4096;
/// The longest path and the longest symlink target, in bytes.
pub const MAX_PATH: usize = 64 * 1024;
/// The deepest path, in components.
pub const MAX_DEPTH: usize = 2048;

/// A path relative to a tree's root. The root itself is the empty path.
///
/// Invariant: no component is empty, `.`, `..`, longer than [`MAX_COMPONENT`] or holds a NUL;
/// the whole is within [`MAX_PATH`] and [`MAX_DEPTH`].
///
/// The order is that of manifests: by component, components as bytes, so `a` < `a/b` < `a-b`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

/// Why bytes are not a path in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `//`, or a slash at an end.
    #[error("a path has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("a path has a component \".\" or \"..\"")]
    DotComponent,
    /// A zero byte.
    #[error("a path holds a NUL byte")]
    Nul,
    /// A component over [`MAX_COMPONENT`], or the path over [`MAX_PATH`].
    #[error("a path is longer than the format allows (component 4096 bytes, path 65536 bytes)")]
    TooLong,
    /// More than [`MAX_DEPTH`] components.
    #[error("a path is deeper than 2048 components")]
    TooDeep,
}

/// Checks one file name.
///
/// # Errors
/// If it is empty, `.`, `..`, too long, or holds a NUL or a slash.
pub fn check_component(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        _ if name.len() > MAX_COMPONENT => Err(PathError::TooLong),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.contains(&b'/') => Err(PathError::EmptyComponent),
        _ => Ok(()),
    }
}

/// Compares two relative paths by component sequence, components by their bytes.
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    // A slash ends a component, so it sorts before every byte that could continue one. NUL cannot occur in a path.
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    // Neighbours have most of their bytes in common, which are compared eight at a time.
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
    let (a, b) = (&a[words..], &b[words..]);
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => key(*a).cmp(&key(*b)),
        None => a.len().cmp(&b.len()),
    }
}

/// Bytes as text if they are UTF-8 without control characters (Unicode category Cc), which is when a
/// manifest writes them as they are; otherwise they are written in base64.
pub fn plain_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

/// Padded canonical base64 (RFC 4648 section 4).
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes padded canonical base64; `None` for any other spelling.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Displays raw bytes for a person or a log: one line, no control or direction-changing characters,
/// `\\` for a backslash and `\xNN` for every byte that is not shown.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for ch in chunk.valid().chars() {
                if ch == '\\' {
                    f.write_str("\\\\")?;
                } else if is_hidden(ch) {
                    let mut buffer = [0; 4];
                    for byte in ch.encode_utf8(&mut buffer).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    write!(f, "{ch}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Displays text of which the exact bytes do not matter, or that is escaped already: as [`Escaped`], but a backslash is one.
#[derive(Clone, Copy)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.split('\\');
        fmt::Display::fmt(&Escaped(parts.next().unwrap_or_default().as_bytes()), f)?;
        parts.try_for_each(|part| write!(f, "\\{}", Escaped(part.as_bytes())))
    }
}

impl fmt::Debug for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Control characters, line separators, zero-width, tag and direction-changing characters: they act on a terminal, or
/// make a name look like another one.
pub fn is_hidden(ch: char) -> bool {
    ch.is_control()
        || matches!(
            ch,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

// === impl TreePath ===

impl TreePath {
    /// The root.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks and wraps relative bytes; the empty path is the root.
    ///
    /// # Errors
    /// If the invariant of the type does not hold.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let mut depth = 0;
        for component in bytes.split(|b| *b == b'/') {
            check_component(component)?;
            depth += 1;
        }
        if depth > MAX_DEPTH {
            return Err(PathError::TooDeep);
        }
        Ok(Self(bytes))
    }

    /// The path of the child `name`.
    ///
    /// # Errors
    /// If the name is not a component, or the path grows too long or too deep.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_component(name)?;
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let path = Self(bytes);
        if path.depth() > MAX_DEPTH {
            return Err(PathError::TooDeep);
        }
        Ok(path)
    }

    /// Whether this is the root.
    pub const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The raw bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Number of components; 0 for the root.
    pub fn depth(&self) -> usize {
        if self.0.is_empty() { 0 } else { 1 + self.0.iter().filter(|b| **b == b'/').count() }
    }

    /// The components in order; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The containing directory; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// Whether `self` is `ancestor` or lies below it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        ancestor.0.is_empty()
            || (self.0.starts_with(&ancestor.0)
                && (self.0.len() == ancestor.0.len() || self.0[ancestor.0.len()] == b'/'))
    }

    /// In a sentence of an error: the root has no name of its own.
    pub(crate) fn named(&self) -> String {
        if self.is_root() { "the root".to_owned() } else { self.escaped().to_string() }
    }

    /// For a person or a log; see [`Escaped`].
    pub fn escaped(&self) -> Escaped<'_> {
        Escaped(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.escaped())
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_paths(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_component() {
        let mut paths: Vec<_> =
            ["a-b", "b", "a/b", "a", "a/b/c", "a/b-c", ""].iter().map(|p| TreePath::new(*p).unwrap()).collect();
        paths.sort();
        let sorted: Vec<_> = paths.iter().map(|p| p.escaped().to_string()).collect();
        assert_eq!(sorted, ["", "a", "a/b", "a/b/c", "a/b-c", "a-b", "b"]);
    }

    #[test]
    fn paths_that_are_not_in_a_tree_are_refused() {
        let long = vec![b'x'; MAX_COMPONENT + 1];
        let deep = vec!["d"; MAX_DEPTH + 1].join("/");
        for (bytes, error) in [
            (&b"/a"[..], PathError::EmptyComponent),
            (b"a/", PathError::EmptyComponent),
            (b"a//b", PathError::EmptyComponent),
            (b".", PathError::DotComponent),
            (b"a/../b", PathError::DotComponent),
            (b"a\0b", PathError::Nul),
            (&long, PathError::TooLong),
            (deep.as_bytes(), PathError::TooDeep),
        ] {
            assert_eq!(TreePath::new(bytes), Err(error), "{}", Escaped(&bytes[..bytes.len().min(40)]));
        }
    }

    #[test]
    fn escaping_is_injective_and_one_line() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            (b"a\nb", "a\\x0ab"),
            (b"a\\x0ab", "a\\\\x0ab"),
            (b"\xff", "\\xff"),
            ("\u{202e}gpj.exe".as_bytes(), "\\xe2\\x80\\xaegpj.exe"),
            ("é".as_bytes(), "é"),
            (b"\x1b[31m", "\\x1b[31m"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), text);
        }
    }

    #[test]
    fn text_that_is_escaped_already_stays_and_becomes_one_line() {
        for (text, shown) in
            [("a\\x0ab \\\\ c", "a\\x0ab \\\\ c"), ("a\nb\\", "a\\x0ab\\"), ("\u{202e}x", "\\xe2\\x80\\xaex")]
        {
            assert_eq!(OneLine(text).to_string(), shown);
        }
    }

    #[test]
    fn parent_name_and_within() {
        let path = TreePath::new("usr/bin/app").unwrap();
        assert_eq!(path.name(), b"app");
        assert_eq!(path.parent().unwrap(), TreePath::new("usr/bin").unwrap());
        assert_eq!(TreePath::new("usr").unwrap().parent().unwrap(), TreePath::root());
        assert_eq!(TreePath::root().parent(), None);
        assert!(path.is_within(&TreePath::new("usr").unwrap()));
        assert!(path.is_within(&TreePath::root()));
        assert!(!path.is_within(&TreePath::new("us").unwrap()));
        assert_eq!(TreePath::root().join(b"a").unwrap().join(b"b").unwrap(), TreePath::new("a/b").unwrap());
    }
}
