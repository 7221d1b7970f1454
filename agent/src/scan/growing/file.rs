//! Owns the form of the file in which growing files are remembered, version 1, and what makes one worth nothing. Must not
//! own what is remembered.
//!
//! All numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 16 | `driftlock grown\n` |
//! | 4 | version |
//! | 32 | identity: baseline, terms and root, as one digest |
//! | | for each file, in the order of paths: |
//! | 4, … | length of the path, and the path |
//! | 72 | what it was: inode, length, BLAKE3 of that, length seen, time of modification |
//! | 1 | 0; or what it lost: 1 for shrunk, 2 for rewritten, 3 for gone, and 128 more once that is settled |
//! | 0 or 72 | what it was before that |
//! | 32 | BLAKE3 of all before, under the context [`CONTEXT`] |

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use driftlock_common::digest::Digest;
use driftlock_common::path::TreePath;
use driftlock_common::policy::rotation::{Cut, Remembered};

use super::super::state::{Distrust, Identity};
use super::{MAX_PATH, MAX_REMEMBERED};

const MAGIC: &[u8; 16] = b"driftlock grown\n";
const VERSION: u32 = 1;
const CONTEXT: &str = "driftlock growing files v1";
const HEAD: usize = 16 + 4 + 32;
const TAIL: usize = 32;
/// Of one file, without its path.
const MOST: usize = 4 + 72 + 1 + 72;
const SETTLED: u8 = 128;

/// What is remembered of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) known: Remembered,
    /// What it was before it lost something, how, and whether that is settled.
    pub(super) lost: Option<(Remembered, Cut, bool)>,
}

/// What a file holds about `identity`.
pub(super) fn load(path: &Path, identity: Identity) -> Result<Vec<(TreePath, Saved)>, Distrust> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Distrust::Absent,
        _ => Distrust::Unreadable(error),
    })?;
    let most = HEAD + TAIL + MAX_REMEMBERED * (MOST + MAX_PATH) + 1;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes).map_err(Distrust::Unreadable)?;
    parse(&bytes, identity)
}

fn parse(bytes: &[u8], identity: Identity) -> Result<Vec<(TreePath, Saved)>, Distrust> {
    let mut rest = bytes;
    if take::<16>(&mut rest).is_none_or(|magic| magic != *MAGIC) {
        return Err(Distrust::NoState);
    }
    let version = u32::from_le_bytes(take(&mut rest).ok_or(Distrust::Damaged)?);
    if version != VERSION {
        return Err(Distrust::Version(version));
    }
    let (summed, check) = bytes.split_last_chunk::<TAIL>().ok_or(Distrust::Damaged)?;
    if blake3::derive_key(CONTEXT, summed) != *check {
        return Err(Distrust::Damaged);
    }
    let whose = Identity::from_digest(Digest::from_bytes(take(&mut rest).ok_or(Distrust::Damaged)?));
    if whose != identity {
        return Err(Distrust::Foreign);
    }
    let mut rest = rest.strip_suffix(check.as_slice()).ok_or(Distrust::Damaged)?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        all.push(one(&mut rest).ok_or(Distrust::Damaged)?);
    }
    if all.len() > MAX_REMEMBERED { Err(Distrust::Damaged) } else { Ok(all) }
}

