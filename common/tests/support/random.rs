//! Owns random names, nodes, trees and manifests for the properties: hostile names, every type, missing attributes,
//! every profile, both content algorithms.

use std::collections::BTreeMap;

use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::manifest::{Header, Manifest, Source, SourceKind};
use driftlock_common::node::{Device, FileType, Kind, Node, Presence, Xattrs};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::{Origin, Tree};
use proptest::prelude::*;

/// A file name: few at all, so that trees share paths, and each of a kind that has broken something somewhere.
pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = [
        &b"a"[..],
        b"b",
        b"a-b",
        b"a.b",
        b"...",
        b"-rf",
        b" ",
        b"\n",
        b"\x1b[2J",
        b"\\x0a",
        b"\"",
        b"\xff",
        b"\xed\xa0\x80",
        b"\x7f",
        "é".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{85}".as_bytes(),
        "\u{202e}cod.exe".as_bytes(),
        "\u{feff}".as_bytes(),
        "\u{10ffff}".as_bytes(),
    ]
    .iter()
    .map(|name| name.to_vec())
    .collect();
    let random = prop::collection::vec(any::<u8>().prop_filter("no part of a name", |b| ![0, b'/'].contains(b)), 1..12)
        .prop_filter("not a name", |name| ![&b"."[..], b".."].contains(&name.as_slice()));
    prop_oneof![8 => prop::sample::select(known), 1 => random, 1 => Just(vec![b'n'; 255])]
}

/// A path that is not the root.
pub(crate) fn path() -> impl Strategy<Value = TreePath> {
    prop::collection::vec(name(), 1..5).prop_map(|names| TreePath::new(names.join(&b'/')).unwrap())
}

