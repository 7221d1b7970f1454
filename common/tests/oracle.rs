//! Properties of the core on random input, against slow and obvious second opinions: digests against `support/naive.rs`,
//! path order, patterns and escaping against the few lines that say what they mean.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/naive.rs"]
mod naive;
#[path = "support/random.rs"]
mod random;

use std::collections::BTreeMap;

use driftlock_common::digest::Algorithm;
use driftlock_common::drift::{Delta, apply, diff, differences};
use driftlock_common::finding::{Finding, open_digest};
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::node::{FileType, Kind, Node, Presence, Xattrs};
use driftlock_common::path::{Escaped, TreePath, compare_paths};
use driftlock_common::pattern::{Excludes, Pattern};
use driftlock_common::profile::Profile;
use driftlock_common::tree::{Origin, Overlay, Tree, archive_path};
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_tree_digest_is_what_the_naive_implementation_says(manifest in random::manifest()) {
        let text = String::from_utf8(manifest.encode()).unwrap();
        prop_assert_eq!(&naive::objects(&text)["tree"]["digest"], &manifest.tree_digest().to_hex());
    }

    #[test]
    fn what_is_written_is_read_as_it_was(manifest in random::manifest()) {
        let bytes = manifest.encode();
        let decoded = Manifest::decode(&bytes).unwrap();
        prop_assert_eq!(decoded.encode(), bytes);
        prop_assert_eq!(decoded, manifest);
    }

    #[test]
    fn applying_a_difference_gives_the_observed_tree(
        (expected, observed, root) in random::profile().prop_flat_map(|profile| {
            let root = random::node(profile).prop_map(|node| Node { kind: Node::implicit_directory().kind, ..node });
            (random::nodes(profile, true), random::nodes(profile, false), root)
        }),
    ) {
        // A scan establishes every attribute, also those of parents.
        let observed: std::collections::BTreeMap<_, _> = observed
            .into_iter()
            .map(|(path, node)| {
                // Equal paths are often equal nodes.
                let merged = match expected.get(&path).filter(|other| other.file_type() == node.file_type()) {
                    Some(other) if path.name() > b"b".as_slice() => filled(other, &node),
                    Some(other) => filled(&node, other),
                    None => node,
                };
                (path, merged)
            })
            .collect();
        let a = random::tree(&expected, None);
        let b = random::tree(&observed, Some(root));
        let drifts = diff(&a, &b);
        let applied = apply(&a, &drifts).unwrap();

        // What is left of `b` when only what `a` specifies counts.
        let masked = Tree::from_sorted(b.iter().map(|id| {
            let (path, node) = (b.path(id), b.node(id));
            let sealed = a.find(&path).map(|sealed| a.node(sealed));
            let node = match sealed {
                Some(sealed) if sealed.file_type() == node.file_type() => filled_mask(&sealed, node),
                _ => node,
            };
            (path, node, driftlock_common::tree::Origin::default())
        })).unwrap();
        let nodes = |tree: &Tree| tree.iter().map(|id| (tree.path(id), tree.node(id))).collect::<Vec<_>>();
        prop_assert_eq!(nodes(&applied), nodes(&masked));

        // Differences are found between the same pairs as a naive comparison finds them.
        let paths: Vec<_> = drifts.iter().map(|drift| drift.path.clone()).collect();
        let mut naive: Vec<_> = a.iter().map(|id| a.path(id)).chain(b.iter().map(|id| b.path(id))).filter(|path| {
            match (a.find(path), b.find(path)) {
                (Some(x), Some(y)) => !differences(&a.node(x), &b.node(y)).is_empty(),
                _ => true,
            }
        }).collect();
        naive.sort();
        naive.dedup();
        prop_assert_eq!(paths, naive);

        // And it ends there.
        prop_assert!(diff(&applied, &b).is_empty());
        prop_assert!(diff(&a, &a).is_empty());
        prop_assert!(diff(&b, &b).is_empty());
    }

    #[test]
    fn trees_laid_over_each_other_are_what_the_naive_laying_says(
        (narrow, parts) in random::profile().prop_flat_map(|narrow| {
            let part = random::profile().prop_flat_map(|profile| {
                let allowed = profile.allows(FileType::Directory);
                let root = random::node(profile).prop_map(move |node| Node { kind: Kind::Directory, ..node }.masked(allowed));
                (random::nodes(profile, true), prop::option::of(root))
            });
            (Just(narrow), prop::collection::vec(part, 1..5))
        }),
    ) {
        let trees: Vec<Tree> = parts
            .iter()
            .enumerate()
            .map(|(part, (nodes, root))| {
                let root = root.clone().map(|root| (TreePath::root(), root));
                let nodes = root.into_iter().chain(nodes.clone());
                // The layer tells which part an origin is from.
                let origin = Origin { layer: u16::try_from(part).ok(), ..Origin::default() };
                Tree::from_sorted(nodes.map(|(path, node)| (path, node, origin))).unwrap()
            })
            .collect();
        let Overlay { tree, places } = Overlay::of(&trees.iter().collect::<Vec<_>>(), narrow).unwrap();
        let found: BTreeMap<TreePath, (Node, usize)> =
            tree.iter().map(|id| (tree.path(id), (tree.node(id), places.get(id).0))).collect();
        prop_assert_eq!(found, naive_laying(&trees, narrow));
        for id in tree.iter() {
            let (part, own) = places.get(id);
            prop_assert_eq!(tree.path(id), trees[part].path(own));
            prop_assert_eq!(tree.origin(id), trees[part].origin(own));
            prop_assert!(narrow.allows(tree.file_type(id)).contains(tree.presence(id)));
        }
        // On top of itself, and on top of nothing, a tree is what it was.
        for tree in &trees {
            for parts in [&[tree][..], &[tree, tree], &[&Tree::from_sorted([]).unwrap(), tree]] {
                let same = Overlay::of(parts, Profile::Full).unwrap();
                prop_assert_eq!(&same.tree, tree);
            }
        }
    }

    #[test]
    fn a_finding_leads_back_to_its_path(
        (a, b) in random::profile().prop_flat_map(|p| (random::nodes(p, true), random::nodes(p, false))),
    ) {
        let drifts = diff(&random::tree(&a, None), &random::tree(&b, None));
        let header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
        let findings: Vec<Finding> = drifts.iter().map(|drift| Finding::new(drift, &header)).collect();
        for (drift, finding) in drifts.iter().zip(&findings) {
            prop_assert_eq!(finding.tree_path().unwrap(), drift.path.clone());
            prop_assert!(!finding.path.chars().any(char::is_control), "{:?}", finding.path);
            let json = serde_json::to_string(finding).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Finding>(&json).unwrap(), finding);
            prop_assert_eq!(matches!(drift.delta, Delta::Added { .. }), finding.expected.is_none());
        }
        prop_assert_eq!(open_digest(&findings), open_digest(findings.iter().rev()));
    }

    #[test]
    fn path_order_is_that_of_component_lists(a in random::path(), b in random::path()) {
        let lists = a.components().collect::<Vec<_>>().cmp(&b.components().collect());
        prop_assert_eq!(compare_paths(a.as_bytes(), b.as_bytes()), lists);
        prop_assert_eq!(a.cmp(&b), lists);
        let within = b.components().count() <= a.components().count() && a.components().zip(b.components()).all(|(x, y)| x == y);
        prop_assert_eq!(a.is_within(&b), within);
    }

    #[test]
    fn patterns_match_what_the_naive_matcher_says(
        text in "(\\*\\*/|[ab*.é\\\\?/!]){0,8}[ab*.é]{0,3}(/\\*\\*)?",
        path in "[ab.*é]{1,4}(/[ab.*é]{1,3}){0,4}",
    ) {
        let parsed = text.parse::<Pattern>().ok();
        let naive = naive_pattern(&text);
        prop_assert_eq!(parsed.is_some(), naive.is_some(), "{}", text);
        if let (Some(parsed), Some(naive), Ok(path)) = (parsed, naive, TreePath::new(path)) {
            let components: Vec<&[u8]> = path.components().collect();
            prop_assert_eq!(parsed.matches(&path), naive_matches(&naive, &components), "{} {:?}", parsed, path);
            let excludes = Excludes::new([parsed.as_str()], []).unwrap();
            let above = (1..=components.len()).any(|depth| naive_matches(&naive, &components[..depth]));
            prop_assert_eq!(excludes.excludes(&path), above);
            prop_assert_eq!(excludes.excludes_entry(&path), parsed.matches(&path));
        }
    }

    #[test]
    fn escaped_text_leads_back_to_its_bytes_and_acts_on_nothing(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), any::<String>().prop_map(String::into_bytes), random::name()],
    ) {
        let text = Escaped(&bytes).to_string();
        prop_assert_eq!(unescape(&text), bytes);
        prop_assert!(!text.chars().any(|ch| ch.is_control() || ('\u{2028}'..='\u{202e}').contains(&ch)), "{text:?}");
    }

    #[test]
    fn a_path_of_an_archive_stays_below_the_root(raw in "[a./\\x00]{0,12}") {
        if let Ok(path) = archive_path(raw.as_bytes()) {
            prop_assert!(path.components().all(|name| !name.is_empty() && ![&b"."[..], b".."].contains(&name)));
            prop_assert!(!path.as_bytes().contains(&0) && !path.as_bytes().starts_with(b"/"));
            let kept: Vec<&str> = raw.split('/').filter(|part| !["", "."].contains(part)).collect();
            prop_assert_eq!(path, TreePath::new(kept.join("/")).unwrap());
        } else {
            prop_assert!(raw.split('/').any(|part| part == "..") || raw.contains('\0'));
        }
    }

    #[test]
    fn random_bytes_are_never_a_manifest_that_is_written_otherwise(
        manifest in random::manifest(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = manifest.encode();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(decoded) = Manifest::decode(&bytes) {
            let again = Manifest::decode(&decoded.encode()).unwrap();
            prop_assert_eq!(decoded.tree_digest(), again.tree_digest());
            prop_assert_eq!(decoded.tree_digest(), manifest.tree_digest());
        }
    }
}

