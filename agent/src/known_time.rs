//! Owns the time that signatures are judged by: what this host's clock says, but nothing that is earlier than it is known to
//! be, also by another run of the agent. Must not own noticing that the clock was set, or what follows from a time.
//!
//! A clock that is set back must not bring back what has expired, and one that was ahead by mistake must not end for ever
//! what has not. So the known time is steered by the clock, as a clock is by NTP: it never goes back, follows a clock that
//! is ahead of it `CATCH_UP` times as fast as time passes while the agent runs, and goes on `SLOWER` times as slow
//! while the clock is behind it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use driftlock_common::path::Escaped;
use driftlock_common::trust::Timestamp;

use crate::state_file;

const HEAD: &str = "driftlock time 1";
/// More is no file of a time, in bytes.
const MAX_FILE: u64 = 256;
/// An hour of running is a day: so much a clock that was wrong for an hour leaves at most, and after a month without the agent
/// the known time is right in 32 hours.
const CATCH_UP: i64 = 24;
/// Who keeps the clock back gains half of the time that passes, and what was known by mistake is over in twice the time
/// that it was ahead.
const SLOWER: i64 = 2;
/// A clock that was never known before is believed; if it is set back so soon, it is believed anew.
const TRIAL: Duration = Duration::from_hours(1);
/// Between two savings: a crash may lose so much.
const PAUSE: Duration = Duration::from_mins(10);
/// A clock that is behind by less is no news, in milliseconds: one that was ahead for two minutes after a boot leaves that.
const TOLERANCE_MS: i64 = 3_600_000;
/// Less is not counted, in milliseconds: half of it still is a number.
const STEP_MS: i64 = 100;

/// What this host's clock says.
pub fn now() -> Timestamp {
    Timestamp::from_unix(now_ms() / 1000)
}

/// Milliseconds since 1970, by this host's clock.
pub fn now_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}

/// The time that it is known to be at least, as an agent keeps it.
#[derive(Debug)]
pub struct KnownTime {
    path: PathBuf,
    reached: Option<Reached>,
    saved: Option<Duration>,
    /// The clock is behind; why that matters was said in this line.
    behind: Option<String>,
}

/// Both in milliseconds; the second by a clock that cannot be set.
#[derive(Clone, Copy, Debug)]
struct Reached {
    unix_ms: i64,
    at_ms: i64,
    /// Until then the first clock is on trial.
    trial_ms: i64,
}

/// What is to be done after time has passed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// What is to be said of the clock, or that it is right again.
    pub said: Option<Option<String>>,
    /// The file to be written, and what it is to hold.
    pub save: Option<(PathBuf, String)>,
}

impl KnownTime {
    /// What was kept in a state directory. What cannot be read is as if nothing were: that is said in the log.
    pub fn open(state_dir: &Path) -> Self {
        let path = path(state_dir);
        let kept = read(&path).unwrap_or_else(|error| {
            let file = Escaped(path.as_os_str().as_encoded_bytes());
            tracing::error!(%file, %error, "the time that was reached before is not known: the clock is believed");
            None
        });
        let reached = kept.map(|unix_ms| Reached { unix_ms, at_ms: 0, trial_ms: 0 });
        Self { path, reached, saved: None, behind: None }
    }

    /// As an agent with this state directory would judge now, which may be running.
    pub fn peek(state_dir: &Path) -> Timestamp {
        let kept = read(&path(state_dir)).ok().flatten();
        Timestamp::from_unix(kept.unwrap_or_default().max(now_ms()) / 1000)
    }

    /// Takes note that the clock says `unix_ms`, `elapsed` since this was made.
    pub fn pass(&mut self, unix_ms: i64, elapsed: Duration) -> Passed {
        self.follow(unix_ms, millis(elapsed));
        let Some(Reached { unix_ms: reached, .. }) = self.reached else { return Passed::default() };
        let is_behind = unix_ms.saturating_add(TOLERANCE_MS) < reached;
        let said = match (&self.behind, is_behind) {
            (None, true) => Some(Some(self.behind.insert(complaint(unix_ms, reached, &self.path)).clone())),
            // Little by little it would be said again and again.
            (Some(_), false) if unix_ms >= reached => {
                self.behind = None;
                Some(None)
            }
            _ => None,
        };
        let is_due = self.saved.is_none_or(|saved| elapsed >= saved + PAUSE);
        let save = is_due.then(|| {
            self.saved = Some(elapsed);
            (self.path.clone(), encode(reached))
        });
        Passed { said, save }
    }

