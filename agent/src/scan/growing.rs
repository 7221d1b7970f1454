//! Owns what is remembered of files that only grow: how long each was and the BLAKE3 of that, so that only what was
//! written since is read, and what it lost is noticed. Must not own which files these are, or how loudly a loss is said:
//! both are the policy's.
//!
//! What was sealed is the memory of a file that was not looked at yet. A loss stays one until the content is found again,
//! in the file or beside it; without that the next look would find a file that only grew.

mod file;
mod running;

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::drift::Drift;
use driftlock_common::node::{FileType, Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::policy::rotation::{Cut, Fate, Now, Remembered, Rotated, explain};
use driftlock_common::policy::{Allow, Policy, Rotation, Rule};

use super::open::Trouble;
use super::reader::Source;
use super::state::{Distrust, Identity};
use super::{FULL, Root};
use crate::siblings::Beside;
use running::{Mark, Running};

/// A loss is looked at again after this before it is one: a rotation takes several steps.
pub const SETTLE: Duration = Duration::from_secs(2);
/// A copy need not have what was written to a file while it was copied, before it was truncated: what was seen for the first
/// time in the last look before that, at most this long ago.
const COPYING: Duration = Duration::from_secs(10);
/// The most files that are remembered, each with its path and some 200 bytes. One more is read whole at each look, and what
/// it held is known only if it was sealed.
pub const MAX_REMEMBERED: usize = 8192;
/// The most files of which a hasher is kept, of 2 KiB each. Of one more everything is read when it grew.
pub const MAX_RUNNING: usize = 512;
/// The longest path of a file that is remembered, in bytes.
pub const MAX_PATH: usize = 512;

/// What is remembered of the growing files below a root.
#[derive(Debug)]
pub struct Growing {
    identity: Option<Identity>,
    /// In this time everything is read once, in milliseconds.
    full: AtomicU64,
    /// Whether there will be another look.
    goes_on: bool,
    entries: Mutex<BTreeMap<TreePath, Arc<Mutex<Entry>>>>,
    running: AtomicUsize,
    look: AtomicU64,
    moved: AtomicBool,
}

/// A file.
#[derive(Debug, Default)]
struct Entry {
    /// As it was at the last look; `None` before the first.
    known: Option<Remembered>,
    running: Option<Running>,
    /// What it was before more was written to it the last time, and when that was noticed.
    before: Option<(Remembered, Instant)>,
    lost: Option<Lost>,
    /// What became of it, by the last look.
    fate: Option<Fate>,
    /// The last look that met it.
    met: u64,
    /// Whether it was missing, and nothing explained it.
    is_missing: bool,
    /// Since when it is not as it may be, whatever it held.
    wrong: Option<Instant>,
}

/// What a file had, and what is nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lost {
    what: Remembered,
    /// What a copy of it has at least; `None` if it has to have all.
    before: Option<Remembered>,
    cut: Cut,
    since: Instant,
    /// Whether a second look came to the same.
    settled: bool,
}

/// A comparison of a root, in which files that grow are met.
#[derive(Debug)]
pub(super) struct Growth<'a> {
    growing: &'a Growing,
    policy: &'a Policy,
    algorithm: Algorithm,
    root: BorrowedFd<'a>,
    look: u64,
}

/// A file that may grow, while it is looked at.
#[derive(Debug)]
pub(super) struct Grower<'a> {
    growing: &'a Growing,
    rotation: &'a Rotation,
    algorithm: Algorithm,
    root: BorrowedFd<'a>,
    directory: TreePath,
    name: TreePath,
    sealed: Option<Node>,
    entry: Arc<Mutex<Entry>>,
}

/// What was read of a file that may grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    /// Of everything up to where it ended when it was looked at, by the manifest's algorithm.
    pub(super) content: Digest,
    /// Bytes that were read for it.
    pub(super) bytes: u64,
}

impl Growing {
    /// For one look: what was sealed is all that is remembered.
    pub fn once() -> Self {
        Self::new(None, FULL, false)
    }

