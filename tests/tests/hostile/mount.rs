//! Mounts inside a tree and over it: what they hide is neither verified nor removed, and nothing behind them is looked at.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use driftlock_tests::fuse::{Errno, Fuse, Op, Tree};
use driftlock_tests::namespace;
use driftlock_tests::require::{self, Requirement};
use driftlock_tests::told::Told;
use libtest_mimic::Trial;

use super::case::{Case, during, in_fuse};

pub(crate) fn trials() -> Vec<Trial> {
    let in_namespace = |name: &str, test: fn(&Case) -> Result<()>| {
        require::trial_with(format!("mount::{name}"), &[Requirement::MountNamespace], move || {
            let case = Case::new()?;
            sample(&case)?;
            namespace::within(|| test(&case))
        })
    };
    vec![
        in_namespace("what_is_mounted_inside_is_a_gap_of_all_that_it_hides", inside),
        in_namespace("a_bind_mount_of_the_same_file_system_is_a_mount_too", same_file_system),
        in_namespace("a_mount_at_an_added_name_is_told", added),
        in_namespace("a_mount_that_comes_and_goes_removes_and_adds_nothing", flicker),
        in_namespace("a_mount_over_the_whole_tree_is_another_tree", over_everything),
        require::trial(
            "mount::a_mount_over_the_tree_while_it_is_scanned_is_a_lost_root",
            &[Requirement::MountNamespace, Requirement::Fuse],
            over_everything_meanwhile,
        ),
        require::trial(
            "mount::nothing_behind_a_mount_is_asked_for_anything",
            &[Requirement::MountNamespace, Requirement::Fuse],
            behind,
        ),
    ]
}

fn sample(case: &Case) -> Result<()> {
    for path in ["dir/one", "dir/two/three", "file", "steady", "beside/steady"] {
        case.tree.file(path, "sealed")?;
    }
    case.tree.symlink("link", "file")?;
    case.seal()
}

fn inside(case: &Case) -> Result<()> {
    let at = |path: &str| case.tree.path(path);
    let other = case.sandbox.write("other", "other")?;
    namespace::tmpfs(&at("dir"))?;
    fs::write(at("dir/inside"), "another file system")?;
    namespace::bind(&other, &at("file"))?;
    let gaps = ["unverifiable dir mount 4", "unverifiable file mount 1"];
    case.scan()?.expect(gaps)?;
    // What is beside them is compared as ever.
    fs::write(at("steady"), "other!")?;
    case.scan()?.expect([&gaps[..], &["changed steady content"]].concat())?;
    fs::write(at("steady"), "sealed")?;
    namespace::unmount(&at("dir"))?;
    namespace::unmount(&at("file"))?;
    case.scan()?.expect([""; 0])
}

fn same_file_system(case: &Case) -> Result<()> {
    let at = |path: &str| case.tree.path(path);
    let copy = case.sandbox.tree("copy")?;
    copy.file("one", "sealed")?.file("two/three", "sealed")?;
    // With the same content as sealed, and of the same device: still it is not what was sealed there.
    namespace::bind(copy.root(), &at("dir"))?;
    case.scan()?.expect(["unverifiable dir mount 4"])?;
    namespace::unmount(&at("dir"))?;
    namespace::bind(&at("dir"), &at("dir"))?;
    namespace::bind(&at("file"), &at("file"))?;
    namespace::bind(&at("beside/steady"), &at("steady"))?;
    case.scan()?.expect(["unverifiable dir mount 4", "unverifiable file mount 1", "unverifiable steady mount 1"])?;
    for path in ["dir", "file", "steady"] {
        namespace::unmount(&at(path))?;
    }
    // One within another, and the root within itself.
    namespace::bind(&at("beside"), &at("dir/two"))?;
    namespace::bind(case.root(), &at("beside"))?;
    case.scan()?.expect(["unverifiable dir/two mount 2", "unverifiable beside mount 2"])
}

