//! Owns the ways to tamper with a path. Each verb says what a scan must find of it; must not own finding it.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::XattrFlags;

use crate::drift::Drift;
use crate::naive::CAPABILITY;
use crate::tree::below;

/// `cap_net_raw=ep` as the kernel stores it: struct vfs_cap_data, revision 2, effective (linux/capability.h).
pub const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Other content under the same size and the same time of modification: only reading shows it.
///
/// # Errors
/// If the file cannot be changed or is empty.
pub fn content_under_old_size_and_time(root: &Path, path: &str) -> Result<Drift> {
    let file = below(root, path);
    let before = file.metadata()?;
    let mut content = fs::read(&file)?;
    let last = content.last_mut().with_context(|| format!("{path} is empty"))?;
    *last ^= 1;
    fs::write(&file, &content)?;
    File::options().write(true).open(&file)?.set_modified(before.modified()?)?;
    let after = file.metadata()?;
    ensure!(before.len() == after.len() && before.mtime() == after.mtime(), "size and time were to be kept");
    Ok(Drift::changed(path, &["content"]))
}

/// A line more.
///
/// # Errors
/// If the file cannot be written.
pub fn append(root: &Path, path: &str) -> Result<Drift> {
    File::options().append(true).open(below(root, path))?.write_all(b"one line more\n")?;
    Ok(Drift::changed(path, &["content"]))
}

/// Other content.
///
/// # Errors
/// If the file cannot be written.
pub fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) -> Result<Drift> {
    fs::write(below(root, path), content)?;
    Ok(Drift::changed(path, &["content"]))
}

/// Another mode.
///
/// # Errors
/// If it cannot be set.
pub fn chmod(root: &Path, path: &str, mode: u32) -> Result<Drift> {
    fs::set_permissions(below(root, path), Permissions::from_mode(mode))?;
    Ok(Drift::changed(path, &["mode"]))
}

/// The setuid bit.
///
/// # Errors
/// If it cannot be set.
pub fn setuid(root: &Path, path: &str) -> Result<Drift> {
    let mode = below(root, path).metadata()?.mode() & 0o7777;
    chmod(root, path, mode | 0o4000)
}

/// Another owner and group.
///
/// # Errors
/// If it cannot be set.
pub fn chown(root: &Path, path: &str, uid: u32, gid: u32) -> Result<Drift> {
    lchown(below(root, path), Some(uid), Some(gid))?;
    Ok(Drift::changed(path, &["uid", "gid"]))
}

/// A file capability.
///
/// # Errors
/// If it cannot be set.
pub fn capability(root: &Path, path: &str) -> Result<Drift> {
    set_capability(&below(root, path), &CAP_NET_RAW)?;
    Ok(Drift::changed(path, &["xattrs"]))
}

/// A symlink that leads elsewhere, replaced as `ln -sf` does it.
///
/// # Errors
/// If it cannot be replaced.
pub fn retarget(root: &Path, path: &str, target: &str) -> Result<Drift> {
    let link = below(root, path);
    let meta = link.symlink_metadata()?;
    fs::remove_file(&link)?;
    symlink(target, &link)?;
    lchown(&link, Some(meta.uid()), Some(meta.gid()))?;
    Ok(Drift::changed(path, &["target"]))
}

/// A directory in place of a file.
///
/// # Errors
/// If it cannot be replaced.
pub fn file_to_directory(root: &Path, path: &str) -> Result<Drift> {
    fs::remove_file(below(root, path))?;
    fs::create_dir(below(root, path))?;
    Ok(Drift::changed(path, &["type"]))
}

/// A file gone.
///
/// # Errors
/// If it cannot be removed.
pub fn remove(root: &Path, path: &str) -> Result<Drift> {
    fs::remove_file(below(root, path))?;
    Ok(Drift::removed(path))
}

/// A file more, under any name.
///
/// # Errors
/// If it cannot be made.
pub fn add(root: &Path, path: impl AsRef<[u8]>) -> Result<Drift> {
    fs::write(below(root, &path), b"not sealed\n")?;
    Ok(Drift::added(path))
}

/// A directory more, under any name.
///
/// # Errors
/// If it cannot be made.
pub fn add_directory(root: &Path, path: impl AsRef<[u8]>) -> Result<Drift> {
    fs::create_dir(below(root, &path))?;
    Ok(Drift::added(path))
}

/// Sets `security.capability`.
///
/// # Errors
/// If it cannot be set.
pub fn set_capability(path: &Path, value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(path, CAPABILITY, value, XattrFlags::empty()).context("set security.capability")
}