    /// Nothing remembered yet, of what `identity` is about; everything is read once in the time `full`.
    pub fn of(identity: Identity, full: Duration) -> Self {
        Self::new(Some(identity), full, true)
    }

    fn new(identity: Option<Identity>, full: Duration, goes_on: bool) -> Self {
        Self {
            identity,
            full: AtomicU64::new(millis(full)),
            goes_on,
            entries: Mutex::default(),
            running: AtomicUsize::new(0),
            look: AtomicU64::new(0),
            moved: AtomicBool::new(false),
        }
    }

    /// What was remembered in `path`. Prefixes are read once more, because no hasher survives.
    ///
    /// # Errors
    /// Why it is not relied on.
    pub fn load(path: &Path, identity: Identity, full: Duration) -> Result<Self, Distrust> {
        let growing = Self::of(identity, full);
        let now = Instant::now();
        let entry = |(path, saved): (TreePath, file::Saved)| {
            let lost = saved.lost.map(|(what, cut, settled)| Lost { what, before: None, cut, since: now, settled });
            (path, Arc::new(Mutex::new(Entry { known: Some(saved.known), lost, ..Entry::default() })))
        };
        *lock(&growing.entries) = file::load(path, identity)?.into_iter().map(entry).collect();
        Ok(growing)
    }

