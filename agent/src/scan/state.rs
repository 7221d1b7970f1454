//! Owns what is remembered of the entries that were found as sealed, so that a sweep needs to read only what stat says
//! has moved. Must not own comparing: what is remembered is that a comparison was made, never its result on other terms.
//!
//! For each entry there is a fingerprint of its stat data under a secret key. It is remembered after everything sealed of
//! the entry was established and was as sealed, and forgotten with anything that makes stat data say less than it did:
//! a step of the clock, another boot, another root, another baseline.

mod clock;
mod cycle;
mod file;
mod fingerprint;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::profile::Profile;
use driftlock_common::tree::EntryId;

pub use clock::{ClockWatch, boot};
pub use file::Distrust;

use super::open::Stat;
use super::{Options, Root};
use clock::Anchor;
use cycle::Cycle;
use fingerprint::{Key, Settled};

/// How often everything is read again in any case, if nothing else is wished.
pub const FULL: Duration = Duration::from_hours(24);

/// What is remembered of a root that is compared with a baseline.
#[derive(Debug)]
pub struct State {
    identity: Identity,
    key: Key,
    /// By entry; 0 is nothing, [`APART`] is less, anything else a fingerprint.
    marks: Box<[AtomicU64]>,
    cycle: Mutex<Cycle>,
    clock: ClockWatch,
    /// Whether anything was remembered or forgotten since it was saved.
    moved: AtomicBool,
}

/// The mark of an entry whose device had another content than the page cache. Both are read whenever it is looked at, until
/// both are as sealed: the page cache alone would say that all is well.
const APART: u64 = 1;

/// What fingerprints are about: under any other identity they mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(Digest);

/// A sweep: a comparison that may rely on what is remembered.
#[derive(Debug)]
pub struct Sweep<'a> {
    state: &'a State,
    settled: Settled,
    /// What is read again although nothing moved; `None`: everything.
    again: Option<RangeInclusive<u64>>,
    /// How far the rolling rehash is, once this sweep has come to its end.
    cycle: Cycle,
    /// Nanoseconds since boot.
    began: u64,
    /// Whether anything was not read.
    relied: AtomicBool,
}

/// What a comparison may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rely {
    /// Nothing: everything is read, and remembered.
    OnNothing,
    /// What is remembered, but for the part of the rolling rehash that is due when everything is read once in this time.
    OnState(Duration),
}

impl Identity {
    /// Of `root` when it is compared, as `options` say, with the tree of that name, which was sealed under `sealed`.
    pub fn of(root: &Root, tree: OciDigest, sealed: Profile, options: &Options) -> Self {
        let (compared, ids) = (options.compared(sealed), root.ids(&options.id_view));
        let (dev, ino) = root.identity();
        let attributes: Vec<&str> = compared.attributes().iter().map(|attribute| attribute.name()).collect();
        let whole = format!(
            "{tree}\n{}\n{}\n{dev} {ino} {:?}\n{ids:?}",
            compared.profile().name(),
            attributes.join(" "),
            root.file_system()
        );
        let mut hasher = blake3::Hasher::new_derive_key("driftlock scan state identity v1");
        Self(hasher.update(whole.as_bytes()).finalize().into())
    }

    /// As it stands in a file.
    pub(super) const fn digest(self) -> Digest {
        self.0
    }

    /// As it stands in a file.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }
}

impl State {
    /// Nothing remembered yet, of `entries`, the root counted.
    pub fn new(identity: Identity, entries: usize) -> Self {
        Self {
            identity,
            key: Key::random(),
            marks: std::iter::repeat_with(AtomicU64::default).take(entries).collect(),
            cycle: Mutex::new(Cycle::begin()),
            clock: ClockWatch::new(),
            moved: AtomicBool::new(false),
        }
    }

    /// What was remembered in `path`.
    ///
    /// # Errors
    /// Why it is not relied on.
    pub fn load(path: &Path, identity: Identity, entries: usize) -> Result<Self, Distrust> {
        Self::parse(&file::read(path, entries)?, identity, entries)
    }

    /// What was remembered, from the bytes of a file.
    ///
    /// # Errors
    /// Why it is not relied on.
    pub fn parse(bytes: &[u8], identity: Identity, entries: usize) -> Result<Self, Distrust> {
        // First, so that no step goes unseen between the file's check and the first sweep.
        let clock = ClockWatch::new();
        let loaded = file::parse(bytes, identity, entries, Anchor::now())?;
        let marks = loaded.marks.into_iter().map(AtomicU64::new).collect();
        let (key, cycle) = (loaded.key, Mutex::new(loaded.cycle));
        Ok(Self { identity, key, marks, cycle, clock, moved: AtomicBool::new(false) })
    }

