//! Owns when the collector itself could hear, and so whether a host that was not heard is silent: nobody is called silent
//! for what the collector missed. Pure. Must not own where the runs are kept.

use crate::clock::Timestamp;

/// How long an agent may wait until it tries a collector again that was away, in seconds: the cap of `Retry-After` in the
/// protocol.
pub const RETURN_S: u64 = 300;

/// A time in which a collector was there to be reported to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// When it began.
    pub from: Timestamp,
    /// When it was last known to go on.
    pub until: Timestamp,
}

/// The runs of the collector, in order; the last one goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hearing {
    runs: Vec<Run>,
}

impl Hearing {
    /// `runs` in order, the last of which goes on; none is one that was always there.
    pub const fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    /// When the run that goes on began, if there was one before.
    pub fn came_back(&self) -> Option<Timestamp> {
        self.runs.last().filter(|_| self.runs.len() > 1).map(|run| run.from)
    }

    /// For how many seconds a host that was last heard at `last_seen` has been silent; `None` if it is not. It is if the
    /// collector listened for longer than `limit_s` in one run without hearing it; in a run that began since, agents have
    /// [`RETURN_S`] to come back if that is longer. Who is silent stays so until it is heard.
    pub fn silence(&self, last_seen: Timestamp, limit_s: u64, now: Timestamp) -> Option<u64> {
        let always = [Run { from: Timestamp::from_millis(i64::MIN), until: now }];
        let runs = if self.runs.is_empty() { &always[..] } else { &self.runs };
        let last = runs.len() - 1;
        let silent = runs.iter().enumerate().any(|(number, run)| {
            let until = if number == last { now } else { run.until };
            if run.from <= last_seen {
                until.seconds_since(last_seen) > limit_s
            } else {
                until.seconds_since(run.from) > limit_s.max(RETURN_S)
            }
        });
        silent.then(|| now.seconds_since(last_seen))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn hearing(runs: &[(i64, i64)]) -> Hearing {
        Hearing::new(runs.iter().map(|(from, until)| Run { from: at(*from), until: at(*until) }).collect())
    }

    #[test]
    fn a_host_is_not_silent_for_what_the_collector_missed() {
        for (name, runs, last_seen, now, expected) in [
            ("heard just now", &[(0, 0)][..], 1000, 1090, None),
            ("not heard for longer than it may", &[(0, 0)], 1000, 1091, Some(91)),
            ("the collector was away", &[(0, 1005), (5000, 5000)], 1000, 5090, None),
            ("and everybody had time to come back", &[(0, 1005), (5000, 5000)], 1000, 5300, None),
            ("who did not is silent", &[(0, 1005), (5000, 5000)], 1000, 5301, Some(4301)),
            ("silent before it went", &[(0, 1091), (5000, 5000)], 1000, 5001, Some(4001)),
            ("heard after it came back", &[(0, 1091), (5000, 5000)], 5002, 5092, None),
            ("and then not", &[(0, 1091), (5000, 5000)], 5002, 5093, Some(91)),
            ("restarts do not hide who is gone", &[(0, 1005), (2000, 2301), (3000, 3000)], 1000, 3001, Some(2001)),
            ("nothing is known of runs", &[], 1000, 1091, Some(91)),
            ("the clock went back", &[(5000, 5000)], 1000, 900, None),
        ] {
            assert_eq!(hearing(runs).silence(at(last_seen), 90, at(now)), expected, "{name}");
        }
        let long = hearing(&[(0, 1005), (5000, 5000)]);
        assert_eq!(long.silence(at(1000), 7200, at(5000 + 7200)), None);
        assert_eq!(long.silence(at(1000), 7200, at(5000 + 7201)), Some(11_201));
    }

    /// Runs with breaks between them, from second 0.
    fn runs() -> impl Strategy<Value = Vec<(i64, i64)>> {
        prop::collection::vec((1..2000_i64, 1..2000_i64), 1..6).prop_map(|lengths| {
            let mut time = 0;
            let runs = lengths.into_iter().map(|(run, away)| {
                let from = time;
                time += run + away;
                (from, from + run)
            });
            runs.collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn who_reports_as_the_protocol_wants_is_never_silent(runs in runs(), back in 0..=300_i64, interval in 1..=90_i64) {
            let whole = hearing(&runs);
            let mut last_seen = at(0);
            for (number, (from, until)) in runs.iter().enumerate() {
                // While this run goes on, the later ones are not there yet.
                let known = hearing(&runs[..=number]);
                let first = if number == 0 { *from } else { from + back };
                let mut next = first;
                for now in *from..*until {
                    if now == next {
                        last_seen = at(now);
                        next += interval;
                    }
                    prop_assert_eq!(known.silence(last_seen, 90, at(now)), None, "{} of run {}", now, number);
                }
            }
            prop_assert!(!whole.runs.is_empty());
        }

        #[test]
        fn who_is_silent_stays_so_until_it_is_heard(runs in runs(), seen in 0..10_000_i64, later in 0..10_000_i64) {
            let last = runs.last().unwrap().0;
            let mut was_silent = false;
            for number in 0..runs.len() {
                let known = hearing(&runs[..=number]);
                let until = if runs[number].0 == last { last + later } else { runs[number].1 };
                for now in [runs[number].0, until].into_iter().filter(|now| *now >= seen) {
                    let silent = known.silence(at(seen), 90, at(now)).is_some();
                    prop_assert!(silent || !was_silent, "at {}", now);
                    was_silent = silent;
                }
            }
        }
    }
}