    /// Writes it to `path`, in one go, if anything is to be saved.
    ///
    /// # Errors
    /// If it cannot be written; what was there before is then still there.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let Some(identity) = self.identity else { return Ok(()) };
        if !self.moved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let saved: Vec<(TreePath, file::Saved)> = lock(&self.entries)
            .iter()
            .filter_map(|(path, entry)| {
                let entry = lock(entry);
                let lost = entry.lost.as_ref().map(|lost| (lost.what.clone(), lost.cut, lost.settled));
                Some((path.clone(), file::Saved { known: entry.known.clone()?, lost }))
            })
            .collect();
        file::save(path, identity, &saved).inspect_err(|_| self.moved.store(true, Ordering::Relaxed))
    }

    /// From now on everything is read once in the time `full`.
    pub fn set_full(&self, full: Duration) {
        self.full.store(millis(full), Ordering::Relaxed);
    }

    /// What it is about; `None` if it is for one look.
    pub const fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// What became of the file that a drift is about, as it was found in the look that made the drift.
    pub fn fate(&self, drift: &Drift) -> Option<Fate> {
        let is_file = drift.observed().is_none_or(|node| node.file_type() == FileType::File);
        let entry = lock(&self.entries).get(&drift.path).filter(|_| is_file).map(Arc::clone)?;
        lock(&entry).fate.clone()
    }

    /// Whether what became of the file at `path` was so at a second look too, or is nothing that could pass.
    pub fn is_settled(&self, path: &TreePath) -> bool {
        let entry = lock(&self.entries).get(path).map(Arc::clone);
        entry.is_none_or(|entry| lock(&entry).lost.as_ref().is_none_or(|lost| lost.settled))
    }

    /// Whether an alert about the file at `path`, or none, may be over in a moment: a rotation makes the new file first and
    /// gives it its mode and its owner after.
    pub fn may_pass(&self, path: &TreePath, alert: bool) -> bool {
        let Some(entry) = lock(&self.entries).get(path).map(Arc::clone) else { return false };
        let mut entry = lock(&entry);
        if !alert {
            entry.wrong = None;
            return false;
        }
        self.goes_on && entry.wrong.get_or_insert_with(Instant::now).elapsed() < SETTLE
    }

    /// Begins a comparison of `root` under a policy.
    pub(super) fn begin<'a>(&'a self, root: &'a Root, policy: &'a Policy, algorithm: Algorithm) -> Growth<'a> {
        let look = self.look.fetch_add(1, Ordering::Relaxed) + 1;
        Growth { growing: self, policy, algorithm, root: root.as_fd(), look }
    }

    /// The entry of a path; one that is not remembered if there are too many.
    fn entry(&self, path: &TreePath) -> Arc<Mutex<Entry>> {
        let mut entries = lock(&self.entries);
        if entries.len() >= MAX_REMEMBERED && !entries.contains_key(path) {
            let missing = entries.iter().find(|(_, entry)| lock(entry).is_missing).map(|(path, _)| path.clone());
            if let Some(gone) = missing.and_then(|path| entries.remove(&path)) {
                self.forget(&gone);
            }
        }
        let is_full = entries.len() >= MAX_REMEMBERED || path.as_bytes().len() > MAX_PATH;
        match entries.entry(path.clone()) {
            btree_map::Entry::Occupied(there) => Arc::clone(there.get()),
            btree_map::Entry::Vacant(_) if is_full => Arc::default(),
            btree_map::Entry::Vacant(place) => Arc::clone(place.insert(Arc::default())),
        }
    }

    /// What is no longer among the entries is not saved, and has no hasher.
    fn forget(&self, gone: &Mutex<Entry>) {
        self.moved.store(true, Ordering::Relaxed);
        self.running.fetch_sub(usize::from(lock(gone).running.is_some()), Ordering::Relaxed);
    }

    /// Keeps the hasher of a file, or not if there are too many.
    fn keep(&self, entry: &mut Entry, running: Running) {
        let had = entry.running.take().is_some();
        if self.goes_on && (had || self.running.fetch_add(1, Ordering::Relaxed) < MAX_RUNNING) {
            entry.running = Some(running);
        } else if self.goes_on {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<'a> Growth<'a> {
    /// The file at `path`, if it may grow: as `sealed`, or beside what was sealed.
    pub(super) fn claim(&self, path: &TreePath, sealed: Option<&Node>) -> Option<Grower<'a>> {
        let rule = self.policy.growing(path, sealed.map(Node::file_type))?;
        let entry = self.growing.entry(path);
        {
            let mut entry = lock(&entry);
            entry.met = self.look;
            entry.is_missing = false;
            entry.fate = None;
        }
        self.grower(rule, path, sealed, entry)
    }

    /// A sealed file that may grow is not there.
    pub(super) fn gone(&self, path: &TreePath, sealed: &Node) {
        let Some(rule) = self.policy.growing(path, Some(sealed.file_type())) else { return };
        let entry = self.growing.entry(path);
        {
            let mut entry = lock(&entry);
            entry.met = self.look;
            entry.is_missing = false;
        }
        if let Some(grower) = self.grower(rule, path, Some(sealed), entry) {
            grower.gone();
        }
    }

    /// Everything was looked at: what is not there, and is where its rotation says, is forgotten.
    pub(super) fn finish(&self) {
        if !self.growing.goes_on {
            return;
        }
        let is_unmet = |entry: &Arc<Mutex<Entry>>| {
            let entry = lock(entry);
            entry.met != self.look && !entry.is_missing
        };
        let unmet: Vec<(TreePath, Arc<Mutex<Entry>>)> = lock(&self.growing.entries)
            .iter()
            .filter(|(_, entry)| is_unmet(entry))
            .map(|(path, entry)| (path.clone(), Arc::clone(entry)))
            .collect();
        for (path, entry) in unmet {
            let mut rules =
                [None, Some(FileType::File)].into_iter().filter_map(|sealed| self.policy.growing(&path, sealed));
            // What does not grow under this policy is not remembered.
            let grower = rules.next().and_then(|rule| self.grower(rule, &path, None, entry));
            if grower.is_none_or(|grower| grower.is_elsewhere())
                && let Some(gone) = lock(&self.growing.entries).remove(&path)
            {
                self.growing.forget(&gone);
            }
        }
    }

    fn grower(
        &self,
        rule: &'a Rule,
        path: &TreePath,
        sealed: Option<&Node>,
        entry: Arc<Mutex<Entry>>,
    ) -> Option<Grower<'a>> {
        let Allow::Append(rotation) = &rule.allow else { return None };
        let (directory, name) = rule.siblings_of(path)?;
        let Self { growing, algorithm, root, .. } = *self;
        Some(Grower { growing, rotation, algorithm, root, directory, name, sealed: sealed.cloned(), entry })
    }
}

