//! What an attacker with write access below the root can do to a scan: slow it down, never lead it astray or stop it.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use driftlock_agent::scan::Options;
use driftlock_common::drift::{Change, Delta};
use driftlock_common::gap::Reason;
use driftlock_common::profile::Profile;
use libtest_mimic::Trial;
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;

use super::{child, root_trial, subject, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("attack::nothing_outside_the_root_is_opened_while_links_are_swapped_in", swapped_links),
        trial("attack::a_file_that_grows_while_it_is_read_is_never_clean", growing_file),
        trial("attack::a_fifo_is_never_opened", fifo),
        trial("attack::a_root_that_is_a_link_is_refused", linked_root),
        trial("attack::a_link_to_a_directory_is_not_walked", linked_directory),
        trial("attack::a_huge_sparse_file_is_not_read", sparse),
        root_trial("attack::what_cannot_be_read_is_a_gap_and_what_can_be_told_is_told", unreadable),
    ]
}

/// Runs `attack` over and over while `watched` runs to its end.
fn during<T>(attack: impl Fn() + Sync, watched: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                attack();
            }
        });
        let result = watched();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn swapped_links() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
    fs::create_dir_all(root.join("dir/sub"))?;
    fs::create_dir_all(outside.join("sub"))?;
    for name in ["a", "b", "sub/c"] {
        fs::write(root.join("dir").join(name), "inside")?;
        fs::write(outside.join(name), "canary")?;
    }
    fs::write(root.join("file"), "inside")?;
    fs::write(root.join("steady"), "inside")?;
    let manifest = subject::seal(&root, Profile::Portable)?;
    // Beside the root, on its file system, so that both are exchanged in one step.
    let (fake_dir, fake_file) = (root.join("zz-dir"), root.join("zz-file"));
    symlink(&outside, &fake_dir)?;
    symlink(outside.join("a"), &fake_file)?;

    let canary = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    for place in [&outside, &outside.join("sub")] {
        add_watch(&canary, place, WatchFlags::OPEN | WatchFlags::ACCESS)?;
    }
    let exchange = |a: &Path, b: &Path| {
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("both are there, on one file system");
    };
    during(
        || {
            exchange(&root.join("dir"), &fake_dir);
            exchange(&root.join("file"), &fake_file);
        },
        || {
            for _ in 0..300 {
                let (drifts, _) = subject::scan(&root, &manifest, &Options::default())?;
                let touched = |drift: &driftlock_common::drift::Drift| {
                    drift.path == subject::path("steady")
                        || matches!(&drift.delta, Delta::Added { observed, .. } if observed.kind == canary_content())
                };
                ensure!(!drifts.iter().any(touched), "{drifts:?}");
            }
            Ok(())
        },
    )?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    match Reader::new(&canary, &mut buffer).next() {
        Err(Errno::AGAIN) => Ok(()),
        Ok(event) => anyhow::bail!("the scan came outside: {event:?}"),
        Err(error) => Err(error.into()),
    }
}

fn canary_content() -> driftlock_common::node::Kind {
    let content = driftlock_common::digest::Digest::blake3(b"canary");
    driftlock_common::node::Kind::File { size: Some(6), content: Some(content) }
}

fn growing_file() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let path = temp.path().join("log");
    fs::write(&path, vec![0; 300_000])?;
    let manifest = subject::seal(temp.path(), Profile::Portable)?;
    let file = File::options().append(true).open(&path)?;
    // Changed before the first scan, so that no scan can find it as sealed.
    (&file).write_all(b"more")?;
    during(
        || (&file).write_all(&[1; 64]).expect("the disk has room"),
        || {
            for _ in 0..10 {
                let (drifts, outcome) = subject::scan(temp.path(), &manifest, &Options::default())?;
                ensure!(drifts.len() == 1, "{drifts:?}");
                match &drifts[0].delta {
                    // Between two writes it may hold still for long enough; then its size tells.
                    Delta::Changed { unverified: None, .. } => ensure!(outcome.complete()),
                    Delta::Unverifiable { reason: Reason::Unstable, .. } => ensure!(!outcome.complete()),
                    other => anyhow::bail!("{other:?}"),
                }
            }
            Ok(())
        },
    )
}

