//! Owns the place of a state that is kept in memory alone: a private directory on the kernel's shared-memory file system,
//! gone with the agent. Must not own what is in it.
//!
//! Containers of one pod share that file system, so what an agent that was killed left there is taken away by the next.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};
use tempfile::TempDir;

/// Where Linux programs find memory that has names (shm_overview(7)).
const PLACE: &str = "/dev/shm";
/// Beginning of every directory's name.
const PREFIX: &str = "driftlock-";
/// tmpfs, in `linux/magic.h`.
const TMPFS: i64 = 0x0102_1994;

/// Makes the directory. It is taken away when dropped.
///
/// # Errors
/// If there is no such memory, or it cannot be written.
pub(super) fn make() -> io::Result<TempDir> {
    make_in(Path::new(PLACE))
}

/// The directories of agents of this user, those of killed ones too.
pub(crate) fn directories() -> Vec<PathBuf> {
    directories_in(Path::new(PLACE)).collect()
}

fn directories_in(place: &Path) -> impl Iterator<Item = PathBuf> {
    let own = nix::unistd::geteuid().as_raw();
    std::fs::read_dir(place).into_iter().flatten().flatten().filter_map(move |entry| {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let ours = || entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        (named && ours()).then(|| entry.path())
    })
}

fn make_in(place: &Path) -> io::Result<TempDir> {
    if statfs(place)?.f_type != TMPFS {
        return Err(io::Error::other("not memory: its file system is another than tmpfs"));
    }
    take_away_left(place);
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)
}

/// Takes away the directories of agents that are no more. What cannot be is left: it costs room, nothing else.
fn take_away_left(place: &Path) {
    for path in directories_in(place) {
        // An agent that lives holds its lock; one that begins has none yet.
        let Ok(lock) = File::open(path.join(crate::journal::LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "what another agent left in memory stays there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    #[test]
    fn what_a_killed_agent_left_is_taken_away_and_what_a_living_one_has_is_not() {
        // Elsewhere than in the place of real agents.
        let place = tempfile::tempdir_in(PLACE).unwrap();
        let living = make_in(place.path()).unwrap();
        let killed = make_in(place.path()).unwrap().keep();
        let beginning = make_in(place.path()).unwrap();
        let _held = Journal::open(living.path(), None, 4_000_000).unwrap();
        drop(Journal::open(&killed, None, 4_000_000).unwrap());
        let new = make_in(place.path()).unwrap();
        assert!(!killed.exists());
        for path in [living.path(), beginning.path(), new.path()] {
            assert!(path.is_dir(), "{}", path.display());
        }
    }

    #[test]
    fn what_is_no_memory_is_refused() {
        let disk = Path::new("/proc/self");
        assert!(make_in(disk).unwrap_err().to_string().starts_with("not memory"));
    }
}
