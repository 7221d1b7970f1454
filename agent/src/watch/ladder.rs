//! Owns which way of watching a target gets: the best that holds, or the one that was asked for. Found by trying, never by
//! the kernel's version: kernels are patched and filtered. Must not own how any of them works.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use driftlock_common::coverage::{BlindSpot, WatchMode};
use rustix::io::Errno;

use super::{Armed, HintSender, Nothing, Rung, Watched, channel, fanotify, inotify};
use crate::baseline::LeftOut;
use crate::config::Mode;
use crate::host::probe::{self, words};
use crate::scan::{Mounts, Root};

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

/// What a way of watching does not see at once, on one file system or another.
pub fn blind_spots(mode: WatchMode) -> Vec<BlindSpot> {
    match mode {
        WatchMode::Fanotify => [&fanotify::BLIND[..], &[BlindSpot::LowerLayer, BlindSpot::Remote]].concat(),
        WatchMode::Inotify => inotify::BLIND.to_vec(),
        WatchMode::Sweep | WatchMode::Away => vec![BlindSpot::Everything, BlindSpot::Mapping, BlindSpot::Device],
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
            WatchMode::Fanotify => fanotify::arm(target, watched.clone(), root, hints).map_err(Refusal::from),
            _ => inotify::arm(target, watched.clone(), root, hints).map_err(|error| Refusal::new(rung, &error)),
        };
        match tried {
            Ok((watcher, armed)) => return (watcher, Armed { refused, ..armed }),
            Err(refusal) => refused.push(refusal),
        }
    }
    // Without privileges only the best is out of reach; where all is, something is wrong.
    let degraded = refused.last().map(ToString::to_string).unwrap_or_default();
    (Box::new(Nothing), Armed { unwatched: u64::from(!degraded.is_empty()), degraded, refused, ..Armed::nothing() })
}

/// Whether a root can be watched in the way that was asked for, as far as that shows in a moment.
///
/// # Errors
/// Why not. A mode that leaves the choice is always possible.
pub fn check(mode: Mode, root: &Arc<Root>) -> Result<(), Refusal> {
    match mode {
        Mode::Auto | Mode::Sweep => Ok(()),
        Mode::Fanotify => {
            let watched =
                Watched { left_out: LeftOut::default(), own_state: None, mounts: Mounts::Report, sealed: None };
            let (nobody, _) = channel();
            fanotify::arm(&"".into(), watched, root, &nobody).map(drop).map_err(Refusal::from)
        }
        // To watch every directory takes a while.
        Mode::Inotify => probe::watch(root.as_fd()).map_err(|error| Refusal::new(WatchMode::Inotify, &error.into())),
    }
}

/// What would make the kernel grant a way of watching that it refused with `error`; empty if that is not known.
pub(crate) const fn remedy(mode: WatchMode, error: Errno) -> &'static str {
    match (mode, error) {
        (WatchMode::Fanotify, Errno::PERM) => {
            "it takes CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH outside of any user namespace, and no filter of system \
             calls against it (fanotify.conf of the package's examples)"
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

impl From<fanotify::Refusal> for Refusal {
    fn from(refusal: fanotify::Refusal) -> Self {
        let mode = WatchMode::Fanotify;
        match refusal {
            fanotify::Refusal::Group(error) | fanotify::Refusal::Mark(error) => Self::new(mode, &error.into()),
            // What is not permitted is the same in whichever call that shows.
            fanotify::Refusal::Handles => Self::new(mode, &Errno::PERM.into()),
            fanotify::Refusal::Root(_) | fanotify::Refusal::Thread(_) => {
                Self { mode, why: refusal.to_string(), remedy: "" }
            }
        }
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
