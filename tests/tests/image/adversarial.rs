//! Owns running fixtures that are wrong or odd on purpose, each with its decided outcome without and with `--strict`: one
//! line and an exit code, or a tree and what the header says was odd. Must not own the fixtures.

mod large;
mod layer;
mod layout;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::archive::Entry;
use driftlock_tests::image::{Layer, Layout};
use driftlock_tests::require::trial_with;
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::described::sealed;

/// An image that somebody made to do harm, or that only looks like one.
pub(super) struct Fixture {
    name: &'static str,
    /// Makes it in the sandbox; the source for `seal`.
    make: fn(&Sandbox) -> Result<String>,
    outcome: Outcome,
    /// With `--strict`, where that is another one.
    strict: Option<Outcome>,
}

/// What `seal` has to do.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// End with the exit code and one line. `{}` is the sandbox, `*` a digest.
    Refused(i32, &'static str),
    /// Seal these paths, and count in the header what was odd.
    Sealed { entries: &'static [&'static str], diagnostics: &'static [(&'static str, u64)] },
}

pub(super) fn trials() -> Vec<Trial> {
    let of = |table: &str, fixtures: &'static [Fixture]| -> Vec<Trial> {
        let name = |fixture: &Fixture| {
            format!("{table}_{}", fixture.name.replace(|ch: char| !ch.is_ascii_alphanumeric(), "_"))
        };
        fixtures.iter().map(|fixture| trial_with(name(fixture), &[], move || one(fixture))).collect()
    };
    let tables = [of("layer", layer::FIXTURES), of("layout", layout::FIXTURES)];
    let others = [layer::trials(), layout::trials(), large::trials()];
    tables.into_iter().chain(others).flatten().collect()
}

fn one(fixture: &Fixture) -> Result<()> {
    for (option, outcome) in [(None, fixture.outcome), (Some("--strict"), fixture.strict.unwrap_or(fixture.outcome))] {
        let sandbox = Sandbox::new()?;
        let source = (fixture.make)(&sandbox)?;
        let manifest = sandbox.path("manifest");
        let seal = ["seal".as_ref(), source.as_ref(), "-o".as_ref(), manifest.as_os_str()];
        let finished = sandbox.driftlock(seal.into_iter().chain(option.map(AsRef::as_ref))).run()?;
        check(&sandbox, &finished, &manifest, outcome).with_context(|| format!("{option:?}\n{finished:?}"))?;
    }
    Ok(())
}

fn check(sandbox: &Sandbox, finished: &Finished, manifest: &Path, outcome: Outcome) -> Result<()> {
    match outcome {
        Outcome::Refused(code, line) => {
            ensure!(finished.code == Some(code), "expected {code}");
            let said = without_digests(&finished.stderr.replace(&place(sandbox), "{}"));
            ensure!(said == format!("driftlock: {line}\n"), "expected the line: {line}\nbut it is: {said}");
            ensure!(finished.stdout.is_empty() && !manifest.exists(), "a result of what was refused");
        }
        Outcome::Sealed { entries, diagnostics } => {
            ensure!(finished.code == Some(0), "expected 0");
            ensure!(finished.stderr.lines().count() == 1, "expected the summary alone");
            let found = lines(manifest)?;
            ensure!(found == entries, "expected {entries:#?}\nbut it is {found:#?}");
            let found = odd(manifest)?;
            let expected: Vec<(String, u64)> =
                diagnostics.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect();
            ensure!(found == expected, "expected {expected:?}, found {found:?}");
        }
    }
    Ok(())
}

fn place(sandbox: &Sandbox) -> String {
    sandbox.path("").display().to_string().trim_end_matches('/').to_owned()
}

/// A line for each entry: the path, and what was said of it but for what is as usual.
fn lines(manifest: &Path) -> Result<Vec<String>> {
    let line = |(path, mut all): (Vec<u8>, std::collections::BTreeMap<String, String>)| {
        let kind = all.remove("type").unwrap_or_default();
        let usual = [("mode", if kind == "dir" { "493" } else { "420" }), ("uid", "0"), ("gid", "0")];
        let implicit = kind == "dir" && all.is_empty();
        all.retain(|name, value| name != "sha256" && !usual.contains(&(name.as_str(), value.as_str())));
        let rest: String = all.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        format!("{} {kind}{rest}{}", path.escape_ascii(), if implicit { " implicit" } else { "" })
    };
    Ok(sealed(manifest)?.into_iter().map(line).collect())
}

/// What the header counts.
fn odd(manifest: &Path) -> Result<Vec<(String, u64)>> {
    let text = fs::read_to_string(manifest)?;
    let header: Value = serde_json::from_str(text.lines().next().context("a header")?)?;
    let all = header.get("diagnostics").and_then(Value::as_array).into_iter().flatten();
    all.map(|it| Ok((it["code"].as_str().context("a code")?.to_owned(), it["count"].as_u64().context("a count")?)))
        .collect()
}

/// Each run of 64 hexadecimal digits becomes a star.
fn without_digests(text: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for ch in text.chars().chain(['\0']) {
        if ch.is_ascii_hexdigit() {
            run.push(ch);
            continue;
        }
        out.push_str(if run.len() == 64 { "*" } else { &run });
        run.clear();
        out.push(ch);
    }
    out.pop();
    out
}

/// A layout of these layers, lowest first.
fn layers(sandbox: &Sandbox, layers: impl IntoIterator<Item = Layer>) -> Result<String> {
    let mut layout = Layout::create(sandbox.path("layout"))?;
    for layer in layers {
        layout = layout.layer(&layer.finish())?;
    }
    Ok(layout.finish()?.source())
}

/// A layer of these entries.
fn of(entries: impl IntoIterator<Item = Entry>) -> Layer {
    entries.into_iter().fold(Layer::new(), |layer, entry| layer.entry(&entry))
}
