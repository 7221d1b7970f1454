//! Owns the directories that a walk has entered, and how many descriptors they may hold. Must not own what is in them.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use driftlock_common::path::{MAX_DEPTH, MAX_PATH, TreePath};
use rustix::process::{Resource, getrlimit};

use super::open::{Crossing, Stat, Trouble, open_waypoint, stat_fd};

/// An entered directory. It may hold a descriptor; if the budget is spent it is found again from the nearest ancestor
/// that holds one, and must then be the same inode as before.
#[derive(Debug)]
pub(super) struct Directory {
    parent: Option<Arc<Self>>,
    name: Box<CStr>,
    stat: Stat,
    depth: usize,
    path_len: usize,
    kept: OnceLock<Kept>,
}

#[derive(Debug)]
struct Kept {
    fd: OwnedFd,
    budget: Arc<Budget>,
}

/// Descriptors that each thread of a scan needs at the same time, whatever else there is: a directory being listed, a
/// large one whose part is being looked at, one being found again (two at a time), a file.
pub const FILES_FOR_EACH_THREAD: usize = 5;

/// How many descriptors directories may still hold on to.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

// === impl Budget ===

impl Budget {
    /// Half of what the process may have, less what `threads` need at the same time for the entry at hand.
    pub(super) fn of_process(threads: usize) -> Arc<Self> {
        /// More than a chain of ancestors on every thread is never useful.
        const MOST: usize = 4 * MAX_DEPTH;
        let limit = getrlimit(Resource::Nofile).current.map_or(MOST, |n| usize::try_from(n).unwrap_or(MOST));
        Arc::new(Self(AtomicUsize::new((limit / 2).saturating_sub(threads * FILES_FOR_EACH_THREAD).min(MOST))))
    }

