//! The test vectors of manifest version 1: `vectors/<name>.ndjson` with the objects that are hashed for it in
//! `vectors/<name>.json`, and the last section of `manifest-v1.md`, which quotes them.
//!
//! The objects come from the independent implementation, the digests must be the crate's too. After a change of the
//! vectors, `DRIFTLOCK_BLESS=1 cargo test -p driftlock-common --test vectors` writes trailers, objects and the section
//! anew: read the difference before you commit it, because a digest that changes is a break of the format.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "support/naive.rs"]
mod naive;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use driftlock_common::canonical::{directory_digest, xattrs_digest};
use driftlock_common::digest::Digest;
use driftlock_common::manifest::Manifest;
use driftlock_common::path::{TreePath, from_base64};
use driftlock_common::pattern::SETS;
use serde_json::Value;

/// Name, and what it shows: the order of the document.
const VECTORS: [(&str, &str); 10] = [
    ("empty", "An image without anything in it"),
    ("file", "One file, with the informational SHA-256 beside its content digest"),
    (
        "types",
        "Every type, a setuid and a sticky bit, ids over one varint byte, the largest id, order (`d` before `d-`)",
    ),
    (
        "parents",
        "Implicit parents: directories that no layer had an entry for; layers, history and source in the manifest, not in the digest; order (`opt/a/b/c` before `opt/a-b` before `opt.d`)",
    ),
    (
        "names",
        "Names that need escaping, names that need base64, names that look alike; a symlink target that is not UTF-8",
    ),
    (
        "xattrs",
        "Profile `portable`: no attributes, a capability, a capability of a user namespace, and attributes that are unspecified",
    ),
    (
        "full",
        "Profile `full`: the root specified, times before and after 1970, ACL and user attributes on a file and a directory",
    ),
    ("sha256", "Content digests by SHA-256"),
    ("content", "Profile `content`, and a file of which nothing is specified but its type"),
    ("excludes", "Excludes are bound in the tree digest"),
];

const BEGIN: &str = "<!-- vectors: written by common/tests/vectors.rs -->\n";

#[test]
fn the_vectors_are_what_both_implementations_say() {
    for (name, _) in VECTORS {
        let text = bless_trailer(name);
        let objects = naive::objects(&text);
        let pretty = format!("{}\n", serde_json::to_string_pretty(&objects).unwrap());
        if blessing() {
            fs::write(folder().join(format!("{name}.json")), &pretty).unwrap();
        }
        assert_eq!(read(&format!("{name}.json")), pretty, "{name}: another implementation says otherwise");

        let manifest = Manifest::decode(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(objects["tree"]["digest"], manifest.tree_digest().to_hex(), "{name}");
        let find = |object: &Value| {
            let path = match object.get("p") {
                Some(path) => path.as_str().unwrap().as_bytes().to_vec(),
                None => from_base64(object["p64"].as_str().unwrap()).unwrap(),
            };
            (
                manifest.tree.find(&TreePath::new(path).unwrap()).unwrap(),
                object["digest"].as_str().unwrap().parse::<Digest>().unwrap(),
            )
        };
        for (id, digest) in objects["directories"].as_array().unwrap().iter().map(find) {
            assert_eq!(directory_digest(&manifest.tree, id), digest, "{name}: {:?}", manifest.tree.path(id));
        }
        for (id, digest) in objects["xattrs"].as_array().unwrap().iter().map(find) {
            let xattrs = manifest.tree.node(id).xattrs.unwrap();
            assert_eq!(xattrs_digest(&xattrs), digest, "{name}: {:?}", manifest.tree.path(id));
        }
    }
}

#[test]
fn a_manifest_is_written_as_it_was_read() {
    for (name, _) in VECTORS {
        let text = bless_trailer(name);
        let manifest = Manifest::decode(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(manifest.encode()).unwrap(), text, "{name}");
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest, "{name}");
    }
}

#[test]
fn every_file_of_the_folder_is_a_vector() {
    let expected: BTreeSet<String> =
        VECTORS.iter().flat_map(|(name, _)| [format!("{name}.ndjson"), format!("{name}.json")]).collect();
    let found: BTreeSet<String> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_document_quotes_the_vectors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifest-v1.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, _) = document.split_once(BEGIN).unwrap();
    let mut wanted = format!("{before}{BEGIN}");
    for (name, about) in VECTORS {
        let objects: Value = serde_json::from_str(&read(&format!("{name}.json"))).unwrap();
        let manifest = read(&format!("{name}.ndjson"));
        wanted.extend(["\n### ", name, "\n\n", about, ".\n\n```\n", &manifest, "```\n\n```\n"]);
        for xattrs in objects["xattrs"].as_array().unwrap() {
            wanted.push_str(&quote("xattr-set", xattrs, "bytes"));
        }
        for directory in objects["directories"].as_array().unwrap() {
            wanted.push_str(&quote("directory", directory, "entries"));
        }
        wanted.push_str(&quote("tree", &objects["tree"], "bytes"));
        wanted.push_str("```\n");
    }
    if blessing() {
        fs::write(&path, &wanted).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap() == wanted, "manifest-v1.md does not quote the vectors as they are");
}

#[test]
fn the_document_lists_the_members_of_the_sets() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifest-v1.md")).unwrap();
    for (name, members) in SETS {
        let list = format!("<!-- {name} -->\n```\n{}\n```\n", members.join("\n"));
        assert!(document.contains(&list), "manifest-v1.md does not list {name} as it is");
    }
}

fn quote(what: &str, object: &Value, key: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let path = ["p", "p64"].iter().find_map(|key| object.get(key).map(|path| format!(" {key} {path}")));
    let bytes = text(&object[key]);
    if bytes.is_empty() {
        // The digests over nothing are in the text.
        return String::new();
    }
    format!("{what}{}\n  bytes  {bytes}\n  digest {}\n", path.unwrap_or_default(), text(&object["digest"]))
}

/// The vector's text; when blessing, with a trailer that fits.
fn bless_trailer(name: &str) -> String {
    let text = read(&format!("{name}.ndjson"));
    if !blessing() {
        return text;
    }
    let body: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"end\"")).collect();
    let sizes = body.iter().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap()["s"].as_u64());
    let bytes: u64 = sizes.map(Option::unwrap_or_default).sum();
    let digest = naive::objects(&text)["tree"]["digest"].as_str().unwrap().to_owned();
    let entries = body.len() - 1;
    let end = format!("{{\"end\":{{\"entries\":{entries},\"bytes\":{bytes},\"tree\":\"blake3:{digest}\"}}}}");
    let blessed = format!("{}\n{end}\n", body.join("\n"));
    fs::write(folder().join(format!("{name}.ndjson")), &blessed).unwrap();
    blessed
}

fn blessing() -> bool {
    std::env::var_os("DRIFTLOCK_BLESS").is_some()
}

fn read(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_default()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}
