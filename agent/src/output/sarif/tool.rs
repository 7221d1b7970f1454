//! Owns what a SARIF log says of the tool: its version, a rule for each change, a notification for each reason why something
//! could not be verified. Must not own any finding. The ids are the words of findings, and as stable.

use driftlock_common::drift::Change;
use driftlock_common::gap::Reason;
use serde::Serialize;

use super::{Level, Text};

#[derive(Serialize)]
pub(super) struct Tool {
    driver: Driver,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Driver {
    name: &'static str,
    version: &'static str,
    semantic_version: &'static str,
    rules: [Rule; 4],
    notifications: [Descriptor; 9],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: &'static str,
    name: &'static str,
    short_description: Text,
    help: Text,
    default_configuration: Configuration,
}

#[derive(Serialize)]
struct Configuration {
    level: Level,
}

#[derive(Serialize)]
pub(super) struct Descriptor {
    pub(super) id: &'static str,
}

impl Tool {
    /// This build of driftlock.
    pub(super) fn this() -> Self {
        Self { driver: Driver::this() }
    }
}

impl Driver {
    fn this() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            name: "driftlock",
            version,
            semantic_version: version,
            rules: Change::ALL.map(Rule::of),
            notifications: Reason::ALL.map(|reason| Descriptor { id: reason.name() }),
        }
    }
}

impl Rule {
    fn of(change: Change) -> Self {
        let (name, what, help) = match change {
            Change::Added => (
                "Added",
                "Something is there that was not sealed.",
                "Find out where it came from. What belongs there has to be part of the image, or to be left out with \
                 an exclude.",
            ),
            Change::Removed => (
                "Removed",
                "Something that was sealed is not there.",
                "Unpack the image again, or seal the image that was meant.",
            ),
            Change::Changed => (
                "Changed",
                "Something differs from what was sealed.",
                "Compare the sealed side with the observed one, in the properties of the result. What is changed on \
                 purpose has to be part of the image.",
            ),
            Change::Unverifiable => (
                "Unverifiable",
                "Something could not be verified.",
                "It is neither clean nor changed as far as is known. Scan with the rights to read it, or while nothing \
                 writes to it.",
            ),
        };
        Self {
            id: change.name(),
            name,
            short_description: Text { text: what.into() },
            help: Text { text: help.into() },
            default_configuration: Configuration { level: Level::Error },
        }
    }
}
