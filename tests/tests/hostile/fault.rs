//! A file system that fails, and one that lies: what it hides is a gap, and what it says twice or wrongly is no finding.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use driftlock_tests::fuse::{Errno, FileType, Fuse, Kind, Op, Tree};
use driftlock_tests::require::{self, Requirement};
use libtest_mimic::Trial;

use super::case::{Case, in_fuse};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (what, op, path, expected) in FAILURES {
        trials.push(require::trial_with(format!("fault::eio_at_{what}_is_a_gap"), NEEDS, move || {
            in_fuse(sample, |case, fuse| {
                fuse.fail(op, path, Errno::EIO);
                case.scan()?.expect([expected])?;
                ensure!(fuse.asked(op, path) > 0, "it did not come to that");
                fuse.behave();
                case.scan()?.expect([""; 0])
            })
        }));
    }
    let one = |name: &str, test: fn(&Case, &Fuse) -> Result<()>| {
        require::trial_with(format!("fault::{name}"), NEEDS, move || in_fuse(sample, test))
    };
    trials.extend([
        one("eio_in_the_middle_of_a_file_is_a_gap", middle_of_a_file),
        one("eio_in_the_middle_of_a_directory_is_a_gap_and_removes_nothing", middle_of_a_directory),
        one("eio_at_the_root_is_an_error_or_a_gap", root),
        one("what_differs_beside_a_failure_is_told_with_it", beside),
        one("what_is_added_and_fails_is_told", added),
        one("an_error_that_a_file_system_must_not_give_is_a_gap", odd_errors),
        one("everything_failing_is_never_clean", everything),
        one("lies_about_types_in_a_listing_change_nothing", lying_types),
        one("a_name_listed_twice_is_one_entry", twice),
        one("a_listing_that_goes_on_and_on_ends", on_and_on),
        one("a_listed_name_that_leads_elsewhere_is_a_gap", slash),
        one("an_empty_name_in_a_listing_is_a_gap", empty),
        one("a_name_that_is_listed_and_not_there_is_nothing", ghost),
        one("a_name_that_is_there_and_not_listed_is_not_removed", unlisted),
        one("an_inode_number_that_changes_at_each_look_is_never_clean", changing_numbers),
        one("one_inode_number_for_everything_hides_nothing", one_number),
        one("a_size_that_is_not_that_of_the_content_is_never_clean", sizes),
        one("short_reads_are_read_on", short_reads),
    ]);
    trials
}

const NEEDS: &[Requirement] = &[Requirement::MountNamespace, Requirement::Fuse];

/// Larger than any buffer that a file is read into at once.
const LARGE: usize = 3_000_000;

/// What fails, and all that is to be found of it.
const FAILURES: [(&str, Op, &str, &str); 12] = [
    ("looking_a_file_up", Op::Lookup, "file", "unverifiable file io 1"),
    ("looking_a_directory_up", Op::Lookup, "dir", "unverifiable dir io 4"),
    ("looking_a_symlink_up", Op::Lookup, "link", "unverifiable link io 1"),
    ("looking_up_deep_inside", Op::Lookup, "dir/two/three", "unverifiable dir/two/three io 1"),
    ("the_attributes_of_a_file", Op::Attributes, "file", "unverifiable file io 1"),
    ("the_attributes_of_a_directory", Op::Attributes, "dir", "unverifiable dir io 4"),
    ("opening_a_file", Op::Open, "file", "unverifiable file io 1"),
    ("opening_a_directory", Op::OpenDirectory, "dir", "unverifiable dir io 4"),
    ("reading_a_file", Op::Read, "file", "unverifiable file io 1"),
    ("reading_a_directory", Op::ReadDirectory, "dir", "unverifiable dir io 4"),
    ("reading_a_symlink", Op::ReadLink, "link", "unverifiable link io 1"),
    ("reading_an_extended_attribute", Op::Xattr, "file", "unverifiable file io 1"),
];

fn sample(tree: &mut Tree) {
    tree.file("file", "sealed").file("large", vec![1; LARGE]).symlink("link", "file");
    tree.file("dir/one", "sealed").file("dir/two/three", "sealed").file("steady", "sealed");
}

/// Fails where `fails` says so.
fn fail_if(fuse: &Fuse, fails: impl Fn(Op, &[u8], u64) -> bool + Send + 'static) {
    fuse.script(move |call, _| if fails(call.op, call.path, call.offset) { Err(Errno::EIO) } else { Ok(()) });
}

