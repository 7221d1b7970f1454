//! Owns one change that somebody made by hand, and its being undone. Must not own which alert it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::tree::below;

/// Does `change` to what is at `path`, or to nothing, lets `look` see it, and puts back what was there: the very inode, so
/// that a file that grows stays the file that it was. Meanwhile that is at `aside`, in the same file system.
pub(super) fn planted<T>(
    root: &Path,
    aside: &Path,
    path: &str,
    change: impl FnOnce(&Path) -> Result<()>,
    look: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let place = below(root, path);
    let was_there = place.symlink_metadata().is_ok();
    if was_there {
        fs::rename(&place, aside).with_context(|| place.display().to_string())?;
        let copied = Command::new("cp").args(["-a", "--no-target-directory"]).arg(aside).arg(&place).status()?;
        ensure!(copied.success(), "cp: {copied}");
    }
    change(&place).with_context(|| place.display().to_string())?;
    let seen = look()?;
    fs::remove_file(&place)?;
    if was_there {
        fs::rename(aside, &place)?;
    }
    Ok(seen)
}
