//! Owns where the socket of an agent is, for the agent and for whoever asks it. Must not own opening it.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Asked, Socket, State};
use crate::runtime;

/// Its name in a directory that is the agent's own.
const NAME: &str = "agent.sock";
/// What lives below the first lies, while the system runs, below the second: file-hierarchy(7).
const STATES: &str = "/var/lib";
const RUNS: &str = "/run";

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It was said so.
    #[error("control.socket = \"off\": this agent cannot be asked")]
    Off,
    /// State in memory has no fixed place, and there is none.
    #[error("no agent of this user that keeps its state in memory is running")]
    NoneInMemory,
    /// There are several agents of which any might be meant.
    #[error("several agents keep their state in memory: name one with --socket: {0}")]
    Several(String),
}

/// Where an agent is asked that keeps its state in `state_dir`; `None`: nowhere.
pub(crate) fn of_agent(socket: &Socket, state_dir: &Path) -> Option<PathBuf> {
    match socket {
        Socket::Auto => Some(auto(state_dir, Path::new(RUNS))),
        Socket::At(path) => Some(path.clone()),
        Socket::Off => None,
    }
}

/// Where the agent is asked that was configured so.
///
/// # Errors
/// If it cannot be asked, or it cannot be told which one is meant.
pub fn find(asked: &Asked) -> Result<PathBuf, PlaceError> {
    match (&asked.socket, &asked.state) {
        (Socket::Off, _) => Err(PlaceError::Off),
        (Socket::At(path), _) => Ok(path.clone()),
        (Socket::Auto, State::Directory(state_dir)) => Ok(auto(state_dir, Path::new(RUNS))),
        (Socket::Auto, State::Memory) => one(runtime::memory_directories().into_iter().map(|dir| dir.join(NAME))),
    }
}

/// A run directory that belongs to the state directory lets a group in, and is gone with the service; the state directory
/// is for the agent alone, and is always there.
fn auto(state_dir: &Path, runs: &Path) -> PathBuf {
    let name = state_dir.strip_prefix(STATES).ok().filter(|name| name.components().count() == 1);
    let run = name.map(|name| runs.join(name)).filter(|run| run.is_dir());
    run.as_deref().unwrap_or(state_dir).join(NAME)
}

fn one(paths: impl Iterator<Item = PathBuf>) -> Result<PathBuf, PlaceError> {
    let is_socket = |path: &PathBuf| path.metadata().is_ok_and(|found| found.file_type().is_socket());
    let mut sockets: Vec<PathBuf> = paths.filter(is_socket).collect();
    match (sockets.pop(), sockets.is_empty()) {
        (Some(socket), true) => Ok(socket),
        (None, _) => Err(PlaceError::NoneInMemory),
        (Some(socket), false) => {
            sockets.push(socket);
            sockets.sort();
            let names: Vec<String> = sockets.iter().map(|path| path.display().to_string()).collect();
            Err(PlaceError::Several(names.join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_run_directory_is_used_where_it_is_and_belongs_to_the_state() {
        let runs = tempfile::tempdir().unwrap();
        std::fs::create_dir(runs.path().join("driftlock")).unwrap();
        let run = runs.path().join("driftlock/agent.sock");
        for (state, expected) in [
            ("/var/lib/driftlock", run.as_path()),
            ("/var/lib/driftlock/", run.as_path()),
            ("/var/lib/other", Path::new("/var/lib/other/agent.sock")),
            ("/var/lib/driftlock/deeper", Path::new("/var/lib/driftlock/deeper/agent.sock")),
            ("/var/lib", Path::new("/var/lib/agent.sock")),
            ("/srv/driftlock", Path::new("/srv/driftlock/agent.sock")),
        ] {
            assert_eq!(auto(Path::new(state), runs.path()), expected, "{state}");
        }
    }

    #[test]
    fn of_several_agents_in_memory_none_is_guessed() {
        let place = tempfile::tempdir().unwrap();
        let (a, b, file) = (place.path().join("a"), place.path().join("b"), place.path().join("file"));
        std::fs::write(&file, "").unwrap();
        let asked = || one([&b, &file, &a, &place.path().join("none")].into_iter().cloned());
        assert!(matches!(asked(), Err(PlaceError::NoneInMemory)));
        let _a = UnixListener::bind(&a).unwrap();
        assert_eq!(asked().unwrap(), a);
        let _b = UnixListener::bind(&b).unwrap();
        assert!(
            matches!(asked(), Err(PlaceError::Several(names)) if names == format!("{} {}", a.display(), b.display()))
        );
    }
}
