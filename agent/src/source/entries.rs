//! Owns reading a tar stream: entries with their attributes, bodies as a reader. Nothing is stored and order is not
//! trusted. Must not own layers, whiteouts or what an entry means in a tree.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use driftlock_common::node::Device;
use driftlock_common::path::{Escaped, from_base64};
use tar_core::parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, SparseEntry};

use super::block::{BLOCK, Chain, check_chain, check_global};
use super::problem::{Fault, Problem};
use super::sparse::{self, MAX_PIECES, Piece, Pieces};

/// The most bytes that the headers of one entry can need: the parser's limit for metadata and its header blocks.
const MAX_HEADERS: usize = 1024 * 1024 + 64 * BLOCK;

/// What the holes of sparse files hold.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A tar stream.
pub(super) struct Entries<R> {
    input: R,
    parser: Parser,
    /// Headers: the content is handed on from where the input has it.
    buffer: Vec<u8>,
    /// The bytes of `buffer` that are not used yet.
    start: usize,
    end: usize,
    /// Offset of `start` in the stream.
    offset: u64,
    /// What is left of the current entry's content, and the padding behind it.
    body: Pieces,
    padding: u64,
    /// Global extended headers seen.
    pub(super) globals: u64,
    readers: Readers,
    /// Whether the stream ended before its two zero blocks, as [`Readers::Engines`] allows.
    pub(super) unterminated: bool,
}

/// Who reads an archive besides us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Any tool: a release, an image archive. It ends in two zero blocks, as nothing else tells that it is whole, and a
    /// hard link has no size: to some tools content would follow, to others the next entry.
    Any,
    /// Container engines, all with Go's `archive/tar`: a layer, which a digest proves whole. It may end behind any
    /// whole entry, as some tools leave the zero blocks out, even the last padding. A hard link has no content,
    /// whatever its size says: some tools write that of the file.
    Engines,
}

/// An entry as the archive has it, extension headers applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, fractions dropped.
    pub(super) mtime: i64,
    /// Of the content, holes included.
    pub(super) size: u64,
    /// Of a sparse file: how much of the content is zeros that are not stored.
    pub(super) holes: Option<u64>,
    /// `SCHILY.xattr.*`, what container engines unpack.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `LIBARCHIVE.xattr.*` without their encoding.
    pub(super) libarchive_xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The types of entries. Targets are as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Char(Device),
    Block(Device),
    Fifo,
}

/// The content of the current entry.
pub(super) struct Body<'a, R>(&'a mut Entries<R>);

// === impl Entries ===

impl<R: BufRead> Entries<R> {
    pub(super) fn new(input: R, readers: Readers) -> Self {
        let limits = Limits { max_sparse_entries: MAX_PIECES, ..Limits::default() };
        Self {
            input,
            parser: Parser::new(limits),
            buffer: vec![0; 2 * BLOCK],
            start: 0,
            end: 0,
            offset: 0,
            body: Pieces::new(),
            padding: 0,
            globals: 0,
            readers,
            unterminated: false,
        }
    }

