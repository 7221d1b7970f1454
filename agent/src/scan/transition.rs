//! Owns the time between two manifests, when a path may be as in either: which differences from the new one are none from
//! the one before. Must not own when that time ends.

use std::fmt;
use std::sync::Arc;

use driftlock_common::compared::Compared;
use driftlock_common::drift::{Delta, Drift};
use driftlock_common::node::{Kind, Node};

use super::Expected;

/// What a path may still be as.
#[derive(Clone)]
pub struct Transition {
    before: Arc<dyn Expected + Send + Sync>,
}

impl Transition {
    /// A path may still be as in `before`.
    pub fn from(before: Arc<dyn Expected + Send + Sync>) -> Self {
        Self { before }
    }

    /// Whether a difference from the new manifest is as the one before had it. What could not be established is as nothing
    /// had it.
    pub fn covers(&self, drift: &Drift, compared: Compared) -> bool {
        let manifest = self.before.manifest();
        let before = || manifest.tree.find(&drift.path).map(|id| manifest.tree.node(id));
        match &drift.delta {
            Delta::Added { observed, unverified: None, collapsed: None }
            | Delta::Changed { observed, unverified: None, .. } => {
                // What was left out may have been anything.
                manifest.leaves_out(&drift.path) || before().is_some_and(|node| is_as(&node, observed, compared))
            }
            Delta::Removed { .. } => before().is_none(),
            Delta::Added { .. } | Delta::Changed { .. } | Delta::Unverifiable { .. } => false,
        }
    }
}

/// Whether everything that was sealed of `before` and is compared was established and is the same.
fn is_as(before: &Node, observed: &Node, compared: Compared) -> bool {
    let wanted = before.presence().intersection(compared.allows(before.file_type()));
    // A file of which nobody read the content is as no other.
    let is_read = !matches!(before.kind, Kind::File { content: Some(_), .. })
        || matches!(observed.kind, Kind::File { content: Some(_), .. });
    is_read && observed.presence().contains(wanted) && compared.differences(before, observed).is_empty()
}

impl fmt::Debug for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transition").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::Digest;
    use driftlock_common::drift::diff;
    use driftlock_common::drift::{Attribute, Attributes, Unverified};
    use driftlock_common::gap::Reason;
    use driftlock_common::manifest::Manifest;
    use driftlock_common::path::TreePath;
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::{Origin, Tree};

    use super::*;
    use crate::baseline::kit;

    /// Files by name and content; `/` at the end is a directory.
    fn tree(entries: &[(&str, &str)]) -> Tree {
        let entry = |(path, content): &(&str, &str)| {
            let name = path.strip_suffix('/');
            let file =
                || Kind::File { size: Some(content.len() as u64), content: Some(Digest::blake3(content.as_bytes())) };
            let kind = if name.is_some() { Kind::Directory } else { file() };
            (TreePath::new(name.unwrap_or(path)).unwrap(), Node::bare(kind), Origin::default())
        };
        Tree::from_sorted(entries.iter().map(entry)).unwrap()
    }

    fn transition(before: &[(&str, &str)], excludes: &[&str]) -> Transition {
        let Manifest { header, .. } = kit::manifest(Profile::Content, excludes, &[]);
        Transition::from(Arc::new(Manifest { header, tree: tree(before) }))
    }

    /// Every tree of some small ones, against an oracle that looks at each path by itself.
    #[test]
    fn a_path_is_as_in_the_one_or_the_other_and_everything_else_is_found() {
        let states = [None, Some("1"), Some("2"), Some("3"), Some("/")];
        let content =
            |state: Option<&'static str>| state.map(|content| if content == "/" { ("a/", "") } else { ("a", content) });
        let compared = Compared::all(Profile::Content);
        for old in states {
            let transition = transition(&content(old).into_iter().collect::<Vec<_>>(), &[]);
            for new in states {
                for there in states {
                    let [new_tree, there_tree] =
                        [new, there].map(|state| tree(&content(state).into_iter().collect::<Vec<_>>()));
                    let left: Vec<Drift> = diff(&new_tree, &there_tree)
                        .into_iter()
                        .filter(|drift| !transition.covers(drift, compared))
                        .collect();
                    assert_eq!(left.is_empty(), there == old || there == new, "{old:?} {new:?} {there:?} {left:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_not_established_is_as_nothing_had_it() {
        let transition = transition(&[("a", "1")], &["left/**"]);
        let compared = Compared::all(Profile::Content);
        let drift = |path: &str, delta| Drift { path: TreePath::new(path).unwrap(), delta };
        let node = |content: Option<&str>| {
            Node::bare(Kind::File { size: Some(1), content: content.map(|text| Digest::blake3(text.as_bytes())) })
        };
        let gap = Unverified { attributes: Attributes::of(Attribute::Content), reason: Reason::TooLarge };
        for (path, delta, covered) in [
            ("a", Delta::Added { observed: node(Some("1")), unverified: None, collapsed: None }, true),
            ("a", Delta::Added { observed: node(None), unverified: None, collapsed: None }, false),
            ("a", Delta::Added { observed: node(Some("1")), unverified: Some(gap), collapsed: None }, false),
            ("a", Delta::Added { observed: node(Some("1")), unverified: None, collapsed: Some(9) }, false),
            ("a", Delta::Unverifiable { reason: Reason::TooLarge, covers: 1, expected: None }, false),
            ("left/x", Delta::Added { observed: node(Some("9")), unverified: None, collapsed: None }, true),
            ("lefty", Delta::Added { observed: node(Some("9")), unverified: None, collapsed: None }, false),
        ] {
            assert_eq!(transition.covers(&drift(path, delta.clone()), compared), covered, "{path} {delta:?}");
        }
    }
}
