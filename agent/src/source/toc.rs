//! Owns comparing a layer with the table of contents that it carries for lazy pulling: eStargz's
//! (stargz-snapshotter, docs/estargz.md) as the file `stargz.index.json` of the archive, zstd:chunked's
//! (containers/storage, pkg/chunked) in skippable frames behind it. Must not own believing it: a node that pulls lazily
//! may unpack what the table says, every other node unpacks the tar.

use std::collections::BTreeMap;
use std::io::Read;

use driftlock_common::digest::Digest;
use driftlock_common::node::{Device, Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::tree::archive_path;
use serde::Deserialize;

use super::layer::{Item, Layer, What};
use super::notes::Code;
use super::stream::Skipped;

/// The name that eStargz keeps for its table.
pub(super) const ESTARGZ: &[u8] = b"stargz.index.json";
/// The largest table that is read, in bytes of JSON: some 200,000 entries.
pub(super) const MAX_TOC: u64 = 64 * 1024 * 1024;

/// What AUFS kept for itself is in the table, but no engine unpacks it.
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The last frame of zstd:chunked ends so; before containers/storage 1.43 with a small n.
const FOOTER_MAGICS: [&[u8]; 2] = [b"GNUlInUx", b"GnUlInUx"];
/// Offset, compressed and uncompressed length, type of the table: little-endian, 8 bytes each.
const FOOTER_FIELDS: usize = 4;
const HEADER: u64 = 8;

/// A table of contents as it was found.
#[derive(Clone, Debug)]
pub(super) enum Toc {
    /// Its JSON.
    Json(Vec<u8>),
    /// It is larger than [`MAX_TOC`], or the frames that should hold it do not.
    Unreadable,
}

#[derive(Deserialize)]
struct Table {
    version: u64,
    entries: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    mode: u64,
    #[serde(default)]
    uid: u64,
    #[serde(default)]
    gid: u64,
    #[serde(default, rename = "linkName")]
    link: String,
    #[serde(default, rename = "devMajor")]
    major: u64,
    #[serde(default, rename = "devMinor")]
    minor: u64,
    #[serde(default)]
    digest: String,
}

/// Notes where the table says something else than `layer`.
pub(super) fn compare(layer: &mut Layer, toc: &Toc) {
    let Some(mut rows) = toc.rows() else {
        layer.notes.add(Code::TocUnread, &TreePath::root(), None);
        return;
    };
    let mut differing: Vec<TreePath> = Vec::new();
    // Of a path that stands twice the last entry counts, in both.
    let items: BTreeMap<&TreePath, &Item> = layer.items.iter().map(|item| (&item.path, item)).collect();
    for (path, item) in items {
        if path.as_bytes() == ESTARGZ {
            continue;
        }
        if !rows.remove(path).is_some_and(|row| row.says(item)) {
            differing.push(path.clone());
        }
    }
    let named = |directory: &TreePath, name: &[u8]| directory.join(name).ok();
    let whiteouts = layer
        .whiteouts
        .iter()
        .map(|hidden| named(&hidden.parent().unwrap_or_default(), &[b".wh.", hidden.name()].concat()));
    let markers: Vec<TreePath> =
        whiteouts.chain(layer.opaques.iter().map(|directory| named(directory, OPAQUE))).flatten().collect();
    for marker in markers {
        // A marker may stand twice.
        match rows.get(&marker) {
            Some(row) if row.kind == "reg" => {}
            _ => differing.push(marker.clone()),
        }
        rows.retain(|path, _| *path != marker);
    }
    let meta = |path: &TreePath| path.components().any(|name| name.starts_with(META) && name != OPAQUE);
    differing.extend(rows.into_keys().filter(|path| !meta(path)));
    for path in differing {
        layer.notes.add(Code::TocTarDivergence, &path, None);
    }
}

/// The table of zstd:chunked, if there is one in the frames that a reader skips.
pub(super) fn chunked(skipped: &Skipped) -> Option<Toc> {
    let (_, footer) = skipped.frames.last()?;
    let fields = FOOTER_MAGICS.iter().find_map(|magic| footer.strip_suffix(*magic))?;
    let read = || {
        let mut numbers = fields.chunks_exact(8).map(|bytes| bytes.try_into().map(u64::from_le_bytes));
        let mut next = || numbers.next()?.ok();
        let (at, packed, unpacked, kind) = (next()?, next()?, next()?, next()?);
        let (_, frame) = skipped.frames.iter().find(|(begin, _)| begin.checked_add(HEADER) == Some(at))?;
        if kind != 1 || frame.len() as u64 != packed || unpacked > MAX_TOC {
            return None;
        }
        let mut json = Vec::new();
        let mut decoder = zstd::Decoder::with_buffer(frame.as_slice()).ok()?;
        decoder.by_ref().take(unpacked + 1).read_to_end(&mut json).ok()?;
        (json.len() as u64 == unpacked).then_some(Toc::Json(json))
    };
    (fields.len() >= FOOTER_FIELDS * 8).then(|| read().unwrap_or(Toc::Unreadable))
}

// === impl Toc ===

impl Toc {
    /// By path; `None` if it is no table of a version that is known, or one of them is not a path.
    fn rows(&self) -> Option<BTreeMap<TreePath, Row>> {
        let Self::Json(json) = self else { return None };
        let table: Table = serde_json::from_slice(json).ok()?;
        if table.version != 1 {
            return None;
        }
        let mut all = BTreeMap::new();
        for row in table.entries {
            // The further pieces of a file.
            if row.kind == "chunk" {
                continue;
            }
            let path = archive_path(row.name.as_bytes()).ok()?;
            if !path.is_root() && path.as_bytes() != ESTARGZ {
                all.insert(path, row);
            }
        }
        Some(all)
    }
}

// === impl Row ===

impl Row {
    /// Whether it agrees with what the archive has.
    fn says(&self, item: &Item) -> bool {
        match &item.what {
            What::Link { target, claim } => {
                let same = archive_path(self.link.as_bytes()).is_ok_and(|link| link == *target);
                self.kind == "hardlink" && same && self.owner_of(claim)
            }
            What::Node { node, sha256 } => self.is(&node.kind, *sha256) && self.owner_of(node),
        }
    }

    fn is(&self, kind: &Kind, sha256: Option<Digest>) -> bool {
        let device = |known: &Option<Device>| {
            known.is_none_or(|known| (u64::from(known.major), u64::from(known.minor)) == (self.major, self.minor))
        };
        match kind {
            Kind::File { size, .. } => {
                let digest = || sha256.is_none_or(|known| self.digest == format!("sha256:{known}"));
                // Empty files have no digest there.
                self.kind == "reg" && *size == Some(self.size) && (self.digest.is_empty() || digest())
            }
            Kind::Directory => self.kind == "dir",
            Kind::Symlink { target } => self.kind == "symlink" && self.link.as_bytes() == &**target,
            Kind::Char(known) => self.kind == "char" && device(known),
            Kind::Block(known) => self.kind == "block" && device(known),
            Kind::Fifo => self.kind == "fifo",
            Kind::Socket => false,
        }
    }

    /// What the profile leaves out is not compared.
    fn owner_of(&self, node: &Node) -> bool {
        node.mode.is_none_or(|mode| u64::from(mode) == self.mode & 0o7777)
            && node.uid.is_none_or(|uid| u64::from(uid) == self.uid)
            && node.gid.is_none_or(|gid| u64::from(gid) == self.gid)
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::profile::Profile;
    use serde_json::{Value, json};

    use super::super::budget::Budget;
    use super::super::kit::{Raw, Tar, gzip, raw, zstd};
    use super::super::layer::{Dialect, Options, index};
    use super::*;

    fn archive() -> Tar {
        let mut device: Raw = raw(b'3', "dev");
        device.device = (5, 1);
        let tar = Tar::default().dir("d/").file("d/x", "abc").symlink("l", "d/x").hardlink("h", "d/x").add(device);
        tar.file("d/.wh.gone", "").file("o/.wh..wh..opq", "")
    }

    fn rows() -> Vec<Value> {
        let digest = format!("sha256:{}", Digest::sha256(b"abc"));
        vec![
            json!({ "name": "d/", "type": "dir", "mode": 0o755 }),
            json!({ "name": "d/x", "type": "reg", "size": 3, "mode": 0o644, "digest": digest, "chunkSize": 3 }),
            json!({ "name": "d/x", "type": "chunk", "chunkOffset": 2 }),
            json!({ "name": "l", "type": "symlink", "linkName": "d/x", "mode": 0o777 }),
            json!({ "name": "h", "type": "hardlink", "linkName": "d/x", "mode": 0o644 }),
            json!({ "name": "dev", "type": "char", "devMajor": 5, "devMinor": 1, "mode": 0o644 }),
            json!({ "name": "d/.wh.gone", "type": "reg", "mode": 0o644 }),
            json!({ "name": "o/.wh..wh..opq", "type": "reg", "mode": 0o644 }),
        ]
    }

    fn estargz(json: &str) -> Vec<u8> {
        gzip(&archive().file(ESTARGZ, json).end())
    }

    fn skippable(content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[0x50, 0x2a, 0x4d, 0x18][..], &length, content].concat()
    }

    fn zstd_chunked(json: &str, magic: &[u8]) -> Vec<u8> {
        let mut stream = zstd(&archive().end());
        let (table, at) = (zstd(json.as_bytes()), stream.len() as u64 + HEADER);
        stream.extend(skippable(&table));
        stream.extend(skippable(b"tar-split"));
        let numbers = [at, table.len() as u64, json.len() as u64, 1, 0, 0, 0];
        let fields: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        stream.extend(skippable(&[&fields[..], magic].concat()));
        stream
    }

    fn noted(stream: &[u8]) -> Vec<String> {
        let options =
            Options { dialect: Dialect::Image, profile: Profile::Portable, sha256: true, budget: Budget::default() };
        let layer = index(stream, &options).unwrap();
        let toc = |code| matches!(code, Code::TocTarDivergence | Code::TocUnread);
        layer.notes.listed().iter().filter(|note| toc(note.code)).map(ToString::to_string).collect()
    }

    fn both(rows: &[Value]) -> Vec<String> {
        let json = json!({ "version": 1, "entries": rows }).to_string();
        let notes = noted(&estargz(&json));
        for magic in FOOTER_MAGICS {
            assert_eq!(noted(&zstd_chunked(&json, magic)), notes);
        }
        notes
    }

    #[test]
    fn a_table_that_says_what_the_archive_says_is_not_noted() {
        assert_eq!(both(&rows()), [""; 0]);
        assert_eq!(noted(&gzip(&archive().end())), [""; 0]);
    }

    #[test]
    fn every_difference_is_noted_with_its_path() {
        for (row, key, value, path) in [
            (0, "type", json!("reg"), "d"),
            (0, "mode", json!(0o700), "d"),
            (0, "uid", json!(1), "d"),
            (1, "size", json!(4), "d/x"),
            (1, "gid", json!(1), "d/x"),
            (1, "digest", json!(format!("sha256:{}", Digest::sha256(b"abd"))), "d/x"),
            (3, "linkName", json!("d/y"), "l"),
            (4, "linkName", json!("l"), "h"),
            (4, "type", json!("reg"), "h"),
            (5, "devMinor", json!(2), "dev"),
            (6, "type", json!("dir"), "d/.wh.gone"),
        ] {
            let mut rows = rows();
            rows[row][key] = value;
            assert_eq!(both(&rows), [format!("toc-tar-divergence: {path}")], "{key}");
        }
        for (row, path) in [(1, "d/x"), (6, "d/.wh.gone"), (7, "o/.wh..wh..opq")] {
            let mut rows = rows();
            rows.retain(|other| other["name"] != path);
            assert_eq!(both(&rows), [format!("toc-tar-divergence: {path}")], "{row}");
        }
        let mut more = rows();
        more.push(json!({ "name": "etc/shadow", "type": "reg" }));
        assert_eq!(both(&more), ["toc-tar-divergence: etc/shadow"]);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_noted() {
        for json in [
            "",
            "{}",
            "{\"version\":2,\"entries\":[]}",
            "{\"version\":1,\"entries\":[{\"name\":\"../x\",\"type\":\"reg\"}]}",
        ] {
            assert_eq!(noted(&estargz(json)), ["toc-unread"], "{json}");
            assert_eq!(noted(&zstd_chunked(json, FOOTER_MAGICS[0])), ["toc-unread"], "{json}");
        }
        // A footer that points elsewhere.
        let mut stream = zstd_chunked("{}", FOOTER_MAGICS[0]);
        let footer = stream.len() - 64;
        stream[footer] ^= 1;
        assert_eq!(noted(&stream), ["toc-unread"]);
    }
}