/// One tree after another onto a map of paths; with each node the number of the tree that it is from.
fn naive_laying(trees: &[Tree], narrow: Profile) -> BTreeMap<TreePath, (Node, usize)> {
    let mut laid: BTreeMap<TreePath, (Node, usize)> = BTreeMap::new();
    laid.insert(TreePath::root(), (Node::implicit_directory(), 0));
    for (part, tree) in trees.iter().enumerate() {
        for id in tree.iter() {
            let (path, node) = (tree.path(id), tree.node(id));
            let held = |xattrs: &Xattrs| {
                let held = xattrs.iter().filter(|(name, _)| narrow.holds_xattr(name));
                Xattrs::new(held.map(|(name, value)| (name.into(), value.into())).collect()).unwrap()
            };
            let xattrs = node.xattrs.as_ref().map(held);
            let mut node = Node { xattrs, ..node };
            node = node.clone().masked(narrow.allows(node.file_type()));
            let states = node.presence() != Presence::NONE;
            let entry = match laid.get(&path).cloned() {
                Some((lower, from)) if lower.kind == Kind::Directory && node.kind == Kind::Directory => {
                    let from = if states || lower.presence() == Presence::NONE { part } else { from };
                    (filled(&node, &lower), from)
                }
                _ => {
                    laid.retain(|other, _| !other.is_within(&path));
                    (node, part)
                }
            };
            laid.insert(path, entry);
        }
    }
    laid
}

