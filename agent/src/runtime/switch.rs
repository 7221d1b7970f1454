//! Owns the switch of a target from one baseline to the next: how long the one before still counts, in memory and, for a
//! restart meanwhile, on disk. Must not own what counts then.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::trust;

use crate::baseline::{Baseline, read_manifest};
use crate::config::MAX_SWITCH_WINDOW;
use crate::known_time;
use crate::monitor::Switching;
use crate::scan::Transition;

const HEAD: &str = "driftlock switch 1";
/// The longest first line of the file, in bytes.
const MAX_LINE: u64 = 512;

/// A switch that is under way. The old manifest is held until it ends.
#[derive(Debug)]
pub(super) struct Switch {
    transition: Transition,
    /// By the clock that cannot be set.
    ends: Instant,
    /// For showing it, and for a restart.
    until: trust::Timestamp,
    path: PathBuf,
}

/// The first line of the file; the manifest before follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// SHA-256 of what is switched to, as reports have it.
    to: Digest,
    until: trust::Timestamp,
    /// The tree of the manifest before.
    tree: OciDigest,
}

/// Where the switch of a target is kept.
pub(super) fn path(target: &str, state_dir: &Path) -> PathBuf {
    // A name may hold what a file name may not.
    let name = Digest::blake3(target.as_bytes()).to_string();
    state_dir.join(format!("switch-{}.state", &name[..16]))
}

impl Switch {
    /// Begins one: from now on, for `window`, a path may be as in `before` too.
    pub(super) fn begin(path: PathBuf, before: Arc<Baseline>, to: Digest, window: Duration) -> Self {
        let seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
        let until = trust::Timestamp::from_unix(known_time::now().unix().saturating_add(seconds));
        if let Err(error) = write(&path, Line { to, until, tree: before.view().tree }, &before) {
            tracing::warn!(file = %path.display(), %error, "a restart ends the switch");
        }
        tracing::info!(%until, "switched to another manifest: until then a path may be as in the one before");
        Self { transition: Transition::from(before), ends: Instant::now() + window, until, path }
    }

    /// The one that was under way when the agent stopped, if it was one to this manifest and its time is not over.
    pub(super) fn recover(path: PathBuf, to: Digest) -> Option<Self> {
        let (line, transition) = match read(&path, to) {
            Ok(read) => read?,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the switch that was under way is over");
                return None;
            }
        };
        // Whatever the clock says by now, it never takes longer than the longest.
        let left = line.until.since(known_time::now()).min(MAX_SWITCH_WINDOW);
        let switch = Self { transition, ends: Instant::now() + left, until: line.until, path };
        switch.left().map(|_| switch)
    }

    /// What may still be; `None` once its time is over.
    pub(super) fn transition(&self) -> Option<Transition> {
        self.left().map(|_| self.transition.clone())
    }

    /// For the monitor; `None` once its time is over.
    pub(super) fn switching(&self) -> Option<Switching> {
        self.left().map(|left| Switching { left, until: self.until })
    }

    fn left(&self) -> Option<Duration> {
        self.ends.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Ends it.
    pub(super) fn end(self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %self.path.display(), %error, "cannot be removed");
            }
            _ => {}
        }
    }
}

fn write(path: &Path, line: Line, before: &Baseline) -> io::Result<()> {
    let next = path.with_extension("next");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    let mut file = BufWriter::new(file);
    file.write_all(line.encode().as_bytes())?;
    before.manifest().write(&mut |bytes: &[u8]| file.write_all(bytes))?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&next, path)?;
    File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// `None` if there is none, or it was one to another manifest.
fn read(path: &Path, to: Digest) -> io::Result<Option<(Line, Transition)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut file = BufReader::new(file);
    let mut text = Vec::new();
    file.by_ref().take(MAX_LINE).read_until(b'\n', &mut text)?;
    let line = Line::parse(&text).ok_or_else(|| io::Error::other("damaged"))?;
    if line.to != to {
        return Ok(None);
    }
    let (manifest, _) = read_manifest(file).map_err(io::Error::other)?;
    if manifest.name() != line.tree {
        return Err(io::Error::other("damaged: another tree"));
    }
    Ok(Some((line, Transition::from(Arc::new(manifest)))))
}

impl Line {
    fn encode(self) -> String {
        let Self { to, until, tree } = self;
        let words = format!("{HEAD} {to} {until} {tree}");
        format!("{words} {}\n", Digest::blake3(words.as_bytes()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.strip_prefix(HEAD)?.strip_prefix(' ')?.split(' ');
        let line = Self {
            to: words.next()?.parse().ok()?,
            until: trust::Timestamp::parse(words.next()?)?,
            tree: words.next()?.parse().ok()?,
        };
        (line.encode() == text).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::profile::Profile;

    use super::*;
    use crate::baseline::kit::{load, manifest};

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_switch_outlives_the_agent_until_its_end_and_only_to_its_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let file = path("app", dir.path());
        let (to, other) = (Digest::sha256(b"new"), Digest::sha256(b"other"));
        assert!(Switch::recover(file.clone(), to).is_none());
        let before = Arc::new(load(&[manifest(Profile::Portable, &["x/**"], &["a/", "a/b"])]).unwrap());
        let begun = Switch::begin(file.clone(), before, to, HOUR);
        assert!(begun.transition().is_some());
        let again = Switch::recover(file.clone(), to).unwrap();
        assert_eq!(again.until, begun.until);
        assert!(again.left().unwrap() <= HOUR);
        assert!(Switch::recover(file.clone(), other).is_none());
        // Damage ends it, wherever it is.
        let bytes = std::fs::read(&file).unwrap();
        for at in (0..bytes.len()).filter(|at| *at < 250 || at.is_multiple_of(7)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(&file, &flipped).unwrap();
            // What only is shown, and white space between lines of it, is no part of what counts.
            if let Some(switch) = Switch::recover(file.clone(), to) {
                assert_eq!(switch.until, begun.until, "byte {at}");
            }
        }
        std::fs::write(&file, &bytes).unwrap();
        begun.end();
        assert!(Switch::recover(file, to).is_none());
    }

    #[test]
    fn what_is_over_is_not_taken_up_and_a_clock_that_was_set_back_makes_none_longer() {
        let dir = tempfile::tempdir().unwrap();
        let file = path("app", dir.path());
        let to = Digest::sha256(b"new");
        let before = load(&[manifest(Profile::Portable, &[], &["a"])]).unwrap();
        let now = known_time::now().unix();
        for (until, left) in [(now - 1, None), (now, None), (now + 86_400 * 365, Some(MAX_SWITCH_WINDOW))] {
            let line = Line { to, until: trust::Timestamp::from_unix(until), tree: before.view().tree };
            write(&file, line, &before).unwrap();
            let found = Switch::recover(file.clone(), to).map(|switch| switch.left().unwrap());
            assert_eq!(found.is_some(), left.is_some());
            assert!(found <= left);
        }
    }
}
