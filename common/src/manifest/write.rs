//! Owns writing the NDJSON view of a manifest.

use serde::Serialize;

use super::header::HeaderLine;
use super::{Manifest, VERSION};
use crate::digest::Algorithm;
use crate::node::{FileType, Kind, Node, Presence, Xattrs};
use crate::path::{plain_text, to_base64};
use crate::tree::{EntryId, Origin, Tree};

impl Manifest {
    /// Hands every line, its line feed included, to `sink`, until `sink` fails.
    ///
    /// # Errors
    /// Only those of `sink`.
    pub fn write<E>(&self, sink: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let header = &self.header;
        let mut line = to_json(&HeaderLine {
            driftlock: VERSION,
            profile: header.profile,
            content: header.content,
            excludes: header.excludes.iter().map(str::to_owned).collect(),
            exclude_sets: header.exclude_sets.clone(),
            history: header.history.clone(),
            source: header.source.clone(),
            diagnostics: header.diagnostics.clone(),
        });
        line.push(b'\n');
        sink(&line)?;
        let skip = usize::from(!has_root_line(&self.tree));
        // The path of the directory at hand is kept, so that a path costs its last name only.
        let mut path = Vec::new();
        let mut open: Vec<(EntryId, usize)> = Vec::new();
        for id in self.tree.iter().skip(skip) {
            while open.last().is_some_and(|(top, _)| Some(*top) != self.tree.parent(id)) {
                open.pop();
            }
            path.truncate(open.last().map_or(0, |(_, len)| *len));
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(self.tree.name(id));
            if self.tree.file_type(id) == FileType::Directory && id != EntryId::ROOT {
                open.push((id, path.len()));
            }
            line.clear();
            put_entry_line(&mut line, &path, &self.tree.node(id), &self.tree.origin(id), header.content);
            sink(&line)?;
        }
        let totals = self.totals();
        let end = format!(
            "{{\"end\":{{\"entries\":{},\"bytes\":{},\"tree\":\"blake3:{}\"}}}}\n",
            totals.entries, totals.bytes, totals.tree
        );
        sink(end.as_bytes())
    }
}

/// Whether the root has a line of its own: when anything is known of it.
pub(super) fn has_root_line(tree: &Tree) -> bool {
    tree.presence(EntryId::ROOT) != Presence::NONE || tree.origin(EntryId::ROOT) != Origin::default()
}

/// The line of one entry, with its line feed.
pub fn entry_line(path: &[u8], node: &Node, origin: &Origin, content: Algorithm) -> Vec<u8> {
    let mut line = Vec::new();
    put_entry_line(&mut line, path, node, origin, content);
    line
}

fn put_entry_line(line: &mut Vec<u8>, path: &[u8], node: &Node, origin: &Origin, content: Algorithm) {
    line.push(b'{');
    put_text_or_base64(line, "p", path);
    put_raw(line, ",\"t\":\"");
    line.push(node.file_type().byte());
    line.push(b'"');
    if let Some(mode) = node.mode {
        put_raw(line, &format!(",\"m\":\"{mode:04o}\""));
    }
    for (key, value) in [("u", node.uid), ("g", node.gid)] {
        if let Some(value) = value {
            put_raw(line, &format!(",\"{key}\":{value}"));
        }
    }
    if let Some(mtime) = node.mtime {
        put_raw(line, &format!(",\"mt\":{mtime}"));
    }
    put_kind(line, &node.kind, origin, content);
    if let Some(xattrs) = &node.xattrs {
        put_xattrs(line, xattrs);
    }
    for (key, layer) in [("L", origin.layer), ("M", origin.meta_layer)] {
        if let Some(layer) = layer {
            put_raw(line, &format!(",\"{key}\":{layer}"));
        }
    }
    put_raw(line, "}\n");
}

fn put_kind(line: &mut Vec<u8>, kind: &Kind, origin: &Origin, algorithm: Algorithm) {
    match kind {
        Kind::File { size, content } => {
            if let Some(size) = size {
                put_raw(line, &format!(",\"s\":{size}"));
            }
            if let Some(digest) = content {
                let key = match algorithm {
                    Algorithm::Blake3 => "b3",
                    Algorithm::Sha256 => "s2",
                };
                put_raw(line, &format!(",\"{key}\":\"{digest}\""));
            }
            if let (Some(sha256), Algorithm::Blake3) = (origin.sha256, algorithm) {
                put_raw(line, &format!(",\"s2\":\"{sha256}\""));
            }
        }
        Kind::Symlink { target } => {
            line.push(b',');
            put_text_or_base64(line, "to", target);
        }
        Kind::Char(Some(device)) | Kind::Block(Some(device)) => {
            put_raw(line, &format!(",\"dev\":[{},{}]", device.major, device.minor));
        }
        Kind::Directory | Kind::Char(None) | Kind::Block(None) | Kind::Fifo | Kind::Socket => {}
    }
}

fn put_xattrs(line: &mut Vec<u8>, xattrs: &Xattrs) {
    put_raw(line, ",\"x\":[");
    for (index, (name, value)) in xattrs.iter().enumerate() {
        put_raw(line, if index == 0 { "{" } else { ",{" });
        put_text_or_base64(line, "n", name);
        put_raw(line, &format!(",\"v\":\"{}\"}}", to_base64(value)));
    }
    put_raw(line, "]");
}

/// `"key":"text"`, or `"key64":"base64"` when the bytes are not plain text.
fn put_text_or_base64(line: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    match plain_text(bytes) {
        Some(text) => {
            put_raw(line, &format!("\"{key}\":"));
            line.extend_from_slice(&to_json(text));
        }
        None => put_raw(line, &format!("\"{key}64\":\"{}\"", to_base64(bytes))),
    }
}

fn put_raw(line: &mut Vec<u8>, text: &str) {
    line.extend_from_slice(text.as_bytes());
}

/// JSON without spaces, escaping only what JSON requires.
fn to_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and lists of them always have a JSON form")
}
