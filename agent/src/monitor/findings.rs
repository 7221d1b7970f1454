//! Owns the open findings of one target: opened once, updated when the difference changes, resolved when a finished
//! look no longer finds them, unless they flap. Must not own when to look.

use std::collections::BTreeMap;
use std::time::Duration;

use driftlock_common::digest::OciDigest;
use driftlock_common::drift::Change;
use driftlock_common::event::{Body, FindingBody, FindingResolved, nothing_open};
use driftlock_common::finding::{Finding, open_digest};
use driftlock_common::path::TreePath;
use driftlock_common::status::Open;

use super::dirty::path_of;
use super::flapping::{Flapping, Say};
use super::{Now, ScanId};
use crate::scan::Scope;

/// The open findings of a target.
#[derive(Debug)]
pub(super) struct Findings {
    open: BTreeMap<TreePath, Kept>,
    /// Over `open`; `None` after a change.
    digest: Option<OciDigest>,
    /// Of `open`; `None` after a change.
    numbers: Option<Open>,
    flapping: Flapping,
    /// What goes on and was not said, and when it will be.
    unsaid: BTreeMap<TreePath, Duration>,
}

#[derive(Debug)]
struct Kept {
    /// As it was last said.
    body: FindingBody,
    /// The last scan that found it.
    seen: Option<ScanId>,
    /// When it was said.
    said: Duration,
    /// What it is by now; `None` if that was said.
    unsaid: Option<Box<Finding>>,
}

/// What is tolerated and goes on is not said more often than this by looks that its changes cause.
const HOLD: Duration = Duration::from_secs(30);

/// Whether a rule tolerates what it tolerated before, of which there is more now, as of a log that grows.
fn goes_on(said: &Finding, now: &Finding) -> bool {
    !said.is_alert() && !now.is_alert() && said.rule == now.rule
}

/// A look at one place, while it hands over what it finds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finder<'a> {
    pub(super) target: &'a str,
    pub(super) scan: ScanId,
    /// Whether this look was at this place, not one of those at everything.
    pub(super) counted: bool,
    pub(super) now: Now,
}

impl Kept {
    const fn new(body: FindingBody, seen: Option<ScanId>, said: Duration) -> Self {
        Self { body, seen, said, unsaid: None }
    }
}

impl Findings {
    pub(super) fn none() -> Self {
        Self {
            open: BTreeMap::new(),
            digest: None,
            numbers: None,
            flapping: Flapping::default(),
            unsaid: BTreeMap::new(),
        }
    }

    /// Those that were open when the agent stopped.
    pub(super) fn recovered(bodies: Vec<FindingBody>) -> Self {
        let mut findings = Self::none();
        for body in bodies {
            let Some(path) = body.finding.tree_path() else { continue };
            if body.flapping.is_some() {
                findings.flapping.recover(path.clone(), body.finding.clone());
            }
            findings.open.insert(path, Kept::new(body, None, Duration::ZERO));
        }
        findings
    }

    /// Takes what a scan found; what has to be reported comes back.
    pub(super) fn found(&mut self, by: Finder<'_>, path: TreePath, finding: Finding) -> Option<Body> {
        if finding.change == Change::Added && self.stands_for(&path) {
            return None;
        }
        let Some(open) = self.open.get_mut(&path) else {
            let (target, opened_at) = (by.target.to_owned(), by.now.rfc3339());
            let body = FindingBody { target, finding, opened_at, count: 1, flapping: None };
            self.open.insert(path, Kept::new(body.clone(), Some(by.scan), by.now.elapsed));
            (self.digest, self.numbers) = (None, None);
            return Some(Body::FindingOpened(body));
        };
        open.seen = Some(by.scan);
        let body = &mut open.body;
        let (other, said) = match &mut body.flapping {
            Some(folded) => {
                let (other, opened, say) = self.flapping.found(&path, &finding, &body.finding, by.now.elapsed);
                *folded += u64::from(opened);
                if say == Say::Critical {
                    body.flapping = None;
                }
                (other, say != Say::Nothing)
            }
            None => {
                let other = *open.unsaid.as_deref().unwrap_or(&body.finding) != finding;
                let due = open.said + HOLD;
                if other && by.counted && by.now.elapsed < due && goes_on(&body.finding, &finding) {
                    self.unsaid.insert(path, due);
                    open.unsaid = Some(Box::new(finding));
                    body.count = body.count.saturating_add(1);
                    return None;
                }
                (other, body.finding != finding)
            }
        };
        body.count = body.count.saturating_add(u64::from(by.counted || other));
        if open.unsaid.take().is_some() {
            self.unsaid.remove(&path);
        }
        if !said {
            return None;
        }
        open.said = by.now.elapsed;
        body.finding = finding;
        (self.digest, self.numbers) = (None, None);
        Some(Body::FindingUpdated(body.clone()))
    }

    /// A scan found something at `path` that may be over in a moment: what was said of it stays.
    pub(super) fn found_unsettled(&mut self, path: &TreePath, scan: ScanId) {
        if let Some(open) = self.open.get_mut(path) {
            open.seen = Some(scan);
        }
    }

