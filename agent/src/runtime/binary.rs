//! Owns what the agent's own binary is: as it runs, and at its path. Must not own being told that it changed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::path::Escaped;

/// The binary as it runs, whatever is at its path by now.
const RUNNING: &str = "/proc/self/exe";

/// BLAKE3 of the binary that runs; `None` if it cannot be read. Read once.
pub(crate) fn running() -> Option<OciDigest> {
    static DIGEST: OnceLock<Option<OciDigest>> = OnceLock::new();
    *DIGEST.get_or_init(|| digest(Path::new(RUNNING)).ok())
}

/// Where it was started from; `None` if nothing is there, as when it was started from memory.
pub(crate) fn path() -> Option<PathBuf> {
    let path = std::fs::read_link(RUNNING).ok()?.into_os_string().into_vec();
    // What the kernel adds if another one took its place meanwhile (proc_pid_exe(5)).
    let path = path.strip_suffix(b" (deleted)").unwrap_or(&path);
    Some(PathBuf::from(OsStr::from_bytes(path))).filter(|path| path.is_absolute() && path.exists())
}

/// How what is at `path` differs from what runs, in one line; `None` if it does not.
pub(crate) fn replaced(path: &Path) -> Option<String> {
    let running = running()?;
    let shown = Escaped(path.as_os_str().as_bytes());
    match digest(path) {
        Ok(there) if there == running => None,
        Ok(there) => Some(format!("{shown}: {running} runs, {there} is there")),
        Err(error) => Some(format!("{shown}: {running} runs, and what is there cannot be read: {error}")),
    }
}

/// BLAKE3 of a file.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn digest(path: &Path) -> std::io::Result<OciDigest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(OciDigest::blake3(Digest::from(hasher.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_binary_is_told_from_the_one_that_runs() {
        let running = running().unwrap();
        assert_eq!(replaced(&path().unwrap()), None);
        let temp = tempfile::tempdir().unwrap();
        let other = temp.path().join("other\n");
        std::fs::copy(RUNNING, &other).unwrap();
        assert_eq!(replaced(&other), None, "the same content");
        std::fs::write(&other, "other").unwrap();
        let there = Digest::blake3(b"other");
        let said = replaced(&other).unwrap();
        assert!(said.ends_with(&format!("other\\n: {running} runs, blake3:{there} is there")), "{said}");
        std::fs::remove_file(&other).unwrap();
        assert!(replaced(&other).unwrap().contains("cannot be read"));
    }
}
