//! Owns what the keys of an entry line mean under the header's terms, and which of them may not stand. Must not own JSON.

use super::line::{RawEntry, RawXattr};
use super::{Header, Problem};
use crate::digest::{Algorithm, Digest};
use crate::json::Text;
use crate::node::{Device, FileType, Kind, Node, Presence, Xattrs};
use crate::path::{self, MAX_PATH, TreePath};
use crate::profile::{CAPABILITY, normal_capability};
use crate::tree::Origin;

impl RawEntry<'_> {
    /// What the keys mean under the header's terms.
    pub(super) fn mean(self, header: &Header) -> Result<(TreePath, Node, Origin), Problem> {
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
        if foreign.is_some() {
            return Err(Problem::Value("b3 does not stand where the content algorithm is sha256"));
        }
        let is_file = file_type == FileType::File;
        let is_link = file_type == FileType::Symlink;
        for (present, allowed, key) in [
            (target.is_some(), is_link, "to"),
            (sha256.is_some(), is_file, "s2"),
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
        let origin =
            Origin { sha256: sha256.map(|t| digest(&t)).transpose()?, layer: self.layer, meta_layer: self.meta_layer };
        Ok((path, node, origin))
    }
}

fn check_presence(path: &TreePath, node: &Node, header: &Header) -> Result<(), Problem> {
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
        Some(target) if target.len() > MAX_PATH => Err(Problem::Value("a target is longer than 65536 bytes")),
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
        if name == CAPABILITY && normal_capability(&value) != value {
            return Err(Problem::Value("a file capability of revision 3 with rootid 0 is written as revision 2"));
        }
        attributes.push((name.into_boxed_slice(), value.into_boxed_slice()));
    }
    if !attributes.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Problem::Value(RULE));
    }
    Xattrs::new(attributes).ok_or(Problem::Value(RULE))
}
