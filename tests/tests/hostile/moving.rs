//! What changes while it is looked at: in the tests' own file system at exactly the worst moment, on a real one at any.
//! What was found is how it was at some moment, or it is a gap; other content is never clean.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use driftlock_tests::fuse::{Call, Errno, Fuse, Kind, Op, Tree};
use driftlock_tests::random::Random;
use driftlock_tests::require::{self, Requirement};
use libtest_mimic::Trial;

use super::case::{Case, during, in_fuse};

/// Larger than any buffer that a file is read into at once.
const LARGE: usize = 3_000_000;

const GAP: &str = "unverifiable log unstable 1";

const NEEDS: &[Requirement] = &[Requirement::MountNamespace, Requirement::Fuse];

/// What happens, how often, and what is to be found of it.
type Row = (&'static str, fn(&mut Tree), &'static [&'static str]);

/// Once, between the first read of the file and whatever is asked next.
const ONCE: [Row; 12] = [
    ("grows", |tree| tree.write("log", vec![1; LARGE + 10]), &["changed log content"]),
    ("shrinks", |tree| tree.write("log", vec![1; LARGE - 10]), &["changed log content"]),
    ("is_emptied", |tree| tree.write("log", ""), &["changed log content"]),
    // The part that was read already: what is read of it all is what was sealed.
    ("changes_where_it_was_read_already", |tree| tree.write("log", with(0)), &["changed log content"]),
    ("changes_where_it_is_read_next", |tree| tree.write("log", with(LARGE - 1)), &["changed log content"]),
    ("is_written_again_as_it_was", |tree| tree.write("log", sealed()), &[]),
    ("is_replaced", |tree| tree.replace("log", with(0)), &["changed log content"]),
    ("is_replaced_by_its_like", |tree| tree.replace("log", sealed()), &[]),
    ("is_deleted", |tree| tree.remove("log"), &["removed log"]),
    ("becomes_a_directory", becomes_directory, &["changed log type", "added log/inside"]),
    ("becomes_a_symlink", becomes_symlink, &["changed log type"]),
    ("loses_a_permission", |tree| tree.chmod("log", 0o600), &["changed log mode"]),
];

/// Over and over, between any two questions.
const EVER: [Row; 4] = [
    ("grows", |tree| grow(tree, 1), &[GAP]),
    ("shrinks", |tree| shrink(tree, 1), &[GAP]),
    ("is_touched", |tree| tree.write("log", sealed()), &[GAP]),
    ("changes_its_mode", toggle_mode, &[GAP, "changed log mode ? content,xattrs unstable"]),
];

/// Once, between looking a name up to see what it is and looking it up again to open it.
const BEFORE_OPENING: [Row; 8] = [
    ("a_file_is_replaced", |tree| tree.replace("log", with(7)), &["changed log content"]),
    ("a_file_is_deleted", |tree| tree.remove("log"), &["removed log"]),
    ("a_file_becomes_a_directory", becomes_directory, &["changed log type", "added log/inside"]),
    ("a_file_becomes_a_symlink", becomes_symlink, &["changed log type"]),
    (
        "a_directory_is_replaced",
        |tree| {
            tree.remove("dir");
            tree.file("dir/other", "added");
        },
        &["removed dir/one", "removed dir/two", "removed dir/two/three", "added dir/other"],
    ),
    ("a_directory_is_deleted", |tree| tree.remove("dir"), REMOVED),
    (
        "a_directory_becomes_a_file",
        |tree| {
            tree.remove("dir");
            tree.file("dir", "a file");
        },
        TURNED,
    ),
    (
        "a_directory_becomes_a_symlink",
        |tree| {
            tree.remove("dir");
            tree.symlink("dir", "/etc");
        },
        TURNED,
    ),
];

const REMOVED: &[&str] = &["removed dir", "removed dir/one", "removed dir/two", "removed dir/two/three"];
const TURNED: &[&str] = &["changed dir type", "removed dir/one", "removed dir/two", "removed dir/two/three"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (what, change, expected) in ONCE {
        trials.push(row(&format!("a_file_that_{what}_while_it_is_read"), move |case, fuse| {
            fuse.script(after_the_first_read(change));
            case.scan()?.expect(expected.iter().copied())
        }));
    }
    for (what, change, expected) in EVER {
        trials.push(row(&format!("a_file_that_{what}_all_the_time_is_a_gap"), move |case, fuse| {
            fuse.script(move |call, tree| {
                // Not between the two steps of one look, which the kernel takes for a lie of the file system.
                if call.path == b"log" && matches!(call.op, Op::Read | Op::Open) && tree.exists("log") {
                    change(tree);
                }
                Ok(())
            });
            let told = case.scan()?;
            told.expect_within(expected)?;
            ensure!(!told.is_clean(), "clean");
            Ok(())
        }));
    }
    for (what, change, expected) in BEFORE_OPENING {
        trials.push(row(&format!("{what}_before_it_is_opened"), move |case, fuse| {
            let path: &[u8] = if what.starts_with("a_directory") { b"dir" } else { b"log" };
            fuse.script(at_the_second_lookup(path, change));
            case.scan()?.expect(expected.iter().copied())
        }));
    }
    trials.extend([
        row("a_file_that_is_renamed_while_it_is_read", renamed),
        row("a_file_that_is_replaced_all_the_time_is_never_clean", replaced),
        row("what_is_deleted_after_its_directory_was_listed_is_removed", deleted_after_listing),
        row("what_is_added_after_its_directory_was_listed_is_nothing_or_added", added_after_listing),
        row("content_that_changes_and_no_time_tells_is_found_if_it_was_read", untold),
    ]);
    trials.push(require::trial("moving::a_file_in_any_state_but_the_sealed_one_is_never_clean", &[], never_clean));
    trials.push(require::trial(
        "moving::a_file_that_is_rewritten_as_sealed_all_the_time_is_never_changed",
        &[],
        rewritten,
    ));
    trials
}

fn row(name: &str, test: impl FnOnce(&Case, &Fuse) -> Result<()> + Send + 'static) -> Trial {
    require::trial_with(format!("moving::{name}"), NEEDS, move || in_fuse(sample, test))
}

fn sample(tree: &mut Tree) {
    tree.file("log", sealed()).file("steady", "sealed").file("dir/one", "sealed").file("dir/two/three", "sealed");
}

fn sealed() -> Vec<u8> {
    vec![1; LARGE]
}

/// The content as sealed but for one byte.
fn with(at: usize) -> Vec<u8> {
    let mut content = sealed();
    content[at] = 2;
    content
}

fn becomes_directory(tree: &mut Tree) {
    tree.remove("log");
    tree.file("log/inside", "added");
}

fn becomes_symlink(tree: &mut Tree) {
    tree.remove("log");
    tree.symlink("log", "steady");
}

fn size(tree: &mut Tree) -> usize {
    match &tree.at("log").kind {
        Kind::File(content) => content.len(),
        Kind::Directory { .. } | Kind::Symlink(_) => 0,
    }
}

fn grow(tree: &mut Tree, by: usize) {
    let size = size(tree) + by;
    tree.write("log", vec![1; size]);
}

fn shrink(tree: &mut Tree, by: usize) {
    let size = size(tree).saturating_sub(by);
    tree.write("log", vec![1; size]);
}

fn toggle_mode(tree: &mut Tree) {
    let mode = tree.at("log").mode ^ 0o044;
    tree.chmod("log", mode);
}

type Scripted = Result<(), Errno>;

/// Once the first part of the file was given, whatever is asked next finds it changed.
fn after_the_first_read(change: fn(&mut Tree)) -> impl FnMut(&Call<'_>, &mut Tree) -> Scripted + Send {
    let (mut was_read, mut change) = (false, Some(change));
    move |call, tree| {
        if was_read && let Some(change) = change.take() {
            change(tree);
        }
        was_read |= (call.op, call.path) == (Op::Read, b"log");
        Ok(())
    }
}

fn at_the_second_lookup(
    path: &'static [u8],
    change: fn(&mut Tree),
) -> impl FnMut(&Call<'_>, &mut Tree) -> Scripted + Send {
    move |call, tree| {
        if (call.op, call.path, call.nth) == (Op::Lookup, path, 2) {
            change(tree);
        }
        Ok(())
    }
}

fn renamed(case: &Case, fuse: &Fuse) -> Result<()> {
    fuse.script(after_the_first_read(|tree| {
        tree.remove("log");
        tree.file("renamed", sealed());
    }));
    let told = case.scan()?;
    told.expect_within(&["removed log", "added renamed"])?;
    ensure!(told.lines.contains("removed log"), "{:?}", told.lines);
    fuse.behave();
    case.scan()?.expect(["removed log", "added renamed"])
}

fn replaced(case: &Case, fuse: &Fuse) -> Result<()> {
    // Never the sealed content: the one that is open may stay what it is, and that is not what was sealed either.
    fuse.change(|tree| tree.replace("log", with(0)));
    fuse.script(|call, tree| {
        if call.path == b"log" && tree.exists("log") {
            tree.replace("log", with(usize::try_from(call.nth).unwrap_or(0)));
        }
        Ok(())
    });
    let told = case.scan()?;
    told.expect_within(&[GAP, "changed log content"])?;
    ensure!(!told.is_clean(), "clean");
    Ok(())
}

fn deleted_after_listing(case: &Case, fuse: &Fuse) -> Result<()> {
    fuse.script(|call, tree| {
        if call.op == Op::Lookup && call.path.starts_with(b"dir/") && tree.exists("dir/one") {
            tree.remove("dir/one");
            tree.remove("dir/two");
        }
        Ok(())
    });
    case.scan()?.expect(["removed dir/one", "removed dir/two", "removed dir/two/three"])
}

fn added_after_listing(case: &Case, fuse: &Fuse) -> Result<()> {
    fuse.script(|call, tree| {
        if call.op == Op::Lookup && call.path.starts_with(b"dir/") && !tree.exists("dir/new") {
            tree.file("dir/new", "added");
        }
        Ok(())
    });
    case.scan()?.expect_within(&["added dir/new"])?;
    fuse.behave();
    case.scan()?.expect(["added dir/new"])
}

fn untold(case: &Case, fuse: &Fuse) -> Result<()> {
    // A store through a mapping, or one below the file system: size and times stay.
    fuse.change(|tree| tree.store("log", with(LARGE / 2)));
    case.scan()?.expect(["changed log content"])?;
    fuse.change(|tree| tree.store("log", sealed()));
    let changed = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&changed);
    fuse.script(move |call, tree| {
        if (call.op, call.path) == (Op::Read, b"log") && call.offset > 0 && !note.swap(true, Ordering::Relaxed) {
            tree.store("log", with(LARGE - 1));
        }
        Ok(())
    });
    case.scan()?.expect(["changed log content"])?;
    ensure!(changed.load(Ordering::Relaxed), "it was read at once");
    Ok(())
}

/// As many scans as meet a good part of the moments.
const SCANS: usize = 40;

fn never_clean() -> Result<()> {
    const SIZE: usize = 400_000;
    let case = Case::new()?;
    case.tree.file("log", vec![1; SIZE])?.file("steady", "sealed")?;
    case.seal()?;
    let path = case.tree.path("log");
    let beside = case.sandbox.path("beside");
    let mut random = Random::new(1);
    let other = |random: &mut Random| {
        let mut content = vec![1; SIZE];
        content[usize::try_from(random.below(SIZE as u64)).expect("below a usize")] = 2;
        content
    };
    // Never the sealed content, not for a moment: what is written over it is other content of the same size.
    put(&beside, &path, &other(&mut random))?;
    during(
        || {
            match random.below(6) {
                0 => put(&beside, &path, &other(&mut random))?,
                1 => fs::remove_file(&path)?,
                2 => File::options().write(true).open(&path)?.set_len(SIZE as u64 / 2)?,
                3 => File::options().write(true).open(&path)?.set_len(SIZE as u64 + 1)?,
                4 => put(&beside, &path, &vec![1; SIZE + 10])?,
                _ => fs::write(&path, "")?,
            }
            put(&beside, &path, &other(&mut random))
        },
        || {
            for _ in 0..SCANS {
                let told = case.scan()?;
                told.expect_within(&["changed log content", "removed log", GAP])?;
                ensure!(!told.is_clean(), "clean, and it never was");
            }
            Ok(())
        },
    )
}

/// A file in place of another, in one step.
fn put(beside: &Path, path: &Path, content: &[u8]) -> Result<()> {
    fs::write(beside, content)?;
    Ok(fs::rename(beside, path)?)
}

fn rewritten() -> Result<()> {
    let case = Case::new()?;
    let content = vec![7; 300_000];
    case.tree.file("log", &content)?.file("steady", "sealed")?;
    case.seal()?;
    let (path, beside) = (case.tree.path("log"), case.sandbox.path("beside"));
    during(
        || {
            // Over it, as an editor does; and into it, as a copy does that changes nothing.
            put(&beside, &path, &content)?;
            std::os::unix::fs::FileExt::write_all_at(&File::options().write(true).open(&path)?, &content, 0)?;
            Ok(())
        },
        || (0..SCANS).try_for_each(|_| case.scan()?.expect_within(&[GAP])),
    )?;
    case.scan()?.expect([""; 0])
}
