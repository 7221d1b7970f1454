//! Owns noticing what is mounted over a part of a root, or over the root itself: neither inotify nor fanotify tells of it. The
//! kernel says that a mount table changed (poll on /proc/PID/mountinfo), and what it is now is compared with what is as
//! wanted. Must not own what follows from a mount.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use driftlock_common::node::FileType;
use driftlock_common::path::{Escaped, TreePath};
use rustix::event::PollFlags;

use super::channel::{HintSender, Seen};
use super::place::Place;
use super::stop::stop;
use super::{Hint, Watched, Watcher, Why};
use crate::host::file_system::is_virtual;
use crate::host::mountinfo::{self, Mount, containing, relative, visible};
use crate::scan::{Mounts, Root};

/// A mount that hides what a target is compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cover {
    /// Where; the root if that is hidden itself, or lies in what is.
    pub path: TreePath,
    /// What is mounted there, in one line, escaped.
    pub what: String,
}

/// More are not told one by one: each is a gap of its own at the next look.
const MOST: usize = 64;
/// A table that keeps changing is not read more often than this.
const PAUSE: Duration = Duration::from_millis(100);
/// Nor does reading it take more than this part of the time: a host of containers has thousands of mounts.
const SHARE: u32 = 50;

/// What is looked for in a mount table.
#[derive(Debug)]
struct Lookout {
    /// Where the root lies in the table: absolute, without links.
    at: Vec<u8>,
    watched: Watched,
    /// What may be mounted inside, relative to the root.
    allowed: BTreeSet<TreePath>,
    /// The mount that the root lies in.
    below: Option<u64>,
}

/// What a table shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    /// In order of their paths.
    covers: Vec<Cover>,
    /// Mounts that are part of the root: by path, number and device.
    crossed: Vec<(TreePath, u64, (u32, u32))>,
}

/// Says what is mounted over `root`, now and whenever that changes, until the watcher is dropped. `allowed` is what may be
/// mounted inside.
///
/// # Errors
/// If the mount table cannot be read.
pub fn watch_mounts(
    target: &Arc<str>,
    watched: &Watched,
    allowed: BTreeSet<TreePath>,
    root: &Root,
    hints: &HintSender,
) -> io::Result<Box<dyn Watcher>> {
    let (at, table) = match root.process() {
        Some(process) => (b"/".to_vec(), format!("/proc/{}/mountinfo", process.pid())),
        None => {
            // The kernel knows where the directory lies, whatever links led to it.
            let link = std::fs::read_link(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()))?;
            (link.into_os_string().into_vec(), "/proc/self/mountinfo".to_owned())
        }
    };
    // Opened once: the descriptor keeps to the table of the process that it was opened for.
    let mut table = File::open(table)?;
    let mut lookout = Lookout { at, watched: watched.clone(), allowed, below: None };
    let mounts = read(&mut table)?;
    lookout.below = containing(&visible(&mounts), &lookout.at).map(|mount| mount.id);
    let mut known = lookout.view(&mounts);
    hints.send(target, Seen::Mounted(known.covers.clone()));
    let (going, stop) = stop()?;
    let (target, hints) = (target.clone(), hints.clone());
    let run = move || {
        loop {
            stop.wait_for(table.as_fd(), PollFlags::PRI);
            if stop.is_asked() {
                return;
            }
            let began = Instant::now();
            // What cannot be read now can be at the next change; sweeps find what it would have shown.
            if let Ok(mounts) = read(&mut table) {
                let now = lookout.view(&mounts);
                if now.covers != known.covers {
                    hints.send(&target, Seen::Mounted(now.covers.clone()));
                }
                if now.crossed != known.crossed {
                    hints.send(&target, Seen::Hint(Hint::Everything(Why::Mounted), None));
                }
                known = now;
            }
            stop.rest(PAUSE.max(began.elapsed() * SHARE));
        }
    };
    thread::Builder::new().name("mounts".to_owned()).spawn(run)?;
    Ok(Box::new(going))
}

fn read(table: &mut File) -> io::Result<Vec<Mount>> {
    let mut bytes = Vec::new();
    table.rewind()?;
    table.read_to_end(&mut bytes)?;
    mountinfo::parse(&bytes).map_err(io::Error::other)
}

impl Lookout {
    fn view(&self, mounts: &[Mount]) -> View {
        let visible = visible(mounts);
        let mut view = View::default();
        match containing(&visible, &self.at) {
            Some(mount) if self.below.is_none_or(|below| mount.id == below) => {}
            found => {
                let what = found.map_or_else(|| "nothing that could be read".to_owned(), what);
                view.covers.push(Cover { path: TreePath::root(), what });
                return view;
            }
        }
        let mut top: Option<TreePath> = None;
        for mount in visible {
            let Some(path) = relative(&mount.point, &self.at).filter(|path| !path.is_empty()) else { continue };
            let path = match self.watched.place(path) {
                Place::At(path) | Place::Below(path) => path,
                Place::Ignored => continue,
            };
            // Never come to: the one that it lies on is not entered.
            if top.as_ref().is_some_and(|top| path.is_within(top)) {
                continue;
            }
            let harmless = is_virtual(mount) && !self.hides_content(&path);
            match self.watched.mounts {
                Mounts::Cross if !is_virtual(mount) => {
                    view.crossed.push((path, mount.id, mount.device));
                    continue;
                }
                Mounts::Report | Mounts::Cross if !harmless && !self.allowed.contains(&path) => {
                    view.covers.push(Cover { path: path.clone(), what: what(mount) });
                }
                Mounts::Report | Mounts::Cross | Mounts::Skip => {}
            }
            top = Some(path);
        }
        let more = view.covers.len().saturating_sub(MOST);
        view.covers.truncate(MOST);
        if let Some(last) = view.covers.last_mut().filter(|_| more > 0) {
            last.what = format!("{}, and {more} more elsewhere", last.what);
        }
        view
    }

    /// Whether a file that is not empty was sealed there: the scanner lets not even the kernel's own hide that.
    fn hides_content(&self, path: &TreePath) -> bool {
        let Some(tree) = self.watched.left_out.sealed() else { return false };
        let hides = |id| tree.file_type(id) == FileType::File && tree.size(id).is_none_or(|size| size > 0);
        tree.find(path).is_some_and(|id| tree.subtree(id).any(hides))
    }
}

fn what(mount: &Mount) -> String {
    format!("{} ({}) is mounted there", Escaped(&mount.fs_type), Escaped(&mount.source))
}

#[cfg(test)]
mod tests;
