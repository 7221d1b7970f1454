//! Owns what the runtime holds for one target: its baseline, its root, its watches, its scan. Must not own when any of it is
//! used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driftlock_common::coverage::WatchMode;
use driftlock_common::finding::PolicyView;
use driftlock_common::path::{Escaped, TreePath};
use driftlock_common::policy::Policy;
use driftlock_common::trust::Timestamp;
use tokio::sync::mpsc;

use super::hold::Hold;
use super::remembered::Remembered;
use super::switch::{self, Switch};
use super::{Done, look};
use crate::admit::{self, Admitted};
use crate::assigned::Serials;
use crate::baseline::{Baseline, Kept, LeftOut};
use crate::config::{Config, Location, Manifests, State, Target};
use crate::failure::Failure;
use crate::monitor::{Expiry, ScanId, TargetPlan};
use crate::policy_file;
use crate::pool::Pool;
use crate::scan::pace::{Allowance, Occasion, Pace};
use crate::scan::{COLLAPSE, HELD, Inodes, Options, Scope};
use crate::supply::fetch::Had;
use crate::supply::kept;
use crate::watch::{Names, Watched, Watcher};

/// A target while it is watched.
#[derive(Debug)]
pub(super) struct Live {
    target: Target,
    baseline: Option<Arc<Baseline>>,
    /// What the collector was last found to have, if it is asked.
    had: Option<Had>,
    /// From the baseline before to this one, while it is under way.
    switch: Option<Switch>,
    /// Of the assignments that were taken.
    serials: Serials,
    /// The last baseline that was accepted, on disk.
    kept: Kept,
    /// The last one that was accepted, if one is configured.
    policy: Option<Arc<Policy>>,
    remembered: Remembered,
    /// The root as it was first seen. Shared with the scan.
    hold: Hold,
    watchers: Vec<Box<dyn Watcher>>,
    /// The inodes of what is sealed, for as long as a way of watching asks for them.
    inodes: Option<Arc<Inodes>>,
    /// Of the arming that counts; 0 if none does.
    generation: u64,
    /// Whether the process of the root is not there, as was said.
    is_away: bool,
    scan: Option<Scanning>,
}

/// The last scan that was started.
#[derive(Debug)]
struct Scanning {
    id: ScanId,
    cancel: Arc<AtomicBool>,
    pace: Arc<Pace>,
}

/// What is to be scanned.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) scan: ScanId,
    pub(super) scopes: Vec<Scope>,
    pub(super) occasion: Occasion,
}

impl Live {
    /// Reads the target's manifest and its policy, off the loop's thread.
    pub(super) async fn load(
        target: Target,
        before: Option<Self>,
        config: &Config,
        state_dir: &Path,
        now: Timestamp,
    ) -> (Self, TargetPlan) {
        let kept = || match config.state {
            State::Directory(_) => Kept::of(&target.name, state_dir),
            State::Memory => Kept::nowhere(),
        };
        let mut live = before.unwrap_or_else(|| Self::nothing(target.clone(), kept(), state_dir));
        if live.target.root != target.root {
            // Nothing that was known is about another root.
            live.hold = Hold::default();
            live.baseline = None;
            live.policy = None;
        }
        let terms = (&config.host.labels, now);
        let (mut loaded, refused, expired) = match target.manifests {
            Manifests::Files(_) => {
                live.had = None;
                live.take(target.clone(), terms).await
            }
            Manifests::Collector { .. } => live.take_had(&target, terms, state_dir).await,
        };
        if loaded.is_none() && live.baseline.is_none() {
            // The one before the restart.
            loaded = recall(live.kept.clone(), target.clone()).await;
        }
        let (policy, policy_refused) = load_policy(target.policy.clone()).await;
        let watch = &config.watch;
        if let Some(new) = &loaded {
            live.switch_to(new, target.switch_window, state_dir).await;
        }
        // A manifest that is refused leaves the one that was accepted last.
        live.baseline = loaded.or_else(|| live.baseline.take());
        // Entries of another tree.
        live.inodes = None;
        live.policy = match (policy, &target.policy) {
            (None, Some(_)) => live.policy.take(),
            (policy, _) => policy,
        };
        live.target = target;
        let entries = live.baseline.as_ref().map_or(0, |baseline| baseline.manifest().tree.len());
        let plan = TargetPlan {
            name: live.target.name.clone(),
            root: Escaped(live.target.root.to_string().as_bytes()).to_string(),
            manifest: live.baseline.as_ref().map(|baseline| baseline.view()),
            refused,
            expired,
            switching: live.switch.as_ref().and_then(Switch::switching),
            expiry: live
                .baseline
                .as_ref()
                .and_then(|baseline| baseline.until())
                .map(|at| Expiry { left: at.since(now), at }),
            policy: live.policy.as_deref().map(PolicyView::from),
            policy_refused,
            excluded: live.target.exclude.iter().map(str::to_owned).collect(),
            mounts: live.target.mounts,
            mounts_allowed: live.target.mounts_allowed.clone(),
            id_view: live.target.id_map.clone(),
            mode: watch.mode,
            sweeps: watch.sweeps(entries),
            full: watch.full,
        };
        (live, plan)
    }

