//! Owns what an event means to one target: which hints it gives. Must not own where events come from.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use driftlock_common::path::TreePath;
use nix::sys::fanotify::MaskFlags;
use rustix::fs::{Mode, OFlags, fstat, fstatvfs, openat};

use super::decode::{Entry, Event, Object};
use super::directories::{Directories, Seen, Spot, join, path};
use super::inode::Form;
use crate::host::mountinfo::points_below;
use crate::scan::{Mounts, Root};
use crate::sys::handle::{Handle, name_to_handle, open_handle};
use crate::watch::place::Place;
use crate::watch::{Actor, Hint, HintSender, Seen as Told, Watched, Why};

/// What changes an entry without making it another one.
const CHANGE: MaskFlags = MaskFlags::FAN_CLOSE_WRITE.union(MaskFlags::FAN_ATTRIB).union(MaskFlags::FAN_ONDIR);
/// What moves a directory.
const MOVE: MaskFlags = MaskFlags::FAN_RENAME.union(MaskFlags::FAN_MOVE);

/// One target.
#[derive(Debug)]
pub(super) struct Tree {
    target: Arc<str>,
    watched: Watched,
    hints: HintSender,
    mounts: Vec<Seen>,
    forms: BTreeMap<u64, Form>,
    /// The root and the directories above it, as far as its file system goes, the root first.
    way: Vec<Step>,
    directories: Directories,
}

/// A directory above, and a name in it that leads to the root.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    fsid: u64,
    kind: i32,
    handle: Vec<u8>,
    name: Vec<u8>,
}

