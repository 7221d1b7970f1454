//! Owns the names of one directory, packed. Must not own what they are.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use driftlock_common::path::check_component;
use driftlock_common::tree::{EntryId, Tree};
use rustix::fs::RawDir;
use rustix::io::Errno;

/// The names on disk and in the manifest of one directory, merged; in the order of names, but for those that only the
/// manifest has, which stand at the end.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Names, each with its NUL.
    bytes: Vec<u8>,
    items: Vec<Item>,
}

/// One name.
#[derive(Clone, Copy, Debug)]
struct Item {
    start: u32,
    /// With the NUL.
    len: u16,
    sealed: Option<EntryId>,
}

/// Room for a few hundred names for each system call.
const BUFFER: usize = 32 * 1024;

thread_local! {
    static NAMES: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(BUFFER));
}

impl Listing {
    /// Reads all names of an opened directory.
    ///
    /// # Errors
    /// Of the system call; EIO for a name that no file system may give.
    pub(super) fn read(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        NAMES.with_borrow_mut(|buffer| {
            let mut listing = Self::default();
            let mut names = RawDir::new(fd, buffer.spare_capacity_mut());
            while let Some(entry) = names.next() {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    listing.push(name.to_bytes(), None)?;
                }
            }
            let Self { bytes, items } = &mut listing;
            items.sort_unstable_by(|a, b| a.name(bytes).cmp(b.name(bytes)));
            Ok(listing)
        })
    }

    fn push(&mut self, name: &[u8], sealed: Option<EntryId>) -> Result<(), Errno> {
        check_component(name).map_err(|_| Errno::IO)?;
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::NOMEM)?;
        let len = u16::try_from(name.len() + 1).map_err(|_| Errno::IO)?;
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.items.push(Item { start, len, sealed });
        Ok(())
    }

    /// Finds each name's sealed entry among the children of `directory`, and adds the sealed names that are not on
    /// disk: each is looked up once more before it counts as removed, because a listing may miss what is renamed during it.
    ///
    /// # Errors
    /// If there are more than 4 GiB of names.
    pub(super) fn merge(&mut self, tree: &Tree, directory: EntryId) -> Result<(), Errno> {
        let mut sealed = tree.children(directory).peekable();
        let mut missing = Vec::new();
        for item in &mut self.items {
            let name = item.name(&self.bytes);
            while let Some(id) = sealed.next_if(|id| tree.name(*id) < name) {
                missing.push(id);
            }
            item.sealed = sealed.next_if(|id| tree.name(*id) == name);
        }
        missing.extend(sealed);
        missing.into_iter().try_for_each(|id| self.push(tree.name(id), Some(id)))
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The name at `index`, and its sealed entry.
    pub(super) fn get(&self, index: usize) -> (&CStr, Option<EntryId>) {
        let item = self.items[index];
        let start = item.start as usize;
        let name = CStr::from_bytes_with_nul(&self.bytes[start..start + usize::from(item.len)]);
        (name.expect("check_component refuses a NUL"), item.sealed)
    }

    /// The longest name's length; 0 if there is none.
    pub(super) fn longest(&self) -> usize {
        self.items.iter().map(|item| usize::from(item.len) - 1).max().unwrap_or(0)
    }

    /// Drops the names that are longer than `len`.
    pub(super) fn drop_longer(&mut self, len: usize) {
        self.items.retain(|item| usize::from(item.len) - 1 <= len);
    }
}

impl Item {
    fn name(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &bytes[start..start + usize::from(self.len) - 1]
    }
}
