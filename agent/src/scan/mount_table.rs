//! Owns telling the mounts of what the kernel makes from those of files that somebody wrote. It asks the mount table, so that
//! no file system is touched for it. Must not own what becomes of a mount.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rustix::fs::makedev;

use super::open::Stat;
use crate::host;
use crate::host::file_system::is_virtual;
use crate::host::mountinfo::Mount;
use crate::process::Process;

/// The mount table in which the mounts inside a root stand, as it was when the first of them was met: read then, and once.
#[derive(Debug)]
pub struct MountTable {
    file: String,
    /// The devices of mounts that are virtual, by the mounts' numbers.
    virtuals: OnceLock<BTreeMap<u64, u64>>,
}

impl MountTable {
    /// That of the process whose root it is; this process's own for a directory.
    pub(super) fn of(process: Option<&Process>) -> Self {
        let file = process.map_or_else(
            || "/proc/self/mountinfo".to_owned(),
            // If the number means another process by then, the one of the root has ended, and so has what this is for.
            |process| format!("/proc/{}/mountinfo", process.pid()),
        );
        Self { file, virtuals: OnceLock::new() }
    }

    /// The table, as it is now.
    ///
    /// # Errors
    /// Why it cannot be read, one line.
    pub(super) fn read(&self) -> Result<Vec<Mount>, String> {
        host::mount_table(&self.file)
    }

    /// Whether what was found to be `stat` lies on a virtual file system. Where nothing is known it does not: then it is a
    /// mount as any other.
    pub(super) fn is_virtual(&self, stat: &Stat) -> bool {
        let Some(mount) = stat.mount() else { return false };
        let read = || self.read().map(|table| virtuals(&table)).unwrap_or_default();
        // Numbers are given anew. With the same device it is still the same file system.
        self.virtuals.get_or_init(read).get(&mount) == Some(&stat.dev)
    }
}

fn virtuals(table: &[Mount]) -> BTreeMap<u64, u64> {
    let virtuals = table.iter().filter(|mount| is_virtual(mount));
    virtuals.map(|mount| (mount.id, makedev(mount.device.0, mount.device.1))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::super::open::stat_fd;
    use super::*;
    use crate::host::mountinfo::parse;

    #[test]
    fn virtual_mounts_are_known_by_number_and_device() {
        let table = parse(
            b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:4 / /proc rw - proc proc rw\n\
              22 20 0:5 / /dev rw - devtmpfs udev rw\n23 22 0:30 / /dev/shm rw - tmpfs tmpfs rw\n\
              24 20 0:5 /evil /usr/bin/ssh rw - devtmpfs udev rw\n",
        );
        assert_eq!(virtuals(&table.unwrap()), BTreeMap::from([(21, makedev(0, 4)), (22, makedev(0, 5))]));
    }

    #[test]
    fn a_mount_is_looked_up_in_the_real_table() {
        let stat = |path: &str| stat_fd(std::fs::File::open(path).unwrap().as_fd()).unwrap();
        let table = MountTable::of(None);
        assert!(table.is_virtual(&stat("/proc")));
        assert!(table.is_virtual(&stat("/proc/self/status")));
        let temp = tempfile::tempdir().unwrap();
        assert!(!table.is_virtual(&stat(temp.path().to_str().unwrap())));
        // The number of another device's mount.
        let mut other = stat("/proc");
        other.dev ^= 1;
        assert!(!table.is_virtual(&other));
        let nothing = MountTable { file: "/proc/self/none".to_owned(), virtuals: OnceLock::new() };
        assert!(!nothing.is_virtual(&stat("/proc")));
    }
}
