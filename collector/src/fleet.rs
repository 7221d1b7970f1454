//! Owns what a host's last reports mean: clean, drifted, blind, silent or retired, and why. Pure: `now` is given.
//! Must not own where the reports are kept. Unsure means not clean.

use driftlock_common::condition::ConditionReason;
use serde::Serialize;

use crate::clock::Timestamp;

/// Heartbeats that may be missing before a host is silent.
pub const SILENT_AFTER: u64 = 3;
/// Missing heartbeats after which an ephemeral host is retired.
pub const RETIRED_AFTER: u64 = 10;
/// Bounds of the interval that an agent may claim, in seconds: a hostile one must not buy itself silence.
const INTERVAL_S: (u64, u64) = (5, 3600);

/// What a host's last reports mean. The order is the precedence: the first that holds is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Nothing is heard of it; what it last said may be over.
    Silent,
    /// Something is not as sealed.
    Drifted,
    /// Nothing is known to differ, but not everything is vouched for.
    Blind,
    /// Everything is as sealed, and that is known.
    Clean,
    /// It ended as planned.
    Retired,
}

/// What is known of a host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// When the collector last heard of it.
    pub last_seen: Timestamp,
    /// Seconds between heartbeats, as the agent says; 0 if it never sent one.
    pub interval_s: u64,
    /// Whether a clean stop retires it.
    pub ephemeral: bool,
    /// Whether its agent stopped as asked and was not heard of since.
    pub stopped: bool,
    /// Open alerts of what is known to differ. What a policy tolerates is none.
    pub open_drift: u64,
    /// Open alerts of what could not be established.
    pub open_unverifiable: u64,
    /// Reasons of the open conditions.
    pub conditions: Vec<ConditionReason>,
    /// Its targets.
    pub targets: Vec<TargetFacts>,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct TargetFacts {
    /// Whether it has a manifest.
    pub sealed: bool,
    /// Whether a complete look at it has ended.
    pub looked_at: bool,
    /// Sealed entries that could not be established in it.
    pub unverifiable: u64,
    /// Whether the collector waits for all of its findings.
    pub resync: bool,
}

/// A state with its reasons, one short sentence each; none for clean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state.
    pub state: HostState,
    /// Why, in order of weight.
    pub reasons: Vec<String>,
}

impl HostState {
    /// All, in order of precedence.
    pub const ALL: [Self; 5] = [Self::Silent, Self::Drifted, Self::Blind, Self::Clean, Self::Retired];

    /// The word of API, page and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Drifted => "drifted",
            Self::Blind => "blind",
            Self::Clean => "clean",
            Self::Retired => "retired",
        }
    }
}

/// What the facts mean at `now`.
pub fn judge(facts: &Facts, now: Timestamp) -> Verdict {
    let interval = if facts.interval_s == 0 { 30 } else { facts.interval_s.clamp(INTERVAL_S.0, INTERVAL_S.1) };
    let unheard = now.seconds_since(facts.last_seen);
    if facts.ephemeral && facts.stopped {
        return Verdict::of(HostState::Retired, "stopped as planned");
    }
    if facts.ephemeral && unheard > interval * RETIRED_AFTER {
        return Verdict::of(HostState::Retired, "ephemeral, and ten heartbeats are missing");
    }
    let mut reasons = Vec::new();
    if facts.stopped {
        reasons.push("the agent was stopped".to_owned());
    } else if unheard > interval * SILENT_AFTER {
        reasons.push(format!("no heartbeat for {}", duration(unheard)));
    }
    let silent = !reasons.is_empty();
    if facts.open_drift > 0 {
        reasons.push(counted(facts.open_drift, "alert", "alerts"));
    }
    let blind = blindness(facts);
    let state = match (silent, facts.open_drift > 0, !blind.is_empty()) {
        (true, ..) => HostState::Silent,
        (false, true, _) => HostState::Drifted,
        (false, false, true) => HostState::Blind,
        (false, false, false) => HostState::Clean,
    };
    reasons.extend(blind);
    Verdict { state, reasons }
}

/// Why a host cannot be called clean although nothing is known to differ.
fn blindness(facts: &Facts) -> Vec<String> {
    let mut reasons: Vec<String> =
        facts.conditions.iter().filter(|reason| blinds(**reason)).map(|reason| reason.meaning().to_owned()).collect();
    reasons.dedup();
    if facts.targets.is_empty() {
        reasons.push("no target was reported yet".to_owned());
    }
    let count = |is: fn(&TargetFacts) -> bool| facts.targets.iter().filter(|target| is(target)).count() as u64;
    for (number, one, many) in [
        (count(|t| !t.sealed), "target without a manifest", "targets without a manifest"),
        (
            count(|t| t.sealed && !t.looked_at),
            "target not looked at completely yet",
            "targets not looked at completely yet",
        ),
        (
            count(|t| t.resync),
            "target whose findings are being sent again",
            "targets whose findings are being sent again",
        ),
        (
            facts.open_unverifiable.max(facts.targets.iter().map(|t| t.unverifiable).sum()),
            "path that could not be verified",
            "paths that could not be verified",
        ),
    ] {
        if number > 0 {
            reasons.push(counted(number, one, many));
        }
    }
    reasons
}