    fn take(self: &Arc<Self>, fd: OwnedFd) -> Option<Kept> {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(Kept { fd, budget: Arc::clone(self) })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.0.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Directory ===

impl Directory {
    /// The root, which always holds its descriptor.
    pub(super) fn top(fd: OwnedFd, stat: Stat) -> Arc<Self> {
        let kept = Kept { fd, budget: Arc::new(Budget(AtomicUsize::new(0))) };
        let name = c"".into();
        Arc::new(Self { parent: None, name, stat, depth: 0, path_len: 0, kept: OnceLock::from(kept) })
    }

    /// A directory in `parent`, as it was found when it was opened.
    pub(super) fn below(parent: Arc<Self>, name: &CStr, stat: Stat) -> Arc<Self> {
        let depth = parent.depth + 1;
        let path_len = parent.child_len(name.count_bytes());
        Arc::new(Self { parent: Some(parent), name: name.into(), stat, depth, path_len, kept: OnceLock::new() })
    }

    /// What it was when it was opened.
    pub(super) const fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The longest name of a child whose path a tree can hold; 0 if it can hold none.
    pub(super) fn room(&self) -> usize {
        if self.depth >= MAX_DEPTH { 0 } else { MAX_PATH.saturating_sub(self.child_len(0)) }
    }

    /// Holds on to `fd`, a descriptor of this directory, if the budget allows.
    pub(super) fn keep(&self, fd: OwnedFd, budget: &Arc<Budget>) {
        if self.kept.get().is_none()
            && let Some(kept) = budget.take(fd)
        {
            // Another thread may have been first; then this descriptor is closed.
            let _second = self.kept.set(kept);
        }
    }

    /// Hands a descriptor of this directory to `use_it`; good for opening what is in it, not for listing it.
    ///
    /// # Errors
    /// If the directory cannot be found again where it was.
    pub(super) fn with_fd<T>(
        &self,
        crossing: Crossing,
        use_it: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> Result<T, Trouble> {
        if let Some(kept) = self.kept.get() {
            return Ok(use_it(kept.fd.as_fd()));
        }
        let mut way = Vec::new();
        let mut at = self;
        let start = loop {
            if let Some(kept) = at.kept.get() {
                break kept.fd.as_fd();
            }
            way.push(at);
            at = at.parent.as_deref().expect("the root holds its descriptor, and every other directory has a parent");
        };
        let mut reached: Option<OwnedFd> = None;
        for directory in way.into_iter().rev() {
            let from = reached.as_ref().map_or(start, |fd| fd.as_fd());
            let fd = open_waypoint(from, &directory.name, crossing)?;
            if !stat_fd(fd.as_fd())?.same_inode(&directory.stat) {
                return Err(Trouble::Moved);
            }
            reached = Some(fd);
        }
        Ok(use_it(reached.as_ref().map_or(start, |fd| fd.as_fd())))
    }

    /// The path of this directory.
    pub(super) fn path(&self) -> TreePath {
        TreePath::new(self.bytes(b"")).expect("only names within the room of their directory are entered")
    }

    /// The path of a child.
    pub(super) fn path_of(&self, name: &CStr) -> TreePath {
        TreePath::new(self.bytes(name.to_bytes())).expect("names beyond the room of their directory are left out")
    }

    fn bytes(&self, last: &[u8]) -> Vec<u8> {
        let mut names = Vec::with_capacity(self.depth + 1);
        let mut at = self;
        while let Some(parent) = &at.parent {
            names.push(at.name.to_bytes());
            at = parent;
        }
        names.reverse();
        if !last.is_empty() {
            names.push(last);
        }
        names.join(&b'/')
    }

    const fn child_len(&self, name: usize) -> usize {
        if self.path_len == 0 { name } else { self.path_len + 1 + name }
    }
}

impl Drop for Directory {
    /// One after another: the chain may be 2048 long, and a thread's stack is short.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(mut directory) = above.and_then(Arc::into_inner) {
            above = directory.parent.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::fd::AsFd as _;

    use super::super::Root;
    use super::super::open::{open_directory, stat_at};
    use super::*;

    /// Enters `names` below a root, without holding descriptors.
    fn enter(root: &Root, names: &[&str]) -> Arc<Directory> {
        let fd = root.as_fd().try_clone_to_owned().unwrap();
        let mut at = Directory::top(fd, *root.stat());
        for name in names {
            let name = CString::new(*name).unwrap();
            let stat = at.with_fd(Crossing::Refused, |fd| stat_at(fd, &name)).unwrap().unwrap();
            at = Directory::below(at, &name, stat);
        }
        at
    }

    #[test]
    fn a_directory_without_a_descriptor_is_found_again_or_said_to_have_moved() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
        let root = Root::open(temp.path()).unwrap();
        let directory = enter(&root, &["a", "b", "c"]);
        assert_eq!(directory.path(), TreePath::new("a/b/c").unwrap());
        assert_eq!(directory.path_of(c"x"), TreePath::new("a/b/c/x").unwrap());
        assert!(directory.with_fd(Crossing::Refused, |_| ()).is_ok());

        std::fs::rename(temp.path().join("a/b"), temp.path().join("a/old")).unwrap();
        assert_eq!(directory.with_fd(Crossing::Refused, |_| ()), Err(Trouble::Gone));
        std::fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
        assert_eq!(directory.with_fd(Crossing::Refused, |_| ()), Err(Trouble::Moved));
        std::fs::remove_dir_all(temp.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("old", temp.path().join("a/b")).unwrap();
        assert_eq!(directory.with_fd(Crossing::Refused, |_| ()), Err(Trouble::Moved));
    }

    #[test]
    fn descriptors_are_held_within_the_budget_and_given_back() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        let root = Root::open(temp.path()).unwrap();
        let budget = Arc::new(Budget(AtomicUsize::new(1)));
        let (a, b) = (enter(&root, &["a"]), enter(&root, &["a", "b"]));
        let open = |name: &CStr| open_directory(root.as_fd(), name, Crossing::Refused).unwrap();
        a.keep(open(c"a"), &budget);
        b.keep(open(c"a"), &budget);
        assert!(a.kept.get().is_some() && b.kept.get().is_none());
        drop(a);
        b.keep(open(c"a"), &budget);
        assert!(b.kept.get().is_some());
    }
}
