//! README's table of evasions against the tests: the same names with the same bounds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::watched::{Bound, Mode};

use super::{Bounds, Evasion};

/// By the name of an evasion, the bound for each way of watching.
type Rows = BTreeMap<String, Vec<String>>;

const HEAD: &str = "| evasion | fanotify | inotify | sweep alone | test |";

pub(super) fn holds(evasions: &[Evasion]) -> Result<()> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    same(&fs::read_to_string(&readme).with_context(|| readme.display().to_string())?, evasions)
}

fn same(readme: &str, evasions: &[Evasion]) -> Result<()> {
    let documented = rows(readme)?;
    let tested: Rows = evasions
        .iter()
        .map(|evasion| {
            let bounds = Mode::ALL.map(|mode| evasion.bounds.of(mode).map_or("–", Bound::name).to_owned());
            (evasion.name.to_owned(), bounds.into())
        })
        .collect();
    ensure!(tested.len() == evasions.len(), "a name stands twice");
    let only = |of: &Rows, other: &Rows| -> Vec<String> {
        of.iter().filter(|(name, bounds)| other.get(*name) != Some(*bounds)).map(|row| format!("{row:?}")).collect()
    };
    let (documented_only, tested_only) = (only(&documented, &tested), only(&tested, &documented));
    ensure!(
        documented_only.is_empty() && tested_only.is_empty(),
        "README alone says {documented_only:#?}, the tests alone {tested_only:#?}"
    );
    Ok(())
}

fn rows(readme: &str) -> Result<Rows> {
    let mut lines = readme.lines().skip_while(|line| *line != HEAD).skip(2).peekable();
    ensure!(lines.peek().is_some(), "README has no table {HEAD}");
    let mut rows = Rows::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, bounds @ .., name] = &cells[..] else { anyhow::bail!("{line}") };
        let bounds: Vec<String> = bounds.iter().map(|bound| (*bound).to_owned()).collect();
        ensure!(rows.insert(name.trim_matches('`').to_owned(), bounds).is_none(), "{name} stands twice");
    }
    Ok(rows)
}

pub(super) fn notices() -> Result<()> {
    let evasions = [Evasion { name: "one", needs: &[], bounds: Bounds::HINTED, test: |_, _| Ok(()) }];
    let table = |rows: &str| format!("text\n\n{HEAD}\n|---|---|---|---|---|\n{rows}\ntext\n");
    same(&table("| it | event | event | sweep | `one` |\n"), &evasions)?;
    for wrong in [
        "",
        "| it | event | sweep | sweep | `one` |\n",
        "| it | event | event | event | `one` |\n",
        "| it | – | event | sweep | `one` |\n",
        "| it | event | event | sweep | `other` |\n",
        "| it | event | event | sweep | `one` |\n| more | full | full | full | `two` |\n",
    ] {
        ensure!(same(&table(wrong), &evasions).is_err(), "{wrong:?} is not noticed");
    }
    ensure!(same("no table", &evasions).is_err(), "no table is not noticed");
    Ok(())
}
