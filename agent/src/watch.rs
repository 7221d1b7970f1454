//! Owns hints: where it may pay to look again, their channel, and the trait of what gives them. Must not own looking, or
//! deciding when.

mod channel;
mod directories;
mod end;
pub mod fanotify;
mod files;
mod inotify;
mod ladder;
mod mounts;
mod names;
mod place;
mod stop;

use driftlock_common::coverage::{BlindSpot, WatchMode};
use driftlock_common::path::TreePath;

use crate::baseline::LeftOut;
use crate::scan::Mounts;

pub use channel::{HintSender, Hints, Seen, channel};
pub use end::when_ended;
pub use files::Files;
pub(crate) use ladder::remedy;
pub use ladder::{EVENT_BOUND, Refusal, arm, blind_spots, check};
pub use mounts::{Cover, watch_mounts};
pub use names::Names;
pub use place::Place;

/// A place where something may have changed. Never more than that: the verdict comes from content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The entry itself: its content or attributes.
    Touched(TreePath),
    /// The entry and everything below it: it came, went, or was moved.
    Subtree(TreePath),
    /// Anything anywhere.
    Everything(Why),
}

/// A process that may have changed something. A wish to know, no proof: it may have ended since, or have acted for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its number in the agent's process namespace; 0 for one outside of it.
    pub pid: u32,
}

/// Why everything has to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel, or the channel behind it, dropped events.
    Overflow,
    /// The watching failed in a way that leaves unknown what was missed.
    Failed,
    /// The root itself was removed, moved or unmounted.
    RootMoved,
    /// What is mounted inside and is part of the root is something else than before: it is not watched yet.
    Mounted,
}

/// What is watched after arming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Armed {
    /// What gives the hints.
    pub mode: WatchMode,
    /// What gives none.
    pub blind: Vec<BlindSpot>,
    /// Directories that could not be watched, as far as they are known; 0 if all are.
    pub unwatched: u64,
    /// Why less is watched than the mode promises, one line; empty if nothing is missing.
    pub degraded: String,
    /// Better ways that cannot be had, the best first.
    pub refused: Vec<Refusal>,
}

/// A way of watching that holds, and how far it goes.
type Rung = (Box<dyn Watcher>, Armed);

/// What of a root is to be watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What does not matter: no hints from there.
    pub left_out: LeftOut,
    /// Where the agent itself writes: no hints from there.
    pub own_state: Option<TreePath>,
    /// What to do about file systems mounted inside the root: only what is crossed is watched.
    pub mounts: Mounts,
    /// What is sealed, by inode: for changes through another name.
    pub sealed: Option<Names>,
}

/// Keeps the hints of one root coming until it is dropped.
pub trait Watcher: Send + std::fmt::Debug {}

/// Watches nothing: the mode `sweep`.
#[derive(Debug)]
pub struct Nothing;

impl Watcher for Nothing {}

impl Armed {
    /// Less is watched than the mode promises; why, in one line.
    pub fn lacks(&mut self, why: &str) {
        if !self.degraded.is_empty() {
            self.degraded.push_str("; ");
        }
        self.degraded.push_str(why);
    }

    /// What is not watched at all.
    pub fn nothing() -> Self {
        Self {
            mode: WatchMode::Sweep,
            blind: blind_spots(WatchMode::Sweep).to_vec(),
            unwatched: 0,
            degraded: String::new(),
            refused: Vec::new(),
        }
    }
}
