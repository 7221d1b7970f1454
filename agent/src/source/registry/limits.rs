//! Owns how long a registry is waited for and how often it is asked again. Must not own waiting.

use std::time::Duration;

use crate::http::Backoff;

/// How long to wait for a connection, encryption included.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long to wait for the head of an answer, and then for each further piece of it.
pub const SILENCE: Duration = Duration::from_secs(30);
/// Over how much waiting the rate is measured. What the reader itself needs does not count.
pub const WINDOW: Duration = Duration::from_secs(30);
/// The lowest rate, in bytes a second: slower is as good as broken.
pub const LOWEST_RATE: u64 = 4 * 1024;
/// How often a document or a layer is asked for in all, whatever interrupts it.
pub const TRIES: u32 = 5;
/// The bounds of the pause before another try.
pub const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The longest pause that a registry may ask for (`Retry-After`).
pub const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What of it a test may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) silence: Duration,
    pub(super) window: Duration,
    pub(super) tries: u32,
    /// `None`: no pause.
    pub(super) backoff: Option<Backoff>,
}

/// How a body comes in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { silence: SILENCE, window: WINDOW, tries: TRIES, backoff: Backoff::new(PAUSES.0, PAUSES.1) }
    }
}

impl Limits {
    /// Says once how a registry behaves that is only asked for a hint.
    pub(super) fn once() -> Self {
        Self { tries: 1, ..Self::default() }
    }
}

impl Pace {
    /// Takes `bytes` that were waited for; whether that is fast enough.
    pub(super) fn is_fast_enough(&mut self, waited: Duration, bytes: u64, window: Duration) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < window {
            return true;
        }
        let expected = u128::from(LOWEST_RATE) * self.waited.as_millis() / 1000;
        let enough = u128::from(self.bytes) >= expected;
        *self = Self::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many pieces of `bytes`, each after `seconds`, it is too slow.
    fn ends(seconds: u64, bytes: u64) -> Option<usize> {
        let mut pace = Pace::default();
        (1..1000).find(|_| !pace.is_fast_enough(Duration::from_secs(seconds), bytes, WINDOW))
    }

    #[test]
    fn a_body_that_trickles_ends() {
        assert_eq!(ends(29, 1), Some(2));
        assert_eq!(ends(1, 1), Some(30));
        assert_eq!(ends(1, LOWEST_RATE - 1), Some(30));
        assert_eq!(ends(1, LOWEST_RATE), None);
        assert_eq!(ends(10, 10 * LOWEST_RATE), None);
    }

    #[test]
    fn a_reader_that_is_slow_itself_does_not_count() {
        let mut pace = Pace::default();
        assert!((0..1_000_000).all(|_| pace.is_fast_enough(Duration::ZERO, 1, WINDOW)));
    }

    #[test]
    fn a_fast_beginning_does_not_pay_for_a_slow_end() {
        let mut pace = Pace::default();
        assert!(pace.is_fast_enough(WINDOW, 1 << 40, WINDOW));
        assert!(!pace.is_fast_enough(WINDOW, 1, WINDOW));
    }
}
