//! Watching on the real kernel: every change below a root gives a hint, however the directories got there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;

use super::*;
use crate::baseline::LeftOut;
use crate::scan::Mounts;
use crate::watch::{Hints, Watcher, channel};

struct World {
    dir: tempfile::TempDir,
    hints: Hints,
    armed: Armed,
    watcher: Option<Box<dyn Watcher>>,
}

fn watched() -> Watched {
    let left_out = LeftOut::new(None, Excludes::new(["skip/**"], []).unwrap());
    Watched { left_out, own_state: None, mounts: Mounts::Report, sealed: None }
}

/// Watches `root`, a directory in a temporary one, after `prepare` has filled it.
fn world(prepare: impl FnOnce(&Path)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    prepare(&root);
    let (sender, hints) = channel();
    let (watcher, armed) = arm(&"app".into(), watched(), &Arc::new(Root::open(&root).unwrap()), &sender).unwrap();
    World { dir, hints, armed, watcher: Some(watcher) }
}

impl World {
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    async fn next(&mut self) -> Hint {
        let next = tokio::time::timeout(Duration::from_secs(20), self.hints.next()).await;
        match next.expect("no hint within 20 s") {
            Some((_, Seen::Hint(hint, _))) => hint,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until every path is covered by a hint.
    async fn hinted(&mut self, paths: &[&str]) {
        let mut missing: Vec<TreePath> = paths.iter().map(|path| TreePath::new(*path).unwrap()).collect();
        while !missing.is_empty() {
            let hint = self.next().await;
            missing.retain(|path| !covers(&hint, path));
        }
    }

    /// All that is hinted until a hint on `last`, which the test itself makes.
    async fn until(&mut self, last: &str) -> Vec<Hint> {
        let last = TreePath::new(last).unwrap();
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Hint::Subtree(at) if at == last => return before,
                hint => before.push(hint),
            }
        }
    }
}

fn covers(hint: &Hint, path: &TreePath) -> bool {
    match hint {
        Hint::Touched(at) => at == path,
        Hint::Subtree(top) => path.is_within(top),
        Hint::Everything(_) => true,
    }
}

fn whole() -> Armed {
    Armed { mode: WatchMode::Inotify, blind: BLIND.to_vec(), ..Armed::nothing() }
}

