//! Owns the reasons for conditions: what can be wrong with the watching itself. Must not own when they arise.

use serde::{Deserialize, Serialize};

/// Why a condition is open. A closed table: the words are part of the report format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionReason {
    /// A target's root is gone or is another directory than before.
    RootLost,
    /// Something is mounted over a part of a target.
    MountOver,
    /// A target's manifest could not be accepted.
    ManifestRefused,
    /// Who signed a target's manifest or assignment no longer counts, because its time is over.
    ManifestExpired,
    /// A target's policy could not be accepted.
    PolicyRefused,
    /// No complete look at a target for too long.
    CoverageStale,
    /// A target is watched by less than its mode promises.
    WatchDegraded,
    /// Kernel events were lost; everything is looked at again.
    Overflow,
    /// The clock was set back or forth.
    ClockStep,
    /// Reports were dropped because the spool was full.
    SpoolOverflow,
    /// The spool cannot be written.
    SpoolFailed,
    /// A sink besides the collector does not take what is written to it.
    SinkFailed,
    /// A new configuration was not accepted; the old one stays.
    ConfigRefused,
    /// A file that the agent is told by became another, and not all that it is told by is in force.
    ConfigReplaced,
    /// The agent's binary is another than the one that runs.
    BinaryReplaced,
    /// The collector refuses this agent's credential, or answers in a way that cannot be understood.
    CollectorRefused,
    /// The collector refused events for good.
    EventsRejected,
    /// Two agents report with one identity.
    IdentityConflict,
    /// The certificate of the host is not renewed, or another one cannot be used.
    IdentityExpiring,
}

impl ConditionReason {
    /// Every reason, its word, and what it means for an operator.
    pub const TABLE: [(Self, &'static str, &'static str); 19] = [
        (Self::RootLost, "root_lost", "the root is gone or is another directory than before"),
        (
            Self::MountOver,
            "mount_over",
            "something is mounted over a part of the target, and hides what was sealed there",
        ),
        (Self::ManifestRefused, "manifest_refused", "the manifest was not accepted; the last accepted one stays"),
        (
            Self::ManifestExpired,
            "manifest_expired",
            "the time of who signed the manifest or its assignment is over; the last accepted one stays",
        ),
        (
            Self::PolicyRefused,
            "policy_refused",
            "the policy was not accepted; the last accepted one stays, if there was one",
        ),
        (Self::CoverageStale, "coverage_stale", "no complete look at the target for too long"),
        (Self::WatchDegraded, "watch_degraded", "part of the target is found by sweeps only"),
        (Self::Overflow, "overflow", "kernel events were lost; everything is looked at again"),
        (Self::ClockStep, "clock_step", "the clock was set"),
        (Self::SpoolOverflow, "spool_overflow", "reports were dropped because the spool was full"),
        (Self::SpoolFailed, "spool_failed", "the spool cannot be written"),
        (Self::SinkFailed, "sink_failed", "a sink besides the collector does not take what is written to it"),
        (Self::ConfigRefused, "config_refused", "the new configuration was not accepted; the old one stays"),
        (
            Self::ConfigReplaced,
            "config_replaced",
            "a file that the agent is told by was replaced and is not in force yet",
        ),
        (Self::BinaryReplaced, "binary_replaced", "the agent's binary is another than the one that runs"),
        (Self::CollectorRefused, "collector_refused", "the collector refuses this agent"),
        (Self::EventsRejected, "events_rejected", "the collector refused events for good"),
        (Self::IdentityConflict, "identity_conflict", "two agents report with one identity"),
        (
            Self::IdentityExpiring,
            "identity_expiring",
            "the certificate with which the host reports is not renewed, or what was put in its place cannot be used",
        ),
    ];

    /// The word of the report format.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(reason, ..)| *reason == self).map_or("", |(_, name, _)| name)
    }

    /// What it means for an operator.
    pub fn meaning(self) -> &'static str {
        Self::TABLE.iter().find(|(reason, ..)| *reason == self).map_or("", |(.., meaning)| meaning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_in_the_table_under_its_word() {
        for (reason, name, _) in ConditionReason::TABLE {
            assert_eq!(serde_json::to_value(reason).unwrap(), name);
            assert_eq!(reason.name(), name);
        }
    }
}
