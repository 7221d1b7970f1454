//! What real programs do to files while a real agent watches: what they write again as it was is no finding in the end, and
//! none at all where the program never leaves anything else at a path; what they change is exactly that, each path once.

mod tool;

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::require;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use driftlock_tests::watched::{Bound, Mode, Watched};
use tool::{TOOLS, Tool, Writes};

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for tool in TOOLS {
        for mode in Mode::ALL {
            let name = format!("{}_by_{}", tool.name, mode.name());
            trials.push(require::trial_needing(name, mode.needs(tool.needs), move || watched(tool, mode)));
        }
    }
    require::run(trials)
}

/// Sealed files that the tests themselves change, after a tool: when that is found, so is what the tool did.
const MARKS: [&str; 2] = ["marks/one", "marks/two"];

fn watched(tool: &Tool, mode: Mode) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = sandbox.tree("tree")?;
    for mark in MARKS {
        tree.file(mark, "mark\n")?;
    }
    (tool.prepare)(&sandbox, &tree)?;
    let sealed: BTreeSet<Vec<u8>> = tool.paths.iter().map(|path| path.as_bytes().to_owned()).collect();
    for path in tool.paths {
        ensure!(tree.path(path).is_file(), "{path} was to be made");
    }
    let bound = if mode == Mode::Sweep { Bound::Sweep } else { Bound::Event };
    let mut watched = Watched::start(sandbox, tree.root(), mode, bound)?;
    let mut expected = BTreeSet::new();
    let mut settle = |watched: &mut Watched, mark: &str, more: Vec<Drift>| -> Result<BTreeSet<Drift>> {
        expected.extend(more);
        expected.insert(tamper::append(tree.root(), mark)?);
        watched.eventually_open(&expected)?;
        if mode == Mode::Sweep {
            // What found the mark may have been where the tool was before it was there.
            watched.wait_for_looks(1)?;
            watched.eventually_open(&expected)?;
        }
        Ok(expected.clone())
    };

    let contents = || tool.paths.iter().map(|path| fs::read(tree.path(path))).collect::<Result<Vec<_>, _>>();
    let before = contents()?;
    (tool.same)(&watched.sandbox, &tree)?;
    ensure!(before == contents()?, "the same was to be written");
    settle(&mut watched, MARKS[0], Vec::new())?;
    let history = watched.history()?;
    if tool.writes == Writes::Beside {
        let raised: Vec<_> = history.raised()?.intersection(&sealed).cloned().collect();
        ensure!(raised.is_empty(), "raised, and never other than sealed: {raised:?}");
    }
    let times: Vec<usize> =
        tool.paths.iter().map(|path| history.times_opened(path.as_bytes())).collect::<Result<_>>()?;

    let drifts = (tool.other)(&watched.sandbox, &tree)?;
    ensure!(!drifts.is_empty(), "something was to differ");
    let expected = settle(&mut watched, MARKS[1], drifts.clone())?;
    watched.stop()?;
    let history = watched.history()?;
    history.check()?;
    ensure!(history.open()? == expected, "it did not last");
    for drift in drifts {
        let before = tool.paths.iter().position(|path| path.as_bytes() == drift.path).map_or(0, |at| times[at]);
        let more = history.times_opened(&drift.path)? - before;
        ensure!(more == 1, "{drift:?} was opened {more} times");
    }
    Ok(())
}
