//! Owns what can be wrong with a line of an mtree file. Must not own detecting it.

use driftlock_common::path::{Escaped, PathError};

use super::line::MAX_LINE;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// A line over 1 MiB, its continuations included.
    #[error("longer than {MAX_LINE} bytes")]
    TooLong,
    /// A byte that every writer escapes.
    #[error("a control character stands in it: write it as \\ooo, in octal")]
    Control,
    /// The last line goes on, but there is no more.
    #[error("ends in a backslash, but no line follows: the file is truncated")]
    Unfinished,
    /// A backslash with something behind it that no writer writes.
    #[error("{} is not an escape that mtree files have: write \\ooo, in octal", Escaped(.0))]
    Escape(Vec<u8>),
    /// Some readers take it for a comment.
    #[error("{} has a # inside, where tools disagree on whether a comment begins: write \\043", Escaped(.0))]
    Hash(Vec<u8>),
    /// Neither `/set` nor `/unset`.
    #[error("{}: only /set and /unset begin with a slash; write paths as ./PATH", Escaped(.0))]
    Special(Vec<u8>),
    /// A keyword that is not known.
    #[error("the keyword {} is not known, so what it says would not be verified: leave it out", Escaped(.0))]
    Unknown(Vec<u8>),
    /// A keyword that needs a value.
    #[error("{0} has no value")]
    NoValue(&'static str),
    /// A keyword that has none.
    #[error("{0} has a value, which it cannot have")]
    NeedlessValue(&'static str),
    /// A value that is not one.
    #[error("{keyword}={}: {should}", Escaped(.value))]
    Value {
        /// Of this keyword.
        keyword: &'static str,
        /// As it stands.
        value: Vec<u8>,
        /// What it must be.
        should: &'static str,
    },
    /// One keyword twice on a line.
    #[error("{0} stands twice on one line")]
    Repeated(&'static str),
    /// Something beside `..`.
    #[error(".. stands alone on its line")]
    UpWithMore,
    /// More `..` than directories.
    #[error(".. leads out of the tree")]
    UpTooFar,
    /// A relative name or `..` after a path.
    #[error("a relative name after paths with slashes: tools disagree on where it belongs; write ./PATH everywhere")]
    Mixed,
    /// `.` inside a directory.
    #[error("\".\" stands for the root, but another directory was not left by ..")]
    NestedRoot,
    /// A name that is not one in a tree.
    #[error("{}: {error}", Escaped(.name))]
    Path {
        /// As it stands.
        name: Vec<u8>,
        /// What is wrong with it.
        error: PathError,
    },
    /// A slash within a name.
    #[error("{}: an escaped slash cannot be part of a name", Escaped(.0))]
    EscapedSlash(Vec<u8>),
    /// Neither on the line nor in `/set`.
    #[error("no type: without one nothing can be verified; write type=file, or /set type=file above")]
    NoType,
    /// A symbolic link that leads nowhere.
    #[error("a symbolic link without link=: where it leads would not be verified; write it, or leave the entry out")]
    NoTarget,
    /// Two entries for one path.
    #[error("{} stands twice, first on line {first}", Escaped(.path))]
    Twice {
        /// The path.
        path: Vec<u8>,
        /// Where it stood first.
        first: u64,
    },
    /// Something below a file.
    #[error("{} lies below something that is not a directory", Escaped(.0))]
    NotDirectory(Vec<u8>),
    /// A directory whose name may have become lines of its own.
    #[error(
        "{}: writers of this style put the name into a comment as it is, so that what follows its line feed reads as \
         lines: write the file with full paths (mtree -C, bsdtar --format=mtree)",
        Escaped(.0)
    )]
    NameInComment(Vec<u8>),
    /// A path that no exclude can name.
    #[error(
        "{} is optional or ignored, which becomes an exclude, but its name is not UTF-8 or has control characters: \
         leave the entry out",
        Escaped(.0)
    )]
    NoPattern(Vec<u8>),
}
