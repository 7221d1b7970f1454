//! Owns when a scan makes room for others: a state machine over the kernel's measure of who had to wait (PSI), without a
//! clock, and reading that measure. Must not own how anybody pauses.
//!
//! Reading and hashing makes others wait, and itself too, and the kernel does not say who waits for whom. So it is looked
//! at while nothing is read: after a second in which somebody had to wait there is a short pause. If nobody waits during
//! it, it was the scan's own doing. If somebody does, others have more to do than the host can, and the scan gives way:
//! short stretches of work, between pauses that become longer until one of them is quiet.

use std::fs;
use std::io;
use std::time::Duration;

/// Between two looks back at how it went.
const WINDOW: Duration = Duration::from_secs(1);
/// More of a window in which somebody waited, in percent, is a reason to pause and look.
const BUSY: u32 = 15;
/// More of a pause in which somebody waited, in percent, is a reason to give way.
const SUFFERING: u32 = 30;
/// The first pause.
const SHORTEST: Duration = Duration::from_millis(50);
/// The longest pause. With [`STRETCH`] it bounds what is lost: at least a tenth of the time is worked.
const LONGEST: Duration = Duration::from_millis(900);
/// Work between two pauses.
const STRETCH: Duration = Duration::from_millis(100);
/// The part of a pause, at its beginning, in which what was begun still ends: nothing is made of it.
const SETTLING: Duration = Duration::from_millis(10);

/// For how long somebody had to wait since the host started, in microseconds: for a processor, for a disk, for memory.
/// "Somebody" is any thread at all, the kernel's `some`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Waits([u64; 3]);

/// The measure at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) at: Duration,
    pub(super) waits: Waits,
}

/// Decides when to pause. Wants to be told the measure when [`Pressure::next`] says, by whoever works then; if that is
/// later, it takes it as it is.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    phase: Phase,
    given_way: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Work, and a look back at `until`.
    Work { since: Reading, until: Duration },
    /// A pause of the length `pause` began: until work has come to an end.
    Settle { until: Duration, pause: Duration },
    /// The rest of that pause.
    Pause { since: Reading, until: Duration, pause: Duration },
    /// Work between two pauses; the next is of the length `pause`.
    Stretch { until: Duration, pause: Duration },
}

// === impl Pressure ===

impl Pressure {
    /// When the next measure is wanted.
    pub(super) const fn next(&self) -> Duration {
        match self.phase {
            Phase::Unknown => Duration::ZERO,
            Phase::Work { until, .. }
            | Phase::Settle { until, .. }
            | Phase::Pause { until, .. }
            | Phase::Stretch { until, .. } => until,
        }
    }

    /// Whether nothing is to be done until then.
    pub(super) const fn is_paused(&self) -> bool {
        matches!(self.phase, Phase::Settle { .. } | Phase::Pause { .. })
    }

    /// How many pauses were made because others had to wait without the scan.
    pub(super) const fn given_way(&self) -> u64 {
        self.given_way
    }

    /// Takes the measure, and decides how to go on.
    pub(super) fn step(&mut self, now: Reading) {
        let work = Phase::Work { since: now, until: now.at + WINDOW };
        self.phase = match self.phase {
            Phase::Unknown => work,
            // Nobody worked meanwhile: that says nothing about now.
            Phase::Work { until, .. } | Phase::Stretch { until, .. } if now.at > until + WINDOW => work,
            Phase::Work { since, .. } if now.waited_more_than(BUSY, &since) => settle(now, SHORTEST),
            Phase::Work { .. } => work,
            Phase::Settle { pause, .. } => Phase::Pause { since: now, until: now.at + (pause - SETTLING), pause },
            // Nobody was there to pause.
            Phase::Pause { until, .. } if now.at > until + WINDOW => work,
            Phase::Pause { since, pause, .. } if now.waited_more_than(SUFFERING, &since) => {
                Phase::Stretch { until: now.at + STRETCH, pause: (2 * pause).min(LONGEST) }
            }
            Phase::Pause { .. } => work,
            Phase::Stretch { pause, .. } => {
                self.given_way += 1;
                settle(now, pause)
            }
        };
    }
}

const fn settle(now: Reading, pause: Duration) -> Phase {
    Phase::Settle { until: now.at.saturating_add(SETTLING), pause }
}

// === impl Reading ===

impl Reading {
    /// Whether somebody waited for more than `percent` of the time since `before`, for any one thing.
    fn waited_more_than(&self, percent: u32, before: &Self) -> bool {
        let most = self.at.saturating_sub(before.at) * percent / 100;
        let waits = self.waits.0.iter().zip(before.waits.0);
        waits.map(|(now, then)| Duration::from_micros(now.saturating_sub(then))).any(|waited| waited > most)
    }
}

// === impl Waits ===