    /// What there is to say of the clock is said once more.
    pub fn say_again(&self) -> Option<String> {
        self.behind.clone()
    }

    /// What signatures are judged by, if the clock says `unix_ms`.
    pub fn judged(&self, unix_ms: i64) -> Timestamp {
        let reached = self.reached.map_or(unix_ms, |reached| reached.unix_ms);
        Timestamp::from_unix(reached.max(unix_ms) / 1000)
    }

    /// Saves it, before an end.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self) -> io::Result<()> {
        self.reached.map_or(Ok(()), |reached| state_file::write(&self.path, &encode(reached.unix_ms)))
    }

    fn follow(&mut self, clock: i64, at_ms: i64) {
        let can_be_right = clock >= Timestamp::EARLIEST.unix() * 1000;
        let first = Reached { unix_ms: clock, at_ms, trial_ms: at_ms.saturating_add(millis(TRIAL)) };
        let Some(reached) = &mut self.reached else {
            self.reached = can_be_right.then_some(first);
            return;
        };
        if at_ms < reached.trial_ms && clock.saturating_add(TOLERANCE_MS) < reached.unix_ms && can_be_right {
            *reached = Reached { trial_ms: reached.trial_ms, ..first };
            self.saved = None;
            return;
        }
        let lived = at_ms.saturating_sub(reached.at_ms);
        if lived < STEP_MS {
            return;
        }
        reached.at_ms = at_ms;
        reached.unix_ms = steered(reached.unix_ms, clock, lived);
    }
}

/// Where a known time is after `lived`, steered by a clock.
fn steered(known: i64, clock: i64, lived: i64) -> i64 {
    if clock >= known {
        clock.min(known.saturating_add(lived.saturating_mul(CATCH_UP)))
    } else {
        known.saturating_add(lived / SLOWER)
    }
}

fn complaint(clock: i64, reached: i64, path: &Path) -> String {
    let [clock, reached] = [clock, reached].map(|ms| Timestamp::from_unix(ms / 1000));
    format!(
        "the clock says {clock}, and it was {reached} before, by which what is signed is judged: set the clock, or, if it was \
         wrong before, stop the agent and remove {}",
        Escaped(path.as_os_str().as_encoded_bytes())
    )
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("time.state")
}

fn encode(unix_ms: i64) -> String {
    format!("{HEAD}\n{}\n", Timestamp::from_unix(unix_ms / 1000))
}

