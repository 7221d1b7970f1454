//! Owns counting how far a scan is, while it goes on. Must not own showing it, or what a scan has done in the end.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far a scan is. Read from another thread; each count is of some moment of its own.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// Entries looked at, the root not counted.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes of content read, those of files read again counted again.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_bytes(&self, read: usize) {
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}
