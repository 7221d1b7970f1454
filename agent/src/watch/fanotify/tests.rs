//! Watching on the real kernel: every change below a root gives a hint, whichever way it was reached.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

use super::*;
use crate::baseline::LeftOut;
use crate::baseline::kit::{load, manifest};
use crate::scan::{Inodes, Mounts};
use crate::watch::{Actor, Hint, Hints, Names, Seen as Told, Watcher, channel};

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

/// Whether there is nothing to test, because only the host's root is granted a group without limits. That is shown, and where
/// everything is required, it fails.
#[expect(clippy::print_stderr, reason = "a test that was not run is shown")]
fn is_refused() -> bool {
    let is_refused = matches!(
        Group::new(&Terms { queues: &Terms::ALL.queues[..1], ..Terms::ALL }),
        Err(Refusal::Group(Errno::EPERM))
    );
    let required = std::env::var_os("DRIFTLOCK_TEST_REQUIRE").is_some_and(|value| value == "all");
    assert!(!(is_refused && required), "fanotify takes CAP_SYS_ADMIN");
    if is_refused {
        eprintln!("not tested: fanotify takes CAP_SYS_ADMIN");
    }
    is_refused
}

/// What kernels before Linux 5.17 grant.
const LESS: Terms = Terms {
    reports: &[libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID],
    queues: &[InitFlags::empty()],
    renames: &[MaskFlags::FAN_MOVE],
};

/// Watches `root`, a directory in a temporary one, after `prepare` has filled it. In a group of its own, which was told of
/// nothing before that.
fn world(prepare: impl FnOnce(&Path)) -> World {
    world_of(watched(), prepare, |root, watched, sender| {
        join(Running::start(Group::new(&Terms::ALL)?)?, &"app".into(), watched, root, sender)
    })
}

fn world_of(
    watched: Watched,
    prepare: impl FnOnce(&Path),
    arm: impl FnOnce(&Arc<Root>, Watched, &HintSender) -> Result<Rung, Refusal>,
) -> World {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    prepare(&root);
    let (sender, hints) = channel();
    let (watcher, armed) = arm(&Arc::new(Root::open(&root).unwrap()), watched, &sender).unwrap();
    World { dir, hints, armed, watcher: Some(watcher) }
}

