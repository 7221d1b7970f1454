//! Owns what all layers of a source may use up together, against archives that are made to exhaust memory or time.
//! Must not own what it is used up for.

use std::sync::atomic::{AtomicU64, Ordering};

use super::problem::Problem;

/// The most entries of all layers of a source together.
pub const MAX_ENTRIES: u64 = 10_000_000;
/// The most bytes of names, targets and attributes of all layers of a source together.
pub const MAX_METADATA: u64 = 2 * 1024 * 1024 * 1024;
/// How many bytes a stored byte may become without being counted as inflation: the most that gzip can make of one.
pub const MAX_RATIO: u64 = 1032;
/// The most bytes that all layers of a source together may make out of next to nothing: the holes of sparse files, and
/// what a stream unpacks to beyond [`MAX_RATIO`] times its stored bytes. A sparse file of 10 GB passes, and so does a
/// file of 10 GB of zeros in a zstd stream.
pub const MAX_INFLATION: u64 = 16 * 1024 * 1024 * 1024;

/// Counts what a source uses up.
#[derive(Debug)]
pub struct Budget {
    entries: AtomicU64,
    metadata: AtomicU64,
    inflation: AtomicU64,
    max_inflation: u64,
}

// === impl Budget ===

impl Default for Budget {
    fn default() -> Self {
        Self::inflating(MAX_INFLATION)
    }
}

impl Budget {
    /// One with another limit than [`MAX_INFLATION`].
    pub(super) fn inflating(max_inflation: u64) -> Self {
        let (entries, metadata, inflation) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { entries, metadata, inflation, max_inflation }
    }

    /// An entry with so many bytes of names and attributes.
    pub(super) fn spend(&self, metadata: usize) -> Result<(), Problem> {
        if self.entries.fetch_add(1, Ordering::Relaxed) >= MAX_ENTRIES {
            return Err(Problem::TooMuch("more than 10 million entries"));
        }
        if !within(&self.metadata, metadata as u64, MAX_METADATA) {
            return Err(Problem::TooMuch("more than 2 GiB of names and attributes"));
        }
        Ok(())
    }

    /// Bytes made out of next to nothing.
    pub(super) fn inflate(&self, bytes: u64) -> Result<(), Problem> {
        if within(&self.inflation, bytes, self.max_inflation) {
            Ok(())
        } else {
            Err(Problem::TooMuch("it unpacks to more than 16 GiB beyond 1032 times what is stored"))
        }
    }
}

fn within(used: &AtomicU64, more: u64, limit: u64) -> bool {
    more <= limit && used.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= limit
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::entries::{Entries, Readers};
    use super::super::kit::{Tar, raw, sparse};
    use super::super::layer::{Dialect, Layer, Options, index};
    use super::*;
    use driftlock_common::profile::Profile;

    const MIB: u64 = 1024 * 1024;

    fn options(max_inflation: u64) -> Options {
        let budget = Budget::inflating(max_inflation);
        Options { dialect: Dialect::Image, profile: Profile::Content, sha256: false, budget }
    }

    fn read(stream: &[u8], max_inflation: u64) -> Result<Layer, String> {
        index(stream, &options(max_inflation)).map_err(|problem| problem.to_string())
    }

    /// A zstd frame of blocks that say "this byte, 128 KiB of it" in four bytes (RFC 8878 section 3.1.1.2).
    fn zeros(mib: u64) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
        (0..8 * mib).for_each(|_| frame.extend([0x02, 0, 0x10, 0]));
        frame.extend([1, 0, 0]);
        frame
    }

    fn bomb(mib: u64) -> Vec<u8> {
        let mut file = raw(b'0', "zeros");
        file.size = Some(mib * MIB);
        [super::super::kit::zstd(&file.bytes()), zeros(mib), super::super::kit::zstd(&[0; 1024])].concat()
    }

    const TOO_MUCH: &str = "it unpacks to more than 16 GiB beyond 1032 times what is stored";

    #[test]
    fn a_zstd_stream_may_unpack_further_than_gzip_only_within_the_budget() {
        let stream = bomb(64);
        let plausible = stream.len() as u64 * MAX_RATIO;
        assert_eq!(read(&stream, 64 * MIB).unwrap().items.len(), 1);
        assert_eq!(read(&stream, 64 * MIB - 2 * plausible).unwrap_err(), TOO_MUCH);
        // All layers have one budget.
        let options = options(100 * MIB);
        assert!(index(stream.as_slice(), &options).is_ok());
        assert!(matches!(index(stream.as_slice(), &options), Err(Problem::TooMuch(TOO_MUCH))));
    }

    #[test]
    fn what_gzip_can_make_of_a_byte_is_free() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&Tar::default().file("zeros", vec![0; 30_000_000]).end()).unwrap();
        let stream = encoder.finish().unwrap();
        assert!(stream.len() < 30_000_000 / 1000);
        assert!(read(&stream, 0).is_ok());
    }

    #[test]
    fn holes_are_counted_before_they_are_hashed() {
        let gib = 1024 * MIB;
        for (real, accepted) in [(3 * MIB, true), (16 * gib + 4, false), (10_000 * gib, false), ((1 << 63) - 1, false)]
        {
            for format in 0..4 {
                // Not in eleven octal digits.
                if format == 0 && real >= 8 * gib {
                    continue;
                }
                let stream = sparse(format, "s", &[(0, b"abc")], real).end();
                match read(&stream, if accepted { 3 * MIB } else { MAX_INFLATION }) {
                    Ok(layer) => assert!(accepted && layer.notes.count(super::super::Code::Sparse) == 1),
                    Err(text) => assert!(!accepted && text == TOO_MUCH, "{real} in {format}: {text}"),
                }
            }
        }
    }

    #[test]
    fn a_sparse_file_of_ten_gigabytes_is_within_the_limits() {
        let stream = sparse(3, "s", &[(5_000_000_000, b"abc")], 10_000_000_000).end();
        let mut entries = Entries::new(stream.as_slice(), Readers::Any);
        let entry = entries.next().unwrap().unwrap();
        assert_eq!((entry.size, entry.holes), (10_000_000_000, Some(9_999_999_997)));
        assert!(Budget::default().inflate(entry.holes.unwrap()).is_ok());
        assert!(entries.next().unwrap().is_none());
    }
}
