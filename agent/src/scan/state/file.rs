//! Owns the form of a state file, version 2, and what makes one worth nothing. Must not own what the state is used for.
//!
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 16 | `driftlock state\n` |
//! | 4 | version |
//! | 4 | number of entries, the root counted |
//! | 32 | identity: baseline, terms and root, as one digest |
//! | 32 | key of the fingerprints |
//! | 16, 8, 8 | boot id; nanoseconds since that boot and since 1970, when it was written |
//! | 32, 8, 8 | the rolling rehash: its key, how far it is, nanoseconds since boot when it was that far |
//! | 8, 8 | nanoseconds since boot when it began, and since when every entry was read, 0 if that is not known |
//! | 8 each | a fingerprint for each entry, 0 for none, 1 if its device had another content than the page cache |
//! | 32 | BLAKE3 of all before, under the context [`CONTEXT`] |

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::path::Path;

use driftlock_common::digest::Digest;

use super::Identity;
use super::clock::{Anchor, Since};
use super::cycle::Cycle;
use super::fingerprint::Key;

const MAGIC: &[u8; 16] = b"driftlock state\n";
const VERSION: u32 = 2;
const CONTEXT: &str = "driftlock scan state file v2";
/// Before the fingerprints, and behind them.
const HEAD: usize = 16 + 4 + 4 + 32 + 32 + 16 + 8 + 8 + 32 + 8 + 8 + 8 + 8;
const TAIL: usize = 32;

/// Why a state file is not relied on.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// There is none yet.
    #[error("there is none yet")]
    Absent,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is something else.
    #[error("it is no state file")]
    NoState,
    /// Another version wrote it.
    #[error("its version {0} is not known: this driftlock reads version 2")]
    Version(u32),
    /// It is not as it was written.
    #[error("it is damaged or cut off")]
    Damaged,
    /// It is about another root or baseline, or about other attributes.
    #[error("it is about another root, another baseline, or other attributes")]
    Foreign,
    /// The machine was started again since.
    #[error("the machine was started again since it was written")]
    OtherBoot,
    /// The clock was set since.
    #[error("the clock was set since it was written")]
    ClockStepped,
}

/// What a state file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) key: Key,
    pub(super) cycle: Cycle,
    pub(super) marks: Vec<u64>,
}

/// The bytes of a file, as far as they can be one of `entries`.
pub(super) fn read(path: &Path, entries: usize) -> Result<Vec<u8>, Distrust> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Distrust::Absent,
        _ => Distrust::Unreadable(error),
    })?;
    // One more, so that a longer one is seen to be.
    let most = HEAD + 8 * entries + TAIL + 1;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes).map_err(Distrust::Unreadable)?;
    Ok(bytes)
}

/// What the bytes of a state file say to `identity`, of `entries`, at `now`.
pub(super) fn parse(bytes: &[u8], identity: Identity, entries: usize, now: Anchor) -> Result<Loaded, Distrust> {
    let mut rest = bytes;
    if take::<16>(&mut rest).is_none_or(|magic| magic != *MAGIC) {
        return Err(Distrust::NoState);
    }
    let version = u32::from_le_bytes(take(&mut rest).ok_or(Distrust::Damaged)?);
    if version != VERSION {
        return Err(Distrust::Version(version));
    }
    let head = (|| {
        let count = u32::from_le_bytes(take(&mut rest)?);
        let whose = Identity(Digest::from_bytes(take(&mut rest)?));
        let key = Key(take(&mut rest)?);
        let boot = take(&mut rest)?;
        let boottime = u64::from_le_bytes(take(&mut rest)?);
        let realtime = i64::from_le_bytes(take(&mut rest)?);
        let cycle = Cycle {
            key: take(&mut rest)?,
            done: u64::from_le_bytes(take(&mut rest)?),
            at: u64::from_le_bytes(take(&mut rest)?),
            began: u64::from_le_bytes(take(&mut rest)?),
            read: u64::from_le_bytes(take(&mut rest)?),
        };
        Some((count, whose, key, Anchor { boot, boottime, realtime }, cycle))
    })();
    let (count, whose, key, written, cycle) = head.ok_or(Distrust::Damaged)?;
    // Before the length, which is another baseline's then.
    if whose != identity || count as usize != entries {
        return Err(Distrust::Foreign);
    }
    let (body, check) = rest.split_last_chunk::<TAIL>().ok_or(Distrust::Damaged)?;
    let (marks, []) = body.as_chunks::<8>() else { return Err(Distrust::Damaged) };
    let summed = &bytes[..bytes.len() - TAIL];
    if marks.len() != entries || blake3::derive_key(CONTEXT, summed) != *check {
        return Err(Distrust::Damaged);
    }
    match written.until(now) {
        Since::Steady => Ok(Loaded { key, cycle, marks: marks.iter().map(|mark| u64::from_le_bytes(*mark)).collect() }),
        Since::OtherBoot => Err(Distrust::OtherBoot),
        Since::Stepped => Err(Distrust::ClockStepped),
    }
}