    /// The next entry; `None` at the end of the archive. What was left of the last entry's content is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Problem> {
        if !self.pass_body()? {
            return self.open_end();
        }
        let mut global = None;
        loop {
            if !self.require(BLOCK)? {
                return if self.start == self.end { self.open_end() } else { Err(self.truncated()) };
            }
            if self.buffer[self.start..self.start + BLOCK].iter().all(|b| *b == 0) {
                return match global.filter(|_| self.readers == Readers::Any) {
                    Some(at) => Err(Problem::TarHeader { at, fault: Fault::GlobalLast }),
                    None => self.end_of_archive(),
                };
            }
            let at = self.offset;
            match self.parse()? {
                Step::Entry(entry) => return Ok(Some(*entry)),
                Step::Again => global = Some(at),
                Step::More(bytes) => {
                    if !self.require(bytes)? {
                        return Err(self.truncated());
                    }
                }
            }
        }
    }

    /// The content of the entry that [`Self::next`] gave.
    pub(super) fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    /// Reads to the end of the stream; whether anything but zeros stood behind the end of the archive.
    pub(super) fn finish(mut self) -> Result<bool, Problem> {
        let mut trailing = self.buffer[self.start..self.end].iter().any(|b| *b != 0);
        loop {
            let chunk = some(&mut self.input)?;
            if chunk.is_empty() {
                return Ok(trailing);
            }
            trailing |= chunk.iter().any(|b| *b != 0);
            let length = chunk.len();
            self.input.consume(length);
        }
    }

    fn parse(&mut self) -> Result<Step, Problem> {
        let at = self.offset;
        let in_header = |fault| Problem::TarHeader { at, fault };
        let available = &self.buffer[self.start..self.end];
        let (consumed, parsed, map) = match self.parser.parse(available) {
            Ok(ParseEvent::NeedData { min_bytes }) => {
                // Only a sparse map without an end asks for what is already there.
                if min_bytes <= available.len() || min_bytes > MAX_HEADERS {
                    return Err(in_header(Fault::Header("its metadata has no end".into())));
                }
                return Ok(Step::More(min_bytes));
            }
            Ok(ParseEvent::Entry { consumed, entry }) => (consumed, entry, None),
            Ok(ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size }) => {
                (consumed, entry, Some(Sparse { map: sparse_map, real_size }))
            }
            Ok(ParseEvent::GlobalExtensions { consumed, pax_data }) => {
                check_global(available, pax_data, self.readers).map_err(in_header)?;
                self.globals += 1;
                self.start += consumed;
                self.offset += consumed as u64;
                return Ok(Step::Again);
            }
            // Zero blocks are looked at before the parser is asked.
            Ok(ParseEvent::End { .. }) => return Err(in_header(Fault::LoneZeroBlock)),
            Err(error) => return Err(in_header(fault_of(&error))),
        };
        let chain = check_chain(&available[..consumed], self.readers).map_err(in_header)?;
        let link = parsed.entry_type == EntryType::Link;
        // What is in the archive; our parser takes the map of PAX 1.0 off.
        let stored = if link && self.readers == Readers::Engines { 0 } else { parsed.size };
        let padded = stored.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| in_header(Fault::Number("size")))?;
        let (entry, body) = own(&parsed, stored, &chain, map)
            .map_err(|fault| Problem::Entry { path: parsed.path.clone().into_owned(), fault })?;
        self.start += consumed;
        self.offset += consumed as u64;
        self.body = body;
        self.padding = padded - stored;
        Ok(Step::Entry(Box::new(entry)))
    }

    fn end_of_archive(&mut self) -> Result<Option<Entry>, Problem> {
        if !self.require(2 * BLOCK)? {
            let one = self.end - self.start == BLOCK;
            return if one { self.open_end() } else { Err(self.truncated()) };
        }
        if self.buffer[self.start..self.start + 2 * BLOCK].iter().any(|b| *b != 0) {
            return Err(Problem::TarHeader { at: self.offset, fault: Fault::LoneZeroBlock });
        }
        self.start += 2 * BLOCK;
        Ok(None)
    }

    /// The end of the stream where there could be more; the caller knows that no entry is cut.
    fn open_end(&mut self) -> Result<Option<Entry>, Problem> {
        if self.readers == Readers::Any {
            return Err(self.truncated());
        }
        self.unterminated = true;
        self.start = self.end;
        Ok(None)
    }

    /// Passes over what is left of the content and over the padding; false if the stream ends in the padding.
    fn pass_body(&mut self) -> Result<bool, Problem> {
        while let Some(piece) = self.body.front() {
            match piece {
                Piece::Hole(_) => {
                    self.body.pop_front();
                }
                Piece::Data(_) => {
                    let length = self.body_chunk()?.len();
                    self.take(length);
                }
            }
        }
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(BLOCK);
        let whole = self.require(padding)?;
        let passed = padding.min(self.end - self.start);
        self.start += passed;
        self.offset += passed as u64;
        Ok(whole)
    }

    /// Some of the content that is left; empty only at its end.
    fn body_chunk(&mut self) -> Result<&[u8], Problem> {
        let within = |left: u64, most: usize| usize::try_from(left).map_or(most, |left| left.min(most));
        match self.body.front().copied() {
            None => Ok(&[]),
            Some(Piece::Hole(left)) => Ok(&ZEROS[..within(left, ZEROS.len())]),
            Some(Piece::Data(left)) => {
                let at = self.offset;
                let chunk =
                    if self.start < self.end { &self.buffer[self.start..self.end] } else { some(&mut self.input)? };
                if chunk.is_empty() {
                    return Err(Problem::TarTruncated(at));
                }
                Ok(&chunk[..within(left, chunk.len())])
            }
        }
    }

    fn take(&mut self, length: usize) {
        let left = match self.body.front_mut() {
            None => return,
            Some(Piece::Hole(left)) => left,
            Some(Piece::Data(left)) => {
                if self.start < self.end {
                    self.start += length;
                } else {
                    self.input.consume(length);
                }
                self.offset += length as u64;
                left
            }
        };
        *left -= length as u64;
        if *left == 0 {
            self.body.pop_front();
        }
    }

    /// Reads until `bytes` are there; false if the stream ends before.
    fn require(&mut self, bytes: usize) -> Result<bool, Problem> {
        if self.end - self.start >= bytes {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < bytes {
            // A long map is asked for block by block.
            self.buffer.resize(bytes.next_power_of_two(), 0);
        }
        while self.end < bytes {
            match self.input.read(&mut self.buffer[self.end..bytes]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::of_stream(error)),
            }
        }
        Ok(true)
    }

    fn truncated(&self) -> Problem {
        Problem::TarTruncated(self.offset + (self.end - self.start) as u64)
    }
}

