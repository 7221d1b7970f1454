//! Owns small files of the state directory: lines of text with a digest below them, replaced whole. Must not own what they
//! say.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;

/// Where what is kept of a target is, `what` it is.
pub fn of_target(what: &str, target: &str, state_dir: &Path) -> PathBuf {
    state_dir.join(format!("{what}-{}.state", token(target)))
}

/// What stands for a target in the names of files: its name may hold what theirs may not.
pub fn token(target: &str) -> String {
    let digest = Digest::blake3(target.as_bytes()).to_string();
    digest[..16].to_owned()
}

/// Reads the lines of a file of at most `most` bytes; `None` if it is not there.
///
/// # Errors
/// If it cannot be read; [`io::ErrorKind::InvalidData`] if it is not what was written.
pub fn read(path: &Path, most: u64) -> io::Result<Option<String>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(most).read_to_end(&mut bytes).map(|_| bytes)
    };
    match read() {
        Ok(bytes) => parse(bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file: afterwards, and after a crash at any time, it is the old or the new one. `lines` ends with a line feed.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, lines: &str) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(encode(lines).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    crate::draft::sync(crate::draft::directory_of(path))
}

/// The lines, and the BLAKE3 digest of all of them.
fn encode(lines: &str) -> String {
    format!("{lines}{}\n", Digest::blake3(lines.as_bytes()))
}

fn parse(bytes: Vec<u8>) -> Option<String> {
    let mut text = String::from_utf8(bytes).ok()?;
    let end = text.strip_suffix('\n')?.rfind('\n')? + 1;
    (encode(&text[..end]) == text).then(|| {
        text.truncate(end);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_file_counts_and_one_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = of_target("serial", "a/b", dir.path());
        assert_eq!(path.parent(), Some(dir.path()));
        assert_eq!(read(&path, 100).unwrap(), None);
        write(&path, "head\nline\n").unwrap();
        assert_eq!(read(&path, 100).unwrap().unwrap(), "head\nline\n");
        let bytes = std::fs::read(&path).unwrap();
        let damaged = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path, 100).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        };
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            damaged(&flipped);
            damaged(&bytes[..at]);
        }
        damaged(&[&bytes[..], b"\n"].concat());
        // More than is allowed is cut, so it is damaged too.
        write(&path, &format!("{}\n", "x".repeat(100))).unwrap();
        assert!(read(&path, 100).is_err());
    }
}