    /// What the collector has now; whether that is news.
    pub(super) fn had(&mut self, had: Had) -> bool {
        let is_news = *self.had.as_ref().unwrap_or(&Had::Same) != had;
        self.had = Some(had);
        is_news
    }

    /// The baseline of a target, and else why it is refused, or that only time made it so.
    async fn take(
        &mut self,
        target: Target,
        (labels, now): (&BTreeMap<String, String>, Timestamp),
    ) -> (Option<Arc<Baseline>>, String, String) {
        let known = (self.serials.clone(), self.kept.clone());
        match load_baseline(target, labels.clone(), known, now).await {
            Loaded::Admitted(baseline, (serials, kept)) => {
                self.serials = serials;
                self.kept = kept;
                (Some(baseline), String::new(), String::new())
            }
            Loaded::Refused(why) => (None, why, String::new()),
            Loaded::Expired(why) => (None, String::new(), why),
        }
    }

    /// As [`Live::take`], of what the collector has. If that is refused, what was accepted last stays, through a restart too.
    async fn take_had(
        &mut self,
        target: &Target,
        terms: (&BTreeMap<String, String>, Timestamp),
        state_dir: &Path,
    ) -> (Option<Arc<Baseline>>, String, String) {
        let kept = kept::Kept::of(&target.name, state_dir);
        let mut why = (String::new(), String::new());
        match &self.had {
            Some(Had::Other(set)) => {
                let set = set.clone();
                let (baseline, refused, expired) = self.take(set.of(target), terms).await;
                if baseline.is_some() {
                    self.had = Some(Had::Same);
                    // It counts; a restart without the collector would only not know it.
                    let refused = kept.accept(&set).err().map(|error| error.to_string()).unwrap_or_default();
                    return (baseline, refused, String::new());
                }
                kept.tidy(&kept.accepted().iter().chain([&set]).collect::<Vec<_>>());
                why = (refused, expired);
            }
            Some(Had::Refused(refused)) => why.0.clone_from(refused),
            Some(Had::Same) | None => {}
        }
        let is_refused = !why.0.is_empty() || !why.1.is_empty();
        if is_refused && self.baseline.is_some() {
            return (None, why.0, why.1);
        }
        let accepted = match kept.accepted() {
            Some(set) => self.take(set.of(target), terms).await,
            None => (None, format!("target {}: nothing was had from the collector yet", target.name), String::new()),
        };
        if is_refused { (accepted.0, why.0, why.1) } else { accepted }
    }

    /// Another manifest than before begins a switch; a restart goes on with the one that was under way.
    async fn switch_to(&mut self, new: &Arc<Baseline>, window: Duration, state_dir: &Path) {
        let to = new.view().sha256;
        let path = switch::path(&self.target.name, state_dir);
        let switch = match &self.baseline {
            _ if window.is_zero() => None,
            Some(before) if before.view().sha256 == to => return,
            before => {
                let before = before.clone();
                let begin = move || match before {
                    Some(before) => Some(Switch::begin(path, before, to, window)),
                    None => Switch::recover(path, to),
                };
                // Writing a manifest takes its time.
                tokio::task::spawn_blocking(begin).await.unwrap_or_default()
            }
        };
        if let Some(over) = std::mem::replace(&mut self.switch, switch) {
            over.end();
        }
    }