fn one(rest: &mut &[u8]) -> Option<(TreePath, Saved)> {
    let length = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
    let (path, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    let path = TreePath::new(path).ok()?;
    let known = remembered(rest)?;
    let [word] = take(rest)?;
    let cut = match word & !SETTLED {
        0 if word == 0 => return Some((path, Saved { known, lost: None })),
        1 => Cut::Shrunk,
        2 => Cut::Rewritten,
        3 => Cut::Gone,
        _ => return None,
    };
    let lost = Some((remembered(rest)?, cut, word & SETTLED != 0));
    Some((path, Saved { known, lost }))
}

fn remembered(rest: &mut &[u8]) -> Option<Remembered> {
    Some(Remembered {
        inode: u64::from_le_bytes(take(rest)?),
        length: u64::from_le_bytes(take(rest)?),
        prefix: Digest::from_bytes(take(rest)?),
        seen: u64::from_le_bytes(take(rest)?),
        modified: i64::from_le_bytes(take(rest)?),
    })
}

/// Writes a file in one go: what is at `path` is the old one or the new one. Nobody but its owner can read it.
pub(super) fn save(path: &Path, identity: Identity, all: &[(TreePath, Saved)]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&form(identity, all)?)?;
    // Not synced: a torn file is noticed.
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn form(identity: Identity, all: &[(TreePath, Saved)]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(identity.digest().as_bytes());
    for (path, Saved { known, lost }) in all {
        let length = u32::try_from(path.as_bytes().len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        put(&mut bytes, known);
        let Some((what, cut, settled)) = lost else {
            bytes.push(0);
            continue;
        };
        let word = match cut {
            Cut::Shrunk => 1,
            Cut::Rewritten => 2,
            Cut::Gone => 3,
        };
        bytes.push(if *settled { word | SETTLED } else { word });
        put(&mut bytes, what);
    }
    let check = blake3::derive_key(CONTEXT, &bytes);
    bytes.extend_from_slice(&check);
    Ok(bytes)
}

fn put(bytes: &mut Vec<u8>, what: &Remembered) {
    bytes.extend_from_slice(&what.inode.to_le_bytes());
    bytes.extend_from_slice(&what.length.to_le_bytes());
    bytes.extend_from_slice(what.prefix.as_bytes());
    bytes.extend_from_slice(&what.seen.to_le_bytes());
    bytes.extend_from_slice(&what.modified.to_le_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity::from_digest(Digest::from_bytes([1; 32]));

    fn all() -> Vec<(TreePath, Saved)> {
        let what = |inode| Remembered { inode, length: 2, prefix: Digest::from_bytes([3; 32]), seen: 4, modified: -1 };
        vec![
            (TreePath::new("a").unwrap(), Saved { known: what(9), lost: None }),
            (
                TreePath::new(b"b/\xff".to_vec()).unwrap(),
                Saved { known: what(8), lost: Some((what(7), Cut::Gone, true)) },
            ),
        ]
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let rest = "02000000000000000303030303030303030303030303030303030303030303030303030303030303";
        let rest = format!("{rest}0400000000000000ffffffffffffffff");
        let hex = [
            "64726966746c6f636b2067726f776e0a",
            "01000000",
            &"01".repeat(32),
            "0100000061",
            "0900000000000000",
            &rest,
            "00",
            "03000000622fff",
            "0800000000000000",
            &rest,
            "83",
            "0700000000000000",
            &rest,
        ];
        let golden = form(IDENTITY, &all()).unwrap();
        let (body, check) = golden.split_last_chunk::<TAIL>().unwrap();
        assert_eq!(hex::encode(body), hex.concat());
        assert_eq!(*check, blake3::derive_key("driftlock growing files v1", body));
        assert_eq!(parse(&golden, IDENTITY).unwrap(), all());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let golden = form(IDENTITY, &all()).unwrap();
        for end in 0..golden.len() {
            assert!(parse(&golden[..end], IDENTITY).is_err(), "cut at {end}");
        }
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped, IDENTITY).is_err(), "bit {bit}");
        }
        let other = Identity::from_digest(Digest::from_bytes([2; 32]));
        assert!(matches!(parse(&golden, other), Err(Distrust::Foreign)));
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("grown");
        assert!(matches!(load(&path, IDENTITY), Err(Distrust::Absent)));
        save(&path, IDENTITY, &all()).unwrap();
        assert_eq!(load(&path, IDENTITY).unwrap(), all());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(load(&path, IDENTITY), Err(Distrust::NoState)));
    }
}
