//! Owns what kind a file system is, by the name of its type, and which mounts are the kernel's own. Must not own where
//! anything is mounted.

use super::mountinfo::Mount;

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

/// Types that the kernel fills, or that are for something else than files, in which files can be made all the same.
const KERNEL_AND_FILES: [&[u8]; 2] = [b"devtmpfs", b"hugetlbfs"];

/// Whether a mount shows what the kernel makes: nothing there was built, so nothing there can be as it was built. What
/// can hold files that somebody wrote is not, whoever mounted it: neither tmpfs, nor overlayfs, nor anything of FUSE.
pub fn is_virtual(mount: &Mount) -> bool {
    let name = mount.fs_type.as_slice();
    // A part of one, mounted elsewhere, is how a file that was made there could be put in the place of another.
    let whole = mount.root == b"/";
    name == b"autofs" || KERNEL.contains(&name) || (whole && KERNEL_AND_FILES.contains(&name))
}

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
    fn what_the_kernel_makes_is_virtual_and_what_holds_files_is_not() {
        let mount = |fs_type: &str, root: &str| Mount {
            id: 36,
            parent: 35,
            device: (0, 40),
            root: root.into(),
            point: b"/mnt".to_vec(),
            options: b"rw".to_vec(),
            fs_type: fs_type.into(),
            source: b"none".to_vec(),
            super_options: b"rw".to_vec(),
        };
        for fs_type in [
            "proc",
            "sysfs",
            "cgroup",
            "cgroup2",
            "devpts",
            "devtmpfs",
            "debugfs",
            "tracefs",
            "securityfs",
            "mqueue",
            "bpf",
            "configfs",
            "pstore",
            "hugetlbfs",
            "autofs",
            "binfmt_misc",
            "efivarfs",
            "fusectl",
            "nsfs",
            "rpc_pipefs",
            "selinuxfs",
            "smackfs",
        ] {
            assert!(is_virtual(&mount(fs_type, "/")), "{fs_type}");
        }
        for (fs_type, part) in [("proc", "/sys"), ("nsfs", "net:[4026531840]"), ("devpts", "/0"), ("sysfs", "/a")] {
            assert!(is_virtual(&mount(fs_type, part)), "{fs_type} {part}");
        }
        for fs_type in [
            "tmpfs",
            "ramfs",
            "overlay",
            "fuse",
            "fuse.lxcfs",
            "fuseblk",
            "ext4",
            "nfs4",
            "9p",
            "proc2",
            "",
            "squashfs",
        ] {
            assert!(!is_virtual(&mount(fs_type, "/")), "{fs_type}");
        }
        for fs_type in ["devtmpfs", "hugetlbfs"] {
            assert!(!is_virtual(&mount(fs_type, "/made")), "{fs_type}");
        }
    }

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