/// `sealed` with what it leaves open taken from `other`, a node of the same type.
fn filled(sealed: &Node, other: &Node) -> Node {
    let kind = match (&sealed.kind, &other.kind) {
        (Kind::File { size, content }, Kind::File { size: other_size, content: other_content }) => {
            Kind::File { size: size.or(*other_size), content: content.or(*other_content) }
        }
        (Kind::Char(device), Kind::Char(other)) => Kind::Char(device.or(*other)),
        (Kind::Block(device), Kind::Block(other)) => Kind::Block(device.or(*other)),
        (kind, _) => kind.clone(),
    };
    Node {
        kind,
        mode: sealed.mode.or(other.mode),
        uid: sealed.uid.or(other.uid),
        gid: sealed.gid.or(other.gid),
        mtime: sealed.mtime.or(other.mtime),
        xattrs: sealed.xattrs.clone().or_else(|| other.xattrs.clone()),
    }
}

/// `node` without what `sealed` leaves open; what `node` leaves open stays as sealed.
fn filled_mask(sealed: &Node, node: Node) -> Node {
    filled(&node, sealed).masked(sealed.presence())
}

#[derive(Debug)]
enum Piece {
    AnyComponents,
    Name(Vec<Letter>),
}

#[derive(Debug)]
enum Letter {
    Star,
    Byte(u8),
}

