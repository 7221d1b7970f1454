//! Owns quiet times: when a host may be unheard because that is planned. Always bounded: one that is forgotten ends. Must
//! not own a clock.

use toml::de::DeTable;

use super::{QUIET, Whom, duration_s, is_reason};
use crate::section::{At, Problems, Section};
use crate::trust::Timestamp;

/// The longest quiet time with a beginning and an end, in seconds.
pub const MAX_QUIET_S: i64 = 7 * DAY_S;
/// The longest one that comes again, in seconds.
pub const MAX_WINDOW_S: i64 = DAY_S;

const DAY_S: i64 = 86_400;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// 1970-01-01 was a Thursday.
const FIRST_DAY: i64 = 3;

/// A quiet time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// Whose.
    pub whom: Whom,
    /// When.
    pub when: When,
    /// Why, in one line; may be empty.
    pub reason: String,
}

/// When, in seconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once, up to but not at the second.
    Once(i64, i64),
    /// On days of the week, each from a second of the day, so long.
    Weekly {
        /// Monday first.
        days: [bool; 7],
        /// Second of the day.
        at: i64,
        /// How long, in seconds; may go on into the next day.
        length: i64,
    },
}

impl When {
    /// When the time that `now` is in ends; `None` if it is in none.
    pub fn end(self, now: i64) -> Option<i64> {
        match self {
            Self::Once(from, until) => (from <= now && now < until).then_some(until),
            Self::Weekly { days, at, length } => {
                let today = now.div_euclid(DAY_S);
                // At most a day long, so it began today or yesterday.
                let ends = [today, today - 1].into_iter().filter_map(|day| {
                    let on =
                        usize::try_from((day + FIRST_DAY).rem_euclid(7)).ok().and_then(|day| days.get(day)).copied()?;
                    let from = day * DAY_S + at;
                    (on && from <= now && now < from + length).then_some(from + length)
                });
                ends.max()
            }
        }
    }
}

pub(super) fn read(table: &DeTable<'_>, offset: usize, problems: &mut Problems<'_>) -> Option<Quiet> {
    let section = Section::new("quiet.", QUIET, table, problems);
    let whom = Whom::read(&section, problems);
    let reason = section.text("reason", problems);
    if let Some(At { value, offset }) = reason
        && !is_reason(value)
    {
        problems.add(offset, "quiet.reason is one line of at most 255 bytes");
    }
    let given = ["from", "until", "at", "for"].map(|key| section.offset(key).is_some());
    let when = match given {
        [true, true, false, false] => once(&section, offset, problems),
        [false, false, true, true] => weekly(&section, problems),
        _ => {
            problems.add(offset, "a quiet time has from and until, or at and for");
            None
        }
    };
    Some(Quiet { whom, when: when?, reason: reason.map_or_else(String::new, |at| at.value.to_owned()) })
}

fn once(section: &Section<'_>, offset: usize, problems: &mut Problems<'_>) -> Option<When> {
    if let Some(offset) = section.offset("days") {
        problems.add(offset, "quiet.days goes with at and for");
    }
    let mut time = |key| {
        let should = "RFC 3339 in quotes, such as \"2026-12-01T22:00:00Z\"";
        section.take(key, problems, should, |value| Timestamp::parse(value.as_str()?)).map(|at| at.value.unix())
    };
    let (from, until) = (time("from")?, time("until")?);
    if until <= from {
        problems.add(offset, "the quiet time ends before it begins");
    } else if until - from > MAX_QUIET_S {
        problems.add(offset, format!("the quiet time is longer than {} days", MAX_QUIET_S / DAY_S));
    }
    Some(When::Once(from, until))
}

fn weekly(section: &Section<'_>, problems: &mut Problems<'_>) -> Option<When> {
    let at = section.take("at", problems, "a time of day in UTC, such as \"02:30\"", |value| second(value.as_str()?));
    let length = section.take("for", problems, "from \"1m\" to \"24h\"", |value| {
        i64::try_from(duration_s(value)?).ok().filter(|length| (60..=MAX_WINDOW_S).contains(length))
    });
    let chosen = section.words("days", problems, &DAYS, |word| DAYS.iter().position(|day| *day == word));
    let days = std::array::from_fn(|day| chosen.as_ref().is_none_or(|chosen| chosen.contains(&day)));
    Some(When::Weekly { days, at: at?.value, length: length?.value })
}

/// The second of the day of `HH:MM`.
fn second(text: &str) -> Option<i64> {
    let [h1, h2, b':', m1, m2] = text.as_bytes() else { return None };
    let number = |tens: &u8, ones: &u8| {
        let digit = |byte: &u8| char::from(*byte).to_digit(10).map(i64::from);
        Some(digit(tens)? * 10 + digit(ones)?)
    };
    let (hour, minute) = (number(h1, h2)?, number(m1, m2)?);
    (hour < 24 && minute < 60).then_some(hour * 3600 + minute * 60)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against walking back minute by minute to where it may have begun.
        #[test]
        fn a_weekly_time_is_what_walking_back_finds(
            days in prop::array::uniform7(any::<bool>()), at in 0..1440_i64, length in 1..=1440_i64, now in 0..40_000_i64,
        ) {
            let when = When::Weekly { days, at: at * 60, length: length * 60 };
            let began = (0..length).map(|back| now - back).find(|minute| {
                minute.rem_euclid(1440) == at
                    && days[usize::try_from((minute.div_euclid(1440) + 3).rem_euclid(7)).unwrap()]
            });
            let expected = began.map(|minute| (minute + length) * 60);
            prop_assert_eq!(when.end(now * 60), expected);
        }
    }
}
