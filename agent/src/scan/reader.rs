//! Owns reading an open file, or a part of it, in such a way that the page cache is left as it was found: what
//! an application had there stays, and what was brought in goes; and reading past it, as the device has the file. Must not
//! own what the bytes are for, or whether the file held still.
//!
//! Linux 6.14 has a flag for that, which not every file system takes (overlayfs does not). Where it is refused, the
//! pages are looked up before and let go of after: see [`Footprint`].
//!
//! What is written to the device below the file system shows in no stat and in no page that is cached: running programs
//! see the file as it was, the next boot as it is. `O_DIRECT` reads it there; pages that are still to be written are
//! written first.

use std::cell::RefCell;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};

use super::footprint::Footprint;
use super::open::{Stat, Trouble, of_opened};
use super::pace::Pace;
use super::progress::Progress;

/// Fast enough for BLAKE3 (flat from 32 KiB on), small enough to stay in the cache.
const BUFFER: usize = 128 * 1024;

/// Where the buffer begins: a multiple of this, which is as much as devices and file systems ask of one for `O_DIRECT`
/// (open(2), NOTES). Of where a read begins and how long it is they ask no more than [`BUFFER`] has.
const ALIGNMENT: usize = 4096;

/// `RWF_DONTCACHE`, which rustix does not name: pages that the read itself brings in are gone once it is done.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Signals that may come while one file is read.
const MOST_INTERRUPTED: u32 = 1000;

thread_local! {
    static HANDS: RefCell<Hands> = RefCell::new(Hands { buffer: Buffer::new(), refused: None });
}

/// What a reading thread keeps.
struct Hands {
    buffer: Buffer,
    /// The device of the last file that could be read, but not with the flag. Being told so again costs one short
    /// system call, so one is enough: most of a root is on one device, and no lock is needed. An answer that is out of
    /// date because a device number was given anew costs speed, not truth.
    refused: Option<u64>,
}

/// [`BUFFER`] bytes that begin where they are to.
struct Buffer(Box<[u8]>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0; BUFFER + ALIGNMENT].into_boxed_slice())
    }

    fn aligned(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(ALIGNMENT);
        &mut self.0[start..start + BUFFER]
    }
}

/// An open file that is read, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) fd: BorrowedFd<'a>,
    /// What it was found to be.
    pub(super) stat: &'a Stat,
    /// Between two buffers it is waited as this says.
    pub(super) pace: Option<&'a Pace>,
    /// What is read is counted here.
    pub(super) progress: Option<&'a Progress>,
    /// Once this is set nothing more is read.
    pub(super) cancel: &'a AtomicBool,
}

impl Source<'_> {
    /// Whether several threads may read parts of it at a time: it is cached, as far as one byte of each MiB tells. What comes
    /// from a disk one reader brings in as fast as several, which would leave behind what each reads ahead of another.
    pub(super) fn is_cached(&self) -> bool {
        const STEP: usize = 1 << 20;
        let known = HANDS.with_borrow(|hands| hands.refused == Some(self.stat.dev));
        let there = |offset| {
            let answer = preadv2(self.fd, &mut [IoSliceMut::new(&mut [0])], offset, DONTCACHE | ReadWriteFlags::NOWAIT);
            matches!(answer, Ok(1))
        };
        !known && (0..self.stat.size).step_by(STEP).all(there)
    }
}

/// Reads a range of a file and gives `each` its bytes in order. A range that ends where the file did is read on to where
/// the file ends now. Ends early if `each` fails.
pub(super) fn read(
    source: Source<'_>,
    range: Range<u64>,
    mut each: impl FnMut(&[u8]) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let Source { fd, stat, pace, progress, cancel } = source;
    HANDS.with_borrow_mut(|Hands { buffer, refused }| {
        let buffer = buffer.aligned();
        let mut footprint = (*refused == Some(stat.dev)).then(|| Footprint::new(fd, stat.size));
        let mut offset = range.start;
        let mut interrupted = 0;
        // One more shows whether the file grew.
        let end = if range.end == stat.size { u64::MAX } else { range.end };
        while offset < end {
            let most = footprint.as_mut().map_or(BUFFER, |footprint| footprint.advance(offset).min(BUFFER));
            let most = usize::try_from(end - offset).map_or(most, |left| left.min(most));
            let room = &mut buffer[..most];
            let answer = match footprint {
                None => preadv2(fd, &mut [IoSliceMut::new(room)], offset, DONTCACHE),
                Some(_) => pread(fd, room, offset),
            };
            let len = match answer {
                Ok(0) => break,
                Ok(len) => len,
                // A signal came in between. A file system that says so always is not believed for ever.
                Err(Errno::INTR) if interrupted < MOST_INTERRUPTED => {
                    interrupted += 1;
                    continue;
                }
                // The file system or the kernel does not know the flag (EINVAL before 4.6), or a seccomp filter does
                // not know the call. If it is about the file after all, reading without the flag says so again.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) if footprint.is_none() => {
                    footprint = Some(Footprint::new(fd, stat.size));
                    continue;
                }
                Err(error) => return Err(of_opened(error).into()),
            };
            offset += len as u64;
            if let Some(progress) = progress {
                progress.count_bytes(len);
            }
            each(&buffer[..len])?;
            if cancel.load(Ordering::Relaxed) {
                return Err(Trouble::Interrupted);
            }
            if let Some(pace) = pace {
                pace.read(len, cancel);
            }
            // A read that stops short where the file was to end has seen its end: one system call less for a small file.
            if len < most && offset == stat.size {
                break;
            }
        }
        if footprint.is_some() {
            *refused = Some(stat.dev);
        }
        Ok(())
    })
}

/// Reads a whole file past the page cache and gives `each` its bytes in order; whether the file system can do that. The
/// descriptor is good for nothing else afterwards. Ends early if `each` fails.
pub(super) fn read_device(
    source: Source<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), Trouble>,
) -> Result<bool, Trouble> {
    let Source { fd, stat, pace, progress, cancel } = source;
    if fcntl_setfl(fd, OFlags::DIRECT).is_err() {
        return Ok(false);
    }
    HANDS.with_borrow_mut(|Hands { buffer, .. }| {
        let buffer = buffer.aligned();
        let mut offset = 0;
        let mut interrupted = 0;
        loop {
            let len = match pread(fd, &mut *buffer, offset) {
                Ok(0) => return Ok(true),
                Ok(len) => len,
                Err(Errno::INTR) if interrupted < MOST_INTERRUPTED => {
                    interrupted += 1;
                    continue;
                }
                // An overlay says only here that the file system below it cannot.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(false),
                Err(error) => return Err(of_opened(error).into()),
            };
            offset += len as u64;
            if let Some(progress) = progress {
                progress.count_bytes(len);
            }
            each(&buffer[..len])?;
            if cancel.load(Ordering::Relaxed) {
                return Err(Trouble::Interrupted);
            }
            if let Some(pace) = pace {
                pace.read(len, cancel);
            }
            // Behind its end a file has no place that a read could begin at.
            if len < BUFFER && offset >= stat.size {
                return Ok(true);
            }
        }
    })
}