    /// Writes it to `path`, in one go, if anything is to be saved.
    ///
    /// # Errors
    /// If it cannot be written; what was there before is then still there.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        if !self.moved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let cycle = *self.cycle.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = self.marks.iter().map(|mark| mark.load(Ordering::Relaxed));
        file::save(path, self.identity, self.key, cycle, Anchor::now(), marks)
            .inspect_err(|_| self.moved.store(true, Ordering::Relaxed))
    }

    /// What it is about.
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Since when every sealed file was read, as how long ago that is; `None` before it was so.
    pub fn read_since(&self) -> Option<Duration> {
        let since = self.cycle.lock().unwrap_or_else(PoisonError::into_inner).read_since()?;
        Some(clock::boottime().saturating_sub(Duration::from_nanos(since)))
    }

    /// How many entries are remembered.
    pub fn known(&self) -> usize {
        self.marks.iter().filter(|mark| mark.load(Ordering::Relaxed) > APART).count()
    }

    /// Forgets everything if the clock was set since it was asked last; whether it was.
    pub fn forget_if_clock_stepped(&self) -> bool {
        let stepped = self.clock.stepped();
        if stepped {
            self.marks.iter().for_each(forget);
            self.moved.store(true, Ordering::Relaxed);
        }
        stepped
    }

    /// Begins a comparison of `root`.
    pub fn sweep(&self, root: &Root, rely: Rely) -> Sweep<'_> {
        let mut cycle = *self.cycle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::boottime();
        let again = match rely {
            Rely::OnNothing => None,
            Rely::OnState(full) => Some(cycle.advance(now, full)),
        };
        let began = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        Sweep { state: self, settled: Settled::on(root), again, cycle, began, relied: AtomicBool::new(false) }
    }
}

/// Nothing is remembered any more, but for what is no good news.
fn forget(mark: &AtomicU64) {
    if mark.load(Ordering::Relaxed) != APART {
        mark.store(0, Ordering::Relaxed);
    }
}

impl Sweep<'_> {
    /// Whether `id`, found to be `stat`, is as it was when it was found as sealed, and not due to be read again.
    pub(super) fn relies_on(&self, id: EntryId, stat: &Stat) -> bool {
        let mark = self.state.marks[id.index()].load(Ordering::Relaxed);
        let relies =
            self.again.is_some() && mark > APART && mark == self.state.key.fingerprint(stat) && !self.is_due(id);
        if relies {
            self.relied.store(true, Ordering::Relaxed);
        }
        relies
    }

    /// Whether what the device has of `id` counts beside what is in the page cache.
    pub(super) fn asks_device(&self, id: EntryId) -> bool {
        self.is_due(id) || self.state.marks[id.index()].load(Ordering::Relaxed) == APART
    }

    /// Whether the rolling rehash has come to `id`.
    fn is_due(&self, id: EntryId) -> bool {
        self.again.as_ref().is_some_and(|again| again.contains(&self.cycle.order().place(id)))
    }

    /// Everything was looked at: what was due of the rolling rehash was read. Without that it stays due.
    pub(super) fn came_to_its_end(&self) {
        if self.again.is_some() {
            let mut cycle = self.cycle;
            if !self.relied.load(Ordering::Relaxed) {
                cycle.read = cycle.read.max(self.began);
            }
            *self.state.cycle.lock().unwrap_or_else(PoisonError::into_inner) = cycle;
            self.state.moved.store(true, Ordering::Relaxed);
        }
    }

    /// Remembers that `id` was found as sealed when it was `stat`, before and after.
    pub(super) fn remember(&self, id: EntryId, stat: &Stat) {
        let mark = if self.settled.holds(stat) { self.state.key.fingerprint(stat) } else { 0 };
        self.set(id, mark);
    }

    /// Forgets `id`, which is not as sealed, or not known to be.
    pub(super) fn forget(&self, id: EntryId) {
        let mark = &self.state.marks[id.index()];
        if mark.load(Ordering::Relaxed) > APART {
            forget(mark);
            self.state.moved.store(true, Ordering::Relaxed);
        }
    }

    /// Remembers that the device has another content of `id` than the page cache, or cannot tell.
    pub(super) fn suspect(&self, id: EntryId) {
        self.set(id, APART);
    }

    fn set(&self, id: EntryId, mark: u64) {
        if self.state.marks[id.index()].swap(mark, Ordering::Relaxed) != mark {
            self.state.moved.store(true, Ordering::Relaxed);
        }
    }
}