fn read(path: &Path) -> io::Result<Option<i64>> {
    let Some(lines) = state_file::read(path, MAX_FILE)? else { return Ok(None) };
    let time = lines.strip_prefix(HEAD).and_then(|line| Timestamp::parse(line.trim()));
    let unix_ms = time.map(|time| time.unix() * 1000).filter(|unix_ms| encode(*unix_ms) == lines);
    unix_ms.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;
    const HOUR: i64 = 3600 * SECOND;
    const DAY: i64 = 24 * HOUR;
    /// 2027-01-15T08:00:00Z.
    const T: i64 = 1_800_000_000 * SECOND;

    /// An agent that runs, with a clock beside the true one.
    struct Run {
        known: KnownTime,
        lived: i64,
    }

    impl Run {
        fn begin(dir: &Path) -> Self {
            Self { known: KnownTime::open(dir), lived: 0 }
        }

        /// Goes on for so long, looking at the clock now and then; the clock is at `from` when that begins.
        fn live(&mut self, from: i64, ms: i64) -> Vec<Option<String>> {
            let mut said = Vec::new();
            let steps = 1000;
            for step in 0..=steps {
                let passed = ms * step / steps;
                let elapsed = Duration::from_millis(u64::try_from(self.lived + passed).unwrap());
                said.extend(self.known.pass(from + passed, elapsed).said);
            }
            self.lived += ms;
            said
        }

        fn judged(&self, clock: i64) -> i64 {
            self.known.judged(clock).unix() * SECOND
        }

        fn end(self) {
            self.known.save().unwrap();
        }
    }

    #[test]
    fn a_clock_that_is_set_back_under_a_restarted_agent_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::begin(dir.path());
        assert_eq!(run.live(T, DAY), []);
        run.end();
        assert_eq!(KnownTime::peek(dir.path()).unix() * SECOND, T + DAY);
        // A month back, and for a day of it.
        let back = T - 30 * DAY;
        let mut run = Run::begin(dir.path());
        assert_eq!(run.judged(back), T + DAY, "before anything else");
        let said = run.live(back, DAY);
        let [Some(line)] = &said[..] else { panic!("{said:?}") };
        assert!(line.contains("it was 2027-01-16T08:00:00Z before") && line.contains("time.state"), "{line}");
        assert_eq!(run.known.say_again().as_ref(), Some(line));
        assert_eq!(run.judged(back + DAY), T + DAY + DAY / 2, "time goes on all the same");
        // Set right, it is over.
        assert_eq!(run.live(T + 3 * DAY, SECOND), [None]);
        assert_eq!(run.known.say_again(), None);
    }

    #[test]
    fn a_clock_that_is_set_back_while_the_agent_runs_is_not_believed_either() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::begin(dir.path());
        run.live(T, DAY);
        assert_eq!(run.live(T - DAY, 10 * SECOND).len(), 1);
        assert!(run.judged(T - DAY) >= T + DAY);
        // A little is no news, and not believed either.
        let mut run = Run::begin(dir.path());
        run.live(T, DAY);
        assert_eq!(run.live(T + DAY - HOUR / 2, SECOND), []);
        assert!(run.judged(T + DAY - HOUR / 2) >= T + DAY);
    }

    #[test]
    fn a_clock_far_ahead_by_mistake_moves_what_is_known_by_a_day_for_each_hour() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::begin(dir.path());
        run.live(T, DAY);
        run.end();
        let mut run = Run::begin(dir.path());
        let ahead = T + 3650 * DAY;
        assert_eq!(run.live(ahead, HOUR), []);
        assert_eq!(run.judged(ahead), ahead, "what the clock says counts while it says so");
        run.end();
        let mut run = Run::begin(dir.path());
        let right = T + DAY + HOUR;
        assert_eq!(run.judged(right), T + 2 * DAY);
        // In two days at most it is as if nothing had been.
        assert_eq!(run.live(right, 2 * DAY).len(), 2);
        assert_eq!(run.judged(right + 2 * DAY), right + 2 * DAY);
        run.end();
        assert_eq!(Run::begin(dir.path()).judged(right + 2 * DAY), right + 2 * DAY);
    }

    #[test]
    fn after_a_month_without_the_agent_a_day_and_a_quarter_are_enough() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::begin(dir.path());
        run.live(T, DAY);
        run.end();
        let mut run = Run::begin(dir.path());
        let later = T + 31 * DAY;
        assert_eq!(run.live(later, 30 * HOUR), []);
        assert!(run.judged(0) < later + 30 * HOUR);
        run.live(later + 30 * HOUR, 2 * HOUR);
        assert_eq!(run.judged(0), later + 32 * HOUR);
    }

    #[test]
    fn the_first_clock_is_on_trial_for_an_hour_and_one_that_cannot_be_right_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::begin(dir.path());
        run.live(0, HOUR);
        run.end();
        assert_eq!(read(&path(dir.path())).unwrap(), None, "1970");
        let mut run = Run::begin(dir.path());
        run.live(T + 3650 * DAY, HOUR / 2);
        assert_eq!(run.live(T, HOUR / 4), []);
        assert_eq!(run.judged(0), T + HOUR / 4);
        run.live(T + HOUR / 4, HOUR);
        assert_eq!(run.live(T - DAY, SECOND).len(), 1, "the trial is over");
        run.end();
        // Another run has no trial.
        let mut run = Run::begin(dir.path());
        assert_eq!(run.live(T - DAY, SECOND).len(), 1);
    }

    #[test]
    fn it_is_saved_at_first_and_every_ten_minutes() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = KnownTime::open(dir.path());
        let mut saves = Vec::new();
        for minute in 0..25 {
            let passed = known.pass(T + minute * 60 * SECOND, Duration::from_secs(u64::try_from(minute * 60).unwrap()));
            saves.extend(passed.save.map(|(file, lines)| {
                state_file::write(&file, &lines).unwrap();
                minute
            }));
        }
        assert_eq!(saves, [0, 10, 20]);
        assert_eq!(
            std::fs::read_to_string(path(dir.path())).unwrap(),
            format!(
                "{}{}\n",
                encode(T + 1200 * SECOND),
                driftlock_common::digest::Digest::blake3(encode(T + 1200 * SECOND).as_bytes())
            )
        );
        assert_eq!(encode(T), "driftlock time 1\n2027-01-15T08:00:00Z\n");
        // What is damaged is as if nothing were.
        std::fs::write(path(dir.path()), "driftlock time 1\n").unwrap();
        assert!(KnownTime::open(dir.path()).reached.is_none());
    }
}
