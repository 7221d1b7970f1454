//! Owns the times that the monitor is told. Must not own asking a clock.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// More difference between the two clocks than this is a step, in milliseconds.
const STEP_MS: i64 = 10_000;

/// What time it is, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since some fixed moment; never goes back.
    pub elapsed: Duration,
    /// Milliseconds since 1970, UTC; may jump.
    pub unix_ms: i64,
}

/// Notices when the wall clock was set.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    offset_ms: Option<i64>,
}

impl Now {
    /// RFC 3339 with milliseconds, UTC.
    pub fn rfc3339(self) -> String {
        self.ago(Duration::ZERO)
    }

    /// The same of a moment that is `ago`.
    pub fn ago(self, ago: Duration) -> String {
        let unix_ms = self.unix_ms.saturating_sub(millis(ago));
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok())
            .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
    }

    /// The moment `elapsed`, by the same two clocks.
    pub fn at(self, elapsed: Duration) -> Self {
        Self { elapsed, unix_ms: self.unix_ms.saturating_add(millis(elapsed)).saturating_sub(millis(self.elapsed)) }
    }
}

impl ClockWatch {
    /// By how many milliseconds the wall clock was set since the last call, if that is more than it may be steered by.
    pub(super) fn step(&mut self, now: Now) -> Option<i64> {
        let offset = now.unix_ms.saturating_sub(millis(now.elapsed));
        let step = offset.saturating_sub(*self.offset_ms.get_or_insert(offset));
        (step.abs() > STEP_MS).then(|| self.set(now))
    }

    /// The kernel says that the clock was set: by how many milliseconds, since it was last known to be.
    pub(super) fn set(&mut self, now: Now) -> i64 {
        let offset = now.unix_ms.saturating_sub(millis(now.elapsed));
        offset.saturating_sub(self.offset_ms.replace(offset).unwrap_or(offset))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(elapsed: u64, unix_ms: i64) -> Now {
        Now { elapsed: Duration::from_millis(elapsed), unix_ms }
    }

    #[test]
    fn a_step_is_noticed_once_and_drift_is_not_a_step() {
        let mut clock = ClockWatch::default();
        assert_eq!(clock.step(now(0, 1_000_000)), None);
        assert_eq!(clock.step(now(1000, 1_003_000)), None);
        assert_eq!(clock.step(now(2000, 3_602_000)), Some(2_600_000));
        assert_eq!(clock.step(now(3000, 3_603_000)), None);
        assert_eq!(clock.step(now(4000, 1_004_000)), Some(-2_600_000));
    }

    #[test]
    fn another_moment_is_as_far_away_by_either_clock() {
        let noon = now(5_000, 1_000_000);
        assert_eq!(
            [noon.at(Duration::ZERO), noon.at(Duration::from_secs(7))],
            [now(0, 995_000), now(7_000, 1_002_000)]
        );
    }

    #[test]
    fn what_the_kernel_says_is_a_step_however_small() {
        let mut clock = ClockWatch::default();
        assert_eq!(clock.set(now(0, 1_000_000)), 0, "nothing is known of before");
        assert_eq!(clock.set(now(1000, 1_003_000)), 2000);
        assert_eq!(clock.step(now(2000, 1_013_000)), None, "9 s more than that");
        assert_eq!(clock.step(now(2000, 1_015_000)), Some(11_000));
        assert_eq!(clock.set(now(3000, 1_016_000)), 0, "that was seen already");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(now(0, 1_700_000_000_123).rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(now(0, 1_700_000_000_123).ago(Duration::from_secs(10)), "2023-11-14T22:13:10.123Z");
        assert_eq!(now(0, i64::MAX).rfc3339(), "1970-01-01T00:00:00Z");
    }
}
