//! Owns the keywords of mtree(5): which there are in NetBSD's, FreeBSD's, libarchive's and Go's, what their values are,
//! and the node that they describe. Must not own paths.

use driftlock_common::digest::Digest;
use driftlock_common::node::{Device, FileType, Kind, Node, Presence, Xattr, Xattrs};
use driftlock_common::path::{MAX_PATH, from_base64};
use driftlock_common::profile::{CAPABILITY, Profile, normal_capability};

use super::LineFault;
use super::line::unescape;
use crate::source::notes::Code;

/// What is known of them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keyword {
    Type,
    Mode,
    Uid,
    Gid,
    Size,
    Sha256,
    Link,
    Device,
    Time,
    Uname,
    Gname,
    Flags,
    Optional,
    Ignore,
    NoChange,
    /// An extended attribute, by its name.
    Xattr(Vec<u8>),
    /// Holds on the machine alone, or is weaker than SHA-256 beside it, or only says where content may be found.
    Unheld,
}

/// What `/set` and an entry state.
#[derive(Clone, Debug, Default)]
pub(super) struct Keywords {
    kind: Option<FileType>,
    mode: Option<u16>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    sha256: Option<Digest>,
    link: Option<Box<[u8]>>,
    device: Option<Stated>,
    time: Option<i64>,
    xattrs: Vec<Xattr>,
    uname: bool,
    gname: bool,
    flags: bool,
    /// Need not be there.
    pub(super) optional: bool,
    /// Nothing below it is described.
    pub(super) ignore: bool,
    no_change: bool,
}

/// Device numbers as they are stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stated {
    Linux(Device),
    /// By another system's rules: on this one they would be other numbers.
    Foreign,
}

/// Bytes that `node` takes, for a budget.
pub(super) fn metadata(node: &Node) -> usize {
    let target = if let Kind::Symlink { target } = &node.kind { target.len() } else { 0 };
    let xattrs = node.xattrs.iter().flat_map(Xattrs::iter).map(|(name, value)| name.len() + value.len());
    target + xattrs.sum::<usize>()
}

impl Keyword {
    /// The keyword of this name; every alias that a writer writes is one.
    fn of(name: &[u8]) -> Result<Self, LineFault> {
        let xattr = name.strip_prefix(b"xattr.").or_else(|| name.strip_prefix(b"xattrs."));
        if let Some(name) = xattr {
            return Ok(Self::Xattr(unescape(name, &mut false)?));
        }
        Ok(match name {
            b"type" => Self::Type,
            b"mode" => Self::Mode,
            b"uid" => Self::Uid,
            b"gid" => Self::Gid,
            b"size" => Self::Size,
            b"sha256" | b"sha256digest" => Self::Sha256,
            b"link" => Self::Link,
            b"device" => Self::Device,
            b"time" | b"tar_time" => Self::Time,
            b"uname" => Self::Uname,
            b"gname" => Self::Gname,
            b"flags" => Self::Flags,
            b"optional" => Self::Optional,
            b"ignore" => Self::Ignore,
            b"nochange" => Self::NoChange,
            b"nlink" | b"inode" | b"resdevice" | b"tags" | b"content" | b"contents" | b"cksum" | b"md5"
            | b"md5digest" | b"rmd160" | b"rmd160digest" | b"ripemd160digest" | b"sha1" | b"sha1digest" | b"sha384"
            | b"sha384digest" | b"sha512" | b"sha512digest" | b"sha512256" | b"sha512256digest" => Self::Unheld,
            _ => return Err(LineFault::Unknown(name.to_vec())),
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Size => "size",
            Self::Sha256 => "sha256",
            Self::Link => "link",
            Self::Device => "device",
            Self::Time => "time",
            Self::Uname => "uname",
            Self::Gname => "gname",
            Self::Flags => "flags",
            Self::Optional => "optional",
            Self::Ignore => "ignore",
            Self::NoChange => "nochange",
            Self::Xattr(_) => "xattr",
            Self::Unheld => "a keyword",
        }
    }

    const fn has_value(&self) -> bool {
        !matches!(self, Self::Optional | Self::Ignore | Self::NoChange)
    }
}

// === impl Keywords ===

impl Keywords {
    /// Takes the words of a line over; they replace what was stated before.
    pub(super) fn set_all(&mut self, words: &[&[u8]]) -> Result<(), LineFault> {
        let mut seen = Vec::with_capacity(words.len());
        for word in words {
            let (name, value) = match word.iter().position(|b| *b == b'=') {
                Some(at) => (&word[..at], Some(&word[at + 1..])),
                None => (*word, None),
            };
            let keyword = Keyword::of(name)?;
            match value {
                Some(_) if !keyword.has_value() => return Err(LineFault::NeedlessValue(keyword.name())),
                None if keyword.has_value() => return Err(LineFault::NoValue(keyword.name())),
                _ => {}
            }
            if seen.contains(&keyword) {
                return Err(LineFault::Repeated(keyword.name()));
            }
            self.set(&keyword, value.unwrap_or_default())?;
            if keyword != Keyword::Unheld {
                seen.push(keyword);
            }
        }
        Ok(())
    }

