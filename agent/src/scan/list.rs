//! Owns the names of one directory, packed: all of them, or of a large directory one part after another. Must not own what
//! they are.

use std::cell::Cell;
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

/// Names in a part: whoever fills a directory with names must not fill the memory with them.
pub(super) const PART: usize = 16 * 1024;

thread_local! {
    /// Taken out while it is used: a thread that waits for the tasks of a large directory reads other directories.
    static BYTES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads the names of an opened directory and hands them over in parts of at most [`PART`], each in order; what is said
/// of a part is whether it is the last. An empty directory is one empty part.
///
/// # Errors
/// Of the system call; EIO for a name that no file system may give; of `each`.
pub(super) fn read(fd: BorrowedFd<'_>, mut each: impl FnMut(Listing, Last) -> Result<(), Errno>) -> Result<(), Errno> {
    let mut buffer = BYTES.take();
    buffer.reserve(BUFFER);
    let mut part = Listing::default();
    let mut names = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = names.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            if part.len() == PART {
                each(std::mem::take(&mut part).sorted(), Last::No)?;
            }
            part.push(name.to_bytes(), None)?;
        }
    }
    BYTES.set(buffer);
    each(part.sorted(), Last::Yes)
}

/// The longest name in an opened directory, in bytes.
///
/// # Errors
/// Of the system call.
pub(super) fn longest_name(fd: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut longest = 0;
    read(fd, |part, _| {
        longest = longest.max(part.longest());
        Ok(())
    })?;
    Ok(longest)
}

/// Whether a part of a listing is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Yes,
    No,
}

impl Listing {
    /// In the order of names. One that the directory gave twice, because it was renamed meanwhile, stands once.
    fn sorted(mut self) -> Self {
        let Self { bytes, items } = &mut self;
        items.sort_unstable_by(|a, b| a.name(bytes).cmp(b.name(bytes)));
        items.dedup_by(|a, b| a.name(bytes) == b.name(bytes));
        self
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

    /// Sealed names alone.
    ///
    /// # Errors
    /// If there are more than 4 GiB of names.
    pub(super) fn of_sealed(tree: &Tree, ids: impl IntoIterator<Item = EntryId>) -> Result<Self, Errno> {
        let mut listing = Self::default();
        ids.into_iter().try_for_each(|id| listing.push(tree.name(id), Some(id)))?;
        Ok(listing)
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

    /// As [`Listing::merge`], of one part of a directory: adds nothing, and leaves out what another part had. `met` has
    /// what was found.
    pub(super) fn find(&mut self, tree: &Tree, directory: EntryId, met: &mut Met) {
        let mut after = None;
        let Self { bytes, items } = self;
        items.retain_mut(|item| {
            item.sealed = tree.child_after(directory, after, item.name(bytes));
            after = item.sealed.or(after);
            item.sealed.is_none_or(|id| met.insert(id))
        });
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

/// Which children of a sealed directory were met: a bit for each entry below it.
#[derive(Debug)]
pub(super) struct Met {
    directory: EntryId,
    bits: Vec<u64>,
}

impl Met {
    pub(super) fn none(tree: &Tree, directory: EntryId) -> Self {
        Self { directory, bits: vec![0; tree.subtree(directory).len().div_ceil(64)] }
    }

    /// Whether it was not met before.
    fn insert(&mut self, id: EntryId) -> bool {
        let (word, bit) = self.place(id);
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }

    pub(super) fn contains(&self, id: EntryId) -> bool {
        let (word, bit) = self.place(id);
        self.bits[word] & bit != 0
    }

    const fn place(&self, id: EntryId) -> (usize, u64) {
        let offset = id.index() - self.directory.index();
        (offset / 64, 1 << (offset % 64))
    }
}

impl Item {
    fn name(self, bytes: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &bytes[start..start + usize::from(self.len) - 1]
    }
}
