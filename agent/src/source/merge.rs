//! Owns laying layers over each other into one tree (OCI image-spec, layer.md, "Applying Changesets"): what a layer
//! hides is taken from the layers below it, then what it has is put on top. Must not own reading layers.

use std::collections::BTreeMap;

use driftlock_common::digest::Digest;
use driftlock_common::node::{FileType, Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::{Origin, Tree};

use super::layer::{Item, Layer, What};
use super::notes::{Code, Notes};
use super::problem::{Fault, Problem};

/// The layers so far, as one tree.
#[derive(Debug, Default)]
pub struct Merge {
    slots: BTreeMap<TreePath, Slot>,
    notes: Notes,
    /// Index of the layer at hand.
    layer: u16,
    layers: u16,
}

#[derive(Clone, Debug)]
struct Slot {
    node: Node,
    sha256: Option<Digest>,
    /// The layer that gave the content, or made the directory.
    content_layer: u16,
    /// The layer that gave the attributes.
    meta_layer: u16,
    /// The layer that has an entry for the name; `None` for directories that no layer has one for.
    named_by: Option<u16>,
}

// === impl Merge ===

impl Merge {
    /// Lays the next layer on top.
    ///
    /// # Errors
    /// If a hard link leads to nothing, to a directory or into what it replaces.
    pub fn push(&mut self, layer: Layer) -> Result<(), Problem> {
        self.layer = self.layers;
        self.layers += 1;
        // All that is hidden goes first, so that it does not matter where in the layer a whiteout stands.
        for path in &layer.whiteouts {
            self.remove_subtree(path);
        }
        for directory in &layer.opaques {
            self.remove_children(directory);
        }
        self.notes.absorb(layer.notes, Some(self.layer));
        for item in layer.items {
            self.put(item)?;
        }
        for path in &layer.whiteouts {
            // Whatever is there now, this layer has put there.
            if self.slots.range(path.clone()..).next().is_some_and(|(at, _)| at.is_within(path)) {
                self.notes.add(Code::WhiteoutOfSameLayerPath, path, Some(self.layer));
            }
        }
        Ok(())
    }

    /// The tree, without what is excluded, and what was odd about its making. `attribute` keeps which layer each
    /// path came from.
    ///
    /// # Errors
    /// Only if the tree is larger than trees may be.
    pub fn finish(mut self, excludes: &Excludes, attribute: bool) -> Result<(Tree, Notes), Problem> {
        let mut skipped: Option<TreePath> = None;
        self.slots.retain(|path, _| {
            if skipped.as_ref().is_some_and(|above| path.is_within(above)) {
                return false;
            }
            let excluded = excludes.excludes_entry(path);
            if excluded {
                skipped = Some(path.clone());
            }
            !excluded
        });
        for (path, slot) in &self.slots {
            if slot.named_by.is_none() {
                self.notes.add(Code::ImplicitParent, path, attribute.then_some(slot.content_layer));
            }
        }
        let tree = Tree::from_sorted(self.slots.into_iter().map(|(path, slot)| {
            let meta_layer = (slot.meta_layer != slot.content_layer).then_some(slot.meta_layer);
            let origin = Origin {
                sha256: slot.sha256,
                layer: attribute.then_some(slot.content_layer),
                meta_layer: meta_layer.filter(|_| attribute),
            };
            (path, slot.node, origin)
        }))?;
        Ok((tree, self.notes))
    }

    fn put(&mut self, item: Item) -> Result<(), Problem> {
        let Item { path, what } = item;
        let layer = self.layer;
        // A link is resolved before anything makes room for it.
        let slot = match what {
            What::Node { node, sha256 } => {
                Slot { node, sha256, content_layer: layer, meta_layer: layer, named_by: Some(layer) }
            }
            What::Link { target, claim } => self.resolve(&path, &target, &claim)?,
        };
        self.make_parents(&path);
        let is_directory = slot.node.file_type() == FileType::Directory;
        match self.slots.get_mut(&path) {
            Some(there) if is_directory && there.node.file_type() == FileType::Directory => {
                if there.named_by == Some(layer) {
                    self.notes.add(Code::DuplicateEntry, &path, Some(layer));
                }
                there.node = slot.node;
                there.meta_layer = layer;
                there.named_by = Some(layer);
            }
            Some(_) => {
                self.note_replaced(&path);
                self.remove_subtree(&path);
                self.slots.insert(path, slot);
            }
            None => {
                self.slots.insert(path, slot);
            }
        }
        Ok(())
    }

    fn resolve(&mut self, path: &TreePath, target: &TreePath, claim: &Node) -> Result<Slot, Problem> {
        let refuse = |fault| Problem::Entry { path: path.as_bytes().to_vec(), fault };
        let name = || target.as_bytes().to_vec();
        if target.is_within(path) {
            return Err(refuse(Fault::LinkReplaces(name())));
        }
        if target.is_root() {
            return Err(refuse(Fault::LinkDirectory(b"/".to_vec())));
        }
        let Some(there) = self.slots.get(target) else { return Err(refuse(Fault::LinkMissing(name()))) };
        if matches!(there.node.kind, Kind::Directory) {
            return Err(refuse(Fault::LinkDirectory(name())));
        }
        if there.named_by != Some(self.layer) {
            self.notes.add(Code::CrossLayerHardlink, path, Some(self.layer));
        }
        let differs = |a: Option<u32>, b: Option<u32>| matches!((a, b), (Some(a), Some(b)) if a != b);
        let node = &there.node;
        if differs(claim.mode.map(u32::from), node.mode.map(u32::from))
            || differs(claim.uid, node.uid)
            || differs(claim.gid, node.gid)
        {
            self.notes.add(Code::HardlinkMetadataMismatch, path, Some(self.layer));
        }
        Ok(Slot { named_by: Some(self.layer), ..there.clone() })
    }

    /// Makes every directory above `path` that is missing; something else in its place goes.
    fn make_parents(&mut self, path: &TreePath) {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(parent) = above.filter(|parent| !parent.is_root()) {
            match self.slots.get(&parent).map(|slot| slot.node.file_type()) {
                Some(FileType::Directory) => break,
                Some(_) => {
                    self.notes.add(Code::ParentReplaced, &parent, Some(self.layer));
                    self.remove_subtree(&parent);
                }
                None => {}
            }
            above = parent.parent();
            missing.push(parent);
        }
        for parent in missing {
            let slot = Slot {
                node: Node::implicit_directory(),
                sha256: None,
                content_layer: self.layer,
                meta_layer: self.layer,
                named_by: None,
            };
            self.slots.insert(parent, slot);
        }
    }

    /// Notes the paths of this layer's own that are about to be replaced by it.
    fn note_replaced(&mut self, path: &TreePath) {
        for (at, slot) in self.slots.range(path.clone()..).take_while(|(at, _)| at.is_within(path)) {
            if slot.named_by == Some(self.layer) {
                self.notes.add(Code::DuplicateEntry, at, Some(self.layer));
            }
        }
    }

    fn remove_subtree(&mut self, path: &TreePath) {
        self.remove_children(path);
        self.slots.remove(path);
    }

    fn remove_children(&mut self, directory: &TreePath) {
        let below: Vec<TreePath> = self
            .slots
            .range(directory.clone()..)
            .map(|(at, _)| at)
            .skip_while(|at| *at == directory)
            .take_while(|at| at.is_within(directory))
            .cloned()
            .collect();
        for path in below {
            self.slots.remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use driftlock_common::profile::Profile;
    use driftlock_common::tree::EntryId;
    use proptest::prelude::*;

    use super::super::budget::Budget;
    use super::super::kit::{Tar, raw};
    use super::super::layer::{Dialect, Options, index};
    use super::*;

    fn options() -> Options {
        Options { dialect: Dialect::Image, profile: Profile::Portable, sha256: false, budget: Budget::default() }
    }

    fn merged(layers: &[Vec<u8>]) -> Result<(Tree, Notes), Problem> {
        let mut merge = Merge::default();
        for tar in layers {
            merge.push(index(tar.as_slice(), &options())?)?;
        }
        merge.finish(&Excludes::none(), true)
    }

    /// A line for each path: type, content (files hold one letter), attributes if not the kit's own, layers.
    fn described(tree: &Tree) -> Vec<String> {
        let line = |id: EntryId| {
            let (node, origin) = (tree.node(id), tree.origin(id));
            let what = match &node.kind {
                Kind::File { content, .. } => (b'a'..=b'z')
                    .find(|letter| *content == Some(Digest::blake3(&[*letter])))
                    .map_or_else(|| "f ?".to_owned(), |letter| format!("f {}", char::from(letter))),
                Kind::Symlink { target } => format!("l {}", String::from_utf8_lossy(target)),
                Kind::Directory if node.mode.is_none() => "d implicit".to_owned(),
                other => char::from(Node::bare(other.clone()).file_type().byte()).to_string(),
            };
            let usual = if node.file_type() == FileType::Directory { 0o755 } else { 0o644 };
            let mode = node.mode.filter(|mode| *mode != usual).map(|mode| format!(" {mode:o}")).unwrap_or_default();
            let owner = node.uid.filter(|uid| *uid != 0).map(|uid| format!(" {uid}")).unwrap_or_default();
            let meta = origin.meta_layer.map(|layer| format!("/{layer}")).unwrap_or_default();
            format!("{} {what}{mode}{owner} @{}{meta}", tree.path(id).escaped(), origin.layer.unwrap())
        };
        tree.iter().skip(1).map(line).collect()
    }

    fn tar() -> Tar {
        Tar::default()
    }

    #[test]
    fn every_rule_of_laying_layers_over_each_other() {
        let cases: Vec<(&str, Vec<Tar>, &[&str])> = vec![
            (
                "a whiteout hides a file",
                vec![tar().file("x", "a").file("y", "b"), tar().file(".wh.x", "")],
                &["y f b @0"],
            ),
            (
                "a whiteout hides a directory with what is below",
                vec![tar().dir("d").file("d/x", "a").file("d-e", "b"), tar().file(".wh.d", "")],
                &["d-e f b @0"],
            ),
            ("a whiteout of nothing", vec![tar().file("x", "a"), tar().file("q/.wh.y", "")], &["x f a @0"]),
            (
                "a whiteout spares its own layer when it stands after",
                vec![tar().file("x", "a"), tar().file("x", "b").file(".wh.x", "")],
                &["x f b @1"],
            ),
            (
                "a whiteout spares its own layer when it stands before",
                vec![tar().file("x", "a"), tar().file(".wh.x", "").file("x", "b")],
                &["x f b @1"],
            ),
            (
                "a whiteout hides the lower directory under its own new one",
                vec![tar().dir("d").file("d/x", "a"), tar().dir("d").file("d/y", "b").file(".wh.d", "")],
                &["d d @1", "d/y f b @1"],
            ),
            (
                "an opaque directory loses lower children, keeps its own, wherever the mark stands",
                vec![
                    tar().dir("d").file("d/x", "a").dir("d/s").file("d/s/t", "a"),
                    tar().file("d/y", "b").file("d/.wh..wh..opq", ""),
                ],
                &["d d @0", "d/y f b @1"],
            ),
            (
                "an opaque root",
                vec![tar().file("x", "a").dir("d").file("d/y", "b"), tar().file(".wh..wh..opq", "").file("z", "c")],
                &["z f c @1"],
            ),
            (
                "opaque reaches through more than one layer and spares layers above",
                vec![
                    tar().dir("d").file("d/x", "a"),
                    tar().file("d/y", "b"),
                    tar().file("d/.wh..wh..opq", ""),
                    tar().file("d/z", "c"),
                ],
                &["d d @0", "d/z f c @3"],
            ),
            (
                "what AUFS kept for itself is nothing",
                vec![tar().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "a").file(".wh..wh.aufs", "").file("x", "b")],
                &["x f b @0"],
            ),
            (
                "a directory over a directory replaces attributes and keeps children",
                vec![tar().dir("d").file("d/x", "a"), tar().add(raw(b'5', "d/").mode(0o700).owner(7, 7))],
                &["d d 700 7 @0/1", "d/x f a @0"],
            ),
            (
                "a file over a directory replaces the subtree",
                vec![tar().dir("d").file("d/x", "a"), tar().file("d", "b")],
                &["d f b @1"],
            ),
            (
                "a directory over a file",
                vec![tar().file("d", "a"), tar().dir("d").file("d/x", "b")],
                &["d d @1", "d/x f b @1"],
            ),
            (
                "a symlink over a directory is not followed",
                vec![tar().dir("d").file("d/x", "a").dir("e"), tar().symlink("d", "e")],
                &["d l e @1", "e d @0"],
            ),
            (
                "missing parents are implicit",
                vec![tar().file("p/q/x", "a")],
                &["p d implicit @0", "p/q d implicit @0", "p/q/x f a @0"],
            ),
            (
                "an implicit parent becomes explicit later, in the layer or above",
                vec![tar().file("p/q/x", "a").dir("p"), tar().add(raw(b'5', "p/q").mode(0o711))],
                &["p d @0", "p/q d 711 @0/1", "p/q/x f a @0"],
            ),
            (
                "an existing parent stays as it is",
                vec![tar().add(raw(b'5', "p").mode(0o700)), tar().file("p/x", "a")],
                &["p d 700 @0", "p/x f a @1"],
            ),
            (
                "a file in the place of a parent becomes an implicit directory",
                vec![tar().file("p", "a"), tar().file("p/x", "b")],
                &["p d implicit @1", "p/x f b @1"],
            ),
            (
                "a symlink in the place of a parent is not followed",
                vec![tar().dir("e").symlink("p", "e"), tar().file("p/x", "b")],
                &["e d @0", "p d implicit @1", "p/x f b @1"],
            ),
            (
                "of duplicates the last one counts",
                vec![tar().file("x", "a").file("./x", "b").file("/x", "c")],
                &["x f c @0"],
            ),
            (
                "a hard link takes every attribute of its target",
                vec![tar().add(body(raw(b'0', "x").mode(0o4711).owner(5, 6), "a")).hardlink("y", "./x")],
                &["x f a 4711 5 @0", "y f a 4711 5 @0"],
            ),
            (
                "a hard link to a lower layer, whose target is then replaced",
                vec![tar().file("x", "a"), tar().hardlink("y", "x").file("x", "b")],
                &["x f b @1", "y f a @0"],
            ),
            (
                "replacing one name of a pair leaves the other",
                vec![tar().file("x", "a").hardlink("y", "x"), tar().file("x", "b")],
                &["x f b @1", "y f a @0"],
            ),
            (
                "a hard link to a symlink and to a hard link",
                vec![tar().symlink("s", "t").hardlink("u", "s").hardlink("v", "u")],
                &["s l t @0", "u l t @0", "v l t @0"],
            ),
            (
                "the root's entry says nothing",
                vec![tar().add(raw(b'5', "./").mode(0o700)).add(raw(b'5', "/").mode(0o711)).file("./x", "a")],
                &["x f a @0"],
            ),
        ];
        for (name, layers, expected) in cases {
            let layers: Vec<Vec<u8>> = layers.into_iter().map(Tar::end).collect();
            let (tree, _) = merged(&layers).unwrap();
            assert_eq!(described(&tree), expected, "{name}");
        }
    }

    fn body(mut entry: super::super::kit::Raw, body: &str) -> super::super::kit::Raw {
        entry.body = body.into();
        entry
    }

    #[test]
    fn links_that_lead_nowhere_are_refused() {
        for (layers, text) in [
            (vec![tar().hardlink("y", "x")], "entry y: hard link to x, which is not there"),
            (vec![tar().hardlink("y", "x").file("x", "a")], "entry y: hard link to x, which is not there"),
            (
                vec![tar().file("x", "a"), tar().hardlink("y", "x").file(".wh.x", "")],
                "entry y: hard link to x, which is not there",
            ),
            (vec![tar().dir("d").hardlink("y", "d")], "entry y: hard link to d, which is a directory"),
            (vec![tar().dir("d").hardlink("y", "/")], "entry y: hard link to /, which is a directory"),
            (vec![tar().file("y", "a"), tar().hardlink("y", "y")], "entry y: hard link to y, which it replaces"),
            (vec![tar().file("d/x", "a"), tar().hardlink("d", "d/x")], "entry d: hard link to d/x, which it replaces"),
            (vec![tar().hardlink("y", "../x")], "entry y: a path has a component \".\" or \"..\""),
        ] {
            let layers: Vec<Vec<u8>> = layers.into_iter().map(Tar::end).collect();
            assert_eq!(merged(&layers).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn what_is_ambiguous_is_counted() {
        use Code::{
            CrossLayerHardlink, DuplicateEntry, HardlinkMetadataMismatch, ImplicitParent, ParentReplaced,
            WhiteoutOfSameLayerPath,
        };
        for (layers, codes) in [
            (vec![tar().file("x", "a").file("x", "a")], &[(DuplicateEntry, 1)][..]),
            (vec![tar().dir("d").dir("d/")], &[(DuplicateEntry, 1)]),
            (vec![tar().dir("d").file("d/x", "a").file("d", "b")], &[(DuplicateEntry, 2)]),
            (vec![tar().file("x", "a"), tar().file("x", "a")], &[]),
            (vec![tar().file("x", "a").file(".wh.x", "")], &[(WhiteoutOfSameLayerPath, 1)]),
            (vec![tar().dir("d").file("d/x", "a").file(".wh.d", "")], &[(WhiteoutOfSameLayerPath, 1)]),
            (vec![tar().dir("d").file("d/x", "a").file("d/.wh..wh..opq", "")], &[]),
            (vec![tar().file("x", "a"), tar().hardlink("y", "x")], &[(CrossLayerHardlink, 1)]),
            (vec![tar().file("x", "a").hardlink("y", "x")], &[]),
            (
                vec![tar().file("x", "a").add({
                    let mut link = raw(b'1', "y").mode(0o600);
                    link.link = b"x".into();
                    link
                })],
                &[(HardlinkMetadataMismatch, 1)],
            ),
            (vec![tar().file("p/x", "a")], &[(ImplicitParent, 1)]),
            (vec![tar().symlink("p", "q").file("p/x", "a")], &[(ParentReplaced, 1), (ImplicitParent, 1)]),
        ] {
            let layers: Vec<Vec<u8>> = layers.into_iter().map(Tar::end).collect();
            let (tree, notes) = merged(&layers).unwrap();
            let mut expected: Vec<_> = codes.iter().map(|(code, count)| (code.name().to_owned(), *count)).collect();
            expected.sort();
            let found: Vec<_> = notes.diagnostics().into_iter().map(|d| (d.code, d.count)).collect();
            assert_eq!(found, expected, "{:?}", described(&tree));
        }
    }

    // === the oracle: each layer is a tree of its own, and trees are united as overlayfs does ===

    #[derive(Clone, Debug, Default)]
    struct Dir {
        mode: Option<u32>,
        opaque: bool,
        hidden: Vec<String>,
        children: BTreeMap<String, Child>,
    }

    #[derive(Clone, Debug)]
    enum Child {
        Dir(Dir),
        File(char),
        Link(char),
    }

    #[derive(Clone, Debug)]
    enum Op {
        Dir(u32),
        File(char),
        Link(char),
        Hide,
        Opaque,
    }

    impl Dir {
        /// Adds to one layer's own tree; what does not fit a tree is left out. Whether it was added.
        fn insert(&mut self, path: &[String], op: &Op) -> bool {
            let Some((name, rest)) = path.split_first() else { return false };
            if !rest.is_empty() {
                let child = self.children.entry(name.clone()).or_insert_with(|| Child::Dir(Self::default()));
                return if let Child::Dir(dir) = child { dir.insert(rest, op) } else { false };
            }
            match (op, self.children.get_mut(name)) {
                (Op::Hide, _) => self.hidden.push(name.clone()),
                (Op::Dir(mode), Some(Child::Dir(dir))) if dir.mode.is_none() => dir.mode = Some(*mode),
                (Op::Opaque, Some(Child::Dir(dir))) => dir.opaque = true,
                (_, Some(_)) => return false,
                (Op::Dir(mode), None) => {
                    self.children.insert(name.clone(), Child::Dir(Self { mode: Some(*mode), ..Self::default() }));
                }
                (Op::Opaque, None) => return false,
                (Op::File(letter), None) => drop(self.children.insert(name.clone(), Child::File(*letter))),
                (Op::Link(letter), None) => drop(self.children.insert(name.clone(), Child::Link(*letter))),
            }
            true
        }

        fn unite(&mut self, upper: Self) {
            if upper.opaque {
                self.children.clear();
            }
            for name in &upper.hidden {
                self.children.remove(name);
            }
            self.mode = upper.mode.or(self.mode);
            for (name, child) in upper.children {
                match (self.children.get_mut(&name), child) {
                    (Some(Child::Dir(below)), Child::Dir(above)) => below.unite(above),
                    (_, Child::Dir(above)) if above.only_hides() => {}
                    (_, Child::Dir(above)) => {
                        let mut fresh = Self::default();
                        fresh.unite(above);
                        self.children.insert(name, Child::Dir(fresh));
                    }
                    (_, other) => drop(self.children.insert(name, other)),
                }
            }
        }

        /// A directory that is only on the way to a whiteout is not made by it.
        fn only_hides(&self) -> bool {
            self.mode.is_none() && self.children.values().all(|c| matches!(c, Child::Dir(dir) if dir.only_hides()))
        }

        fn lines(&self, at: &str, out: &mut BTreeMap<TreePath, String>) {
            for (name, child) in &self.children {
                let path = format!("{at}{name}");
                let line = match child {
                    Child::File(letter) => format!("f {letter}"),
                    Child::Link(letter) => format!("l {letter}"),
                    Child::Dir(dir) => {
                        dir.lines(&format!("{path}/"), out);
                        dir.mode.map_or_else(|| "d implicit".to_owned(), |mode| format!("d {mode:o}"))
                    }
                };
                out.insert(TreePath::new(path).unwrap(), line);
            }
        }
    }

    fn op() -> impl Strategy<Value = (Vec<String>, Op)> {
        let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "b-", "c"]), 1..4)
            .prop_map(|names| names.into_iter().map(str::to_owned).collect());
        let op = prop_oneof![
            2 => prop::sample::select(vec![0o700_u32, 0o711]).prop_map(Op::Dir),
            4 => prop::char::range('a', 'e').prop_map(Op::File),
            1 => prop::char::range('a', 'e').prop_map(Op::Link),
            2 => Just(Op::Hide),
            1 => Just(Op::Opaque),
        ];
        (path, op)
    }

    proptest! {
        #[test]
        fn layers_unite_as_an_overlay_whatever_the_order_inside(
            layers in prop::collection::vec(prop::collection::vec(op(), 0..14), 1..5),
            seeds in prop::collection::vec(any::<u64>(), 64),
        ) {
            let mut whole = Dir::default();
            let mut tars = Vec::new();
            for ops in layers {
                let mut own = Dir::default();
                let mut kept: Vec<_> = ops.into_iter().filter(|(path, op)| own.insert(path, op)).collect();
                let mut keys = seeds.iter().cycle();
                kept.sort_by_cached_key(|_| keys.next());
                tars.push(kept.iter().fold(tar(), |tar, (path, op)| {
                    let name = path.join("/");
                    let (above, last) = name.rsplit_once('/').map_or(("", name.as_str()), |(a, l)| (a, l));
                    match op {
                        Op::Dir(mode) => tar.add(raw(b'5', &name).mode(*mode)),
                        Op::File(letter) => tar.file(&name, letter.to_string()),
                        Op::Link(letter) => tar.symlink(&name, letter.to_string()),
                        Op::Hide => tar.file(format!("{above}/.wh.{last}"), ""),
                        Op::Opaque => tar.file(format!("{name}/.wh..wh..opq"), ""),
                    }
                }).end());
                whole.unite(own);
            }
            let mut expected = BTreeMap::new();
            whole.lines("", &mut expected);
            let (tree, _) = merged(&tars).unwrap();
            let found: BTreeMap<TreePath, String> = tree.iter().skip(1).map(|id| {
                let line = match &tree.node(id).kind {
                    Kind::Directory => tree.node(id).mode.map_or_else(|| "d implicit".into(), |m| format!("d {m:o}")),
                    _ => described(&tree)[id.index() - 1].split_once(' ').unwrap().1.rsplit_once(" @").unwrap().0.into(),
                };
                (tree.path(id), line)
            }).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