    fn set(&mut self, keyword: &Keyword, value: &[u8]) -> Result<(), LineFault> {
        let refuse = |should| LineFault::Value { keyword: keyword.name(), value: value.to_vec(), should };
        match keyword {
            Keyword::Type => {
                self.kind =
                    Some(file_type(value).ok_or_else(|| refuse("none of file, dir, link, char, block, fifo, socket"))?);
            }
            Keyword::Mode => {
                let should = "only octal is read, up to 07777";
                self.mode =
                    Some(number(value, 8, 0o7777).and_then(|n| n.try_into().ok()).ok_or_else(|| refuse(should))?);
            }
            Keyword::Uid | Keyword::Gid => {
                let id = number(value, 10, u64::from(u32::MAX) - 1).and_then(|n| n.try_into().ok());
                let id = Some(id.ok_or_else(|| refuse("not a decimal number up to 4294967294"))?);
                *(if *keyword == Keyword::Uid { &mut self.uid } else { &mut self.gid }) = id;
            }
            Keyword::Size => {
                self.size = Some(number(value, 10, u64::MAX).ok_or_else(|| refuse("not a decimal number of bytes"))?);
            }
            Keyword::Sha256 => {
                let text = String::from_utf8_lossy(value).to_ascii_lowercase();
                self.sha256 = Some(text.parse().map_err(|_| refuse("not 64 hexadecimal digits"))?);
            }
            Keyword::Link => {
                let target = unescape(value, &mut false)?;
                if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
                    return Err(refuse("a target is not empty, without NUL, and at most 65536 bytes"));
                }
                self.link = Some(target.into_boxed_slice());
            }
            Keyword::Device => {
                let should = "neither a number nor FORMAT,MAJOR,MINOR of a known format";
                self.device = Some(device(value).ok_or_else(|| refuse(should))?);
            }
            Keyword::Time => {
                self.time =
                    Some(seconds(value).ok_or_else(|| refuse("not seconds since 1970, or SECONDS.NANOSECONDS"))?);
            }
            Keyword::Xattr(name) => {
                if name.is_empty() || name.contains(&0) {
                    return Err(refuse("an extended attribute has a name without NUL"));
                }
                let value = std::str::from_utf8(value).ok().and_then(from_base64);
                let value = value.ok_or_else(|| refuse("not base64"))?;
                let value = if name == CAPABILITY { normal_capability(&value) } else { value };
                self.xattrs.retain(|(known, _)| **known != **name);
                self.xattrs.push((name.as_slice().into(), value.into_boxed_slice()));
            }
            Keyword::Uname => self.uname = true,
            Keyword::Gname => self.gname = true,
            Keyword::Flags => self.flags = value != b"none",
            Keyword::Optional => self.optional = true,
            Keyword::Ignore => self.ignore = true,
            Keyword::NoChange => self.no_change = true,
            Keyword::Unheld => {}
        }
        Ok(())
    }

    /// Forgets what `/unset` names.
    pub(super) fn unset_all(&mut self, words: &[&[u8]]) -> Result<(), LineFault> {
        for word in words {
            if *word == b"all" {
                *self = Self::default();
                continue;
            }
            match Keyword::of(word)? {
                Keyword::Type => self.kind = None,
                Keyword::Mode => self.mode = None,
                Keyword::Uid => self.uid = None,
                Keyword::Gid => self.gid = None,
                Keyword::Size => self.size = None,
                Keyword::Sha256 => self.sha256 = None,
                Keyword::Link => self.link = None,
                Keyword::Device => self.device = None,
                Keyword::Time => self.time = None,
                Keyword::Uname => self.uname = false,
                Keyword::Gname => self.gname = false,
                Keyword::Flags => self.flags = false,
                Keyword::Optional => self.optional = false,
                Keyword::Ignore => self.ignore = false,
                Keyword::NoChange => self.no_change = false,
                Keyword::Xattr(name) => self.xattrs.retain(|(known, _)| **known != *name),
                Keyword::Unheld => {}
            }
        }
        Ok(())
    }

    /// Whether they ask that something is not compared.
    pub(super) const fn is_narrowed(&self) -> bool {
        self.optional || self.ignore || self.no_change
    }

