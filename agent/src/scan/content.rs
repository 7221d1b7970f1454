//! Owns hashing an open file to its end. Must not own whether the file held still: the caller looks before and after.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use driftlock_common::digest::{Algorithm, Digest};
use rustix::io::Errno;
use sha2::Digest as _;

use super::open::Trouble;

/// Fast enough for BLAKE3 (flat from 32 KiB on), small enough to stay in the cache.
const BUFFER: usize = 128 * 1024;

thread_local! {
    static BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

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

/// Reads `fd` to its end and hashes it. Other than `size` bytes are `Moved`, and reading stops at the first too many: a
/// file that grows as fast as it is read must not hold a thread for ever.
pub(super) fn hash(fd: BorrowedFd<'_>, size: u64, wanted: Wanted, cancel: &AtomicBool) -> Result<Content, Trouble> {
    let mut blake3 = (wanted.algorithm == Algorithm::Blake3).then(blake3::Hasher::new);
    let mut sha256 = (wanted.algorithm == Algorithm::Sha256 || wanted.sha256).then(sha2::Sha256::new);
    let mut bytes = 0_u64;
    BYTES.with_borrow_mut(|buffer| {
        loop {
            let len = match rustix::io::read(fd, &mut buffer[..]) {
                Ok(0) => break,
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            bytes += len as u64;
            if bytes > size {
                return Err(Trouble::Moved);
            }
            if let Some(hasher) = &mut blake3 {
                hasher.update(&buffer[..len]);
            }
            if let Some(hasher) = &mut sha256 {
                hasher.update(&buffer[..len]);
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Trouble::Interrupted);
            }
        }
        if bytes == size { Ok(()) } else { Err(Trouble::Moved) }
    })?;
    let sha256 = sha256.map(|hasher| Digest::from_bytes(hasher.finalize().into()));
    let digest = blake3.map(|hasher| hasher.finalize().into()).or(sha256);
    let digest = digest.expect("one of the two hashers was made for the algorithm");
    Ok(Content { digest, sha256: sha256.filter(|_| wanted.sha256), bytes })
}