impl Tree {
    /// Of `root`, with the file systems mounted inside it that are to be watched too.
    ///
    /// # Errors
    /// If its file system or the way to it cannot be told.
    pub(super) fn new(target: &Arc<str>, watched: Watched, root: &Root, hints: &HintSender) -> io::Result<Self> {
        // One that only names the directory is not good enough for opening handles.
        let top = openat(root, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let (kind, handle) = name_to_handle(top.as_fd(), c"")?;
        open_handle(top.as_fd(), Handle { kind, bytes: &handle })?;
        let mut mounts = vec![seen(b"", top)?];
        if watched.mounts == Mounts::Cross {
            mounts.extend(mounted_inside(root)?);
        }
        let forms = mounts.iter().map(|mount| (mount.fsid, Form::of(mount.top.as_fd()))).collect();
        let way = way(root, mounts[0].fsid)?;
        let directories = Directories::default();
        Ok(Self { target: target.clone(), watched, hints: hints.clone(), mounts, forms, way, directories })
    }

    /// The file systems of this target, by a directory on each.
    pub(super) fn mounts(&self) -> &[Seen] {
        &self.mounts
    }

    /// Whether the names that lead to the root still do.
    pub(super) fn is_where_it_was(&self, root: &Root) -> bool {
        way(root, self.mounts[0].fsid).is_ok_and(|way| way == self.way)
    }

    /// Hints at what an event is about, if that is of this target.
    pub(super) fn event(&mut self, event: &Event<'_>) {
        let mask = MaskFlags::from_bits_retain(event.mask);
        let actor = Actor { pid: u32::try_from(event.pid).unwrap_or_default() };
        if self.hint_at(event, mask, actor).is_err() {
            self.send(Hint::Everything(Why::Failed), Some(actor));
        }
    }

    /// Hints at everything.
    pub(super) fn everything(&self, why: Why) {
        self.send(Hint::Everything(why), None);
    }

    fn hint_at(&mut self, event: &Event<'_>, mask: MaskFlags, actor: Actor) -> io::Result<()> {
        let is_change = mask.difference(CHANGE).is_empty();
        let is_directory = mask.contains(MaskFlags::FAN_ONDIR);
        let mut entries: Vec<Entry<'_>> = [event.entry, event.old, event.new].into_iter().flatten().collect();
        if entries.is_empty() && is_directory {
            entries.extend(event.object.map(|directory| Entry { directory, name: b"" }));
        }
        let mut hinted: Vec<TreePath> = Vec::new();
        let mut touches_inside = false;
        for entry in entries {
            let name = if entry.name == b"." { b"" } else { entry.name };
            match self.way.iter().position(|step| step.leads(&entry.directory, name)) {
                Some(_) if !is_change => {
                    self.send(Hint::Everything(Why::RootMoved), Some(actor));
                    return Ok(());
                }
                Some(0) => self.send(Hint::Touched(TreePath::root()), Some(actor)),
                Some(_) | None => {}
            }
            let spots = self.directories.spots(&self.mounts, &entry.directory)?;
            touches_inside |= !spots.is_empty();
            let mut mounts_moved = false;
            let mut found = Vec::new();
            for spot in spots {
                let (path, is_whole) = match spot {
                    Spot::At(path) => (join(path, name), true),
                    Spot::Below(path) => (path.to_vec(), false),
                };
                mounts_moved |=
                    !is_change && is_directory && self.mounts.iter().any(|mount| is_above(&path, &mount.at));
                found.push(match self.watched.place(&path) {
                    Place::At(at) if is_whole && is_change => Hint::Touched(at),
                    Place::At(at) | Place::Below(at) => Hint::Subtree(at),
                    Place::Ignored => continue,
                });
            }
            for hint in found {
                if let Hint::Touched(at) | Hint::Subtree(at) = &hint {
                    hinted.push(at.clone());
                }
                self.send(hint, Some(actor));
            }
            if mounts_moved {
                self.send(Hint::Everything(Why::RootMoved), Some(actor));
            }
        }
        if is_directory {
            if touches_inside && mask.intersects(MOVE) {
                self.directories.moved();
            }
        } else if let Some(object) = &event.object {
            self.hint_at_names(object, &hinted, actor)?;
        }
        Ok(())
    }

    /// Hints at every sealed path that is a name of a file, but for those that were.
    fn hint_at_names(&self, object: &Object<'_>, hinted: &[TreePath], actor: Actor) -> io::Result<()> {
        let Some(sealed) = &self.watched.sealed else { return Ok(()) };
        let Some(mount) = self.mounts.iter().find(|mount| mount.fsid == object.fsid) else { return Ok(()) };
        let form = self.forms.get(&object.fsid).copied().unwrap_or(Form::Unknown);
        let Some(number) = form.number(mount.top.as_fd(), object)? else { return Ok(()) };
        for path in sealed.of(number) {
            if !hinted.contains(&path)
                && let Place::At(at) = self.watched.place(path.as_bytes())
            {
                self.send(Hint::Touched(at), Some(actor));
            }
        }
        Ok(())
    }

    fn send(&self, hint: Hint, actor: Option<Actor>) {
        self.hints.send(&self.target, Told::Hint(hint, actor));
    }
}

impl Step {
    fn leads(&self, directory: &Object<'_>, name: &[u8]) -> bool {
        (self.fsid, self.kind, &*self.handle, &*self.name) == (directory.fsid, directory.kind, directory.handle, name)
    }
}

/// Whether something is mounted below a path.
fn is_above(path: &[u8], mount: &[u8]) -> bool {
    !mount.is_empty() && mount.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn seen(at: &[u8], top: OwnedFd) -> io::Result<Seen> {
    Ok(Seen { fsid: fstatvfs(&top)?.f_fsid, at: at.into(), top })
}

/// What is mounted inside a root and can be opened.
fn mounted_inside(root: &Root) -> io::Result<Vec<Seen>> {
    let top = if root.process().is_some() { b"/".to_vec() } else { path(root.as_fd())? };
    let table = root.mounts().map_err(io::Error::other)?;
    let points = points_below(&table, &top).map_err(io::Error::other)?;
    let kernels_own = root.mount_table();
    let mut found = Vec::new();
    for point in points {
        // What the kernel makes is not looked at; what is not there any more gives nothing to watch.
        if let Ok(opened) = root.open_directory(&point, Mounts::Cross, &kernels_own) {
            found.push(seen(point.as_bytes(), opened)?);
        }
    }
    Ok(found)
}

/// The names that lead to a root from the top of its file system, the last first.
fn way(root: &Root, fsid: u64) -> io::Result<Vec<Step>> {
    let mut names = path(root.as_fd())?;
    let mut way = Vec::new();
    let mut below = fstat(root)?;
    let mut at = root.as_fd().try_clone_to_owned()?;
    while let Some(slash) = names.iter().rposition(|byte| *byte == b'/') {
        let name = names.split_off(slash + 1);
        names.truncate(slash);
        let above = openat(&at, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&above)?;
        if name.is_empty() || stat.st_dev != below.st_dev || stat.st_ino == below.st_ino {
            break;
        }
        let (kind, handle) = name_to_handle(above.as_fd(), c"")?;
        way.push(Step { fsid, kind, handle, name });
        (at, below) = (above, stat);
    }
    Ok(way)
}
