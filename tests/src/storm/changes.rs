//! Owns carrying out the changes of one thread of a storm: never outside of the root but in its own place there, never
//! through a link, and each path logged before it is reached for. Must not own which changes they are (`operation`).

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags};
use walkdir::WalkDir;

use super::operation::{At, Harmless, Operation, Sight};
use super::touched::Touched;
use super::{LINKED, places};
use crate::mapped::Mapper;
use crate::random::Random;
use crate::saved::Saved;
use crate::tamper::{CAP_NET_RAW, set_capability};

/// Entries of the tree, over which it is pruned.
const MAX_ENTRIES: usize = 3000;
/// Descriptors that are kept open.
const MAX_HELD: usize = 8;

/// One thread's changes.
#[derive(Debug)]
pub struct Changes {
    root: OwnedFd,
    root_path: PathBuf,
    /// Where things are moved to, and come from; `None`: nothing is moved out.
    outside: Option<PathBuf>,
    mapper: Option<Mapper>,
    places: Vec<At>,
    saved: Vec<(At, Saved)>,
    random: Random,
    held: VecDeque<(At, File)>,
    touched: Touched,
    /// How many were drawn, and how many of them changed something.
    counts: (u64, u64),
}

/// A name in a directory that is held, so that neither a link nor a rename leads elsewhere.
#[derive(Debug)]
struct Place {
    _directory: OwnedFd,
    path: PathBuf,
}