/// Writes a state file in one go: what is at `path` is the old one or the new one. Nobody but its owner can read it.
pub(super) fn save(
    path: &Path,
    identity: Identity,
    key: Key,
    cycle: Cycle,
    now: Anchor,
    marks: impl ExactSizeIterator<Item = u64>,
) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let file = tempfile::NamedTempFile::new_in(directory)?;
    let mut out = BufWriter::with_capacity(64 * 1024, file.as_file());
    write(&mut out, identity, key, cycle, now, marks)?;
    out.flush()?;
    drop(out);
    // Not synced: a torn file is noticed, and costs one reading of everything.
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn write(
    out: &mut impl Write,
    identity: Identity,
    key: Key,
    cycle: Cycle,
    now: Anchor,
    marks: impl ExactSizeIterator<Item = u64>,
) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        out.write_all(bytes)
    };
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&u32::try_from(marks.len()).map_err(io::Error::other)?.to_le_bytes());
    head.extend_from_slice(identity.0.as_bytes());
    head.extend_from_slice(&key.0);
    head.extend_from_slice(&now.boot);
    head.extend_from_slice(&now.boottime.to_le_bytes());
    head.extend_from_slice(&now.realtime.to_le_bytes());
    head.extend_from_slice(&cycle.key);
    head.extend_from_slice(&cycle.done.to_le_bytes());
    head.extend_from_slice(&cycle.at.to_le_bytes());
    head.extend_from_slice(&cycle.began.to_le_bytes());
    head.extend_from_slice(&cycle.read.to_le_bytes());
    debug_assert_eq!(head.len(), HEAD);
    put(&head)?;
    let mut block = Vec::with_capacity(8 * 1024);
    for mark in marks {
        block.extend_from_slice(&mark.to_le_bytes());
        if block.len() == block.capacity() {
            put(&block)?;
            block.clear();
        }
    }
    put(&block)?;
    out.write_all(hasher.finalize().as_bytes())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity(Digest::from_bytes([1; 32]));
    const NOW: Anchor = Anchor { boot: [3; 16], boottime: 5_000_000_000, realtime: 1_700_000_000_000_000_000 };
    const CYCLE: Cycle = Cycle { key: [4; 32], done: 6, at: 7, began: 5, read: 4 };
    const MARKS: [u64; 3] = [8, 0, u64::MAX];

    fn golden() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, IDENTITY, Key([2; 32]), CYCLE, NOW, MARKS.into_iter()).unwrap();
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let hex = concat!(
            "64726966746c6f636b2073746174650a",
            "02000000",
            "03000000",
            "0101010101010101010101010101010101010101010101010101010101010101",
            "0202020202020202020202020202020202020202020202020202020202020202",
            "03030303030303030303030303030303",
            "00f2052a01000000",
            "00002a36fe9c9717",
            "0404040404040404040404040404040404040404040404040404040404040404",
            "0600000000000000",
            "0700000000000000",
            "0500000000000000",
            "0400000000000000",
            "0800000000000000",
            "0000000000000000",
            "ffffffffffffffff",
        );
        let golden = golden();
        let (body, check) = golden.split_last_chunk::<TAIL>().unwrap();
        assert_eq!(hex::encode(body), hex);
        assert_eq!(*check, blake3::derive_key("driftlock scan state file v2", body));
        let loaded = parse(&golden, IDENTITY, 3, NOW).unwrap();
        assert_eq!(loaded, Loaded { key: Key([2; 32]), cycle: CYCLE, marks: MARKS.to_vec() });
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let golden = golden();
        for end in 0..golden.len() {
            assert!(parse(&golden[..end], IDENTITY, 3, NOW).is_err(), "cut at {end}");
        }
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped, IDENTITY, 3, NOW).is_err(), "bit {bit}");
        }
        assert!(parse(&[&golden[..], b"x"].concat(), IDENTITY, 3, NOW).is_err(), "longer");
    }

    #[test]
    fn what_is_of_another_time_or_about_something_else_is_not_relied_on() {
        let golden = golden();
        let why = |identity, entries, now| parse(&golden, identity, entries, now).unwrap_err().to_string();
        let other = Identity(Digest::from_bytes([9; 32]));
        assert!(why(other, 3, NOW).contains("another root"));
        assert!(why(IDENTITY, 4, NOW).contains("another root"));
        assert!(why(IDENTITY, 3, Anchor { boot: [0; 16], ..NOW }).contains("started again"));
        assert!(why(IDENTITY, 3, Anchor { realtime: NOW.realtime + 5_000_000_000, ..NOW }).contains("clock was set"));
        let mut later = golden.clone();
        later[16] = 3;
        assert!(matches!(parse(&later, IDENTITY, 3, NOW), Err(Distrust::Version(3))));
        assert!(matches!(parse(b"{}", IDENTITY, 3, NOW), Err(Distrust::NoState)));
    }

    #[test]
    fn a_file_is_replaced_in_one_go_and_private() {
        use std::os::unix::fs::PermissionsExt as _;

        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let load = || parse(&read(&path, 3)?, IDENTITY, 3, Anchor::now());
        assert!(matches!(load(), Err(Distrust::Absent)));
        for marks in [MARKS, [1, 2, 3]] {
            save(&path, IDENTITY, Key([2; 32]), CYCLE, Anchor::now(), marks.into_iter()).unwrap();
            assert_eq!(load().unwrap().marks, marks);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        assert!(matches!(load(), Err(Distrust::NoState)));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(load(), Err(Distrust::Unreadable(_))));
        assert!(save(&path, IDENTITY, Key([2; 32]), CYCLE, Anchor::now(), MARKS.into_iter()).is_err());
    }
}