/// What the input has at hand; nothing at its end.
fn some(input: &mut impl BufRead) -> Result<&[u8], Problem> {
    loop {
        match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Problem::of_stream(error)),
            // Asked again, because what an arm of a loop hands on would be held for all of them.
            Ok(_) => return input.fill_buf().map_err(Problem::of_stream),
        }
    }
}

/// What the parser found out about a sparse file.
struct Sparse {
    map: Vec<SparseEntry>,
    real_size: u64,
}

enum Step {
    Entry(Box<Entry>),
    Again,
    More(usize),
}

// === impl Body ===

impl<R: BufRead> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Body<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.body_chunk().map_err(Problem::into_io)
    }

    fn consume(&mut self, length: usize) {
        self.0.take(length);
    }
}

// === impl Entry ===

fn own(
    entry: &ParsedEntry<'_>,
    stored: u64,
    chain: &Chain<'_>,
    sparse: Option<Sparse>,
) -> Result<(Entry, Pieces), Fault> {
    let (xattrs, libarchive_xattrs) = xattrs(&chain.records)?;
    let kind = kind(entry)?;
    if kind != EntryKind::File && stored != 0 {
        return Err(Fault::Content);
    }
    // Some tools take an old header of this type for a sparse file, our parser does not.
    let is_sparse = chain.own.get(156) == Some(&b'S') || sparse::is_in(&chain.records);
    let (size, body) = match sparse {
        None if is_sparse => return Err(Fault::SparseMap),
        None => (stored, (stored > 0).then_some(Piece::Data(stored)).into_iter().collect()),
        Some(Sparse { map, real_size }) => {
            sparse::check(entry.entry_type, chain.own, &chain.records)?;
            (real_size, sparse::pieces(&map, real_size, stored)?)
        }
    };
    let holes = is_sparse.then(|| size - stored);
    let owner = |name, value: u64| u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(Fault::Owner(name));
    let entry = Entry {
        path: entry.path.to_vec(),
        kind,
        mode: u16::try_from(entry.mode & 0o7777).unwrap_or_default(),
        uid: owner("uid", entry.uid)?,
        gid: owner("gid", entry.gid)?,
        mtime: i64::try_from(entry.mtime).map_err(|_| Fault::Number("mtime"))?,
        size,
        holes,
        xattrs,
        libarchive_xattrs,
    };
    Ok((entry, body))
}

