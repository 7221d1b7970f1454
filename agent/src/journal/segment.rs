//! Owns one file of records: it only grows, and what is in it is flushed before it counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::JournalError;
use super::directory::Directory;

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// With a whole record.
    Clean,
    /// With part of a record: it was never given.
    Torn,
    /// With whole records after something that is none: it had been given.
    Damaged,
}

/// A segment.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    len: u64,
    /// The highest sequence in it; one less than its first if it has none.
    last: u64,
}

impl Segment {
    /// A new one.
    pub(super) fn create(directory: &Directory, epoch: &str, first: u64) -> Result<Self, JournalError> {
        let path = directory.path(&format!("{epoch}-{first:020}.log"));
        let open = || -> io::Result<File> {
            // One that is there already is left over from a write that failed.
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.sync_all()?;
            directory.sync()?;
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self { path, file, len: 0, last: first.saturating_sub(1) }),
            Err(error) => Err(JournalError::Io(path, error)),
        }
    }

    /// One that is there, cut to its whole records.
    pub(super) fn reopen(path: PathBuf, len: u64, last: u64) -> Result<Self, JournalError> {
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            if file.metadata()?.len() != len {
                file.set_len(len)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self { path, file, len, last }),
            Err(error) => Err(JournalError::Io(path, error)),
        }
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Writes and flushes. After an error nothing of it counts.
    pub(super) fn append(&mut self, bytes: &[u8], last: u64) -> Result<(), JournalError> {
        match self.write(bytes).and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                self.last = last;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Writes without flushing: for what may be lost.
    pub(super) fn note(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        match self.write(bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// At the end of what counts: what a failed write left behind it is overwritten, and cut off.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.len() != self.len {
            self.file.set_len(self.len)?;
        }
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.write_all(bytes)
    }

    fn failed(&self, error: io::Error) -> JournalError {
        // If this fails too, the next write or the next start cuts it off.
        let _cut_later = self.file.set_len(self.len);
        JournalError::Io(self.path.clone(), error)
    }

    /// What counts, from `from` on.
    pub(super) fn read(&self, from: u64) -> Result<Vec<u8>, JournalError> {
        let mut bytes = Vec::new();
        let read = || -> io::Result<()> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(from))?;
            file.take(self.len.saturating_sub(from)).read_to_end(&mut bytes).map(drop)
        };
        let mut read = read;
        match read() {
            Ok(()) => Ok(bytes),
            Err(error) => Err(JournalError::Io(self.path.clone(), error)),
        }
    }

    /// Removes the file.
    pub(super) fn remove(self, directory: &Directory) -> Result<(), JournalError> {
        remove(&self.path)?;
        directory.sync().map_err(|error| JournalError::Io(self.path, error))
    }
}

fn remove(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(JournalError::Io(path.to_owned(), error)),
    }
}

/// The segments there are: epoch, first sequence, path.
pub(super) fn list(directory: &Directory) -> Result<Vec<(String, u64, PathBuf)>, JournalError> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(directory.root()).min_depth(1).max_depth(1) {
        let entry = entry.map_err(|error| JournalError::Io(directory.root().to_owned(), error.into()))?;
        let name = entry.file_name().to_str().and_then(|name| name.strip_suffix(".log"));
        if let Some((epoch, first)) = name.and_then(|name| name.split_once('-'))
            && let Ok(first) = first.parse()
        {
            found.push((epoch.to_owned(), first, entry.into_path()));
        }
    }
    Ok(found)
}

/// Removes the segments of other epochs.
pub(super) fn remove_others(directory: &Directory, epoch: &str) -> Result<(), JournalError> {
    list(directory)?.into_iter().filter(|(name, ..)| name != epoch).try_for_each(|(.., path)| remove(&path))
}