fn fifo() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let make = |name: &str| mknodat(CWD, temp.path().join(name), FileType::Fifo, Mode::from_raw_mode(0o644), 0);
    make("sealed")?;
    fs::write(temp.path().join("replaced"), "file")?;
    let manifest = subject::seal(temp.path(), Profile::Portable)?;
    fs::remove_file(temp.path().join("replaced"))?;
    make("replaced")?;
    make("added")?;
    let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    for name in ["sealed", "replaced", "added"] {
        add_watch(&events, temp.path().join(name), WatchFlags::OPEN)?;
    }
    let (drifts, _) = subject::scan(temp.path(), &manifest, &Options::default())?;
    ensure!(subject::words(&drifts) == ["added added", "changed replaced"], "{drifts:?}");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    ensure!(matches!(Reader::new(&events, &mut buffer).next(), Err(Errno::AGAIN)), "a FIFO was opened");
    Ok(())
}

fn linked_root() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::create_dir(temp.path().join("real"))?;
    symlink("real", temp.path().join("link"))?;
    for path in ["link", "link/", "link/."] {
        let error = driftlock_agent::scan::Root::open(&temp.path().join(path)).expect_err("a link");
        ensure!(error.to_string().ends_with("is a symbolic link: give the directory it leads to"), "{error}");
    }
    Ok(())
}

fn linked_directory() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    fs::create_dir_all(root.join("dir"))?;
    fs::write(root.join("dir/file"), "same")?;
    let manifest = subject::seal(&root, Profile::Portable)?;
    fs::rename(root.join("dir"), temp.path().join("elsewhere"))?;
    symlink("../elsewhere", root.join("dir"))?;
    let (drifts, _) = subject::scan(&root, &manifest, &Options::default())?;
    ensure!(subject::words(&drifts) == ["changed dir", "removed dir/file"], "{drifts:?}");
    Ok(())
}

fn sparse() -> Result<()> {
    const TERABYTE: u64 = 1 << 40;
    let temp = tempfile::tempdir()?;
    fs::write(temp.path().join("sealed"), "small")?;
    let manifest = subject::seal(temp.path(), Profile::Portable)?;
    for name in ["sealed", "added"] {
        File::options().create(true).append(true).open(temp.path().join(name))?.set_len(TERABYTE)?;
    }
    let options = Options { hash_limit: Some(1 << 20), ..Options::default() };
    let (drifts, outcome) = subject::scan(temp.path(), &manifest, &options)?;
    ensure!(subject::words(&drifts) == ["added added", "changed sealed"], "{drifts:?}");
    for drift in &drifts {
        let (Delta::Added { unverified, .. } | Delta::Changed { unverified, .. }) = &drift.delta else {
            anyhow::bail!("{drift:?}")
        };
        ensure!(unverified.is_some_and(|unverified| unverified.reason == Reason::TooLarge), "{drift:?}");
        ensure!(drift.exit_bits() & Change::Unverifiable as u8 != 0);
    }
    ensure!(!outcome.complete() && outcome.stats.bytes_hashed == 0);
    Ok(())
}

fn unreadable() -> Result<()> {
    let temp = tempfile::tempdir()?;
    fs::set_permissions(temp.path(), Permissions::from_mode(0o755))?;
    let root = temp.path().join("root");
    for name in ["closed/a/b", "mode/a/b", "searchless/a", "open"] {
        fs::create_dir_all(root.join(name))?;
        fs::write(root.join(name).join("file"), name)?;
    }
    for name in ["secret", "secret-mode", "secret-size"] {
        fs::write(root.join(name), name)?;
    }
    let mode = |name: &str, mode| fs::set_permissions(root.join(name), Permissions::from_mode(mode));
    for name in ["secret", "secret-size"] {
        mode(name, 0o600)?;
    }
    mode("closed", 0o700)?;
    let manifest = subject::seal(&root, Profile::Portable)?;
    // Not what was sealed, and closed.
    mode("mode", 0o700)?;
    mode("secret-mode", 0o600)?;
    fs::write(root.join("secret-size"), "another size")?;
    fs::create_dir(root.join("new"))?;
    mode("new", 0o700)?;
    fs::write(root.join("new-file"), "")?;
    mode("new-file", 0o600)?;
    // Names can be read, what they name cannot.
    mode("searchless", 0o744)?;
    let file = temp.path().join("manifest");
    fs::write(&file, manifest.encode())?;
    let found = child::output(child::unprivileged(&mut child::scanning(&root, &file, 0, "report")))?;
    let expected = [
        "unverifiable closed denied 4",
        "changed mode denied",
        "unverifiable mode/a denied 3",
        "added new denied",
        "added new-file denied",
        "changed searchless",
        "unverifiable searchless/a denied 2",
        "unverifiable secret denied 1",
        "changed secret-mode denied",
        "changed secret-size denied",
        "incomplete full []",
    ];
    ensure!(found == expected, "{found:#?}");
    Ok(())
}
