//! Owns two descriptions of one tree, each read on its own: what umoci wrote when it unpacked an image, and driftlock's
//! manifest. Must not use the product's readers. Formats: go-mtree's hierarchical listing (BSD mtree(5) with names as
//! vis(3) writes them), and the NDJSON of common/manifest-v1.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_common::path::from_base64;
use driftlock_tests::debian;
use driftlock_tests::sandbox::Sandbox;
use serde_json::Value;

/// Paths with what is said of them.
pub(crate) type Described = BTreeMap<Vec<u8>, Attributes>;

/// What is said of a path, by names of our own. What is not said is not there.
pub(crate) type Attributes = BTreeMap<String, String>;

/// An image that umoci unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) root: PathBuf,
    /// What it says that it unpacked.
    pub(crate) described: Described,
}

/// Unpacks the image `tag` of a layout into a new directory `bundle` of the sandbox.
pub(crate) fn unpack(sandbox: &Sandbox, layout: &Path, tag: &str, bundle: &str) -> Result<Unpacked> {
    let bundle = sandbox.path(bundle);
    let root = debian::unpack_from(layout, tag, &bundle)?;
    let files = fs::read_dir(&bundle)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let listing = files.iter().find(|file| file.extension().is_some_and(|it| it == "mtree")).context("no mtree")?;
    Ok(Unpacked { root, described: mtree(&fs::read(listing)?)? })
}

/// Fails unless the image that umoci unpacked and the image that driftlock sealed are one, attribute by attribute.
pub(crate) fn ensure_same(umoci: &Described, sealed: &Described) -> Result<()> {
    let paths: BTreeSet<&Vec<u8>> = umoci.keys().chain(sealed.keys()).collect();
    let mut different = Vec::new();
    for path in paths {
        match (umoci.get(path), sealed.get(path)) {
            (Some(theirs), Some(ours)) => {
                let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
                let differs = |name: &&String| theirs.get(*name) != ours.get(*name) && !deviates(theirs, ours, name);
                different.extend(names.into_iter().filter(differs).map(|name| {
                    let [theirs, ours] = [theirs.get(name), ours.get(name)];
                    format!("{}: {name} is {theirs:?} for umoci and {ours:?} for driftlock", path.escape_ascii())
                }));
            }
            (theirs, ours) => {
                let (who, what) = if ours.is_none() { ("umoci", theirs) } else { ("driftlock", ours) };
                different.push(format!("{}: only {who} has it: {what:?}", path.escape_ascii()));
            }
        }
    }
    ensure!(different.is_empty(), "{} differences\n{}", different.len(), different.join("\n"));
    Ok(())
}

/// Where umoci 0.4.7 is known to differ from what the layers say, or says more than they do. The root is not compared.
fn deviates(theirs: &Attributes, ours: &Attributes, name: &str) -> bool {
    let is = |kind: &str| theirs.get("type").is_some_and(|it| it == kind);
    match name {
        // It leaves some with the time of unpacking.
        "mtime" => is("dir"),
        // A directory that no layer has an entry for: there it has what the disk gave it, or a lower one that is hidden.
        _ if name != "type" && is("dir") && ours.len() == 1 => true,
        // Its listing has none.
        "device" => is("char") || is("block"),
        _ => false,
    }
}

// What umoci writes.

fn mtree(bytes: &[u8]) -> Result<Described> {
    let mut described = Described::new();
    let mut set = Attributes::new();
    let mut directories: Vec<Vec<u8>> = Vec::new();
    // Only comments have names as they are.
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        match words.next().context("a word")? {
            comment if comment.starts_with('#') => {}
            "/set" => set = keywords(words)?,
            ".." => drop(directories.pop().context("above the root")?),
            // A comment has the path as it is, so a line feed of a name goes on here: entries always have keywords.
            _ if !line.contains('=') => {}
            word => {
                let name = unvis(word)?;
                let mut all = set.clone();
                all.extend(keywords(words)?);
                let is_root = directories.is_empty();
                let path = match directories.last() {
                    Some(above) if !above.is_empty() => [above.as_slice(), b"/", &name].concat(),
                    _ if is_root => Vec::new(),
                    _ => name,
                };
                if all.get("type").is_some_and(|kind| kind == "dir") {
                    directories.push(path.clone());
                }
                if !is_root {
                    ensure!(described.insert(path, known(&all)?).is_none(), "twice: {line}");
                }
            }
        }
    }
    ensure!(directories.is_empty(), "{} directories are open at the end", directories.len());
    Ok(described)
}

