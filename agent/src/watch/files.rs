//! Owns noticing that one of the few files that the agent itself depends on became another, through the `notify` crate: a
//! container has nobody who could send a signal. Must not own which files these are, or reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Config, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Several files are often replaced together: a change is told once nothing happened for so long.
const QUIET: Duration = Duration::from_millis(200);
/// But not later than this after the first event.
const PATIENCE: Duration = Duration::from_secs(2);

/// The files, and what they were when last looked at.
#[derive(Debug)]
pub struct Files {
    _watcher: RecommendedWatcher,
    events: mpsc::Receiver<()>,
    known: BTreeMap<PathBuf, Option<Print>>,
}

/// By what another file is told, or another content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    inode: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// Watches these files, which need not be there, and need not be files.
    ///
    /// # Errors
    /// If the kernel refuses to watch at all. A directory that is not there is none.
    pub fn watch(files: impl IntoIterator<Item = PathBuf>) -> notify::Result<Self> {
        let (sender, events) = mpsc::channel(1);
        let told = move |_event| {
            // One that waits already says the same.
            let _told = sender.try_send(());
        };
        // Not each write: what is half written is no configuration.
        let names = EventKindMask::CREATE | EventKindMask::REMOVE | EventKindMask::MODIFY_NAME;
        let mask = names | EventKindMask::MODIFY_META | EventKindMask::ACCESS_CLOSE;
        let mut watcher = RecommendedWatcher::new(told, Config::default().with_event_kinds(mask))?;
        let files: BTreeSet<PathBuf> = files.into_iter().collect();
        for directory in directories(&files) {
            // What is not there, or not to be read, cannot be replaced without its parent, or a signal, telling of it.
            if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
                tracing::debug!(directory = %directory.display(), %error, "not watched");
            }
        }
        let known = files.into_iter().map(|file| (file.clone(), Print::of(&file))).collect();
        Ok(Self { _watcher: watcher, events, known })
    }

    /// Waits until some of the files are others than when they were last looked at: these. Dropping the future loses
    /// nothing.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        while self.events.recv().await.is_some() {
            let settled = async { while let Ok(Some(())) = tokio::time::timeout(QUIET, self.events.recv()).await {} };
            let _at_the_latest = tokio::time::timeout(PATIENCE, settled).await;
            let now: BTreeMap<_, _> = self.known.keys().map(|file| (file.clone(), Print::of(file))).collect();
            let others = now.iter().filter(|(file, print)| self.known[*file] != **print);
            let others: Vec<PathBuf> = others.map(|(file, _)| file.clone()).collect();
            self.known = now;
            if !others.is_empty() {
                return others;
            }
        }
        std::future::pending().await
    }
}

/// The directories in which a file is replaced: its own, and that of what it leads to.
fn directories(files: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let leads_to = files.iter().filter_map(|file| file.canonicalize().ok());
    files.iter().cloned().chain(leads_to).filter_map(|file| file.parent().map(Path::to_owned)).collect()
}

impl Print {
    fn of(file: &Path) -> Option<Self> {
        let found = std::fs::metadata(file).ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn told(files: &mut Files) -> Vec<PathBuf> {
        tokio::time::timeout(Duration::from_secs(20), files.changed()).await.expect("the change was not told")
    }

    #[tokio::test]
    async fn a_file_that_is_written_replaced_removed_or_made_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "1").unwrap();
        let mut files = Files::watch([at("a"), at("b")]).unwrap();
        fs::write(at("a"), "2").unwrap();
        assert_eq!(told(&mut files).await, [at("a")]);
        fs::write(at("new"), "3").unwrap();
        fs::rename(at("new"), at("a")).unwrap();
        told(&mut files).await;
        fs::write(at("b"), "1").unwrap();
        assert_eq!(told(&mut files).await, [at("b")]);
        fs::remove_file(at("a")).unwrap();
        told(&mut files).await;
        // Another file beside them is none of them: what is told next is the change after it.
        fs::write(at("other"), "1").unwrap();
        fs::write(at("b"), "22").unwrap();
        told(&mut files).await;
        assert_eq!(files.known[&at("b")].unwrap().size, 2);
    }

    #[tokio::test]
    async fn a_volume_that_swaps_the_link_to_its_files_is_told() {
        // As the kubelet does for a ConfigMap: name -> ..data/name, ..data -> ..1/
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for generation in ["..1", "..2"] {
            fs::create_dir(at(generation)).unwrap();
            fs::write(at(generation).join("agent.toml"), generation).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/agent.toml", at("agent.toml")).unwrap();
        let mut files = Files::watch([at("agent.toml")]).unwrap();
        symlink("..2", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        told(&mut files).await;
        assert_eq!(fs::read_to_string(at("agent.toml")).unwrap(), "..2");
    }
}
