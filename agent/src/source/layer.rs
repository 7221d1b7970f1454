//! Owns reading one layer, or one release archive, into an index: what it has, what it hides, its digest. Bodies are
//! hashed as they pass. Must not own laying layers over each other.

use std::io::{BufRead, Read};
use std::sync::PoisonError;

use driftlock_common::digest::Digest;
use driftlock_common::node::{FileType, Kind, Node, Presence, Xattrs};
use driftlock_common::path::{MAX_PATH, TreePath};
use driftlock_common::profile::{CAPABILITY, Profile, normal_capability};
use driftlock_common::tree::archive_path;
use sha2::Digest as _;

use super::budget::Budget;
use super::entries::{Entries, Entry, EntryKind, Readers};
use super::notes::{Code, Notes};
use super::problem::{Fault, Problem};
use super::stream::{Counted, Decoded, Guarded, Hashing, Stored, read_ahead};
use super::toc::{self, Toc};

/// The most bytes of extended attributes of one path: with them its line is within the manifest's limit.
const MAX_XATTRS: usize = 256 * 1024;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What names that begin with `.wh.` mean, and which attributes are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A layer (OCI image-spec, layer.md): they hide paths of lower layers. Attributes are those that Go's
    /// `archive/tar` hands to the engine.
    Image,
    /// A release archive: they are names like others. Attributes are those that either GNU tar or libarchive unpacks.
    Release,
}

/// How a layer is read.
#[derive(Debug)]
pub struct Options {
    /// What it is.
    pub dialect: Dialect,
    /// Which attributes are kept.
    pub profile: Profile,
    /// Whether each file's SHA-256 is made beside its BLAKE3.
    pub sha256: bool,
    /// What all layers of the source may use up together.
    pub budget: Budget,
}

/// What one layer says, in the order of its archive.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// SHA-256 of the uncompressed archive: its `diff_id`.
    pub diff_id: Option<Digest>,
    /// What it adds or replaces.
    pub items: Vec<Item>,
    /// Paths of lower layers that it hides.
    pub whiteouts: Vec<TreePath>,
    /// Directories whose children in lower layers it hides.
    pub opaques: Vec<TreePath>,
    /// What is odd about it.
    pub notes: Notes,
    /// The table of contents among its files.
    toc: Option<Toc>,
}

/// A path of a layer.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where. Never the root.
    pub path: TreePath,
    /// What.
    pub what: What,
}

/// What a layer has at a path.
#[derive(Clone, Debug)]
pub enum What {
    /// A node, with no more than the profile allows.
    Node {
        /// The node.
        node: Node,
        /// SHA-256 of a file's content.
        sha256: Option<Digest>,
    },
    /// Another name of a file that stands before it or in a lower layer.
    Link {
        /// The other name.
        target: TreePath,
        /// What the link's own header says, which does not count but should agree.
        claim: Box<Node>,
    },
}

/// Reads a layer as it is stored, plain, gzip or zstd, to the end of the stream.
///
/// # Errors
/// If the stream cannot be read, is damaged or cut short, or holds what cannot be part of a tree.
pub fn index(input: impl Read + Send, options: &Options) -> Result<Layer, Problem> {
    read_ahead(input, |input| {
        let (input, stored) = Counted::new(input);
        index_within(input, &stored, options)
    })
}

/// The same for a layer within an archive, of which `stored` counts the bytes.
pub(super) fn index_within(input: impl BufRead + Send, stored: &Stored, options: &Options) -> Result<Layer, Problem> {
    let before = stored.count();
    match Decoded::new(input)? {
        Decoded::Plain(mut input) => index_tar(&mut input, options),
        packed => {
            let skipped = packed.skipped();
            let unpacked = Guarded::new(packed, &options.budget, stored, before);
            let mut layer = read_ahead(unpacked, |input| index_tar(input, options))?;
            let skipped =
                skipped.map(|skipped| std::mem::take(&mut *skipped.lock().unwrap_or_else(PoisonError::into_inner)));
            if let Some(table) = skipped.as_ref().and_then(toc::chunked) {
                toc::compare(&mut layer, &table);
            }
            Ok(layer)
        }
    }
}