    fn nothing(target: Target, kept: Kept, state_dir: &Path) -> Self {
        Self {
            remembered: Remembered::of(&target.name, state_dir),
            had: None,
            switch: None,
            serials: Serials::of(&target.name, state_dir),
            kept,
            target,
            baseline: None,
            policy: None,
            hold: Hold::default(),
            watchers: Vec::new(),
            inodes: None,
            generation: 0,
            is_away: false,
            scan: None,
        }
    }

    /// What to watch, where, and what may be mounted there. The agent's own writing must not make it look.
    pub(super) fn watched(&mut self, state_dir: &Path) -> (Hold, Location, Watched, BTreeSet<TreePath>) {
        let own_state = || {
            // The root of a process is another file system than the agent's.
            let Location::Directory(root) = &self.target.root else { return None };
            let (root, state) = (root.canonicalize().ok()?, state_dir.canonicalize().ok()?);
            let inside = state.strip_prefix(root).ok()?;
            TreePath::new(std::os::unix::ffi::OsStrExt::as_bytes(inside.as_os_str())).ok()
        };
        let names = |baseline: &Arc<Baseline>| {
            let inodes = self.inodes.get_or_insert_with(|| Arc::new(Inodes::of(&baseline.manifest().tree)));
            Names::new(baseline.clone(), inodes.clone())
        };
        let sealed = self.baseline.as_ref().map(names);
        let watched = Watched {
            left_out: LeftOut::new(self.baseline.clone(), self.target.exclude.clone()),
            own_state: own_state().filter(|path| !path.is_root()),
            mounts: self.target.mounts,
            sealed,
        };
        (self.hold.clone(), self.target.root.clone(), watched, self.target.mounts_allowed.clone())
    }

    /// The process that the root belongs to is not there; whether that is news.
    pub(super) fn away(&mut self) -> bool {
        self.let_go();
        !std::mem::replace(&mut self.is_away, true)
    }

