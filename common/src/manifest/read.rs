//! Owns reading the NDJSON view of a manifest, line by line and strictly. Must not own files: lines come in as
//! arguments, so the caller decides how bytes are bounded and verified.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::header::HeaderLine;
use super::json::{Checked, Text, UnknownKeys};
use super::{Header, MAX_LINE, Manifest, VERSION};
use crate::digest::{Algorithm, Digest, OciDigest};
use crate::node::{Device, FileType, Kind, Node, Xattrs};
use crate::path::{self, MAX_PATH, PathError, TreePath};
use crate::pattern::{Excludes, PatternError};
use crate::tree::{Origin, TreeBuilder, TreeError};

/// Reads a manifest line by line.
#[derive(Debug, Default)]
pub struct Reader {
    /// Lines read.
    lines: u64,
    header: Option<Header>,
    builder: TreeBuilder,
    entries: u64,
    bytes: u64,
    trailer: Option<Trailer>,
}

/// Why bytes are not a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ManifestError {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not JSON, or not the JSON that belongs there.
    #[error("{0}")]
    Json(String),
    /// The first line is not a header.
    #[error("not a driftlock manifest: the first line is no header")]
    NoHeader,
    /// A version that this code does not read.
    #[error("manifest version {0} is not known: this driftlock reads version 1")]
    Version(u32),
    /// A line over [`MAX_LINE`].
    #[error("longer than 1 MiB")]
    LongLine,
    /// An empty line, or one that ends in a carriage return.
    #[error("blank line, carriage return or byte order mark")]
    Blank,
    /// The last line has no line feed.
    #[error("truncated: {0} bytes without a line feed at the end")]
    Unterminated(usize),
    /// No trailer.
    #[error("truncated: no trailer")]
    NoTrailer,
    /// Something after the trailer.
    #[error("something stands after the trailer")]
    AfterTrailer,
    /// The trailer's counts do not fit.
    #[error("the trailer states {stated} {what}, the lines have {found}")]
    Count {
        /// `entries` or `bytes`.
        what: &'static str,
        /// By the trailer.
        stated: u64,
        /// By the lines.
        found: u64,
    },
    /// The trailer's tree digest does not fit.
    #[error("the trailer states tree {stated}, the lines have {found}")]
    TreeDigest {
        /// By the trailer.
        stated: OciDigest,
        /// By the lines.
        found: OciDigest,
    },
    /// A path that is none.
    #[error("{0}")]
    Path(#[from] PathError),
    /// An entry out of place.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// An exclude that is none.
    #[error("{0}")]
    Pattern(#[from] PatternError),
    /// Excludes out of order or twice.
    #[error("excludes are not sorted or not unique")]
    UnsortedExcludes,
    /// An entry under an exclude.
    #[error("{} lies under an exclude", .0.escaped())]
    Excluded(TreePath),
    /// A key that a type does not have under the header's profile.
    #[error("{}: key {key:?} does not belong to type {:?} under profile {profile}", .path.escaped(), .file_type.name())]
    Key {
        /// The entry.
        path: TreePath,
        /// The key.
        key: &'static str,
        /// The entry's type.
        file_type: FileType,
        /// The header's profile.
        profile: &'static str,
    },
    /// A value that is not in the form of the format.
    #[error("{0}")]
    Value(&'static str),
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct Trailer {
    entries: u64,
    bytes: u64,
    tree: OciDigest,
}

/// An entry line or the trailer.
enum Line<'a> {
    Entry(Box<RawEntry<'a>>),
    End(Trailer),
}

/// An entry as written.
#[derive(Default)]
struct RawEntry<'a> {
    p: Option<Text<'a>>,
    p64: Option<Text<'a>>,
    t: Option<Text<'a>>,
    m: Option<Text<'a>>,
    u: Option<u32>,
    g: Option<u32>,
    mt: Option<i64>,
    s: Option<u64>,
    b3: Option<Text<'a>>,
    s2: Option<Text<'a>>,
    to: Option<Text<'a>>,
    to64: Option<Text<'a>>,
    dev: Option<[u32; 2]>,
    x: Option<Vec<RawXattr<'a>>>,
    layer: Option<u16>,
    meta_layer: Option<u16>,
}

/// An extended attribute as written.
struct RawXattr<'a> {
    n: Option<Text<'a>>,
    n64: Option<Text<'a>>,
    v: Text<'a>,
}

// === impl Reader ===

impl Reader {
    /// Begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next line, without its line feed. A caller that bounds its buffer may hand over the first
    /// [`MAX_LINE`] + 1 bytes of a longer line.
    ///
    /// # Errors
    /// If the line is not what the format allows there. The reader is of no use afterwards.
    pub fn line(&mut self, line: &[u8]) -> Result<(), ManifestError> {
        self.lines += 1;
        self.take(line).map_err(|problem| self.error(problem))
    }

    /// The error for bytes after the last line feed.
    pub fn unterminated(&self, bytes: usize) -> ManifestError {
        ManifestError { line: self.lines + 1, problem: Problem::Unterminated(bytes) }
    }

    /// The header, once its line was taken.
    pub const fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The manifest, if the trailer was there and its counts and digest fit.
    ///
    /// # Errors
    /// If anything is missing or does not fit.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        let line = self.lines;
        let fail = |problem| ManifestError { line, problem };
        let header = self.header.ok_or_else(|| fail(Problem::NoHeader))?;
        let trailer = self.trailer.ok_or_else(|| fail(Problem::NoTrailer))?;
        for (what, stated, found) in [("entries", trailer.entries, self.entries), ("bytes", trailer.bytes, self.bytes)]
        {
            if stated != found {
                return Err(fail(Problem::Count { what, stated, found }));
            }
        }
        let manifest = Manifest { header, tree: self.builder.finish() };
        let found = OciDigest::blake3(manifest.tree_digest());
        if trailer.tree != found {
            return Err(fail(Problem::TreeDigest { stated: trailer.tree, found }));
        }
        Ok(manifest)
    }

    const fn error(&self, problem: Problem) -> ManifestError {
        ManifestError { line: self.lines, problem }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Problem> {
        if self.trailer.is_some() {
            return Err(Problem::AfterTrailer);
        }
        if line.len() > MAX_LINE {
            return Err(Problem::LongLine);
        }
        if line.is_empty() || line.contains(&b'\r') || line.starts_with(b"\xef\xbb\xbf") {
            return Err(Problem::Blank);
        }
        let Some(header) = &self.header else {
            self.header = Some(parse_header(line)?);
            return Ok(());
        };
        match from_json::<Line<'_>>(line)? {
            Line::End(trailer) => self.trailer = Some(trailer),
            Line::Entry(raw) => {
                let (path, node, origin) = raw.mean(header)?;
                if header.excludes.excludes(&path) {
                    return Err(Problem::Excluded(path));
                }
                self.entries += 1;
                if let Kind::File { size: Some(size), .. } = node.kind {
                    self.bytes = self.bytes.checked_add(size).ok_or(Problem::Value("the sizes sum to over 2^64"))?;
                }
                self.builder.push(&path, node, origin)?;
            }
        }
        Ok(())
    }
}

