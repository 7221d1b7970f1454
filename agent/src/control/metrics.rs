//! Owns a status in the text format of Prometheus, version 0.0.4. Must not own what is known. Labels hold names of the
//! configuration and words of tables, never a path of a tree.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

use driftlock_common::condition::ConditionReason;
use driftlock_common::coverage::WatchMode;
use driftlock_common::policy::Severity;
use driftlock_common::status::{Status, TargetStatus};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The word for findings that a policy tolerates, beside the severities.
const TOLERATED: &str = "tolerated";

/// A value of a sample, as it is written.
type Value = Option<String>;

/// One family with a sample for each target.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&TargetStatus) -> Value,
}

const FAMILIES: [Family; 15] = [
    Family {
        name: "last_sweep_timestamp_seconds",
        kind: "gauge",
        help: "End of the last complete look.",
        value: |target| seconds(target.coverage.last_sweep.as_deref()),
    },
    Family {
        name: "last_full_timestamp_seconds",
        kind: "gauge",
        help: "Since then every sealed file was read.",
        value: |target| seconds(target.coverage.last_full.as_deref()),
    },
    Family {
        name: "last_look_duration_seconds",
        kind: "gauge",
        help: "Time that the last complete look took.",
        value: |target| target.last_look.as_ref().map(|look| milliseconds(look.duration_ms)),
    },
    Family {
        name: "looks_total",
        kind: "counter",
        help: "Complete looks that began.",
        value: |target| whole(target.looks),
    },
    Family {
        name: "verified",
        kind: "gauge",
        help: "1 if the last complete look established everything and no alert is open.",
        value: |target| {
            let clean = target.open.exit == 0 && target.last_look.as_ref()?.complete;
            whole(clean.into())
        },
    },
    Family {
        name: "unverifiable_entries",
        kind: "gauge",
        help: "Sealed entries that the last complete look could not establish.",
        value: |target| whole(target.coverage.unverifiable),
    },
    Family {
        name: "unjudged_entries",
        kind: "gauge",
        help: "Entries that the last complete look did not read, because the policy allows anything there.",
        value: |target| whole(target.coverage.unjudged.entries),
    },
    Family {
        name: "unwatched_directories",
        kind: "gauge",
        help: "Directories that only complete looks see.",
        value: |target| whole(target.coverage.unwatched),
    },
    Family {
        name: "overflows_total",
        kind: "counter",
        help: "How often kernel events were lost.",
        value: |target| whole(target.coverage.overflows),
    },
    Family {
        name: "clock_steps_total",
        kind: "counter",
        help: "How often the clock was set.",
        value: |target| whole(target.coverage.clock_steps),
    },
    Family {
        name: "transient_total",
        kind: "counter",
        help: "How often something came and was gone again when it was looked at.",
        value: |target| whole(target.coverage.transient),
    },
    Family {
        name: "put_back_total",
        kind: "counter",
        help: "How often something was changed and as sealed again when it was looked at.",
        value: |target| whole(target.coverage.put_back),
    },
    Family {
        name: "folded_total",
        kind: "counter",
        help: "How often findings opened or resolved without being said, because they flapped.",
        value: |target| whole(target.coverage.folded),
    },
    Family {
        name: "sweep_bound_seconds",
        kind: "gauge",
        help: "By then a change is found that only a complete look sees.",
        value: |target| whole(target.bounds.sweep_s),
    },
    Family {
        name: "full_bound_seconds",
        kind: "gauge",
        help: "By then a change is found that only reading everything sees.",
        value: |target| whole(target.bounds.full_s),
    },
];

