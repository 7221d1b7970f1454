//! Owns which way of watching a target gets: the best that holds, or the one that was asked for. Found by trying, never by
//! the kernel's version: kernels are patched and filtered. Must not own how any of them works.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use driftlock_common::coverage::{BlindSpot, WatchMode};
use rustix::io::Errno;

use super::{Armed, HintSender, Nothing, Rung, Watched, fanotify, inotify};
use crate::config::Mode;
use crate::host::probe::{self, words};
use crate::scan::Root;

/// Until there is a backend for it.
const FANOTIFY_BLIND: [BlindSpot; 6] = [
    BlindSpot::HeldDescriptor,
    BlindSpot::Truncate,
    BlindSpot::LowerLayer,
    BlindSpot::Remote,
    BlindSpot::Mapping,
    BlindSpot::Device,
];

/// A way of watching that cannot be had, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be used: {why}{}{remedy}", mode.name(), if remedy.is_empty() { "" } else { ": " })]
pub struct Refusal {
    /// Which.
    pub mode: WatchMode,
    /// What the kernel says, in one line.
    pub why: String,
    /// What would help; empty if nothing is known to.
    pub remedy: &'static str,
}

/// By when at the latest what gives an event is found on a host that is not overloaded.
pub const EVENT_BOUND: Duration = Duration::from_secs(1);

/// What a way of watching does not see at once.
pub const fn blind_spots(mode: WatchMode) -> &'static [BlindSpot] {
    match mode {
        WatchMode::Fanotify => &FANOTIFY_BLIND,
        WatchMode::Inotify => &inotify::BLIND,
        WatchMode::Sweep | WatchMode::Away => &[BlindSpot::Everything, BlindSpot::Mapping, BlindSpot::Device],
    }
}

/// The steps of the ladder above sweeps, the best first.
const RUNGS: [WatchMode; 2] = [WatchMode::Fanotify, WatchMode::Inotify];

/// Watches a root from now on: a change after this returns gives a hint, unless the mode is blind to it. What could not be
/// watched is said.
pub fn arm(mode: Mode, target: &Arc<str>, watched: &Watched, root: &Arc<Root>, hints: &HintSender) -> Rung {
    let mut refused = Vec::new();
    for rung in RUNGS.into_iter().filter(|rung| mode.wants(*rung)) {
        let tried = match rung {
            WatchMode::Fanotify => fanotify::arm(target, watched.clone(), root, hints).map_err(io::Error::from),
            _ => inotify::arm(target, watched.clone(), root, hints),
        };
        match tried {
            Ok((watcher, armed)) => return (watcher, Armed { refused, ..armed }),
            Err(error) => refused.push(Refusal::new(rung, &error)),
        }
    }
    // Without privileges only the best is out of reach; where all is, something is wrong.
    let degraded = refused.last().map(ToString::to_string).unwrap_or_default();
    (Box::new(Nothing), Armed { unwatched: u64::from(!degraded.is_empty()), degraded, refused, ..Armed::nothing() })
}

/// Whether a root can be watched in the way that was asked for, as far as that shows without doing it.
///
/// # Errors
/// Why not. A mode that leaves the choice is always possible.
pub fn check(mode: Mode, root: &Root) -> Result<(), Refusal> {
    let (rung, answer) = match mode {
        Mode::Auto | Mode::Sweep => return Ok(()),
        Mode::Fanotify => (WatchMode::Fanotify, probe::mark(root.as_fd())),
        Mode::Inotify => (WatchMode::Inotify, probe::watch(root.as_fd())),
    };
    answer.map_err(|error| Refusal::new(rung, &error.into()))
}

/// What would make the kernel grant a way of watching that it refused with `error`; empty if that is not known.
pub(crate) const fn remedy(mode: WatchMode, error: Errno) -> &'static str {
    match (mode, error) {
        (WatchMode::Fanotify, Errno::PERM) => {
            "it takes CAP_SYS_ADMIN outside of any user namespace, and no filter of system calls against it \
             (fanotify.conf of the package's examples)"
        }
        (WatchMode::Fanotify, Errno::OPNOTSUPP) => {
            "its file system has no lasting names of directories; an overlay has them when mounted with nfs_export=on"
        }
        (WatchMode::Fanotify, Errno::XDEV) => "it is a btrfs subvolume, which cannot be marked",
        (WatchMode::Fanotify, Errno::NODEV) => "its file system has no id, as those of user programs",
        (WatchMode::Fanotify, Errno::INVAL | Errno::NOSYS) => "the kernel is too old for it, or made without it",
        (WatchMode::Fanotify, Errno::MFILE) => "raise fs.fanotify.max_user_groups, or the limit of open files",
        (WatchMode::Fanotify, Errno::NOSPC) => "raise fs.fanotify.max_user_marks",
        (WatchMode::Inotify, Errno::MFILE) => "raise fs.inotify.max_user_instances, or the limit of open files",
        (WatchMode::Inotify, Errno::NOSPC) => "raise fs.inotify.max_user_watches",
        (WatchMode::Inotify, Errno::NOENT) => "mount /proc",
        (WatchMode::Inotify, Errno::PERM | Errno::NOSYS) => {
            "let the kernel, or the container's seccomp filter, allow it"
        }
        _ => "",
    }
}

// === impl Refusal ===

impl Refusal {
    fn new(mode: WatchMode, error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error);
        let why = errno.map_or_else(|| error.to_string(), words);
        Self { mode, why, remedy: errno.map_or("", |errno| remedy(mode, errno)) }
    }
}

// === impl Mode ===

impl Mode {
    /// Whether a way of watching is to be tried.
    pub(crate) fn wants(self, rung: WatchMode) -> bool {
        match self {
            Self::Auto => true,
            Self::Fanotify => rung == WatchMode::Fanotify,
            Self::Inotify => rung == WatchMode::Inotify,
            Self::Sweep => false,
        }
    }
}

#[cfg(test)]
mod tests;
