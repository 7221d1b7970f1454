//! Owns the open findings of one target: opened once, updated when the difference changes, resolved when a finished
//! look no longer finds them. Must not own when to look.

use std::collections::BTreeMap;

use driftlock_common::digest::OciDigest;
use driftlock_common::drift::Change;
use driftlock_common::event::{Body, FindingBody, FindingResolved, nothing_open};
use driftlock_common::finding::{Finding, open_digest};
use driftlock_common::path::TreePath;

use super::ScanId;
use super::dirty::path_of;
use crate::scan::Scope;

/// The open findings of a target.
#[derive(Debug)]
pub(super) struct Findings {
    open: BTreeMap<TreePath, Open>,
    /// Over `open`; `None` after a change.
    digest: Option<OciDigest>,
}

#[derive(Debug)]
struct Open {
    body: FindingBody,
    /// The last scan that found it.
    seen: Option<ScanId>,
}

impl Findings {
    pub(super) const fn none() -> Self {
        Self { open: BTreeMap::new(), digest: None }
    }

    /// Those that were open when the agent stopped.
    pub(super) fn recovered(bodies: Vec<FindingBody>) -> Self {
        let open = bodies
            .into_iter()
            .filter_map(|body| Some((body.finding.tree_path()?, Open { body, seen: None })))
            .collect();
        Self { open, digest: None }
    }

    /// Takes what a scan found; what has to be reported comes back. `counted`: whether this look was at this place, not
    /// one of those at everything.
    pub(super) fn found(
        &mut self,
        target: &str,
        (path, finding): (TreePath, Finding),
        scan: ScanId,
        counted: bool,
        time: &str,
    ) -> Option<Body> {
        if finding.change == Change::Added && self.stands_for(&path) {
            return None;
        }
        let Some(open) = self.open.get_mut(&path) else {
            let body = FindingBody { target: target.to_owned(), finding, opened_at: time.to_owned(), count: 1 };
            self.open.insert(path, Open { body: body.clone(), seen: Some(scan) });
            self.digest = None;
            return Some(Body::FindingOpened(body));
        };
        open.seen = Some(scan);
        let same = open.body.finding == finding;
        open.body.count = open.body.count.saturating_add(u64::from(counted || !same));
        if same {
            return None;
        }
        open.body.finding = finding;
        self.digest = None;
        Some(Body::FindingUpdated(open.body.clone()))
    }

    /// Whether one open finding above `path` stands for all that was added below it.
    fn stands_for(&self, path: &TreePath) -> bool {
        let mut above = path.parent();
        while let Some(ancestor) = above {
            if self.open.get(&ancestor).is_some_and(|open| open.body.finding.collapsed.is_some()) {
                return true;
            }
            above = ancestor.parent();
        }
        false
    }

    /// A scan of `scope` finished: what it did not find again is as sealed, unless it lies below something that the scan
    /// could not establish.
    pub(super) fn finished(&mut self, target: &str, scope: &Scope, scan: ScanId) -> Vec<Body> {
        let top = path_of(scope);
        let mut resolved = Vec::new();
        let mut blind: Option<&TreePath> = self.blind_above(top, scan);
        for (path, open) in self.open.range(top.clone()..) {
            let inside = match scope {
                Scope::All => true,
                Scope::Subtree(top) => path.is_within(top),
                Scope::Entry(entry) => path == entry,
            };
            if !inside {
                break;
            }
            if open.seen == Some(scan) {
                if open.body.finding.change == Change::Unverifiable {
                    blind = Some(path);
                }
            } else if !blind.is_some_and(|blind| path.is_within(blind)) {
                resolved.push(path.clone());
            }
        }
        resolved.into_iter().filter_map(|path| self.resolve(target, &path)).collect()
    }

    /// A look below a place that it could not enter is found at the place itself.
    fn blind_above(&self, top: &TreePath, scan: ScanId) -> Option<&TreePath> {
        let mut above = top.parent();
        while let Some(ancestor) = above {
            if let Some((path, open)) = self.open.get_key_value(&ancestor)
                && open.seen == Some(scan)
                && open.body.finding.change == Change::Unverifiable
            {
                return Some(path);
            }
            above = ancestor.parent();
        }
        None
    }

    /// Everything is resolved: the target is no longer watched.
    pub(super) fn resolve_all(&mut self, target: &str) -> Vec<Body> {
        let paths: Vec<TreePath> = self.open.keys().cloned().collect();
        paths.into_iter().filter_map(|path| self.resolve(target, &path)).collect()
    }

    fn resolve(&mut self, target: &str, path: &TreePath) -> Option<Body> {
        let Open { body, .. } = self.open.remove(path)?;
        self.digest = None;
        let Finding { path, path_b64, .. } = body.finding;
        Some(Body::FindingResolved(FindingResolved { target: target.to_owned(), path, path_b64 }))
    }

    /// The open ones, in path order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &FindingBody> {
        self.open.values().map(|open| &open.body)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// See [`open_digest`].
    pub(super) fn digest(&mut self) -> OciDigest {
        if self.open.is_empty() {
            return nothing_open();
        }
        let open = &self.open;
        *self.digest.get_or_insert_with(|| OciDigest::blake3(open_digest(open.values().map(|open| &open.body.finding))))
    }
}