/// Everything that is known.
pub(super) fn text(status: &Status) -> String {
    let mut text = String::new();
    agent(&mut text, status);
    for Family { name, kind, help, value } in FAMILIES {
        let name = format!("target_{name}");
        family(&mut text, &name, kind, help);
        for target in &status.targets {
            sample(&mut text, &name, &[("target", &target.target)], value(target));
        }
    }
    family(&mut text, "target_info", "gauge", "What a target is compared with.");
    for target in &status.targets {
        let manifest = target.manifest.as_ref().map(|manifest| manifest.sha256.to_string()).unwrap_or_default();
        let policy = target.policy.as_ref().map(|policy| policy.name.as_str()).unwrap_or_default();
        let labels = [("target", target.target.as_str()), ("manifest", &manifest), ("policy", policy)];
        sample(&mut text, "target_info", &labels, whole(1));
    }
    family(&mut text, "target_watch_mode", "gauge", "1 for the way in which a target is watched.");
    for target in &status.targets {
        for mode in [WatchMode::Fanotify, WatchMode::Inotify, WatchMode::Sweep, WatchMode::Away] {
            let is = u64::from(target.coverage.watch_mode == mode.name());
            sample(&mut text, "target_watch_mode", &[("target", &target.target), ("mode", mode.name())], whole(is));
        }
    }
    family(&mut text, "target_open_findings", "gauge", "Open findings by severity, or tolerated by the policy.");
    for target in &status.targets {
        let of = |severity: Severity| (severity.name(), target.open.alerts.get(severity.name()).copied().unwrap_or(0));
        for (word, number) in Severity::ALL.map(of).into_iter().chain([(TOLERATED, target.open.tolerated)]) {
            let labels = [("target", target.target.as_str()), ("severity", word)];
            sample(&mut text, "target_open_findings", &labels, whole(number));
        }
    }
    family(&mut text, "target_gaps", "gauge", "Sealed entries that could not be established, by reason.");
    for target in &status.targets {
        for (reason, number) in &target.coverage.gaps {
            sample(&mut text, "target_gaps", &[("target", &target.target), ("reason", reason)], whole(*number));
        }
    }
    family(&mut text, "open_conditions", "gauge", "Open conditions by reason; without a target those of the agent.");
    let conditions = |target: &TargetStatus| target.conditions.clone();
    for (reason, word, _) in ConditionReason::TABLE {
        let all = status.conditions.iter().cloned().chain(status.targets.iter().flat_map(conditions));
        for condition in all.filter(|condition| condition.reason == reason) {
            let target = condition.target.as_deref().unwrap_or("");
            sample(&mut text, "open_conditions", &[("reason", word), ("target", target)], whole(1));
        }
    }
    text
}

fn agent(text: &mut String, status: &Status) {
    let agent = &status.agent;
    family(text, "info", "gauge", "The agent.");
    let labels = [("version", agent.version.as_str()), ("host", &agent.host), ("name", &agent.name)];
    sample(text, "info", &labels, whole(1));
    family(text, "start_time_seconds", "gauge", "When the agent started.");
    sample(text, "start_time_seconds", &[], seconds(agent.running.as_ref().map(|running| running.started_at.as_str())));
    if let Some(collector) = &agent.collector {
        family(text, "undelivered_events", "gauge", "Events that the collector has not acknowledged.");
        sample(text, "undelivered_events", &[], whole(collector.undelivered));
        family(text, "last_answer_timestamp_seconds", "gauge", "When the collector last answered as it should.");
        sample(text, "last_answer_timestamp_seconds", &[], seconds(collector.last_answer.as_deref()));
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _infallible = write!(text, "# HELP driftlock_agent_{name} {help}\n# TYPE driftlock_agent_{name} {kind}\n");
}

/// Nothing is written of what is not known.
fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: Value) {
    let Some(value) = value else { return };
    let _infallible = write!(text, "driftlock_agent_{name}");
    for (index, (label, content)) in labels.iter().enumerate() {
        let _infallible = write!(text, "{}{label}=\"", if index == 0 { '{' } else { ',' });
        for ch in content.chars() {
            match ch {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                ch => text.push(ch),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
    let _infallible = writeln!(text, " {value}");
}

#[expect(clippy::unnecessary_wraps, reason = "the form of every value")]
fn whole(number: u64) -> Value {
    Some(number.to_string())
}

fn milliseconds(number: u64) -> String {
    format!("{}.{:03}", number / 1000, number % 1000)
}

fn seconds(time: Option<&str>) -> Value {
    let time = OffsetDateTime::parse(time?, &Rfc3339).ok()?;
    Some(format!("{}.{:03}", time.unix_timestamp(), time.millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_before_its_end() {
        let mut text = String::new();
        sample(&mut text, "x", &[("a", "1\"} 7\nnext{b=\""), ("c", "\\")], whole(1));
        assert_eq!(text, "driftlock_agent_x{a=\"1\\\"} 7\\nnext{b=\\\"\",c=\"\\\\\"} 1\n");
    }

    #[test]
    fn times_are_seconds_and_what_is_not_known_is_not_there() {
        assert_eq!(seconds(Some("2023-11-14T22:13:20.123Z")).unwrap(), "1700000000.123");
        let mut text = String::new();
        sample(&mut text, "x", &[], seconds(None));
        sample(&mut text, "x", &[], seconds(Some("yesterday")));
        assert_eq!(text, "");
    }
}
