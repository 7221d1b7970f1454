//! The ladder on the real kernel, on a file system that no version of it lets be marked.

use std::path::Path;

use driftlock_common::pattern::Excludes;

use super::*;
use crate::baseline::LeftOut;
use crate::scan::Mounts;
use crate::watch::channel;

/// Small, there wherever there is a terminal, and without handles of files.
const UNMARKABLE: &str = "/dev/pts";

fn armed(mode: Mode, root: &Path) -> Armed {
    let left_out = LeftOut::new(None, Excludes::none());
    let watched = Watched { left_out, own_state: None, mounts: Mounts::Report, sealed: None };
    let (sender, _hints) = channel();
    arm(mode, &"app".into(), &watched, &Arc::new(Root::open(root).unwrap()), &sender).1
}

fn check_at(mode: Mode, root: &Path) -> Result<(), Refusal> {
    check(mode, &Arc::new(Root::open(root).unwrap()))
}

#[test]
fn what_is_refused_leads_to_the_next_rung_and_is_no_trouble() {
    let armed = armed(Mode::Auto, Path::new(UNMARKABLE));
    assert_eq!((armed.mode, armed.degraded.as_str(), armed.unwatched), (WatchMode::Inotify, "", 0));
    let [refused] = &*armed.refused else { panic!("{armed:?}") };
    assert_eq!(refused.mode, WatchMode::Fanotify);
    assert!(!refused.why.is_empty() && !refused.remedy.is_empty(), "{refused:?}");
    assert_eq!(check_at(Mode::Auto, Path::new(UNMARKABLE)), Ok(()));
}

#[test]
fn a_way_that_was_asked_for_is_not_replaced_in_silence() {
    let armed = armed(Mode::Fanotify, Path::new(UNMARKABLE));
    assert_eq!((armed.mode, armed.blind.first()), (WatchMode::Sweep, Armed::nothing().blind.first()));
    let refused = check_at(Mode::Fanotify, Path::new(UNMARKABLE)).unwrap_err();
    assert_eq!(armed.refused, std::slice::from_ref(&refused));
    assert_eq!(armed.degraded, refused.to_string());
    assert!(armed.degraded.starts_with("fanotify cannot be used: ") && armed.unwatched > 0, "{armed:?}");
}

#[test]
fn only_what_was_asked_for_is_tried() {
    let dir = tempfile::tempdir().unwrap();
    let inotify = armed(Mode::Inotify, dir.path());
    assert_eq!((inotify.mode, inotify.refused.len(), inotify.degraded.as_str()), (WatchMode::Inotify, 0, ""));
    assert_eq!(check_at(Mode::Inotify, dir.path()), Ok(()));
    assert_eq!(armed(Mode::Sweep, dir.path()), Armed::nothing());
    assert_eq!(check_at(Mode::Sweep, dir.path()), Ok(()));
}

#[test]
fn a_refusal_says_in_one_line_what_would_help() {
    for (mode, error, line) in [
        (
            WatchMode::Fanotify,
            Errno::PERM,
            "fanotify cannot be used: Operation not permitted: it takes CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH outside of any \
             user namespace, and no filter of system calls against it (fanotify.conf of the package's examples)",
        ),
        (
            WatchMode::Fanotify,
            Errno::OPNOTSUPP,
            "fanotify cannot be used: Operation not supported: its file system has no lasting names of directories; an \
             overlay has them when mounted with nfs_export=on",
        ),
        (
            WatchMode::Inotify,
            Errno::MFILE,
            "inotify cannot be used: Too many open files: raise fs.inotify.max_user_instances, or the limit of open files",
        ),
        (WatchMode::Inotify, Errno::IO, "inotify cannot be used: Input/output error"),
    ] {
        assert_eq!(Refusal::new(mode, &error.into()).to_string(), line);
    }
    let other = Refusal::new(WatchMode::Fanotify, &io::Error::other("its events cannot be read"));
    assert_eq!(other.to_string(), "fanotify cannot be used: its events cannot be read");
}
