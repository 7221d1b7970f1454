//! Owns points in time as trust files and assignments write them: RFC 3339. Must not own a clock.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in whole seconds since 1970, UTC; before year 10000.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Of the last second that RFC 3339 can write.
const LAST: i64 = 253_402_300_799;
const DAY: i64 = 86_400;

impl Timestamp {
    /// Before this no clock was right that a signature could be judged by: driftlock signs since 2026.
    pub const EARLIEST: Self = Self(1_767_225_600);

    /// As many seconds after 1970; earlier and later ones than RFC 3339 can write are the first and the last that it can.
    pub const fn from_unix(seconds: i64) -> Self {
        Self(if seconds < 0 {
            0
        } else if seconds > LAST {
            LAST
        } else {
            seconds
        })
    }

    /// Seconds since 1970.
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 with any offset, from 1970 on; a part of a second is cut off. A leap second is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let (clock, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
        let offset = match rest.strip_prefix('.') {
            Some(rest) => {
                let digits = rest.find(|ch: char| !ch.is_ascii_digit()).filter(|digits| *digits > 0)?;
                rest.get(digits..)?
            }
            None => rest,
        };
        let east = match offset.split_at_checked(1)? {
            ("Z" | "z", "") => 0,
            (sign @ ("+" | "-"), offset) => {
                let [hours, minutes] = numbers(offset, ':', [2, 2])?;
                let seconds = (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
                if sign == "+" { seconds } else { -seconds }
            }
            _ => return None,
        };
        let is_real = (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        let seconds = days_until(year, month, day) * DAY + hour * 3600 + minute * 60 + second - east;
        (is_real && (0..=LAST).contains(&seconds)).then_some(Self(seconds))
    }

    /// How long after `earlier` it is; nothing if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::try_from(self.0 - earlier.0).unwrap_or_default())
    }
}

/// Numbers of so many digits with `between` between them, and nothing else.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date.
fn days_until(year: i64, month: i64, day: i64) -> i64 {
    // Leap years are those before this one.
    let before = year - 1;
    let years = 365 * (year - 1970) + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 477;
    years + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / DAY, self.0 % DAY);
        // No year is longer than 366 days, so that this one is too early by a little, or right.
        let mut year = 1970 + days / 366;
        while days_until(year + 1, 1, 1) <= days {
            year += 1;
        }
        let mut day = days - days_until(year, 1, 1);
        let mut month = 1;
        while day >= days_in(year, month) {
            day -= days_in(year, month);
            month += 1;
        }
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a time like 2026-11-30T12:00:00Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_until_the_last_is_written_and_read() {
        // Counted a day at a time, as a calendar does.
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..=LAST / DAY {
            let time = Timestamp(days * DAY + 45_296);
            let text = format!("{year:04}-{month:02}-{day:02}T12:34:56Z");
            assert_eq!(time.to_string(), text);
            assert_eq!(Timestamp::parse(&text), Some(time));
            let leap = year % 400 == 0 || (year % 4 == 0 && year % 100 != 0);
            let length = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!(year, 10_000);
        assert_eq!(Timestamp::from_unix(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Timestamp::EARLIEST.to_string(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_none() {
        let noon = Timestamp::parse("2026-11-30T12:00:00Z");
        assert_eq!(noon.map(Timestamp::unix), Some(1_796_040_000));
        for same in [
            "2026-11-30t12:00:00z",
            "2026-11-30 12:00:00Z",
            "2026-11-30T12:00:00.999Z",
            "2026-11-30T14:00:00+02:00",
            "2026-11-30T06:30:00-05:30",
            "2026-11-30T12:00:00-00:00",
        ] {
            assert_eq!(Timestamp::parse(same), noon, "{same}");
        }
        for none in [
            "",
            "2026-11-30",
            "2026-11-30T12:00:00",
            "2026-11-30T12:00Z",
            "2026-11-31T12:00:00Z",
            "2027-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-11-00T12:00:00Z",
            "2026-11-30T24:00:00Z",
            "2026-11-30T12:60:00Z",
            "2026-11-30T12:00:60Z",
            "2026-11-30T12:00:00.Z",
            "2026-11-30T12:00:00.5",
            "2026-11-30T12:00:00+24:00",
            "2026-11-30T12:00:00+2:00",
            "2026-11-30T12:00:00+02",
            "2026-11-30T12:00:00ZZ",
            "+026-11-30T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-30T12:00:00é",
            "2026-11-3é12:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(none), None, "{none}");
        }
    }
}
