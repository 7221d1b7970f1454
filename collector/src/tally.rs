//! Owns counting open findings by what was said of them. Must not own which findings are counted.

use driftlock_common::policy::Severity;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// How many findings are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that somebody is to know of.
    pub alerts: Alerts,
    /// How many of the alerts are of what could not be established.
    pub unverifiable: u64,
    /// Those that a policy tolerates.
    pub tolerated: u64,
}

/// Alerts by severity; in JSON an object with every severity, the loudest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alerts([u64; Severity::ALL.len()]);

impl Tally {
    /// Counts `number` findings of a severity, which only what is tolerated has not.
    pub fn add(&mut self, severity: Option<Severity>, unverifiable: bool, number: u64) {
        match severity {
            Some(severity) => {
                self.alerts.add(severity, number);
                self.unverifiable += if unverifiable { number } else { 0 };
            }
            None => self.tolerated += number,
        }
    }

    /// The alerts of what is known to differ.
    pub fn drift(&self) -> u64 {
        self.alerts.total().saturating_sub(self.unverifiable)
    }

    /// Everything that is open.
    pub fn total(&self) -> u64 {
        self.alerts.total() + self.tolerated
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            tally.alerts.loudest_first().for_each(|(severity, number)| sum.alerts.add(severity, number));
            sum.unverifiable += tally.unverifiable;
            sum.tolerated += tally.tolerated;
            sum
        })
    }
}

impl Alerts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every severity with its number.
    pub fn loudest_first(&self) -> impl Iterator<Item = (Severity, u64)> {
        Severity::ALL.into_iter().zip(self.0).rev()
    }

    fn add(&mut self, severity: Severity, number: u64) {
        for (known, sum) in Severity::ALL.into_iter().zip(&mut self.0) {
            if known == severity {
                *sum += number;
            }
        }
    }
}

impl Serialize for Alerts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (severity, number) in self.loudest_first() {
            map.serialize_entry(severity.name(), &number)?;
        }
        map.end()
    }
}