impl Changes {
    /// Of the tree at `root`, where `saved` is sealed, in the order of paths.
    ///
    /// # Errors
    /// If the root cannot be opened.
    pub fn new(root: &Path, outside: Option<&Path>, saved: Vec<(At, Saved)>, random: Random) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(root, flags, Mode::empty()).with_context(|| root.display().to_string())?;
        Ok(Self {
            root: directory,
            root_path: root.to_owned(),
            outside: outside.map(Path::to_owned),
            mapper: outside.map(|_| Mapper::compile()).transpose()?,
            places: places(),
            saved,
            random,
            held: VecDeque::new(),
            touched: Touched::default(),
            counts: (0, 0),
        })
    }

    /// The seeded choices, for those who need more of them.
    pub const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Draws an operation and carries it out, unless `sight` leaves it out. It may change nothing: what it would change may
    /// be gone.
    pub fn change(&mut self, sight: Sight) {
        let operation = Operation::draw(&mut self.random, &self.places, self.saved.len());
        self.counts.0 += 1;
        if operation.is_seen_by(sight) {
            // Whether it was possible does not matter: the second opinion looks at what came of it.
            self.counts.1 += u64::from(self.perform(operation).is_ok());
        }
    }

    /// How many operations there were, and how many were possible.
    pub const fn counts(&self) -> (u64, u64) {
        self.counts
    }

    /// Closes what is open; what was reached for.
    pub fn into_touched(self) -> Touched {
        self.touched
    }

    fn place(&self, at: &[u8]) -> io::Result<Place> {
        let (directory, name) = match at.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&at[..slash], &at[slash + 1..]),
            None => (&b"."[..], at),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let directory = rustix::fs::openat2(&self.root, directory, flags, Mode::empty(), resolve)?;
        // Of this process, because another one is given the path too.
        let held = format!("/proc/{}/fd/{}", std::process::id(), directory.as_raw_fd());
        Ok(Place { path: Path::new(&held).join(OsStr::from_bytes(name)), _directory: directory })
    }

    /// A place of which the entry itself is changed.
    fn entry(&mut self, at: &[u8]) -> io::Result<Place> {
        self.touched.entry(at);
        self.place(at)
    }

    /// A place of which everything is changed.
    fn subtree(&mut self, at: &[u8]) -> io::Result<Place> {
        self.touched.subtree(at);
        self.place(at)
    }

    fn outside(&self) -> io::Result<&Path> {
        self.outside.as_deref().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
    }

    fn perform(&mut self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Write(at, length) => {
                let mut file = writing().create(true).truncate(true).open(&self.entry(&at)?.path)?;
                file.write_all(&self.bytes(length))
            }
            Operation::WriteInPlace(at, offset) => {
                let file = writing().open(&self.entry(&at)?.path)?;
                file.write_all_at(&self.bytes(1), offset)
            }
            Operation::Append(at, length) => {
                let mut file = writing().append(true).open(&self.entry(&at)?.path)?;
                file.write_all(&self.bytes(length))
            }
            Operation::Sparse(at, hole) => {
                let file = writing().create(true).truncate(true).open(&self.entry(&at)?.path)?;
                file.write_all_at(b"behind", hole)
            }
            Operation::Forge(at) => {
                let file = writing().read(true).open(&self.entry(&at)?.path)?;
                let before = file.metadata()?;
                let length = usize::try_from(before.len()).map_err(io::Error::other)?.min(64);
                file.write_all_at(&self.bytes(length), 0)?;
                file.set_modified(before.modified()?)
            }
            Operation::Truncate(at, length) => {
                let place = self.entry(&at)?;
                if place.path.is_symlink() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                Ok(nix::unistd::truncate(&place.path, i64::try_from(length).map_err(io::Error::other)?)?)
            }
            Operation::TruncateOpen(at, length) => writing().open(&self.entry(&at)?.path)?.set_len(length),
            Operation::Hold(at) => {
                let file = writing().open(&self.entry(&at)?.path)?;
                self.held.push_back((at, file));
                if self.held.len() > MAX_HELD {
                    self.held.pop_front();
                }
                Ok(())
            }
            Operation::WriteHeld(close) => {
                let (at, file) = self.held.pop_front().ok_or(io::ErrorKind::NotFound)?;
                // Where it is by now nobody knows: whoever moved it logged that.
                self.touched.entry(&at);
                let written = file.write_all_at(&self.bytes(40), 3);
                if !close {
                    self.held.push_back((at, file));
                }
                written
            }
            Operation::Remove(at) => remove(&self.subtree(&at)?.path),
            Operation::Grow(at, depth) => {
                let place = self.subtree(&at)?;
                let mut path = place.path.clone();
                for level in 0..depth {
                    path.push(if level % 2 == 0 { "deeper" } else { "still" });
                    fs::create_dir_all(&path)?;
                    for name in ["one", "two\n"] {
                        writing().create(true).truncate(true).open(path.join(name))?.write_all(&self.bytes(60))?;
                    }
                }
                symlink("nowhere", path.join("link"))
            }
            Operation::Rename(from, to) => {
                let (from, to) = (self.subtree(&from)?, self.subtree(&to)?);
                fs::rename(&from.path, &to.path)
            }
            Operation::Exchange(one, other) => {
                let (one, other) = (self.subtree(&one)?, self.subtree(&other)?);
                Ok(rustix::fs::renameat_with(CWD, &one.path, CWD, &other.path, RenameFlags::EXCHANGE)?)
            }
            Operation::Link(from, to) => {
                let (from, to) = (self.entry(&from)?, self.entry(&to)?);
                fs::hard_link(&from.path, &to.path)
            }
            Operation::Symlink(at, number) => symlink(format!("target-{number}"), &self.entry(&at)?.path),
            Operation::Node(at, fifo) => {
                let (file_type, device) =
                    if fifo { (FileType::Fifo, 0) } else { (FileType::CharacterDevice, rustix::fs::makedev(240, 9)) };
                let mode = Mode::from_raw_mode(0o640);
                Ok(rustix::fs::mknodat(CWD, &self.entry(&at)?.path, file_type, mode, device)?)
            }
            Operation::Mode(at, mode) => {
                let place = self.entry(&at)?;
                set_mode(&place.path, mode)
            }
            Operation::Owner(at, id) => lchown(&self.entry(&at)?.path, Some(id), Some(id)),
            Operation::Attribute(at, byte) => attribute(&self.entry(&at)?.path, byte),
            Operation::Capability(at) => set_capability(&self.entry(&at)?.path, &CAP_NET_RAW).map_err(io::Error::other),
            Operation::Save(at, length) => {
                let (temporary, place) = (self.entry(&beside(&at, b".tmp"))?, self.entry(&at)?);
                let mut file = writing().create(true).truncate(true).open(&temporary.path)?;
                file.write_all(&self.bytes(length))?;
                file.sync_data()?;
                fs::rename(&temporary.path, &place.path)
            }
            Operation::Backup(at, length) => {
                let (backup, place) = (self.subtree(&beside(&at, b"~"))?, self.subtree(&at)?);
                fs::rename(&place.path, &backup.path)?;
                let mut file = writing().create(true).truncate(true).open(&place.path)?;
                file.write_all(&self.bytes(length))?;
                drop(file);
                remove(&backup.path)
            }
            Operation::Store(at, byte) => {
                let place = self.entry(&at)?;
                let mapper = self.mapper.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let mut mapped = mapper.open(&place.path).map_err(io::Error::other)?;
                // Twice: the page is dirty by then, and nothing but the content tells of the second.
                mapped.store(byte).and_then(|()| mapped.store(byte ^ 1)).map_err(io::Error::other)?;
                mapped.close().map_err(io::Error::other)
            }
            Operation::MoveOut(at, slot) => {
                let place = self.subtree(&at)?;
                let slot = self.slot(slot)?;
                // What is in the way there; another thread may be at the same.
                let _nothing_there = remove(&slot);
                fs::rename(&place.path, &slot)
            }
            Operation::MoveIn(slot, at) => {
                let place = self.subtree(&at)?;
                let slot = self.slot(slot)?;
                if slot.symlink_metadata()?.is_dir() {
                    writing().create(true).truncate(true).open(slot.join("while away"))?.write_all(&self.bytes(9))?;
                }
                fs::rename(&slot, &place.path)
            }
            Operation::WriteOutside(number) => {
                let alias = self.outside()?.join(format!("linked-{}", number % LINKED));
                self.touched.entry(format!("linked/{number}").as_bytes());
                writing().open(alias)?.write_all_at(&self.bytes(4), 2)
            }
            Operation::Harmless(number, how) => self.harmless(number, how),
            Operation::Restore(index) => {
                let (at, saved) = self.saved[index].clone();
                if at.starts_with(b"still") || at.starts_with(b"steady") || at.starts_with(b"linked") || is_calm(&at) {
                    return Ok(());
                }
                saved.restore_at(&self.subtree(&at)?.path).map_err(io::Error::other)
            }
            Operation::RestoreAll(top) => {
                self.touched.subtree(&top);
                let below = [&top[..], b"/"].concat();
                for (at, saved) in &self.saved {
                    if *at == top || at.starts_with(&below) {
                        saved.restore_at(&self.place(at)?.path).map_err(io::Error::other)?;
                    }
                }
                Ok(())
            }
            Operation::Prune => self.prune(),
        }
    }

    fn harmless(&mut self, number: usize, how: Harmless) -> io::Result<()> {
        let at = format!("still/{number}").into_bytes();
        self.touched.harmless(&at);
        let place = self.place(&at)?;
        let before = fs::symlink_metadata(&place.path)?;
        match how {
            Harmless::Time => writing().open(&place.path)?.set_modified(SystemTime::now()),
            Harmless::Mode => set_mode(&place.path, before.mode() & 0o7777),
            Harmless::Link => {
                let alias = self.outside()?.join(format!("still-{number}-{}", self.random_name()));
                fs::hard_link(&place.path, &alias)?;
                fs::remove_file(alias)
            }
            Harmless::Equal => {
                let equal = self.outside()?.join(format!("equal-{number}-{}", self.random_name()));
                fs::write(&equal, fs::read(&place.path)?)?;
                lchown(&equal, Some(before.uid()), Some(before.gid()))?;
                set_mode(&equal, before.mode() & 0o7777)?;
                fs::rename(equal, &place.path)
            }
            Harmless::Open => writing().open(&place.path).map(drop),
            Harmless::Attribute => attribute(&place.path, 1),
        }
    }

    /// Keeps the tree from growing without end, which directories within directories would make it.
    fn prune(&mut self) -> io::Result<()> {
        let entries = |top: &Path| WalkDir::new(top).into_iter().flatten().take(MAX_ENTRIES + 1).count();
        let outside = self.outside.as_deref().map_or(0, entries);
        if outside > MAX_ENTRIES {
            for number in 0..super::operation::SLOTS {
                let _another_thread_was_faster = remove(&self.slot(number)?);
            }
        }
        if entries(&self.root_path) > MAX_ENTRIES {
            for top in [&b"etc"[..], b"usr", b"var"] {
                let _another_thread_was_faster = remove(&self.subtree(top)?.path);
            }
            for at in places().iter().filter(|at| at.starts_with(b"many/") && !at.ends_with(b"/file")) {
                let _another_thread_was_faster = remove(&self.subtree(at)?.path);
            }
        }
        Ok(())
    }

    fn slot(&self, number: usize) -> io::Result<PathBuf> {
        Ok(self.outside()?.join(format!("slot-{number}")))
    }

    /// Different in every thread.
    fn random_name(&self) -> String {
        format!("{:?}", std::thread::current().id()).replace(['(', ')'], "")
    }

    /// Something that was not written before.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        // Drawn apart from the operations, which would else depend on what was possible.
        self.counts.1.to_le_bytes().into_iter().chain(self.counts.0.to_le_bytes()).cycle().take(length).collect()
    }
}

/// Whether nothing but an entry of it is ever changed.
fn is_calm(at: &[u8]) -> bool {
    matches!(at, b"" | b"wide" | b"many" | b"deep")
        || at.strip_prefix(b"wide/").is_some_and(|name| name.last().is_some_and(|digit| digit % 2 == 1))
}

/// Opens for writing: no link, and nobody is waited for.
fn writing() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.write(true).custom_flags(i32::try_from(flags.bits()).expect("the kernel's flags are an int"));
    options
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_symlink() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn attribute(path: &Path, byte: u8) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(path, "user.note", &[byte], XattrFlags::empty())?)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn beside(at: &[u8], suffix: &[u8]) -> At {
    [at, suffix].concat()
}