impl Grower<'_> {
    /// How many bytes of the file were read before, or sealed, so that they may be read again whatever they are.
    pub(super) fn length(&self) -> u64 {
        self.then(&lock(&self.entry)).map_or(0, |then| then.length)
    }

    /// Reads the file, as far as it went when it was looked at, and says what became of it.
    pub(super) fn read(&self, source: Source<'_>) -> Result<Read, Trouble> {
        let mut entry = lock(&self.entry);
        let entry = &mut *entry;
        let then = self.then(entry);
        let (inode, size) = (source.stat.ino, source.stat.size);
        let same = entry.known.as_ref().is_some_and(|known| known.inode == inode);
        let mut running = entry.running.clone().filter(|running| same && running.goes_on_in(source));
        let (bytes, marks) = match &mut running {
            Some(running) => (running.tail(source)?, None),
            None => {
                let lengths: Vec<u64> =
                    then.iter().chain(entry.lost.iter().map(|lost| &lost.what)).map(|what| what.length).collect();
                let (whole, marks) = {
                    let full = Duration::from_millis(self.growing.full.load(Ordering::Relaxed));
                    Running::whole(source, self.algorithm, &lengths, full)?
                };
                running = Some(whole);
                (size, Some(marks))
            }
        };
        let running = running.ok_or(Trouble::Moved)?;
        let now = Now { inode, length: size, prefix: Some(running.blake3()) };
        let before = entry.before.take().filter(|(_, noticed)| noticed.elapsed() <= COPYING);
        let fate = match (&marks, &then) {
            (None, _) => Some(Fate::Grown),
            (Some(_), None) => None,
            (Some(marks), Some(then)) => self.compare(then, before.as_ref().map(|(before, _)| before), &now, marks),
        };
        entry.before = match (&then, &marks) {
            (Some(then), None) if bytes > 0 => Some((Remembered { seen: size, ..then.clone() }, Instant::now())),
            (_, None) => before.clone(),
            (_, Some(_)) => None,
        };
        let lost = then.map(|then| (then, before.map(|(before, _)| before)));
        self.take(entry, lost, fate, Some(&now), marks.as_deref());
        let read = Read { content: running.content(), bytes };
        let (length, prefix) = (size, running.blake3());
        let known = Remembered { inode, length, prefix, seen: size, modified: source.stat.mtime.0 };
        self.know(entry, known);
        self.growing.keep(entry, running);
        Ok(read)
    }

    fn know(&self, entry: &mut Entry, known: Remembered) {
        if entry.known.as_ref() != Some(&known) {
            self.growing.moved.store(true, Ordering::Relaxed);
            entry.known = Some(known);
        }
    }

    /// The file is not there: says what became of it.
    fn gone(&self) {
        let mut entry = lock(&self.entry);
        let entry = &mut *entry;
        let Some(then) = self.then(entry) else { return };
        let fate = match &entry.lost {
            Some(lost) if lost.settled => Fate::Cut(lost.cut),
            // It was rotated before, and nothing came in its place yet.
            _ if then == nothing() => Fate::Rotated(Rotated::OldestGone),
            _ => self.explain(&then, None),
        };
        let rotated = matches!(fate, Fate::Rotated(_));
        self.take(entry, Some((then, None)), Some(fate), None, None);
        if rotated && entry.lost.is_none() {
            // What comes in its place begins with nothing.
            self.know(entry, nothing());
            let had = entry.running.take().is_some();
            self.growing.running.fetch_sub(usize::from(had), Ordering::Relaxed);
        }
    }

    /// Whether a file is not there, and what it had is where its rotation says.
    fn is_elsewhere(&self) -> bool {
        let mut entry = lock(&self.entry);
        // One that was as sealed is not looked at again.
        if Beside::below(self.root, &self.directory, self.name.clone()).is_there() {
            return false;
        }
        entry.is_missing = true;
        let elsewhere = |what: &Remembered| matches!(self.explain(what, None), Fate::Rotated(_));
        entry.lost.is_none() && entry.known.as_ref().is_none_or(elsewhere)
    }

    /// What is remembered of the file: what was seen of it, or what was sealed.
    fn then(&self, entry: &Entry) -> Option<Remembered> {
        entry.known.clone().or_else(|| match self.sealed.as_ref()? {
            Node { kind: Kind::File { size: Some(size), content: Some(content) }, mtime, .. } => Some(Remembered {
                // No file has it.
                inode: 0,
                length: *size,
                prefix: *content,
                seen: *size,
                // Where it is not known, nothing is older.
                modified: mtime.unwrap_or(i64::MAX),
            }),
            _ => None,
        })
    }

    /// What became of what is remembered, when everything was read.
    fn compare(&self, then: &Remembered, before: Option<&Remembered>, now: &Now, marks: &[Mark]) -> Option<Fate> {
        let mark = marks.iter().find(|mark| mark.length == then.length);
        // Only what was sealed has another digest than BLAKE3, and siblings are known by BLAKE3 alone.
        let is_sealed = then.inode == 0 && then.length > 0;
        if self.algorithm != Algorithm::Blake3 && is_sealed {
            return mark.filter(|mark| mark.content == then.prefix).map(|_| Fate::Grown);
        }
        let prefix = mark.map(|mark| mark.blake3);
        Some(self.explain_with_copy(then, before, &Now { prefix, ..now.clone() }))
    }

    /// Takes what became of the file, and looks again for what it lost before.
    fn take(
        &self,
        entry: &mut Entry,
        then: Option<(Remembered, Option<Remembered>)>,
        fate: Option<Fate>,
        now: Option<&Now>,
        marks: Option<&[Mark]>,
    ) {
        let again = entry.lost.take_if(|lost| {
            if lost.settled && marks.is_none() {
                return false;
            }
            let at_length = marks.unwrap_or_default().iter().find(|mark| mark.length == lost.what.length);
            let fate = match now {
                Some(now) => {
                    let prefix = at_length.map(|mark| mark.blake3).or(now.prefix);
                    self.explain_with_copy(&lost.what, lost.before.as_ref(), &Now { prefix, ..now.clone() })
                }
                None => self.explain(&lost.what, None),
            };
            let found = !matches!(fate, Fate::Cut(_));
            lost.settled |= lost.since.elapsed() >= SETTLE;
            found
        });
        let mut changed = again.is_some();
        if let (Some(Fate::Cut(cut)), Some((what, before)), None) = (&fate, then, &entry.lost) {
            let settled = !self.growing.goes_on;
            entry.lost = Some(Lost { what, before, cut: *cut, since: Instant::now(), settled });
            changed = true;
        }
        if changed {
            self.growing.moved.store(true, Ordering::Relaxed);
        }
        entry.fate = match &entry.lost {
            Some(lost) => Some(Fate::Cut(lost.cut)),
            None => fate,
        };
    }

    /// What became of a file that is there. If it was truncated where it lies, a copy may lack what was written last.
    fn explain_with_copy(&self, then: &Remembered, before: Option<&Remembered>, now: &Now) -> Fate {
        let fate = self.explain(then, Some(now));
        let Some(before) = before.filter(|_| matches!(fate, Fate::Cut(_)) && now.inode == then.inode) else {
            return fate;
        };
        // What is in its place begins otherwise: only a copy explains it.
        let emptied = Now { length: 0, prefix: None, ..now.clone() };
        match self.explain(before, Some(&emptied)) {
            copied @ Fate::Rotated(Rotated::Copied { .. } | Rotated::Packed { .. }) => copied,
            _ => fate,
        }
    }

    fn explain(&self, then: &Remembered, now: Option<&Now>) -> Fate {
        let mut beside = Beside::below(self.root, &self.directory, self.name.clone());
        explain(&self.name, then, now, self.rotation, &mut beside)
    }
}

/// What a file has that was rotated, before another is in its place.
fn nothing() -> Remembered {
    Remembered { inode: 0, length: 0, prefix: Digest::blake3(b""), seen: 0, modified: i64::MAX }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
