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

/// Whether the detail says what somebody has to mend, and not how often or since when: another one is news.
const fn is_mended_by_its_detail(reason: ConditionReason) -> bool {
    use ConditionReason::{ConfigRefused, ManifestRefused, PolicyRefused};
    matches!(reason, ManifestRefused | PolicyRefused | ConfigRefused)
}

impl Conditions {
    /// Those that were open when the agent stopped.
    pub(super) fn recovered(bodies: Vec<ConditionBody>) -> Self {
        Self(bodies.into_iter().map(|body| (key(&body), body)).collect())
    }

    /// Opens one; nothing if it is open already. One whose detail is what has to be mended is said again with another.
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
        let open = self.0.get(&key);
        if open.is_some_and(|open| open.detail == body.detail || !is_mended_by_its_detail(body.reason)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reason_to_refuse_is_told_another_number_is_not() {
        for (reason, again) in [
            (ConditionReason::ManifestRefused, true),
            (ConditionReason::PolicyRefused, true),
            (ConditionReason::ConfigRefused, true),
            (ConditionReason::SpoolOverflow, false),
            (ConditionReason::CollectorRefused, false),
        ] {
            let mut conditions = Conditions::default();
            assert!(conditions.open(Some("app"), reason, "first").is_some());
            assert!(conditions.open(Some("app"), reason, "first").is_none(), "{reason:?}");
            let told = conditions.open(Some("app"), reason, "second");
            let detail = if again { "second" } else { "first" };
            assert_eq!(told.is_some(), again, "{reason:?}");
            assert_eq!(conditions.of("app")[0].detail, detail, "{reason:?}");
            assert!(matches!(
                conditions.resolve(Some("app"), reason),
                Some(Body::ConditionResolved(body)) if body.detail == detail
            ));
        }
    }
}
