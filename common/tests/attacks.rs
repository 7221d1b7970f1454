//! Manifests that must be refused: `attacks/<name>.ndjson`, each with the line and the words of the refusal; those too
//! large to keep as files are made here. Then every cut and every flipped byte of a small manifest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use driftlock_common::manifest::{MAX_LINE, Manifest};

/// Name, line, and how the words of the refusal begin.
const ATTACKS: &[(&str, u64, &str)] = &[
    ("after-trailer-blank", 4, "something stands after the trailer"),
    ("after-trailer-entry", 4, "something stands after the trailer"),
    ("after-trailer-second", 4, "something stands after the trailer"),
    ("algorithm-swapped", 2, "b3 does not stand where the content algorithm is sha256"),
    ("blake3-under-sha256", 2, "b3 does not stand where the content algorithm is sha256"),
    ("blank-line", 2, "blank line, carriage return or byte order mark"),
    ("byte-order-mark-later", 2, "blank line, carriage return or byte order mark"),
    ("byte-order-mark", 1, "blank line, carriage return or byte order mark"),
    ("carriage-return-inside", 2, "blank line, carriage return or byte order mark"),
    ("carriage-returns", 1, "blank line, carriage return or byte order mark"),
    ("critical-beside-trailer", 3, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-entry", 2, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-header-escaped", 1, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-header-nested", 1, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-header", 1, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-nested-unknown", 2, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-trailer", 3, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("critical-xattr", 2, "unknown critical key \"!must\": a newer driftlock is needed"),
    ("device-object", 2, "invalid type: map, expected an array of length 2"),
    ("device-on-fifo", 2, "p: key \"dev\" does not belong to type \"fifo\" under profile portable"),
    ("device-on-file", 2, "f: key \"dev\" does not belong to type \"file\" under profile portable"),
    ("device-one-number", 2, "invalid length 1, expected an array of length 2"),
    ("device-three-numbers", 2, "trailing characters"),
    ("device-too-large", 2, "invalid value: integer `4294967296`, expected u32"),
    ("digest-bit-flipped", 3, "the trailer states tree blake3:"),
    ("digest-null", 2, "invalid type: null, expected a string"),
    ("digest-on-directory", 2, "d: key \"b3\" does not belong to type \"directory\" under profile portable"),
    ("digest-short", 2, "a digest is 64 lower-case hexadecimal digits"),
    ("digest-upper-case", 2, "a digest is 64 lower-case hexadecimal digits"),
    ("digest-with-algorithm", 2, "a digest is 64 lower-case hexadecimal digits"),
    ("duplicate-end", 3, "duplicate key \"end\""),
    ("duplicate-key-escaped", 2, "duplicate key \"m\""),
    ("duplicate-key", 2, "duplicate key \"m\""),
    ("duplicate-nested-key", 2, "duplicate key \"a\""),
    ("duplicate-path", 3, "f stands twice"),
    ("duplicate-trailer-key", 3, "duplicate key \"entries\""),
    ("duplicate-unknown-key", 2, "duplicate key \"new\""),
    ("duplicate-xattr-key", 2, "duplicate key \"v\""),
    ("entry-removed", 2, "the trailer states tree blake3:"),
    (
        "exclude-absolute",
        1,
        "exclude \"/a\" has an empty component: patterns are relative to the root, without slashes at the ends",
    ),
    ("exclude-added", 3, "the trailer states tree blake3:"),
    ("exclude-control", 1, "exclude \"a\\0\" holds a control character"),
    ("exclude-dots", 1, "exclude \"a/../b\" has a component \".\" or \"..\""),
    (
        "exclude-partial-double-star",
        1,
        "exclude \"a**\" has \"**\" inside a component: it stands only for whole components",
    ),
    (
        "exclude-reserved",
        1,
        "exclude \"[a]\" has an unescaped '[': only * and ** are special; write \\[ for the character",
    ),
    ("excluded-below-directory", 3, "etc/ssl/a lies under an exclude"),
    ("excluded-below-star", 3, "etc/a lies under an exclude"),
    ("excluded-entry", 2, "etc/hosts lies under an exclude"),
    ("excludes-duplicate", 1, "excludes are not sorted or not unique"),
    ("excludes-unsorted", 1, "excludes are not sorted or not unique"),
    ("gid-nobody", 2, "u and g are at most 4294967294"),
    ("group-under-content", 2, "f: key \"g\" does not belong to type \"file\" under profile content"),
    ("header-diagnostic-is-a-list", 1, "invalid type: sequence, expected an object"),
    ("header-digest-without-algorithm", 1, "a digest begins with blake3: or sha256:"),
    ("header-duplicate-nested", 1, "duplicate key \"kind\""),
    ("header-duplicate-profile", 1, "duplicate key \"profile\""),
    ("header-duplicate-unknown", 1, "duplicate key \"a\""),
    ("header-is-a-list", 1, "not a driftlock manifest: the first line is no header"),
    ("header-null-excludes", 1, "invalid type: null, expected a sequence"),
    ("header-null-platform", 1, "invalid type: null, expected a string"),
    ("header-null-source", 1, "invalid type: null, expected an object"),
    ("header-source-is-a-list", 1, "invalid type: sequence, expected an object"),
    ("header-without-excludes", 1, "missing field `excludes`"),
    ("header-without-profile", 1, "missing field `profile`"),
    ("layer-negative", 2, "invalid value: integer `-1`, expected u16"),
    ("layer-null", 2, "invalid type: null, expected u16"),
    ("layer-too-large", 2, "invalid value: integer `65536`, expected u16"),
    ("line-is-a-list", 2, "invalid type: sequence, expected an entry or the trailer"),
    ("line-is-a-string", 2, "invalid type: string \"f\", expected an entry or the trailer"),
    ("line-of-spaces", 2, "EOF while parsing a value"),
    ("missing-grandparent", 3, "a/b/f has no directory entry above it"),
    ("missing-parent", 2, "a/f has no directory entry above it"),
    ("mode-changed", 3, "the trailer states tree blake3:"),
    ("mode-eight", 2, "m is four octal digits"),
    ("mode-five-digits", 2, "m is four octal digits"),
    ("mode-null", 2, "invalid type: null, expected a string"),
    ("mode-number", 2, "invalid type: integer `420`, expected a string"),
    ("mode-on-symlink", 2, "l: key \"m\" does not belong to type \"symlink\" under profile portable"),
    ("mode-three-digits", 2, "m is four octal digits"),
    ("mode-under-content", 2, "f: key \"m\" does not belong to type \"file\" under profile content"),
    ("mtime-float", 2, "invalid type: floating point `0.5`, expected i64"),
    ("mtime-huge", 2, "invalid value: integer `9223372036854775808`, expected i64"),
    ("mtime-minus-zero", 2, "invalid type: floating point `-0.0`, expected i64"),
    ("mtime-on-directory", 2, "d: key \"mt\" does not belong to type \"directory\" under profile full"),
    ("mtime-under-portable", 2, "f: key \"mt\" does not belong to type \"file\" under profile portable"),
    ("no-header", 1, "not a driftlock manifest: the first line is no header"),
    ("not-a-manifest", 1, "not a driftlock manifest: the first line is no header"),
    ("not-utf8", 2, "invalid unicode code point"),
    ("nothing", 1, "not a driftlock manifest: the first line is no header"),
    ("nul-after-line", 1, "not a driftlock manifest: the first line is no header"),
    ("number-out-of-range-in-unknown", 2, "number out of range"),
    ("owner-under-content", 2, "f: key \"u\" does not belong to type \"file\" under profile content"),
    ("parent-is-a-file", 3, "a/f has no directory entry above it"),
    ("parent-is-a-symlink", 3, "a/f has no directory entry above it"),
    ("path-absolute", 2, "a path has an empty component"),
    ("path-both", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path-c1-control", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path-control", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path-delete", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path-dot-component", 2, "a path has a component \".\" or \"..\""),
    ("path-dot-name", 2, "a path has a component \".\" or \"..\""),
    ("path-double-slash", 2, "a path has an empty component"),
    ("path-neither", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path-nul", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path-null", 2, "invalid type: null, expected a string"),
    ("path-number", 2, "invalid type: integer `1`, expected a string"),
    ("path-parent-component", 2, "a path has a component \".\" or \"..\""),
    ("path-parent-name", 2, "a path has a component \".\" or \"..\""),
    ("path-surrogate", 2, "unexpected end of hex escape"),
    ("path-trailing-slash", 2, "a path has an empty component"),
    ("path64-line-break", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path64-nul", 2, "a path holds a NUL byte"),
    ("path64-parent-component", 2, "a path has a component \".\" or \"..\""),
    ("path64-root", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path64-unused-bits", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path64-url-alphabet", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path64-where-text-fits", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("path64-without-padding", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("profile-changed", 3, "the trailer states tree blake3:"),
    ("root-is-a-file", 2, "the root is not a directory"),
    ("root-mtime", 2, "the root: key \"mt\" does not belong to type \"directory\" under profile full"),
    ("root-not-first", 3, "the root is not in order: it must come before f"),
    ("root-twice", 3, "the root stands twice"),
    ("sha256-on-directory", 2, "d: key \"s2\" does not belong to type \"directory\" under profile portable"),
    ("sha256-upper-case", 2, "a digest is 64 lower-case hexadecimal digits"),
    ("size-changed", 3, "the trailer states 3 bytes, the lines have 4"),
    ("size-float", 2, "invalid type: floating point `3.0`, expected u64"),
    ("size-huge", 2, "invalid type: floating point `1.8446744073709552e+19`, expected u64"),
    ("size-leading-zero", 2, "invalid number"),
    ("size-negative", 2, "invalid value: integer `-1`, expected u64"),
    ("size-null", 2, "invalid type: null, expected u64"),
    ("size-on-directory", 2, "d: key \"s\" does not belong to type \"directory\" under profile portable"),
    ("size-on-symlink", 2, "l: key \"s\" does not belong to type \"symlink\" under profile portable"),
    ("sizes-overflow", 3, "the sizes sum to over 2^64"),
    ("target-both", 2, "to and to64: exactly one must stand, to64 only where to cannot"),
    ("target-empty", 2, "a symlink has a target, not empty and without NUL"),
    ("target-missing", 2, "a symlink has a target, not empty and without NUL"),
    ("target-nul", 2, "a symlink has a target, not empty and without NUL"),
    ("target-on-directory", 2, "d: key \"to\" does not belong to type \"directory\" under profile portable"),
    ("target-on-file", 2, "f: key \"to\" does not belong to type \"file\" under profile portable"),
    ("target64-where-text-fits", 2, "to and to64: exactly one must stand, to64 only where to cannot"),
    ("trailer-negative", 3, "invalid value: integer `-1`, expected u64"),
    (
        "trailer-tree-sha256",
        3,
        "the trailer states tree sha256:0000000000000000000000000000000000000000000000000000000000000000, the lines have blake3:27559d6ce6974c083a5db55f5916a9c2127fd753a7d431ab20ea62675b4dcb8c",
    ),
    ("trailer-with-entry-keys", 3, "a trailer has no keys of an entry"),
    ("trailer-without-tree", 3, "a trailer has entries, bytes and tree"),
    ("truncated-header", 1, "truncated: 20 bytes without a line feed at the end"),
    ("truncated-last-line-feed", 3, "truncated: 112 bytes without a line feed at the end"),
    ("truncated-mid-line", 3, "truncated: 73 bytes without a line feed at the end"),
    ("truncated-no-trailer", 2, "truncated: no trailer"),
    ("two-headers", 2, "p and p64: exactly one must stand, p64 only where p cannot"),
    ("two-objects-on-a-line", 2, "trailing characters"),
    ("type-missing", 2, "t is none of f d l c b p s"),
    ("type-unknown", 2, "t is none of f d l c b p s"),
    ("type-word", 2, "t is none of f d l c b p s"),
    ("uid-exponent", 2, "invalid type: floating point `100.0`, expected u32"),
    ("uid-float", 2, "invalid type: floating point `0.0`, expected u32"),
    ("uid-negative", 2, "invalid value: integer `-1`, expected u32"),
    ("uid-nobody", 2, "u and g are at most 4294967294"),
    ("uid-null", 2, "invalid type: null, expected u32"),
    ("uid-text", 2, "invalid type: string \"0\", expected u32"),
    ("uid-too-large", 2, "invalid value: integer `4294967296`, expected u32"),
    ("unknown-algorithm", 1, "unknown variant `md5`, expected `blake3` or `sha256`"),
    ("unknown-profile", 1, "unknown variant `portable\\u{1b}[2J`, expected one of `content`, `portable`, `full`"),
    ("unsorted-by-text", 4, "a/b is not in order: it must come before a-b"),
    ("unsorted", 3, "a is not in order: it must come before b"),
    ("version-0", 1, "manifest version 0 is not known: this driftlock reads version 1"),
    ("version-2", 1, "manifest version 2 is not known: this driftlock reads version 1"),
    ("version-float", 1, "not a driftlock manifest: the first line is no header"),
    ("version-text", 1, "not a driftlock manifest: the first line is no header"),
    ("version-twice", 1, "not a driftlock manifest: the first line is no header"),
    ("wrong-bytes", 3, "the trailer states 4 bytes, the lines have 3"),
    ("wrong-entries", 3, "the trailer states 2 entries, the lines have 1"),
    ("wrong-tree", 3, "the trailer states tree blake3:"),
    ("xattr-capability-revision-3", 2, "a file capability of revision 3 with rootid 0 is written as revision 2"),
    ("xattr-containers", 2, "x names an attribute that the profile does not hold"),
    ("xattr-empty-name", 2, "x is a list of {n or n64, v}, sorted by name, names unique"),
    ("xattr-ima", 2, "x names an attribute that the profile does not hold"),
    ("xattr-name64-where-text-fits", 2, "x is a list of {n or n64, v}, sorted by name, names unique"),
    ("xattr-nul-in-name", 2, "x is a list of {n or n64, v}, sorted by name, names unique"),
    ("xattr-overlay", 2, "x names an attribute that the profile does not hold"),
    ("xattr-selinux", 2, "x names an attribute that the profile does not hold"),
    ("xattr-trusted", 2, "x names an attribute that the profile does not hold"),
    ("xattr-user-under-portable", 2, "x names an attribute that the profile does not hold"),
    ("xattr-value-null", 2, "invalid type: null, expected a string"),
    ("xattr-value-unused-bits", 2, "v is padded base64"),
    ("xattr-value-without-padding", 2, "v is padded base64"),
    ("xattr-without-name", 2, "x is a list of {n or n64, v}, sorted by name, names unique"),
    ("xattr-without-value", 2, "missing field `v`"),
    ("xattrs-duplicate", 2, "x is a list of {n or n64, v}, sorted by name, names unique"),
    ("xattrs-null", 2, "invalid type: null, expected a sequence"),
    ("xattrs-object", 2, "invalid type: map, expected a sequence"),
    ("xattrs-of-lists", 2, "invalid type: sequence, expected an extended attribute"),
    (
        "xattrs-on-directory-under-portable",
        2,
        "d: key \"x\" does not belong to type \"directory\" under profile portable",
    ),
    ("xattrs-on-symlink", 2, "l: key \"x\" does not belong to type \"symlink\" under profile full"),
    ("xattrs-under-content", 2, "f: key \"x\" does not belong to type \"file\" under profile content"),
    ("xattrs-unsorted", 2, "x is a list of {n or n64, v}, sorted by name, names unique"),
];

#[test]
fn every_attack_is_refused_where_and_as_the_table_says() {
    let mut wrong = Vec::new();
    for (name, line, words) in ATTACKS {
        let bytes = fs::read(folder("attacks").join(format!("{name}.ndjson"))).unwrap();
        wrong.extend(refusal(name, &bytes, *line, words).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_of_the_folder_is_in_the_table_once() {
    let listed: BTreeSet<String> = ATTACKS.iter().map(|(name, ..)| format!("{name}.ndjson")).collect();
    let found: BTreeSet<String> = fs::read_dir(folder("attacks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, listed);
    assert_eq!(listed.len(), ATTACKS.len());
}

#[test]
fn what_is_over_a_limit_is_refused_and_what_is_at_it_is_not() {
    let file = |path: &str| format!("{{\"p\":\"{path}\",\"t\":\"f\"}}");
    let link = |len: usize| format!("{{\"p\":\"l\",\"t\":\"l\",\"to\":\"{}\"}}", "x".repeat(len));
    let padded = |len: usize| {
        let rest = "{\"p\":\"f\",\"t\":\"f\",\"new\":\"\"}";
        format!("{{\"p\":\"f\",\"t\":\"f\",\"new\":\"{}\"}}", "x".repeat(len - rest.len()))
    };
    let directories = |depth: usize| {
        let line = |depth| format!("{{\"p\":\"{}\",\"t\":\"d\"}}", vec!["d"; depth].join("/"));
        (1..=depth).map(line).collect::<Vec<_>>().join("\n")
    };
    let nested = |depth: usize| file(&format!("f\",\"new\":{}1{},\"n2\":\"", "[".repeat(depth), "]".repeat(depth)));
    // A path of the longest length: 16 components of 4095 bytes and their slashes, and one less at its end.
    let long = |last: usize| {
        let mut names = vec!["n".repeat(4095); 15];
        names.push("n".repeat(last));
        let line = |depth| format!("{{\"p\":\"{}\",\"t\":\"d\"}}", names[..depth].join("/"));
        (1..=16).map(line).collect::<Vec<_>>().join("\n")
    };
    for (name, body, line, words) in [
        ("line", padded(MAX_LINE), 3, ""),
        ("line-over", padded(MAX_LINE + 1), 2, "longer than 1 MiB"),
        ("component", file(&"n".repeat(4096)), 3, ""),
        ("component-over", file(&"n".repeat(4097)), 2, "a path is longer"),
        ("target", link(65536), 3, ""),
        ("target-over", link(65537), 2, "a target is longer"),
        ("depth", directories(2048), 2050, ""),
        ("depth-over", directories(2049), 2050, "a path is deeper"),
        ("path", long(4096), 18, ""),
        ("path-over", long(4097), 17, "a path is longer"),
        ("nesting", nested(126), 3, ""),
        ("nesting-over", nested(127), 2, "recursion limit"),
        (
            "many-keys",
            file(&format!("f\"{},\"n\":\"", (0..80_000).map(|n| format!(",\"k{n}\":1")).collect::<String>())),
            3,
            "",
        ),
    ] {
        let header = "{\"driftlock\":1,\"profile\":\"portable\",\"content\":\"blake3\",\"excludes\":[]}";
        let entries = body.lines().count();
        let tree = "0".repeat(64);
        let end = format!("{{\"end\":{{\"entries\":{entries},\"bytes\":0,\"tree\":\"blake3:{tree}\"}}}}");
        let bytes = format!("{header}\n{body}\n{end}\n");
        // At the limit only the digest is wrong.
        let words = if words.is_empty() { "the trailer states tree" } else { words };
        refusal(name, bytes.as_bytes(), line, words).unwrap();
    }
    let pattern = "x".repeat(65537);
    let header =
        format!("{{\"driftlock\":1,\"profile\":\"full\",\"content\":\"blake3\",\"excludes\":[\"{pattern}\"]}}\n");
    refusal("pattern-over", header.as_bytes(), 1, "an exclude is longer").unwrap();
}

#[test]
fn a_refusal_is_one_line_that_can_be_printed() {
    let hostile = "\\u001b[2J\\n\\u202e".repeat(5000);
    for line in [
        format!("{{\"driftlock\":1,\"profile\":\"{hostile}\",\"content\":\"blake3\",\"excludes\":[]}}\n"),
        format!("{{\"driftlock\":1,\"profile\":\"full\",\"content\":\"blake3\",\"excludes\":[],\"!{hostile}\":1}}\n"),
        format!("{{\"driftlock\":1,\"profile\":\"full\",\"content\":\"blake3\",\"excludes\":[\"{hostile}\"]}}\n"),
        format!("{{\"driftlock\":1,\"profile\":{{\"{hostile}\":1}},\"content\":\"blake3\",\"excludes\":[]}}\n"),
    ] {
        let error = Manifest::decode(line.as_bytes()).unwrap_err().to_string();
        assert!(!error.chars().any(|ch| ch.is_control() || ch == '\u{202e}'), "{error:?}");
    }
}

#[test]
fn every_cut_is_refused() {
    for vector in VECTORS {
        let bytes = fs::read(folder("../vectors").join(vector)).unwrap();
        for end in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..end]).is_err(), "{vector} cut at {end}");
        }
    }
}

#[test]
fn every_flipped_byte_is_refused_or_informational() {
    for vector in VECTORS {
        let golden = fs::read(folder("../vectors").join(vector)).unwrap();
        let digest = Manifest::decode(&golden).unwrap().tree_digest();
        for at in 0..golden.len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut bytes = golden.clone();
                bytes[at] ^= flip;
                if let Ok(manifest) = Manifest::decode(&bytes) {
                    assert_eq!(manifest.tree_digest(), digest, "{vector}: byte {at} ^ {flip:#x}");
                }
            }
        }
    }
}

#[test]
fn every_line_left_out_doubled_or_swapped_is_refused() {
    for vector in VECTORS {
        let golden = fs::read_to_string(folder("../vectors").join(vector)).unwrap();
        let lines: Vec<&str> = golden.split_inclusive('\n').collect();
        for at in 0..lines.len() {
            let (before, after) = (lines[..at].concat(), lines[at + 1..].concat());
            assert!(Manifest::decode([&*before, &*after].concat().as_bytes()).is_err(), "{vector} without line {at}");
            let doubled = [&*before, lines[at], lines[at], &*after].concat();
            assert!(Manifest::decode(doubled.as_bytes()).is_err(), "{vector} with line {at} twice");
            for other in at + 1..lines.len() {
                let mut swapped = lines.clone();
                swapped.swap(at, other);
                assert!(
                    Manifest::decode(swapped.concat().as_bytes()).is_err(),
                    "{vector} with {at} and {other} swapped"
                );
            }
        }
    }
}

/// Small manifests that together use every key.
const VECTORS: [&str; 5] = ["parents.ndjson", "full.ndjson", "types.ndjson", "sha256.ndjson", "excludes.ndjson"];

fn refusal(name: &str, bytes: &[u8], line: u64, words: &str) -> Result<(), String> {
    match Manifest::decode(bytes) {
        Ok(_) => Err(format!("{name}: accepted")),
        Err(error) if error.line == line && error.problem.to_string().starts_with(words) => Ok(()),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}
