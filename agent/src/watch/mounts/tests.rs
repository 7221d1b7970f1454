//! What a mount table shows of a root: tables, and the kernel's own where a test may mount.

use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

use super::*;
use crate::baseline::LeftOut;
use crate::baseline::kit::{load, manifest};
use crate::host::mountinfo::parse;
use crate::watch::channel;

/// A root at `/srv/app` on the mount of `/`.
fn lookout(mounts: Mounts) -> Lookout {
    let sealed = manifest(Profile::Content, &["run/**"], &["proc/", "run/", "usr/", "usr/bin/", "usr/bin/app", "var/"]);
    let left_out = LeftOut::new(Some(Arc::new(load(&[sealed]).unwrap())), Excludes::new(["tmp"], []).unwrap());
    let allowed = BTreeSet::from([TreePath::new("data").unwrap()]);
    let watched = Watched { left_out, own_state: None, mounts, sealed: None };
    Lookout { at: b"/srv/app".to_vec(), watched, allowed, below: Some(20) }
}

fn table(lines: &[&str]) -> Vec<Mount> {
    let top = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
    parse(format!("{top}{}", lines.join("\n")).as_bytes()).unwrap()
}

fn covers(mounts: Mounts, lines: &[&str]) -> Vec<(String, String)> {
    let view = lookout(mounts).view(&table(lines));
    view.covers.into_iter().map(|cover| (cover.path.escaped().to_string(), cover.what)).collect()
}

const OVER_BIN: &str = "30 20 0:40 / /srv/app/usr/bin rw - tmpfs evil rw";

#[test]
fn what_hides_a_part_of_the_root_is_told() {
    for (name, lines, expected) in [
        ("nothing", &[][..], &[][..]),
        ("beside the root", &["30 20 0:40 / /srv/application rw - tmpfs none rw"], &[]),
        ("over a directory", &[OVER_BIN], &[("usr/bin", "tmpfs (evil) is mounted there")]),
        (
            "over a file",
            &["30 20 8:1 /x /srv/app/usr/bin/app rw - ext4 /dev/sda1 rw"],
            &[("usr/bin/app", "ext4 (/dev/sda1) is mounted there")],
        ),
        (
            "on what lies on it",
            &[OVER_BIN, "31 30 0:41 / /srv/app/usr/bin/x rw - tmpfs none rw"],
            &[("usr/bin", "tmpfs (evil) is mounted there")],
        ),
        (
            "covered itself",
            &[OVER_BIN, "31 20 0:41 / /srv/app/usr rw - tmpfs more rw"],
            &[("usr", "tmpfs (more) is mounted there")],
        ),
        (
            "allowed, with what lies on it",
            &["30 20 0:40 / /srv/app/data rw - xfs b rw", "31 30 0:9 / /srv/app/data/x rw - xfs c rw"],
            &[],
        ),
        (
            "left out",
            &["30 20 0:40 / /srv/app/run/a rw - tmpfs a rw", "31 20 0:9 / /srv/app/tmp/x rw - tmpfs c rw"],
            &[],
        ),
        ("the kernel's own", &["30 20 0:4 / /srv/app/proc rw - proc proc rw"], &[]),
        (
            "the kernel's own over what was sealed",
            &["30 20 0:4 / /srv/app/usr rw - proc proc rw"],
            &[("usr", "proc (proc) is mounted there")],
        ),
        ("over the root", &["30 20 0:40 / /srv/app rw - tmpfs n rw"], &[("", "tmpfs (n) is mounted there")]),
        ("over what it lies in", &["30 20 0:40 / /srv rw - tmpfs n rw"], &[("", "tmpfs (n) is mounted there")]),
        (
            "a hostile name",
            &["30 20 0:40 / /srv/app/a\\012\x1b rw - tmpfs e\\012vil rw"],
            &[("a\\x0a\\x1b", "tmpfs (e\\x0avil) is mounted there")],
        ),
    ] {
        let expected: Vec<(String, String)> =
            expected.iter().map(|(path, what): &(&str, &str)| ((*path).to_owned(), (*what).to_owned())).collect();
        assert_eq!(covers(Mounts::Report, lines), expected, "{name}");
    }
}

#[test]
fn what_is_left_out_or_walked_covers_nothing() {
    assert_eq!(covers(Mounts::Skip, &[OVER_BIN]), []);
    assert_eq!(covers(Mounts::Cross, &[OVER_BIN]), []);
    let crossed = |lines: &[&str]| lookout(Mounts::Cross).view(&table(lines)).crossed;
    let path = |text: &str| TreePath::new(text).unwrap();
    assert_eq!(crossed(&[OVER_BIN]), [(path("usr/bin"), 30, (0, 40))]);
    // What lies on a mount that is walked is walked too, but for what the kernel makes.
    let lines =
        [OVER_BIN, "31 30 0:41 / /srv/app/usr/bin/x rw - tmpfs none rw", "32 20 0:4 / /srv/app/proc rw - proc p rw"];
    assert_eq!(crossed(&lines), [(path("usr/bin"), 30, (0, 40)), (path("usr/bin/x"), 31, (0, 41))]);
    // The root itself may be hidden whatever is configured.
    let over = "30 20 0:40 / /srv/app rw - tmpfs n rw";
    assert!(covers(Mounts::Skip, &[over]).len() == 1 && covers(Mounts::Cross, &[over]).len() == 1);
}

#[test]
fn many_are_told_as_many() {
    let lines: Vec<String> =
        (0..MOST + 7).map(|n| format!("{} 20 0:40 / /srv/app/m{n:03} rw - tmpfs n rw", n + 30)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let covers = covers(Mounts::Report, &lines);
    assert_eq!(covers.len(), MOST);
    assert!(covers[MOST - 1].1.ends_with(", and 7 more elsewhere"), "{covers:?}");
}

#[tokio::test]
async fn what_there_is_at_first_is_told_and_nothing_is_held_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let watched = Watched { left_out: LeftOut::default(), own_state: None, mounts: Mounts::Report, sealed: None };
    let (sender, mut hints) = channel();
    let watcher = watch_mounts(&"app".into(), &watched, BTreeSet::new(), &root, &sender).unwrap();
    assert_eq!(hints.next().await, Some(("app".into(), Seen::Mounted(Vec::new()))));
    drop(watcher);
    // The thread lets its end of the channel go as the last of all.
    drop(sender);
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), hints.next()).await.unwrap(), None);
}
