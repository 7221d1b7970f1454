//! Owns what can happen to a tree, drawn from seeded choices alone: the same seed gives the same operations, whatever comes
//! of them. Must not own carrying them out.

use crate::random::Random;

use super::{LINKED, STILL};

/// A path relative to the root.
pub(super) type At = Vec<u8>;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Written whole.
    Write(At, usize),
    /// A byte in the middle, the size as before.
    WriteInPlace(At, u64),
    /// Written to the end of.
    Append(At, usize),
    /// A hole and a byte behind it.
    Sparse(At, u64),
    /// Other content of the same size, and the time of the last change put back.
    Forge(At),
    /// Cut or stretched by its path.
    Truncate(At, u64),
    /// Cut or stretched by a descriptor.
    TruncateOpen(At, u64),
    /// Opened for writing, and kept open for a while.
    Hold(At),
    /// Written through a descriptor that was kept open; it is closed if this says so.
    WriteHeld(bool),
    /// Removed, with all that is below it.
    Remove(At),
    /// Directories, files and a link in and below it.
    Grow(At, usize),
    /// Renamed, over what is there.
    Rename(At, At),
    /// Each in the place of the other.
    Exchange(At, At),
    /// One name more for a file.
    Link(At, At),
    /// A symlink.
    Symlink(At, u64),
    /// A FIFO, or a device that there is not.
    Node(At, bool),
    /// Another mode.
    Mode(At, u32),
    /// Another owner.
    Owner(At, u32),
    /// An extended attribute that is not compared.
    Attribute(At, u8),
    /// A file capability.
    Capability(At),
    /// A temporary file beside it, flushed, renamed over it.
    Save(At, usize),
    /// Renamed to a backup, written anew, the backup removed.
    Backup(At, usize),
    /// Stored through a mapping, flushed, unmapped.
    Store(At, u8),
    /// Moved out of the tree, into a place there.
    MoveOut(At, usize),
    /// Moved in from such a place, something in it changed before.
    MoveIn(usize, At),
    /// Written through a hard link outside of the tree.
    WriteOutside(usize),
    /// What makes no difference.
    Harmless(usize, Harmless),
    /// Put back as sealed.
    Restore(usize),
    /// Put back as sealed, with everything below it.
    RestoreAll(At),
    /// Everything that became too much is removed.
    Prune,
}

/// What makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmless {
    /// Another time of the last change.
    Time,
    /// The mode that it has.
    Mode,
    /// A hard link outside, for a moment.
    Link,
    /// Replaced by its equal.
    Equal,
    /// Opened for writing and closed.
    Open,
    /// An extended attribute that is not compared.
    Attribute,
}

/// Who should see at once what happens: operations that it is blind to by design are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Nothing is left out.
    #[default]
    All,
    /// Watches of directories: blind to what is changed through another name of a file.
    Inotify,
    /// A mark of a file system without changes of content: blind to a truncation by path.
    Fanotify,
}

/// Places outside of the tree.
pub(super) const SLOTS: usize = 8;

const HARMLESS: [Harmless; 6] =
    [Harmless::Time, Harmless::Mode, Harmless::Link, Harmless::Equal, Harmless::Open, Harmless::Attribute];

impl Operation {
    /// The next one at one of `places`, where `sealed` paths are sealed.
    pub fn draw(random: &mut Random, places: &[At], sealed: usize) -> Self {
        let number =
            |random: &mut Random, bound: usize| usize::try_from(random.below(bound as u64)).expect("below a usize");
        let at = |random: &mut Random| random.pick(places).clone();
        match random.below(100) {
            0..8 => Self::Write(at(random), number(random, 20_000)),
            8..12 => Self::WriteInPlace(at(random), random.below(16)),
            12..16 => Self::Append(at(random), number(random, 4_000)),
            16 => Self::Sparse(at(random), random.below(1 << 20)),
            17..20 => Self::Forge(at(random)),
            20 => Self::Truncate(at(random), random.below(5000)),
            21 => Self::TruncateOpen(at(random), random.below(5000)),
            22 => Self::Hold(at(random)),
            23..26 => Self::WriteHeld(random.below(2) == 0),
            26..32 => Self::Remove(at(random)),
            32..36 => Self::Grow(at(random), 1 + number(random, 6)),
            36..44 => Self::Rename(at(random), at(random)),
            44..47 => Self::Exchange(at(random), at(random)),
            47..49 => Self::Link(at(random), at(random)),
            49..51 => Self::Symlink(at(random), random.below(9)),
            51 => Self::Node(at(random), random.below(2) == 0),
            52..56 => Self::Mode(at(random), mode(random)),
            56..58 => Self::Owner(at(random), 1000 + u32::try_from(random.below(4)).expect("below 4")),
            58 => Self::Attribute(at(random), u8::try_from(random.below(256)).expect("a byte")),
            59 => Self::Capability(at(random)),
            60..64 => Self::Save(at(random), number(random, 9_000)),
            64..66 => Self::Backup(at(random), number(random, 9_000)),
            66 => Self::Store(at(random), u8::try_from(random.below(256)).expect("a byte")),
            67..70 => Self::MoveOut(at(random), number(random, SLOTS)),
            70..73 => Self::MoveIn(number(random, SLOTS), at(random)),
            73 => Self::WriteOutside(number(random, LINKED)),
            74..76 => Self::Harmless(number(random, STILL), *random.pick(&HARMLESS)),
            76..94 => Self::Restore(number(random, sealed)),
            94..99 => Self::RestoreAll(at(random)),
            _ => Self::Prune,
        }
    }

    /// Whether this is seen at once by who should.
    pub fn is_seen_by(&self, sight: Sight) -> bool {
        match sight {
            Sight::All => true,
            Sight::Inotify => !matches!(self, Self::Link(..) | Self::WriteOutside(_)),
            Sight::Fanotify => !matches!(self, Self::Truncate(..)),
        }
    }
}

/// With what lets an owner read: a test may not run as root.
fn mode(random: &mut Random) -> u32 {
    0o700 | u32::try_from(random.below(0o10_000)).expect("a mode")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let places = [b"a".to_vec(), b"b".to_vec()];
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..500).map(|_| Operation::draw(&mut random, &places, 9)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
