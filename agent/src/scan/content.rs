//! Owns hashing an open file to its end. Must not own how it is read, or whether the file held still: the caller looks
//! before and after.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use driftlock_common::digest::{Algorithm, Digest};
use sha2::Digest as _;

use super::open::{Stat, Trouble};
use super::progress::Progress;
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

/// Reads `fd`, which was found to be `stat`, to its end and hashes it. Other than `stat.size` bytes are `Moved`, and
/// reading stops at the first too many: a file that grows as fast as it is read must not hold a thread for ever.
pub(super) fn hash(
    fd: BorrowedFd<'_>,
    stat: &Stat,
    wanted: Wanted,
    cancel: &AtomicBool,
    progress: Option<&Progress>,
) -> Result<Content, Trouble> {
    let mut blake3 = (wanted.algorithm == Algorithm::Blake3).then(blake3::Hasher::new);
    let mut sha256 = (wanted.algorithm == Algorithm::Sha256 || wanted.sha256).then(sha2::Sha256::new);
    let mut bytes = 0_u64;
    reader::read(fd, stat, |read| {
        bytes += read.len() as u64;
        if let Some(progress) = progress {
            progress.count_bytes(read.len());
        }
        if bytes > stat.size {
            return Err(Trouble::Moved);
        }
        if let Some(hasher) = &mut blake3 {
            hasher.update(read);
        }
        if let Some(hasher) = &mut sha256 {
            hasher.update(read);
        }
        if cancel.load(Ordering::Relaxed) { Err(Trouble::Interrupted) } else { Ok(()) }
    })?;
    if bytes != stat.size {
        return Err(Trouble::Moved);
    }
    let sha256 = sha256.map(|hasher| Digest::from_bytes(hasher.finalize().into()));
    let digest = blake3.map(|hasher| hasher.finalize().into()).or(sha256);
    let digest = digest.expect("one of the two hashers was made for the algorithm");
    Ok(Content { digest, sha256: sha256.filter(|_| wanted.sha256), bytes })
}
