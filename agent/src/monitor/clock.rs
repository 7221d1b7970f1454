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
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.unix_ms) * 1_000_000)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok())
            .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
    }
}

impl Now {
    /// The moment `elapsed`, by the same two clocks.
    pub fn at(self, elapsed: Duration) -> Self {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self { elapsed, unix_ms: self.unix_ms.saturating_add(ms(elapsed)).saturating_sub(ms(self.elapsed)) }
    }
}

impl ClockWatch {
    /// By how many milliseconds the wall clock was set since the last call, if it was.
    pub(super) fn step(&mut self, now: Now) -> Option<i64> {
        let elapsed = i64::try_from(now.elapsed.as_millis()).unwrap_or(i64::MAX);
        let offset = now.unix_ms.saturating_sub(elapsed);
        let step = offset.saturating_sub(self.offset_ms.unwrap_or(offset));
        if self.offset_ms.is_none() || step.abs() > STEP_MS {
            self.offset_ms = Some(offset);
        }
        (step.abs() > STEP_MS).then_some(step)
    }
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
    fn times_are_rfc_3339() {
        assert_eq!(now(0, 1_700_000_000_123).rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(now(0, i64::MAX).rfc3339(), "1970-01-01T00:00:00Z");
    }
}
