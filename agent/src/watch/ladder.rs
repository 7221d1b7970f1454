//! Owns which way of watching a target gets: the best that holds, or the one that was asked for. Must not own how any of
//! them works.

use std::sync::Arc;

use super::{Armed, HintSender, Nothing, Rung, Watched, inotify};
use crate::config::Mode;
use crate::scan::Root;

/// Watches a root from now on: a change after this returns gives a hint, unless the mode is blind to it. What could not be
/// watched is said.
pub fn arm(mode: Mode, target: &Arc<str>, watched: Watched, root: &Arc<Root>, hints: &HintSender) -> Rung {
    match mode {
        Mode::Sweep => (Box::new(Nothing), Armed::nothing()),
        Mode::Auto | Mode::Fanotify | Mode::Inotify => {
            inotify::arm(target, watched, root, hints).unwrap_or_else(|reason| {
                let degraded = format!("inotify cannot be used: {reason}");
                (Box::new(Nothing), Armed { unwatched: 1, degraded, ..Armed::nothing() })
            })
        }
    }
}
