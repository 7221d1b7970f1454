//! Owns noticing that the clock was set, while the process runs and between two: what was changed under a clock that stood
//! elsewhere may have any time. Must not own what follows from it.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

/// Tells whether the clock was set since it was asked last, from its making on.
#[derive(Debug)]
pub struct ClockWatch(Option<OwnedFd>);

impl ClockWatch {
    /// Begins to watch it.
    #[expect(clippy::new_without_default, reason = "it begins something")]
    pub fn new() -> Self {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok();
        Self(timer.filter(|timer| arm(timer).is_ok()))
    }

    /// What is readable once it was set; `None` if the kernel does not tell.
    pub fn descriptor(&self) -> Option<OwnedFd> {
        self.0.as_ref()?.try_clone().ok()
    }

    /// Whether it was set, or nobody can tell.
    pub fn stepped(&self) -> bool {
        let Some(timer) = &self.0 else { return true };
        match rustix::io::read(timer.as_fd(), &mut [0; 8]) {
            Err(Errno::AGAIN) => false,
            // ECANCELED says it. Nothing else is expected, and nothing else is better.
            _ => {
                // If that fails, so will the next read.
                let _unarmed = arm(timer);
                true
            }
        }
    }
}

/// Sets a timer that nobody waits for: the kernel cancels it when the clock is set (timerfd_create(2)).
fn arm(timer: &OwnedFd) -> Result<(), Errno> {
    let never = Timespec { tv_sec: i64::MAX / 2_000_000_000, tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once).map(drop)
}

/// Where the clock stood, at one moment of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    /// `boot_id` of the kernel.
    pub(super) boot: [u8; 16],
    /// Nanoseconds since that boot, sleep counted.
    pub(super) boottime: u64,
    /// Nanoseconds since 1970.
    pub(super) realtime: i64,
}

/// What an anchor says to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// The clock went on as it should.
    Steady,
    /// Another boot, or one that cannot be told.
    OtherBoot,
    /// The clock was set.
    Stepped,
}

impl Anchor {
    pub(super) fn now() -> Self {
        let realtime = clock_gettime(ClockId::Realtime);
        Self {
            boot: boot_id().unwrap_or_default(),
            boottime: u64::try_from(boottime().as_nanos()).unwrap_or(u64::MAX),
            realtime: realtime.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(realtime.tv_nsec),
        }
    }

    /// What happened to the clock between `self` and `later`.
    pub(super) fn until(self, later: Self) -> Since {
        if self.boot != later.boot || self.boot == [0; 16] {
            return Since::OtherBoot;
        }
        let Some(passed) = later.boottime.checked_sub(self.boottime) else { return Since::Stepped };
        let shown = i128::from(later.realtime) - i128::from(self.realtime);
        // A clock that is steered is up to 500 ppm off (adjtimex(2)).
        let tolerance = i128::from(passed / 1000) + 1_000_000_000;
        if (shown - i128::from(passed)).abs() <= tolerance { Since::Steady } else { Since::Stepped }
    }
}

/// Since boot, sleep counted.
pub(super) fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What the kernel calls this boot, in hexadecimal digits.
pub fn boot() -> Option<String> {
    boot_id().map(hex::encode)
}

fn boot_id() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    hex::decode(digits).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_tells_steps_from_steering() {
        const SECOND: i64 = 1_000_000_000;
        let boot = [1; 16];
        let first = Anchor { boot, boottime: 50 * SECOND.cast_unsigned(), realtime: 1_700_000_000 * SECOND };
        let later = |passed: i64, shown: i64| Anchor {
            boot,
            boottime: first.boottime + passed.cast_unsigned(),
            realtime: first.realtime + shown,
        };
        for (passed, shown, expected) in [
            (0, 0, Since::Steady),
            (3600 * SECOND, 3600 * SECOND, Since::Steady),
            // 500 ppm for a day.
            (86_400 * SECOND, 86_443 * SECOND, Since::Steady),
            (60 * SECOND, 62 * SECOND, Since::Stepped),
            (60 * SECOND, 0, Since::Stepped),
            (0, -2 * SECOND, Since::Stepped),
        ] {
            assert_eq!(first.until(later(passed, shown)), expected, "{passed} {shown}");
        }
        assert_eq!(first.until(Anchor { boot: [2; 16], ..first }), Since::OtherBoot);
        assert_eq!(first.until(Anchor { boottime: 0, ..first }), Since::Stepped);
        let unknown = Anchor { boot: [0; 16], ..first };
        assert_eq!(unknown.until(unknown), Since::OtherBoot, "a boot that cannot be told is no boot");
    }

    #[test]
    fn this_clock_is_steady() {
        let first = Anchor::now();
        assert_ne!(first.boot, [0; 16]);
        assert_eq!(first.until(Anchor::now()), Since::Steady);
        assert!(!ClockWatch::new().stepped());
        assert!(ClockWatch(None).stepped(), "who cannot tell does not say no");
    }
}
