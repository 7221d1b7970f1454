//! Owns one scan of a target on the pool: its places one after another, its findings as messages. Must not own what becomes
//! of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driftlock_common::drift::{Delta, Drift};
use driftlock_common::finding::Finding;
use driftlock_common::gap::Reason;
use driftlock_common::manifest::SealedIn;
use driftlock_common::policy::{Judged, Severity};
use tokio::sync::mpsc;

use super::Done;
use super::hold::Hold;
use super::remembered::Remembered;
use crate::baseline::Baseline;
use crate::config::Location;
use crate::monitor::{Ending, Event, ScanId, Whole};
use crate::pool::Pool;
use crate::scan::{Growing, Options, Outcome, Rely, Root, ScanReport, Scope, Stats, compare, report};

/// A scan.
pub(super) struct Look {
    pub(super) scan: ScanId,
    pub(super) scopes: Vec<Scope>,
    pub(super) location: Location,
    pub(super) hold: Hold,
    pub(super) baseline: Arc<Baseline>,
    pub(super) remembered: Remembered,
    /// In this time everything is read once.
    pub(super) full: Duration,
    pub(super) options: Options,
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) done: mpsc::Sender<Done>,
}

impl Look {
    /// Runs it. Blocks, also while messages find no room.
    pub(super) fn run(mut self, pool: &Pool) {
        let ending = match self.hold.root(&self.location) {
            Ok(root) => {
                if let Some(process) = root.process() {
                    // What the runtime of a container mounted is no part of the image.
                    self.options.mounts_allowed.extend(process.mounts().iter().cloned());
                }
                self.look(&root, pool)
            }
            Err(why) => Ending::RootLost(why),
        };
        if matches!(ending, Ending::RootLost(_)) {
            self.hold.let_go();
        }
        self.send(Event::Scanned { scan: self.scan, ending });
    }

    fn look(&mut self, root: &Root, pool: &Pool) -> Ending {
        let baseline = Arc::clone(&self.baseline);
        let baseline = &*baseline;
        let state = self.remembered.state(root, baseline, &self.options);
        self.options.growing =
            self.options.policy.is_some().then(|| self.remembered.growing(root, baseline, &self.options, self.full));
        let sealed_in = baseline.sealed_in();
        for scope in std::mem::take(&mut self.scopes) {
            if self.cancel.load(Ordering::Relaxed) {
                return Ending::Interrupted;
            }
            // A hint is about something that stat may not show.
            let rely = if scope == Scope::All { Rely::OnState(self.full) } else { Rely::OnNothing };
            self.options.state = Some((Arc::clone(&state), rely));
            let differs = AtomicBool::new(false);
            let (outcome, whole) = if scope == Scope::All {
                let view = self.baseline.view();
                let each = |judged: &Judged<'_>| self.found(judged, sealed_in);
                let ScanReport { outcome, summary, gaps, .. } =
                    report(root, baseline, &view, &self.options, pool, &self.cancel, &each);
                (outcome, Some(Box::new(Whole { summary, gaps, read_since: state.read_since() })))
            } else {
                let judge = self.options.judge();
                let found = |drift: Drift| {
                    differs.store(true, Ordering::Relaxed);
                    self.found(&judge.judged(drift), sealed_in);
                };
                (compare(root, baseline, &self.options, &scope, pool, &self.cancel, &found), None)
            };
            let Stats { entries, duration, waited, .. } = outcome.stats;
            tracing::debug!(scan = self.scan.0, entries, ?duration, ?waited, "looked");
            match outcome {
                Outcome { root_lost: true, .. } => {
                    return Ending::RootLost("the root is gone or is another directory than before".to_owned());
                }
                Outcome { interrupted: true, .. } => return Ending::Interrupted,
                Outcome { .. } if whole.is_some() => {
                    self.remembered.looked_at_everything();
                    return Ending::Finished(whole);
                }
                Outcome { unjudged, .. } if unjudged.is_nothing() && !differs.into_inner() => self.found_nothing(scope),
                Outcome { .. } => {}
            }
        }
        Ending::Finished(None)
    }

