//! Owns reading the NDJSON view of a manifest, line by line and strictly. Must not own files: lines come in as
//! arguments, so the caller decides how bytes are bounded and verified.

use serde::de::Deserialize;

use super::header::HeaderLine;
use super::line::{Line, Trailer};
use super::{Header, MAX_LINE, Manifest, VERSION};
use crate::digest::OciDigest;
use crate::json::{Checked, Object};
use crate::node::{FileType, Kind, Node};
use crate::path::{PathError, TreePath, is_hidden};
use crate::pattern::{Excludes, PatternError};
use crate::tree::{Origin, TreeBuilder, TreeError};

/// The most characters of a JSON problem that are shown: a line may hold a word of a megabyte.
const MAX_JSON_PROBLEM: usize = 300;

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

/// What a line after the header means, before it has its place among the others.
#[derive(Debug)]
pub struct Meaning(Meant);

#[derive(Debug)]
enum Meant {
    Entry(TreePath, Node, Origin),
    End(Trailer),
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
    #[error("{} lies under an exclude", .0.named())]
    Excluded(TreePath),
    /// A key that a type does not have under the header's profile.
    #[error("{}: key {key:?} does not belong to type {:?} under profile {profile}", .path.named(), .file_type.name())]
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
        self.finish_named().map(|(manifest, _)| manifest)
    }

    /// As [`Reader::finish`], with the name of the tree, which was computed to check the trailer.
    ///
    /// # Errors
    /// As [`Reader::finish`].
    pub fn finish_named(self) -> Result<(Manifest, OciDigest), ManifestError> {
        let line = self.lines.max(1);
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
        Ok((manifest, found))
    }

    const fn error(&self, problem: Problem) -> ManifestError {
        ManifestError { line: self.lines, problem }
    }

    /// Takes the next line after the header as [`Meaning::of`] gave it.
    ///
    /// # Errors
    /// As [`Reader::line`].
    pub fn put(&mut self, meaning: Result<Meaning, Problem>) -> Result<(), ManifestError> {
        self.lines += 1;
        self.place(meaning).map_err(|problem| self.error(problem))
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Problem> {
        match &self.header {
            Some(header) => {
                let meaning = Meaning::of(header, line);
                self.place(meaning)
            }
            None => {
                check_form(line)?;
                self.header = Some(parse_header(line)?);
                Ok(())
            }
        }
    }

    fn place(&mut self, meaning: Result<Meaning, Problem>) -> Result<(), Problem> {
        if self.trailer.is_some() {
            return Err(Problem::AfterTrailer);
        }
        let Some(header) = &self.header else { return Err(Problem::NoHeader) };
        match meaning?.0 {
            Meant::End(trailer) => self.trailer = Some(trailer),
            Meant::Entry(path, node, origin) => {
                self.entries += 1;
                if let Kind::File { size: Some(size), .. } = node.kind {
                    self.bytes = self.bytes.checked_add(size).ok_or(Problem::Value("the sizes sum to over 2^64"))?;
                }
                if let Err(error) = self.builder.push(&path, node, origin) {
                    let below = matches!(error, TreeError::NoParent(_)) && header.excludes.excludes(&path);
                    return Err(if below { Problem::Excluded(path) } else { error.into() });
                }
            }
        }
        Ok(())
    }
}

// === impl Meaning ===

impl Meaning {
    /// Reads one line after the header by itself: lines are read on several threads, and put into place in order.
    ///
    /// # Errors
    /// If the line is not what the format allows anywhere.
    pub fn of(header: &Header, line: &[u8]) -> Result<Self, Problem> {
        check_form(line)?;
        match from_json::<Line<'_>>(line)? {
            Line::End(trailer) => Ok(Self(Meant::End(trailer))),
            Line::Entry(raw) => {
                let (path, node, origin) = raw.mean(header)?;
                // The entry alone is enough: an excluded ancestor has no line, so what is below it has no parent.
                if header.excludes.excludes_entry(&path) {
                    return Err(Problem::Excluded(path));
                }
                Ok(Self(Meant::Entry(path, node, origin)))
            }
        }
    }

    /// Where the entry came from; `None` if the line is none.
    pub const fn origin(&self) -> Option<Origin> {
        match &self.0 {
            Meant::Entry(_, _, origin) => Some(*origin),
            Meant::End(_) => None,
        }
    }

    /// The entry; `None` if the line is none.
    pub fn into_entry(self) -> Option<(TreePath, Node, Origin)> {
        match self.0 {
            Meant::Entry(path, node, origin) => Some((path, node, origin)),
            Meant::End(_) => None,
        }
    }

    /// Without where the entry came from: for who will read that again when it is wanted.
    #[must_use]
    pub fn without_origin(self) -> Self {
        match self.0 {
            Meant::Entry(path, node, _) => Self(Meant::Entry(path, node, Origin::default())),
            Meant::End(_) => self,
        }
    }
}

fn check_form(line: &[u8]) -> Result<(), Problem> {
    if line.len() > MAX_LINE {
        return Err(Problem::LongLine);
    }
    if line.is_empty() || line.contains(&b'\r') || line.starts_with(b"\xef\xbb\xbf") {
        return Err(Problem::Blank);
    }
    Ok(())
}

fn from_json<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Problem> {
    // serde_json counts lines from 1 inside what it was given; the manifest's line is said elsewhere.
    serde_json::from_slice(line).map_err(|error| {
        let text = error.to_string();
        Problem::Json(shown(&text.replace(" at line 1 column", " at column")))
    })
}

/// What serde_json says may quote the line as it is: made safe to print, and cut.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for ch in text.chars().take(MAX_JSON_PROBLEM) {
        if is_hidden(ch) { shown.extend(ch.escape_unicode()) } else { shown.push(ch) }
    }
    if text.chars().nth(MAX_JSON_PROBLEM).is_some() {
        shown.push('…');
    }
    shown
}

fn parse_header(line: &[u8]) -> Result<Header, Problem> {
    #[derive(serde::Deserialize)]
    struct Version {
        driftlock: u32,
    }
    let Object(version) = serde_json::from_slice::<Object<Version>>(line).map_err(|_| Problem::NoHeader)?;
    if version.driftlock != VERSION {
        return Err(Problem::Version(version.driftlock));
    }
    from_json::<Checked>(line)?;
    let Object(raw) = from_json::<Object<HeaderLine>>(line)?;
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
