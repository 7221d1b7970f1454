//! Owns the nodes of a tree in little space: what many entries have in common is stored once, what each has of its own
//! (a digest, a target, a time) lies side by side. Must not own names or places.

use std::collections::HashMap;

use crate::digest::Digest;
use crate::node::{Device, FileType, Kind, Node, Presence, Xattrs};

/// Nodes by index. Equal sequences of nodes are stored equally.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Nodes {
    slots: Vec<Slot>,
    /// Different ones only: a tree of a million files has some hundred.
    shared: Vec<Shared>,
    contents: Vec<Content>,
    links: Vec<Link>,
    targets: Vec<u8>,
    devices: Vec<Device>,
    /// By the index of the node, as far as the last node that has one.
    mtimes: Vec<i64>,
}

/// Where the parts of a node are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    shared: u32,
    /// In `contents`, `links` or `devices`, as the type says.
    own: u32,
}

/// What many nodes have in common. What `presence` does not have is zero here and in a node's own part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shared {
    file_type: FileType,
    presence: Presence,
    mode: u16,
    uid: u32,
    gid: u32,
    xattrs: Xattrs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    size: u64,
    digest: Digest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    start: u32,
    len: u32,
}

/// Finds what was stored already, while nodes are added.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Shared, u32>);

impl Nodes {
    /// Adds a node behind the last; `None` if there is no room for what belongs to it.
    pub(super) fn push(&mut self, node: Node, known: &mut Known) -> Option<()> {
        let index = self.slots.len();
        let slot = self.slot(index, node, known)?;
        self.slots.push(slot);
        Some(())
    }

    /// Puts a node in the place of another. What was the other's own is not given back.
    pub(super) fn replace(&mut self, index: usize, node: Node, known: &mut Known) -> Option<()> {
        self.slots[index] = self.slot(index, node, known)?;
        Some(())
    }

    fn slot(&mut self, index: usize, node: Node, known: &mut Known) -> Option<Slot> {
        let (file_type, presence) = (node.file_type(), node.presence());
        let Node { kind, mode, uid, gid, mtime, xattrs } = node;
        if let Some(mtime) = mtime {
            self.mtimes.resize(index, 0);
            self.mtimes.push(mtime);
        }
        let own = match kind {
            Kind::File { size, content } if size.is_some() || content.is_some() => {
                let digest = content.unwrap_or(Digest::from_bytes([0; 32]));
                put(&mut self.contents, Content { size: size.unwrap_or(0), digest })?
            }
            Kind::Symlink { target } => {
                let start = u32::try_from(self.targets.len()).ok()?;
                self.targets.extend_from_slice(&target);
                put(&mut self.links, Link { start, len: u32::try_from(target.len()).ok()? })?
            }
            Kind::Char(Some(device)) | Kind::Block(Some(device)) => put(&mut self.devices, device)?,
            Kind::File { .. } | Kind::Directory | Kind::Char(None) | Kind::Block(None) | Kind::Fifo | Kind::Socket => 0,
        };
        let shared = Shared {
            file_type,
            presence,
            mode: mode.unwrap_or(0),
            uid: uid.unwrap_or(0),
            gid: gid.unwrap_or(0),
            xattrs: xattrs.unwrap_or_default(),
        };
        let shared = match known.0.get(&shared) {
            Some(index) => *index,
            None => {
                let index = put(&mut self.shared, shared.clone())?;
                known.0.insert(shared, index);
                index
            }
        };
        Some(Slot { shared, own })
    }

    pub(super) fn get(&self, index: usize) -> Node {
        let (shared, own) = self.parts(index);
        let given = |bit| shared.presence.contains(bit);
        let device = || given(Presence::DEVICE).then(|| self.devices[own]);
        let kind = match shared.file_type {
            FileType::File => Kind::File {
                size: given(Presence::SIZE).then(|| self.contents[own].size),
                content: given(Presence::CONTENT).then(|| self.contents[own].digest),
            },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => {
                let Link { start, len } = self.links[own];
                Kind::Symlink { target: self.targets[start as usize..][..len as usize].into() }
            }
            FileType::Char => Kind::Char(device()),
            FileType::Block => Kind::Block(device()),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        Node {
            kind,
            mode: given(Presence::MODE).then_some(shared.mode),
            uid: given(Presence::UID).then_some(shared.uid),
            gid: given(Presence::GID).then_some(shared.gid),
            mtime: given(Presence::MTIME).then(|| self.mtimes[index]),
            xattrs: given(Presence::XATTRS).then(|| shared.xattrs.clone()),
        }
    }

    pub(super) fn file_type(&self, index: usize) -> FileType {
        self.parts(index).0.file_type
    }

    pub(super) fn presence(&self, index: usize) -> Presence {
        self.parts(index).0.presence
    }

    /// The size of a regular file, if specified.
    pub(super) fn size(&self, index: usize) -> Option<u64> {
        let (shared, own) = self.parts(index);
        shared.presence.contains(Presence::SIZE).then(|| self.contents[own].size)
    }

    fn parts(&self, index: usize) -> (&Shared, usize) {
        let Slot { shared, own } = self.slots[index];
        (&self.shared[shared as usize], own as usize)
    }
}

/// Adds to `all`; where it stands.
fn put<T>(all: &mut Vec<T>, one: T) -> Option<u32> {
    let index = u32::try_from(all.len()).ok()?;
    all.push(one);
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_and_what_is_common_is_stored_once() {
        let bare = Node::bare;
        let xattrs = Xattrs::new(vec![(b"user.a"[..].into(), b"1"[..].into())]);
        let digest = Some(Digest::blake3(b"x"));
        let device = Device { major: 1, minor: 2 };
        let nodes = [
            Node::implicit_directory(),
            Node { mode: Some(0o755), uid: Some(0), gid: Some(7), mtime: Some(-3), ..bare(Kind::Directory) },
            bare(Kind::File { size: None, content: None }),
            bare(Kind::File { size: Some(0), content: None }),
            bare(Kind::File { size: None, content: digest }),
            Node { xattrs, mode: Some(0), ..bare(Kind::File { size: Some(u64::MAX), content: digest }) },
            Node { xattrs: Some(Xattrs::none()), ..bare(Kind::File { size: Some(1), content: digest }) },
            bare(Kind::Symlink { target: b"there"[..].into() }),
            bare(Kind::Symlink { target: Box::default() }),
            bare(Kind::Char(None)),
            bare(Kind::Char(Some(device))),
            bare(Kind::Block(Some(device))),
            bare(Kind::Fifo),
            Node { mtime: Some(0), ..bare(Kind::Socket) },
        ];
        let (mut packed, mut known) = (Nodes::default(), Known::default());
        for node in nodes.iter().chain(&nodes) {
            packed.push(node.clone(), &mut known).unwrap();
        }
        assert_eq!(packed.slots.len(), 2 * nodes.len());
        for (index, node) in nodes.iter().chain(&nodes).enumerate() {
            assert_eq!(packed.get(index), *node, "{index}");
            assert_eq!(packed.file_type(index), node.file_type());
            assert_eq!(packed.presence(index), node.presence());
            let size = if let Kind::File { size, .. } = node.kind { size } else { None };
            assert_eq!(packed.size(index), size);
        }
        assert!(packed.shared.len() <= nodes.len());
        packed.replace(2, nodes[1].clone(), &mut known).unwrap();
        assert_eq!(packed.get(2), nodes[1]);
        assert_eq!(packed.get(3), nodes[3]);
    }
}
