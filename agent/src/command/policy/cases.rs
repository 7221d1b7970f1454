//! `driftlock policy test`: the cases of every file in a directory, each against its policy.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use driftlock_common::policy::Policy;
use driftlock_common::policy::case::Cases;

use super::{answer, load, malformed, read, shown};
use crate::cli::PolicyTestArgs;
use crate::failure::{Failure, Outcome};

pub(super) fn run(args: &PolicyTestArgs) -> Outcome {
    let files = files(&args.directory)?;
    let mut text = String::new();
    let mut failed = 0;
    for file in &files {
        let cases = Cases::parse(&read(file)?).map_err(|error| malformed(file, &error))?;
        let policy = load(&file.parent().unwrap_or_else(|| Path::new("")).join(&cases.policy))?;
        failed += check(&mut text, file, &policy, &cases);
    }
    answer(&text)?;
    Ok(Exit::Found(u8::from(failed > 0)))
}

/// How many cases went otherwise.
fn check(text: &mut String, file: &Path, policy: &Policy, cases: &Cases) -> usize {
    let file = shown(file);
    let mut untested: BTreeSet<&str> = policy.rules().iter().map(|rule| rule.id.as_str()).collect();
    let mut failed = 0;
    // Writing to a string cannot fail.
    for case in &cases.cases {
        match case.check(policy) {
            Ok(verdict) => {
                verdict.rule().map(|rule| untested.remove(rule.id.as_str()));
            }
            Err(mismatch) => {
                failed += 1;
                let (line, path) = (case.line, case.drift.path.escaped());
                let change = case.drift.change();
                let _infallible = writeln!(text, "{file}:{line}: {path} {change}: {mismatch}");
            }
        }
    }
    let (all, name) = (cases.cases.len(), policy.name());
    let _infallible = write!(text, "{file}: policy {name}, {all} cases, {failed} failed");
    if !untested.is_empty() {
        let untested: Vec<&str> = untested.into_iter().collect();
        let _infallible = write!(text, "; no case for {}", untested.join(", "));
    }
    text.push('\n');
    failed
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(directory).min_depth(1).max_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|error| Failure::input(shown(directory), error.into()))?;
        if entry.path().extension().is_some_and(|extension| extension == "toml") {
            files.push(entry.into_path());
        }
    }
    if files.is_empty() {
        let what = anyhow!("{}: no file *.toml with cases: see driftlock policy test --help", shown(directory));
        return Err(Failure::new(Exit::NoInput, what));
    }
    Ok(files)
}
