//! Owns what is remembered of one target from sweep to sweep, and on disk from one run of the agent to the next. Must not
//! own what it is worth: that is the scanner's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use driftlock_common::digest::Digest;

use crate::baseline::Baseline;
use crate::scan::{Distrust, Growing, Identity, Options, Root, State};

/// Between two savings. What a restart loses of it is read once more.
const PAUSE: Duration = Duration::from_mins(15);

/// The state of a target's scans.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    path: PathBuf,
    growing: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Option<Arc<State>>,
    growing: Option<Arc<Growing>>,
    saved: Option<Instant>,
}

impl Remembered {
    /// Of the target of that name, in a state directory.
    pub(super) fn of(target: &str, state_dir: &Path) -> Self {
        // A name may hold what a file name may not.
        let name = Digest::blake3(target.as_bytes()).to_string();
        let file = |what| state_dir.join(format!("{what}-{}.state", &name[..16]));
        Self { path: file("scan"), growing: file("growing"), inner: Arc::default() }
    }

    /// What is remembered of the growing files of `root`, compared with `baseline`; nothing, if it is about anything else.
    pub(super) fn growing(&self, root: &Root, baseline: &Baseline, options: &Options, full: Duration) -> Arc<Growing> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity::of(root, baseline.view().tree, baseline.manifest().header.profile, options);
        match &inner.growing {
            Some(growing) if growing.identity() == Some(identity) => {
                growing.set_full(full);
                return Arc::clone(growing);
            }
            Some(_) => {}
            None => match Growing::load(&self.growing, identity, full) {
                Ok(growing) => return Arc::clone(inner.growing.insert(Arc::new(growing))),
                Err(Distrust::Absent) => {}
                Err(why) => {
                    tracing::warn!(file = %self.growing.display(), "{why}: what growing files held is not known");
                }
            },
        }
        Arc::clone(inner.growing.insert(Arc::new(Growing::of(identity, full))))
    }

    /// What is remembered of `root` compared with `baseline`; nothing, if it is about anything else.
    pub(super) fn state(&self, root: &Root, baseline: &Baseline, options: &Options) -> Arc<State> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity::of(root, baseline.view().tree, baseline.manifest().header.profile, options);
        match &inner.state {
            Some(state) if state.identity() == identity => {
                if state.forget_if_clock_stepped() {
                    tracing::info!("the clock was set: everything is read again");
                }
                return Arc::clone(state);
            }
            // Another root or baseline while the agent ran: what is on disk is older still.
            Some(_) => {}
            None => {
                let entries = baseline.manifest().tree.iter().len();
                match State::load(&self.path, identity, entries) {
                    Ok(state) => return Arc::clone(inner.state.insert(Arc::new(state))),
                    Err(Distrust::Absent) => {}
                    Err(why) => {
                        tracing::info!(file = %self.path.display(), "{why}: everything is read again");
                    }
                }
            }
        }
        let entries = baseline.manifest().tree.iter().len();
        Arc::clone(inner.state.insert(Arc::new(State::new(identity, entries))))
    }

    /// Saves what a look at everything made of it, from time to time.
    pub(super) fn looked_at_everything(&self) {
        let saved = self.inner.lock().unwrap_or_else(PoisonError::into_inner).saved;
        if saved.is_none_or(|saved| saved.elapsed() >= PAUSE) {
            self.save();
        }
    }

    /// Saves it, if there is anything.
    pub(super) fn save(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(growing) = &inner.growing
            && let Err(error) = growing.save(&self.growing)
        {
            tracing::warn!(file = %self.growing.display(), %error, "what growing files held is not remembered");
        }
        let Some(state) = &inner.state else { return };
        state.forget_if_clock_stepped();
        match state.save(&self.path) {
            Ok(()) => inner.saved = Some(Instant::now()),
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "what was scanned is not remembered"),
        }
    }
}
