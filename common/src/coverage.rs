//! Owns what an agent can vouch for of a target, since when: how it is watched, what that does not see at once, what was
//! missed. Must not own how any of it is established.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::{Unjudged, is_zero};

/// How a target is watched: the rungs of a ladder, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchMode {
    /// One mark for each file system.
    Fanotify,
    /// One watch for each directory.
    Inotify,
    /// Nothing tells of a change; it is found by looking.
    Sweep,
    /// Nothing is watched: the process of the root is not there.
    Away,
}

/// A change that gives no hint under a way of watching, so that it is found later. A closed table: the words are part of
/// the report format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlindSpot {
    /// No hints at all.
    Everything,
    /// Written through a descriptor that stays open: hinted when it is closed.
    HeldDescriptor,
    /// `truncate(2)` by a path.
    Truncate,
    /// Changed through a hard link outside of what is watched.
    ForeignLink,
    /// Changed in the layers below an overlay.
    LowerLayer,
    /// Changed by another machine, on a network file system.
    Remote,
    /// Stored through a shared mapping.
    Mapping,
    /// Written to the device below the file system.
    Device,
}

/// By when something is found at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bound {
    /// By the event: within a second.
    Event,
    /// By the next sweep.
    Sweep,
    /// When everything was read once more.
    Full,
}

/// What the agent can vouch for, since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Coverage {
    /// The word of a [`WatchMode`].
    pub watch_mode: String,
    /// Words of [`BlindSpot`]s: what that does not see at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blind: Vec<String>,
    /// RFC 3339: end of the last complete look; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sweep: Option<String>,
    /// RFC 3339: since then every sealed file was read; absent before it was so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_full: Option<String>,
    /// Sealed entries that could not be established in the last complete look.
    pub unverifiable: u64,
    /// The same by the word of the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gaps: BTreeMap<String, u64>,
    /// What waits longest for a verdict; absent if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unverified: Option<Unverified>,
    /// How often kernel events were lost.
    pub overflows: u64,
    /// Directories without a watch; they are found by sweeps only.
    pub unwatched: u64,
    /// How often the clock was set, since the agent started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock_steps: u64,
    /// How often something came and was gone again when it was looked at, since the agent started; once for as long as its
    /// path keeps changing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub transient: u64,
    /// How often something sealed was as sealed when it was looked at after a hint, since the agent started: changed and put
    /// back, or touched; once for as long as it keeps changing. What was said to differ in between is not counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub put_back: u64,
    /// RFC 3339: until when a path may be as in the manifest before too; absent while no switch is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_until: Option<String>,
    /// What was not read in the last complete look because the policy allows anything there.
    #[serde(default, skip_serializing_if = "Unjudged::is_nothing")]
    pub unjudged: Unjudged,
    /// How often findings opened or resolved without being said, because they flapped, since the agent started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub folded: u64,
    /// Local excludes in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// Where file systems may be mounted inside the root, so that what lies there is not looked at: as configured, and as
    /// found in the root of a process. Escaped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<String>,
    /// Where what the kernel makes was mounted inside the root at the last complete look, left out by its type. Escaped, in
    /// path order.
    #[serde(rename = "virtual", default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_mounts: Vec<String>,
}

/// What waits for a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unverified {
    /// Where, escaped; empty is the root.
    pub path: String,
    /// RFC 3339: since when it is known that it has to be looked at.
    pub since: String,
}

impl WatchMode {
    /// The word of the report format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Sweep => "sweep",
            Self::Away => "away",
        }
    }
}

impl BlindSpot {
    /// Every one, its word, by when it is found at the latest, and what it means for an operator.
    pub const TABLE: [(Self, &'static str, Bound, &'static str); 8] = [
        (Self::Everything, "everything", Bound::Sweep, "nothing tells of a change"),
        (Self::HeldDescriptor, "held_descriptor", Bound::Sweep, "written through a descriptor that stays open"),
        (Self::Truncate, "truncate", Bound::Sweep, "truncated by its path"),
        (Self::ForeignLink, "foreign_link", Bound::Sweep, "changed through a hard link outside of the root"),
        (Self::LowerLayer, "lower_layer", Bound::Sweep, "changed in the layers below an overlay"),
        (Self::Remote, "remote", Bound::Sweep, "changed by another machine"),
        (Self::Mapping, "mapping", Bound::Full, "stored through a shared mapping"),
        (Self::Device, "device", Bound::Full, "written to the device below the file system"),
    ];

    /// The word of the report format.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// By when it is found at the latest.
    pub fn bound(self) -> Bound {
        self.row().2
    }

    /// What it means for an operator.
    pub fn meaning(self) -> &'static str {
        self.row().3
    }

    fn row(self) -> &'static (Self, &'static str, Bound, &'static str) {
        Self::TABLE.iter().find(|(spot, ..)| *spot == self).unwrap_or(&Self::TABLE[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blind_spot_stands_in_the_table_once() {
        for (spot, word, bound, _) in BlindSpot::TABLE {
            assert_eq!((spot.name(), spot.bound()), (word, bound));
            assert_eq!(BlindSpot::TABLE.iter().filter(|row| row.1 == word).count(), 1);
        }
    }
}