fn from_json<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Problem> {
    // serde_json counts lines from 1 inside what it was given; the manifest's line is said elsewhere.
    serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        Problem::Json(text.replace(" at line 1 column", " at column"))
    })
}

fn parse_header(line: &[u8]) -> Result<Header, Problem> {
    #[derive(serde::Deserialize)]
    struct Version {
        driftlock: u32,
    }
    let version: Version = serde_json::from_slice(line).map_err(|_| Problem::NoHeader)?;
    if version.driftlock != VERSION {
        return Err(Problem::Version(version.driftlock));
    }
    from_json::<Checked>(line)?;
    let raw: HeaderLine = from_json(line)?;
    let excludes = Excludes::new(raw.excludes.iter().map(String::as_str), [])?;
    if !excludes.iter().eq(raw.excludes.iter().map(String::as_str)) {
        return Err(Problem::UnsortedExcludes);
    }
    Ok(Header {
        profile: raw.profile,
        content: raw.content,
        excludes,
        exclude_sets: raw.exclude_sets,
        history: raw.history,
        source: raw.source,
        diagnostics: raw.diagnostics,
    })
}

// === impl RawEntry ===

impl RawEntry<'_> {
    /// What the keys mean under the header's terms.
    fn mean(self, header: &Header) -> Result<(TreePath, Node, Origin), Problem> {
        let bytes = text_or_base64(self.p, self.p64, "p and p64: exactly one must stand, p64 only where p cannot")?;
        let path = TreePath::new(bytes)?;
        let file_type = match self.t.as_ref().map(|t| t.0.as_bytes()) {
            Some([byte]) => FileType::from_byte(*byte).ok_or(Problem::Value("t is none of f d l c b p s"))?,
            _ => return Err(Problem::Value("t is none of f d l c b p s")),
        };
        let target = match (&self.to, &self.to64) {
            (None, None) => None,
            _ => Some(text_or_base64(
                self.to,
                self.to64,
                "to and to64: exactly one must stand, to64 only where to cannot",
            )?),
        };
        let (content, sha256, foreign) = match header.content {
            Algorithm::Blake3 => (self.b3, self.s2, None),
            Algorithm::Sha256 => (self.s2, None, self.b3),
        };
        let is_file = file_type == FileType::File;
        let is_link = file_type == FileType::Symlink;
        for (present, allowed, key) in [
            (target.is_some(), is_link, "to"),
            (sha256.is_some(), is_file, "s2"),
            (foreign.is_some(), false, "b3"),
            (self.s.is_some(), is_file, "s"),
            (content.is_some(), is_file, if header.content == Algorithm::Blake3 { "b3" } else { "s2" }),
            (self.dev.is_some(), matches!(file_type, FileType::Char | FileType::Block), "dev"),
        ] {
            if present && !allowed {
                let profile = header.profile.name();
                return Err(Problem::Key { path, key, file_type, profile });
            }
        }
        let node = Node {
            kind: match file_type {
                FileType::File => Kind::File { size: self.s, content: content.map(|t| digest(&t)).transpose()? },
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink { target: link_target(target)? },
                FileType::Char => Kind::Char(self.dev.map(device)),
                FileType::Block => Kind::Block(self.dev.map(device)),
                FileType::Fifo => Kind::Fifo,
                FileType::Socket => Kind::Socket,
            },
            mode: self.m.map(|m| octal(&m)).transpose()?,
            uid: self.u.map(id).transpose()?,
            gid: self.g.map(id).transpose()?,
            mtime: self.mt,
            xattrs: self.x.map(xattrs).transpose()?,
        };
        check_presence(&path, &node, header)?;
        if !path.is_root() && file_type != FileType::Directory && bytes_over(&node) {
            return Err(Problem::Value("a target is longer than 65536 bytes"));
        }
        let origin =
            Origin { sha256: sha256.map(|t| digest(&t)).transpose()?, layer: self.layer, meta_layer: self.meta_layer };
        Ok((path, node, origin))
    }
}