#[tokio::test]
async fn every_kind_of_change_gives_a_hint() {
    let mut world = world(|root| {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/f"), "1").unwrap();
        fs::write(root.join("d/g"), "1").unwrap();
    });
    assert_eq!(world.armed, whole());
    let root = world.root();
    fs::write(root.join("d/f"), "2").unwrap();
    world.hinted(&["d/f"]).await;
    fs::set_permissions(root.join("d/e"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    world.hinted(&["d/e"]).await;
    fs::rename(root.join("d/f"), root.join("d/g")).unwrap();
    world.hinted(&["d/f", "d/g"]).await;
    std::os::unix::fs::symlink("x", root.join("l")).unwrap();
    world.hinted(&["l"]).await;
    fs::remove_dir(root.join("d/e")).unwrap();
    world.hinted(&["d/e"]).await;
    fs::OpenOptions::new().write(true).open(root.join("d/g")).unwrap().set_len(0).unwrap();
    world.hinted(&["d/g"]).await;
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    world.hinted(&[""]).await;
}

#[tokio::test]
async fn files_in_directories_just_made_are_covered() {
    let mut world = world(|_| {});
    for n in 0..50 {
        let deep = world.root().join(format!("{n}/x/y"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "1").unwrap();
    }
    let files: Vec<String> = (0..50).map(|n| format!("{n}/x/y/f")).collect();
    world.hinted(&files.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // By then they are watched themselves.
    fs::write(world.root().join("49/x/y/f"), "2").unwrap();
    world.hinted(&["49/x/y/f"]).await;
}

#[tokio::test]
async fn a_directory_is_followed_through_renames() {
    let mut world = world(|root| {
        fs::create_dir_all(root.join("a/deep/er")).unwrap();
        fs::create_dir(root.join("b")).unwrap();
    });
    let root = world.root();
    fs::rename(root.join("a"), root.join("b/moved")).unwrap();
    world.hinted(&["a", "b/moved"]).await;
    fs::write(root.join("b/moved/deep/er/f"), "1").unwrap();
    world.hinted(&["b/moved/deep/er/f"]).await;
    // Another in its old place is another directory.
    fs::create_dir_all(root.join("a/deep")).unwrap();
    fs::write(root.join("a/deep/g"), "1").unwrap();
    world.hinted(&["a/deep/g"]).await;
    // Over an empty one.
    fs::create_dir(root.join("c")).unwrap();
    fs::rename(root.join("b/moved"), root.join("c")).unwrap();
    world.hinted(&["c", "b/moved"]).await;
    fs::write(root.join("c/deep/er/f"), "2").unwrap();
    world.hinted(&["c/deep/er/f"]).await;
}

#[tokio::test]
async fn what_is_moved_in_is_watched_and_what_is_moved_out_is_not() {
    let mut world = world(|root| {
        fs::create_dir_all(root.join("out/deep")).unwrap();
        fs::create_dir_all(root.join("../outside/deep")).unwrap();
    });
    let (root, outside) = (world.root(), world.dir.path().to_owned());
    fs::rename(outside.join("outside"), root.join("in")).unwrap();
    world.hinted(&["in"]).await;
    fs::write(root.join("in/deep/f"), "1").unwrap();
    world.hinted(&["in/deep/f"]).await;
    fs::rename(root.join("out"), outside.join("gone")).unwrap();
    world.hinted(&["out"]).await;
    // What is read after everything before was read: then it is known to have gone.
    fs::write(root.join("end"), "").unwrap();
    world.until("end").await;
    fs::write(outside.join("gone/deep/f"), "1").unwrap();
    fs::write(root.join("end2"), "").unwrap();
    let told = world.until("end2").await;
    assert!(told.iter().all(|hint| !covers(hint, &TreePath::new("out/deep/f").unwrap())), "{told:?}");
}

#[tokio::test]
async fn excluded_places_and_reading_give_none() {
    let mut world = world(|root| {
        fs::create_dir_all(root.join("skip/deep")).unwrap();
        fs::write(root.join("f"), "1").unwrap();
    });
    let root = world.root();
    fs::write(root.join("skip/x"), "1").unwrap();
    fs::write(root.join("skip/deep/x"), "1").unwrap();
    fs::read(root.join("f")).unwrap();
    fs::write(root.join("end"), "").unwrap();
    assert_eq!(world.until("end").await, []);
}

#[tokio::test]
async fn what_lies_behind_a_link_gives_none() {
    let mut world = world(|root| {
        fs::create_dir(root.join("../outside")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
    });
    fs::write(world.dir.path().join("outside/f"), "1").unwrap();
    fs::write(world.root().join("end"), "").unwrap();
    assert_eq!(world.until("end").await, []);
}

#[tokio::test]
async fn a_path_longer_than_the_kernel_takes_is_watched() {
    let name = "n".repeat(200);
    let mut world = world(|root| {
        let mut at = Root::open(root).unwrap().as_fd().try_clone_to_owned().unwrap();
        for _ in 0..30 {
            rustix::fs::mkdirat(&at, name.as_str(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, name.as_str(), flags, rustix::fs::Mode::empty()).unwrap();
        }
    });
    assert_eq!(world.armed, whole());
    let deep = vec![name.as_str(); 30].join("/");
    let root = Root::open(&world.root()).unwrap();
    let directory =
        root.open_directory(&TreePath::new(deep.as_str()).unwrap(), Mounts::Report, &root.mount_table()).unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&directory, "f", flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    world.hinted(&[&format!("{deep}/f")]).await;
}

#[tokio::test]
async fn a_root_that_goes_is_said() {
    for go in [(|root: &Path| fs::rename(root, root.with_file_name("other")).unwrap()) as fn(&Path), |root| {
        fs::remove_dir(root).unwrap()
    }] {
        let mut world = world(|_| {});
        go(&world.root());
        assert_eq!(world.next().await, Hint::Everything(Why::RootMoved));
    }
}

#[tokio::test]
async fn nothing_is_held_once_the_watcher_is_dropped() {
    let mut world = world(|root| fs::create_dir(root.join("d")).unwrap());
    let root = Arc::new(Root::open(&world.root()).unwrap());
    let (sender, mut hints) = channel();
    let (watcher, _) = arm(&"app".into(), watched(), &root, &sender).unwrap();
    drop(watcher);
    // The thread lets its end of the channel go as the last of all.
    drop(sender);
    let ended = async { while hints.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert_eq!(Arc::strong_count(&root), 1);
    world.watcher = None;
}

#[test]
fn a_root_that_is_not_there_any_more_is_no_error_but_said() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    drop(dir);
    let (sender, _hints) = channel();
    let (_, armed) = arm(&"app".into(), watched(), &root, &sender).unwrap();
    assert!(armed.unwatched > 0 && !armed.degraded.is_empty(), "{armed:?}");
}