    fn found(&self, judged: &Judged<'_>, sealed_in: SealedIn<'_>) {
        // Of a process that ended the ending says it: it is no news, and no difference in what it ran with.
        let of_process = matches!(self.location, Location::Process(_));
        if of_process && matches!(judged.drift.delta, Delta::Unverifiable { reason: Reason::RootLost, .. }) {
            return;
        }
        let finding = Box::new(Finding::of(judged, sealed_in));
        let path = judged.drift.path.clone();
        // What is critical waits for nothing.
        let alert = judged.severity().is_some_and(|severity| severity != Severity::Critical);
        let passes = |growing: &Arc<Growing>| growing.may_pass(&path, alert) || !growing.is_settled(&path);
        let settled = !self.options.growing.as_ref().is_some_and(passes);
        self.send(Event::Found { scan: self.scan, path, finding, settled });
    }

    /// Of a directory that is sealed nobody can tell what happened below it, so nothing is said of those.
    fn found_nothing(&self, scope: Scope) {
        let (path, directory) = match scope {
            Scope::Entry(path) => (path, false),
            Scope::Subtree(path) => (path, true),
            Scope::All => return,
        };
        let sealed = self.baseline.manifest().tree.find(&path).is_some();
        if !(directory && sealed) {
            self.send(Event::FoundNothing { scan: self.scan, path, sealed });
        }
    }

    fn send(&self, event: Event) {
        // If nobody listens any more, the agent is stopping.
        if self.done.blocking_send(Done::Event(event)).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::process::{Command, Stdio};

    use driftlock_common::digest::Algorithm;
    use driftlock_common::manifest::{Header, Manifest};
    use driftlock_common::path::TreePath;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;

    use super::*;
    use crate::baseline::Accept;
    use crate::process::Selector;
    use crate::scan::{ObserveTerms, observe};

    /// What a look at `scope` says of a root that is lost by then: of a process that ended, or of a directory.
    fn said_of_a_lost_root(scope: Scope, of_process: bool) -> Vec<Event> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a"), "a").unwrap();
        let pool = Pool::new(NonZeroUsize::new(1)).unwrap();
        let (profile, content, excludes) = (Profile::Portable, Algorithm::Blake3, Excludes::none());
        let terms = ObserveTerms { profile, content, excludes: excludes.clone(), sha256: false };
        let tree = observe(&Root::open(&path).unwrap(), &terms, &pool).tree;
        let manifest = dir.path().join("manifest");
        std::fs::write(&manifest, Manifest { header: Header::new(profile, content, excludes), tree }.encode()).unwrap();
        let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let location =
            if of_process { Location::Process(Selector::Pid(process.id())) } else { Location::Directory(path.clone()) };
        let hold = Hold::default();
        hold.root(&location).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        let (done, mut said) = mpsc::channel(16);
        let look = Look {
            scan: ScanId(1),
            scopes: vec![scope],
            location,
            hold,
            baseline: Arc::new(Baseline::load(&manifest, &Accept::Unsigned).unwrap()),
            remembered: Remembered::of("app", dir.path()),
            full: Duration::from_secs(3600),
            options: Options::default(),
            cancel: Arc::default(),
            done,
        };
        look.run(&pool);
        let mut events = Vec::new();
        while let Some(Done::Event(event)) = said.blocking_recv() {
            events.push(event);
        }
        events
    }

    #[test]
    fn the_end_of_a_process_is_an_ending_and_nothing_that_was_found() {
        let place = TreePath::new(b"a").unwrap();
        for scope in [Scope::All, Scope::Subtree(TreePath::root()), Scope::Entry(place)] {
            for of_process in [true, false] {
                let said = said_of_a_lost_root(scope.clone(), of_process);
                let found = said.iter().filter(|event| matches!(event, Event::Found { .. })).count();
                assert_eq!(found, usize::from(!of_process), "{scope:?}: {said:?}");
                assert!(matches!(said.last(), Some(Event::Scanned { ending: Ending::RootLost(_), .. })), "{said:?}");
            }
        }
    }
}