fn kind(entry: &ParsedEntry<'_>) -> Result<EntryKind, Fault> {
    let target = || entry.link_target.as_ref().map(|t| t.to_vec()).ok_or(Fault::NoTarget);
    let device = || match (entry.dev_major, entry.dev_minor) {
        (Some(major), Some(minor)) => Ok(Device { major, minor }),
        _ => Err(Fault::NoDevice),
    };
    let slash = entry.path.ends_with(b"/");
    let header = entry.header.as_bytes();
    // Before there was a type for directories, a slash made one: to some tools that of the header's own name, to
    // others that of the name in the end.
    if entry.entry_type == EntryType::Regular && header[156] == 0 {
        let name = header[..100].split(|b| *b == 0).next().unwrap_or_default();
        return match (name.ends_with(b"/"), slash) {
            (true, true) => Ok(EntryKind::Directory),
            (false, false) => Ok(EntryKind::File),
            _ => Err(Fault::FileWithSlash),
        };
    }
    if slash && entry.entry_type != EntryType::Directory {
        return Err(Fault::FileWithSlash);
    }
    Ok(match (entry.entry_type, header[156]) {
        (EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse, _) => EntryKind::File,
        (EntryType::Directory, _) => EntryKind::Directory,
        (EntryType::Symlink, _) => EntryKind::Symlink(target()?),
        (EntryType::Link, _) => EntryKind::Hardlink(target()?),
        (EntryType::Char, _) => EntryKind::Char(device()?),
        (EntryType::Block, _) => EntryKind::Block(device()?),
        (EntryType::Fifo, _) => EntryKind::Fifo,
        (
            EntryType::GnuLongName
            | EntryType::GnuLongLink
            | EntryType::XHeader
            | EntryType::XGlobalHeader
            | EntryType::Other(_),
            byte,
        ) => return Err(Fault::Type(byte)),
    })
}

type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

fn xattrs(records: &[(&[u8], &[u8])]) -> Result<(Attributes, Attributes), Fault> {
    let (mut schily, mut libarchive) = (Attributes::new(), Attributes::new());
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            schily.insert(name.to_vec(), value.to_vec());
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            libarchive.insert(percent_decoded(name)?, unpadded_base64(value).ok_or(Fault::Extended)?);
        }
    }
    Ok((schily, libarchive))
}

/// libarchive writes base64 without padding (archive_write_set_format_pax.c).
fn unpadded_base64(value: &[u8]) -> Option<Vec<u8>> {
    let mut text = std::str::from_utf8(value).ok()?.trim_end_matches('=').to_owned();
    while text.len() % 4 != 0 {
        text.push('=');
    }
    from_base64(&text)
}

fn percent_decoded(name: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(Fault::Extended)?;
        let mut decoded = [0];
        hex::decode_to_slice(digits, &mut decoded).map_err(|_| Fault::Extended)?;
        out.push(decoded[0]);
        rest = after;
    }
    Ok(out)
}

