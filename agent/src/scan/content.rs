//! Owns hashing an open file to its end. Must not own how it is read, or whether the file held still: the caller looks
//! before and after.

use std::ops::Range;

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use driftlock_common::digest::{Algorithm, Digest};
use sha2::Digest as _;

use super::open::Trouble;
use super::reader::{self, Source};
use super::readers;

/// The digests of a file's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// By the algorithm asked for.
    pub(super) digest: Digest,
    /// SHA-256, if asked for beside it.
    pub(super) sha256: Option<Digest>,
    /// Bytes read.
    pub(super) bytes: u64,
}

/// Which digests are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) algorithm: Algorithm,
    /// SHA-256 too.
    pub(super) sha256: bool,
}

/// A file of more bytes that is cached is hashed in parts, so that threads that have nothing else to do can help: at the end
/// of a scan, or when one file is all there is. Smaller ones are sooner done than shared.
const LARGE: u64 = 32 << 20;
/// What is not shared further: a whole subtree of BLAKE3, so a power of two.
const PART: u64 = 8 << 20;

/// Reads a file to its end and hashes it. Other bytes than it was found to have are `Moved`, and reading stops at the first
/// too many: a file that grows as fast as it is read must not hold a thread for ever.
pub(super) fn hash(source: Source<'_>, wanted: Wanted) -> Result<Content, Trouble> {
    let size = source.stat.size;
    let mut hashers = Hashers::new(wanted);
    if hashers.sha256.is_none() && size > LARGE && source.is_cached() {
        return Ok(Content { digest: whole(source)?, sha256: None, bytes: size });
    }
    read(source, 0..size, |read| hashers.update(read))?;
    Ok(hashers.finish(wanted, size))
}

/// As [`hash`], of what the device has of the file, whatever of it is cached; `None` if the file system does not tell.
pub(super) fn hash_device(source: Source<'_>, wanted: Wanted) -> Result<Option<Content>, Trouble> {
    let mut hashers = Hashers::new(wanted);
    let mut left = source.stat.size;
    let told = reader::read_device(source, |read| {
        left = left.checked_sub(read.len() as u64).ok_or(Trouble::Moved)?;
        hashers.update(read);
        Ok(())
    })?;
    match (told, left) {
        (false, _) => Ok(None),
        (true, 0) => Ok(Some(hashers.finish(wanted, source.stat.size))),
        (true, _) => Err(Trouble::Moved),
    }
}

/// As many as are wanted, one at least.
struct Hashers {
    blake3: Option<blake3::Hasher>,
    sha256: Option<sha2::Sha256>,
}

impl Hashers {
    fn new(wanted: Wanted) -> Self {
        Self {
            blake3: (wanted.algorithm == Algorithm::Blake3).then(blake3::Hasher::new),
            sha256: (wanted.algorithm == Algorithm::Sha256 || wanted.sha256).then(sha2::Sha256::new),
        }
    }

    fn update(&mut self, read: &[u8]) {
        if let Some(hasher) = &mut self.blake3 {
            hasher.update(read);
        }
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(read);
        }
    }

    fn finish(self, wanted: Wanted, bytes: u64) -> Content {
        let sha256 = self.sha256.map(|hasher| Digest::from_bytes(hasher.finalize().into()));
        let digest = self.blake3.map(|hasher| hasher.finalize().into()).or(sha256);
        let digest = digest.expect("one of the two hashers was made for the algorithm");
        Content { digest, sha256: sha256.filter(|_| wanted.sha256), bytes }
    }
}

/// Reads a range and gives `each` its bytes, which must be as many as there were when the file was looked at.
fn read(source: Source<'_>, range: Range<u64>, mut each: impl FnMut(&[u8])) -> Result<(), Trouble> {
    let mut left = range.end - range.start;
    reader::read(source, range, |read| {
        left = left.checked_sub(read.len() as u64).ok_or(Trouble::Moved)?;
        each(read);
        Ok(())
    })?;
    if left == 0 { Ok(()) } else { Err(Trouble::Moved) }
}

/// The digest of a large file, by as many threads as have time: BLAKE3 is a tree, whose halves can be hashed apart (BLAKE3
/// paper, 2.1 and 5.1.2).
fn whole(source: Source<'_>) -> Result<Digest, Trouble> {
    let (left, right) = halves(source, 0..source.stat.size)?;
    Ok(merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// The chaining value of a range that is a subtree.
fn subtree(source: Source<'_>, range: Range<u64>) -> Result<ChainingValue, Trouble> {
    if range.end - range.start > PART {
        let (left, right) = halves(source, range)?;
        return Ok(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(range.start);
    read(source, range, |read| {
        hasher.update(read);
    })?;
    Ok(hasher.finalize_non_root())
}

fn halves(source: Source<'_>, Range { start, end }: Range<u64>) -> Result<(ChainingValue, ChainingValue), Trouble> {
    let middle = start + left_subtree_len(end - start);
    let half = |range| move || readers::within(|| subtree(source, range));
    let (left, right) = rayon::join(half(start..middle), half(middle..end));
    Ok((left?, right?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use std::sync::atomic::AtomicBool;

    use super::super::open::{Stat, stat_fd};
    use super::*;

    fn source<'a>(file: &'a File, stat: &'a Stat, cancel: &'a AtomicBool) -> Source<'a> {
        Source { fd: file.as_fd(), stat, pace: None, progress: None, cancel }
    }

    const BLAKE3: Wanted = Wanted { algorithm: Algorithm::Blake3, sha256: false };

    #[test]
    fn a_file_in_parts_has_the_digest_of_the_whole() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..80_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let never = AtomicBool::new(false);
        // Around what is hashed in parts, and around where parts begin.
        for size in [0, 1, 1024, LARGE, LARGE + 1, LARGE + PART, LARGE + PART + 1, (80 << 20) - 7, 80 << 20] {
            let part = &bytes[..usize::try_from(size).unwrap()];
            file.set_len(0).unwrap();
            file.write_all_at(part, 0).unwrap();
            let stat = stat_fd(file.as_fd()).unwrap();
            let found = hash(source(&file, &stat, &never), BLAKE3).unwrap();
            assert_eq!((found.digest, found.bytes), (Digest::blake3(part), size));
            if size > LARGE {
                assert_eq!(whole(source(&file, &stat, &never)), Ok(Digest::blake3(part)));
            }
        }
    }

    #[test]
    fn another_size_than_was_found_is_noticed_in_parts_too() {
        let file: File = tempfile::tempfile().unwrap();
        let never = AtomicBool::new(false);
        for size in [5_u64, LARGE + PART] {
            file.set_len(size).unwrap();
            let stat = stat_fd(file.as_fd()).unwrap();
            for other in [size - 1, size + 1, 0] {
                file.set_len(other).unwrap();
                assert_eq!(
                    hash(source(&file, &stat, &never), BLAKE3).map(|_| ()),
                    Err(Trouble::Moved),
                    "{size} {other}"
                );
                if size > LARGE {
                    assert_eq!(whole(source(&file, &stat, &never)), Err(Trouble::Moved), "{size} {other}");
                }
            }
        }
        let stop = AtomicBool::new(true);
        file.set_len(LARGE + PART).unwrap();
        let stat = stat_fd(file.as_fd()).unwrap();
        assert_eq!(whole(source(&file, &stat, &stop)), Err(Trouble::Interrupted));
    }
}
