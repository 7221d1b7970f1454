//! Owns the second opinion: a slow and obvious comparison of two looks at a tree, by `walkdir` and the standard
//! library. Must not call the product's code, and knows only the profile `portable`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use walkdir::WalkDir;

use crate::drift::Drift;

/// The one attribute that `portable` compares.
pub const CAPABILITY: &str = "security.capability";

/// Every path of a tree with what `portable` compares; the root under the empty path.
pub type Look = BTreeMap<Vec<u8>, Node>;

/// What `portable` compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// With the content's hash: the whole content would do as well, but takes more memory.
    File([u8; 32], Option<Vec<u8>>),
    Directory,
    Symlink(Vec<u8>),
    Char(u64),
    Block(u64),
    Fifo,
    Socket,
}

/// Looks at everything below `root`.
///
/// # Errors
/// If anything cannot be read.
pub fn look(root: &Path) -> Result<Look> {
    let mut look = Look::new();
    for entry in WalkDir::new(root) {
        let entry = entry?;
        let path = entry.path();
        let meta = path.symlink_metadata()?;
        let file_type = meta.file_type();
        let kind = if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_file() {
            Kind::File(*blake3::hash(&fs::read(path)?).as_bytes(), capability(path)?)
        } else if file_type.is_symlink() {
            Kind::Symlink(fs::read_link(path)?.into_os_string().into_vec())
        } else if file_type.is_char_device() {
            Kind::Char(meta.rdev())
        } else if file_type.is_block_device() {
            Kind::Block(meta.rdev())
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else {
            Kind::Socket
        };
        let node = Node { kind, mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid() };
        look.insert(path.strip_prefix(root)?.as_os_str().as_bytes().to_owned(), node);
    }
    Ok(look)
}

/// What became different from `sealed` to `now`.
pub fn diff(sealed: &Look, now: &Look) -> BTreeSet<Drift> {
    let removed = sealed.keys().filter(|path| !now.contains_key(*path)).map(Drift::removed);
    let added = now.keys().filter(|path| !sealed.contains_key(*path)).map(Drift::added);
    let changed = sealed.iter().filter_map(|(path, was)| {
        let attributes = attributes(was, now.get(path)?);
        (!attributes.is_empty()).then(|| Drift::changed(path, &attributes))
    });
    removed.chain(added).chain(changed).collect()
}

fn attributes(was: &Node, is: &Node) -> Vec<&'static str> {
    let mut attributes = Vec::new();
    match (&was.kind, &is.kind) {
        (Kind::File(content, capability), Kind::File(content_now, capability_now)) => {
            attributes.extend((content != content_now).then_some("content"));
            attributes.extend((capability != capability_now).then_some("xattrs"));
        }
        (Kind::Symlink(target), Kind::Symlink(target_now)) => {
            attributes.extend((target != target_now).then_some("target"));
        }
        (Kind::Char(device), Kind::Char(device_now)) | (Kind::Block(device), Kind::Block(device_now)) => {
            attributes.extend((device != device_now).then_some("device"));
        }
        (Kind::Directory, Kind::Directory) | (Kind::Fifo, Kind::Fifo) | (Kind::Socket, Kind::Socket) => {}
        _ => return vec!["type"],
    }
    // A symlink's mode means nothing.
    let symlink = matches!(was.kind, Kind::Symlink(_));
    attributes.extend((was.mode != is.mode && !symlink).then_some("mode"));
    attributes.extend((was.uid != is.uid).then_some("uid"));
    attributes.extend((was.gid != is.gid).then_some("gid"));
    attributes
}

/// The file capability of `path`, as the kernel stores it.
///
/// # Errors
/// If it cannot be read.
pub fn capability(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match rustix::fs::lgetxattr(path, CAPABILITY, &mut value) {
        Ok(len) => Ok(Some(value[..len].to_vec())),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
