//! Owns what can be wrong with a source: a place and a problem, and the exit code that follows. Must not own
//! detecting it.

use std::fmt;
use std::io;
use std::path::Path;

use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::gap::Reason;
use driftlock_common::path::{Escaped, PathError, TreePath};
use driftlock_common::tree::TreeError;

use super::mtree::LineFault;
use super::notes::Code;
use super::registry::RegistryError;
use crate::failure::Failure;
use crate::scan::RootError;

/// Why a source could not be read, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}")]
pub struct SourceError {
    /// The file, blob or layer, safe to print.
    pub place: String,
    /// What was wrong there.
    #[source]
    pub problem: Problem,
}

/// What was wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The input cannot be opened.
    #[error(transparent)]
    Open(io::Error),
    /// The directory is none, or cannot be read.
    #[error(transparent)]
    Root(RootError),
    /// What was read cannot be kept.
    #[error("what layers say cannot be kept there")]
    Cache(#[source] io::Error),
    /// A cache in which another could say what a layer holds.
    #[error("other users may write there, and could say what a layer holds: name a directory of your own, chmod go-w")]
    ForeignCache,
    /// The input cannot be read.
    #[error("reading failed")]
    Device(#[source] io::Error),
    /// Neither an image layout, nor an image archive, as the case may be.
    #[error("{0}")]
    NotThis(&'static str),
    /// A compressed stream that ends too early.
    #[error("the {0} stream is truncated")]
    Truncated(Format),
    /// A compressed stream that is damaged, or not one that is read.
    #[error("the {0} stream is damaged: {1}")]
    Damaged(Format, String),
    /// A tar stream that ends before its two zero blocks.
    #[error("the tar archive is truncated at byte {0}")]
    TarTruncated(u64),
    /// A tar header that is damaged, or that tools read differently.
    #[error("tar header at byte {at}: {fault}")]
    TarHeader {
        /// Where the header begins, in bytes of the uncompressed archive.
        at: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// An entry that cannot be part of a tree.
    #[error("entry {}: {fault}", Named(.path))]
    Entry {
        /// Its name as it stands in the archive.
        path: Vec<u8>,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A line of an mtree file that cannot be used.
    #[error("line {line}: {fault}")]
    Line {
        /// Where it begins, counted from 1.
        line: u64,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// More than the limits against decompression bombs allow.
    #[error("{0}")]
    TooMuch(&'static str),
    /// A blob whose bytes have another digest than its name or its descriptor.
    #[error("wrong digest: the bytes have sha256:{found}")]
    WrongDigest {
        /// Of the bytes.
        found: Digest,
    },
    /// A layer whose uncompressed bytes are not those of the configuration's `diff_ids`.
    #[error("wrong diff_id: the configuration has sha256:{expected}, the uncompressed layer sha256:{found}")]
    WrongDiffId {
        /// Of the configuration.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// A blob that has another length than its descriptor says.
    #[error("wrong size: the descriptor says {expected} bytes, there are {found}")]
    WrongSize {
        /// Of the descriptor.
        expected: u64,
        /// Of the file.
        found: u64,
    },
    /// A blob that is referred to but not there.
    #[error("missing: something refers to it, but it is not there")]
    Missing,
    /// A document over its limit.
    #[error("larger than the {limit} bytes allowed for it")]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// JSON that is not what it must be.
    #[error("not the JSON expected here: {0}")]
    Json(String),
    /// A document that says something that cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// Several images, or none that fits.
    #[error("{0}")]
    Choice(String),
    /// What is signed, but not by whom it must be, or not only one thing.
    #[error("refused: {0}")]
    Untrusted(String),
    /// No image for the platform.
    #[error("{0}")]
    NoImage(String),
    /// Something on which engines disagree, refused by `--strict`.
    #[error("{code} at {}: container engines make different trees of this, and --strict refuses it", .path.escaped())]
    Strict {
        /// What.
        code: Code,
        /// Where.
        path: TreePath,
    },
    /// A directory of which not everything could be read.
    #[error("{}: {reason}; {count} paths could not be read, and what was not read cannot be sealed", .first.escaped())]
    Gaps {
        /// The first in path order.
        first: TreePath,
        /// Why.
        reason: Reason,
        /// How many in all.
        count: usize,
    },
    /// A registry that does not give what it should.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// What needs no sealing, or cannot be sealed.
    #[error("already a manifest or a bundle, or not something that can be sealed; show FILE reads it")]
    Sealed,
    /// The entries do not make a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// What a stream is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952, of one or more members.
    Gzip,
    /// RFC 8878, of one or more frames, without a dictionary.
    Zstd,
}

/// What is wrong with a tar header or entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The path is not one in a tree.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The parser refused the header.
    #[error("{0}")]
    Header(String),
    /// A header block of a format that tools do not agree on.
    #[error("neither a ustar, a GNU nor an old tar header")]
    Format,
    /// A number field that tools read differently.
    #[error("the field {0} is not a number that every tool reads the same")]
    Number(&'static str),
    /// A time before 1970.
    #[error("the modification time is before 1970, which is not supported")]
    NegativeTime,
    /// A record of an extended header that is not `length key=value`.
    #[error("an extended header is malformed")]
    Extended,
    /// One zero block, where two end an archive.
    #[error("a single zero block in the middle of the archive")]
    LoneZeroBlock,
    /// A global extended header with a key that changes entries.
    #[error("a global extended header sets {0:?}, which only some tools apply")]
    Global(String),
    /// The map of a sparse file that does not fit the file, or that tools read differently.
    #[error("the map of a sparse file is malformed; write the archive without --sparse")]
    SparseMap,
    /// A PAX header and a GNU long name or target: tools rank and combine the two differently.
    #[error("it has a GNU long name or target and an extended header, of which tools make different entries")]
    Mixed,
    /// A global extended header between an entry and its own extension headers.
    #[error("a global extended header stands between an entry and its own extended headers")]
    GlobalBetween,
    /// A global extended header at the end: Python's tarfile refuses the archive.
    #[error("a global extended header with no entry behind it, which some tools refuse")]
    GlobalLast,
    /// A key, or the value of a name, with a NUL.
    #[error("an extended header has a NUL byte in a key or a name")]
    Nul,
    /// A key that only some tools apply.
    #[error("an extended header sets {0:?}, which only some tools apply")]
    Partial(String),
    /// Bytes that some tools take for a part of the name.
    #[error("bytes where some tools see the beginning of the name")]
    Prefix,
    /// A type that no engine unpacks.
    #[error("the entry type 0x{0:02x} is not known")]
    Type(u8),
    /// Content where there can be none.
    #[error("it has content, but only files can")]
    Content,
    /// A regular file named like a directory.
    #[error("a file whose name ends in a slash")]
    FileWithSlash,
    /// The root as something else than a directory.
    #[error("the root is not a directory")]
    Root,
    /// A link that leads nowhere by construction.
    #[error("a link without a target")]
    NoTarget,
    /// A target longer than the format allows or with a NUL.
    #[error("the link target holds a NUL byte or is longer than 65536 bytes")]
    Target,
    /// A device without its numbers.
    #[error("a device without device numbers")]
    NoDevice,
    /// An owner that no system has.
    #[error("{0} is more than 4294967294")]
    Owner(&'static str),
    /// An attribute name that no file system has.
    #[error("an extended attribute has an empty name or one with a NUL byte")]
    XattrName,
    /// An attribute set that the manifest cannot hold.
    #[error("the extended attributes hold more than 262144 bytes")]
    Xattrs,
    /// A whiteout that names nothing.
    #[error("a whiteout that names nothing")]
    BareWhiteout,
    /// The prefix of whiteouts in the middle of a path.
    #[error("a directory name begins with .wh., which is kept for whiteouts")]
    WhiteoutDirectory,
    /// A hard link to something that is not there.
    #[error("hard link to {}, which is not there", Named(.0))]
    LinkMissing(Vec<u8>),
    /// A hard link to a directory.
    #[error("hard link to {}, which is a directory", Named(.0))]
    LinkDirectory(Vec<u8>),
    /// A hard link that replaces its own target.
    #[error("hard link to {}, which it replaces", Named(.0))]
    LinkReplaces(Vec<u8>),
}

/// The most bytes of a name that an error shows: in an image it may be a megabyte long.
const SHOWN: usize = 512;

/// A name out of an image, safe to print, and cut if it is long.
pub(super) struct Named<'a>(pub(super) &'a [u8]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(SHOWN) {
            Some((shown, rest)) if !rest.is_empty() => write!(f, "{}… ({} bytes)", Escaped(shown), self.0.len()),
            _ => Escaped(self.0).fmt(f),
        }
    }
}

/// A problem of what carries a stream (the disk, or an archive around it), on its way up through readers that know
/// only [`io::Error`]. Without the mark it would be taken for damage of the stream itself.
#[derive(Debug)]
pub(super) struct Below(pub(super) Problem);

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Below {}

// === impl Format ===

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

// === impl Problem ===

impl Problem {
    /// What an error of a reader means: a problem below, or damage of a gzip stream, the only one that does not mark
    /// its own.
    pub(super) fn of_stream(error: io::Error) -> Self {
        match error.downcast::<Below>() {
            Ok(Below(problem)) => problem,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Truncated(Format::Gzip),
            Err(error) => Self::Damaged(Format::Gzip, error.to_string()),
        }
    }

    /// On its way up through a reader.
    pub(super) fn into_io(self) -> io::Error {
        io::Error::other(Below(self))
    }

    /// With its place.
    pub(super) fn at(self, place: impl Into<String>) -> SourceError {
        SourceError { place: place.into(), problem: self }
    }
}

// === impl SourceError ===

/// A path of this machine, safe to print.
pub(super) fn place(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    Escaped(path.as_os_str().as_bytes()).to_string()
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let SourceError { place, problem } = error;
        let exit = match &problem {
            Problem::Device(_) => Exit::Io,
            Problem::Gaps { reason: Reason::Denied, .. } => Exit::Refused,
            Problem::Gaps { .. } => Exit::Io,
            Problem::Choice(_) | Problem::Sealed => Exit::Usage,
            Problem::NoImage(_) => Exit::NoInput,
            Problem::Cache(_) => Exit::CannotCreate,
            Problem::ForeignCache | Problem::Untrusted(_) => Exit::Refused,
            Problem::Registry(error) => error.exit(),
            _ => Exit::Malformed,
        };
        match problem {
            Problem::Open(error) => Self::input(place, error),
            // It says its own place.
            Problem::Root(error) => error.into(),
            problem => Self::new(exit, SourceError { place, problem }),
        }
    }
}
