//! Owns watching by inotify through the `notify` crate: one watch for each directory below a root. Must not own deciding
//! what a hint leads to.
//!
//! What the crate does not do is done by arming again, from nothing, whenever its events were lost: it never adds the
//! watches of directories that were made meanwhile. What it does not say either is made up for by hints on whole subtrees:
//! files that are in a new directory before its watch is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use notify::event::{CreateKind, EventKind, EventKindMask, ModifyKind, RemoveKind};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, WatchPathConfig, Watcher as _};

use super::channel::{HintSender, Seen};
use super::place::Place;
use super::settle::{Settle, settle};
use super::{Armed, Hint, Watched, Watcher, Why};

/// The word for coverage.
const MODE: &str = "inotify";

/// Holds the watches. Dropping it ends its thread.
#[derive(Debug)]
struct Inotify {
    _watcher: Arc<INotifyWatcher>,
}

impl Watcher for Inotify {}

/// What the crate's thread needs to make hints.
#[derive(Debug)]
struct Translator {
    target: Arc<str>,
    watched: Watched,
    hints: HintSender,
    settle: Settle,
    /// Directories that could not be watched.
    unwatched: Arc<AtomicU64>,
}

/// Watches a root from now on: a change after this returns gives a hint. Blocks for as long as it takes to walk all
/// directories. What could not be watched is said, and is no error.
pub fn arm(target: &Arc<str>, watched: Watched, hints: &HintSender) -> (Option<Box<dyn Watcher>>, Armed) {
    // Neither opens nor reads: the scanner's own would come back as hints.
    let mask = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
    let config = Config::default().with_follow_symlinks(false).with_event_kinds(mask);
    let unwatched = Arc::new(AtomicU64::new(0));
    let root = watched.root.clone();
    let (settle, unsettled) = settle();
    let translator =
        Translator { target: target.clone(), watched, hints: hints.clone(), settle, unwatched: unwatched.clone() };
    let nothing = |reason: String| {
        (None, Armed { mode: "sweep", unwatched: 1, degraded: format!("inotify cannot be used: {reason}") })
    };
    let mut watcher = match INotifyWatcher::new(move |event| translator.translate(event), config) {
        Ok(watcher) => watcher,
        Err(error) => return nothing(reason(&error)),
    };
    let terms = WatchPathConfig::new(RecursiveMode::Recursive).with_dereference_symlinks(false);
    let error = watcher.watch_with(&root, terms).err();
    let mut armed = Armed { mode: MODE, unwatched: unwatched.load(Ordering::Acquire), degraded: String::new() };
    let watcher = Arc::new(watcher);
    if let Err(error) = unsettled.run(target.clone(), Arc::downgrade(&watcher), hints.clone()) {
        return nothing(error.to_string());
    }
    if let Some(error) = error {
        armed.unwatched += 1;
        armed.degraded = reason(&error);
    } else if armed.unwatched > 0 {
        armed.degraded = directories(armed.unwatched);
    }
    (Some(Box::new(Inotify { _watcher: watcher })), armed)
}

fn directories(count: u64) -> String {
    format!("{count} directories could not be watched")
}

/// Why, in one line, and what to do.
fn reason(error: &notify::Error) -> String {
    match &error.kind {
        ErrorKind::MaxFilesWatch => {
            "the limit of inotify watches is reached: raise fs.inotify.max_user_watches".to_owned()
        }
        ErrorKind::PathNotFound => "the root is not there".to_owned(),
        ErrorKind::Io(error) => error.to_string(),
        ErrorKind::Generic(text) => text.escape_default().to_string(),
        ErrorKind::WatchNotFound | ErrorKind::InvalidConfig(_) => "notify refuses its configuration".to_owned(),
    }
}

