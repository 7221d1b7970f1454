//! Owns files that appear whole or not at all: written under another name, on disk before they get theirs. Must not own what
//! is in them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Bytes held before they are written.
const BUFFER: usize = 256 * 1024;

/// A file without a name of its own yet. Gone when it is dropped.
#[derive(Debug)]
pub struct Draft {
    file: BufWriter<NamedTempFile>,
    directory: PathBuf,
}

impl Draft {
    /// One in the directory of `path`.
    ///
    /// # Errors
    /// If it cannot be made there.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let directory = directory_of(path).to_owned();
        let mut builder = tempfile::Builder::new();
        // It is no secret; the umask decides as for any file.
        builder.prefix(".driftlock-").permissions(std::fs::Permissions::from_mode(0o666));
        let file = BufWriter::with_capacity(BUFFER, builder.tempfile_in(&directory)?);
        Ok(Self { file, directory })
    }

    /// Gives it a name in its directory, in place of what had that name. It is on disk when this returns, and so is the name.
    ///
    /// # Errors
    /// If it cannot be written or named; what had the name stays.
    pub fn keep(self, name: &std::ffi::OsStr) -> io::Result<()> {
        let Self { file, directory } = self;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(directory.join(name)).map_err(|error| error.error)?;
        sync(&directory)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The directory that a file is in.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Puts the names in a directory on disk.
///
/// # Errors
/// If that fails.
pub fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Writes to a file, or to stdout if it is `-`; the file appears, or is replaced, only when it is complete and on disk.
///
/// # Errors
/// If `fill` fails, or the file cannot be written.
pub fn write(output: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    if output.as_os_str() == "-" {
        let mut stdout = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        fill(&mut stdout)?;
        return stdout.flush();
    }
    let name = output.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut draft = Draft::beside(output)?;
    fill(&mut draft)?;
    draft.keep(name)
}
