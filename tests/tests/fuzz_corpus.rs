//! Runs every fuzz target over its committed corpus, and holds targets, functions and corpora together.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use driftlock_common::event::Event;
use driftlock_tests::fuzz::TARGETS;

#[test]
fn no_input_of_the_corpora_breaks_an_invariant() {
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for file in walkdir::WalkDir::new(folder().join("corpus").join(name)).sort_by_file_name() {
            let file = file.unwrap();
            if file.file_type().is_file() {
                let data = fs::read(file.path()).unwrap();
                let result = std::panic::catch_unwind(|| target(&data));
                assert!(result.is_ok(), "{name} breaks on {}", file.path().display());
                inputs += 1;
            }
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}

#[test]
fn every_function_has_a_target_and_a_corpus_and_the_other_way_round() {
    let functions: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(folder().join("corpus")), functions, "corpora");
    assert_eq!(names(folder().join("fuzz_targets")), functions, "targets");
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &functions {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml does not name {name}");
        let target = fs::read_to_string(folder().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(target.contains(&format!("fuzz::{name}(data)")), "{name}.rs calls another function");
    }
    assert_eq!(functions.len(), TARGETS.len(), "a name stands twice");
}

/// An input that no longer parses would test nothing.
#[test]
fn the_corpus_of_events_has_every_type() {
    let mut types = BTreeSet::new();
    for file in fs::read_dir(folder().join("corpus/event")).unwrap() {
        let path = file.unwrap().path();
        let data = fs::read(&path).unwrap();
        let events: Vec<Event> =
            serde_json::from_slice(&data).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for event in events {
            types.insert(serde_json::to_value(event).unwrap()["type"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(types.len(), 9, "{types:?}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
