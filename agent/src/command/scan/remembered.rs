//! Owns the file of `--state`. Must not own what it is worth: that is the scanner's.

use std::path::Path;
use std::sync::Arc;

use driftlock_common::path::Escaped;

use crate::baseline::Baseline;
use crate::failure::Failure;
use crate::output;
use crate::scan::{Distrust, FULL, Identity, Options, Rely, Root, State};

/// What `path` remembers of `root` compared with `baseline`. If that cannot be relied on, why is said.
pub(super) fn open(path: &Path, baseline: &Baseline, root: &Root, options: &Options) -> (Arc<State>, Rely) {
    let manifest = baseline.manifest();
    let identity = Identity::of(root, baseline.view().tree, manifest.header.profile, options);
    let entries = manifest.tree.iter().len();
    let state = State::load(path, identity, entries).unwrap_or_else(|why| {
        if !matches!(why, Distrust::Absent) {
            output::say(&format!("{}: {why}: everything is read", shown(path)));
        }
        State::new(identity, entries)
    });
    (Arc::new(state), Rely::OnState(FULL))
}

/// Remembers it for the next time.
pub(super) fn save(path: &Path, state: &State) -> Result<(), Failure> {
    state.forget_if_clock_stepped();
    state.save(path).map_err(|error| Failure::output(shown(path), error))
}

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}
