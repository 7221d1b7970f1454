//! Owns the pages that reading one file brings into the page cache: which were not there before, and letting go of those
//! again. Must not own the reading.
//!
//! Reading goes in windows. Before one is read the pages of a stretch ahead of it are looked up, because the kernel reads
//! ahead; once it was read, what was missing of it is dropped. A page that another process reads for the first time
//! meanwhile is dropped too, unless that process mapped it or wrote it.

use std::collections::VecDeque;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{Advice, fadvise};

use crate::sys;

/// Read between two drops: what a thread holds of the page cache, with what the kernel reads ahead.
const WINDOW: u64 = 1 << 20;

/// Dropped once more with each window. What the kernel reads ahead lies in blocks of up to 2 MiB, and one that lies across
/// two windows is dropped with all of it only.
const BEHIND: u64 = 4 << 20;

/// Looked up at once, and at least this far ahead of what is read. More than the kernel reads ahead, which is the
/// device's `read_ahead_kb` at most: the default is 128 KiB.
const STRETCH: u64 = 16 << 20;

/// The pages of a file that is being read. Those that reading brought in are dropped with it.
pub(super) struct Footprint<'fd> {
    fd: BorrowedFd<'fd>,
    size: u64,
    /// Where the window ends that is being read.
    window: u64,
    /// Up to where pages were looked up.
    looked_up: u64,
    /// Bytes that were missing when they were looked up, in order and not touching; forgotten behind the window.
    missing: VecDeque<Range<u64>>,
}

impl<'fd> Footprint<'fd> {
    /// Of a file of `size` bytes of which nothing was read yet.
    pub(super) const fn new(fd: BorrowedFd<'fd>, size: u64) -> Self {
        Self { fd, size, window: 0, looked_up: 0, missing: VecDeque::new() }
    }

    /// Gets ready for a read at `offset`, behind the last one. How many bytes it may be of: up to the end of the window,
    /// and one beyond the size, which is enough to see whether there are more.
    pub(super) fn advance(&mut self, offset: u64) -> usize {
        if offset >= self.size {
            return 1;
        }
        if offset >= self.window {
            self.drop_missing();
            self.forget(self.window.saturating_sub(BEHIND));
            self.window = (offset - offset % WINDOW).saturating_add(WINDOW).min(self.size);
            self.look_up(self.window.saturating_add(STRETCH).min(self.size));
        }
        let beyond = u64::from(self.window == self.size);
        usize::try_from(self.window - offset + beyond).unwrap_or(usize::MAX)
    }

    fn look_up(&mut self, end: u64) {
        while self.looked_up < end {
            let start = self.looked_up;
            let len = STRETCH.min(self.size - start);
            self.looked_up = start + len;
            let len = usize::try_from(len).ok().and_then(NonZeroUsize::new);
            // What the kernel does not tell counts as there: nothing is dropped then.
            let Some(Ok(pages)) = len.map(|len| sys::resident_pages(self.fd, start, len)) else { continue };
            for range in missing(&pages, start, rustix::param::page_size() as u64) {
                match self.missing.back_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => self.missing.push_back(range),
                }
            }
        }
    }

    /// Drops what was missing up to the end of the window.
    fn drop_missing(&self) {
        // The last page is a whole one, whatever the size.
        let end = if self.window == self.size { u64::MAX } else { self.window };
        for range in self.missing.iter().take_while(|range| range.start < end) {
            // What cannot be dropped stays: there is nothing else to do about it.
            let len = NonZeroU64::new(range.end.min(end) - range.start);
            let _kept = fadvise(self.fd, range.start, len, Advice::DontNeed);
        }
    }

    fn forget(&mut self, end: u64) {
        while self.missing.front().is_some_and(|range| range.end <= end) {
            self.missing.pop_front();
        }
        if let Some(range) = self.missing.front_mut() {
            range.start = range.start.max(end);
        }
    }
}

impl Drop for Footprint<'_> {
    fn drop(&mut self) {
        // All of it: what the kernel read ahead of a file that was not read to its end too.
        self.window = self.size;
        self.drop_missing();
    }
}

/// The bytes of pages that are not resident, the first of which begins at `start`.
fn missing(pages: &[u8], start: u64, page_size: u64) -> impl Iterator<Item = Range<u64>> {
    let mut end = start;
    pages.chunk_by(|a, b| a & 1 == b & 1).filter_map(move |run| {
        let start = end;
        end += run.len() as u64 * page_size;
        (run[0] & 1 == 0).then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_missing_pages_become_ranges_of_bytes() {
        // Only the lowest bit of a page counts.
        for (pages, expected) in [
            (&[][..], &[][..]),
            (&[1, 0xff, 1], &[]),
            (&[0, 0xfe, 0], &[(100, 130)]),
            (&[0, 1, 0, 0, 1], &[(100, 110), (120, 140)]),
            (&[1, 0], &[(110, 120)]),
        ] {
            let found: Vec<(u64, u64)> = missing(pages, 100, 10).map(|range| (range.start, range.end)).collect();
            assert_eq!(found, expected, "{pages:?}");
        }
    }
}
