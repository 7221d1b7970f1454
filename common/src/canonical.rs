//! Owns the canonical bytes of a tree and the digests over them (manifest format version 1, section
//! "Canonical bytes"). Must not own the NDJSON view.

use std::sync::LazyLock;

use crate::digest::{Algorithm, Digest};
use crate::node::{FileType, Kind, Node, Xattrs};
use crate::profile::Profile;
use crate::tree::{EntryId, Tree};

/// Domain separation of directory digests (BLAKE3 `derive_key` context). Changing it is a format break.
pub const DIRECTORY_CONTEXT: &str = "driftlock 2026 manifest v1 directory";
/// Domain separation of xattr-set digests.
pub const XATTRS_CONTEXT: &str = "driftlock 2026 manifest v1 xattrs";
/// Domain separation of tree digests.
pub const TREE_CONTEXT: &str = "driftlock 2026 manifest v1 tree";

/// Appends `value` as unsigned LEB128 in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends the canonical encoding of one entry. `children` is the directory digest and is only read for directories.
pub fn put_entry(out: &mut Vec<u8>, name: &[u8], node: &Node, children: Digest) {
    out.push(node.file_type().byte());
    out.extend_from_slice(&node.presence().bits().to_le_bytes());
    put_bytes(out, name);
    if let Some(mode) = node.mode {
        out.extend_from_slice(&mode.to_le_bytes());
    }
    if let Some(uid) = node.uid {
        put_varint(out, uid.into());
    }
    if let Some(gid) = node.gid {
        put_varint(out, gid.into());
    }
    if let Some(mtime) = node.mtime {
        out.extend_from_slice(&mtime.to_le_bytes());
    }
    match &node.kind {
        Kind::File { size, content } => {
            if let Some(size) = size {
                out.extend_from_slice(&size.to_le_bytes());
            }
            if let Some(content) = content {
                out.extend_from_slice(content.as_bytes());
            }
        }
        Kind::Directory => out.extend_from_slice(children.as_bytes()),
        Kind::Symlink { target } => put_bytes(out, target),
        Kind::Char(device) | Kind::Block(device) => {
            if let Some(device) = device {
                out.extend_from_slice(&device.major.to_le_bytes());
                out.extend_from_slice(&device.minor.to_le_bytes());
            }
        }
        Kind::Fifo | Kind::Socket => {}
    }
    if let Some(xattrs) = &node.xattrs {
        out.extend_from_slice(xattrs_digest(xattrs).as_bytes());
    }
}

/// The digest of the empty set, which is that of nearly every file.
static NO_XATTRS: LazyLock<Digest> = LazyLock::new(|| blake3::Hasher::new_derive_key(XATTRS_CONTEXT).finalize().into());

/// The digest of a set of extended attributes.
pub fn xattrs_digest(xattrs: &Xattrs) -> Digest {
    if xattrs.is_empty() {
        return *NO_XATTRS;
    }
    let mut bytes = Vec::new();
    for (name, value) in xattrs.iter() {
        put_bytes(&mut bytes, name);
        put_bytes(&mut bytes, value);
    }
    blake3::Hasher::new_derive_key(XATTRS_CONTEXT).update(&bytes).finalize().into()
}

/// The digest of the whole tree: equal digests mean equal trees under equal terms.
///
/// `excludes` are the patterns in the header's order (sorted by bytes, unique).
pub fn tree_digest<'a>(
    profile: Profile,
    content: Algorithm,
    excludes: impl ExactSizeIterator<Item = &'a str>,
    tree: &Tree,
) -> Digest {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, 1);
    put_bytes(&mut bytes, profile.name().as_bytes());
    put_bytes(&mut bytes, content.name().as_bytes());
    put_varint(&mut bytes, excludes.len() as u64);
    for pattern in excludes {
        put_bytes(&mut bytes, pattern.as_bytes());
    }
    put_entry(&mut bytes, b"", &tree.node(EntryId::ROOT), directory_digest(tree, EntryId::ROOT));
    blake3::Hasher::new_derive_key(TREE_CONTEXT).update(&bytes).finalize().into()
}

/// The digest over a directory's entries, all the way down.
pub fn directory_digest(tree: &Tree, directory: EntryId) -> Digest {
    // Entries come in preorder, so the directories that are still open form a stack; one is complete when the
    // next entry is not below it. An explicit stack, because a tree may be 2048 deep.
    struct Open {
        id: EntryId,
        hasher: blake3::Hasher,
    }
    let open = |id| Open { id, hasher: blake3::Hasher::new_derive_key(DIRECTORY_CONTEXT) };
    let mut stack = vec![open(directory)];
    let mut buffer = Vec::new();
    let mut close_to = |stack: &mut Vec<Open>, parent: Option<EntryId>| -> Digest {
        let mut digest = Digest::from_bytes([0; 32]);
        while stack.last().is_some_and(|top| Some(top.id) != parent) {
            let Some(done) = stack.pop() else { break };
            digest = done.hasher.finalize().into();
            if let Some(above) = stack.last_mut() {
                buffer.clear();
                put_entry(&mut buffer, tree.name(done.id), &tree.node(done.id), digest);
                above.hasher.update(&buffer);
            }
        }
        digest
    };
    let mut line = Vec::new();
    for id in tree.subtree(directory).skip(1) {
        close_to(&mut stack, tree.parent(id));
        if tree.file_type(id) == FileType::Directory {
            stack.push(open(id));
        } else if let Some(parent) = stack.last_mut() {
            line.clear();
            put_entry(&mut line, tree.name(id), &tree.node(id), Digest::from_bytes([0; 32]));
            parent.hasher.update(&line);
        }
    }
    close_to(&mut stack, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_shortest_leb128() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (16384, &[0x80, 0x80, 1]),
            (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn an_empty_directory_hashes_zero_bytes() {
        let tree = Tree::from_sorted([]).unwrap();
        let empty: Digest = blake3::Hasher::new_derive_key(DIRECTORY_CONTEXT).finalize().into();
        assert_eq!(directory_digest(&tree, EntryId::ROOT), empty);
    }
}
