//! Owns what kind a file system is, by the name of its type. Must not own how it is mounted.

/// What matters of a file system's type to who watches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every change goes through this kernel.
    Local,
    /// Others change it too, and what they do gives no event here; reading it may hang.
    Network,
    /// A program of this host answers for it: it may change without an event, and reading it may hang.
    User,
    /// Made of layers that can be changed beneath it, without an event.
    Overlay,
    /// The kernel's own: there are no files that could be as sealed.
    Kernel,
}

/// Types where others write too.
const NETWORK: [&[u8]; 18] = [
    b"nfs",
    b"nfs4",
    b"cifs",
    b"smb3",
    b"smbfs",
    b"9p",
    b"virtiofs",
    b"ceph",
    b"afs",
    b"coda",
    b"orangefs",
    b"lustre",
    b"gpfs",
    b"beegfs",
    b"ocfs2",
    b"gfs2",
    b"ncpfs",
    b"vboxsf",
];

/// Types of which every file is the kernel's.
const KERNEL: [&[u8]; 19] = [
    b"proc",
    b"sysfs",
    b"cgroup",
    b"cgroup2",
    b"devpts",
    b"mqueue",
    b"securityfs",
    b"selinuxfs",
    b"smackfs",
    b"debugfs",
    b"tracefs",
    b"bpf",
    b"pstore",
    b"configfs",
    b"efivarfs",
    b"nsfs",
    b"binfmt_misc",
    b"fusectl",
    b"rpc_pipefs",
];

impl Kind {
    /// Of the type `fs_type`, as a mount table has it. What is unknown is taken for local.
    pub fn of(fs_type: &[u8]) -> Self {
        match fs_type {
            b"overlay" | b"aufs" => Self::Overlay,
            b"fuse" | b"fuseblk" => Self::User,
            // Nothing there yet, or a mount that is made by looking at it.
            b"autofs" => Self::Network,
            name if name.starts_with(b"fuse.") => Self::User,
            name if NETWORK.contains(&name) => Self::Network,
            name if KERNEL.contains(&name) => Self::Kernel,
            _ => Self::Local,
        }
    }

    /// Whether looking at it may take for ever.
    pub const fn may_hang(self) -> bool {
        matches!(self, Self::Network | Self::User)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (name, kind) in [
            ("ext4", Kind::Local),
            ("tmpfs", Kind::Local),
            ("devtmpfs", Kind::Local),
            ("nfs4", Kind::Network),
            ("virtiofs", Kind::Network),
            ("autofs", Kind::Network),
            ("fuse", Kind::User),
            ("fuse.sshfs", Kind::User),
            ("fusectl", Kind::Kernel),
            ("overlay", Kind::Overlay),
            ("proc", Kind::Kernel),
        ] {
            assert_eq!(Kind::of(name.as_bytes()), kind, "{name}");
        }
    }
}