fn index_tar(input: &mut dyn BufRead, options: &Options) -> Result<Layer, Problem> {
    let mut hashing = Hashing::new(input);
    let mut layer = Layer::default();
    let readers = match options.dialect {
        Dialect::Image => Readers::Engines,
        Dialect::Release => Readers::Any,
    };
    let mut entries = Entries::new(&mut hashing, readers);
    while let Some(entry) = entries.next()? {
        layer.take(&mut entries, entry, options)?;
    }
    for _ in 0..entries.globals {
        layer.notes.add(Code::PaxGlobal, &TreePath::root(), None);
    }
    if entries.unterminated {
        layer.notes.add(Code::Unterminated, &TreePath::root(), None);
    }
    if entries.finish()? {
        layer.notes.add(Code::TrailingData, &TreePath::root(), None);
    }
    if let Some(table) = layer.toc.take() {
        toc::compare(&mut layer, &table);
    }
    layer.diff_id = Some(hashing.finish().map_err(Problem::of_stream)?.0);
    Ok(layer)
}

// === impl Layer ===

impl Layer {
    /// Counts what a layer says that was not read now.
    pub(super) fn spend(&self, budget: &Budget) -> Result<(), Problem> {
        for Item { path, what } in &self.items {
            let xattrs = match what {
                What::Node { node, .. } => node.xattrs.as_ref(),
                What::Link { .. } => None,
            };
            let xattrs = xattrs.into_iter().flat_map(Xattrs::iter).map(|(name, value)| name.len() + value.len());
            budget.spend(path.as_bytes().len() + xattrs.sum::<usize>())?;
        }
        self.whiteouts.iter().chain(&self.opaques).try_for_each(|path| budget.spend(path.as_bytes().len()))
    }

    fn take<R: BufRead>(&mut self, entries: &mut Entries<R>, entry: Entry, options: &Options) -> Result<(), Problem> {
        let raw = entry.path.clone();
        let refuse = |fault| Problem::Entry { path: raw.clone(), fault };
        let path = archive_path(&entry.path).map_err(|error| refuse(error.into()))?;
        let xattr_bytes: usize =
            entry.xattrs.iter().chain(&entry.libarchive_xattrs).map(|(name, value)| name.len() + value.len()).sum();
        options.budget.spend(path.as_bytes().len() + xattr_bytes)?;
        if path.is_root() {
            // Engines disagree on the root's attributes, so an image leaves them open.
            return if entry.kind == EntryKind::Directory { Ok(()) } else { Err(refuse(Fault::Root)) };
        }
        if entry.path.starts_with(b"/") {
            self.notes.add(Code::AbsoluteName, &path, None);
        }
        if options.dialect == Dialect::Image && self.take_whiteout(&path).map_err(refuse)? {
            return Ok(());
        }
        let what = self.what(entries, entry, &path, options, &refuse)?;
        self.items.push(Item { path, what });
        Ok(())
    }

    /// Whether the path is one of the names kept for whiteouts.
    fn take_whiteout(&mut self, path: &TreePath) -> Result<bool, Fault> {
        let Some(parent) = path.parent() else { return Ok(false) };
        let name = path.name();
        if name == OPAQUE {
            self.opaques.push(parent);
            return Ok(true);
        }
        // What AUFS kept for itself; no engine unpacks it.
        if path.components().any(|component| component.starts_with(WHITEOUT_META)) {
            return Ok(true);
        }
        if parent.components().any(|component| component.starts_with(WHITEOUT)) {
            return Err(Fault::WhiteoutDirectory);
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(false),
            Some(b"") => Err(Fault::BareWhiteout),
            Some(hidden) => {
                self.whiteouts.push(parent.join(hidden)?);
                Ok(true)
            }
        }
    }