    /// Whether one open finding above `path` stands for all that was added below it.
    fn stands_for(&self, path: &TreePath) -> bool {
        let mut above = path.parent();
        while let Some(ancestor) = above {
            if self.there(&ancestor).is_some_and(|finding| finding.collapsed.is_some()) {
                return true;
            }
            above = ancestor.parent();
        }
        false
    }

    /// What differs at `path`, as far as is known.
    fn there(&self, path: &TreePath) -> Option<&Finding> {
        match self.flapping.get(path) {
            Some(flap) => flap.now.as_ref(),
            None => self.open.get(path).map(|open| &open.body.finding),
        }
    }

    fn is_unverifiable(&self, path: &TreePath) -> bool {
        self.there(path).is_some_and(|finding| finding.change == Change::Unverifiable)
    }

    /// A scan of `scope` finished: what it did not find again is as sealed, unless it lies below something that the scan
    /// could not establish.
    pub(super) fn finished(&mut self, target: &str, scope: &Scope, scan: ScanId, now: Duration) -> Vec<Body> {
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
                if self.is_unverifiable(path) {
                    blind = Some(path);
                }
            } else if !blind.is_some_and(|blind| path.is_within(blind)) {
                resolved.push(path.clone());
            }
        }
        resolved.into_iter().filter_map(|path| self.resolve_or_fold(target, &path, now)).collect()
    }

    /// A path is as sealed: said, unless it flaps.
    fn resolve_or_fold(&mut self, target: &str, path: &TreePath, now: Duration) -> Option<Body> {
        let open = self.open.get_mut(path)?;
        if open.unsaid.take().is_some() {
            self.unsaid.remove(path);
        }
        let body = &mut open.body;
        if let Some(folded) = &mut body.flapping {
            *folded += u64::from(self.flapping.is_gone(path, now));
            return None;
        }
        if self.flapping.resolved(path, &body.finding, now) {
            body.flapping = Some(1);
            return Some(Body::FindingUpdated(body.clone()));
        }
        self.resolve(target, path)
    }

    /// Says what was held back for long enough: what goes on, and what is at the paths that flapped and are quiet.
    pub(super) fn held_back(&mut self, target: &str, now: Duration) -> Vec<Body> {
        let mut quiet = self.flapping.take_quiet(now);
        for (path, _) in self.unsaid.extract_if(.., |_, due| *due <= now) {
            let unsaid = self.open.get_mut(&path).and_then(|open| {
                open.said = now;
                open.unsaid.take()
            });
            quiet.extend(unsaid.map(|finding| (path, Some(*finding))));
        }
        let say = |(path, there): (TreePath, Option<Finding>)| {
            let Some(finding) = there else { return self.resolve(target, &path) };
            let body = &mut self.open.get_mut(&path)?.body;
            body.finding = finding;
            body.flapping = None;
            (self.digest, self.numbers) = (None, None);
            Some(Body::FindingUpdated(body.clone()))
        };
        quiet.into_iter().filter_map(say).collect()
    }

    /// When [`Findings::held_back`] may have something to say.
    pub(super) fn next_held_back(&self) -> Option<Duration> {
        self.unsaid.values().copied().chain(self.flapping.next_quiet()).min()
    }

    /// How often something was not said, because it flaps.
    pub(super) const fn folded(&self) -> u64 {
        self.flapping.folded()
    }

    /// A look below a place that it could not enter is found at the place itself.
    fn blind_above(&self, top: &TreePath, scan: ScanId) -> Option<&TreePath> {
        let mut above = top.parent();
        while let Some(ancestor) = above {
            if let Some((path, open)) = self.open.get_key_value(&ancestor)
                && open.seen == Some(scan)
                && self.is_unverifiable(path)
            {
                return Some(path);
            }
            above = ancestor.parent();
        }
        None
    }

    /// Everything is resolved: the target is no longer watched.
    pub(super) fn resolve_all(&mut self, target: &str) -> Vec<Body> {
        self.flapping = Flapping::default();
        let paths: Vec<TreePath> = self.open.keys().cloned().collect();
        paths.into_iter().filter_map(|path| self.resolve(target, &path)).collect()
    }

    fn resolve(&mut self, target: &str, path: &TreePath) -> Option<Body> {
        let Kept { body, .. } = self.open.remove(path)?;
        self.unsaid.remove(path);
        (self.digest, self.numbers) = (None, None);
        let Finding { path, path_b64, .. } = body.finding;
        Some(Body::FindingResolved(FindingResolved { target: target.to_owned(), path, path_b64 }))
    }

    /// The open ones, in path order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &FindingBody> {
        self.open.values().map(|open| &open.body)
    }

    /// Whether something is said of this path.
    pub(super) fn is_open(&self, path: &TreePath) -> bool {
        self.open.contains_key(path)
    }

    /// What could not be established for the longest time: since when, RFC 3339.
    pub(super) fn oldest_unverifiable(&self) -> Option<(&TreePath, &str)> {
        let blind = self.open.iter().filter(|(_, open)| open.body.finding.change == Change::Unverifiable);
        blind.map(|(path, open)| (path, open.body.opened_at.as_str())).min_by_key(|(_, since)| *since)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The open ones in numbers.
    pub(super) fn numbers(&mut self) -> Open {
        let open = &self.open;
        self.numbers.get_or_insert_with(|| Open::count(open.values().map(|open| &open.body.finding))).clone()
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
