//! Owns a directory of so many names that they are looked at in parts: memory does not grow with it. Must not own what one
//! name is.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use driftlock_common::drift::Attribute;
use driftlock_common::gap::Reason;
use driftlock_common::node::FileType;
use driftlock_common::tree::EntryId;
use rustix::io::Errno;

use super::super::directory::Directory;
use super::super::list::{Listing, Met, PART, longest_name};
use super::super::open::{Trouble, reopen_directory};
use super::{Tasks, Walk};

/// The longest name that Linux file systems have (`NAME_MAX`); a few have longer ones.
const LONG: usize = 255;

/// A large directory that is being listed.
pub(super) struct Large<'s> {
    walk: &'s Walk<'s>,
    directory: Arc<Directory>,
    /// What was met of the sealed directory, if it was one.
    met: Option<(EntryId, Met)>,
    /// Whether the directory has a finding of its own.
    has_finding: bool,
}

impl<'s> Large<'s> {
    /// Judges the directory itself.
    pub(super) fn begin(
        walk: &'s Walk<'s>,
        directory: &Arc<Directory>,
        fd: BorrowedFd<'_>,
        sealed: Option<EntryId>,
    ) -> Result<Self, Errno> {
        let want = walk.want(sealed, FileType::Directory);
        let mut seen = walk.look.directory(fd, directory.stat(), want);
        // Said before anything below is: names that do not fit are not met until much of it was.
        if directory.room() < LONG && longest_name(reopen_directory(fd)?.as_fd())? > directory.room() {
            seen.miss(Attribute::Content, Reason::TooDeep);
        }
        let has_finding = walk.judge(&|| directory.path(), sealed, seen);
        let as_directory = sealed.filter(|id| walk.tree.file_type(*id) == FileType::Directory);
        let met = as_directory.map(|id| (id, Met::none(walk.tree, id)));
        Ok(Self { walk, directory: Arc::clone(directory), met, has_finding })
    }

    /// Looks at the names of a part and at everything below them, on as many threads as have time.
    pub(super) fn part(&mut self, mut listing: Listing) -> Result<(), Errno> {
        if self.walk.stopped(None) {
            return Err(Errno::CANCELED);
        }
        listing.drop_longer(self.directory.room());
        if let Some((id, met)) = &mut self.met {
            listing.find(self.walk.tree, *id, met);
        }
        self.look_at(listing);
        Ok(())
    }

    fn look_at(&self, listing: Listing) {
        let (len, listing) = (listing.len(), Arc::new(listing));
        // Waits for all of it: what is still to be entered is as much as a part has, not as the directory has.
        let group = Arc::default();
        self.walk.readers.wait(|| {
            rayon::scope(|scope| {
                let tasks = Tasks { scope, group: &group };
                self.walk.chunks(tasks, Arc::clone(&self.directory), listing, 0, len);
            });
        });
    }

    /// What is sealed and was not met, after the last part or an error.
    pub(super) fn finish(self, listed: Result<(), Errno>) {
        let Some((id, met)) = &self.met else {
            if let Err(error) = listed {
                self.not_all(&[], error);
            }
            return;
        };
        let mut left = self.walk.tree.children(*id).filter(|child| !met.contains(*child));
        if let Err(error) = listed {
            return self.not_all(&left.collect::<Vec<_>>(), error);
        }
        loop {
            // Each is looked up once more: a listing may miss what is renamed during it.
            match Listing::of_sealed(self.walk.tree, left.by_ref().take(PART)) {
                Ok(listing) if listing.len() == 0 => return,
                Ok(listing) => self.look_at(listing),
                Err(error) => return self.not_all(&left.collect::<Vec<_>>(), error),
            }
        }
    }

    /// The names could not be read to their end; `left` were not met.
    fn not_all(&self, left: &[EntryId], error: Errno) {
        let reason = Trouble::from(error).reason();
        if error == Errno::CANCELED {
            left.iter().for_each(|id| self.walk.unreached(Some(*id)));
        } else if self.has_finding {
            for id in left {
                self.walk.gap(self.walk.tree.path(*id), Some(*id), reason, self.walk.covers(Some(*id)));
            }
        } else {
            let covers = left.iter().map(|id| self.walk.covers(Some(*id))).sum();
            self.walk.gap(self.directory.path(), self.met.as_ref().map(|(id, _)| *id), reason, covers);
        }
    }
}
