//! Owns reading extended attributes of an open file. Must not own which of them count: that is the profile's.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use driftlock_common::node::{Xattr, Xattrs};
use driftlock_common::profile::{CAPABILITY, Profile, normal_capability};
use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

/// The most that Linux gives for a list or a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX: usize = 64 * 1024;

/// The attributes of `fd` that are part of a tree under `profile`.
pub(super) fn read(fd: BorrowedFd<'_>, profile: Profile) -> Result<Xattrs, Errno> {
    let mut found = Vec::new();
    match profile {
        Profile::Content => {}
        Profile::Portable => found.extend(capability(fd)?),
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
                    found.extend(value(fd, name, &mut vec![0; MAX])?);
                }
            }
        }
    }
    // The kernel gives no name twice; if a file system does, the file moved or lies.
    Xattrs::new(found).ok_or(Errno::IO)
}

fn capability(fd: BorrowedFd<'_>) -> Result<Option<Xattr>, Errno> {
    const NAME: &CStr = c"security.capability";
    // A capability is 20 or 24 bytes (linux/capability.h); other bytes there are shown as they are.
    match value(fd, NAME, &mut [0; 64]) {
        Err(Errno::RANGE) => value(fd, NAME, &mut vec![0; MAX]),
        answer => answer,
    }
}

fn value(fd: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<Option<Xattr>, Errno> {
    match fgetxattr(fd, name, &mut *buffer) {
        Ok(len) => {
            let bytes = &buffer[..len];
            let value = if name.to_bytes() == CAPABILITY { normal_capability(bytes).into() } else { bytes.into() };
            Ok(Some((name.to_bytes().into(), value)))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}
