//! The second opinion: two looks at a tree by `walkdir` and the standard library, and an obvious comparison of them. Calls nothing
//! of the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;
use rustix::io::Errno;
use walkdir::WalkDir;

/// What a profile compares, as a number: content, portable, full.
pub(crate) type Level = usize;

/// A look at a tree: path to everything about it.
pub(crate) type Look = BTreeMap<Vec<u8>, Facts>;

/// A difference: path, word, names of the attributes.
pub(crate) type Difference = (Vec<u8>, &'static str, Vec<&'static str>);

/// Everything about a path, by the name of the attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    kind: u32,
    attributes: BTreeMap<&'static str, Vec<u8>>,
}

impl Facts {
    /// The size of a file.
    pub(crate) fn size(&self) -> Option<usize> {
        (self.kind == 0o100_000).then(|| self.attributes["content"].len())
    }

    /// Whether it is a device, or a file that is set-id or has capabilities, as far as the level tells.
    pub(crate) fn gives_rights(&self) -> bool {
        let mode = self.attributes.get("mode").and_then(|mode| std::str::from_utf8(mode).ok()?.parse::<u32>().ok());
        let xattrs = self.attributes.get("xattrs").is_some_and(|xattrs| xattrs.starts_with(b"security.capability"));
        let set_id = mode.is_some_and(|mode| mode & 0o6000 != 0);
        matches!(self.kind, 0o020_000 | 0o060_000) || (self.kind == 0o100_000 && (set_id || xattrs))
    }
}

pub(crate) fn look(root: &Path, level: Level) -> Result<Look> {
    let mut look = Look::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        let relative = entry.path().strip_prefix(root)?.as_os_str().as_bytes().to_owned();
        look.insert(relative, facts(entry.path(), level)?);
    }
    Ok(look)
}

fn facts(path: &Path, level: Level) -> Result<Facts> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.mode() & 0o170_000;
    let mut attributes = BTreeMap::new();
    match kind {
        0o100_000 => {
            attributes.insert("content", fs::read(path)?);
        }
        0o120_000 => {
            attributes.insert("target", fs::read_link(path)?.into_os_string().into_vec());
        }
        0o020_000 | 0o060_000 => {
            attributes.insert("device", metadata.rdev().to_string().into_bytes());
        }
        _ => {}
    }
    if level >= 1 {
        attributes.insert("uid", metadata.uid().to_string().into_bytes());
        attributes.insert("gid", metadata.gid().to_string().into_bytes());
        if kind != 0o120_000 {
            attributes.insert("mode", (metadata.mode() & 0o7777).to_string().into_bytes());
        }
        if kind == 0o100_000 || (level >= 2 && kind == 0o040_000) {
            attributes.insert("xattrs", xattrs(path, level)?);
        }
    }
    if level >= 2 && kind != 0o040_000 {
        attributes.insert("mtime", metadata.mtime().to_string().into_bytes());
    }
    Ok(Facts { kind, attributes })
}

/// The values of the few names that the tests set.
fn xattrs(path: &Path, level: Level) -> Result<Vec<u8>> {
    let names: &[&str] = if level >= 2 { &["security.capability", "user.note"] } else { &["security.capability"] };
    let mut all = Vec::new();
    for name in names {
        let mut value = [0; 256];
        match rustix::fs::lgetxattr(path, *name, &mut value) {
            Ok(len) => all.extend(format!("{name}={:?};", &value[..len]).bytes()),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// What became different from `sealed` to `now`.
pub(crate) fn differences(sealed: &Look, now: &Look) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    for (path, was) in sealed {
        match now.get(path) {
            None => {
                found.insert((path.clone(), "removed", Vec::new()));
            }
            Some(is) if is.kind != was.kind => {
                found.insert((path.clone(), "changed", vec!["type"]));
            }
            Some(is) => {
                let names = was.attributes.keys().filter(|name| was.attributes.get(*name) != is.attributes.get(*name));
                let names: BTreeSet<&str> = names.copied().collect();
                if !names.is_empty() {
                    found.insert((path.clone(), "changed", names.into_iter().collect()));
                }
            }
        }
    }
    for path in now.keys().filter(|path| !sealed.contains_key(*path)) {
        found.insert((path.clone(), "added", Vec::new()));
    }
    found
}
