//! Owns which directories are watched first where there are not enough watches for all. Pure. Must not own watching them.

use std::collections::{BTreeMap, BTreeSet};

use driftlock_common::node::FileType;
use driftlock_common::path::TreePath;
use driftlock_common::policy::SET_ID;
use driftlock_common::profile::CAPABILITY;
use driftlock_common::tree::{EntryId, Tree};

/// What a directory directly holds, what matters most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    /// A file that gives rights to who runs it: set-user-id, set-group-id, capabilities.
    Rights,
    /// A file that is run or loaded: a bit to execute it, or a shared library by its name.
    Code,
    /// Files that decide what others do: it is, or is below, a directory of such a name.
    Configuration,
}

/// Any bit that lets somebody execute a file.
const EXECUTE: u16 = 0o111;
/// Names of directories that hold configuration.
const CONFIGURATION: [&[u8]; 4] = [b"etc", b"conf", b"conf.d", b"config"];

/// The sealed directories that are watched before all others, the first first, each behind those that it lies in. The root
/// is not among them. What is not listed is watched from the root downwards, for as long as there are watches.
pub(super) fn first(tree: &Tree) -> Vec<TreePath> {
    let mut found: BTreeMap<EntryId, Holds> = BTreeMap::new();
    let mut note = |directory: EntryId, holds: Holds| {
        found.entry(directory).and_modify(|known| *known = holds.min(*known)).or_insert(holds);
    };
    for id in tree.iter() {
        match tree.file_type(id) {
            FileType::File => {
                if let (Some(parent), Some(holds)) = (tree.parent(id), file(tree, id)) {
                    note(parent, holds);
                }
            }
            FileType::Directory if is_configuration(tree, id) => note(id, Holds::Configuration),
            _ => {}
        }
    }
    let mut ranked: Vec<(Holds, EntryId)> = found.into_iter().map(|(id, holds)| (holds, id)).collect();
    ranked.sort_unstable();
    let mut listed = BTreeSet::from([EntryId::ROOT]);
    let mut order = Vec::new();
    for (_, id) in ranked {
        // Without those above it nobody would know where it is.
        let mut way = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at.filter(|id| listed.insert(*id)) {
            way.push(id);
            at = tree.parent(id);
        }
        order.extend(way.into_iter().rev().map(|id| tree.path(id)));
    }
    order
}

fn file(tree: &Tree, id: EntryId) -> Option<Holds> {
    let node = tree.node(id);
    let mode = node.mode.unwrap_or_default();
    let capable = node.xattrs.is_some_and(|xattrs| xattrs.iter().any(|(name, _)| name == CAPABILITY));
    let name = tree.name(id);
    let library = name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.");
    match () {
        () if capable || (mode & SET_ID != 0 && mode & EXECUTE != 0) => Some(Holds::Rights),
        () if mode & EXECUTE != 0 || library => Some(Holds::Code),
        () => None,
    }
}

fn is_configuration(tree: &Tree, id: EntryId) -> bool {
    let mut above = std::iter::successors(Some(id), |id| tree.parent(*id));
    above.any(|id| CONFIGURATION.contains(&tree.name(id)))
}

#[cfg(test)]
mod tests {
    use driftlock_common::node::{Kind, Node, Xattrs};

    use super::*;

    /// `path`, a directory if it ends with a slash, else a file with a mode and perhaps capabilities.
    fn tree(entries: &[(&str, u16, bool)]) -> Tree {
        let mut entries: Vec<(TreePath, Node)> = entries
            .iter()
            .map(|(path, mode, capable)| {
                let kind = match path.ends_with('/') {
                    true => Kind::Directory,
                    false => Kind::File { size: None, content: None },
                };
                let xattr = (CAPABILITY.into(), b"x".as_slice().into());
                let xattrs = capable.then(|| Xattrs::new(vec![xattr]).unwrap());
                (
                    TreePath::new(path.trim_end_matches('/')).unwrap(),
                    Node { mode: Some(*mode), xattrs, ..Node::bare(kind) },
                )
            })
            .collect();
        entries.push((TreePath::root(), Node::implicit_directory()));
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Tree::from_sorted(entries.into_iter().map(|(path, node)| (path, node, Default::default()))).unwrap()
    }

    #[test]
    fn what_gives_rights_comes_before_code_and_code_before_configuration() {
        let tree = tree(&[
            ("data/", 0o755, false),
            ("data/f", 0o644, false),
            ("etc/", 0o755, false),
            ("etc/ssl/", 0o755, false),
            ("etc/ssl/key", 0o600, false),
            ("opt/", 0o755, false),
            ("opt/net/", 0o755, false),
            ("opt/net/ping", 0o755, true),
            ("srv/", 0o755, false),
            ("srv/app/", 0o755, false),
            ("srv/app/conf.d/", 0o755, false),
            ("usr/", 0o755, false),
            ("usr/bin/", 0o755, false),
            ("usr/bin/ls", 0o755, false),
            ("usr/bin/su", 0o4755, false),
            ("usr/lib/", 0o755, false),
            ("usr/lib/libc.so.6", 0o644, false),
            ("usr/sbin/", 0o755, false),
            ("usr/sbin/d", 0o744, false),
            ("usr/share/", 0o755, false),
            // Neither is code, whatever their names and modes say.
            ("usr/share/mail/", 0o2775, false),
            ("usr/share/mail/lock", 0o2644, false),
            ("usr/share/x.some", 0o644, false),
        ]);
        let order: Vec<String> = first(&tree).iter().map(|path| path.escaped().to_string()).collect();
        let expected = [
            "opt",
            "opt/net",
            "usr",
            "usr/bin",
            "usr/lib",
            "usr/sbin",
            "etc",
            "etc/ssl",
            "srv",
            "srv/app",
            "srv/app/conf.d",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn nothing_comes_first_where_nothing_is_known() {
        assert_eq!(first(&tree(&[])), []);
        assert_eq!(first(&tree(&[("a/", 0o755, false), ("a/f", 0o644, false), ("run", 0o755, false)])), []);
    }
}
