//! Owns which way of watching a target gets: the best that holds, or the one that was asked for. Must not own how any of
//! them works.

use std::sync::Arc;

use super::{Armed, HintSender, Nothing, Rung, Watched, fanotify, inotify};
use crate::config::Mode;
use crate::scan::Root;

/// Watches a root from now on: a change after this returns gives a hint, unless the mode is blind to it. What could not be
/// watched is said.
pub fn arm(mode: Mode, target: &Arc<str>, watched: Watched, root: &Arc<Root>, hints: &HintSender) -> Rung {
    let nothing = |degraded| -> Rung { (Box::new(Nothing), Armed { unwatched: 1, degraded, ..Armed::nothing() }) };
    let by_inotify = |watched| {
        let armed = inotify::arm(target, watched, root, hints);
        armed.unwrap_or_else(|reason| nothing(format!("inotify cannot be used: {reason}")))
    };
    match mode {
        Mode::Sweep => (Box::new(Nothing), Armed::nothing()),
        Mode::Inotify => by_inotify(watched),
        Mode::Fanotify => fanotify::arm(target, watched, root, hints)
            .unwrap_or_else(|reason| nothing(format!("fanotify cannot be used: {reason}"))),
        Mode::Auto => fanotify::arm(target, watched.clone(), root, hints).unwrap_or_else(|_| by_inotify(watched)),
    }
}
