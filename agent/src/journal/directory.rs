//! Owns the state directory as such: its making, its lock, the host's id, and replacing small files in it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::JournalError;

pub(super) const CHECKPOINT: &str = "checkpoint";
const HOST: &str = "host";
/// The epoch of which events were given up because there was no collector to tell.
pub(super) const UNTOLD: &str = "untold";
/// The file by whose lock a living agent is known.
pub(crate) const LOCK: &str = "lock";

/// The directory, locked.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// Open for flushing the names in it.
    handle: File,
    /// The lock goes with the descriptor, so with the process, however that ends.
    _lock: File,
}

impl Directory {
    pub(super) fn open(root: &Path) -> Result<Self, JournalError> {
        let create = |error| JournalError::Create(root.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(create)?;
        let lock_path = root.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| JournalError::Create(lock_path, error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::Locked(root.to_owned())),
            Err(error) => return Err(create(error.into())),
        }
        let handle = File::open(root).map_err(create)?;
        Ok(Self { root: root.to_owned(), handle, _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes the names in the directory last.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    pub(super) fn identity(&self) -> Result<(u64, u64), JournalError> {
        let metadata = self.handle.metadata().map_err(|error| JournalError::Io(self.root.clone(), error))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    pub(super) fn has_checkpoint(&self) -> bool {
        self.path(CHECKPOINT).exists()
    }

    /// Bytes of the checkpoint.
    pub(super) fn checkpoint_len(&self) -> Result<u64, JournalError> {
        let path = self.path(CHECKPOINT);
        path.metadata().map(|metadata| metadata.len()).map_err(|error| JournalError::Io(path, error))
    }

    /// The id made with the directory.
    pub(super) fn host_id(&self) -> Result<String, JournalError> {
        if let Some(bytes) = self.read(HOST)?
            && let Ok(text) = String::from_utf8(bytes)
            && text.trim_end().len() == 32
            && text.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Ok(text.trim_end().to_owned());
        }
        let id = random_hex()?;
        self.replace(HOST, format!("{id}\n").as_bytes())?;
        Ok(id)
    }

    /// A file's content; `None` if it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
        let path = self.path(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JournalError::Io(path, error)),
        }
    }

    /// Replaces a file: afterwards, and after a crash at any time, it is the old or the new one.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), JournalError> {
        let path = self.path(name);
        let next = self.path(&format!("{name}.next"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&next, &path)?;
            self.sync()
        };
        write().map_err(|error| JournalError::Io(path.clone(), error))
    }
}

/// 128 random bits as 32 hexadecimal digits.
pub(super) fn random_hex() -> Result<String, JournalError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(JournalError::Random)?;
    Ok(hex::encode(bytes))
}
