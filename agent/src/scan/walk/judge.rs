//! Owns what each thing met on the way means against what was sealed there. Must not own finding it.

use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use driftlock_common::drift::{Attribute, Unverified};
use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Kind, Node, Presence};
use driftlock_common::path::TreePath;
use driftlock_common::policy::Privilege;
use driftlock_common::tree::EntryId;

use super::super::directory::Directory;
use super::super::growing::Grower;
use super::super::look::{Seen, Wish};
use super::super::open::{Stat, Trouble, stat_at};
use super::Walk;

impl Walk<'_> {
    pub(super) fn directory_unopened(&self, stat: &Stat, want: Presence, reason: Reason) -> Seen {
        let mut seen = self.look.of_stat(stat);
        seen.miss_all(want, reason);
        seen
    }

    /// Compares what is there with what was sealed there; whether there is a finding about that path.
    pub(super) fn judge(&self, path: &dyn Fn() -> TreePath, sealed: Option<EntryId>, seen: Seen) -> bool {
        self.count(sealed);
        if let Some(bytes) = seen.hashed {
            self.met.files_hashed.fetch_add(1, Ordering::Relaxed);
            self.met.bytes_hashed.fetch_add(bytes, Ordering::Relaxed);
        }
        if let Some(bytes) = seen.unread {
            self.met.unjudged.fetch_add(1, Ordering::Relaxed);
            self.met.unjudged_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let Some(id) = sealed else {
            self.sink.added(path(), seen);
            return true;
        };
        let attributes = self.look.compared.differences(&self.tree.node(id), &seen.node);
        if let Some(sweep) = &self.sweep {
            match &seen.stat {
                // What was not read is not as sealed for all that is known, under another policy too.
                Some(stat) if attributes.is_empty() && seen.unverified.is_none() && seen.unread.is_none() => {
                    sweep.remember(id, stat);
                }
                _ => sweep.forget(id),
            }
        }
        if attributes.contains(Attribute::Type) {
            self.tree.children(id).for_each(|child| self.sink.removed(child));
        } else if attributes.is_empty() {
            if let Some(Unverified { reason, .. }) = seen.unverified {
                self.gap(path(), sealed, reason, 1);
                return true;
            }
            return false;
        }
        self.sink.changed(path(), id, attributes, seen);
        true
    }

    /// Before anything is read: what is changed after it through another name is then known to be changed.
    pub(super) fn note(&self, sealed: Option<EntryId>, stat: &Stat) {
        if let (Some(inodes), Some(id)) = (&self.options.inodes, sealed) {
            inodes.note(id, stat.ino);
        }
    }

    /// Whether `sealed` was as sealed when it was last read, and nothing moved since: then there is nothing to read.
    pub(super) fn is_as_remembered(&self, sealed: Option<EntryId>, stat: &Stat) -> bool {
        let relied = sealed.filter(|id| self.sweep.as_ref().is_some_and(|sweep| sweep.relies_on(*id, stat)));
        if relied.is_some() {
            self.count(sealed);
        }
        if relied.is_some_and(|id| id != EntryId::ROOT) {
            self.met.remembered.fetch_add(1, Ordering::Relaxed);
        }
        relied.is_some()
    }

    fn count(&self, sealed: Option<EntryId>) {
        if sealed != Some(EntryId::ROOT) {
            self.met.entries.fetch_add(1, Ordering::Relaxed);
            if let Some(progress) = &self.options.progress {
                progress.count_entry();
            }
        }
    }

    /// A directory whose names cannot be read.
    pub(super) fn unreadable(&self, directory: &Directory, sealed: Option<EntryId>, reason: Reason) {
        let want = self.want(sealed, FileType::Directory);
        let mut seen = self.directory_unopened(directory.stat(), want, reason);
        seen.miss(Attribute::Content, reason);
        let same = |id| self.look.compared.differences(&self.tree.node(id), &seen.node).is_empty();
        match sealed {
            Some(id) if same(id) => self.gap(directory.path(), sealed, reason, self.covers(sealed)),
            Some(id) if self.tree.file_type(id) == FileType::Directory => {
                // One finding for each path: the directory's own differences are known, what is in it is not.
                for child in self.tree.children(id) {
                    let path = self.tree.path(child);
                    if !self.options.local_excludes.excludes_entry(&path) {
                        self.gap(path, Some(child), reason, self.covers(Some(child)));
                    }
                }
                self.judge(&|| directory.path(), sealed, seen);
            }
            Some(_) | None => {
                self.judge(&|| directory.path(), sealed, seen);
            }
        }
    }

    /// A name whose directory cannot be found again.
    pub(super) fn out_of_reach(&self, directory: &Directory, name: &CStr, sealed: Option<EntryId>, trouble: Trouble) {
        if !self.is_excluded(directory, name, sealed) {
            match trouble {
                Trouble::Gone => self.gone(sealed),
                Trouble::Moved | Trouble::Mount | Trouble::Interrupted | Trouble::Gap(_) => {
                    self.gap(directory.path_of(name), sealed, trouble.reason(), self.covers(sealed));
                }
            }
        }
    }

    /// A name at which something is mounted that is not to be entered.
    pub(super) fn mount_point(&self, directory: &Directory, name: &CStr, sealed: Option<EntryId>, file_type: FileType) {
        let path = directory.path_of(name);
        let push = |to: &Mutex<Vec<TreePath>>| {
            to.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        };
        if self.is_virtual(directory, name) && !self.has_content(sealed) {
            push(&self.met.virtual_mounts);
            return self.sink.virtual_mount(path, hidden(file_type));
        }
        push(&self.met.mounts);
        match sealed {
            _ if self.options.wants_mount(&path) => {}
            Some(_) => self.gap(path, sealed, Reason::Mount, self.covers(sealed)),
            // That something unsealed is there is certain; what it is, the mount hides.
            None => {
                let mut seen = hidden(file_type);
                seen.miss(Attribute::Content, Reason::Mount);
                self.judge(&|| path.clone(), None, seen);
            }
        }
    }

    fn is_virtual(&self, directory: &Directory, name: &CStr) -> bool {
        let stat = directory.with_fd(self.look.crossing, |fd| stat_at(fd, name));
        matches!(stat, Ok(Ok(stat)) if !stat.same_mount(self.look.top) && self.look.mounts.is_virtual(&stat))
    }

    /// Whether a file that is not empty was sealed at or below an entry: no mount may hide that in silence, least of all
    /// one that whoever replaced the file could have made.
    fn has_content(&self, sealed: Option<EntryId>) -> bool {
        let hides = |id: EntryId| {
            let has_digest = self.tree.presence(id).contains(Presence::CONTENT);
            self.tree.size(id).map_or(has_digest, |size| size > 0)
                && !self.options.local_excludes.excludes(&self.tree.path(id))
        };
        sealed.is_some_and(|id| self.tree.subtree(id).any(hides))
    }

    pub(super) fn gap(&self, path: TreePath, sealed: Option<EntryId>, reason: Reason, covers: u64) {
        self.forget(sealed);
        self.sink.unverifiable(path, reason, covers, sealed);
    }

    fn forget(&self, sealed: Option<EntryId>) {
        if let (Some(sweep), Some(id)) = (&self.sweep, sealed) {
            sweep.forget(id);
        }
    }

    pub(super) fn gone(&self, sealed: Option<EntryId>) {
        self.forget(sealed);
        if let Some(id) = sealed {
            if let Some(inodes) = &self.options.inodes {
                inodes.forget(id);
            }
            self.sink.removed(id);
        }
    }

    /// Whether the scan is to end; what was to be looked at is then counted.
    pub(super) fn stopped(&self, sealed: Option<EntryId>) -> bool {
        let stop = self.look.cancel.load(Ordering::Relaxed);
        if stop {
            self.unreached(sealed);
        }
        stop
    }

    pub(super) fn unreached(&self, sealed: Option<EntryId>) {
        self.met.interrupted.store(true, Ordering::Relaxed);
        self.met.unreached.fetch_add(self.covers(sealed), Ordering::Relaxed);
    }

    /// How many sealed entries are at and below one, those left out locally not counted.
    pub(super) fn covers(&self, sealed: Option<EntryId>) -> u64 {
        let local = &self.options.local_excludes;
        sealed.map_or(0, |id| {
            let subtree = self.tree.subtree(id);
            if local.is_empty() {
                subtree.len() as u64
            } else {
                subtree.filter(|id| !local.excludes(&self.tree.path(*id))).count() as u64
            }
        })
    }

    /// What must be established beyond stat: what was sealed, or everything if that is not known.
    pub(super) fn want(&self, sealed: Option<EntryId>, file_type: FileType) -> Presence {
        let allowed = self.look.compared.allows(file_type);
        match sealed {
            Some(id) if self.tree.file_type(id) == file_type => allowed.intersection(self.tree.presence(id)),
            Some(_) | None => allowed,
        }
    }

    /// What is to be established of a name that is no directory.
    pub(super) fn wish(&self, path: &dyn Fn() -> TreePath, sealed: Option<EntryId>, stat: &Stat) -> Wish {
        Wish {
            want: self.want(sealed, stat.file_type),
            limit: self.limit(sealed, stat),
            unread: stat.file_type == FileType::File && self.leaves_unread(path, sealed),
        }
    }

    /// Whether the policy says that a file there need not be read, and what was sealed there gives no rights.
    fn leaves_unread(&self, path: &dyn Fn() -> TreePath, sealed: Option<EntryId>) -> bool {
        let Some(policy) = &self.options.policy else { return false };
        let gave = |id| Privilege::ALL.into_iter().any(|privilege| privilege.is_given_by(&self.tree.node(id)));
        policy.leaves_unread(&path(), sealed.map(|id| self.tree.file_type(id))) && !sealed.is_some_and(gave)
    }

    /// Who reads a name, if it is a file that may grow.
    pub(super) fn grower(
        &self,
        path: &dyn Fn() -> TreePath,
        sealed: Option<EntryId>,
        stat: &Stat,
    ) -> Option<Grower<'_>> {
        let growth = self.growth.filter(|_| stat.file_type == FileType::File)?;
        growth.claim(&path(), sealed.map(|id| self.tree.node(id)).as_ref())
    }

    /// How much of a file is hashed: everything if it may be as sealed.
    fn limit(&self, sealed: Option<EntryId>, stat: &Stat) -> Option<u64> {
        match sealed.filter(|id| self.tree.file_type(*id) == FileType::File) {
            Some(id) if self.tree.size(id).is_none_or(|size| size == stat.size) => None,
            _ => self.options.hash_limit,
        }
    }

    /// What is sealed is only left out locally: of several manifests one may seal what another leaves out.
    pub(super) fn is_excluded(&self, directory: &Directory, name: &CStr, sealed: Option<EntryId>) -> bool {
        let local = &self.options.local_excludes;
        let is_sealed = sealed.is_some();
        if (is_sealed || self.excludes.is_empty()) && local.is_empty() {
            return false;
        }
        let path = directory.path_of(name);
        // An excluded directory is entered only if it is sealed.
        let unsealed = |path| match self.tree.is_empty() {
            true => self.excludes.excludes_entry(path),
            false => self.excludes.excludes(path),
        };
        (!is_sealed && unsealed(&path)) || local.excludes_entry(&path)
    }

    pub(super) fn is_own_state(&self, stat: &Stat) -> bool {
        self.options.own_state == Some((stat.dev, stat.ino))
    }

    pub(super) fn meet_own_state(&self, path: TreePath) {
        *self.met.own_state.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
    }
}

/// What is known of the place of a mount: its type.
fn hidden(file_type: FileType) -> Seen {
    let kind = match file_type {
        FileType::Directory => Kind::Directory,
        FileType::File | FileType::Symlink => Kind::File { size: None, content: None },
        FileType::Char => Kind::Char(None),
        FileType::Block => Kind::Block(None),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
    };
    Seen { node: Node::bare(kind), sha256: None, unverified: None, hashed: None, unread: None, stat: None }
}
