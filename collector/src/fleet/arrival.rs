//! Owns telling apart who reports as a host: the same agent, one that was started again, a machine that was booted or made
//! anew, one put back to an older state, or two with one identity. Pure. Must not own what becomes of it.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How many ended agents of a host are remembered.
const EARLIER: usize = 8;
/// How long a report of an agent that ended may be on its way, in seconds.
pub const LATE_S: u64 = 60;

/// An agent as one process: from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its state directory.
    pub epoch: String,
    /// Of the starts with that directory, counted from 1.
    pub number: u64,
    /// When it started, by its own clock.
    pub at: String,
    /// The kernel's word for this boot; absent if the agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// What joined it to the collector; absent if it reports with a token that the operator wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<String>,
    /// From where it was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Who reports as a host, and who did before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Who does now.
    pub current: Start,
    /// Since when, in milliseconds since 1970 by the collector's clock.
    pub since: i64,
    /// Who did, the last one last; at most eight.
    #[serde(default)]
    pub earlier: Vec<Start>,
}

/// What it means that another agent reports as a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// The host was never heard of.
    First,
    /// The agent was started again.
    Restarted,
    /// The machine was started again, and its agent with it.
    Rebooted,
    /// The agent has a new state directory: it was lost, or the machine was made anew.
    Reinstalled,
    /// The same, and the host was enrolled again.
    Reenrolled,
    /// The agent goes on from an older state: a backup or a snapshot was put back.
    Restored,
    /// One that had ended reports again: there are two of them.
    Cloned,
}

impl Arrival {
    /// Each, its word, and what it means for an operator.
    pub const TABLE: [(Self, &'static str, &'static str); 7] = [
        (Self::First, "first", "first heard of"),
        (Self::Restarted, "restarted", "the agent was started again"),
        (Self::Rebooted, "rebooted", "the machine was started again"),
        (Self::Reinstalled, "reinstalled", "the agent has a new state: it was lost, or the machine was made anew"),
        (Self::Reenrolled, "reenrolled", "the host was enrolled again, with a new state"),
        (Self::Restored, "restored", "the agent goes on from an older state: a backup or a snapshot was put back"),
        (Self::Cloned, "cloned", "two agents report with this identity"),
    ];

    /// The word of API and store.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(known, ..)| *known == self).map_or("", |(_, name, _)| name)
    }

    /// What it means for an operator.
    pub fn meaning(self) -> &'static str {
        Self::TABLE.iter().find(|(known, ..)| *known == self).map_or("", |(.., meaning)| meaning)
    }

    /// The arrival of that word.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(_, known, _)| *known == name).map(|(arrival, ..)| *arrival)
    }
}

impl Start {
    /// Whether it is the same process, wherever it is heard from.
    fn is(&self, other: &Self) -> bool {
        (&self.epoch, self.number, &self.at, &self.boot) == (&other.epoch, other.number, &other.at, &other.boot)
    }
}

/// What it means that `said` is heard where `known` was before, and what is known then. Nothing is said of one that goes on,
/// nor of a report that was on its way when its agent ended: [`LATE_S`].
pub fn meet(known: Option<&Known>, said: &Start, now: Timestamp) -> (Option<Arrival>, Known) {
    let Some(known) = known else {
        let first = Known { current: said.clone(), since: now.millis(), earlier: Vec::new() };
        return (Some(Arrival::First), first);
    };
    if known.current.is(said) {
        return (None, Known { current: said.clone(), ..known.clone() });
    }
    let returns = known.earlier.iter().any(|earlier| earlier.is(said));
    if returns && now.seconds_since(Timestamp::from_millis(known.since)) <= LATE_S {
        return (None, known.clone());
    }
    let arrival = if returns { Arrival::Cloned } else { succession(&known.current, said) };
    let mut earlier: Vec<Start> = known.earlier.iter().filter(|earlier| !earlier.is(said)).cloned().collect();
    earlier.push(known.current.clone());
    let forgotten = earlier.len().saturating_sub(EARLIER);
    earlier.drain(..forgotten);
    (Some(arrival), Known { current: said.clone(), since: now.millis(), earlier })
}

