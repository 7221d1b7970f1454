//! Owns what of each node a comparison looks at: everything that was sealed, or less by wish. Must not own how nodes
//! are observed, or which paths are left out.

use crate::drift::{Attribute, Attributes, Delta, Drift, differences};
use crate::node::{FileType, Node, Presence, Xattr, Xattrs};
use crate::profile::Profile;

/// What is compared of every node. Its type always is, and so is whether it is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    profile: Profile,
    attributes: Attributes,
}

impl Compared {
    /// Everything that a manifest of `profile` may specify.
    pub fn all(profile: Profile) -> Self {
        let allowed = FileType::ALL.into_iter().map(|file_type| profile.allows(file_type));
        let allowed = allowed.fold(Presence::NONE, Presence::union);
        let specified = |attribute: &Attribute| allowed.contains(presence(*attribute));
        Self { profile, attributes: Attribute::ALL.into_iter().filter(specified).collect() }
    }

    /// Of that, only the type and what is in `wanted`.
    #[must_use]
    pub fn only(self, mut wanted: Attributes) -> Self {
        wanted.insert(Attribute::Type);
        Self { attributes: self.attributes.intersection(wanted), ..self }
    }

    /// The profile that says which extended attributes count.
    pub const fn profile(self) -> Profile {
        self.profile
    }

    /// What can be found to differ; the type is always among it.
    pub const fn attributes(self) -> Attributes {
        self.attributes
    }

    /// What is needed to know of a node of `file_type`. Nothing else has to be established.
    pub fn allows(self, file_type: FileType) -> Presence {
        let wanted = self.attributes.iter().map(presence).fold(Presence::NONE, Presence::union);
        self.profile.allows(file_type).intersection(wanted)
    }

    /// What differs of it, where both nodes specify it. `expected` may have been sealed under a wider profile.
    pub fn differences(self, expected: &Node, observed: &Node) -> Attributes {
        let found = differences(expected, observed).intersection(self.attributes);
        let held = |node: &Node| -> Vec<Xattr> {
            let all = node.xattrs.iter().flat_map(Xattrs::iter);
            all.filter(|(name, _)| self.profile.holds_xattr(name)).map(|(n, v)| (n.into(), v.into())).collect()
        };
        // A wider profile seals names that this one does not hold.
        if found.contains(Attribute::Xattrs) && held(expected) == held(observed) {
            return found.without(Attributes::of(Attribute::Xattrs));
        }
        found
    }

    /// A difference between two whole trees, as far as it is compared; `None` if nothing of it is.
    pub fn narrow(self, mut drift: Drift) -> Option<Drift> {
        if let Delta::Changed { attributes, expected, observed, .. } = &mut drift.delta {
            *attributes = self.differences(&expected.node, observed);
            if attributes.is_empty() {
                return None;
            }
        }
        Some(drift)
    }
}

