//! Owns one scan of a target on the pool: its places one after another, its findings as messages. Must not own what becomes
//! of them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use driftlock_common::digest::Algorithm;
use driftlock_common::drift::Drift;
use driftlock_common::finding::Finding;
use tokio::sync::mpsc;

use super::{Done, live};
use crate::baseline::Baseline;
use crate::monitor::{Ending, Event, ScanId};
use crate::pool::Pool;
use crate::scan::{Options, Outcome, Root, Scope, compare, report};

/// The root as first seen; empty while there is none.
pub(super) type SharedRoot = Arc<Mutex<Option<Arc<Root>>>>;

/// A scan.
pub(super) struct Look {
    pub(super) scan: ScanId,
    pub(super) scopes: Vec<Scope>,
    pub(super) path: PathBuf,
    pub(super) root: SharedRoot,
    pub(super) baseline: Arc<Baseline>,
    pub(super) options: Options,
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) done: mpsc::Sender<Done>,
}

impl Look {
    /// Runs it. Blocks, also while messages find no room.
    pub(super) fn run(self, pool: &Pool) {
        let ending = match self.known_root() {
            Ok(root) => self.look(&root, pool),
            Err(why) => Ending::RootLost(why),
        };
        if matches!(ending, Ending::RootLost(_)) {
            // What is there next is a new root.
            *self.root.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.send(Event::Scanned { scan: self.scan, ending });
    }

    fn known_root(&self) -> Result<Arc<Root>, String> {
        let mut known = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = &*known {
            return Ok(root.clone());
        }
        let root = Arc::new(live::open(&self.path)?);
        *known = Some(root.clone());
        Ok(root)
    }

    fn look(&self, root: &Root, pool: &Pool) -> Ending {
        let manifest = self.baseline.manifest();
        let content = manifest.header.content;
        for scope in &self.scopes {
            if self.cancel.load(Ordering::Relaxed) {
                return Ending::Interrupted;
            }
            let (outcome, summary) = if *scope == Scope::All {
                let view = self.baseline.view();
                let each = |drift: &Drift| self.found(drift, content);
                let all = report(root, manifest, &view, &self.options, pool, &self.cancel, &each);
                (all.outcome, Some(Box::new(all.summary)))
            } else {
                let found = |drift: Drift| self.found(&drift, content);
                (compare(root, manifest, &self.options, scope, pool, &self.cancel, &found), None)
            };
            match outcome {
                Outcome { root_lost: true, .. } => {
                    return Ending::RootLost("the root is gone or is another directory than before".to_owned());
                }
                Outcome { interrupted: true, .. } => return Ending::Interrupted,
                Outcome { .. } if summary.is_some() => return Ending::Finished(summary),
                Outcome { .. } => {}
            }
        }
        Ending::Finished(None)
    }

    fn found(&self, drift: &Drift, content: Algorithm) {
        let finding = Box::new(Finding::new(drift, content));
        self.send(Event::Found { scan: self.scan, path: drift.path.clone(), finding });
    }

    fn send(&self, event: Event) {
        // If nobody listens any more, the agent is stopping.
        if self.done.blocking_send(Done::Event(event)).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}
