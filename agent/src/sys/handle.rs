//! Owns the two calls on file handles: what an inode is called, whatever its paths, and opening it by that. Must not own what
//! a handle means.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// What an inode is called within its file system, for as long as the inode lives: the type and the bytes are the file
/// system's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle<'a> {
    /// The form of the bytes.
    pub(crate) kind: i32,
    pub(crate) bytes: &'a [u8],
}

/// `MAX_HANDLE_SZ` of linux/exportfs.h: the most bytes that a handle has.
const MAX: usize = 128;

/// `struct file_handle` of linux/fs.h, with room for any.
#[repr(C)]
struct Raw {
    len: u32,
    kind: i32,
    bytes: [u8; MAX],
}

/// What `name` in `directory` is called, a link itself and not its target; `directory` itself if the name is empty.
///
/// # Errors
/// If it is not there, or its file system has no handles.
pub(crate) fn name_to_handle(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<(i32, Vec<u8>)> {
    let mut raw = Raw { len: 128, kind: 0, bytes: [0; MAX] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the name ends with a NUL and lives until the end of this function; the kernel writes at most `len` bytes
    // behind the two numbers, for which there is room, and one number to `mount`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = usize::try_from(raw.len).unwrap_or(MAX).min(MAX);
    Ok((raw.kind, raw.bytes[..len].to_vec()))
}

/// Opens what has a handle, only to ask about it (`O_PATH`), seen through the mount of `mount`.
///
/// # Errors
/// `ESTALE` if it is gone; `EPERM` without the capability `CAP_DAC_READ_SEARCH`; `EINVAL` for what is no handle.
pub(crate) fn open_handle(mount: BorrowedFd<'_>, handle: Handle<'_>) -> io::Result<OwnedFd> {
    let mut raw = Raw { len: 0, kind: handle.kind, bytes: [0; MAX] };
    let Some(room) = raw.bytes.get_mut(..handle.bytes.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    room.copy_from_slice(handle.bytes);
    raw.len = u32::try_from(handle.bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the two numbers and as many bytes behind them as the first says, which are there.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw const raw,
            libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC,
        )
    };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it, so that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
