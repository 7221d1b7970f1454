//! Owns the explanation of what became of a growing file: it grew, it was rotated, or it was cut. Must not own reading:
//! what lies beside the file is asked of [`Siblings`].
//!
//! What was read once must still be somewhere: in the file, or in a rotated file that begins with the same bytes. A
//! rotation takes several steps; who asks in the middle of one may be told `Cut`, so ask once things have settled.

use crate::digest::Digest;
use crate::path::TreePath;
use crate::pattern::Pattern;

use super::Rotation;

/// What is remembered of a growing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its inode number; rotation by renaming keeps it.
    pub inode: u64,
    /// How many bytes of it were read.
    pub length: u64,
    /// BLAKE3 of these.
    pub prefix: Digest,
    /// The greatest length that it was seen to have, read or not; at least `length`.
    pub seen: u64,
    /// When it was last modified, in seconds.
    pub modified: i64,
}

/// What is at the file's path now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// Its inode number.
    pub inode: u64,
    /// Its length.
    pub length: u64,
    /// BLAKE3 of as many bytes as are remembered, if these were read again.
    pub prefix: Option<Digest>,
}

/// A file that may be what a log was rotated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Relative to the directory of the growing file.
    pub name: TreePath,
    /// Its inode number.
    pub inode: u64,
    /// Its length on disk.
    pub length: u64,
    /// When it was last modified, in seconds.
    pub modified: i64,
}

/// How a rotated file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// The beginning of a rotated file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// BLAKE3 of as many bytes as were asked for.
    pub digest: Digest,
    /// How many bytes there are in all, unpacked: at least as many as were asked for.
    pub length: u64,
}

/// What lies in the directory of a growing file.
pub trait Siblings {
    /// The regular files that one of the patterns names, the growing file itself left out.
    fn named(&mut self, names: &[Pattern]) -> Vec<Sibling>;

    /// The first `length` bytes of a sibling as they are. `None` if it has fewer or cannot be read.
    fn beginning(&mut self, sibling: &Sibling, length: u64) -> Option<Beginning>;

    /// The first `length` bytes that a packed sibling unpacks to, and how it is packed, by what it holds and not by its
    /// name. `None` if it is not packed, unpacks to fewer, is damaged, or to far more than a log could be (a limit of
    /// whoever reads).
    fn unpacked(&mut self, sibling: &Sibling, length: u64) -> Option<(Packing, Beginning)>;
}

/// What became of a growing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has all that it had, and perhaps more.
    Grown,
    /// What it had is in another place, as the rotation says.
    Rotated(Rotated),
    /// What it had is nowhere.
    Cut(Cut),
}

/// Where the content of a rotated file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// In the same file under another name.
    Renamed {
        /// The name.
        to: TreePath,
    },
    /// In a copy.
    Copied {
        /// Its name.
        to: TreePath,
        /// Bytes that were seen in the file but are not in the copy: written between the copy and the truncation.
        lost: u64,
    },
    /// In a packed copy.
    Packed {
        /// Its name.
        to: TreePath,
        /// How.
        packing: Packing,
        /// As for a copy.
        lost: u64,
    },
    /// Nowhere any more: it was the oldest of as many as are kept.
    OldestGone,
}

/// What is wrong with a growing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is shorter.
    Shrunk,
    /// It begins otherwise.
    Rewritten,
    /// It is not there.
    Gone,
}

/// What became of a growing file that was remembered under `name`, a path relative to its directory; `now` is `None` if
/// there is no regular file any more.
pub fn explain(
    name: &TreePath,
    remembered: &Remembered,
    now: Option<&Now>,
    rotation: &Rotation,
    siblings: &mut impl Siblings,
) -> Fate {
    let cut = match now {
        None => Cut::Gone,
        Some(now) if now.length < remembered.length => Cut::Shrunk,
        Some(Now { prefix: Some(prefix), .. }) if *prefix != remembered.prefix => Cut::Rewritten,
        // The same file, longer: only `full` reads again what was read before. Another file has to be read.
        Some(Now { prefix: None, inode, .. }) if *inode != remembered.inode => Cut::Rewritten,
        Some(_) => return Fate::Grown,
    };
    let mut all = siblings.named(&rotation.names);
    // What was only renamed is found at once, and only what is not found as it is is unpacked.
    all.sort_by_key(|sibling| (sibling.inode != remembered.inode, log_of(&sibling.name) != log_of(name)));
    let plain = all.iter().find_map(|sibling| carries(remembered, sibling, siblings));
    match plain.or_else(|| all.iter().find_map(|sibling| carries_packed(remembered, sibling, siblings))) {
        Some(rotated) => Fate::Rotated(rotated),
        None if was_oldest(name, remembered, now, rotation, &all) => Fate::Rotated(Rotated::OldestGone),
        None => Fate::Cut(cut),
    }
}

/// How a sibling has everything that was read of the file, as it is.
fn carries(remembered: &Remembered, sibling: &Sibling, siblings: &mut impl Siblings) -> Option<Rotated> {
    let found = siblings.beginning(sibling, remembered.length).filter(|found| remembered.is_in(found))?;
    let to = sibling.name.clone();
    Some(if sibling.inode == remembered.inode {
        Rotated::Renamed { to }
    } else {
        Rotated::Copied { to, lost: remembered.missing_in(&found) }
    })
}

/// How a packed sibling has everything that was read of the file.
fn carries_packed(remembered: &Remembered, sibling: &Sibling, siblings: &mut impl Siblings) -> Option<Rotated> {
    let unpacked = siblings.unpacked(sibling, remembered.length);
    let (packing, found) = unpacked.filter(|(_, found)| remembered.is_in(found))?;
    Some(Rotated::Packed { to: sibling.name.clone(), packing, lost: remembered.missing_in(&found) })
}

impl Remembered {
    fn is_in(&self, found: &Beginning) -> bool {
        found.digest == self.prefix && found.length >= self.length
    }

    /// Bytes that were seen in the file and are not in what carries it.
    const fn missing_in(&self, found: &Beginning) -> u64 {
        self.seen.saturating_sub(found.length)
    }
}

/// Whether it was the oldest rotated file, and as many as are kept are there without it: one of them may have its name.
/// The log itself never is, nor a file that was changed where it lay.
fn was_oldest(
    name: &TreePath,
    remembered: &Remembered,
    now: Option<&Now>,
    rotation: &Rotation,
    all: &[Sibling],
) -> bool {
    let Some(keep) = rotation.keep.and_then(|keep| usize::try_from(keep).ok()) else { return false };
    let rotated = rotation.names.iter().any(|pattern| pattern.matches(name));
    let in_place = now.is_some_and(|now| now.inode == remembered.inode);
    // Names with stars are those of other logs too, which are rotated at times of their own.
    let own = all.iter().filter(|sibling| log_of(&sibling.name) == log_of(name));
    let kept = own.clone().count() + usize::from(now.is_some());
    rotated && !in_place && kept >= keep && own.into_iter().all(|sibling| sibling.modified >= remembered.modified)
}

/// What a file is called before the number or the date that it was rotated by.
fn log_of(name: &TreePath) -> &[u8] {
    let name = name.name();
    let number = name.windows(2).position(|pair| matches!(pair, [b'.' | b'-', b'0'..=b'9']));
    number.map_or(name, |at| &name[..at])
}
