//! Owns the way from the root to a narrower scope. Must not own the walk from there on.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Presence};
use driftlock_common::path::TreePath;
use driftlock_common::tree::EntryId;

use super::super::directory::Directory;
use super::super::open::{Trouble, open_directory, reopen_directory, stat_at, stat_fd};
use super::{Ahead, TRIES, Tasks, Walk};

impl<'s> Walk<'s> {
    pub(super) fn look_at_top(&'s self, directory: &Arc<Directory>) {
        let opened = directory.with_fd(self.look.crossing, reopen_directory);
        let want = self.want(Some(EntryId::ROOT), FileType::Directory);
        let seen = match opened {
            Ok(Ok(fd)) => self.look.directory(fd.as_fd(), directory.stat(), want),
            Ok(Err(error)) => self.directory_unopened(directory.stat(), want, Trouble::from(error).reason()),
            Err(trouble) => self.directory_unopened(directory.stat(), want, trouble.reason()),
        };
        self.judge(&|| TreePath::root(), Some(EntryId::ROOT), seen);
    }

    /// Goes down to `path` and looks there.
    pub(super) fn enter_at(&'s self, tasks: Tasks<'_, 's>, top: Arc<Directory>, path: &TreePath, below: bool) {
        let sealed = self.tree.find(path);
        if (sealed.is_none() && self.excludes.excludes(path)) || self.options.local_excludes.excludes(path) {
            return;
        }
        let names: Vec<CString> =
            path.components().map(|name| CString::new(name).expect("a path of a tree holds no NUL")).collect();
        let Some((last, above)) = names.split_last() else { return };
        let mut directory = top;
        let mut id = Some(EntryId::ROOT);
        for name in above {
            id = id.and_then(|id| self.tree.child(id, name.to_bytes()));
            match self.go_down(&directory, name, id) {
                Ok(next) => directory = next,
                Err(true) => return self.gone(sealed),
                Err(false) => return,
            }
        }
        let found = directory.with_fd(self.look.crossing, |fd| self.entry(&directory, fd, last, sealed));
        match found {
            Ok(Some(ahead)) => {
                let as_sealed = sealed.is_some_and(|id| self.tree.file_type(id) == FileType::Directory);
                if below || !as_sealed {
                    self.enter(tasks, &directory, ahead);
                } else {
                    self.directory_alone(&directory, &ahead);
                }
            }
            Ok(None) => {}
            Err(trouble) => self.out_of_reach(&directory, last, sealed, trouble),
        }
    }

    /// Enters an ancestor of the scope. `Err(true)` if what is below it cannot be there, `Err(false)` if that was reported
    /// as something else.
    pub(super) fn go_down(
        &'s self,
        directory: &Arc<Directory>,
        name: &CStr,
        id: Option<EntryId>,
    ) -> Result<Arc<Directory>, bool> {
        let path = || directory.path_of(name);
        for _ in 0..TRIES {
            let opened = directory.with_fd(self.look.crossing, |fd| open_directory(fd, name, self.look.crossing));
            let trouble = match opened {
                Ok(Ok(fd)) => match stat_fd(fd.as_fd()) {
                    Ok(stat) if self.look.is_mount(&stat) => Trouble::Mount,
                    Ok(stat) if self.is_own_state(&stat) => {
                        self.meet_own_state(path());
                        return Err(false);
                    }
                    Ok(stat) => {
                        let entered = Directory::below(Arc::clone(directory), name, stat);
                        entered.keep(fd, &self.budget);
                        return Ok(entered);
                    }
                    Err(error) => error.into(),
                },
                Ok(Err(error)) => error.into(),
                Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Gone => return Err(true),
                Trouble::Moved => {
                    // Another type, as far as a look can tell: then nothing can be below it.
                    let stat = directory.with_fd(self.look.crossing, |fd| stat_at(fd, name));
                    if matches!(stat, Ok(Ok(stat)) if stat.file_type != FileType::Directory) {
                        return Err(true);
                    }
                }
                Trouble::Mount => {
                    self.mount_point(directory, name, id, FileType::Directory);
                    return Err(false);
                }
                Trouble::Interrupted | Trouble::Gap(_) => {
                    self.gap(path(), id, trouble.reason(), self.covers(id));
                    return Err(false);
                }
            }
        }
        self.gap(path(), id, Reason::Unstable, self.covers(id));
        Err(false)
    }

    /// A sealed directory itself, without what is in it.
    pub(super) fn directory_alone(&'s self, parent: &Arc<Directory>, ahead: &Ahead) {
        let want = self.want(ahead.sealed, FileType::Directory);
        let mut seen = self.look.of_stat(&ahead.stat);
        if want.contains(Presence::XATTRS) {
            let opened = parent.with_fd(self.look.crossing, |fd| open_directory(fd, &ahead.name, self.look.crossing));
            seen = match opened {
                Ok(Ok(fd)) => self.look.directory(fd.as_fd(), &ahead.stat, want),
                Ok(Err(error)) => self.directory_unopened(&ahead.stat, want, Trouble::from(error).reason()),
                Err(trouble) => self.directory_unopened(&ahead.stat, want, trouble.reason()),
            };
        }
        self.judge(&|| parent.path_of(&ahead.name), ahead.sealed, seen);
    }
}