fn middle_of_a_file(case: &Case, fuse: &Fuse) -> Result<()> {
    for cached in [false, true] {
        fuse.change(|tree| tree.at("large").cached = cached);
        fail_if(fuse, |op, path, offset| (op, path) == (Op::Read, b"large") && offset >= LARGE as u64 / 2);
        case.scan()?.expect(["unverifiable large io 1"])?;
        ensure!(fuse.asked(Op::Read, "large") > 1 || cached, "read at once");
    }
    Ok(())
}

fn middle_of_a_directory(case: &Case, fuse: &Fuse) -> Result<()> {
    // More than one call can list; a file more, so that something is found before it fails.
    fuse.change(|tree| {
        for number in 0..3000 {
            tree.file(&format!("dir/{number:04}"), "added");
        }
    });
    fail_if(fuse, |op, path, offset| (op, path) == (Op::ReadDirectory, b"dir") && offset > 100);
    case.scan()?.expect(["unverifiable dir io 4"])?;
    ensure!(fuse.asked(Op::ReadDirectory, "dir") > 1, "listed at once");
    Ok(())
}

fn root(case: &Case, fuse: &Fuse) -> Result<()> {
    for op in [Op::Attributes, Op::OpenDirectory, Op::ReadDirectory] {
        fuse.fail(op, "", Errno::EIO);
        let finished = case.finish()?;
        match finished.code {
            // What is wrong with the root before the scan begins is said at once.
            Some(74) => ensure!(finished.stdout.is_empty() && finished.stderr.lines().count() == 1, "{finished:?}"),
            _ => driftlock_tests::told::Told::of(&finished)?.expect(["unverifiable . io 9"])?,
        }
    }
    Ok(())
}

fn beside(case: &Case, fuse: &Fuse) -> Result<()> {
    fuse.change(|tree| {
        tree.chmod("file", 0o600);
        tree.chmod("large", 0o600);
        tree.chmod("dir", 0o700);
    });
    fail_if(fuse, |op, path, _| {
        matches!((op, path), (Op::Read, b"file") | (Op::Open, b"large") | (Op::ReadDirectory, b"dir"))
    });
    case.scan()?.expect([
        "changed file mode ? content io",
        "changed large mode ? content,xattrs io",
        "changed dir mode ? content io",
        "unverifiable dir/one io 1",
        "unverifiable dir/two io 2",
    ])?;
    fuse.behave();
    fuse.change(|tree| {
        tree.remove("file");
        tree.file("file/now/a", "directory");
        tree.remove("dir");
        tree.file("dir", "now a file");
    });
    fail_if(fuse, |op, path, _| matches!((op, path), (Op::Read, b"dir") | (Op::OpenDirectory, b"file")));
    case.scan()?.expect([
        "changed file type ? content io",
        "changed large mode",
        "changed dir type ? content io",
        "removed dir/one",
        "removed dir/two",
        "removed dir/two/three",
    ])
}

fn added(case: &Case, fuse: &Fuse) -> Result<()> {
    fuse.change(|tree| {
        tree.file("new-file", "x").file("new-closed", "x").file("new-dir/inside", "x").symlink("new-link", "x");
        tree.file("new-xattr", "x");
    });
    fail_if(fuse, |op, path, _| {
        matches!(
            (op, path),
            (Op::Read, b"new-file")
                | (Op::Open, b"new-closed")
                | (Op::ReadDirectory, b"new-dir")
                | (Op::ReadLink, b"new-link")
                | (Op::Xattr, b"new-xattr")
        )
    });
    case.scan()?.expect([
        "added new-file ? content io",
        "added new-closed ? content,xattrs io",
        "added new-dir ? content io",
        "unverifiable new-link io 0",
        "added new-xattr ? xattrs io",
    ])
}

/// Errors that mean something to a program, at a place where they mean nothing.
fn odd_errors(case: &Case, fuse: &Fuse) -> Result<()> {
    for error in [
        Errno::EAGAIN,
        Errno::ENOENT,
        Errno::ENXIO,
        Errno::ELOOP,
        Errno::EOPNOTSUPP,
        Errno::ENOSYS,
        Errno::EINVAL,
        Errno::EPERM,
        Errno::ENOMEM,
        Errno::ENODATA,
        Errno::EISDIR,
        Errno::from_i32(133),
        Errno::EINTR,
    ] {
        for (op, path, covers) in [(Op::Read, "file", 1), (Op::ReadDirectory, "dir", 4)] {
            fuse.fail(op, path, error);
            let told = case.scan()?;
            // Which of the reasons it is says little of an error that means nothing there.
            let gaps = ["io", "unstable", "denied", "resources"]
                .map(|reason| format!("unverifiable {path} {reason} {covers}"));
            let is_gap = told.lines.len() == 1 && told.lines.iter().all(|line| gaps.contains(line));
            ensure!(is_gap, "{error:?} at {op:?}: {:?}", told.lines);
        }
    }
    Ok(())
}