/// What came between an agent and one that was never heard before.
fn succession(before: &Start, said: &Start) -> Arrival {
    let other = |before: &Option<String>, said: &Option<String>| before.is_some() && said.is_some() && before != said;
    if before.epoch != said.epoch {
        return if said.enrolment.is_some() && before.enrolment != said.enrolment {
            Arrival::Reenrolled
        } else {
            Arrival::Reinstalled
        };
    }
    if said.number <= before.number {
        Arrival::Restored
    } else if other(&before.boot, &said.boot) {
        Arrival::Rebooted
    } else {
        Arrival::Restarted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start(epoch: &str, number: u64, at: &str, boot: &str, enrolment: &str) -> Start {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Start { epoch: epoch.into(), number, at: at.into(), boot: given(boot), enrolment: given(enrolment), from: None }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(i64::try_from(seconds).unwrap() * 1000)
    }

    #[test]
    fn what_it_means_that_another_agent_reports() {
        let before = start("e", 3, "t3", "b1", "x");
        for (said, expected) in [
            (start("e", 3, "t3", "b1", "x"), None),
            // A certificate that was renewed changes nothing.
            (start("e", 3, "t3", "b1", "y"), None),
            (start("e", 4, "t4", "b1", "x"), Some(Arrival::Restarted)),
            (start("e", 9, "t9", "b1", "x"), Some(Arrival::Restarted)),
            (start("e", 4, "t4", "", "x"), Some(Arrival::Restarted)),
            (start("e", 4, "t4", "b2", "x"), Some(Arrival::Rebooted)),
            (start("f", 1, "t4", "b1", "x"), Some(Arrival::Reinstalled)),
            (start("f", 1, "t4", "b2", "x"), Some(Arrival::Reinstalled)),
            (start("f", 1, "t4", "b2", ""), Some(Arrival::Reinstalled)),
            (start("f", 1, "t4", "b2", "y"), Some(Arrival::Reenrolled)),
            (start("e", 3, "t5", "b2", "x"), Some(Arrival::Restored)),
            (start("e", 2, "t5", "b1", "x"), Some(Arrival::Restored)),
        ] {
            let (first, known) = meet(None, &before, at(0));
            assert_eq!(first, Some(Arrival::First));
            let (arrival, known) = meet(Some(&known), &said, at(1000));
            assert_eq!(arrival, expected, "{said:?}");
            assert_eq!(known.current, said);
            assert_eq!(known.earlier.len(), usize::from(expected.is_some()));
            if expected.is_some() {
                // A last word of the one that ended, and then one too many.
                let (arrival, known) = meet(Some(&known), &before, at(1000 + LATE_S));
                assert_eq!((arrival, &known.current), (None, &said), "{said:?}");
                let (arrival, known) = meet(Some(&known), &before, at(1001 + LATE_S));
                assert_eq!((arrival, &known.current), (Some(Arrival::Cloned), &before), "{said:?}");
            }
        }
    }

    #[test]
    fn the_words_stand_in_the_table() {
        for (arrival, name, _) in Arrival::TABLE {
            assert_eq!(serde_json::to_value(arrival).unwrap(), name);
            assert_eq!(Arrival::from_name(arrival.name()), Some(arrival));
        }
    }

    /// What may happen to a machine between two reports.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Nothing,
        Restart,
        Reboot,
        Reinstall,
        /// The state directory as it was so many starts ago is put back, and the agent started.
        Restore(u64),
    }

    /// A machine, as it is: what a report says of it is derived, never what it means.
    #[derive(Clone, Debug)]
    struct Machine {
        epoch: u64,
        starts: u64,
        boot: u64,
        started: u64,
    }

    impl Machine {
        fn live(&mut self, event: Event, fresh: &mut u64) -> Option<Arrival> {
            *fresh += 1;
            let (arrival, starts) = match event {
                Event::Nothing => return None,
                Event::Restart => (Arrival::Restarted, self.starts + 1),
                Event::Reboot => {
                    self.boot = *fresh;
                    (Arrival::Rebooted, self.starts + 1)
                }
                Event::Reinstall => {
                    self.epoch = *fresh;
                    (Arrival::Reinstalled, 1)
                }
                Event::Restore(back) => (Arrival::Restored, self.starts.saturating_sub(back).max(1)),
            };
            self.starts = starts;
            self.started = *fresh;
            Some(arrival)
        }

        fn says(&self) -> Start {
            start(&self.epoch.to_string(), self.starts, &self.started.to_string(), &self.boot.to_string(), "")
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Nothing),
            2 => Just(Event::Restart),
            1 => Just(Event::Reboot),
            1 => Just(Event::Reinstall),
            1 => (0..4_u64).prop_map(Event::Restore),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn one_machine_is_never_two_whatever_happens_to_it(events in prop::collection::vec(event(), 0..40)) {
            let mut fresh = 0;
            let mut machine = Machine { epoch: 0, starts: 1, boot: 0, started: 0 };
            let (_, mut known) = meet(None, &machine.says(), at(0));
            for (number, event) in (1..).zip(events) {
                let expected = machine.live(event, &mut fresh);
                let (arrival, then) = meet(Some(&known), &machine.says(), at(30 * number));
                prop_assert_eq!(arrival, expected, "{:?}", event);
                prop_assert!(then.earlier.len() <= EARLIER);
                known = then;
            }
        }

        #[test]
        fn two_machines_are_known_as_two_soon_after_both_report(
            before in prop::collection::vec(event(), 0..5), cloned in prop_oneof![Just(Event::Restart), Just(Event::Reboot), Just(Event::Reinstall)],
            turns in prop::collection::vec(1..3_usize, 4..8),
        ) {
            let mut fresh = 0;
            let mut one = Machine { epoch: 0, starts: 1, boot: 0, started: 0 };
            for event in before {
                one.live(event, &mut fresh);
            }
            let (_, mut known) = meet(None, &one.says(), at(0));
            // A copy of its disk, started elsewhere.
            let mut other = one.clone();
            other.live(cloned, &mut fresh);
            let mut found = Vec::new();
            let mut time = 0;
            for (number, times) in turns.iter().enumerate() {
                for _ in 0..*times {
                    time += LATE_S + 1;
                    let says = if number % 2 == 0 { other.says() } else { one.says() };
                    let (arrival, then) = meet(Some(&known), &says, at(time));
                    known = then;
                    if arrival == Some(Arrival::Cloned) {
                        found.push(number);
                    }
                }
            }
            // The first that returns is the original, at the second turn; from then on each turn is one.
            prop_assert_eq!(found, (1..turns.len()).collect::<Vec<_>>());
        }
    }
}