fn added(case: &Case) -> Result<()> {
    case.tree.dir("new/dir")?.file("new-file", "")?.file("new-other", "")?;
    namespace::tmpfs(&case.tree.path("new/dir"))?;
    namespace::bind(&case.tree.path("steady"), &case.tree.path("new-file"))?;
    case.scan()?.expect([
        "added new",
        "added new/dir ? content mount",
        "added new-file ? content mount",
        "added new-other",
    ])
}

fn flicker(case: &Case) -> Result<()> {
    const SCANS: usize = 40;
    let at = case.tree.path("dir");
    let copy = case.sandbox.tree("copy")?;
    copy.file("added", "other")?.file("one", "other")?;
    during(
        || {
            namespace::bind(copy.root(), &at)?;
            namespace::unmount(&at)
        },
        || {
            for _ in 0..SCANS {
                for line in &case.scan()?.lines {
                    let words: Vec<&str> = line.split(' ').collect();
                    let is_true = matches!(
                        words.as_slice(),
                        ["unverifiable", "dir" | "dir/one" | "dir/two" | "dir/two/three", "mount" | "unstable", _]
                    );
                    ensure!(is_true, "not at any moment: {line}");
                }
            }
            Ok(())
        },
    )?;
    case.scan()?.expect([""; 0])
}

fn over_everything(case: &Case) -> Result<()> {
    namespace::tmpfs(case.root())?;
    fs::set_permissions(case.root(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let all = ["dir", "dir/one", "dir/two", "dir/two/three", "file", "steady", "beside", "beside/steady", "link"];
    let finished = case.finish()?;
    ensure!(finished.stderr.contains("is empty: is it the right directory"), "{finished:?}");
    Told::of(&finished)?.expect(all.map(|path| format!("removed {path}")))?;
    namespace::unmount(case.root())?;
    namespace::bind(&case.tree.path("beside"), case.root())?;
    let removed = ["dir", "dir/one", "dir/two", "dir/two/three", "file", "beside", "beside/steady", "link"];
    case.scan()?.expect(removed.map(|path| format!("removed {path}")))
}

fn fill(tree: &mut Tree) {
    tree.file("dir/one", "sealed").file("dir/two/three", "sealed").file("file", "sealed");
}

fn over_everything_meanwhile() -> Result<()> {
    in_fuse(fill, |case, fuse| {
        fuse.change(|tree| tree.remove("dir/two"));
        // Over the directory that the root is in: mounting there asks this file system nothing.
        let above = case.root().parent().map(Path::to_owned).unwrap_or_default();
        let cover = above.clone();
        fuse.script(move |call, _| match (call.op, call.path, call.nth) {
            (Op::ReadDirectory, b"dir", 1) => namespace::tmpfs(&cover).map_err(|_| Errno::EIO),
            _ => Ok(()),
        });
        let finished = case.finish();
        namespace::unmount(&above)?;
        let finished = finished?;
        ensure!(finished.stderr.contains("was removed or replaced while it was scanned"), "{finished:?}");
        Told::of(&finished)?.expect(["unverifiable . root_lost 6"])?;
        fuse.behave();
        case.scan()?.expect(["removed dir/two", "removed dir/two/three"])
    })
}

fn behind() -> Result<()> {
    let case = Case::new()?;
    sample(&case)?;
    namespace::within(|| {
        let mut tree = Tree::new();
        fill(&mut tree);
        let fuse = Fuse::mount(&case.tree.path("dir"), tree)?;
        // It would hold up whoever looks inside.
        fuse.script(|_, _| Ok(()));
        case.scan()?.expect(["unverifiable dir mount 4"])?;
        for op in [Op::OpenDirectory, Op::ReadDirectory, Op::Lookup, Op::Xattr] {
            let asked = fuse.asked(op, "") + fuse.asked(op, "one") + fuse.asked(op, "file");
            ensure!(asked == 0, "{op:?} was asked of what is mounted");
        }
        Ok(())
    })
}
