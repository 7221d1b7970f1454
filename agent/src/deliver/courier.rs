//! Owns what replies lead to: when the next batch may go, how large it may be, and what is given up. A state machine
//! without clock or I/O. Must not own sending.

use std::time::Duration;

use driftlock_common::event::{Answer, MAX_BATCH_EVENTS};

use super::Reply;
use crate::http::{Backoff, spread};

const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// Decides about batches, of which one is under way at most.
#[derive(Debug)]
pub struct Courier {
    backoff: Backoff,
    /// Replies since the last one that got anything further.
    attempt: u32,
    /// Halved when a batch is too large, restored when one gets through.
    max_events: usize,
    not_before: Duration,
    /// Events given up since the start.
    set_aside: u64,
}

/// What a reply means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Everything up to this sequence is acknowledged, or given up.
    pub acknowledged: Option<u64>,
    /// The collector knows events that were never given: the state directory is an old one.
    pub unknown_past: bool,
    /// The collector wants to be told everything.
    pub resync: bool,
    /// The collector took something, so it accepts this agent.
    pub accepted: bool,
    /// The collector refuses this agent: why.
    pub refused: Option<String>,
    /// Events were given up: why.
    pub rejected: Option<String>,
}

impl Courier {
    /// Begins with no delay.
    pub fn new() -> Self {
        let backoff =
            Backoff::new(FIRST_DELAY, LONGEST_DELAY).expect("the first delay is not zero, and not the longest");
        Self { backoff, attempt: 0, max_events: MAX_BATCH_EVENTS, not_before: Duration::ZERO, set_aside: 0 }
    }

    /// How many events the next batch may hold.
    pub const fn max_events(&self) -> usize {
        self.max_events
    }

    /// When the next batch may go.
    pub const fn not_before(&self) -> Duration {
        self.not_before
    }

    /// Lets the next batch go at once: there is no later, or the reason to wait is gone.
    pub const fn hurry(&mut self) {
        self.not_before = Duration::ZERO;
    }

    /// Whether the event is looked for that a batch is refused for: then nothing else may go with it.
    pub const fn is_splitting(&self) -> bool {
        self.max_events < MAX_BATCH_EVENTS
    }

    /// Takes the reply to a batch of `events` sequenced events up to `last` (both 0 for a sign of life alone). `given` is
    /// the highest sequence there is; `random` spreads delays.
    pub fn reply(&mut self, reply: Reply, events: usize, last: u64, given: u64, now: Duration, random: u32) -> Verdict {
        match reply {
            Reply::Answered(answer) => self.answered(&answer, events, last, given, now, random),
            Reply::Retry { after, .. } => {
                self.wait(after, now, random);
                Verdict::default()
            }
            Reply::Refused { why } => {
                self.wait(None, now, random);
                Verdict { refused: Some(why), ..Verdict::default() }
            }
            Reply::TooLarge => self.split("too large for the collector".to_owned(), events, last, now, random),
            Reply::Rejected { why } => self.split(why, events, last, now, random),
        }
    }

    fn answered(
        &mut self,
        answer: &Answer,
        events: usize,
        last: u64,
        given: u64,
        now: Duration,
        random: u32,
    ) -> Verdict {
        let unknown_past = answer.ack > given;
        let progress = events == 0 || answer.ack >= last || answer.accepted + answer.duplicates > 0;
        if progress && !unknown_past {
            self.attempt = 0;
            self.not_before = now;
            self.max_events = MAX_BATCH_EVENTS;
        } else {
            self.wait(None, now, random);
        }
        let rejected = answer.rejected.first().map(|first| {
            let reason: String = first.reason.chars().take(200).flat_map(char::escape_default).collect();
            self.count_set_aside(answer.rejected.len() as u64, &reason)
        });
        Verdict {
            acknowledged: (!unknown_past && events > 0).then_some(answer.ack),
            unknown_past,
            resync: answer.resync,
            accepted: true,
            refused: None,
            rejected,
        }
    }

    /// A batch that is refused as a whole is halved until the event is found that it is refused for.
    fn split(&mut self, why: String, events: usize, last: u64, now: Duration, random: u32) -> Verdict {
        if events > 1 {
            self.max_events = events.div_ceil(2);
            self.not_before = now;
            return Verdict { accepted: true, ..Verdict::default() };
        }
        let rejected = Some(self.count_set_aside(1, &why));
        if events == 0 {
            // A sign of life is refused: there is nothing to give up, and no hurry.
            self.wait(None, now, random);
            return Verdict { rejected, ..Verdict::default() };
        }
        self.not_before = now;
        Verdict { acknowledged: Some(last), accepted: true, rejected, ..Verdict::default() }
    }

    fn count_set_aside(&mut self, count: u64, why: &str) -> String {
        self.set_aside += count;
        format!("{} events were refused for good, the last: {why}", self.set_aside)
    }