/// The bits of a node that say something of an attribute; none for what every node of its type has.
const fn presence(attribute: Attribute) -> Presence {
    match attribute {
        Attribute::Type | Attribute::Target => Presence::NONE,
        Attribute::Content => Presence::SIZE.union(Presence::CONTENT),
        Attribute::Mode => Presence::MODE,
        Attribute::Uid => Presence::UID,
        Attribute::Gid => Presence::GID,
        Attribute::Xattrs => Presence::XATTRS,
        Attribute::Device => Presence::DEVICE,
        Attribute::Mtime => Presence::MTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::drift::Sealed;
    use crate::node::Kind;
    use crate::path::TreePath;
    use crate::tree::Origin;

    fn file(content: &[u8], mode: u16, xattrs: &[&str]) -> Node {
        let kind = Kind::File { size: Some(content.len() as u64), content: Some(Digest::blake3(content)) };
        let xattrs = xattrs.iter().map(|name| (name.as_bytes().into(), b"1".as_slice().into())).collect();
        Node { mode: Some(mode), uid: Some(0), gid: Some(0), xattrs: Xattrs::new(xattrs), ..Node::bare(kind) }
    }

    fn words(attributes: Attributes) -> String {
        attributes.iter().map(Attribute::name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_profile_compares_what_its_table_has() {
        for (profile, expected) in [
            (Profile::Content, "type content target device"),
            (Profile::Portable, "type content target mode uid gid xattrs device"),
            (Profile::Full, "type content target mode uid gid xattrs device mtime"),
        ] {
            assert_eq!(words(Compared::all(profile).attributes()), expected);
            for file_type in FileType::ALL {
                assert_eq!(Compared::all(profile).allows(file_type), profile.allows(file_type));
            }
        }
    }

    #[test]
    fn what_is_not_wanted_is_neither_needed_nor_found() {
        let (sealed, other) = (file(b"a", 0o644, &[]), file(b"b", 0o600, &["security.capability"]));
        let all = Compared::all(Profile::Portable);
        assert_eq!(words(all.differences(&sealed, &other)), "content mode xattrs");
        for attribute in Attribute::ALL {
            let only = all.only(Attributes::of(attribute));
            assert_eq!(
                only.differences(&sealed, &other),
                all.differences(&sealed, &other).intersection(only.attributes)
            );
            let needed = only.allows(FileType::File);
            assert_eq!(needed.contains(Presence::CONTENT), attribute == Attribute::Content, "{attribute:?}");
            assert_eq!(needed.contains(Presence::XATTRS), attribute == Attribute::Xattrs, "{attribute:?}");
        }
        // What the profile does not have cannot be wished for.
        assert_eq!(words(all.only(Attributes::of(Attribute::Mtime)).attributes()), "type");
        let link = Node::bare(Kind::Symlink { target: b"x".as_slice().into() });
        let only_mode = all.only(Attributes::of(Attribute::Mode));
        assert_eq!(words(only_mode.differences(&sealed, &link)), "type");
        let elsewhere = Node::bare(Kind::Symlink { target: b"y".as_slice().into() });
        assert_eq!(words(only_mode.differences(&link, &elsewhere)), "");
        assert_eq!(words(all.differences(&link, &elsewhere)), "target");
    }

    #[test]
    fn a_difference_of_two_trees_is_narrowed_or_goes_away() {
        let changed = |expected: &Node, observed: &Node| Drift {
            path: TreePath::new("a").unwrap(),
            delta: Delta::Changed {
                attributes: differences(expected, observed),
                expected: Sealed { node: expected.clone(), origin: Origin::default(), part: 0 },
                observed: observed.clone(),
                unverified: None,
            },
        };
        let (noted, plain, closed) =
            (file(b"", 0o644, &["user.note"]), file(b"", 0o644, &[]), file(b"", 0o600, &["user.note"]));
        let portable = Compared::all(Profile::Portable);
        assert_eq!(portable.narrow(changed(&noted, &plain)), None);
        let left = portable.narrow(changed(&plain, &closed)).unwrap();
        assert!(matches!(left.delta, Delta::Changed { attributes, .. } if words(attributes) == "mode"));
        let full = Compared::all(Profile::Full);
        assert_eq!(full.narrow(changed(&plain, &closed)), Some(changed(&plain, &closed)));
    }

    #[test]
    fn names_of_a_wider_profile_do_not_count() {
        let sealed = file(b"", 0o644, &["security.capability", "user.note"]);
        let observed = file(b"", 0o644, &["security.capability"]);
        assert_eq!(words(Compared::all(Profile::Full).differences(&sealed, &observed)), "xattrs");
        assert_eq!(words(Compared::all(Profile::Portable).differences(&sealed, &observed)), "");
        let without = file(b"", 0o644, &[]);
        assert_eq!(words(Compared::all(Profile::Portable).differences(&sealed, &without)), "xattrs");
    }
}