/// The grammar of patterns, by the book.
fn naive_pattern(text: &str) -> Option<Vec<Piece>> {
    text.split('/').map(naive_component).collect()
}

fn naive_component(component: &str) -> Option<Piece> {
    match component {
        "" | "." | ".." => return None,
        "**" => return Some(Piece::AnyComponents),
        _ => {}
    }
    let mut letters = Vec::new();
    let mut rest = component;
    while let Some(ch) = rest.chars().next() {
        rest = &rest[ch.len_utf8()..];
        match ch {
            '*' if rest.starts_with('*') => return None,
            '*' => letters.push(Letter::Star),
            '?' | '[' | ']' | '{' | '}' | '!' => return None,
            '\\' => {
                let literal = rest.chars().next()?;
                rest = &rest[literal.len_utf8()..];
                letters.extend(literal.to_string().bytes().map(Letter::Byte));
            }
            other => letters.extend(other.to_string().bytes().map(Letter::Byte)),
        }
    }
    Some(Piece::Name(letters))
}

fn naive_matches(pattern: &[Piece], path: &[&[u8]]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [Piece::AnyComponents] => !path.is_empty(),
        [Piece::AnyComponents, rest @ ..] => (0..=path.len()).any(|skip| naive_matches(rest, &path[skip..])),
        [Piece::Name(letters), rest @ ..] => {
            path.first().is_some_and(|name| naive_matches_name(letters, name)) && naive_matches(rest, &path[1..])
        }
    }
}

fn naive_matches_name(letters: &[Letter], name: &[u8]) -> bool {
    match letters {
        [] => name.is_empty(),
        [Letter::Star, rest @ ..] => (0..=name.len()).any(|skip| naive_matches_name(rest, &name[skip..])),
        [Letter::Byte(byte), rest @ ..] => name.first() == Some(byte) && naive_matches_name(rest, &name[1..]),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(ch) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("\\\\") {
            bytes.push(b'\\');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.extend(ch.to_string().bytes());
            rest = &rest[ch.len_utf8()..];
        }
    }
    bytes
}

#[test]
fn a_deep_tree_is_digested_without_recursion() {
    let deepest = vec!["d"; driftlock_common::path::MAX_DEPTH].join("/");
    let paths = (1..=deepest.len().div_ceil(2)).map(|depth| TreePath::new(&deepest[..2 * depth - 1]).unwrap());
    let tree = Tree::from_sorted(paths.map(|path| (path, Node::implicit_directory(), Default::default()))).unwrap();
    assert_eq!(tree.len(), driftlock_common::path::MAX_DEPTH);
    let manifest = Manifest { header: Header::new(Default::default(), Algorithm::Blake3, Excludes::none()), tree };
    let digest = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || manifest.tree_digest()).unwrap();
    // From the deepest directory up, in a few lines.
    let mut children = Vec::new();
    for _ in 0..driftlock_common::path::MAX_DEPTH {
        let below = blake3::derive_key("driftlock 2026 manifest v1 directory", &children);
        children = [b"d\0\0\x01d".to_vec(), below.to_vec()].concat();
    }
    let root = blake3::derive_key("driftlock 2026 manifest v1 directory", &children);
    let terms = b"\x01\x08portable\x06blake3\0d\0\0\0";
    let tree = blake3::derive_key("driftlock 2026 manifest v1 tree", &[&terms[..], &root].concat());
    assert_eq!(digest.join().unwrap().as_bytes(), &tree);
}