    /// What they describe, as far as `profile` holds it, and what of it a manifest does not hold.
    pub(super) fn node(&self, profile: Profile) -> Result<(Node, Vec<Code>), LineFault> {
        let file_type = self.kind.ok_or(LineFault::NoType)?;
        let mut left_out = Vec::new();
        let is_device = matches!(file_type, FileType::Char | FileType::Block);
        let device = match self.device {
            Some(Stated::Linux(device)) if is_device => Some(device),
            _ => None,
        };
        let kind = match file_type {
            FileType::File => Kind::File { size: self.size, content: self.sha256 },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink { target: self.link.clone().ok_or(LineFault::NoTarget)? },
            FileType::Char => Kind::Char(device),
            FileType::Block => Kind::Block(device),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        if self.no_change {
            return Ok((Node::bare(kind).masked(Presence::NONE), left_out));
        }
        let is_file = file_type == FileType::File;
        if is_file && self.sha256.is_none() {
            left_out.push(Code::ContentUnspecified);
        }
        let by_name = (self.uname && self.uid.is_none()) || (self.gname && self.gid.is_none());
        let elsewhere = (self.sha256.is_some() && !is_file)
            || (self.link.is_some() && file_type != FileType::Symlink)
            || (self.device.is_some() && device.is_none());
        if self.flags || by_name || elsewhere {
            left_out.push(Code::AttributeDropped);
        }
        let allowed = profile.allows(file_type);
        let held = |(name, _): &&Xattr| profile.holds_xattr(name);
        let held: Vec<Xattr> = self.xattrs.iter().filter(held).cloned().collect();
        let xattrs_allowed = allowed.contains(Presence::XATTRS);
        if held.len() < self.xattrs.len() || (!xattrs_allowed && !held.is_empty()) {
            left_out.push(Code::XattrDropped);
        }
        // Who writes any of them writes all of them.
        let xattrs = if held.is_empty() { None } else { Xattrs::new(held) };
        // The mode of a link means nothing on Linux; what else the profile does not hold is not asked for.
        let node = Node { kind, mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.time, xattrs };
        Ok((node.masked(allowed), left_out))
    }
}

fn file_type(value: &[u8]) -> Option<FileType> {
    Some(match value {
        b"file" => FileType::File,
        b"dir" => FileType::Directory,
        b"link" => FileType::Symlink,
        b"char" => FileType::Char,
        b"block" => FileType::Block,
        b"fifo" => FileType::Fifo,
        b"socket" => FileType::Socket,
        _ => return None,
    })
}

/// Digits alone, at most `most`.
fn number(text: &[u8], radix: u32, most: u64) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_alphanumeric()))?;
    u64::from_str_radix(text, radix).ok().filter(|number| *number <= most)
}

/// As strtoul(3) with base 0 reads it, which NetBSD's mtree calls.
fn any_base(text: &[u8], most: u64) -> Option<u64> {
    match text {
        [b'0', b'x' | b'X', digits @ ..] => number(digits, 16, most),
        [b'0', digits @ ..] if !digits.is_empty() => number(digits, 8, most),
        digits => number(digits, 10, most),
    }
}

/// Whole seconds, rounded down as timespec is: the nanoseconds count upwards before 1970 too.
fn seconds(text: &[u8]) -> Option<i64> {
    let mut parts = text.splitn(2, |b| *b == b'.');
    let (whole, fraction) = (parts.next()?, parts.next());
    if fraction.is_some_and(|digits| digits.is_empty() || !digits.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    let digits = whole.strip_prefix(b"-").unwrap_or(whole);
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(whole).ok()?.parse().ok()).flatten()
}

/// `native` and `linux` name the numbers as Linux does, and a bare number is a Linux `dev_t`, as NetBSD's mtree writes it
/// on Linux.
fn device(value: &[u8]) -> Option<Stated> {
    const FOREIGN: [&[u8]; 14] = [
        b"386bsd", b"4bsd", b"bsdos", b"freebsd", b"hpux", b"isc", b"netbsd", b"osf1", b"sco", b"solaris", b"sunos",
        b"svr3", b"svr4", b"ultrix",
    ];
    let numbers = |text: &[u8]| any_base(text, u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok());
    let fields: Vec<&[u8]> = value.split(|b| *b == b',').collect();
    match fields.as_slice() {
        [number] => {
            let number = any_base(number, u64::MAX)?;
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            Some(Stated::Linux(Device { major, minor }))
        }
        [b"native" | b"linux", major, minor] => {
            Some(Stated::Linux(Device { major: numbers(major)?, minor: numbers(minor)? }))
        }
        [format, rest @ ..] if FOREIGN.contains(format) && matches!(rest.len(), 2 | 3) => {
            rest.iter().all(|text| numbers(text).is_some()).then_some(Stated::Foreign)
        }
        _ => None,
    }
}
