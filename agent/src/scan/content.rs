//! Owns hashing an open file to its end. Must not own how it is read, or whether the file held still: the caller looks
//! before and after.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use driftlock_common::digest::{Algorithm, Digest};
use sha2::Digest as _;

use super::open::{Stat, Trouble};
use super::reader;

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

/// A file of more bytes is hashed in parts, so that threads that have nothing else to do can help: at the end of a scan, or
/// when one file is all there is. Smaller ones are sooner done than shared.
const LARGE: u64 = 32 << 20;
/// What is not shared further: a whole subtree of BLAKE3, so a power of two.
const PART: u64 = 8 << 20;

/// Reads `fd`, which was found to be `stat`, to its end and hashes it. Other than `stat.size` bytes are `Moved`, and
/// reading stops at the first too many: a file that grows as fast as it is read must not hold a thread for ever.
pub(super) fn hash(fd: BorrowedFd<'_>, stat: &Stat, wanted: Wanted, cancel: &AtomicBool) -> Result<Content, Trouble> {
    let mut sha256 = (wanted.algorithm == Algorithm::Sha256 || wanted.sha256).then(sha2::Sha256::new);
    if sha256.is_none() && stat.size > LARGE && reader::reads_in_parts(fd, stat) {
        let digest = whole(fd, stat, cancel)?;
        return Ok(Content { digest, sha256: None, bytes: stat.size });
    }
    let mut blake3 = (wanted.algorithm == Algorithm::Blake3).then(blake3::Hasher::new);
    read(fd, stat, 0..stat.size, cancel, |read| {
        if let Some(hasher) = &mut blake3 {
            hasher.update(read);
        }
        if let Some(hasher) = &mut sha256 {
            hasher.update(read);
        }
    })?;
    let sha256 = sha256.map(|hasher| Digest::from_bytes(hasher.finalize().into()));
    let digest = blake3.map(|hasher| hasher.finalize().into()).or(sha256);
    let digest = digest.expect("one of the two hashers was made for the algorithm");
    Ok(Content { digest, sha256: sha256.filter(|_| wanted.sha256), bytes: stat.size })
}

/// Reads a range and gives `each` its bytes, which must be as many as there were when the file was found to be `stat`.
fn read(
    fd: BorrowedFd<'_>,
    stat: &Stat,
    range: Range<u64>,
    cancel: &AtomicBool,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Trouble> {
    let mut left = range.end - range.start;
    reader::read(fd, stat, range, |read| {
        left = left.checked_sub(read.len() as u64).ok_or(Trouble::Moved)?;
        each(read);
        if cancel.load(Ordering::Relaxed) { Err(Trouble::Interrupted) } else { Ok(()) }
    })?;
    if left == 0 { Ok(()) } else { Err(Trouble::Moved) }
}

/// The digest of a large file, by as many threads as have time: BLAKE3 is a tree, whose halves can be hashed apart (BLAKE3
/// paper, 2.1 and 5.1.2).
fn whole(fd: BorrowedFd<'_>, stat: &Stat, cancel: &AtomicBool) -> Result<Digest, Trouble> {
    let (left, right) = halves(fd, stat, 0..stat.size, cancel)?;
    Ok(merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// The chaining value of a range that is a subtree.
fn subtree(fd: BorrowedFd<'_>, stat: &Stat, range: Range<u64>, cancel: &AtomicBool) -> Result<ChainingValue, Trouble> {
    if range.end - range.start > PART {
        let (left, right) = halves(fd, stat, range, cancel)?;
        return Ok(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(range.start);
    read(fd, stat, range, cancel, |read| {
        hasher.update(read);
    })?;
    Ok(hasher.finalize_non_root())
}

fn halves(
    fd: BorrowedFd<'_>,
    stat: &Stat,
    Range { start, end }: Range<u64>,
    cancel: &AtomicBool,
) -> Result<(ChainingValue, ChainingValue), Trouble> {
    let middle = start + left_subtree_len(end - start);
    let half = |range| move || subtree(fd, stat, range, cancel);
    let (left, right) = rayon::join(half(start..middle), half(middle..end));
    Ok((left?, right?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;

    use super::super::open::stat_fd;
    use super::*;

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
            let found = hash(file.as_fd(), &stat, BLAKE3, &never).unwrap();
            assert_eq!((found.digest, found.bytes), (Digest::blake3(part), size));
            if size > LARGE {
                assert_eq!(whole(file.as_fd(), &stat, &never), Ok(Digest::blake3(part)));
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
                    hash(file.as_fd(), &stat, BLAKE3, &never).map(|_| ()),
                    Err(Trouble::Moved),
                    "{size} {other}"
                );
                if size > LARGE {
                    assert_eq!(whole(file.as_fd(), &stat, &never), Err(Trouble::Moved), "{size} {other}");
                }
            }
        }
        let stop = AtomicBool::new(true);
        file.set_len(LARGE + PART).unwrap();
        let stat = stat_fd(file.as_fd()).unwrap();
        assert_eq!(whole(file.as_fd(), &stat, &stop), Err(Trouble::Interrupted));
    }
}