fn keywords<'a>(words: impl Iterator<Item = &'a str>) -> Result<Attributes> {
    words
        .map(|word| {
            let (key, value) = word.split_once('=').with_context(|| format!("not key=value: {word}"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Of what the listing says, what driftlock says too.
fn known(all: &Attributes) -> Result<Attributes> {
    let kind = all.get("type").context("no type")?.as_str();
    let mut known = Attributes::new();
    for (key, value) in all {
        let (key, value) = match key.as_str() {
            "type" => ("type", value.clone()),
            // Of a symlink it means nothing.
            "mode" if kind == "link" => continue,
            "mode" => ("mode", u32::from_str_radix(value, 8)?.to_string()),
            "uid" | "gid" => (key.as_str(), value.clone()),
            "size" if kind == "file" => ("size", value.clone()),
            "sha256digest" => ("sha256", value.clone()),
            "link" => ("target", unvis(value)?.escape_ascii().to_string()),
            "tar_time" => ("mtime", value.split('.').next().context("seconds")?.to_owned()),
            // Sizes of what is no file, and how many names a file has: neither is in an image.
            "size" | "nlink" => continue,
            xattr if xattr.starts_with("xattr.") => (xattr, value.clone()),
            other => bail!("umoci says {other}={value}, which is not understood"),
        };
        known.insert(key.to_owned(), value);
    }
    Ok(known)
}

/// Names as go-mtree writes them: a backslash and three octal digits for what could be mistaken, and two backslashes for
/// one.
fn unvis(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        if let Some(after) = rest.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = after;
            continue;
        }
        let (digits, after) = rest.split_at_checked(3).with_context(|| format!("three digits: {text}"))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits)?, 8).with_context(|| text.to_owned())?);
        rest = after;
    }
    Ok(bytes)
}

// What driftlock writes.

/// Reads a manifest.
pub(crate) fn sealed(manifest: &Path) -> Result<Described> {
    let text = fs::read_to_string(manifest)?;
    let lines: Vec<&str> = text.lines().collect();
    let (_, entries) = lines.split_first().context("an empty manifest")?;
    let (_, entries) = entries.split_last().context("no trailer")?;
    let mut described = Described::new();
    for line in entries {
        let entry: Value = serde_json::from_str(line)?;
        let path = bytes(&entry, "p", "p64")?.with_context(|| format!("no path: {line}"))?;
        let mut all = Attributes::new();
        let mut put = |key: &str, value: String| drop(all.insert(key.to_owned(), value));
        let kind = match entry["t"].as_str().context("no type")? {
            "d" => "dir",
            "f" => "file",
            "l" => "link",
            "c" => "char",
            "b" => "block",
            "p" => "fifo",
            other => bail!("a type of {other}"),
        };
        put("type", kind.to_owned());
        if let Some(mode) = entry["m"].as_str() {
            put("mode", u32::from_str_radix(mode, 8)?.to_string());
        }
        for (key, name) in [("u", "uid"), ("g", "gid"), ("s", "size"), ("mt", "mtime"), ("dev", "device")] {
            if let Some(value) = entry.get(key) {
                put(name, value.to_string());
            }
        }
        if let Some(digest) = entry["s2"].as_str() {
            put("sha256", digest.to_owned());
        }
        if let Some(target) = bytes(&entry, "to", "to64")? {
            put("target", target.escape_ascii().to_string());
        }
        for xattr in entry["x"].as_array().into_iter().flatten() {
            let name = xattr["n"].as_str().context("a plain name")?;
            put(&format!("xattr.{name}"), xattr["v"].as_str().context("a value")?.to_owned());
        }
        ensure!(described.insert(path, all).is_none(), "twice: {line}");
    }
    Ok(described)
}

fn bytes(entry: &Value, text: &str, base64: &str) -> Result<Option<Vec<u8>>> {
    match (entry[text].as_str(), entry[base64].as_str()) {
        (Some(text), None) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(base64)) => Ok(Some(from_base64(base64).context("not base64")?)),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => bail!("both {text} and {base64}: {entry}"),
    }
}
