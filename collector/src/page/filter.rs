//! Owns what the page of findings is narrowed to, as its form and its links say it. Must not own what the words mean,
//! which is the query's.

use driftlock_common::finding::path_fields;
use driftlock_common::path::from_base64;
use driftlock_common::policy::{Ruling, Severity};

use super::link::Link;
use super::shown::Shown;
use crate::query::{FindingParameters, LOUDEST};
use crate::store::{FindingRecord, Lifetime, NO_RULE};

/// The value that narrows nothing where an empty one has a meaning of its own.
const ALL: &str = "all";
const DIRECTORY: &str = "directory";
const BELOW: &str = "below";

/// Words as the form has them; empty narrows nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) state: String,
    pub(super) verdict: String,
    pub(super) severity: String,
    pub(super) change: String,
    pub(super) rule: String,
    pub(super) host: String,
    pub(super) target: String,
    /// The key of a group.
    pub(super) group: String,
    /// Name and value of what says the directory.
    pub(super) place: Option<(&'static str, String)>,
    pub(super) sort: String,
}

impl Filter {
    /// What was asked for; where nothing was, open alerts, the loudest first. `parameters` then say the same in the words
    /// of the query.
    pub(super) fn of(parameters: &mut FindingParameters) -> Self {
        let default = |value: &mut String, default: &str| {
            if value.is_empty() {
                default.clone_into(value);
            }
            let shown = value.clone();
            if value == ALL {
                value.clear();
            }
            shown
        };
        let places = [
            (DIRECTORY, &parameters.directory),
            ("directory_b64", &parameters.directory_b64),
            (BELOW, &parameters.below),
            ("below_b64", &parameters.below_b64),
        ];
        Self {
            place: places.into_iter().find(|(_, value)| !value.is_empty()).map(|(key, value)| (key, value.clone())),
            state: default(&mut parameters.state, Lifetime::Open.name()),
            verdict: default(&mut parameters.verdict, Ruling::Alert.name()),
            sort: default(&mut parameters.sort, LOUDEST),
            severity: parameters.severity.clone(),
            change: parameters.change.clone(),
            rule: parameters.rule.clone(),
            host: parameters.host.clone(),
            target: parameters.target.clone(),
            group: parameters.group.clone(),
        }
    }

    /// Whether it is anything but what is shown to who asked for nothing.
    pub(super) fn narrows(&self) -> bool {
        let defaults = [(&self.state, Lifetime::Open.name()), (&self.verdict, Ruling::Alert.name())];
        let words = [&self.severity, &self.change, &self.rule, &self.host, &self.target, &self.group];
        defaults.iter().any(|(value, default)| value != default)
            || words.iter().any(|value| !value.is_empty())
            || self.place.is_some()
    }

    /// Whether many findings of one kind are one line.
    pub(super) fn folds(&self) -> bool {
        self.state == Lifetime::Open.name() && !self.is_flat() && self.group.is_empty()
    }

    /// Whether it is only what is directly in a directory.
    pub(super) fn is_flat(&self) -> bool {
        self.place.as_ref().is_some_and(|(key, _)| key.starts_with(DIRECTORY))
    }

    /// The directory, for a person.
    pub(super) fn shown_directory(&self) -> Option<Shown> {
        let (key, value) = self.place.as_ref()?;
        if key.ends_with("_b64") {
            from_base64(value).map(|bytes| Shown::bytes(&bytes))
        } else {
            Some(Shown::name(value))
        }
    }

    /// This page.
    pub(super) fn link(&self) -> Link {
        let words = [
            ("state", &self.state),
            ("verdict", &self.verdict),
            ("severity", &self.severity),
            ("change", &self.change),
            ("rule", &self.rule),
            ("host", &self.host),
            ("target", &self.target),
            ("group", &self.group),
            ("sort", &self.sort),
        ];
        let link = words.into_iter().fold(Link::to("/findings"), |link, (key, value)| link.and_given(key, value));
        self.place.iter().fold(link, |link, (key, value)| link.and(key, value))
    }

    /// What is of the kind of this finding below a directory: what was one line there is each for itself, and what was
    /// one further down still is. Of the root, what is directly in it.
    pub(super) fn each_like(&self, record: &FindingRecord, directory: &[u8]) -> Link {
        let finding = &record.finding;
        let severity = finding.severity();
        let place = match path_fields(directory) {
            _ if directory.is_empty() => (DIRECTORY, ".".to_owned()),
            (_, Some(base64)) => ("below_b64", base64),
            (path, None) => (BELOW, path),
        };
        let filter = Self {
            state: record.state.name().to_owned(),
            verdict: severity.map_or(Ruling::Tolerated, |_| Ruling::Alert).name().to_owned(),
            severity: severity.map(Severity::name).unwrap_or_default().to_owned(),
            change: finding.change.name().to_owned(),
            rule: finding.rule.clone().unwrap_or_else(|| NO_RULE.to_owned()),
            host: record.host.clone(),
            target: record.target.clone(),
            group: String::new(),
            place: Some(place),
            sort: self.sort.clone(),
        };
        filter.link()
    }
}