/// Whether an open condition means that the last word on the trees may be wrong or incomplete.
const fn blinds(reason: ConditionReason) -> bool {
    match reason {
        ConditionReason::RootLost
        | ConditionReason::MountOver
        | ConditionReason::ManifestRefused
| ConditionReason::ManifestExpired
        // What the newer policy alerts on, the older one may tolerate.
        | ConditionReason::PolicyRefused
        | ConditionReason::CoverageStale
        | ConditionReason::Overflow
        | ConditionReason::ClockStep
        | ConditionReason::SpoolOverflow
        | ConditionReason::SpoolFailed
        | ConditionReason::EventsRejected
        | ConditionReason::IdentityConflict => true,
        // Sweeps find what a missing watch does not; the old configuration is in force, and the old binary runs; what the
        // collector refused is still in the agent's spool, and what is reported is with the certificate that still counts.
        ConditionReason::WatchDegraded
        | ConditionReason::SinkFailed
        | ConditionReason::ConfigRefused
        | ConditionReason::ConfigReplaced
        | ConditionReason::BinaryReplaced
        | ConditionReason::CollectorRefused
        | ConditionReason::IdentityExpiring => false,
    }
}

impl Verdict {
    fn of(state: HostState, reason: &str) -> Self {
        Self { state, reasons: vec![reason.to_owned()] }
    }
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A duration for a person: the largest whole unit, rounded down.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> Facts {
        Facts {
            last_seen: Timestamp::from_millis(1_000_000_000),
            interval_s: 30,
            targets: vec![TargetFacts { sealed: true, looked_at: true, unverifiable: 0, resync: false }],
            ..Facts::default()
        }
    }

    fn at(facts: &Facts, seconds: u64) -> HostState {
        let now = Timestamp::from_millis(facts.last_seen.millis() + i64::try_from(seconds).unwrap() * 1000);
        judge(facts, now).state
    }

    #[test]
    fn precedence_over_every_combination() {
        for bits in 0..64_u32 {
            let on = |bit: u32| bits & (1 << bit) != 0;
            let (unheard, stopped, ephemeral, drift, blind, long) = (on(0), on(1), on(2), on(3), on(4), on(5));
            let mut facts = Facts { stopped, ephemeral, open_drift: u64::from(drift), ..clean() };
            facts.targets[0].resync = blind;
            let seconds = if long {
                301
            } else if unheard {
                91
            } else {
                90
            };
            let expected = if ephemeral && (stopped || long) {
                HostState::Retired
            } else if stopped || unheard || long {
                HostState::Silent
            } else if drift {
                HostState::Drifted
            } else if blind {
                HostState::Blind
            } else {
                HostState::Clean
            };
            assert_eq!(at(&facts, seconds), expected, "{facts:?} after {seconds} s");
        }
    }

    #[test]
    fn whatever_is_not_known_is_not_clean() {
        assert_eq!(at(&clean(), 0), HostState::Clean);
        assert!(judge(&clean(), clean().last_seen).reasons.is_empty());
        let with = |change: fn(&mut Facts)| {
            let mut facts = clean();
            change(&mut facts);
            at(&facts, 0)
        };
        for (name, change) in [
            ("no target", (|f| f.targets.clear()) as fn(&mut Facts)),
            ("no manifest", |f| f.targets[0].sealed = false),
            ("never looked at", |f| f.targets[0].looked_at = false),
            ("gaps in the last look", |f| f.targets[0].unverifiable = 1),
            ("findings on their way", |f| f.targets[0].resync = true),
            ("an unverifiable finding", |f| f.open_unverifiable = 1),
        ] {
            assert_eq!(with(change), HostState::Blind, "{name}");
        }
    }

    #[test]
    fn conditions_that_blind() {
        for (reason, ..) in ConditionReason::TABLE {
            let facts = Facts { conditions: vec![reason], ..clean() };
            let harmless = matches!(
                reason,
                ConditionReason::WatchDegraded
                    | ConditionReason::SinkFailed
                    | ConditionReason::BinaryReplaced
                    | ConditionReason::ConfigReplaced
                    | ConditionReason::ConfigRefused
                    | ConditionReason::CollectorRefused
                    | ConditionReason::IdentityExpiring
            );
            assert_eq!(at(&facts, 0), if harmless { HostState::Clean } else { HostState::Blind }, "{reason:?}");
        }
    }

    #[test]
    fn a_claimed_interval_buys_no_silence() {
        let facts = Facts { interval_s: u64::MAX, ..clean() };
        assert_eq!(at(&facts, 3 * 3600 + 1), HostState::Silent);
        let facts = Facts { interval_s: 0, ..clean() };
        assert_eq!(at(&facts, 91), HostState::Silent);
    }

    #[test]
    fn a_clock_that_went_back_is_no_silence() {
        let facts = clean();
        assert_eq!(judge(&facts, Timestamp::from_millis(0)).state, HostState::Clean);
    }
}