    fn what<R: BufRead>(
        &mut self,
        entries: &mut Entries<R>,
        entry: Entry,
        path: &TreePath,
        options: &Options,
        refuse: &impl Fn(Fault) -> Problem,
    ) -> Result<What, Problem> {
        let (mut kind, mut sha256, mut target) = (Kind::Fifo, None, None);
        match entry.kind {
            EntryKind::File => {
                if let Some(holes) = entry.holes {
                    options.budget.inflate(holes)?;
                    self.notes.add(Code::Sparse, path, None);
                }
                let table = options.dialect == Dialect::Image && path.as_bytes() == toc::ESTARGZ;
                let mut kept = (table && entry.size <= toc::MAX_TOC).then(Vec::new);
                let (content, other) = hash_body(entries, options.sha256, kept.as_mut())?;
                if table {
                    self.toc = Some(kept.map_or(Toc::Unreadable, Toc::Json));
                }
                kind = Kind::File { size: Some(entry.size), content: Some(content) };
                sha256 = other;
            }
            EntryKind::Directory => kind = Kind::Directory,
            EntryKind::Symlink(ref target) => {
                if target.len() > MAX_PATH || target.contains(&0) {
                    return Err(refuse(Fault::Target));
                }
                kind = Kind::Symlink { target: target.as_slice().into() };
            }
            EntryKind::Hardlink(ref other) => {
                kind = Kind::File { size: None, content: None };
                target = Some(archive_path(other).map_err(|error| refuse(error.into()))?);
            }
            EntryKind::Char(device) => kind = Kind::Char(Some(device)),
            EntryKind::Block(device) => kind = Kind::Block(Some(device)),
            EntryKind::Fifo => {}
        }
        let allowed = options.profile.allows(kind_type(&kind));
        let xattrs = if target.is_none() { self.xattrs(&entry, path, options, allowed).map_err(refuse)? } else { None };
        let node = Node {
            kind,
            mode: Some(entry.mode),
            uid: Some(entry.uid),
            gid: Some(entry.gid),
            mtime: Some(entry.mtime),
            xattrs,
        }
        .masked(allowed);
        Ok(match target {
            Some(target) => What::Link { target, claim: Box::new(node) },
            None => What::Node { node, sha256 },
        })
    }

    fn xattrs(
        &mut self,
        entry: &Entry,
        path: &TreePath,
        options: &Options,
        allowed: Presence,
    ) -> Result<Option<Xattrs>, Fault> {
        let mut kept = entry.xattrs.clone();
        // To Go's `archive/tar` an empty value is a record taken back.
        kept.retain(|_, value| options.dialect == Dialect::Release || !value.is_empty());
        let mut dropped = entry.xattrs.len() - kept.len();
        for (name, value) in &entry.libarchive_xattrs {
            match options.dialect {
                Dialect::Release => {
                    kept.entry(name.clone()).or_insert_with(|| value.clone());
                }
                Dialect::Image if kept.contains_key(name) => {}
                Dialect::Image => dropped += 1,
            }
        }
        let before = kept.len();
        let specified = allowed.contains(Presence::XATTRS);
        kept.retain(|name, _| specified && options.profile.holds_xattr(name));
        for _ in 0..dropped + before - kept.len() {
            self.notes.add(Code::XattrDropped, path, None);
        }
        if kept.keys().any(|name| name.is_empty() || name.contains(&0)) {
            return Err(Fault::XattrName);
        }
        if kept.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_XATTRS {
            return Err(Fault::Xattrs);
        }
        let list = kept.into_iter().map(|(name, value)| {
            let value = if name == CAPABILITY { normal_capability(&value) } else { value };
            (name.into_boxed_slice(), value.into_boxed_slice())
        });
        // A map has no name twice.
        Ok(if specified { Xattrs::new(list.collect()) } else { None })
    }
}

fn kind_type(kind: &Kind) -> FileType {
    match kind {
        Kind::File { .. } => FileType::File,
        Kind::Directory => FileType::Directory,
        Kind::Symlink { .. } => FileType::Symlink,
        Kind::Char(_) => FileType::Char,
        Kind::Block(_) => FileType::Block,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
    }
}

/// Hashes the content, and keeps it where it is wanted.
fn hash_body<R: BufRead>(
    entries: &mut Entries<R>,
    sha256: bool,
    mut kept: Option<&mut Vec<u8>>,
) -> Result<(Digest, Option<Digest>), Problem> {
    let mut blake3 = blake3::Hasher::new();
    let mut sha256 = sha256.then(sha2::Sha256::new);
    let mut body = entries.body();
    loop {
        let chunk = body.fill_buf().map_err(Problem::of_stream)?;
        if chunk.is_empty() {
            break;
        }
        blake3.update(chunk);
        if let Some(sha256) = &mut sha256 {
            sha256.update(chunk);
        }
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(chunk);
        }
        let length = chunk.len();
        body.consume(length);
    }
    Ok((blake3.finalize().into(), sha256.map(|hash| Digest::from_bytes(hash.finalize().into()))))
}
