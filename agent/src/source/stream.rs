//! Owns the readers that a blob's bytes go through on their way to a tar parser: the device, hashing, decompression.
//! Must not own what the bytes mean.

use std::io::{self, BufRead, Cursor, Read};
use std::sync::{Arc, Mutex};

use driftlock_common::digest::Digest;
use flate2::bufread::MultiGzDecoder;
use sha2::Digest as _;

pub(super) use self::ahead::read_ahead;
use self::frames::Frames;
pub(super) use self::frames::Skipped;
pub(super) use self::guard::{Counted, Guarded, Stored};
use super::problem::{Format, Problem};

mod ahead;
mod frames;
mod guard;

/// Bytes read at once.
pub(super) const CHUNK: usize = 128 * 1024;

/// A file or a pipe: its errors are marked, so that nothing above takes them for damage of the data.
#[derive(Debug)]
pub(super) struct Device<R>(pub(super) R);

/// Passes bytes on and hashes them.
#[derive(Debug)]
pub(super) struct Hashing<R> {
    inner: R,
    sha256: sha2::Sha256,
    bytes: u64,
}

/// A stream without its compression.
pub(super) enum Decoded<R> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<Frames<R>>),
}

/// A stream whose first bytes were looked at and put back.
pub(super) type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// Reads up to `want` first bytes and gives them back together with the whole stream.
pub(super) fn peek<R: Read>(mut input: R, want: usize) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut first = Vec::new();
    input.by_ref().take(want as u64).read_to_end(&mut first)?;
    Ok((first.clone(), Cursor::new(first).chain(input)))
}

/// Reads and drops everything that is left.
pub(super) fn drain(input: &mut impl Read) -> io::Result<u64> {
    io::copy(input, &mut io::sink())
}

/// What compressed a stream, by its magic number (RFC 1952 section 2.3.1, RFC 8878 sections 3.1.1 and 3.1.2).
pub(super) const fn sniff(first: &[u8]) -> Option<Format> {
    match first {
        [0x1f, 0x8b, ..] => Some(Format::Gzip),
        // A frame, or one to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Format::Zstd),
        _ => None,
    }
}

// === impl Decoded ===

impl<R: BufRead> Decoded<Peeked<R>> {
    /// Looks at the first bytes and decompresses accordingly.
    ///
    /// # Errors
    /// If reading fails.
    pub(super) fn new(input: R) -> Result<Self, Problem> {
        let (first, input) = peek(input, 4).map_err(Problem::of_stream)?;
        Ok(match sniff(&first) {
            None => Self::Plain(input),
            Some(Format::Gzip) => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Some(Format::Zstd) => Self::Zstd(Box::new(Frames::new(input)?)),
        })
    }
}

impl<R: BufRead> Decoded<R> {
    /// Where the frames that a zstd stream has for others are kept while it is read.
    pub(super) fn skipped(&self) -> Option<Arc<Mutex<Skipped>>> {
        match self {
            Self::Plain(_) | Self::Gzip(_) => None,
            Self::Zstd(frames) => Some(frames.skipped()),
        }
    }
}

impl<R: BufRead> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(input) => input.read(buffer),
            Self::Zstd(input) => input.read(buffer),
        }
    }
}

// === impl Device ===

impl<R: Read> Read for Device<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => Problem::Device(error).into_io(),
        })
    }
}

// === impl Hashing ===

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, sha256: sha2::Sha256::new(), bytes: 0 }
    }

    /// SHA-256 and number of the bytes, after reading what is left of them.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        drain(&mut self)?;
        Ok((Digest::from_bytes(self.sha256.finalize().into()), self.bytes))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Hashing<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        // What was shown is still there, so this neither reads nor fails.
        if let Ok(shown) = self.inner.fill_buf() {
            self.sha256.update(&shown[..length]);
            self.bytes += length as u64;
        }
        self.inner.consume(length);
    }
}
