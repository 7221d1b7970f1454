//! Owns reading extended attributes of an open file. Must not own which of them count: that is the profile's.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use driftlock_common::node::{Xattr, Xattrs};
use driftlock_common::profile::{CAPABILITY, Profile};
use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use super::ids::IdMap;

/// The most that Linux gives for a list or a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX: usize = 64 * 1024;

/// The attributes of `fd` that are part of a tree under `profile`, ids in them as `ids` calls them.
pub(super) fn read(fd: BorrowedFd<'_>, profile: Profile, ids: &IdMap) -> Result<Xattrs, Errno> {
    let mut found = Vec::new();
    match profile {
        Profile::Content => {}
        Profile::Portable => found.extend(capability(fd, ids)?),
        Profile::Full => {
            let mut names = vec![0; MAX];
            let len = match flistxattr(fd, names.as_mut_slice()) {
                Ok(len) => len,
                Err(Errno::OPNOTSUPP) => 0,
                Err(error) => return Err(error),
            };
            for name in names[..len].split_inclusive(|b| *b == 0) {
                let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
                if profile.holds_xattr(name.to_bytes()) {
                    found.extend(value(fd, name, &mut vec![0; MAX], ids)?);
                }
            }
        }
    }
    // The kernel gives no name twice; if a file system does, the file moved or lies.
    Xattrs::new(found).ok_or(Errno::IO)
}

fn capability(fd: BorrowedFd<'_>, ids: &IdMap) -> Result<Option<Xattr>, Errno> {
    const NAME: &CStr = c"security.capability";
    // A capability is 20 or 24 bytes (linux/capability.h); other bytes there are shown as they are.
    match value(fd, NAME, &mut [0; 64], ids) {
        Err(Errno::RANGE) => value(fd, NAME, &mut vec![0; MAX], ids),
        answer => answer,
    }
}

fn value(fd: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8], ids: &IdMap) -> Result<Option<Xattr>, Errno> {
    match fgetxattr(fd, name, &mut *buffer) {
        Ok(len) => {
            let bytes = &buffer[..len];
            let value = match name.to_bytes() {
                CAPABILITY => ids.capability(bytes).into(),
                b"system.posix_acl_access" | b"system.posix_acl_default" => ids.acl(bytes).into(),
                _ => bytes.into(),
            };
            Ok(Some((name.to_bytes().into(), value)))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}
