//! Owns what the kernel offers through a pointer only, behind functions that are safe to call: the one module with
//! `unsafe`, file handles in a file of its own. Must not own what an answer means.
#![expect(
    unsafe_code,
    reason = "mmap, mincore, munmap, ioprio_set, mallopt, waiting for a descriptor, file handles and an allocator have no safe \
              form"
)]

pub(crate) mod handle;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use driftlock_common::exit::Exit;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Which pages of the file behind `fd` are in the page cache: one byte for each page of the `len` bytes from `offset`
/// on, of which the lowest bit says so. `offset` must be a multiple of the page size.
///
/// To who neither owns the file nor may write it the kernel calls every page resident. The file may shrink or grow
/// meanwhile: the pages beyond its end are not resident.
///
/// # Errors
/// If the file cannot be mapped, or the kernel does not tell.
pub(crate) fn resident_pages(fd: BorrowedFd<'_>, offset: u64, len: NonZeroUsize) -> io::Result<Vec<u8>> {
    let mapping = Mapping::new(fd, offset, len)?;
    let mut pages = vec![0; len.get().div_ceil(rustix::param::page_size())];
    // SAFETY: the mapping is `len` bytes from a page boundary on and lives until the end of this function; `pages` has
    // room for one byte for each of its pages, which is all that mincore writes.
    let answer = unsafe { libc::mincore(mapping.start, len.get(), pages.as_mut_ptr()) };
    if answer == 0 { Ok(pages) } else { Err(io::Error::last_os_error()) }
}

/// Puts the calling thread into the idle class of I/O: the disk serves it when nobody else wants anything.
///
/// # Errors
/// If the kernel or a filter of its calls does not allow it.
pub(crate) fn set_idle_io() -> io::Result<()> {
    // linux/ioprio.h: the class stands above 13 bits that the idle class has no use for.
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3;
    const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
    const CALLER: libc::c_int = 0;
    // SAFETY: three numbers, of which none is an address.
    let answer = unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, CALLER, IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What waits until `descriptor` can be read, within a tokio runtime.
///
/// # Errors
/// If the kernel does not poll it.
pub(crate) fn when_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what it is given to, so it is the same and open until that is dropped.
    let waits = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    waits.map_err(io::Error::from)
}

/// The memory of the process. When there is no more, the process says so and ends with 74, where it would abort otherwise:
/// whatever it was about to say is not said.
#[derive(Debug)]
pub struct Memory;

impl Memory {
    /// From now on what is freed goes back to the kernel: each piece of 128 KiB or more at once, smaller ones when 128 KiB
    /// of them are free together, in one of two heaps. The sizes are what glibc begins with; it would raise both, up to 32
    /// and 64 MiB, to whatever was freed once, and make eight heaps for each core: an agent at rest would keep what its
    /// first look took.
    pub fn give_back() {
        #[cfg(target_env = "gnu")]
        {
            const SIZE: libc::c_int = 128 * 1024;
            const HEAPS: libc::c_int = 2;
            for (what, number) in
                [(libc::M_MMAP_THRESHOLD, SIZE), (libc::M_TRIM_THRESHOLD, SIZE), (libc::M_ARENA_MAX, HEAPS)]
            {
                // SAFETY: two numbers, of which none is an address.
                let taken = unsafe { libc::mallopt(what, number) };
                debug_assert_eq!(taken, 1, "all are within what glibc takes");
            }
        }
    }
}

// SAFETY: every call goes to the system's allocator as it came, under the same contract; one that gave nothing does not
// return.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        or_end(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        or_end(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promised.
        or_end(unsafe { System.realloc(at, layout, size) })
    }
}

fn or_end(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        end_without_memory();
    }
    at
}

/// Ends the process at once with what can be said and done without memory.
pub(crate) fn end_without_memory() -> ! {
    const LAST_WORDS: &[u8] = b"driftlock: out of memory: give it more, or less to do\n";
    const IO: libc::c_int = Exit::Io.code() as libc::c_int;
    static SAID: AtomicBool = AtomicBool::new(false);
    // SAFETY: the bytes live for ever. Nothing of the process runs any more after `_exit`, so nothing is left half done
    // but what every sudden end leaves.
    unsafe {
        // Once, however many threads come here.
        if !SAID.swap(true, Ordering::Relaxed) {
            libc::write(libc::STDERR_FILENO, LAST_WORDS.as_ptr().cast(), LAST_WORDS.len());
        }
        libc::_exit(IO)
    }
}

/// A part of a file in the address space. It is for asking about alone: it may not be accessed, so that a file which
/// shrinks meanwhile raises no signal.
struct Mapping {
    start: *mut c_void,
    len: NonZeroUsize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, offset: u64, len: NonZeroUsize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the kernel chooses the place, so that no memory in use is replaced, and nothing can be accessed
        // through the mapping. The descriptor is open for as long as it is borrowed, which is longer than this call.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), len.get(), libc::PROT_NONE, libc::MAP_SHARED, fd.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { start, len }) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; nothing refers to it, because nothing may.
        let answer = unsafe { libc::munmap(self.start, self.len.get()) };
        debug_assert_eq!(answer, 0, "a mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_pages_of_a_file_just_written_are_there_and_those_beyond_its_end_are_not() {
        let mut file = tempfile::tempfile().unwrap();
        let page = rustix::param::page_size();
        file.write_all(&vec![1; page + 1]).unwrap();
        let pages = resident_pages(file.as_fd(), 0, NonZeroUsize::new(4 * page).unwrap()).unwrap();
        let resident: Vec<bool> = pages.iter().map(|page| page & 1 == 1).collect();
        assert_eq!(resident, [true, true, false, false]);
        let pages = resident_pages(file.as_fd(), page as u64, NonZeroUsize::MIN).unwrap();
        assert_eq!(pages.len(), 1, "a part of a page is a page");
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(resident_pages(file.as_fd(), 1, NonZeroUsize::MIN).is_err(), "not a page boundary");
        assert!(resident_pages(file.as_fd(), u64::MAX, NonZeroUsize::MIN).is_err(), "no such offset");
        let directory = File::open("/").unwrap();
        assert!(resident_pages(directory.as_fd(), 0, NonZeroUsize::MIN).is_err(), "not a file");
    }
}