fn fault_of(error: &ParseError) -> Fault {
    match error {
        ParseError::InvalidPaxValue { key: "mtime", value } if value.starts_with('-') => Fault::NegativeTime,
        ParseError::SparseNotGnu | ParseError::TooManySparseEntries { .. } | ParseError::InvalidPaxSparseMap(_) => {
            Fault::SparseMap
        }
        // The text may quote the archive.
        other => Fault::Header(Escaped(other.to_string().as_bytes()).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::kit::{Raw, Tar, pax, raw};
    use super::*;

    /// A line for each entry, bodies included.
    fn read_as(bytes: &[u8], readers: Readers) -> Result<Vec<String>, Problem> {
        let mut entries = Entries::new(bytes, readers);
        let mut lines = Vec::new();
        while let Some(entry) = entries.next()? {
            let mut line =
                format!("{} {:o} {}:{} {}", Escaped(&entry.path), entry.mode, entry.uid, entry.gid, entry.mtime);
            match &entry.kind {
                EntryKind::File => {
                    let mut body = Vec::new();
                    entries.body().read_to_end(&mut body).map_err(Problem::of_stream)?;
                    write!(line, " {}", Escaped(&body)).unwrap();
                }
                EntryKind::Symlink(to) | EntryKind::Hardlink(to) => write!(line, " -> {}", Escaped(to)).unwrap(),
                EntryKind::Char(d) | EntryKind::Block(d) => write!(line, " {},{}", d.major, d.minor).unwrap(),
                EntryKind::Directory | EntryKind::Fifo => {}
            }
            for (name, value) in entry.xattrs.iter().chain(&entry.libarchive_xattrs) {
                write!(line, " {}={}", Escaped(name), Escaped(value)).unwrap();
            }
            lines.push(line);
        }
        entries.finish()?;
        Ok(lines)
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, Problem> {
        read_as(bytes, Readers::Any)
    }

    fn tar() -> Tar {
        Tar::default()
    }

    fn gnu(entry: Raw) -> Raw {
        entry.patch(257, b"ustar  \0")
    }

    fn long(flag: u8, name: &str) -> Raw {
        let mut entry = gnu(raw(flag, "././@LongLink"));
        entry.body = [name.as_bytes(), b"\0"].concat();
        entry
    }

    #[test]
    fn every_form_of_name_number_and_attribute() {
        let name = "n".repeat(300);
        let device = |flag| {
            let mut entry = raw(flag, "dev");
            entry.device = (8, 300);
            entry
        };
        for (what, archive, line) in [
            ("plain", tar().file("x", "body"), "x 644 0:0 1600000000 body".to_owned()),
            ("directory", tar().dir("d/"), "d/ 755 0:0 1600000000".into()),
            ("old directory", tar().add(raw(0, "d/").mode(0o755)), "d/ 755 0:0 1600000000".into()),
            ("symlink", tar().symlink("l", "../t"), "l 644 0:0 1600000000 -> ../t".into()),
            ("device", tar().add(device(b'3')), "dev 644 0:0 1600000000 8,300".into()),
            ("fifo", tar().add(raw(b'6', "p")), "p 644 0:0 1600000000".into()),
            ("type bits in the mode", tar().add(raw(b'0', "x").mode(0o104_755)), "x 4755 0:0 1600000000 ".into()),
            ("ustar prefix", tar().add(raw(b'0', "x").patch(345, b"a/b")), "a/b/x 644 0:0 1600000000 ".into()),
            ("PAX path", tar().pax(&[(b"path", name.as_bytes())]).file("x", ""), format!("{name} 644 0:0 1600000000 ")),
            (
                "GNU long name",
                tar().add(long(b'L', &name)).add(gnu(raw(b'0', "x"))),
                format!("{name} 644 0:0 1600000000 "),
            ),
            (
                "GNU long link",
                tar().add(long(b'K', &name)).add(gnu(raw(b'2', "l"))),
                format!("l 644 0:0 1600000000 -> {name}"),
            ),
            (
                "base-256 owner",
                tar().add(raw(b'0', "x").patch(108, b"\x80\0\0\0\x7f\xff\xff\xff")),
                "x 644 2147483647:0 1600000000 ".into(),
            ),
            ("PAX owner", tar().pax(&[(b"uid", b"4294967294")]).file("x", ""), "x 644 4294967294:0 1600000000 ".into()),
            ("a fraction of a second", tar().pax(&[(b"mtime", b"12.9")]).file("x", ""), "x 644 0:0 12 ".into()),
            (
                "an attribute that holds everything",
                tar().pax(&[(b"SCHILY.xattr.user.x", b"1\n20 path=etc/shadow\n\0=")]).file("x", ""),
                "x 644 0:0 1600000000  user.x=1\\x0a20 path=etc/shadow\\x0a\\x00=".into(),
            ),
            (
                "an attribute as libarchive writes it",
                tar().pax(&[(b"LIBARCHIVE.xattr.user.%41", b"YQ")]).file("x", ""),
                "x 644 0:0 1600000000  user.A=a".into(),
            ),
            (
                "of one key the last counts",
                tar().pax(&[(b"path", b"a"), (b"path", b"b")]).file("x", ""),
                "b 644 0:0 1600000000 ".into(),
            ),
        ] {
            assert_eq!(read(&archive.end()).unwrap(), [line], "{what}");
        }
    }

    #[test]
    fn to_engines_a_long_name_may_stand_beside_an_extended_header() {
        let name = "n".repeat(300);
        let header = gnu(raw(b'0', "x")).patch(345, b"14371435013\0");
        let archive = tar().add(long(b'L', &name)).pax(&[(b"SCHILY.xattr.user.x", b"1")]).add(header).end();
        assert_eq!(read_as(&archive, Readers::Engines).unwrap(), [format!("{name} 644 0:0 1600000000  user.x=1")]);
        assert!(read(&archive).is_err());
    }

    #[test]
    fn to_engines_a_hard_link_has_no_body_whatever_its_size_says() {
        let mut link = raw(b'1', "y");
        link.link = b"x".into();
        link.size = Some(5);
        let sized = tar().file("x", "a").add(link).file("z", "b").end();
        let record = tar().file("x", "a").pax(&[(b"size", b"700")]).hardlink("y", "x").file("z", "b").end();
        for archive in [sized, record] {
            let lines = read_as(&archive, Readers::Engines).unwrap();
            assert_eq!(lines, ["x 644 0:0 1600000000 a", "y 644 0:0 1600000000 -> x", "z 644 0:0 1600000000 b"]);
            let problem = read(&archive).unwrap_err().to_string();
            assert_eq!(problem, "entry y: it has content, but only files can");
        }
    }

    #[test]
    fn what_tools_read_differently_or_nobody_can_unpack_is_refused() {
        let global = |records: &[(&[u8], &[u8])]| {
            let mut entry = raw(b'g', "g");
            entry.body = pax(records);
            tar().add(entry).file("x", "")
        };
        let sized = |flag, size| {
            let mut entry = raw(flag, "x");
            entry.link = b"t".into();
            entry.size = Some(size);
            tar().add(entry)
        };
        let zero_block = Tar(vec![0; 512]);
        let header = "tar header at byte 0: ";
        for (archive, text) in [
            (
                tar().add(raw(b'0', "x").patch(100, b"\x004755\0\0\0")),
                format!("{header}the field mode is not a number that every tool reads the same"),
            ),
            (
                tar().add(raw(b'0', "x").patch(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\0")),
                format!("{header}the field size is not a number that every tool reads the same"),
            ),
            (
                tar().add(raw(b'0', "x").patch(257, b"ustar\x0099")),
                format!("{header}neither a ustar, a GNU nor an old tar header"),
            ),
            (
                tar().add(gnu(raw(b'0', "x")).patch(345, b"13707177530\0")),
                format!("{header}bytes where some tools see the beginning of the name"),
            ),
            (
                tar().add(long(b'L', "a")).pax(&[(b"path", b"b")]).file("x", ""),
                format!(
                    "{header}it has a GNU long name or target and an extended header, of which tools make different \
                     entries"
                ),
            ),
            (
                tar().pax(&[(b"mtime", b"-1")]).file("x", ""),
                format!("{header}the modification time is before 1970, which is not supported"),
            ),
            (
                tar().add(raw(b'0', "x").patch(136, &[0xff; 12])),
                format!("{header}the modification time is before 1970, which is not supported"),
            ),
            (tar().pax(&[(b"uid", b"4294967295")]).file("x", ""), "entry x: uid is more than 4294967294".into()),
            (
                tar().add(raw(b'0', "x").patch(257, &[0; 8]).patch(345, b"etc")),
                format!("{header}bytes where some tools see the beginning of the name"),
            ),
            (
                tar().add(raw(b'0', "x").patch(124, b"0000000001\x001")),
                format!("{header}the field size is not a number that every tool reads the same"),
            ),
            (
                tar().pax(&[(b"size", b"3")]).add(long(b'L', "y")).file("x", "abc"),
                format!(
                    "{header}it has a GNU long name or target and an extended header, of which tools make different \
                     entries"
                ),
            ),
            (
                Tar([tar().pax(&[(b"path", b"y")]).0, global(&[(b"comment", b"c")]).0].concat()),
                format!("{header}a global extended header stands between an entry and its own extended headers"),
            ),
            (
                tar().pax(&[(b"pa\0th", b"y")]).file("x", ""),
                format!("{header}an extended header has a NUL byte in a key or a name"),
            ),
            (
                tar().pax(&[(b"path", b"y\0z")]).file("x", ""),
                format!("{header}an extended header has a NUL byte in a key or a name"),
            ),
            (
                tar().pax(&[(b"SCHILY.devmajor", b"1")]).add(raw(b'3', "x")),
                format!("{header}an extended header sets \"SCHILY.devmajor\", which only some tools apply"),
            ),
            (tar().pax(&[(b"size", b"+3")]).file("x", "abc"), format!("{header}an extended header is malformed")),
            (tar().pax(&[(b"atime", b"12.x")]).file("x", "abc"), format!("{header}an extended header is malformed")),
            (tar().pax(&[(b"path", b"d/")]).add(raw(0, "x")), "entry d/: a file whose name ends in a slash".into()),
            (tar().pax(&[(b"path", b"x")]).add(raw(0, "d/")), "entry x: a file whose name ends in a slash".into()),
            (sized(b'1', 5), "entry x: it has content, but only files can".into()),
            (
                tar().pax(&[(b"GNU.sparse.name", b"y")]).file("x", ""),
                "entry y: the map of a sparse file is malformed; write the archive without --sparse".into(),
            ),
            (
                tar().add(raw(b'S', "x").patch(257, &[0; 255])),
                "entry x: the map of a sparse file is malformed; write the archive without --sparse".into(),
            ),
            (
                Tar([&tar().add(long(b'L', "a")).0[..512], b"abc", &[0; 509]].concat()).add(gnu(raw(b'0', "x"))),
                format!("{header}an extended header is malformed"),
            ),
            (tar().add(raw(b'0', "x/")), "entry x/: a file whose name ends in a slash".into()),
            (tar().add(raw(b'V', "x")), "entry x: the entry type 0x56 is not known".into()),
            (tar().add(raw(b'x', "x").patch(257, &[0; 255])), "entry x: the entry type 0x78 is not known".into()),
            (tar().add(raw(b'2', "x")), "entry x: a link without a target".into()),
            (tar().add(raw(b'3', "x").patch(257, &[0; 255])), "entry x: a device without device numbers".into()),
            (sized(b'5', 512), "entry x: it has content, but only files can".into()),
            (sized(b'2', 1), "entry x: it has content, but only files can".into()),
            (
                Tar([tar().file("x", "").0, vec![b' '; 512]].concat()),
                "tar header at byte 512: header error: checksum mismatch: expected 0, computed 16384".into(),
            ),
            (
                global(&[(b"path", b"y")]),
                format!("{header}a global extended header sets \"path\", which only some tools apply"),
            ),
            (
                Tar([zero_block.0.clone(), tar().file("x", "").0].concat()),
                format!("{header}a single zero block in the middle of the archive"),
            ),
        ] {
            assert_eq!(read(&archive.end()).unwrap_err().to_string(), text);
        }
        assert!(read(&global(&[(b"comment", b"a commit")]).end()).is_ok());
        let mut last = raw(b'g', "g");
        last.body = pax(&[(b"comment", b"a commit")]);
        let last = tar().add(last).end();
        let text = format!("{header}a global extended header with no entry behind it, which some tools refuse");
        assert_eq!(read(&last).unwrap_err().to_string(), text);
        assert_eq!(read_as(&last, Readers::Engines).unwrap(), [""; 0]);
    }

    #[test]
    fn a_truncated_archive_is_told_at_every_length() {
        let whole = tar().file("x", "a".repeat(700)).pax(&[(b"path", b"y")]).file("z", "b").end();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            assert!(matches!(error, Problem::TarTruncated(at) if at == length as u64), "{length}: {error}");
        }
        assert_eq!(read(&whole).unwrap().len(), 2);
    }

    #[test]
    fn where_a_digest_proves_the_stream_it_may_end_behind_any_whole_entry() {
        let first = tar().file("x", "a".repeat(700)).end().len() - 2 * BLOCK;
        let whole = tar().file("x", "a".repeat(700)).file("z", "b").end();
        let content = |end: usize, size: usize| end.next_multiple_of(BLOCK) - BLOCK * size.div_ceil(BLOCK) + size;
        let second = whole.len() - 2 * BLOCK;
        for length in 0..=whole.len() {
            let mut entries = Entries::new(&whole[..length], Readers::Engines);
            let read = std::iter::from_fn(|| entries.next().transpose()).collect::<Result<Vec<_>, _>>();
            let expected = match length {
                0 => Some(0),
                _ if (content(first, 700)..=first).contains(&length) => Some(1),
                _ if (content(second, 1)..=second).contains(&length) || length == second + BLOCK => Some(2),
                _ if length == whole.len() => Some(2),
                _ => None,
            };
            assert_eq!(read.ok().map(|entries| entries.len()), expected, "{length}");
            assert_eq!(entries.unterminated, expected.is_some() && length < whole.len(), "{length}");
        }
    }
}
