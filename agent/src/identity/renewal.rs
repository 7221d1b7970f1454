//! Owns when a certificate is renewed: at two thirds of its life and a little later, so that hosts that joined together do
//! not come back together; after a failure with pauses that grow. Pure: time and random numbers come from outside.

use std::time::Duration;

use driftlock_common::trust::Timestamp;

use crate::http::Backoff;

/// The first pause is a share of a life, within bounds: certificates of minutes exist, in tests and elsewhere.
const FIRST_SHARE: u32 = 1000;
const FIRST_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// As is the longest.
const LONGEST_SHARE: u32 = 100;
const LONGEST_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));
/// The part of a life over which renewals are spread.
const SPREAD: f64 = 1.0 / 20.0;

/// The renewal of one certificate.
#[derive(Clone, Debug)]
pub struct Renewal {
    from: Timestamp,
    life: Duration,
    /// After `from`: when it is due.
    due: Duration,
    backoff: Backoff,
    /// Attempts that failed.
    failed: u32,
    /// Not before so much of the process's own time, which nobody sets.
    not_before: Duration,
}

impl Renewal {
    /// Of a certificate that is good from a time until another. `random` is spread over all its values.
    pub fn new(from: Timestamp, until: Timestamp, random: u32) -> Self {
        let life = until.since(from);
        let share = |share: u32, (least, most): (Duration, Duration)| (life / share).clamp(least, most);
        let (first, longest) = (share(FIRST_SHARE, FIRST_BOUNDS), share(LONGEST_SHARE, LONGEST_BOUNDS));
        let later = life.mul_f64(SPREAD * f64::from(random) / f64::from(u32::MAX));
        Self {
            from,
            life,
            due: life * 2 / 3 + later,
            backoff: Backoff::new(first, longest.max(first)).expect("neither is zero, and the second not the smaller"),
            failed: 0,
            not_before: Duration::ZERO,
        }
    }

    /// How long it is until the next attempt; nothing if it is time. `now` is the clock, `elapsed` the process's own time.
    pub fn wait(&self, now: Timestamp, elapsed: Duration) -> Duration {
        let until_due = self.due.saturating_sub(now.since(self.from));
        until_due.max(self.not_before.saturating_sub(elapsed))
    }

    /// An attempt failed. The collector may have said not to come back before `after`.
    pub fn failed(&mut self, after: Option<Duration>, elapsed: Duration, random: u32) {
        self.failed = self.failed.saturating_add(1);
        let pause = self.backoff.bound(self.failed);
        // Not less than half of it: a refusal is answered by nobody's being in a hurry.
        let pause = (pause + self.backoff.delay(self.failed, random)) / 2;
        self.not_before = elapsed + pause + after.unwrap_or_default();
    }

    /// Whether half of the time that was left when it was due has passed: somebody should know.
    pub fn is_late(&self, now: Timestamp) -> bool {
        now.since(self.from) >= self.life * 5 / 6
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(i64::try_from(seconds).unwrap())
    }

    #[test]
    fn thirty_days_are_renewed_after_twenty_and_somebody_knows_after_twenty_five() {
        let renewal = |random| Renewal::new(at(1000), at(1000 + 30 * DAY), random);
        let wait = |random, days: u64| renewal(random).wait(at(1000 + days * DAY), Duration::ZERO);
        assert_eq!(wait(0, 0), Duration::from_secs(20 * DAY));
        assert_eq!(wait(u32::MAX, 0), Duration::from_secs(21 * DAY + DAY / 2));
        assert_eq!((wait(0, 19), wait(0, 20), wait(0, 31)), (Duration::from_secs(DAY), Duration::ZERO, Duration::ZERO));
        let late = |days: u64| renewal(0).is_late(at(1000 + days * DAY));
        assert_eq!((late(0), late(24), late(25), late(31)), (false, false, true, true));
        // A clock that went back to before it began.
        assert_eq!(renewal(0).wait(at(0), Duration::ZERO), Duration::from_secs(20 * DAY));
    }

    #[test]
    fn pauses_grow_and_end_within_an_hour() {
        let mut renewal = Renewal::new(at(0), at(30 * DAY), 0);
        let mut elapsed = Duration::from_secs(7);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            renewal.failed(None, elapsed, u32::MAX);
            let pause = renewal.wait(at(20 * DAY), elapsed);
            elapsed += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        renewal.failed(Some(Duration::from_secs(300)), elapsed, 0);
        assert_eq!(renewal.wait(at(20 * DAY), elapsed), Duration::from_secs(1800 + 300));
    }

    proptest! {
        #[test]
        fn whatever_the_life_there_is_time_for_several_attempts(life in 60u64..1_000_000_000, random: u32) {
            let renewal = Renewal::new(at(0), at(life), random);
            let due = renewal.wait(at(0), Duration::ZERO);
            prop_assert!(due >= Duration::from_secs(life) * 2 / 3);
            prop_assert!(due <= Duration::from_secs(life) * 3 / 4);
            let left = Duration::from_secs(life) - due;
            prop_assert!(renewal.backoff.bound(100) * 10 <= left, "{:?} of {left:?}", renewal.backoff.bound(100));
        }

        #[test]
        fn no_certificate_makes_it_panic(from: i64, until: i64, now: i64, random: u32) {
            let time = Timestamp::from_unix;
            let mut renewal = Renewal::new(time(from), time(until), random);
            renewal.failed(Some(Duration::from_secs(1)), Duration::ZERO, random);
            let _wait = renewal.wait(time(now), Duration::ZERO);
            let _late = renewal.is_late(time(now));
        }
    }
}