fn everything(case: &Case, fuse: &Fuse) -> Result<()> {
    for from in 0..60 {
        let mut asked = 0;
        fuse.script(move |_, _| {
            asked += 1;
            if asked > from { Err(Errno::EIO) } else { Ok(()) }
        });
        let finished = case.finish()?;
        let code = finished.code.unwrap_or(-1);
        ensure!(code == 74 || (code & 8 != 0 && code < 16), "after {from} answers: {finished:?}");
        if code < 16 {
            let told = driftlock_tests::told::Told::of(&finished)?;
            // A root that cannot be found again at the end is lost.
            let is_gap = |line: &String| {
                line.starts_with("unverifiable ") && (line.contains(" io ") || line == "unverifiable . root_lost 9")
            };
            ensure!(told.lines.iter().all(is_gap), "after {from} answers: {:?}", told.lines);
        }
    }
    Ok(())
}

/// Lists `dir` as `names` say.
fn list(fuse: &Fuse, names: &[(&str, FileType)]) {
    let list = names.iter().map(|(name, file_type)| (name.as_bytes().to_owned(), *file_type)).collect();
    fuse.change(|tree| {
        let Kind::Directory { listed, .. } = &mut tree.at("dir").kind else { unreachable!("a directory") };
        *listed = Some(list);
    });
}

fn repeat(fuse: &Fuse, count: u64) {
    fuse.change(|tree| {
        let Kind::Directory { times, .. } = &mut tree.at("dir").kind else { unreachable!("a directory") };
        *times = count;
    });
}

fn lying_types(case: &Case, fuse: &Fuse) -> Result<()> {
    use FileType::{BlockDevice, CharDevice, Directory, NamedPipe, RegularFile, Socket, Symlink};
    for [one, two, new] in [
        [Directory, RegularFile, Symlink],
        [Symlink, Symlink, Directory],
        [NamedPipe, Socket, RegularFile],
        [CharDevice, BlockDevice, Socket],
    ] {
        list(fuse, &[("one", one), ("two", two)]);
        case.scan()?.expect([""; 0])?;
        list(fuse, &[("one", one), ("two", two), ("new", new)]);
        fuse.change(|tree| {
            tree.write("dir/one", "other!");
            tree.write("dir/two/three", "other!");
            tree.file("dir/new", "added");
        });
        case.scan()?.expect(["changed dir/one content", "changed dir/two/three content", "added dir/new"])?;
        fuse.change(|tree| {
            tree.write("dir/one", "sealed");
            tree.write("dir/two/three", "sealed");
            tree.remove("dir/new");
        });
    }
    Ok(())
}

fn twice(case: &Case, fuse: &Fuse) -> Result<()> {
    let own = [("one", FileType::RegularFile), ("two", FileType::Directory)];
    list(fuse, &[own[0], own[1], own[0], own[1], own[1]]);
    case.scan()?.expect([""; 0])?;
    fuse.change(|tree| {
        tree.write("dir/one", "other!");
        tree.file("dir/new", "added");
    });
    let new = ("new", FileType::RegularFile);
    list(fuse, &[new, own[0], new, own[1], own[0], new]);
    case.scan()?.expect(["changed dir/one content", "added dir/new"])
}

fn on_and_on(case: &Case, fuse: &Fuse) -> Result<()> {
    // Not quite for ever: a scan that believes all of it is to end too, with findings that are wrong.
    repeat(fuse, 50_000);
    case.scan()?.expect_within(&["unverifiable dir io 4", "unverifiable dir unstable 4"])?;
    ensure!(fuse.change(|tree| tree.at("dir").nlink) == 1);
    Ok(())
}

fn slash(case: &Case, fuse: &Fuse) -> Result<()> {
    for name in ["../steady", "/etc/passwd", "two/three", "/"] {
        list(fuse, &[("one", FileType::RegularFile), (name, FileType::RegularFile), ("two", FileType::Directory)]);
        case.scan()?.expect(["unverifiable dir io 4"])?;
    }
    Ok(())
}

