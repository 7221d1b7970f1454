//! Owns hints: where it may pay to look again, and the trait of what gives them. Must not own looking, or deciding when.

use driftlock_common::path::TreePath;

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

/// Why everything has to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel, or the channel behind it, dropped events.
    Overflow,
    /// The watching failed in a way that leaves unknown what was missed.
    Failed,
    /// The root itself was removed, moved or unmounted.
    RootMoved,
}

/// What is watched after arming.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Armed {
    /// `inotify`, `sweep`, ….
    pub mode: &'static str,
    /// Directories that could not be watched; 0 if all are.
    pub unwatched: u64,
    /// Why less is watched than the mode promises, one line; empty if nothing is missing.
    pub degraded: String,
}
