//! Owns how long whoever used something up waits, so that no more than so much of it is used in a time. Pure. Must not
//! own what it is, or the waiting.

use std::time::Duration;

/// What may be owed before anybody waits: so much more than allowed is used at once, after a time without use.
const MOST: Duration = Duration::from_millis(50);
/// What is still owed when a wait ends. A wait that takes longer than asked, by up to this, costs nothing on average.
const LEAST: Duration = Duration::from_millis(25);

/// What is used of something of which there is only so much in a time. Everything is counted as the time in which as
/// much is allowed, after it was used: nobody knows before how much it is.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When everything that was used so far will have been allowed.
    even: Duration,
}

impl Bucket {
    /// Counts what is allowed in `worth`, used before `now`. Until when whoever used it waits; `None` if not at all.
    pub(super) fn take(&mut self, worth: Duration, now: Duration) -> Option<Duration> {
        self.even = self.even.max(now).saturating_add(worth);
        (self.even > now.saturating_add(MOST)).then(|| self.even.saturating_sub(LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn little_is_free_and_much_is_waited_for() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(ms(30), ms(1000)), None);
        assert_eq!(bucket.take(ms(20), ms(1000)), None);
        assert_eq!(bucket.take(ms(1), ms(1000)), Some(ms(1026)));
        // Another thread meanwhile waits behind the first.
        assert_eq!(bucket.take(ms(10), ms(1001)), Some(ms(1036)));
        // Whoever waited longer than asked has not lost anything.
        assert_eq!(bucket.take(ms(30), ms(1050)), None);
        // What was not used for long is not saved up.
        assert_eq!(bucket.take(ms(50), ms(9000)), None);
        assert_eq!(bucket.take(ms(1), ms(9000)), Some(ms(9026)));
        // A single use that is worth more than all of that is waited for as a whole.
        assert_eq!(bucket.take(ms(5000), ms(10_000)), Some(ms(14_975)));
        assert_eq!(bucket.take(Duration::MAX, ms(20_000)), Some(Duration::MAX - LEAST));
    }

    proptest! {
        /// Threads that use all they can, each in pieces of its own size, and oversleep.
        #[test]
        fn in_two_seconds_no_more_and_hardly_less_than_allowed_is_used(
            threads in prop::collection::vec((1u64..5_000, 1u64..100, 0u64..25_000), 1..17),
            begin in 0u64..1_000_000,
        ) {
            const SPAN: u64 = 2_000_000;
            let us = Duration::from_micros;
            let mut bucket = Bucket::default();
            // In microseconds: when each thread is ready to use its next piece, and what was used when.
            let mut ready: Vec<u64> = threads.iter().map(|_| begin).collect();
            let mut used: Vec<(u64, u64)> = Vec::new();
            while let Some((index, now)) = ready.iter().copied().enumerate().min_by_key(|(_, at)| *at) {
                if now >= begin + 2 * SPAN {
                    break;
                }
                let (worth, takes, oversleeps) = threads[index];
                // Much faster than allowed: a hundredth of what it is worth, or so.
                let end = now + 1 + worth * takes / 1000;
                used.push((end, worth));
                ready[index] = match bucket.take(us(worth), us(end)) {
                    Some(until) => u64::try_from(until.as_micros()).unwrap() + oversleeps,
                    None => end,
                };
            }
            used.sort_unstable();
            // At the beginning, and later on.
            for from in [begin, begin + SPAN] {
                let sum: u64 = used.iter().filter(|(at, _)| (from..from + SPAN).contains(at)).map(|(_, worth)| worth).sum();
                let in_hand: u64 = threads.iter().map(|(worth, ..)| worth).sum();
                prop_assert!(sum <= SPAN + 50_000 + in_hand, "{sum} used");
                prop_assert!(sum >= SPAN / 10 * 9, "only {sum} used");
            }
        }
    }
}
