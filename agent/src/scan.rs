//! Owns comparing a root on this host with a manifest, and observing a root to seal it. Must not own when to scan, what a
//! policy says, or the form of a report.
//!
//! Data goes: a [`Root`] is opened once; `walk` visits it a directory at a time, with descriptors that `directory` keeps
//! and bounds, names that `list` reads, nodes that `look` establishes through `open`, `content` and `xattr`; every
//! difference from the sealed children of the directory becomes a drift; `report` sums up.
//!
//! Bytes go from `reader` to `content`; `footprint` sees to it that they do not stay in the page cache, `pace` that it goes
//! no faster than it may.
//!
//! Nothing outside the root is ever opened: every name is opened relative to the descriptor of its directory, never
//! following a link. What could not be established is a drift too, never silence.

mod collapse;
mod compare;
mod content;
mod directory;
mod footprint;
pub mod growing;
mod ids;
mod inodes;
mod list;
mod look;
mod mount_table;
mod observe;
mod open;
pub mod pace;
mod progress;
mod reader;
mod readers;
mod report;
mod root;
mod state;
mod transition;
mod walk;
mod xattr;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use driftlock_common::compared::Compared;
use driftlock_common::drift::Attributes;
use driftlock_common::finding::Unjudged;
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::policy::Policy;
use driftlock_common::profile::Profile;

use crate::judge::Judge;
use pace::Pace;

pub use compare::{Expected, compare};
pub use directory::FILES_FOR_EACH_THREAD;
pub use growing::Growing;
pub use ids::{IdMap, IdMapError, IdView, OVERFLOW};
pub use inodes::Inodes;
pub use mount_table::MountTable;
pub use observe::{Observation, ObserveTerms, observe};
pub use progress::Progress;
pub use report::{ScanReport, Tally, report};
pub use root::{Root, RootError, Unopened};
pub use state::{ClockWatch, Distrust, FULL, Identity, Rely, State, boot};
pub use transition::Transition;

/// The collapse limit of the design: more added paths than this below one directory are one finding.
pub const COLLAPSE: u64 = 10_000;

/// How many drifts a report holds for naming the observed tree, where they are not wanted otherwise: some 50 MB.
pub const HELD: usize = 100_000;

/// How a comparison is made. The default compares everything the manifest specifies.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Left out on both sides, beside what the manifest leaves out. The scope becomes partial.
    pub local_excludes: Excludes,
    /// Compare only what this profile compares, if that is less than what was sealed. The scope becomes partial.
    pub profile: Option<Profile>,
    /// Of that, compare only the type and these attributes. The scope becomes partial if that is less than was sealed.
    pub only: Option<Attributes>,
    /// Content of files that are not as sealed anyway (added, or of another size) is hashed up to this many bytes;
    /// beyond, it is a gap `too_large`. `None` hashes everything.
    pub hash_limit: Option<u64>,
    /// What to do about file systems mounted inside the root.
    pub mounts: Mounts,
    /// Mount points treated as under [`Mounts::Skip`] whatever `mounts` says.
    pub mounts_allowed: BTreeSet<TreePath>,
    /// Whose view of users and groups is compared.
    pub id_view: IdView,
    /// Device and inode of the agent's own state directory: left out if it lies inside the root, and shown in
    /// [`Outcome::own_state`].
    pub own_state: Option<(u64, u64)>,
    /// Show more added paths than this below one directory as one drift. What the policy tolerates is not among them: what
    /// stands for others is not judged for them, and would be an alert.
    pub collapse: Option<u64>,
    /// For who sees each drift as it is found: a report holds so many at most, and none if there are more; then it does not
    /// name the observed tree. `None` is all.
    pub held: Option<usize>,
    /// What is remembered of this root and this baseline, and how far it is relied on; `None`: everything is read.
    pub state: Option<(Arc<State>, Rely)>,
    /// What may differ. Where it allows anything, files are not read (but for those that give rights) and not remembered:
    /// see [`Outcome::unjudged`].
    pub policy: Option<Arc<Policy>>,
    /// What is remembered of files that the policy lets grow; `None`: what was written to them is not judged to be that.
    pub growing: Option<Arc<Growing>>,
    /// Where the inodes of sealed entries are noted, for who has to know them by that.
    pub inodes: Option<Arc<Inodes>>,
    /// What a path may be as besides; then no observed tree is named, and the scope is partial.
    pub transition: Option<Transition>,
    /// How fast it may go; `None` is as fast as it can.
    pub pace: Option<Arc<Pace>>,
    /// Counts what is done while it is done, for showing it.
    pub progress: Option<Arc<Progress>>,
}