impl Translator {
    fn translate(&self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) => self.event(&event),
            Err(error) => self.error(&error),
        }
    }

    fn hint(&self, hint: Hint) {
        self.hints.send(&self.target, Seen::Hint(hint));
    }

    fn event(&self, event: &notify::Event) {
        if event.need_rescan() {
            self.hint(Hint::Everything(Why::Overflow));
            return;
        }
        // The halves of a rename within the tree were told before, each by itself.
        let whole_rename = matches!(event.kind, EventKind::Modify(ModifyKind::Name(notify::event::RenameMode::Both)));
        let entry_only = matches!(
            event.kind,
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))
        );
        if whole_rename {
            return;
        }
        let appeared = matches!(event.kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)));
        for path in &event.paths {
            match self.watched.place(path) {
                Place::At(at) if at.is_root() && !entry_only => self.hint(Hint::Everything(Why::RootMoved)),
                Place::At(at) if entry_only => self.hint(Hint::Touched(at)),
                // A mount that went: what was below it is unknown.
                Place::At(_) if matches!(event.kind, EventKind::Remove(RemoveKind::Other)) => {
                    self.hint(Hint::Everything(Why::Failed));
                }
                Place::At(at) | Place::Below(at) => {
                    // Only a directory can hold what no event told of; a rename does not say whether it is one.
                    let again = appeared && !matches!(event.kind, EventKind::Create(CreateKind::File));
                    let room = !again || self.settle.later(at.clone());
                    self.hint(if room { Hint::Subtree(at) } else { Hint::Everything(Why::Overflow) });
                }
                Place::Ignored => {}
                Place::Outside => self.hint(Hint::Everything(Why::Failed)),
            }
        }
    }

    /// A directory that cannot be watched stays so: it is counted, not tried for ever.
    fn error(&self, error: &notify::Error) {
        if error.paths.is_empty() && !matches!(error.kind, ErrorKind::MaxFilesWatch) {
            self.hint(Hint::Everything(Why::Failed));
            return;
        }
        let mut counted = 0;
        for path in &error.paths {
            match self.watched.place(path) {
                Place::At(at) | Place::Below(at) => {
                    counted += 1;
                    self.hint(Hint::Subtree(at));
                }
                Place::Ignored => {}
                Place::Outside => self.hint(Hint::Everything(Why::Failed)),
            }
        }
        if counted == 0 && !error.paths.is_empty() {
            return;
        }
        let unwatched = self.unwatched.fetch_add(counted.max(1), Ordering::AcqRel) + counted.max(1);
        let degraded = format!("{}: {}", directories(unwatched), reason(error));
        self.hints.send(&self.target, Seen::Degraded(Armed { mode: MODE, unwatched, degraded }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Hints, channel};
    use driftlock_common::path::TreePath;
    use driftlock_common::pattern::Excludes;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    struct World {
        dir: tempfile::TempDir,
        hints: Hints,
        _watcher: Option<Box<dyn Watcher>>,
    }

    fn world(prepare: impl FnOnce(&Path)) -> World {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (sender, hints) = channel();
        let excludes = [Excludes::new(["skip/**"], []).unwrap(), Excludes::none()];
        let watched = Watched { root: dir.path().to_owned(), excludes, own_state: None };
        let (watcher, armed) = arm(&"app".into(), watched, &sender);
        assert_eq!(armed, Armed { mode: "inotify", unwatched: 0, degraded: String::new() });
        World { dir, hints, _watcher: watcher }
    }

    fn covers(hint: &Hint, path: &TreePath) -> bool {
        match hint {
            Hint::Touched(at) => at == path,
            Hint::Subtree(top) => path.is_within(top),
            Hint::Everything(_) => true,
        }
    }

    /// Waits until every path is covered by a hint.
    async fn hinted(world: &mut World, paths: &[&str]) {
        let mut missing: Vec<TreePath> = paths.iter().map(|path| TreePath::new(*path).unwrap()).collect();
        while !missing.is_empty() {
            let next = tokio::time::timeout(Duration::from_secs(20), world.hints.next());
            match next.await.unwrap_or_else(|_| panic!("no hint for {missing:?}")) {
                Some((_, Seen::Hint(hint))) => missing.retain(|path| !covers(&hint, path)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn every_kind_of_change_gives_a_hint() {
        let mut world = world(|root| {
            fs::create_dir_all(root.join("d/e")).unwrap();
            fs::write(root.join("d/f"), "1").unwrap();
            fs::write(root.join("d/g"), "1").unwrap();
        });
        let root = world.dir.path().to_owned();
        fs::write(root.join("d/f"), "2").unwrap();
        hinted(&mut world, &["d/f"]).await;
        fs::set_permissions(root.join("d/e"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        hinted(&mut world, &["d/e"]).await;
        fs::rename(root.join("d/f"), root.join("d/g")).unwrap();
        hinted(&mut world, &["d/f", "d/g"]).await;
        std::os::unix::fs::symlink("x", root.join("l")).unwrap();
        hinted(&mut world, &["l"]).await;
        fs::remove_dir(root.join("d/e")).unwrap();
        hinted(&mut world, &["d/e"]).await;
        fs::OpenOptions::new().write(true).open(root.join("d/g")).unwrap().set_len(0).unwrap();
        hinted(&mut world, &["d/g"]).await;
    }

    #[tokio::test]
    async fn files_in_directories_just_made_are_covered() {
        let mut world = world(|_| {});
        let root = world.dir.path().to_owned();
        for n in 0..50 {
            let deep = root.join(format!("{n}/x/y"));
            fs::create_dir_all(&deep).unwrap();
            fs::write(deep.join("f"), "1").unwrap();
        }
        let files: Vec<String> = (0..50).map(|n| format!("{n}/x/y/f")).collect();
        hinted(&mut world, &files.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    #[tokio::test]
    async fn excluded_places_and_reading_give_none() {
        let mut world = world(|root| {
            fs::create_dir(root.join("skip")).unwrap();
            fs::write(root.join("f"), "1").unwrap();
        });
        let root = world.dir.path().to_owned();
        fs::write(root.join("skip/x"), "1").unwrap();
        fs::read(root.join("f")).unwrap();
        fs::write(root.join("end"), "").unwrap();
        let Some((_, Seen::Hint(first))) = world.hints.next().await else { panic!("no hint") };
        assert_eq!(first, Hint::Subtree(TreePath::new("end").unwrap()));
    }

    #[tokio::test]
    async fn a_new_directory_is_hinted_again_once_its_watch_is_there() {
        let mut world = world(|_| {});
        fs::create_dir(world.dir.path().join("new")).unwrap();
        for _ in 0..2 {
            let next = tokio::time::timeout(Duration::from_secs(20), world.hints.next()).await.unwrap();
            assert_eq!(next, Some(("app".into(), Seen::Hint(Hint::Subtree(TreePath::new("new").unwrap())))));
        }
    }

    #[tokio::test]
    async fn a_root_that_goes_is_said() {
        let mut world = world(|root| fs::create_dir(root.join("root")).unwrap());
        let (sender, hints) = channel();
        let root = world.dir.path().join("root");
        let excludes = [Excludes::none(), Excludes::none()];
        let watched = Watched { root: root.clone(), excludes, own_state: None };
        let (_watcher, _) = arm(&"app".into(), watched, &sender);
        world.hints = hints;
        fs::rename(&root, world.dir.path().join("other")).unwrap();
        let next = tokio::time::timeout(Duration::from_secs(20), world.hints.next()).await.unwrap();
        assert_eq!(next, Some(("app".into(), Seen::Hint(Hint::Everything(Why::RootMoved)))));
    }

    #[test]
    fn a_root_that_is_not_there_is_no_error_but_said() {
        let (sender, _hints) = channel();
        let excludes = [Excludes::none(), Excludes::none()];
        let watched = Watched { root: "/nonexistent/root".into(), excludes, own_state: None };
        let (_, armed) = arm(&"app".into(), watched, &sender);
        assert!(armed.unwatched > 0 && !armed.degraded.is_empty(), "{armed:?}");
    }
}