    /// Waits longer each time, and never less than the collector asked for. It asks many at once, and they must not come back
    /// at once.
    fn wait(&mut self, after: Option<Duration>, now: Duration, random: u32) {
        self.attempt = self.attempt.saturating_add(1);
        let after = after.unwrap_or_default();
        self.not_before = now + after + spread(self.backoff.bound(self.attempt).max(after / 2), random);
    }
}

impl Default for Courier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftlock_common::event::Rejected;

    const NOW: Duration = Duration::from_secs(1000);

    fn reply(courier: &mut Courier, reply: Reply, events: usize, last: u64) -> Verdict {
        courier.reply(reply, events, last, 100, NOW, u32::MAX)
    }

    fn retry(after: Option<u64>) -> Reply {
        Reply::Retry { why: "down".to_owned(), after: after.map(Duration::from_secs) }
    }

    #[test]
    fn delays_grow_and_end_with_the_first_success() {
        let mut courier = Courier::new();
        let mut delays = Vec::new();
        for _ in 0..12 {
            assert_eq!(reply(&mut courier, retry(None), 5, 5), Verdict::default());
            delays.push((courier.not_before() - NOW).as_millis());
        }
        let doubled = (0..10).map(|power| 500 << power).chain([300_000, 300_000]).collect::<Vec<u128>>();
        assert_eq!(delays, doubled);
        let answer = Answer { accepted: 5, ack: 5, ..Answer::default() };
        let verdict = reply(&mut courier, Reply::Answered(answer), 5, 5);
        assert_eq!(verdict, Verdict { acknowledged: Some(5), accepted: true, ..Verdict::default() });
        assert_eq!(courier.not_before(), NOW);
    }

    #[test]
    fn who_is_asked_to_come_later_does_so_and_not_with_all_others() {
        let wait = |random| {
            let mut courier = Courier::new();
            courier.reply(retry(Some(120)), 1, 6, 100, NOW, random);
            (courier.not_before() - NOW).as_secs()
        };
        assert_eq!((wait(0), wait(u32::MAX / 2), wait(u32::MAX)), (120, 149, 180));
        // After many failures its own pause is the longer one.
        let mut courier = Courier::new();
        for _ in 0..20 {
            reply(&mut courier, retry(None), 1, 6);
        }
        courier.reply(retry(Some(1)), 1, 6, 100, NOW, 0);
        assert_eq!(courier.not_before(), NOW + Duration::from_secs(1));
    }

    #[test]
    fn a_batch_is_halved_down_to_the_event_that_is_refused() {
        let mut courier = Courier::new();
        for (events, next) in [(500, 250), (250, 125), (125, 63), (2, 1)] {
            assert_eq!(reply(&mut courier, Reply::TooLarge, events, 90).acknowledged, None);
            assert_eq!(courier.max_events(), next);
            assert!(courier.is_splitting());
        }
        let verdict = reply(&mut courier, Reply::Rejected { why: "no".to_owned() }, 1, 41);
        assert_eq!(verdict.acknowledged, Some(41));
        assert_eq!(verdict.rejected.unwrap(), "1 events were refused for good, the last: no");
        let answer = Answer { accepted: 1, ack: 42, ..Answer::default() };
        reply(&mut courier, Reply::Answered(answer), 1, 42);
        assert_eq!((courier.max_events(), courier.is_splitting()), (MAX_BATCH_EVENTS, false));
    }

    #[test]
    fn an_answer_that_gets_nothing_further_is_not_repeated_in_a_loop() {
        let mut courier = Courier::new();
        let verdict = reply(&mut courier, Reply::Answered(Answer::default()), 5, 5);
        assert_eq!(verdict.acknowledged, Some(0));
        assert!(courier.not_before() > NOW);
    }

    #[test]
    fn a_collector_that_knows_more_than_was_given_is_noticed() {
        let mut courier = Courier::new();
        let answer = Answer { ack: 101, ..Answer::default() };
        let verdict = reply(&mut courier, Reply::Answered(answer), 5, 5);
        assert!(verdict.unknown_past);
        assert_eq!(verdict.acknowledged, None);
    }

    #[test]
    fn refusals_keep_what_waits_and_single_rejections_are_counted() {
        let mut courier = Courier::new();
        let verdict = reply(&mut courier, Reply::Refused { why: "401".to_owned() }, 5, 5);
        assert_eq!(verdict, Verdict { refused: Some("401".to_owned()), ..Verdict::default() });
        assert!(courier.not_before() > NOW);
        let rejected = vec![Rejected { id: "x".to_owned(), reason: "bad\npath".to_owned() }];
        let verdict =
            reply(&mut courier, Reply::Answered(Answer { accepted: 4, ack: 5, rejected, ..Answer::default() }), 5, 5);
        assert_eq!(verdict.acknowledged, Some(5));
        assert!(verdict.rejected.unwrap().ends_with("bad\\npath"));
    }
}
