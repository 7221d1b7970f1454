//! Owns a second implementation of the canonical bytes and digests of manifest version 1: slow, obvious, from the text
//! of a manifest alone. Must not use anything of the crate under test.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A path as its components.
type Path = Vec<Vec<u8>>;

/// Every object that is hashed for the manifest in `ndjson` (its trailer is not looked at): `directories` in path order
/// with the `entries` that are hashed, `xattrs` where there are any, and the `tree`. Bytes and digests are in hexadecimal.
pub(crate) fn objects(ndjson: &str) -> Value {
    let lines: Vec<Value> = ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let header = &lines[0];
    let mut entries: BTreeMap<Path, Value> = BTreeMap::new();
    entries.insert(Vec::new(), json!({"p": "", "t": "d"}));
    for line in lines.iter().skip(1).filter(|line| line.get("end").is_none()) {
        let path = text_or_base64(line, "p").unwrap();
        let components =
            if path.is_empty() { Vec::new() } else { path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect() };
        entries.insert(components, line.clone());
    }

    let algorithm = header["content"].as_str().unwrap();
    let mut tree = varint(1);
    tree.extend(with_length(header["profile"].as_str().unwrap().as_bytes()));
    tree.extend(with_length(algorithm.as_bytes()));
    let excludes = header["excludes"].as_array().unwrap();
    tree.extend(varint(excludes.len() as u64));
    for exclude in excludes {
        tree.extend(with_length(exclude.as_str().unwrap().as_bytes()));
    }
    tree.extend(entry_bytes(&entries, &Vec::new(), algorithm));

    let mut directories = Vec::new();
    let mut xattrs = Vec::new();
    for (path, line) in &entries {
        if line["t"] == "d" {
            let bytes = directory_bytes(&entries, path, algorithm);
            directories.push(object(line, "entries", &bytes, "driftlock 2026 manifest v1 directory"));
        }
        if line.get("x").is_some() {
            xattrs.push(object(line, "bytes", &xattrs_bytes(line), "driftlock 2026 manifest v1 xattrs"));
        }
    }
    let digest = hex(&blake3::derive_key("driftlock 2026 manifest v1 tree", &tree));
    json!({ "directories": directories, "xattrs": xattrs, "tree": { "bytes": hex(&tree), "digest": digest } })
}

fn object(line: &Value, key: &str, bytes: &[u8], context: &str) -> Value {
    let name = if line.get("p").is_some() { "p" } else { "p64" };
    json!({ name: line[name], key: hex(bytes), "digest": hex(&blake3::derive_key(context, bytes)) })
}

fn directory_bytes(entries: &BTreeMap<Path, Value>, directory: &Path, algorithm: &str) -> Vec<u8> {
    let mut children: Vec<&Path> =
        entries.keys().filter(|path| path.len() == directory.len() + 1 && path.starts_with(directory)).collect();
    children.sort_by(|a, b| a.last().unwrap().cmp(b.last().unwrap()));
    children.iter().flat_map(|path| entry_bytes(entries, path, algorithm)).collect()
}

fn entry_bytes(entries: &BTreeMap<Path, Value>, path: &Path, algorithm: &str) -> Vec<u8> {
    let line = &entries[path];
    let digest_key = if algorithm == "sha256" { "s2" } else { "b3" };
    let kind = line["t"].as_str().unwrap();
    let mut presence = 0u16;
    for (bit, key) in ["m", "u", "g", "mt", "s", digest_key, "dev", "x"].iter().enumerate() {
        if line.get(*key).is_some() {
            presence |= 1 << bit;
        }
    }
    let mut bytes = kind.as_bytes().to_vec();
    bytes.extend(presence.to_le_bytes());
    bytes.extend(with_length(path.last().map_or(&[][..], |name| name)));
    if let Some(mode) = line.get("m") {
        bytes.extend(u16::from_str_radix(mode.as_str().unwrap(), 8).unwrap().to_le_bytes());
    }
    for key in ["u", "g"] {
        if let Some(id) = line.get(key) {
            bytes.extend(varint(id.as_u64().unwrap()));
        }
    }
    if let Some(mtime) = line.get("mt") {
        bytes.extend(mtime.as_i64().unwrap().to_le_bytes());
    }
    match kind {
        "f" => {
            if let Some(size) = line.get("s") {
                bytes.extend(size.as_u64().unwrap().to_le_bytes());
            }
            if let Some(digest) = line.get(digest_key) {
                bytes.extend(unhex(digest.as_str().unwrap()));
            }
        }
        "d" => bytes.extend(blake3::derive_key(
            "driftlock 2026 manifest v1 directory",
            &directory_bytes(entries, path, algorithm),
        )),
        "l" => bytes.extend(with_length(&text_or_base64(line, "to").unwrap())),
        "c" | "b" => {
            for number in line.get("dev").and_then(Value::as_array).into_iter().flatten() {
                bytes.extend(u32::try_from(number.as_u64().unwrap()).unwrap().to_le_bytes());
            }
        }
        _ => {}
    }
    if line.get("x").is_some() {
        bytes.extend(blake3::derive_key("driftlock 2026 manifest v1 xattrs", &xattrs_bytes(line)));
    }
    bytes
}

fn xattrs_bytes(line: &Value) -> Vec<u8> {
    let mut attributes: Vec<(Vec<u8>, Vec<u8>)> = line["x"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attribute| (text_or_base64(attribute, "n").unwrap(), unbase64(attribute["v"].as_str().unwrap())))
        .collect();
    attributes.sort();
    attributes.iter().flat_map(|(name, value)| [with_length(name), with_length(value)].concat()).collect()
}

fn text_or_base64(object: &Value, key: &str) -> Option<Vec<u8>> {
    match object.get(key) {
        Some(text) => Some(text.as_str()?.as_bytes().to_vec()),
        None => Some(unbase64(object.get(format!("{key}64"))?.as_str()?)),
    }
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint(value: u64) -> Vec<u8> {
    let low = u8::try_from(value % 128).unwrap();
    if value < 128 { vec![low] } else { [vec![low + 128], varint(value / 128)].concat() }
}

fn unbase64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.trim_end_matches('=').bytes().map(|b| LETTERS.iter().position(|l| *l == b).unwrap());
    let bits: Vec<bool> = digits.flat_map(|d| (0..6).rev().map(move |bit| d >> bit & 1 == 1)).collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | u8::from(*bit))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
