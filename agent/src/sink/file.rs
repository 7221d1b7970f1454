//! Owns writing events to a file, a line of JSON each: appended, whole or not at all, into whatever file has the name by
//! then. Must not own rotating it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::{Drain, Record};

/// A file that grows.
pub(super) struct Appended {
    path: PathBuf,
    open: Option<File>,
}

impl Appended {
    pub(super) const fn to(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// The file that has the name now: another one than before if it was rotated.
    fn file(&mut self) -> io::Result<&File> {
        let named = std::fs::symlink_metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        let same = |file: &File| file.metadata().ok().map(|file| (file.dev(), file.ino())) == named;
        let file = match self.open.take().filter(|_| named.is_some()).filter(same) {
            Some(file) => file,
            None => self.opened()?,
        };
        Ok(self.open.insert(file))
    }

    fn opened(&self) -> io::Result<File> {
        // A link would be followed to a file of somebody else's choice; a FIFO would be waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path);
        let file = file.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::LOOP) => io::Error::other("a symbolic link is not followed: name the file itself"),
            _ => error,
        })?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        Ok(file)
    }
}

impl Drain for Appended {
    fn take(&mut self, record: &Record) -> io::Result<()> {
        let mut file = self.file()?;
        let line = format!("{}\n", record.json);
        let mut written = 0;
        while written < line.len() {
            match file.write(&line.as_bytes()[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let written = u64::try_from(written).unwrap_or(u64::MAX);
                    take_back(file, written)?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Takes what was written of a line back, so that nobody reads half of it: a disk that was full has it whole later.
fn take_back(file: &File, written: u64) -> io::Result<()> {
    if written == 0 {
        return Ok(());
    }
    file.set_len(file.metadata()?.len().saturating_sub(written))
}
