//! What ARCHITECTURE.md promises about the code, read from the code: what the core may depend on and may not do, where
//! `unsafe` may stand, what no file may hold.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use driftlock_common::exit;

/// The crates that the core may use, and why each is pure: encoding, hashing, signatures, JSON, TOML, likeness of words, error types.
const CORE_DEPENDENCIES: [&str; 11] =
    ["base64", "blake3", "ed25519-dalek", "hex", "p256", "serde", "serde_json", "sha2", "strsim", "thiserror", "toml"];

/// What the core does not do: no files, no network, no clock, no threads, no printing, no logging.
const NOT_IN_THE_CORE: [&str; 17] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "SystemTime",
    "Instant",
    "println!",
    "eprintln!",
    "print!(",
    "tracing",
    "tokio",
    "rayon",
    "async fn",
    "static mut",
    "thread_local!",
];

/// What no file holds. Split here, so that this file holds none of it.
const NOWHERE: [(&str, &str); 4] = [
    (concat!("to", "do!"), "finish it, or leave it out"),
    (concat!("unimple", "mented!"), "finish it, or leave it out"),
    (concat!("#[ig", "nore"), "a test that is not run tests nothing: skip visibly at run time"),
    (concat!("thread::sl", "eep"), "await the condition"),
];

/// The one place per crate where `unsafe` may stand.
const UNSAFE_MODULE: &str = "sys.rs";
/// What belongs to it.
const UNSAFE_FOLDER: &str = "agent/src/sys";

#[test]
fn the_core_depends_on_nothing_that_could_do_io() {
    let manifest = fs::read_to_string(root().join("common/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let found: BTreeSet<&str> = dependencies
        .lines()
        .filter_map(|line| line.split(['.', '=']).next())
        .map(str::trim)
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect();
    assert_eq!(found, BTreeSet::from(CORE_DEPENDENCIES));
    assert!(!manifest.contains("[build-dependencies]") && !manifest.contains("[target."), "{manifest}");
}

#[test]
fn the_core_is_pure() {
    for file in sources("common/src") {
        for word in NOT_IN_THE_CORE {
            refuse(&file, word, "the core has no I/O, no clock, no threads, no async and no logging");
        }
    }
}

#[test]
fn unsafe_code_stands_in_one_module_of_a_crate() {
    for file in all_sources() {
        if file.path.file_name().is_some_and(|name| name == UNSAFE_MODULE) || file.path.starts_with(UNSAFE_FOLDER) {
            assert!(file.path.starts_with("agent/src"), "{}: only the agent speaks to the kernel", file.path.display());
            continue;
        }
        let word = concat!("uns", "afe");
        for (number, line) in file.code() {
            let block = line.split(|ch: char| !ch.is_alphanumeric() && ch != '_').any(|token| token == word);
            assert!(!block, "{}:{number}: {word} outside {UNSAFE_MODULE}", file.path.display());
        }
    }
}

#[test]
fn every_file_says_first_what_it_owns() {
    for file in all_sources() {
        assert!(file.text.starts_with("//! "), "{} does not begin with //!", file.path.display());
    }
}

#[test]
fn nothing_is_left_for_later() {
    for file in all_sources() {
        for (word, instead) in NOWHERE {
            refuse(&file, word, instead);
        }
    }
}

#[test]
fn the_collector_uses_the_agent_in_its_development_mode_only() {
    for file in sources("collector/src") {
        let in_dev = file.path.components().any(|part| part.as_os_str() == "dev" || part.as_os_str() == "dev.rs");
        if !in_dev {
            refuse(&file, "driftlock_agent", "only `dev` runs both in one process");
        }
    }
}

#[test]
fn every_lint_table_is_the_workspaces() {
    for package in ["common", "agent", "collector", "packaging"] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{package} has lints of its own");
    }
}

#[test]
fn exit_codes_are_in_one_table_in_order() {
    let codes: Vec<u8> = exit::TABLE.iter().map(|(code, _)| *code).collect();
    assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else { return };
    // A table of codes in the README has rows of the form `| 64 | …`.
    let documented: Vec<u8> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.trim_matches('`').parse().ok())
        .collect();
    if !documented.is_empty() {
        assert_eq!(documented, codes, "the exit codes of the README are not those of common::exit");
    }
}

/// A test is named as `file`: `test`, `test`.
#[test]
fn the_security_document_names_tests_that_are_there() {
    let document = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let mut named = 0;
    for line in document.lines() {
        let spans: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        let mut file = None;
        for span in spans {
            if span.ends_with(".rs") {
                file = Some((span, fs::read_to_string(root().join(span)).unwrap_or_else(|_| panic!("no file {span}"))));
            } else if let Some((name, text)) = &file {
                let is_there = text.contains(&format!("fn {span}()")) || text.contains(&format!("{span}\""));
                assert!(is_there, "{name} has no test {span:?}");
                named += 1;
            }
        }
    }
    assert!(named > 30, "only {named} tests are named");
    // Each kind of access has a row, and each row a test.
    for access in document.split("\n## ").filter(|section| section.starts_with("Who ")) {
        let rows: Vec<&str> = access.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert!(!rows.is_empty(), "{access}");
        for row in rows {
            assert!(row.contains(".rs`: `"), "no test: {row}");
        }
    }
}

struct Source {
    /// Relative to the workspace.
    path: PathBuf,
    text: String,
}

impl Source {
    /// Lines with their numbers, comments left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn refuse(file: &Source, word: &str, why: &str) {
    for (number, line) in file.code() {
        assert!(!line.contains(word), "{}:{number}: {word} ({why})", file.path.display());
    }
}

fn all_sources() -> Vec<Source> {
    let packages = ["common", "agent", "collector", "packaging", "tests", "benches"];
    let all: Vec<Source> = packages.iter().flat_map(|package| sources(package)).collect();
    assert!(all.len() > 40, "found only {} files", all.len());
    all
}

fn sources(folder: &str) -> Vec<Source> {
    let below = walkdir::WalkDir::new(root().join(folder)).sort_by_file_name().into_iter();
    // Build output has no place in a package, but stands there when someone says so.
    let below = below.filter_entry(|entry| entry.file_name() != "target");
    let files = below.map(|entry| entry.unwrap()).filter(|entry| entry.path().extension().is_some_and(|e| e == "rs"));
    files
        .map(|entry| Source {
            path: entry.path().strip_prefix(root()).unwrap().to_owned(),
            text: fs::read_to_string(entry.path()).unwrap(),
        })
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