impl World {
    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    async fn next(&mut self) -> Hint {
        let next = tokio::time::timeout(Duration::from_secs(20), self.hints.next()).await;
        match next.expect("no hint within 20 s") {
            Some((_, Told::Hint(hint, _))) => hint,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until every path is covered by a hint.
    async fn hinted(&mut self, paths: &[&str]) {
        self.hinted_at(paths.iter().map(|path| TreePath::new(*path).unwrap()).collect()).await;
    }

    async fn hinted_at(&mut self, mut missing: Vec<TreePath>) {
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
    Armed { mode: WatchMode::Fanotify, blind: BLIND.to_vec(), ..Armed::nothing() }
}

#[tokio::test]
async fn every_kind_of_change_gives_a_hint() {
    if is_refused() {
        return;
    }
    for terms in [Terms::ALL, LESS] {
        every_kind_of_change(terms).await;
    }
}

async fn every_kind_of_change(terms: Terms) {
    let prepare = |root: &Path| {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::write(root.join("d/f"), "1").unwrap();
        fs::write(root.join("d/g"), "1").unwrap();
    };
    let mut world = world_of(watched(), prepare, |root, watched, sender| {
        join(Running::start(Group::new(&terms)?)?, &"app".into(), watched, root, sender)
    });
    assert_eq!(world.armed, whole());
    let root = world.root();
    fs::write(root.join("d/f"), "2").unwrap();
    world.hinted(&["d/f"]).await;
    fs::set_permissions(root.join("d/e"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    world.hinted(&["d/e"]).await;
    fs::rename(root.join("d/f"), root.join("d/g")).unwrap();
    world.hinted(&["d/f", "d/g"]).await;
    let hostile = std::ffi::OsStr::from_bytes(b"\xff \n (deleted)");
    fs::create_dir(root.join(hostile)).unwrap();
    fs::write(root.join(hostile).join("x"), "1").unwrap();
    world.hinted_at(vec![TreePath::new(b"\xff \n (deleted)/x".to_vec()).unwrap()]).await;
    fs::create_dir(root.join("d/other")).unwrap();
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, root.join("d/other"), rustix::fs::CWD, root.join("d/g"), exchange)
        .unwrap();
    world.hinted(&["d/other/below", "d/g/below"]).await;
    fs::rename(root.join("d/other"), root.join("d/g.new")).unwrap();
    fs::remove_dir(root.join("d/g")).unwrap();
    fs::rename(root.join("d/g.new"), root.join("d/g")).unwrap();
    world.hinted(&["d/g.new", "d/g"]).await;
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
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
    if is_refused() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(dir.path()).unwrap());
    drop(dir);
    let (sender, _hints) = channel();
    let (_, armed) = arm(&"app".into(), watched(), &root, &sender).unwrap();
    assert!(armed.unwatched > 0 && !armed.degraded.is_empty(), "{armed:?}");
}

/// `script` in a mount namespace of its own, so that nothing that it mounts is seen elsewhere.
fn elsewhere(script: &str, dir: &Path) {
    let shell = ["-m", "--propagation", "private", "sh", "-ec", script];
    assert!(Command::new("unshare").args(shell).current_dir(dir).status().unwrap().success(), "{script}");
}

#[tokio::test]
async fn what_is_written_through_another_mount_in_another_namespace_gives_a_hint() {
    if is_refused() {
        return;
    }
    let mut world = world(|root| fs::create_dir_all(root.join("a/b")).unwrap());
    elsewhere("mkdir m && mount --bind root/a m && mkdir m/b/c && echo 1 > m/b/c/f", world.dir.path());
    world.hinted(&["a/b/c/f"]).await;
}

#[tokio::test]
async fn every_sealed_name_of_a_file_is_hinted_at_whichever_of_its_names_it_is_changed_through() {
    if is_refused() {
        return;
    }
    let baseline = Arc::new(load(&[manifest(Profile::Content, &[], &["f", "g"])]).unwrap());
    let inodes = Arc::new(Inodes::of(&baseline.manifest().tree));
    let watched = Watched { sealed: Some(Names::new(baseline.clone(), inodes.clone())), ..watched() };
    let prepare = |root: &Path| {
        fs::write(root.join("f"), "1").unwrap();
        fs::hard_link(root.join("f"), root.join("g")).unwrap();
        let inode = root.join("f").metadata().unwrap().ino();
        for name in ["f", "g"] {
            let id = baseline.manifest().tree.find(&TreePath::new(name).unwrap()).unwrap();
            inodes.note(id, inode);
        }
    };
    let mut world = world_of(watched, prepare, |root, watched, sender| arm(&"app".into(), watched, root, sender));
    let (root, alias) = (world.root(), world.dir.path().join("alias"));
    fs::hard_link(root.join("f"), &alias).unwrap();
    world.hinted(&["f", "g"]).await;
    fs::write(root.join("end"), "").unwrap();
    world.until("end").await;
    fs::write(&alias, "2").unwrap();
    world.hinted(&["f", "g"]).await;
    fs::write(root.join("end2"), "").unwrap();
    world.until("end2").await;
    // Through one of the sealed names, the other is changed too.
    fs::write(root.join("g"), "3").unwrap();
    world.hinted(&["f", "g"]).await;
    // Of another file outside nothing is said.
    fs::write(world.dir.path().join("other"), "1").unwrap();
    fs::write(root.join("end3"), "").unwrap();
    let told = world.until("end3").await;
    let sealed = ["f", "g"].map(|path| TreePath::new(path).unwrap());
    assert!(told.iter().all(|hint| sealed.iter().any(|path| covers(hint, path))), "{told:?}");
}

#[test]
fn nothing_is_lost_while_nobody_reads() {
    if is_refused() {
        return;
    }
    const FILES: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let group = Group::new(&Terms::ALL).unwrap();
    let (sender, _hints) = channel();
    let root = Root::open(dir.path()).unwrap();
    let tree = Tree::new(&"app".into(), watched(), &root, &sender).unwrap();
    tree.mounts().iter().for_each(|mount| group.mark(mount).unwrap());
    // More than the host's limit for queues that have one.
    for n in 0..FILES {
        rustix::fs::mknodat(
            &root,
            format!("{n}"),
            rustix::fs::FileType::RegularFile,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
    }
    let (mut told, mut buffer) = (std::collections::BTreeSet::new(), vec![0; BUFFER]);
    while let Ok(len) = rustix::io::read(&group.kernel, &mut buffer) {
        for event in Events::new(&buffer[..len]) {
            let event = event.unwrap();
            assert_eq!(event.mask & libc::FAN_Q_OVERFLOW, 0);
            told.extend(event.entry.and_then(|entry| std::str::from_utf8(entry.name).ok()?.parse::<usize>().ok()));
        }
    }
    assert!((0..FILES).all(|n| told.contains(&n)), "{} of {FILES}", told.len());
}

#[tokio::test]
async fn what_finds_no_room_in_the_queue_is_everything() {
    if is_refused() {
        return;
    }
    let limit: usize = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap().trim().parse().unwrap();
    let running = Running::start(Group::new(&LESS).unwrap()).unwrap();
    let group = running.group.clone();
    let mut world =
        world_of(watched(), |_| {}, |root, watched, sender| join(running, &"app".into(), watched, root, sender));
    {
        // Whoever reads cannot go on.
        let _held = lock(&group.trees);
        let other = world.dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let other = fs::File::open(other).unwrap();
        for n in 0..limit + BUFFER / METADATA {
            let name = format!("{n}");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(&other, name, rustix::fs::FileType::RegularFile, mode, 0).unwrap();
        }
    }
    assert_eq!(world.next().await, Hint::Everything(Why::Overflow));
}

/// The least length of an event.
const METADATA: usize = 24;

#[test]
fn what_cannot_be_watched_is_refused_with_the_reason() {
    if is_refused() {
        return;
    }
    let (sender, _hints) = channel();
    for root in ["/proc", "/sys"] {
        let root = Arc::new(Root::open(Path::new(root)).unwrap());
        let refusal = arm(&"app".into(), watched(), &root, &sender).unwrap_err();
        assert!(matches!(refusal, Refusal::Mark(Errno::EOPNOTSUPP)), "{refusal:?} of {root:?}");
    }
}

#[tokio::test]
async fn a_directory_above_that_is_moved_away_is_said() {
    if is_refused() {
        return;
    }
    let mut world = world(|_| {});
    let dir = world.dir.path().to_owned();
    fs::rename(&dir, dir.with_extension("moved")).unwrap();
    assert_eq!(world.next().await, Hint::Everything(Why::RootMoved));
    fs::rename(dir.with_extension("moved"), &dir).unwrap();
}

/// What is at and below a directory, by path: type, inode, content.
fn snapshot(top: &Path) -> std::collections::BTreeMap<TreePath, (bool, u64, Vec<u8>)> {
    let below = walkdir::WalkDir::new(top).into_iter().map(Result::unwrap);
    below
        .map(|entry| {
            let path = entry.path().strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
            let content = if entry.file_type().is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            let is_directory = entry.file_type().is_dir();
            (TreePath::new(path).unwrap(), (is_directory, entry.metadata().unwrap().ino(), content))
        })
        .collect()
}

/// Whatever is done, every path that is another than before is hinted at.
#[tokio::test]
async fn what_changed_is_covered_whatever_was_done() {
    if is_refused() {
        return;
    }
    let mut world = world(|root| fs::create_dir(root.join("../outside")).unwrap());
    let (root, outside) = (world.root(), world.dir.path().join("outside"));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let names = ["a", "b", "c", "a/a", "a/b", "b/a", "b/b/c", "a/a/a", "c/a/b"];
    for round in 0..30 {
        let before = snapshot(&root);
        let place = |rng: &mut dyn FnMut(usize) -> usize| {
            let top = if rng(3) == 0 { &outside } else { &root };
            top.join(names[rng(names.len())])
        };
        let mut draw = |below: usize| {
            use proptest::prelude::Rng as _;
            usize::try_from(runner.rng().next_u32()).unwrap() % below
        };
        for step in 0..40 {
            let (one, two) = (place(&mut draw), place(&mut draw));
            // What cannot be done is not done.
            let _done = match draw(6) {
                0 => fs::create_dir_all(&one),
                1 | 2 => fs::write(&one, format!("{round} {step}")),
                3 => fs::rename(&one, &two),
                4 => fs::remove_file(&one),
                _ => fs::remove_dir_all(&one),
            };
        }
        let after = snapshot(&root);
        let end = format!("end{round}");
        fs::write(root.join(&end), "").unwrap();
        let told = world.until(&end).await;
        let paths: std::collections::BTreeSet<&TreePath> = before.keys().chain(after.keys()).collect();
        for path in paths.into_iter().filter(|path| before.get(path) != after.get(path)) {
            assert!(told.iter().any(|hint| covers(hint, path)), "round {round}: {path:?} is in none of {told:?}");
        }
    }
}

#[tokio::test]
async fn who_did_it_is_told() {
    if is_refused() {
        return;
    }
    let mut world = world(|_| {});
    fs::write(world.root().join("f"), "1").unwrap();
    let own = Actor { pid: std::process::id() };
    let next = tokio::time::timeout(Duration::from_secs(20), world.hints.next()).await.unwrap();
    assert_eq!(next.unwrap().1, Told::Hint(Hint::Subtree(TreePath::new("f").unwrap()), Some(own)));
}

#[tokio::test]
async fn what_one_target_leaves_is_still_watched_for_another() {
    if is_refused() {
        return;
    }
    let prepare = |root: &Path| fs::create_dir(root.join("d")).unwrap();
    let mut world = world_of(watched(), prepare, |root, watched, sender| arm(&"app".into(), watched, root, sender));
    let (sender, mut hints) = channel();
    let root = Arc::new(Root::open(&world.root().join("d")).unwrap());
    let (watcher, _) = arm(&"other".into(), watched(), &root, &sender).unwrap();
    fs::write(world.root().join("d/f"), "1").unwrap();
    world.hinted(&["d/f"]).await;
    let wanted = Told::Hint(Hint::Subtree(TreePath::new("f").unwrap()), Some(Actor { pid: std::process::id() }));
    // The group may still have been told of what was made before.
    while tokio::time::timeout(Duration::from_secs(20), hints.next()).await.unwrap().unwrap().1 != wanted {}
    drop(watcher);
    fs::write(world.root().join("d/g"), "1").unwrap();
    world.hinted(&["d/g"]).await;
}
