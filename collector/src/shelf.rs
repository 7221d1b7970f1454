//! Owns what was pushed: manifests, bundles and assignments, each a compressed file by its SHA-256, who pushed it, and which
//! of them a target must match on which hosts. Must not own HTTP, or whom to believe: that is for agents to know.
//!
//! Everything is in `manifests` in the data directory: files appear whole, by rename, and so does the list of them, so that a
//! copy of the directory at any time is one.

mod incoming;
mod serve;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use driftlock_common::digest::Digest;
use driftlock_common::host_name::HostName;
use driftlock_common::shelf::{Item, Kind, Listing, Pointer};
use tokio::sync::Semaphore;

pub(crate) use serve::{about, get, list, point, put, wanted};

/// Things that are kept. More are a mistake: nothing is ever pushed out.
const MAX_ITEMS: usize = 100_000;
/// Pointers that are kept.
const MAX_POINTERS: usize = 10_000;
/// Bodies that come in at one time.
const INCOMING: usize = 4;
/// Name of the list in the directory.
const LIST: &str = "list.json";

/// The shelf of a collector.
#[derive(Debug)]
pub struct Shelf {
    directory: PathBuf,
    listing: Mutex<Listing>,
    incoming: Semaphore,
}

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The directory or a file in it.
    #[error("{}", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The list is not one.
    #[error("{}: damaged", .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
    /// There are too many.
    #[error("there are {0} {1} already: that is too many")]
    Full(usize, &'static str),
    /// What a pointer names is not kept, or something else.
    #[error("there is no {0} {1} here: push it first")]
    Absent(Kind, Digest),
}