    /// Nothing of the root is held any longer.
    fn let_go(&mut self) {
        self.disarm(0);
        self.hold.let_go();
        if let Some(scanning) = self.scan.take() {
            scanning.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the arming of `generation` counts.
    pub(super) const fn is_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Whether the root is one of a process.
    pub(super) const fn is_of_process(&self) -> bool {
        matches!(self.target.root, Location::Process(_))
    }

    /// Whether the scan is the last one that was started.
    pub(super) fn is_scanning(&self, scan: ScanId) -> bool {
        self.scan.as_ref().is_some_and(|scanning| scanning.id == scan)
    }

    /// Lets the watches go; only the arming of `generation` counts from now on.
    pub(super) fn disarm(&mut self, generation: u64) {
        self.watchers.clear();
        self.generation = generation;
    }

    /// Takes the watches of the arming that counts.
    pub(super) fn armed(&mut self, watchers: Vec<Box<dyn Watcher>>, mode: WatchMode) {
        if mode != WatchMode::Fanotify {
            self.inodes = None;
        }
        self.watchers = watchers;
        self.is_away = false;
    }

    /// Starts a scan on the pool.
    pub(super) fn scan(
        &mut self,
        order: Order,
        own_state: Option<(u64, u64)>,
        config: &Config,
        allowance: &Arc<Allowance>,
        pool: &Arc<Pool>,
        done: &mpsc::Sender<Done>,
    ) {
        let Some(baseline) = &self.baseline else { return };
        let Order { scan, scopes, occasion } = order;
        let cancel = Arc::new(AtomicBool::new(false));
        let pace = Pace::new(allowance, occasion);
        self.scan = Some(Scanning { id: scan, cancel: cancel.clone(), pace: pace.clone() });
        // Over: the manifest before is let go.
        if let Some(over) = self.switch.take_if(|switch| switch.transition().is_none()) {
            over.end();
        }
        let transition = self.switch.as_ref().and_then(Switch::transition);
        let options = Options {
            // What stands for others would hide which of them are as before.
            collapse: transition.is_none().then_some(COLLAPSE),
            transition,
            local_excludes: self.target.exclude.clone(),
            hash_limit: Some(config.limits.hash_limit),
            mounts: self.target.mounts,
            mounts_allowed: self.target.mounts_allowed.clone(),
            id_view: self.target.id_map.clone(),
            own_state,
            policy: self.policy.clone(),
            inodes: self.inodes.clone(),
            held: Some(HELD),
            pace: Some(pace),
            ..Options::default()
        };
        let look = look::Look {
            scan,
            scopes,
            location: self.target.root.clone(),
            hold: self.hold.clone(),
            baseline: baseline.clone(),
            remembered: self.remembered.clone(),
            full: config.watch.full,
            options,
            cancel,
            done: done.clone(),
        };
        let on = pool.clone();
        // The results come by messages; the answer of the bridge says nothing more.
        drop(pool.spawn(move || look.run(&on)));
    }

    /// Saves what was found as sealed, for the next run.
    pub(super) fn remember(&self) {
        self.remembered.save();
    }

    pub(super) fn cancel(&self, scan: ScanId) {
        if let Some(scanning) = self.scan.as_ref().filter(|scanning| scanning.id == scan) {
            scanning.cancel.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn hurry(&self, scan: ScanId) {
        if let Some(scanning) = self.scan.as_ref().filter(|scanning| scanning.id == scan) {
            scanning.pace.hurry();
        }
    }
}

/// What a target's files of earlier runs say.
type Known = (Serials, Kept);

/// What became of a manifest.
enum Loaded {
    Admitted(Arc<Baseline>, Known),
    /// Why, in one line.
    Refused(String),
    /// It would be accepted at another time.
    Expired(String),
}

async fn load_baseline(
    target: Target,
    labels: BTreeMap<String, String>,
    (mut serials, mut kept): Known,
    now: Timestamp,
) -> Loaded {
    let load = move || {
        let admitted = admit::admit(&target, &labels, &mut serials, now);
        let admitted = admitted.map_err(|error| (error.is_expiry(), Failure::from(error)))?;
        let Admitted { baseline, mark } = admitted;
        // An assignment that could be forgotten could be followed by an older one.
        mark.map_or(Ok(()), |mark| serials.keep(mark)).map_err(|error| (false, Failure::from(error)))?;
        if let Err(error) = kept.keep(&baseline, &target.root.to_string()) {
            let error = anyhow::Error::new(error);
            tracing::warn!(
                target_name = target.name,
                error = format!("{error:#}"),
                "a restart begins without this manifest"
            );
        }
        Ok((Arc::new(baseline), (serials, kept)))
    };
    match tokio::task::spawn_blocking(load).await {
        Ok(Ok((baseline, known))) => Loaded::Admitted(baseline, known),
        Ok(Err((true, failure))) => Loaded::Expired(failure.to_string()),
        Ok(Err((false, failure))) => Loaded::Refused(failure.to_string()),
        Err(error) => Loaded::Refused(error.to_string()),
    }
}

/// What the target was compared with when the agent stopped.
async fn recall(kept: Kept, target: Target) -> Option<Arc<Baseline>> {
    let recall = move || match kept.recall(&target.root.to_string()) {
        Ok(baseline) => baseline.map(|baseline| {
            let sha256 = baseline.view().sha256;
            tracing::warn!(target_name = target.name, %sha256, "compared with the manifest that was accepted last");
            Arc::new(baseline)
        }),
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(target_name = target.name, error = format!("{error:#}"), "what was accepted last is lost");
            None
        }
    };
    tokio::task::spawn_blocking(recall).await.ok().flatten()
}

/// A policy, and why there is none although there is a file.
async fn load_policy(file: Option<PathBuf>) -> (Option<Arc<Policy>>, String) {
    let Some(file) = file else { return (None, String::new()) };
    match tokio::task::spawn_blocking(move || policy_file::load(&file)).await {
        Ok(Ok(policy)) => (Some(Arc::new(policy)), String::new()),
        Ok(Err(error)) => (None, Failure::from(error).to_string()),
        Err(error) => (None, error.to_string()),
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(scanning) = &self.scan {
            scanning.cancel.store(true, Ordering::Relaxed);
        }
    }
}

/// The kernel's host name, for people.
pub(super) fn kernel_host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    if name.is_empty() { "localhost".to_owned() } else { name.to_string_lossy().into_owned() }
}
