//! Several manifests over each other against a root: what is compared, and what may be there.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use driftlock_common::drift::Drift;
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

use super::{Options, Root, Scope, compare};
use crate::baseline::Baseline;
use crate::baseline::kit::{load, manifest};
use crate::pool::Pool;

/// What is wrong, each `change path`, and behind it the number of the part that sealed it.
fn scan(root: &Path, baseline: &Baseline, options: &Options, scope: &Scope) -> Vec<(TreePath, String)> {
    let found = Mutex::new(Vec::new());
    let pool = Pool::new(std::num::NonZeroUsize::new(2)).unwrap();
    let push = |drift: Drift| {
        let part = drift.expected().map_or(String::new(), |sealed| format!(" {}", sealed.part));
        let word = format!("{} {}{part}", drift.change(), drift.path.escaped());
        found.lock().unwrap().push((drift.path, word));
    };
    let outcome = compare(&Root::open(root).unwrap(), baseline, options, scope, &pool, &AtomicBool::new(false), &push);
    assert!(outcome.complete());
    let mut found = found.into_inner().unwrap();
    found.sort();
    found
}

/// A root with these files, the content of each its path, but for what stands behind an `=`.
fn root(files: &[&str]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for file in files {
        let (path, content) = file.split_once('=').unwrap_or((file, file));
        let path = temp.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    temp
}

#[test]
fn what_one_seals_is_compared_whatever_another_leaves_out() {
    type Part = (&'static [&'static str], &'static [&'static str]);
    let base: Part = (&["etc/hosts"], &["etc/", "etc/passwd"]);
    let configuration: Part = (&[], &["etc/", "etc/hosts"]);
    let run: Part = (&["run/**"], &["run/"]);
    let all_of_run: Part = (&["run"], &["bin"]);
    let conf: Part = (&[], &["run/", "run/app/", "run/app/conf"]);
    for (what, parts, local, files, expected) in [
        ("as sealed", &[base, configuration][..], None, &["etc/passwd", "etc/hosts"][..], &[][..]),
        ("sealed by the upper", &[base, configuration], None, &["etc/passwd", "etc/hosts=x"], &["changed etc/hosts 1"]),
        ("sealed by the lower", &[configuration, base], None, &["etc/passwd", "etc/hosts=x"], &["changed etc/hosts 0"]),
        ("gone", &[base, configuration], None, &["etc/passwd"], &["removed etc/hosts 1"]),
        ("of the base", &[base, configuration], None, &["etc/passwd=x", "etc/hosts"], &["changed etc/passwd 0"]),
        ("locally", &[base, configuration], Some("etc/hosts"), &["etc/passwd", "etc/hosts=x"], &[]),
        ("one alone leaves it out", &[base], None, &["etc/passwd", "etc/hosts=x"], &[]),
        ("sealed nowhere", &[base, configuration], None, &["etc/passwd", "etc/hosts", "etc/x"], &["added etc/x"]),
        ("left out below", &[run, conf], None, &["run/app/conf", "run/app/pid", "run/lock/a"], &[]),
        ("changed below", &[run, conf], None, &["run/app/conf=", "run/app/pid"], &["changed run/app/conf 1"]),
        (
            "the directory left out itself",
            &[all_of_run, conf],
            None,
            &["bin", "run/app/conf=x", "run/app/deep/pid", "run/lock"],
            &["changed run/app/conf 1"],
        ),
        ("another type on the way", &[run, conf], None, &["run/app"], &["changed run/app 1", "removed run/app/conf 1"]),
        (
            "the way is gone",
            &[all_of_run, conf],
            None,
            &["bin"],
            &["removed run 1", "removed run/app 1", "removed run/app/conf 1"],
        ),
        ("left out by the upper", &[conf, run], None, &["run/app/conf=x", "run/y"], &["changed run/app/conf 0"]),
    ] {
        let parts: Vec<_> = parts.iter().map(|(excludes, paths)| manifest(Profile::Content, excludes, paths)).collect();
        let baseline = load(&parts).unwrap();
        let root = root(files);
        let local_excludes = Excludes::new(local, []).unwrap();
        let options = Options { local_excludes, ..Options::default() };
        let all = scan(root.path(), &baseline, &options, &Scope::All);
        assert_eq!(all.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>(), expected, "{what}");
        // A look at a place finds what a look at everything finds there.
        let files = files.iter().map(|file| TreePath::new(file.split('=').next().unwrap()).unwrap());
        let tree = &baseline.manifest().tree;
        for path in tree.iter().map(|id| tree.path(id)).chain(files) {
            let there: Vec<_> = all.iter().filter(|(at, _)| at.is_within(&path)).cloned().collect();
            let scope = Scope::Subtree(path.clone());
            assert_eq!(scan(root.path(), &baseline, &options, &scope), there, "{what}: {}", path.escaped());
            let found = scan(root.path(), &baseline, &options, &Scope::Entry(path.clone()));
            assert!(found.iter().all(|one| there.contains(one)), "{what}: {}: {found:?}", path.escaped());
            let own = there.iter().any(|(at, _)| *at == path);
            assert_eq!(found.iter().any(|(at, _)| *at == path), own, "{what}: {}", path.escaped());
        }
    }
}