fn check_presence(path: &TreePath, node: &Node, header: &Header) -> Result<(), Problem> {
    use crate::node::Presence;
    let allowed = header.profile.allows(node.file_type());
    let present = node.presence();
    for (bit, key) in [
        (Presence::MODE, "m"),
        (Presence::UID, "u"),
        (Presence::GID, "g"),
        (Presence::MTIME, "mt"),
        (Presence::SIZE, "s"),
        (Presence::CONTENT, "b3"),
        (Presence::DEVICE, "dev"),
        (Presence::XATTRS, "x"),
    ] {
        if present.contains(bit) && !allowed.contains(bit) {
            let (path, profile) = (path.clone(), header.profile.name());
            return Err(Problem::Key { path, key, file_type: node.file_type(), profile });
        }
    }
    if let Some(xattrs) = &node.xattrs
        && xattrs.iter().any(|(name, _)| !header.profile.holds_xattr(name))
    {
        return Err(Problem::Value("x names an attribute that the profile does not hold"));
    }
    Ok(())
}

fn bytes_over(node: &Node) -> bool {
    matches!(&node.kind, Kind::Symlink { target } if target.len() > MAX_PATH)
}

fn text_or_base64(text: Option<Text<'_>>, base64: Option<Text<'_>>, rule: &'static str) -> Result<Vec<u8>, Problem> {
    match (text, base64) {
        (Some(Text(text)), None) if path::plain_text(text.as_bytes()).is_some() => Ok(text.into_owned().into_bytes()),
        (None, Some(Text(base64))) => match path::from_base64(&base64) {
            Some(bytes) if path::plain_text(&bytes).is_none() => Ok(bytes),
            _ => Err(Problem::Value(rule)),
        },
        _ => Err(Problem::Value(rule)),
    }
}

fn link_target(target: Option<Vec<u8>>) -> Result<Box<[u8]>, Problem> {
    match target {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target.into_boxed_slice()),
        _ => Err(Problem::Value("a symlink has a target, not empty and without NUL")),
    }
}

fn digest(text: &Text<'_>) -> Result<Digest, Problem> {
    text.0.parse().map_err(|_| Problem::Value("a digest is 64 lower-case hexadecimal digits"))
}

fn octal(text: &Text<'_>) -> Result<u16, Problem> {
    let digits = text.0.as_bytes();
    if digits.len() != 4 || !digits.iter().all(|d| (b'0'..=b'7').contains(d)) {
        return Err(Problem::Value("m is four octal digits"));
    }
    Ok(digits.iter().fold(0, |mode, d| mode << 3 | u16::from(d - b'0')))
}

