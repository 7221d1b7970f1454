//! Owns which conditions are open. Must not own why one opens.

use std::collections::BTreeMap;

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{Body, ConditionBody};

/// The open conditions, by target (`None`: the whole agent) and reason.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<(Option<String>, ConditionReason), ConditionBody>);

impl Conditions {
    /// Those that were open when the agent stopped.
    pub(super) fn recovered(bodies: Vec<ConditionBody>) -> Self {
        Self(bodies.into_iter().map(|body| ((body.target.clone(), body.reason), body)).collect())
    }

    /// Opens one; nothing if it is open already.
    pub(super) fn open(&mut self, target: Option<&str>, reason: ConditionReason, detail: &str) -> Option<Body> {
        let key = (target.map(str::to_owned), reason);
        if self.0.contains_key(&key) {
            return None;
        }
        let body = ConditionBody { target: key.0.clone(), reason, path: None, detail: detail.to_owned() };
        self.0.insert(key, body.clone());
        Some(Body::ConditionOpened(body))
    }

    /// Resolves one; nothing if it is not open.
    pub(super) fn resolve(&mut self, target: Option<&str>, reason: ConditionReason) -> Option<Body> {
        self.0.remove(&(target.map(str::to_owned), reason)).map(Body::ConditionResolved)
    }

    /// Resolves all of which `over` says so.
    pub(super) fn resolve_if(&mut self, over: impl Fn(&ConditionBody) -> bool) -> Vec<Body> {
        let keys: Vec<_> = self.0.iter().filter(|(_, body)| over(body)).map(|(key, _)| key.clone()).collect();
        keys.into_iter().filter_map(|key| self.0.remove(&key).map(Body::ConditionResolved)).collect()
    }

    /// Those of `target` alone; of the whole agent alone for `None`.
    pub(super) fn only_of(&self, target: Option<&str>) -> Vec<ConditionBody> {
        self.0.values().filter(|body| body.target.as_deref() == target).cloned().collect()
    }

    /// Those of `target` and of the whole agent.
    pub(super) fn of(&self, target: &str) -> Vec<ConditionBody> {
        self.0.values().filter(|body| body.target.as_deref().is_none_or(|name| name == target)).cloned().collect()
    }
}
