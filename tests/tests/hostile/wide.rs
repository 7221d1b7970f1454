//! A directory of very many names, of every kind, some of them added, removed and changed.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::drift::Report;
use driftlock_tests::peak;
use driftlock_tests::random::Random;
use driftlock_tests::require;
use driftlock_tests::told::Told;
use libtest_mimic::Trial;

use super::case::Case;

/// How many names, if not [`FEW`]; then the peak memory of each command is printed too:
/// `DRIFTLOCK_TEST_WIDE=1000000 cargo test --release --test hostile -- wide`.
const WIDE_VARIABLE: &str = "DRIFTLOCK_TEST_WIDE";
const FEW: usize = 40_000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![require::trial("wide::in_a_directory_of_very_many_names_each_difference_is_found", &[], many_names)]
}

/// What is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Symlink,
}

/// The kind of the name with this number: mostly files, and now and then something else.
const fn kind(number: usize) -> Kind {
    match number % 40 {
        7 => Kind::Directory,
        23 => Kind::Symlink,
        _ => Kind::File,
    }
}

/// A name whose place among the others has nothing to do with its number.
fn name(number: usize) -> String {
    let mixed = Random::new(number as u64).next();
    let long = if number.is_multiple_of(50) { "-with-a-longer-name-than-most".repeat(4) } else { String::new() };
    format!("{mixed:016x}{long}-{number}")
}

fn make(directory: &Path, number: usize) -> Result<()> {
    let path = directory.join(name(number));
    match kind(number) {
        Kind::File => File::create(&path)?.write_all(&content(number))?,
        Kind::Directory => {
            fs::create_dir(&path)?;
            fs::write(path.join("inside"), content(number))?;
        }
        Kind::Symlink => std::os::unix::fs::symlink(format!("target-{number}"), &path)?,
    }
    Ok(())
}

fn content(number: usize) -> Vec<u8> {
    format!("{number}\n").into_bytes()
}

/// Changes every `step`th name in one of the ways there are, and says what is to be found of it.
fn tamper(directory: &Path, names: usize, step: usize) -> Result<BTreeSet<String>> {
    let mut expected = BTreeSet::new();
    for (turn, number) in (0..names).step_by(step).enumerate() {
        let path = directory.join(name(number));
        let shown = format!("many/{}", name(number));
        let is_directory = kind(number) == Kind::Directory;
        match (turn % 4, kind(number)) {
            (0, Kind::File) => {
                // The same size, so that only reading tells.
                let mut other = content(number);
                other[0] ^= 1;
                fs::write(&path, other)?;
                expected.insert(format!("changed {shown} content"));
            }
            (0, Kind::Directory) => {
                fs::write(path.join("inside"), "other content")?;
                fs::write(path.join("new"), "")?;
                expected.insert(format!("changed {shown}/inside content"));
                expected.insert(format!("added {shown}/new"));
            }
            (0, Kind::Symlink) => {
                fs::remove_file(&path)?;
                std::os::unix::fs::symlink("elsewhere", &path)?;
                expected.insert(format!("changed {shown} target"));
            }
            (1 | 2, _) => {
                if is_directory {
                    fs::remove_dir_all(&path)?
                } else {
                    fs::remove_file(&path)?
                }
                if is_directory {
                    expected.insert(format!("removed {shown}/inside"));
                }
                if turn % 4 == 1 {
                    expected.insert(format!("removed {shown}"));
                } else {
                    // Something else under the name: a file where a directory or a link was, else a directory.
                    if kind(number) == Kind::File {
                        fs::create_dir(&path)?
                    } else {
                        fs::write(&path, "")?
                    }
                    expected.insert(format!("changed {shown} type"));
                }
            }
            _ => {
                make(directory, names + number)?;
                expected.insert(format!("added many/{}", name(names + number)));
                if kind(names + number) == Kind::Directory {
                    expected.insert(format!("added many/{}/inside", name(names + number)));
                }
            }
        }
    }
    Ok(expected)
}

fn many_names() -> Result<()> {
    let wished = env::var(WIDE_VARIABLE).ok().map(|number| number.parse::<usize>()).transpose();
    let wished = wished.with_context(|| format!("{WIDE_VARIABLE} is a number of names"))?;
    let names = wished.unwrap_or(FEW);
    let case = Case::new()?;
    case.tree.dir("many")?.file("many-more", "sealed")?;
    let directory = case.tree.path("many");
    (0..names).try_for_each(|number| make(&directory, number))?;
    case.seal_under("portable")?;

    let clean = scan(&case, "as sealed", wished)?;
    ensure!(clean.lines.is_empty(), "{:?}", clean.lines);
    let entries = entries(&clean.report)?;
    // The directories hold a file each, and the two at the top are entries too.
    let directories = (0..names).filter(|number| kind(*number) == Kind::Directory).count();
    ensure!(entries == names + directories + 2, "{entries} entries looked at");

    let expected = tamper(&directory, names, names / 400)?;
    scan(&case, "tampered with", wished)?.expect(expected)
}

fn entries(report: &Report) -> Result<usize> {
    Ok(usize::try_from(report.summary["entries"].as_u64().context("entries")?)?)
}

fn scan(case: &Case, what: &str, wished: Option<usize>) -> Result<Told> {
    let Some(names) = wished else { return case.scan() };
    let finished = case.behind(peak::words()?).run()?;
    println!("{names} names, {what}: at most {} MB resident", peak::of(&finished)? / 1_000_000);
    Told::of(&finished)
}
