//! Owns stopping streams that unpack to far more than is stored. Must not own the limits.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::budget::{Budget, MAX_RATIO};
use super::super::problem::Problem;

/// Counts the bytes that are really stored: those of the outermost stream, so that a stream within another one is not
/// allowed the factor twice.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Stored(Arc<AtomicU64>);

/// Passes stored bytes on and counts them.
#[derive(Debug)]
pub(in super::super) struct Counted<R> {
    inner: R,
    stored: Stored,
}

/// An unpacked stream that charges its [`Budget`] for every byte beyond [`MAX_RATIO`] times the stored ones.
pub(in super::super) struct Guarded<'a, R> {
    inner: R,
    budget: &'a Budget,
    stored: Stored,
    /// Stored bytes that were there before this stream.
    before: u64,
    made: u64,
    charged: u64,
}

impl<R> Counted<R> {
    pub(in super::super) fn new(inner: R) -> (Self, Stored) {
        let stored = Stored::default();
        (Self { inner, stored: stored.clone() }, stored)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.stored.0.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.stored.0.fetch_add(length as u64, Ordering::Relaxed);
        self.inner.consume(length);
    }
}

impl<'a, R> Guarded<'a, R> {
    /// `inner` may have read ahead already: what it is made of counts from `before`. So may the archive around it, by no
    /// more than it reads at once.
    pub(in super::super) fn new(inner: R, budget: &'a Budget, stored: &Stored, before: u64) -> Self {
        let before = before.saturating_sub(super::CHUNK as u64);
        Self { inner, budget, stored: stored.clone(), before, made: 0, charged: 0 }
    }
}

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.made += read as u64;
        let plausible = self.stored.count().saturating_sub(self.before).saturating_mul(MAX_RATIO);
        let beyond = self.made.saturating_sub(plausible);
        if beyond > self.charged {
            self.budget.inflate(beyond - self.charged).map_err(Problem::into_io)?;
            self.charged = beyond;
        }
        Ok(read)
    }
}

impl Stored {
    /// Bytes so far.
    pub(in super::super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
