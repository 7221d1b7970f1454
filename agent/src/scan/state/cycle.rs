//! Owns the rolling rehash: which entries are read again although nothing moved, so that in a given time each was, in an
//! order that nobody can know beforehand. Must not own how fast.

use std::ops::RangeInclusive;
use std::time::Duration;

use driftlock_common::tree::EntryId;

/// One time around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    /// Every entry has its place on a ring of 2^64, by this secret.
    pub(super) key: [u8; 32],
    /// The ring was gone along up to here, this place not counted.
    pub(super) done: u64,
    /// When it was gone along, in nanoseconds since boot.
    pub(super) at: u64,
    /// When this time around began, likewise.
    pub(super) began: u64,
    /// When the last time around began that came to its end; 0 before one did.
    pub(super) read: u64,
}

/// The places of entries in one time around.
#[derive(Clone, Copy)]
pub(super) struct Order([u8; 32]);

impl Cycle {
    pub(super) fn begin() -> Self {
        let now = u64::try_from(super::clock::boottime().as_nanos()).unwrap_or(u64::MAX);
        Self { key: random_bytes(), done: 0, at: now, began: now, read: 0 }
    }

    /// Goes on to `now`, since boot, when once around takes `full`. The places that were passed come back; after the last
    /// one another time around begins.
    pub(super) fn advance(&mut self, now: Duration, full: Duration) -> RangeInclusive<u64> {
        // Those who just came round are still under way in the old order.
        if self.done == u64::MAX {
            // What is due is read from now on; what was read in the old order was read since it began.
            *self = Self { at: self.at, read: self.began.max(self.read), ..Self::begin() };
        }
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let passed = u128::from(now.saturating_sub(self.at));
        let step = (passed << 64) / full.as_nanos().max(1);
        let start = self.done;
        self.done = u64::try_from(u128::from(start) + step).unwrap_or(u64::MAX);
        self.at = now;
        match self.done {
            // The last place belongs to whoever reaches it.
            u64::MAX => start..=u64::MAX,
            // A range that is empty.
            0 => RangeInclusive::new(1, 0),
            done if done == start => RangeInclusive::new(1, 0),
            done => start..=done - 1,
        }
    }

    /// Nanoseconds since boot: every entry was read since then.
    pub(super) fn read_since(&self) -> Option<u64> {
        let since = if self.done == u64::MAX { self.began.max(self.read) } else { self.read };
        (since > 0).then_some(since)
    }

    pub(super) const fn order(&self) -> Order {
        Order(self.key)
    }
}

impl Order {
    pub(super) fn place(&self, id: EntryId) -> u64 {
        let digest = blake3::keyed_hash(&self.0, &(id.index() as u64).to_le_bytes());
        u64::from_le_bytes(digest.as_bytes().first_chunk().copied().unwrap_or_default())
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Order(…)")
    }
}

/// Of the kernel's generator.
pub(super) fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    // Without random numbers nothing here is safe to do.
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use driftlock_common::node::Node;
    use driftlock_common::path::TreePath;
    use driftlock_common::tree::{Origin, Tree};
    use proptest::prelude::*;

    use super::*;

    fn ids(count: usize) -> Vec<EntryId> {
        let entry = |n| (TreePath::new(format!("{n:05}")).unwrap(), Node::implicit_directory(), Origin::default());
        Tree::from_sorted((0..count).map(entry)).unwrap().iter().collect()
    }

    proptest! {
        /// However the time is cut, each place is passed once in each time around.
        #[test]
        fn every_entry_is_due_once_each_time_around(steps in prop::collection::vec(1_u64..400, 1..60)) {
            const FULL: Duration = Duration::from_secs(1000);
            let ids = ids(300);
            let mut cycle = Cycle { key: [3; 32], done: 0, at: 0, began: 0, read: 0 };
            let mut now = Duration::ZERO;
            let mut due = vec![0; ids.len()];
            for step in steps {
                now += Duration::from_secs(step);
                let before = cycle;
                let range = cycle.advance(now, FULL);
                if cycle.key != before.key {
                    prop_assert!(due.iter().all(|times| *times == 1), "{due:?}");
                    due.fill(0);
                }
                for (times, id) in due.iter_mut().zip(&ids) {
                    *times += u32::from(range.contains(&cycle.order().place(*id)));
                }
            }
            prop_assert!(due.iter().all(|times| *times <= 1), "{due:?}");
        }
    }

    #[test]
    fn everything_was_read_since_the_last_time_around_that_ended_began() {
        const FULL: Duration = Duration::from_secs(1000);
        let second = |seconds: u64| seconds * 1_000_000_000;
        let mut cycle = Cycle { key: [3; 32], done: 0, at: second(10), began: second(10), read: 0 };
        cycle.advance(Duration::from_secs(500), FULL);
        assert_eq!(cycle.read_since(), None, "half of it was read");
        cycle.advance(Duration::from_secs(1200), FULL);
        assert_eq!(cycle.read_since(), Some(second(10)));
        cycle.advance(Duration::from_secs(1300), FULL);
        assert_eq!(cycle.read_since(), Some(second(10)), "the next time around has not ended");
        assert!(cycle.began > 0 && cycle.done < u64::MAX);
        let next = cycle.began;
        cycle.advance(Duration::from_secs(9000), FULL);
        assert_eq!(cycle.read_since(), Some(next));
    }

    #[test]
    fn a_part_of_the_time_is_about_that_part_of_the_entries() {
        let ids = ids(20_000);
        let mut cycle = Cycle { key: [9; 32], done: 0, at: 0, began: 0, read: 0 };
        let range = cycle.advance(Duration::from_secs(100), Duration::from_secs(1000));
        let due = ids.iter().filter(|id| range.contains(&cycle.order().place(**id))).count();
        assert!((1800..2200).contains(&due), "{due}");
        assert!(cycle.advance(Duration::from_secs(100), Duration::from_secs(1000)).is_empty(), "no time has passed");
        assert_eq!(*cycle.advance(Duration::from_secs(5000), Duration::from_secs(1000)).end(), u64::MAX);
        let order = |key| Order([key; 32]).place(ids[7]);
        assert_ne!(order(1), order(2), "another secret, another order");
    }
}