impl Options {
    /// What is compared with a manifest that was sealed under `sealed`.
    pub fn compared(&self, sealed: Profile) -> Compared {
        let all = Compared::all(self.profile.map_or(sealed, |profile| profile.min(sealed)));
        self.only.map_or(all, |wanted| all.only(wanted))
    }

    /// What says what each difference is.
    pub fn judge(&self) -> Judge<'_> {
        Judge::new(self.policy.as_deref()).remembering(self.growing.as_deref())
    }

    /// Whether a file system may be mounted at `path`, so that not looking there is no gap.
    fn wants_mount(&self, path: &TreePath) -> bool {
        self.mounts == Mounts::Skip || self.mounts_allowed.contains(path)
    }
}

/// What to do about file systems mounted inside the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mounts {
    /// What was sealed at and below a mount point is one gap; what else is there is not looked at.
    #[default]
    Report,
    /// As [`Mounts::Report`], but wanted: no drift, only [`Outcome::mounts`]. The scope becomes partial.
    Skip,
    /// Walked as if it were part of the root's file system, but for what is virtual.
    Cross,
}

/// Which part of a root is compared.
///
/// A scope whose way from the root is blocked (an ancestor is unreadable, or a mount point) gives one gap at that
/// ancestor, as a scan of everything would.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everything.
    #[default]
    All,
    /// A path and everything below it.
    Subtree(TreePath),
    /// A path alone, and what another type, a new or a removed directory there entails below it.
    Entry(TreePath),
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Entries looked at on disk, the root not counted.
    pub entries: u64,
    /// Of these, sealed ones that were not read, because nothing that stat shows moved since they were found as sealed.
    pub remembered: u64,
    /// Files read to their end.
    pub files_hashed: u64,
    /// Bytes read.
    pub bytes_hashed: u64,
    /// Wall time.
    pub duration: Duration,
    /// How long threads waited because of the pace, all together.
    pub waited: Duration,
}

/// How a comparison ended. The drifts themselves were handed over one by one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What was done.
    pub stats: Stats,
    /// The root is gone or another directory than the one that was opened. The only drift about what is missing is then
    /// one gap at the root that covers everything; nothing is `removed`.
    pub root_lost: bool,
    /// Ended early as asked: `unreached` sealed entries were not looked at, and added ones may be missing.
    pub interrupted: bool,
    /// Sealed entries not looked at because of the interruption.
    pub unreached: u64,
    /// Drifts that say, or also say, that something could not be established.
    pub gaps: u64,
    /// Files that were not read, because the policy allows anything there.
    pub unjudged: Unjudged,
    /// Mount points met inside the root and not entered, in path order, but for the virtual ones.
    pub mounts: Vec<TreePath>,
    /// Where what the kernel makes is mounted inside the root: left out, whatever [`Options::mounts`] says, unless files
    /// were sealed there. In path order.
    pub virtual_mounts: Vec<TreePath>,
    /// Where the agent's own state directory was found and left out.
    pub own_state: Option<TreePath>,
    /// Whether anything was left out by wish, or because it is the kernel's: local excludes, less than was sealed (also by one
    /// of several manifests), skipped
    /// or virtual mounts, own state.
    pub partial: bool,
}

impl Outcome {
    /// Whether everything in scope was established.
    pub const fn complete(&self) -> bool {
        self.gaps == 0 && !self.interrupted && !self.root_lost
    }
}

#[cfg(test)]
mod parts;
#[cfg(test)]
mod tests;