/// A node that specifies everything `profile` allows.
pub(crate) fn node(profile: Profile) -> impl Strategy<Value = Node> {
    let ids = prop_oneof![Just(0), Just(127), Just(128), Just(u32::MAX - 1), 0..u32::MAX];
    let times = prop_oneof![Just(0), Just(-1), any::<i64>()];
    let attributes = (0..=0o7777u16, ids.clone(), ids, times, xattrs(profile));
    (kind(), attributes).prop_map(move |(kind, (mode, uid, gid, mtime, xattrs))| {
        let node = Node {
            kind,
            mode: Some(mode),
            uid: Some(uid),
            gid: Some(gid),
            mtime: Some(mtime),
            xattrs: Some(Xattrs::new(xattrs).unwrap()),
        };
        let allowed = profile.allows(node.file_type());
        node.masked(allowed)
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let device = || (any::<u32>(), 0..3u32).prop_map(|(major, minor)| Some(Device { major, minor }));
    // Few contents, so that files are equal now and then; sizes that do not sum over the limit.
    let file = (0..1u64 << 32, 0..4u8)
        .prop_map(|(size, content)| Kind::File { size: Some(size), content: Some(Digest::from_bytes([content; 32])) });
    let target = prop::collection::vec(1..=255u8, 1..20);
    prop_oneof![
        3 => file,
        2 => Just(Kind::Directory),
        2 => target.prop_map(|target| Kind::Symlink { target: target.into_boxed_slice() }),
        1 => device().prop_map(Kind::Char),
        1 => device().prop_map(Kind::Block),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ]
}

type RawXattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

fn xattrs(profile: Profile) -> impl Strategy<Value = RawXattrs> {
    let names: Vec<&[u8]> =
        [&b"security.capability"[..], b"user.", b"user.\xff", b"user.\n", b"user.note", b"system.posix_acl_access"]
            .into_iter()
            .filter(|name| profile.holds_xattr(name))
            .collect();
    let most = names.len();
    (prop::sample::subsequence(names, 0..=most), prop::collection::vec(any::<u8>(), 0..8)).prop_map(|(names, value)| {
        names.into_iter().map(|name| (Box::from(name), value.clone().into_boxed_slice())).collect()
    })
}

/// Paths with nodes, each with a directory above it; attributes missing at random if `masked`.
pub(crate) fn nodes(profile: Profile, masked: bool) -> impl Strategy<Value = BTreeMap<TreePath, Node>> {
    let keep = if masked { any::<u16>().boxed() } else { Just(u16::MAX).boxed() };
    prop::collection::vec((path(), node(profile), keep), 0..24).prop_map(move |entries| {
        let mut nodes = BTreeMap::new();
        for (path, node, keep) in entries {
            let mut above = path.parent();
            while let Some(directory) = above.filter(|directory| !directory.is_root()) {
                above = directory.parent();
                let node: &mut Node = nodes.entry(directory).or_insert_with(Node::implicit_directory);
                if node.file_type() != FileType::Directory {
                    *node = Node::implicit_directory();
                }
            }
            let is_parent = nodes.keys().any(|other| *other != path && other.is_within(&path));
            let kind = if is_parent { Kind::Directory } else { node.kind.clone() };
            let node = Node { kind, ..node }.masked(bits(keep));
            let allowed = profile.allows(node.file_type());
            nodes.insert(path, node.masked(allowed));
        }
        nodes
    })
}

fn bits(keep: u16) -> Presence {
    [
        Presence::MODE,
        Presence::UID,
        Presence::GID,
        Presence::MTIME,
        Presence::SIZE,
        Presence::CONTENT,
        Presence::DEVICE,
        Presence::XATTRS,
    ]
    .into_iter()
    .filter(|bit| bit.bits() & keep != 0)
    .fold(Presence::NONE, Presence::union)
}

pub(crate) fn profile() -> impl Strategy<Value = Profile> {
    prop::sample::select(vec![Profile::Content, Profile::Portable, Profile::Full])
}

/// A tree of `nodes`, with a specified root if `root` is given.
pub(crate) fn tree(nodes: &BTreeMap<TreePath, Node>, root: Option<Node>) -> Tree {
    let root = root.map(|node| (TreePath::root(), node, Origin::default()));
    let rest = nodes.iter().map(|(path, node)| (path.clone(), node.clone(), Origin::default()));
    Tree::from_sorted(root.into_iter().chain(rest)).unwrap()
}

/// A manifest with everything that one can have.
pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    let excludes = prop::sample::subsequence(vec!["**/a-b", "a/**", "b", "\\ /*", "é*"], 0..=3);
    let algorithm = prop::sample::select(vec![Algorithm::Blake3, Algorithm::Sha256]);
    (profile(), algorithm, excludes).prop_flat_map(|(profile, content, excludes)| {
        let root = prop::option::of(any::<u16>());
        let origins = prop::collection::vec((any::<bool>(), prop::option::of(any::<u16>())), 1..8);
        let history = prop::collection::vec(any::<String>(), 0..3);
        (nodes(profile, true), root, origins, history).prop_map(move |(nodes, root, origins, history)| {
            let excludes = Excludes::new(excludes.iter().copied(), []).unwrap();
            let mut entries = Vec::new();
            if let Some(keep) = root {
                let node = Node { mode: Some(0o755), uid: Some(0), ..Node::implicit_directory() };
                let node = node.masked(bits(keep)).masked(profile.allows(FileType::Directory));
                entries.push((TreePath::root(), node, Origin::default()));
            }
            for (index, (path, node)) in nodes.iter().filter(|(path, _)| !excludes.excludes(path)).enumerate() {
                let (sha256, layer) = origins[index % origins.len()];
                let sha256 = sha256 && content == Algorithm::Blake3 && node.file_type() == FileType::File;
                let sha256 = sha256.then(|| Digest::sha256(path.as_bytes()));
                let origin = Origin { sha256, layer, meta_layer: layer.map(|layer| layer / 2) };
                entries.push((path.clone(), node.clone(), origin));
            }
            let mut header = Header::new(profile, content, excludes);
            let source = Source { kind: SourceKind::Oci, manifest: None, config: None, platform: None, layers: vec![] };
            header.source = (!history.is_empty()).then_some(source);
            header.history = history;
            Manifest { header, tree: Tree::from_sorted(entries).unwrap() }
        })
    })
}
