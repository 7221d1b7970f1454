//! Owns which attributes of which file types a manifest of a profile may specify, and which extended
//! attributes count. Must not own comparing.

use serde::{Deserialize, Serialize};

use crate::node::{FileType, Presence};

/// How much of a node a manifest specifies. Bound in the tree digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Type, content, link target, device numbers: survives an unpack without privileges.
    Content,
    /// `content` and mode, owner, group and file capabilities: what an image fixes on every host.
    #[default]
    Portable,
    /// `portable` and modification times, user attributes and ACLs.
    Full,
}

/// The attribute that `portable` compares: it grants rights.
pub const CAPABILITY: &[u8] = b"security.capability";

// === impl Profile ===

impl Profile {
    /// The word in headers and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Portable => "portable",
            Self::Full => "full",
        }
    }

    /// The attributes that a node of `file_type` may specify under this profile (the table of the format).
    pub fn allows(self, file_type: FileType) -> Presence {
        const OWNER: Presence = Presence::UID.union(Presence::GID);
        const METADATA: Presence = Presence::MODE.union(OWNER);
        let content = match file_type {
            FileType::File => Presence::SIZE.union(Presence::CONTENT),
            FileType::Char | FileType::Block => Presence::DEVICE,
            FileType::Directory | FileType::Symlink | FileType::Fifo | FileType::Socket => Presence::NONE,
        };
        let portable = match file_type {
            FileType::File => METADATA.union(Presence::XATTRS),
            // A link's own mode means nothing on Linux.
            FileType::Symlink => OWNER,
            FileType::Directory | FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket => METADATA,
        };
        let full = match file_type {
            // A directory's time changes with every temporary file in it.
            FileType::Directory => Presence::XATTRS,
            FileType::File
            | FileType::Symlink
            | FileType::Char
            | FileType::Block
            | FileType::Fifo
            | FileType::Socket => Presence::MTIME,
        };
        match self {
            Self::Content => content,
            Self::Portable => content.union(portable),
            Self::Full => content.union(portable).union(full),
        }
    }

    /// Whether an extended attribute is part of a tree under this profile.
    pub fn holds_xattr(self, name: &[u8]) -> bool {
        match self {
            Self::Content => false,
            Self::Portable => name == CAPABILITY,
            Self::Full => {
                name == CAPABILITY
                    || name == b"system.posix_acl_access"
                    || name == b"system.posix_acl_default"
                    || (name.starts_with(b"user.")
                        && !name.starts_with(b"user.overlay.")
                        && !name.starts_with(b"user.containers."))
            }
        }
    }
}

/// A file capability in the one form a tree holds: revision 3 whose `rootid` is 0 says the same as
/// revision 2 and is written as that (linux/capability.h, `struct vfs_ns_cap_data`). Other bytes stay as they are.
pub fn normal_capability(value: &[u8]) -> Vec<u8> {
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const REVISION_MASK: u32 = 0xff00_0000;
    let (Some(magic), Some(rootid)) = (value.first_chunk::<4>(), value.get(20..24)) else { return value.to_vec() };
    let magic = u32::from_le_bytes(*magic);
    if value.len() != 24 || magic & REVISION_MASK != REVISION_3 || rootid != [0; 4] {
        return value.to_vec();
    }
    let mut two = ((magic & !REVISION_MASK) | REVISION_2).to_le_bytes().to_vec();
    two.extend_from_slice(&value[4..20]);
    two
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_format() {
        let letters = |p: Presence| {
            [
                (Presence::MODE, 'm'),
                (Presence::UID, 'u'),
                (Presence::GID, 'g'),
                (Presence::MTIME, 't'),
                (Presence::SIZE, 's'),
                (Presence::CONTENT, 'c'),
                (Presence::DEVICE, 'd'),
                (Presence::XATTRS, 'x'),
            ]
            .into_iter()
            .filter(|(bit, _)| p.contains(*bit))
            .map(|(_, letter)| letter)
            .collect::<String>()
        };
        for (profile, expected) in [
            (Profile::Content, ["sc", "", "", "d", "d", "", ""]),
            (Profile::Portable, ["mugscx", "mug", "ug", "mugd", "mugd", "mug", "mug"]),
            (Profile::Full, ["mugtscx", "mugx", "ugt", "mugtd", "mugtd", "mugt", "mugt"]),
        ] {
            for (file_type, expected) in FileType::ALL.into_iter().zip(expected) {
                assert_eq!(letters(profile.allows(file_type)), expected, "{profile:?} {file_type:?}");
            }
        }
    }

    #[test]
    fn capabilities_have_one_form() {
        let two: Vec<u8> = [0x01, 0, 0, 2].into_iter().chain([7; 16]).collect();
        let three: Vec<u8> = [0x01, 0, 0, 3].into_iter().chain([7; 16]).chain([0; 4]).collect();
        assert_eq!(normal_capability(&three), two);
        assert_eq!(normal_capability(&two), two);
        let namespaced: Vec<u8> = [0x01, 0, 0, 3].into_iter().chain([7; 16]).chain([1, 0, 0, 0]).collect();
        assert_eq!(normal_capability(&namespaced), namespaced);
        assert_eq!(normal_capability(b"x"), b"x");
    }

    #[test]
    fn xattr_names() {
        for (name, portable, full) in [
            ("security.capability", true, true),
            ("user.note", false, true),
            ("user.overlay.opaque", false, false),
            ("user.containers.override_stat", false, false),
            ("system.posix_acl_access", false, true),
            ("security.selinux", false, false),
            ("trusted.overlay.opaque", false, false),
        ] {
            assert!(!Profile::Content.holds_xattr(name.as_bytes()));
            assert_eq!(Profile::Portable.holds_xattr(name.as_bytes()), portable, "{name}");
            assert_eq!(Profile::Full.holds_xattr(name.as_bytes()), full, "{name}");
        }
    }
}
