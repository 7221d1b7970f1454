//! Owns what is said of a difference: the policy's verdict, with what else is known of it. Must not own the rules, or what
//! becomes of the difference.

use std::time::{SystemTime, UNIX_EPOCH};

use driftlock_common::drift::Drift;
use driftlock_common::policy::{Context, Judged, Moment, Policy, Verdict};

use crate::scan::Growing;

/// Judges the differences of one scan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judge<'p> {
    policy: Option<&'p Policy>,
    growing: Option<&'p Growing>,
}

impl<'p> Judge<'p> {
    /// By a policy; by none, everything is an alert. Of a growing file nothing is known but what was sealed and what is
    /// there, which tolerates least.
    pub const fn new(policy: Option<&'p Policy>) -> Self {
        Self { policy, growing: None }
    }

    /// With what the scan remembers of growing files, if it does.
    pub const fn remembering(self, growing: Option<&'p Growing>) -> Self {
        Self { growing, ..self }
    }

    /// A difference with what is said of it.
    pub fn judged(&self, drift: Drift) -> Judged<'p> {
        let verdict = self.verdict(&drift);
        Judged { drift, verdict }
    }

    /// What is said of a difference; `None` without a policy.
    pub fn verdict(&self, drift: &Drift) -> Option<Verdict<'p>> {
        let policy = self.policy?;
        let context = Context { fate: self.growing.and_then(|growing| growing.fate(drift)) };
        Some(policy.judge(drift, &context, now()))
    }
}

/// A clock before 1970 or beyond all numbers is taken for the nearest time there is.
fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