impl Waits {
    /// As the kernel says right now.
    ///
    /// # Errors
    /// If it does not: it was built or started without, or `/proc` is not there.
    pub(super) fn read() -> io::Result<Self> {
        let mut waits = Self::default();
        for (total, name) in waits.0.iter_mut().zip(["cpu", "io", "memory"]) {
            let text = fs::read_to_string(format!("/proc/pressure/{name}"))?;
            *total = total_of_some(&text).ok_or_else(|| io::Error::other("/proc/pressure has another form"))?;
        }
        Ok(waits)
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, and a line `full` beside it.
fn total_of_some(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(at: u64, waits: [u64; 3]) -> Reading {
        Reading { at: Duration::from_millis(at), waits: Waits(waits) }
    }

    /// Steps at these times with these waits, both in milliseconds; what was decided each time: working or paused, and
    /// until when.
    fn decisions(steps: &[(u64, [u64; 3])]) -> Vec<(bool, u64)> {
        let mut pressure = Pressure::default();
        let steps = steps.iter().map(|(at, waits)| {
            pressure.step(reading(*at, waits.map(|ms| 1000 * ms)));
            (pressure.is_paused(), u64::try_from(pressure.next().as_millis()).unwrap())
        });
        steps.collect()
    }

    const WORK: bool = false;
    const REST: bool = true;

    #[test]
    fn a_scan_gives_way_to_those_who_wait_without_it() {
        for (about, steps, expected) in [
            (
                "nobody waits",
                &[(5, [7, 7, 7]), (1005, [157, 157, 157]), (2005, [300, 300, 300])][..],
                &[(WORK, 1005), (WORK, 2005), (WORK, 3005)][..],
            ),
            (
                "only while it works",
                &[(0, [0, 0, 0]), (1000, [0, 900, 0]), (1010, [0, 910, 0]), (1050, [0, 922, 0])],
                &[(WORK, 1000), (REST, 1010), (REST, 1050), (WORK, 2050)],
            ),
            (
                "others wait, for longer and longer, and then no more",
                &[
                    (0, [0, 0, 0]),
                    (1000, [151, 0, 0]),
                    (1010, [160, 0, 0]),
                    (1050, [173, 0, 0]),
                    (1150, [273, 0, 0]),
                    (1160, [283, 0, 0]),
                    (1250, [283, 0, 28]),
                    (1350, [383, 0, 28]),
                    (1360, [383, 0, 28]),
                    (1550, [440, 57, 85]),
                ],
                &[
                    (WORK, 1000),
                    (REST, 1010),
                    (REST, 1050),
                    (WORK, 1150),
                    (REST, 1160),
                    (REST, 1250),
                    (WORK, 1350),
                    (REST, 1360),
                    (REST, 1550),
                    (WORK, 2550),
                ],
            ),
            (
                "a scan that ended in its pause, and the next one much later",
                &[(0, [0, 0, 0]), (1000, [500, 0, 0]), (1010, [510, 0, 0]), (600_000, [600_000, 0, 0])],
                &[(WORK, 1000), (REST, 1010), (REST, 1050), (WORK, 601_000)],
            ),
            (
                "a scan that ended while it worked, and the next one much later",
                &[(0, [0, 0, 0]), (600_000, [600_000, 0, 0]), (601_000, [600_100, 0, 0])],
                &[(WORK, 1000), (WORK, 601_000), (WORK, 602_000)],
            ),
            ("a measure that goes backwards", &[(0, [9, 9, 9]), (1000, [0, 0, 0])], &[(WORK, 1000), (WORK, 2000)]),
        ] {
            // 28 of 90 ms is just more than 30 percent, 57 of 190 ms just not.
            assert_eq!(decisions(steps), expected, "{about}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pressure = Pressure::default();
        let mut pauses = Vec::new();
        let mut paused = Duration::ZERO;
        for _ in 0..40 {
            let at = pressure.next();
            match (pressure.is_paused(), paused.is_zero()) {
                (true, true) => paused = at,
                (false, false) => {
                    // The pause began when its settling did.
                    pauses.push((at - paused + SETTLING - STRETCH).as_millis());
                    paused = Duration::ZERO;
                }
                _ => {}
            }
            pressure.step(Reading { at, waits: Waits([u64::try_from(at.as_micros()).unwrap(); 3]) });
        }
        assert_eq!(pauses[..7], [50, 100, 200, 400, 800, 900, 900]);
        assert!(pressure.given_way() >= 6);
    }

    proptest! {
        #[test]
        fn a_tenth_of_the_time_is_worked_whatever_the_measure_says(
            steps in prop::collection::vec((0u64..30, 0u64..2_000_000), 50..400)
        ) {
            let mut pressure = Pressure::default();
            let (mut now, mut waited, mut worked, mut paused) = (Duration::ZERO, 0, Duration::ZERO, Duration::ZERO);
            for (late, waits) in steps {
                let next = pressure.next().max(now) + Duration::from_millis(late);
                // Whoever comes late to a pause worked on meanwhile; whoever wakes late from one did not.
                if pressure.is_paused() { paused += pressure.next().saturating_sub(now) } else { worked += next - now }
                now = next;
                waited += waits;
                pressure.step(Reading { at: now, waits: Waits([0, waited, 0]) });
            }
            prop_assert!(paused <= 9 * worked + LONGEST, "{paused:?} paused, {worked:?} worked");
        }
    }

    #[test]
    fn the_kernels_text_is_read_or_refused() {
        let text = "some avg10=0.55 avg60=0.60 avg300=1.59 total=6087088560\nfull avg10=0.00 avg60=0.00 total=7\n";
        assert_eq!(total_of_some(text), Some(6_087_088_560));
        for text in ["", "some", "full total=7", "some avg10=0.00", "some total=", "some total=-1", "some total=x"] {
            assert_eq!(total_of_some(text), None, "{text:?}");
        }
    }
}
