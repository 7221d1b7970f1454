//! Owns which conditions are open. Must not own why one opens.

use std::collections::BTreeMap;

use driftlock_common::condition::ConditionReason;
use driftlock_common::event::{Body, ConditionBody};

/// The open conditions, by target (`None`: the whole agent), reason, and path if it concerns one.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<Key, ConditionBody>);

type Key = (Option<String>, ConditionReason, Option<String>);

fn key(body: &ConditionBody) -> Key {
    (body.target.clone(), body.reason, body.path.clone())
}

impl Conditions {
    /// Those that were open when the agent stopped.
    pub(super) fn recovered(bodies: Vec<ConditionBody>) -> Self {
        Self(bodies.into_iter().map(|body| (key(&body), body)).collect())
    }

    /// Opens one; nothing if it is open already.
    pub(super) fn open(&mut self, target: Option<&str>, reason: ConditionReason, detail: &str) -> Option<Body> {
        let target = target.map(str::to_owned);
        self.open_body(ConditionBody { target, reason, path: None, detail: detail.to_owned() })
    }

    /// Opens one that concerns a path, escaped; nothing if it is open already.
    pub(super) fn open_at(
        &mut self,
        target: &str,
        reason: ConditionReason,
        path: String,
        detail: &str,
    ) -> Option<Body> {
        let target = Some(target.to_owned());
        self.open_body(ConditionBody { target, reason, path: Some(path), detail: detail.to_owned() })
    }

    fn open_body(&mut self, body: ConditionBody) -> Option<Body> {
        let key = key(&body);
        if self.0.contains_key(&key) {
            return None;
        }
        self.0.insert(key, body.clone());
        Some(Body::ConditionOpened(body))
    }

    /// Resolves one; nothing if it is not open.
    pub(super) fn resolve(&mut self, target: Option<&str>, reason: ConditionReason) -> Option<Body> {
        self.0.remove(&(target.map(str::to_owned), reason, None)).map(Body::ConditionResolved)
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