impl Shelf {
    /// The shelf in a collector's data directory; made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or its list cannot be read.
    pub fn open(data: &Path) -> Result<Self, ShelfError> {
        let directory = data.join("manifests");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| ShelfError::Io(path, error)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(at(&directory))?;
        for entry in std::fs::read_dir(&directory).map_err(at(&directory))?.flatten() {
            // What was coming in when a collector ended.
            if entry.file_name().as_encoded_bytes().starts_with(incoming::PREFIX.as_bytes()) {
                std::fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        let list = directory.join(LIST);
        let listing = match std::fs::read(&list) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| ShelfError::Damaged(list, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Listing::default(),
            Err(error) => return Err(ShelfError::Io(list, error)),
        };
        Ok(Self { directory, listing: Mutex::new(listing), incoming: Semaphore::new(INCOMING) })
    }

    fn lock(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, sha256: Digest) -> PathBuf {
        self.directory.join(format!("{sha256}.zst"))
    }

    /// The bytes of something, compressed, and what it is; `None` if it is not kept.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn find(&self, sha256: Digest) -> Result<Option<(Item, File)>, ShelfError> {
        let item = self.lock().items.iter().find(|item| item.sha256 == sha256).cloned();
        let Some(item) = item else { return Ok(None) };
        let path = self.file(sha256);
        let file = File::open(&path).map_err(|error| ShelfError::Io(path, error))?;
        Ok(Some((item, file)))
    }

    /// What a target of a host must match: the last word on it.
    pub fn wanted(&self, host: &HostName, target: &str, kind: Kind) -> Option<Digest> {
        let matches =
            |pointer: &&Pointer| pointer.kind == kind && pointer.target == target && pointer.hosts.matches(host);
        self.lock().pointers.iter().rev().find(matches).map(|pointer| pointer.sha256)
    }

    /// A bundle about a manifest: the one that was pushed last.
    pub fn bundle_about(&self, manifest: Digest) -> Option<Digest> {
        let is = |item: &&Item| item.kind == Kind::Bundle && item.manifest == Some(manifest);
        self.lock().items.iter().rev().find(is).map(|item| item.sha256)
    }

    /// Everything.
    pub fn listing(&self) -> Listing {
        self.lock().clone()
    }

    /// Puts something on the list whose file is there; whether it is new.
    fn keep(&self, item: Item) -> Result<bool, ShelfError> {
        let mut listing = self.lock();
        if listing.items.iter().any(|known| known.sha256 == item.sha256) {
            return Ok(false);
        }
        if listing.items.len() >= MAX_ITEMS {
            return Err(ShelfError::Full(MAX_ITEMS, "things"));
        }
        let mut next = listing.clone();
        next.items.push(item);
        self.write(&next)?;
        *listing = next;
        Ok(true)
    }

    /// Says what a target must match.
    ///
    /// # Errors
    /// If that is not kept, or it cannot be written.
    pub fn set(&self, pointer: Pointer) -> Result<(), ShelfError> {
        let mut listing = self.lock();
        let is = |item: &Item| item.kind == pointer.kind && item.sha256 == pointer.sha256;
        if !listing.items.iter().any(is) {
            return Err(ShelfError::Absent(pointer.kind, pointer.sha256));
        }
        let mut next = listing.clone();
        // The last one counts, so it goes to the end.
        next.pointers.retain(|other| {
            (&other.hosts, &other.target, other.kind) != (&pointer.hosts, &pointer.target, pointer.kind)
        });
        if next.pointers.len() >= MAX_POINTERS {
            return Err(ShelfError::Full(MAX_POINTERS, "pointers"));
        }
        next.pointers.push(pointer);
        self.write(&next)?;
        *listing = next;
        Ok(())
    }

    /// The list is the old or the new one, whatever happens.
    fn write(&self, listing: &Listing) -> Result<(), ShelfError> {
        let (path, next) = (self.directory.join(LIST), self.directory.join(format!("{}list", incoming::PREFIX)));
        let write = || {
            let bytes = serde_json::to_vec(listing).map_err(io::Error::other)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| ShelfError::Io(path.clone(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sha256: Digest, kind: Kind) -> Item {
        let manifest = (kind != Kind::Manifest).then(|| Digest::sha256(b"m"));
        Item { sha256, kind, bytes: 1, manifest, pushed_by: "me".into(), pushed_at: String::new() }
    }

    fn pointer(hosts: &str, sha256: Digest) -> Pointer {
        let (set_by, set_at) = (String::new(), String::new());
        Pointer { hosts: hosts.parse().unwrap(), target: "app".into(), kind: Kind::Bundle, sha256, set_by, set_at }
    }

    #[test]
    fn the_last_word_on_a_target_counts_and_outlives_the_collector() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path()).unwrap();
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::sha256(bytes));
        let web = "web-1".parse().unwrap();
        assert!(matches!(shelf.set(pointer("*", a)), Err(ShelfError::Absent(Kind::Bundle, _))));
        assert!(shelf.keep(item(a, Kind::Bundle)).unwrap());
        assert!(!shelf.keep(item(a, Kind::Bundle)).unwrap(), "known already");
        shelf.keep(item(b, Kind::Bundle)).unwrap();
        shelf.set(pointer("web-*", a)).unwrap();
        shelf.set(pointer("web-1", b)).unwrap();
        assert_eq!(shelf.wanted(&web, "app", Kind::Bundle), Some(b));
        assert_eq!(shelf.wanted(&"web-2".parse().unwrap(), "app", Kind::Bundle), Some(a));
        assert_eq!(shelf.wanted(&"db-1".parse().unwrap(), "app", Kind::Bundle), None);
        assert_eq!(shelf.wanted(&web, "other", Kind::Bundle), None);
        assert_eq!(shelf.wanted(&web, "app", Kind::Assignment), None);
        // Said again, it is the last one.
        shelf.set(pointer("web-*", a)).unwrap();
        assert_eq!(shelf.wanted(&web, "app", Kind::Bundle), Some(a));
        assert_eq!(shelf.bundle_about(Digest::sha256(b"m")), Some(b));
        let listing = shelf.listing();
        assert_eq!((listing.items.len(), listing.pointers.len()), (2, 2));
        drop(shelf);
        std::fs::write(dir.path().join("manifests/.incoming-x"), "half").unwrap();
        let again = Shelf::open(dir.path()).unwrap();
        assert_eq!(again.listing(), listing);
        assert!(!dir.path().join("manifests/.incoming-x").exists());
        std::fs::write(dir.path().join("manifests/list.json"), "{").unwrap();
        assert!(matches!(Shelf::open(dir.path()), Err(ShelfError::Damaged(..))));
    }
}