const fn id(id: u32) -> Result<u32, Problem> {
    if id == u32::MAX { Err(Problem::Value("u and g are at most 4294967294")) } else { Ok(id) }
}

const fn device([major, minor]: [u32; 2]) -> Device {
    Device { major, minor }
}

fn xattrs(raw: Vec<RawXattr<'_>>) -> Result<Xattrs, Problem> {
    const RULE: &str = "x is a list of {n or n64, v}, sorted by name, names unique, n64 only where n cannot stand";
    let mut attributes = Vec::with_capacity(raw.len());
    for RawXattr { n, n64, v } in raw {
        let name = text_or_base64(n, n64, RULE)?;
        let value = path::from_base64(&v.0).ok_or(Problem::Value("v is padded base64"))?;
        if name.is_empty() || name.contains(&0) {
            return Err(Problem::Value(RULE));
        }
        attributes.push((name.into_boxed_slice(), value.into_boxed_slice()));
    }
    if !attributes.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Problem::Value(RULE));
    }
    Xattrs::new(attributes).ok_or(Problem::Value(RULE))
}

// === Deserialize ===

impl<'de> Deserialize<'de> for Line<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Line<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry or the trailer")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
                let mut raw = RawEntry::default();
                let mut end = None;
                let mut unknown = UnknownKeys::default();
                let mut any_entry_key = false;
                while let Some(Text(key)) = map.next_key()? {
                    any_entry_key |= key != "end";
                    match &*key {
                        "p" => once(&mut raw.p, "p", &mut map)?,
                        "p64" => once(&mut raw.p64, "p64", &mut map)?,
                        "t" => once(&mut raw.t, "t", &mut map)?,
                        "m" => once(&mut raw.m, "m", &mut map)?,
                        "u" => once(&mut raw.u, "u", &mut map)?,
                        "g" => once(&mut raw.g, "g", &mut map)?,
                        "mt" => once(&mut raw.mt, "mt", &mut map)?,
                        "s" => once(&mut raw.s, "s", &mut map)?,
                        "b3" => once(&mut raw.b3, "b3", &mut map)?,
                        "s2" => once(&mut raw.s2, "s2", &mut map)?,
                        "to" => once(&mut raw.to, "to", &mut map)?,
                        "to64" => once(&mut raw.to64, "to64", &mut map)?,
                        "dev" => once(&mut raw.dev, "dev", &mut map)?,
                        "x" => once(&mut raw.x, "x", &mut map)?,
                        "L" => once(&mut raw.layer, "L", &mut map)?,
                        "M" => once(&mut raw.meta_layer, "M", &mut map)?,
                        "end" => once(&mut end, "end", &mut map)?,
                        other => unknown.pass(other, &mut map)?,
                    }
                }
                match end {
                    Some(EndObject(_)) if any_entry_key => Err(A::Error::custom("a trailer has only the key \"end\"")),
                    Some(EndObject(trailer)) => Ok(Line::End(trailer)),
                    None => Ok(Line::Entry(Box::new(raw))),
                }
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Takes the value of a key that may stand once.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    key: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
    }
    // Not Option: null is a value that no key has.
    *slot = Some(map.next_value()?);
    Ok(())
}

struct EndObject(Trailer);

impl<'de> Deserialize<'de> for EndObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = EndObject;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the trailer's counts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EndObject, A::Error> {
                let (mut entries, mut bytes, mut tree) = (None, None, None);
                let mut unknown = UnknownKeys::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "entries" => once(&mut entries, "entries", &mut map)?,
                        "bytes" => once(&mut bytes, "bytes", &mut map)?,
                        "tree" => once(&mut tree, "tree", &mut map)?,
                        other => unknown.pass(other, &mut map)?,
                    }
                }
                match (entries, bytes, tree) {
                    (Some(entries), Some(bytes), Some(tree)) => Ok(EndObject(Trailer { entries, bytes, tree })),
                    _ => Err(A::Error::custom("a trailer has entries, bytes and tree")),
                }
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for RawXattr<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawXattr<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an extended attribute")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawXattr<'de>, A::Error> {
                let (mut n, mut n64, mut v) = (None, None, None);
                let mut unknown = UnknownKeys::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "n" => once(&mut n, "n", &mut map)?,
                        "n64" => once(&mut n64, "n64", &mut map)?,
                        "v" => once(&mut v, "v", &mut map)?,
                        other => unknown.pass(other, &mut map)?,
                    }
                }
                let v = v.ok_or_else(|| A::Error::missing_field("v"))?;
                Ok(RawXattr { n, n64, v })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawXattr<'de>, A::Error> {
                Err(A::Error::custom("an extended attribute is an object"))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
