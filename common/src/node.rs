//! Owns what a path is: its type, its content and its attributes, each either specified or not.
//! Must not own stat structures, names, or any judgement.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The type of a node. The discriminant is the byte of the canonical encoding and the letter of a manifest's `t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FileType {
    /// A regular file.
    File = b'f',
    /// A directory.
    Directory = b'd',
    /// A symbolic link.
    Symlink = b'l',
    /// A character device.
    Char = b'c',
    /// A block device.
    Block = b'b',
    /// A named pipe.
    Fifo = b'p',
    /// A socket.
    Socket = b's',
}

/// Device numbers of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Type and content. `None` means unspecified: never compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File {
        /// Length in bytes.
        size: Option<u64>,
        /// Digest of the bytes, by the algorithm of the manifest.
        content: Option<Digest>,
    },
    /// A directory; its children are the tree's matter.
    Directory,
    /// A symbolic link, with its target as stored, never resolved.
    Symlink {
        /// At most [`crate::path::MAX_PATH`] bytes, no NUL.
        target: Box<[u8]>,
    },
    /// A character device.
    Char(Option<Device>),
    /// A block device.
    Block(Option<Device>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Extended attributes, sorted by name, names unique.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Xattrs(Box<[Xattr]>);

/// One extended attribute: name and value, raw bytes.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What a path is. `None` means unspecified: never compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Type and content.
    pub kind: Kind,
    /// Permission bits, `st_mode & 07777`. Never specified for symlinks.
    pub mode: Option<u16>,
    /// Numeric owner, at most 2^32−2.
    pub uid: Option<u32>,
    /// Numeric group, at most 2^32−2.
    pub gid: Option<u32>,
    /// Modification time in whole seconds, rounded down.
    pub mtime: Option<i64>,
    /// Extended attributes of the profile's names.
    pub xattrs: Option<Xattrs>,
}

/// Which attributes a node specifies: the presence bits of the canonical encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Presence(u16);

// === impl FileType ===

impl FileType {
    /// All types.
    pub const ALL: [Self; 7] =
        [Self::File, Self::Directory, Self::Symlink, Self::Char, Self::Block, Self::Fifo, Self::Socket];

    /// The byte of the canonical encoding.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The type of a manifest's `t`.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.byte() == byte)
    }

    /// The word used in findings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Char => "char",
            Self::Block => "block",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

// === impl Node ===

impl Node {
    /// A node with nothing specified but its kind.
    pub const fn bare(kind: Kind) -> Self {
        Self { kind, mode: None, uid: None, gid: None, mtime: None, xattrs: None }
    }

    /// A directory with nothing specified: an implicit parent, or an image's root.
    pub const fn implicit_directory() -> Self {
        Self::bare(Kind::Directory)
    }

    /// The node's type.
    pub const fn file_type(&self) -> FileType {
        match self.kind {
            Kind::File { .. } => FileType::File,
            Kind::Directory => FileType::Directory,
            Kind::Symlink { .. } => FileType::Symlink,
            Kind::Char(_) => FileType::Char,
            Kind::Block(_) => FileType::Block,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
        }
    }

    /// Which attributes are specified.
    pub fn presence(&self) -> Presence {
        let mut bits = Presence::NONE;
        let mut set = |present: bool, bit: Presence| {
            if present {
                bits = bits.union(bit);
            }
        };
        set(self.mode.is_some(), Presence::MODE);
        set(self.uid.is_some(), Presence::UID);
        set(self.gid.is_some(), Presence::GID);
        set(self.mtime.is_some(), Presence::MTIME);
        set(self.xattrs.is_some(), Presence::XATTRS);
        match &self.kind {
            Kind::File { size, content } => {
                set(size.is_some(), Presence::SIZE);
                set(content.is_some(), Presence::CONTENT);
            }
            Kind::Char(device) | Kind::Block(device) => set(device.is_some(), Presence::DEVICE),
            Kind::Directory | Kind::Symlink { .. } | Kind::Fifo | Kind::Socket => {}
        }
        bits
    }

    /// The node with every attribute outside `keep` unspecified.
    #[must_use]
    pub fn masked(mut self, keep: Presence) -> Self {
        fn clear<T>(value: &mut Option<T>, kept: bool) {
            if !kept {
                *value = None;
            }
        }
        clear(&mut self.mode, keep.contains(Presence::MODE));
        clear(&mut self.uid, keep.contains(Presence::UID));
        clear(&mut self.gid, keep.contains(Presence::GID));
        clear(&mut self.mtime, keep.contains(Presence::MTIME));
        clear(&mut self.xattrs, keep.contains(Presence::XATTRS));
        match &mut self.kind {
            Kind::File { size, content } => {
                clear(size, keep.contains(Presence::SIZE));
                clear(content, keep.contains(Presence::CONTENT));
            }
            Kind::Char(device) | Kind::Block(device) => clear(device, keep.contains(Presence::DEVICE)),
            Kind::Directory | Kind::Symlink { .. } | Kind::Fifo | Kind::Socket => {}
        }
        self
    }
}

// === impl Presence ===

impl Presence {
    /// Nothing specified.
    pub const NONE: Self = Self(0);
    /// Permission bits.
    pub const MODE: Self = Self(1);
    /// Owner.
    pub const UID: Self = Self(1 << 1);
    /// Group.
    pub const GID: Self = Self(1 << 2);
    /// Modification time.
    pub const MTIME: Self = Self(1 << 3);
    /// Length of a file.
    pub const SIZE: Self = Self(1 << 4);
    /// Content digest of a file.
    pub const CONTENT: Self = Self(1 << 5);
    /// Device numbers.
    pub const DEVICE: Self = Self(1 << 6);
    /// Extended attributes.
    pub const XATTRS: Self = Self(1 << 7);

    /// The bits as encoded.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both sets have.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010b}", self.0)
    }
}

// === impl Xattrs ===

impl Xattrs {
    /// No attributes, and known to be none.
    pub fn none() -> Self {
        Self::default()
    }

    /// Sorts by name; `None` if a name occurs twice.
    pub fn new(mut attributes: Vec<Xattr>) -> Option<Self> {
        attributes.sort();
        let unique = attributes.windows(2).all(|pair| pair[0].0 != pair[1].0);
        unique.then(|| Self(attributes.into_boxed_slice()))
    }

    /// In order of name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(n, v)| (crate::path::Escaped(n), crate::path::Escaped(v)))).finish()
    }
}
