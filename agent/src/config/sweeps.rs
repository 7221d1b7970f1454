//! Owns how often a target is swept, by how it is watched: what tells less is looked at more often. Must not own when a
//! sweep begins.

use std::time::Duration;

use driftlock_common::coverage::WatchMode;

use crate::watch::Armed;

/// On marks of whole file systems, which tell of all that a sweep would find but for few things.
const MARKED: Duration = Duration::from_mins(10);
/// On watches of directories, or without any.
const UNMARKED: Duration = Duration::from_mins(1);
/// The same for a target of more than [`FEW`] entries.
const LARGE: Duration = Duration::from_mins(5);
/// The most entries that are looked at every [`UNMARKED`].
const FEW: usize = 200_000;
/// While a part is not watched, at the most.
const BLIND: Duration = Duration::from_mins(1);

/// Time between sweeps of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweeps {
    marked: Duration,
    unmarked: Duration,
}

impl Sweeps {
    /// Of a target of `entries` when `watch.sweep` is `auto`.
    pub const fn auto(entries: usize) -> Self {
        Self { marked: MARKED, unmarked: if entries <= FEW { UNMARKED } else { LARGE } }
    }

    /// As configured, however it is watched.
    pub const fn every(period: Duration) -> Self {
        Self { marked: period, unmarked: period }
    }

    /// For a target that is watched so.
    pub fn of(self, armed: &Armed) -> Duration {
        let usual = self.usual(armed.mode);
        if armed.degraded.is_empty() { usual } else { usual.min(BLIND) }
    }

    /// For a target of which everything is watched that `mode` promises.
    pub const fn usual(self, mode: WatchMode) -> Duration {
        match mode {
            WatchMode::Fanotify => self.marked,
            WatchMode::Inotify | WatchMode::Sweep | WatchMode::Away => self.unmarked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tells_less_is_looked_at_more_often() {
        let (minute, second) = (Duration::from_mins, Duration::from_secs);
        for (sweeps, mode, whole, degraded) in [
            (Sweeps::auto(FEW), WatchMode::Fanotify, minute(10), minute(1)),
            (Sweeps::auto(FEW + 1), WatchMode::Fanotify, minute(10), minute(1)),
            (Sweeps::auto(FEW), WatchMode::Inotify, minute(1), minute(1)),
            (Sweeps::auto(FEW + 1), WatchMode::Inotify, minute(5), minute(1)),
            (Sweeps::auto(FEW), WatchMode::Sweep, minute(1), minute(1)),
            (Sweeps::auto(FEW + 1), WatchMode::Sweep, minute(5), minute(1)),
            (Sweeps::every(second(10)), WatchMode::Fanotify, second(10), second(10)),
            (Sweeps::every(minute(60)), WatchMode::Inotify, minute(60), minute(1)),
        ] {
            let armed = |degraded: &str| Armed { mode, degraded: degraded.to_owned(), ..Armed::nothing() };
            assert_eq!((sweeps.of(&armed("")), sweeps.of(&armed("ENOSPC"))), (whole, degraded), "{sweeps:?} {mode:?}");
        }
    }
}
