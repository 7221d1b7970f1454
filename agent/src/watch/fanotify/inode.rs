//! Owns reading the number of an inode out of its handle, which the kernel calls opaque. Must not own what has that number.
//!
//! Almost everything that happens on a host is no business of the agent's, but any file may be another name of a sealed one.
//! To open each of them to ask for its number would cost 3 µs an event. So the forms of the common file systems are known here,
//! and a form is trusted on a file system once it was right about a directory whose number is known.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;

use super::decode::Object;
use crate::sys::handle::{Handle, name_to_handle, open_handle};

/// How a file system writes handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// ext4 (fs/libfs.c, `FILEID_INO32_GEN`): the number in 32 bits, a generation.
    Number32,
    /// tmpfs (mm/shmem.c): a generation, the number in two halves, the lower first.
    Halves,
    /// XFS (fs/xfs/xfs_export.h): as ext4, or with the number in 64 bits.
    Xfs,
    /// btrfs (fs/btrfs/export.h, `FILEID_BTRFS_WITHOUT_PARENT`): the number in 64 bits, the subvolume, a generation.
    Btrfs,
    /// Another one: what has the handle is opened, and asked.
    Unknown,
}

impl Form {
    /// Of the file system that a directory lies on.
    pub(super) fn of(directory: BorrowedFd<'_>) -> Self {
        let magic = fstatfs(directory).map(|statfs| i64::from(statfs.f_type));
        let form = match magic {
            // EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC of linux/magic.h.
            Ok(0xef53) => Self::Number32,
            Ok(0x0102_1994) => Self::Halves,
            Ok(0x5846_5342) => Self::Xfs,
            Ok(0x9123_683e) => Self::Btrfs,
            _ => Self::Unknown,
        };
        let is_right = || {
            let (kind, bytes) = name_to_handle(directory, c"").ok()?;
            Some(form.read(kind, &bytes)? == fstat(directory).ok()?.st_ino)
        };
        if is_right() == Some(true) { form } else { Self::Unknown }
    }

    /// The number of what has a handle on the file system of `mount`; `None` if it is gone.
    ///
    /// # Errors
    /// If that cannot be told.
    pub(super) fn number(self, mount: BorrowedFd<'_>, object: &Object<'_>) -> io::Result<Option<u64>> {
        if let Some(number) = self.read(object.kind, object.handle) {
            return Ok(Some(number));
        }
        match open_handle(mount, Handle { kind: object.kind, bytes: object.handle }) {
            Ok(opened) => Ok(Some(fstat(opened.as_fd())?.st_ino)),
            Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(self, kind: i32, handle: &[u8]) -> Option<u64> {
        let half = |at: usize| Some(u64::from(u32::from_ne_bytes(handle.get(at..at + 4)?.try_into().ok()?)));
        let whole = || Some(u64::from_ne_bytes(handle.get(..8)?.try_into().ok()?));
        match (self, kind, handle.len()) {
            (Self::Number32 | Self::Xfs, 1, 8) => half(0),
            (Self::Halves, 1, 12) => Some(half(4)? | half(8)? << 32),
            (Self::Xfs, 0x81, 12..) | (Self::Btrfs, 0x4d, 20) => whole(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_number_in_a_handle_is_that_of_stat() {
        for top in [std::env::temp_dir(), "/dev/shm".into()] {
            let dir = tempfile::tempdir_in(&top).unwrap();
            let opened = std::fs::File::open(dir.path()).unwrap();
            let form = Form::of(opened.as_fd());
            for n in 0..100 {
                let path = dir.path().join(format!("{n}"));
                std::fs::write(&path, "1").unwrap();
                let name = std::ffi::CString::new(format!("{n}")).unwrap();
                let (kind, handle) = name_to_handle(opened.as_fd(), &name).unwrap();
                let object = Object { fsid: 0, kind, handle: &handle };
                let number = form.number(opened.as_fd(), &object).unwrap();
                assert_eq!(number, Some(path.metadata().unwrap().ino()), "{form:?} on {}", top.display());
            }
        }
    }

    /// Recorded by name_to_handle_at(2) on Linux 6.18.
    #[test]
    fn the_forms_of_file_systems_that_are_not_at_hand() {
        for (form, kind, handle, number) in [
            (Form::Number32, 1, "0c00000014775e33", 12),
            (Form::Halves, 1, "935a002b6f01000000000000", 367),
            (Form::Xfs, 0x81, "8300000000000000b6e85910", 131),
            (Form::Btrfs, 0x4d, "0101000000000000050000000000000007000000", 257),
        ] {
            assert_eq!(form.read(kind, &hex::decode(handle).unwrap()), Some(number), "{form:?}");
            assert_eq!(Form::Unknown.read(kind, &hex::decode(handle).unwrap()), None);
        }
    }
}