fn empty(case: &Case, fuse: &Fuse) -> Result<()> {
    list(fuse, &[("one", FileType::RegularFile), ("", FileType::RegularFile), ("two", FileType::Directory)]);
    case.scan()?.expect(["unverifiable dir io 4"])
}

fn ghost(case: &Case, fuse: &Fuse) -> Result<()> {
    let ghost = ("ghost", FileType::RegularFile);
    let dots = [(".", FileType::Directory), ("..", FileType::Directory), (".", FileType::RegularFile)];
    list(fuse, &[dots[0], dots[1], ("one", FileType::RegularFile), ghost, ("two", FileType::Directory), dots[2]]);
    case.scan()?.expect([""; 0])?;
    fuse.change(|tree| tree.remove("dir/one"));
    case.scan()?.expect(["removed dir/one"])
}

fn unlisted(case: &Case, fuse: &Fuse) -> Result<()> {
    list(fuse, &[]);
    case.scan()?.expect([""; 0])?;
    fuse.change(|tree| tree.write("dir/two/three", "other!"));
    case.scan()?.expect(["changed dir/two/three content"])
}

fn changing_numbers(case: &Case, fuse: &Fuse) -> Result<()> {
    for (path, expected) in [("file", "unverifiable file unstable 1"), ("dir", "unverifiable dir unstable 4")] {
        let mut next = 1_000_000;
        fuse.script(move |call, tree| {
            if (call.op, call.path) == (Op::Attributes, path.as_bytes()) {
                next += 1;
                tree.at(path).claimed_number = Some(next);
            }
            Ok(())
        });
        case.scan()?.expect_within(&[expected])?;
        // A directory need not be looked at twice; a file that is read is.
        let told = case.scan()?;
        ensure!(path == "dir" || !told.is_clean(), "clean");
        fuse.change(|tree| tree.at(path).claimed_number = None);
    }
    Ok(())
}

fn one_number(case: &Case, fuse: &Fuse) -> Result<()> {
    let all = ["file", "large", "link", "dir", "dir/one", "dir/two", "dir/two/three", "steady", ""];
    fuse.change(|tree| all.iter().for_each(|path| tree.at(path).claimed_number = Some(1)));
    case.scan()?.expect([""; 0])?;
    fuse.change(|tree| {
        // The same size and times as before, and as others: nothing but the path tells them apart.
        tree.store("dir/two/three", "other!");
        tree.file("dir/two/new", "sealed").at("dir/two/new").claimed_number = Some(1);
        tree.remove("dir/one");
    });
    case.scan()?.expect(["changed dir/two/three content", "added dir/two/new", "removed dir/one"])
}

fn sizes(case: &Case, fuse: &Fuse) -> Result<()> {
    let content = "sealed and more";
    for claimed in [6, 0, 1, content.len() as u64 - 1, content.len() as u64 + 1, 1 << 20] {
        fuse.change(|tree| {
            tree.store("file", content);
            tree.at("file").claimed_size = Some(claimed);
        });
        let told = case.scan()?;
        let allowed =
            ["changed file content", "unverifiable file unstable 1", "changed file content ? content unstable"];
        told.expect_within(&allowed)?;
        ensure!(!told.is_clean(), "clean, with a size of {claimed} and other content");
    }
    // The content as sealed, and a size that says otherwise.
    for claimed in [0, 5, 7, 1 << 20] {
        fuse.change(|tree| {
            tree.store("file", "sealed");
            tree.at("file").claimed_size = Some(claimed);
        });
        ensure!(!case.scan()?.is_clean(), "clean, with a size of {claimed}");
    }
    Ok(())
}

fn short_reads(case: &Case, fuse: &Fuse) -> Result<()> {
    let was_short = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&was_short);
    for most in [70_000, 4096, 100_003] {
        fuse.change(|tree| tree.at("large").most = Some(most));
        let noted = Arc::clone(&noted);
        fuse.script(move |call, _| {
            noted.fetch_or(call.offset != 0 && call.path == b"large", Ordering::Relaxed);
            Ok(())
        });
        case.scan()?.expect([""; 0])?;
        fuse.change(|tree| {
            let mut content = vec![1; LARGE];
            content[LARGE - 1] = 2;
            tree.store("large", content);
        });
        case.scan()?.expect(["changed large content"])?;
        fuse.change(|tree| tree.store("large", vec![1; LARGE]));
    }
    ensure!(was_short.load(Ordering::Relaxed), "no read was short");
    Ok(())
}
