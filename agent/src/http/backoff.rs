//! Owns how long to wait before the next attempt: exponential, with full jitter, so that a fleet that lost its collector
//! does not come back all at once. Must not own waiting, or random numbers.

use std::time::Duration;

/// The bounds, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// `first` is the bound of the first delay, `longest` that of every delay. `None` unless 0 < `first` ≤ `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Option<Self> {
        if first.is_zero() || first.as_nanos() > longest.as_nanos() { None } else { Some(Self { first, longest }) }
    }

    /// The delay before attempt `attempt` (1 is the first repetition), anywhere from nothing to its bound. `random` is
    /// spread over all its values.
    pub fn delay(self, attempt: u32, random: u32) -> Duration {
        spread(self.bound(attempt), random)
    }

    /// The longest that [`Self::delay`] can be.
    pub fn bound(self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// Anywhere from nothing to `bound`. `random` is spread over all its values.
pub fn spread(bound: Duration, random: u32) -> Duration {
    bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_checked() {
        let ms = Duration::from_millis;
        assert_eq!(Backoff::new(ms(0), ms(1)), None);
        assert_eq!(Backoff::new(ms(2), ms(1)), None);
        assert!(Backoff::new(ms(1), ms(1)).is_some());
    }

    proptest! {
        #[test]
        fn delays_stay_within_bounds_that_grow(
            first in 1u64..10_000, more in 0u64..1_000_000, attempt in 1u32..200, random: u32
        ) {
            let longest = Duration::from_millis(first + more);
            let backoff = Backoff::new(Duration::from_millis(first), longest).unwrap();
            prop_assert!(backoff.delay(attempt, random) <= backoff.bound(attempt));
            prop_assert!(backoff.bound(attempt) <= backoff.bound(attempt + 1));
            prop_assert!(backoff.bound(attempt) <= longest);
            prop_assert_eq!(backoff.bound(1), Duration::from_millis(first));
            prop_assert_eq!(backoff.bound(200), longest);
            prop_assert_eq!(backoff.delay(attempt, u32::MAX), backoff.bound(attempt));
            prop_assert_eq!(backoff.delay(attempt, 0), Duration::ZERO);
        }
    }
}
