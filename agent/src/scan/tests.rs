//! A root is sealed, disturbed and compared, through the public functions alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use driftlock_common::digest::Algorithm;
use driftlock_common::drift::{Attribute, Attributes, Change, Delta, Drift};
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

use super::{ObserveTerms, Options, Outcome, Root, Scope, compare, observe};
use crate::pool::Pool;

fn pool() -> Pool {
    Pool::new(std::num::NonZeroUsize::new(2)).unwrap()
}

fn seal(path: &Path, profile: Profile) -> Manifest {
    let terms = ObserveTerms { profile, content: Algorithm::Blake3, excludes: Excludes::none(), sha256: true };
    let observation = observe(&Root::open(path).unwrap(), &terms, &pool());
    assert_eq!(observation.gaps, []);
    Manifest { header: Header::new(profile, Algorithm::Blake3, Excludes::none()), tree: observation.tree }
}

fn scan(path: &Path, manifest: &Manifest, options: &Options, scope: &Scope) -> (Vec<Drift>, Outcome) {
    let found = Mutex::new(Vec::new());
    let root = Root::open(path).unwrap();
    let never = AtomicBool::new(false);
    let outcome = compare(&root, manifest, options, scope, &pool(), &never, &|drift| found.lock().unwrap().push(drift));
    let mut drifts = found.into_inner().unwrap();
    drifts.sort_by(|a, b| a.path.cmp(&b.path));
    (drifts, outcome)
}

fn words(drifts: &[Drift]) -> Vec<String> {
    drifts.iter().map(|drift| format!("{} {}", drift.change(), drift.path.escaped())).collect()
}

/// A tree with every kind of place that the scopes below disturb.
fn sample() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::create_dir_all(at("etc/deep/er")).unwrap();
    fs::create_dir_all(at("gone/below")).unwrap();
    for name in ["etc/conf", "etc/deep/er/file", "gone/below/file", "plain", "twisted"] {
        fs::write(at(name), name).unwrap();
    }
    symlink("etc/conf", at("link")).unwrap();
    temp
}

fn disturb(root: &Path) {
    fs::write(root.join("etc/conf"), "etc/CONF").unwrap();
    fs::set_permissions(root.join("plain"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("etc/shadow", root.join("link")).unwrap();
    fs::remove_file(root.join("twisted")).unwrap();
    fs::create_dir(root.join("twisted")).unwrap();
    fs::write(root.join("twisted/inside"), "").unwrap();
    fs::create_dir_all(root.join("new/below")).unwrap();
    fs::write(root.join("new/below/file"), "new").unwrap();
}

const DISTURBED: [&str; 11] = [
    "changed etc/conf",
    "removed gone",
    "removed gone/below",
    "removed gone/below/file",
    "changed link",
    "added new",
    "added new/below",
    "added new/below/file",
    "changed plain",
    "changed twisted",
    "added twisted/inside",
];

#[test]
fn what_was_sealed_scans_clean_and_every_disturbance_is_found() {
    let temp = sample();
    for profile in [Profile::Content, Profile::Portable, Profile::Full] {
        let manifest = seal(temp.path(), profile);
        assert_eq!(manifest, Manifest::decode(&manifest.encode()).unwrap());
        let (drifts, outcome) = scan(temp.path(), &manifest, &Options::default(), &Scope::All);
        assert_eq!(words(&drifts), [""; 0], "{profile:?}");
        assert!(outcome.complete() && !outcome.partial);
        assert_eq!((outcome.stats.entries, outcome.stats.files_hashed), (11, 5));
    }
    let manifest = seal(temp.path(), Profile::Portable);
    disturb(temp.path());
    let (drifts, outcome) = scan(temp.path(), &manifest, &Options::default(), &Scope::All);
    assert_eq!(words(&drifts), DISTURBED);
    assert!(outcome.complete());
}

#[test]
fn a_scope_finds_what_a_scan_of_everything_finds_there() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Portable);
    disturb(temp.path());
    let path = |text: &str| TreePath::new(text).unwrap();
    let (all, _) = scan(temp.path(), &manifest, &Options::default(), &Scope::All);
    for at in ["etc", "etc/conf", "etc/deep", "gone", "gone/below", "link", "new", "new/below", "twisted", "no/where"] {
        let (drifts, _) = scan(temp.path(), &manifest, &Options::default(), &Scope::Subtree(path(at)));
        let expected: Vec<Drift> = all.iter().filter(|drift| drift.path.is_within(&path(at))).cloned().collect();
        assert_eq!(drifts, expected, "{at}");
    }
    for (at, expected) in [
        // A directory that is as sealed is only itself.
        ("etc", &[][..]),
        ("etc/conf", &["changed etc/conf"]),
        ("plain", &["changed plain"]),
        // What comes or goes brings all below it.
        ("gone", &["removed gone", "removed gone/below", "removed gone/below/file"]),
        ("new", &["added new", "added new/below", "added new/below/file"]),
        ("twisted", &["changed twisted", "added twisted/inside"]),
        ("twisted/inside", &["added twisted/inside"]),
        ("link/below", &[]),
        ("", &[]),
    ] {
        let (drifts, _) = scan(temp.path(), &manifest, &Options::default(), &Scope::Entry(path(at)));
        assert_eq!(words(&drifts), expected, "{at}");
    }
}

#[test]
fn local_excludes_act_on_both_sides() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Portable);
    disturb(temp.path());
    let local_excludes = Excludes::new(["gone/**", "new", "**/conf", "twisted/*"], []).unwrap();
    let options = Options { local_excludes, ..Options::default() };
    let (drifts, outcome) = scan(temp.path(), &manifest, &options, &Scope::All);
    assert_eq!(words(&drifts), ["removed gone", "changed link", "changed plain", "changed twisted"]);
    assert!(outcome.partial && outcome.complete());
}

#[test]
fn less_than_was_sealed_can_be_compared() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Full);
    disturb(temp.path());
    let options = Options { profile: Some(Profile::Content), ..Options::default() };
    let (drifts, outcome) = scan(temp.path(), &manifest, &options, &Scope::All);
    let expected: Vec<&str> = DISTURBED.into_iter().filter(|word| *word != "changed plain").collect();
    assert_eq!(words(&drifts), expected);
    assert!(outcome.partial);
}

#[test]
fn only_what_is_wished_for_is_compared_and_read() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Full);
    let (all, outcome) = scan(temp.path(), &manifest, &Options::default(), &Scope::All);
    assert!(all.is_empty() && outcome.stats.files_hashed > 0 && !outcome.partial);
    disturb(temp.path());
    let (all, _) = scan(temp.path(), &manifest, &Options::default(), &Scope::All);
    for wanted in Attribute::ALL {
        let options = Options { only: Some(Attributes::of(wanted)), ..Options::default() };
        let (drifts, outcome) = scan(temp.path(), &manifest, &options, &Scope::All);
        let kept = |drift: &&Drift| match &drift.delta {
            Delta::Changed { attributes, .. } => attributes.contains(wanted) || attributes.contains(Attribute::Type),
            Delta::Added { .. } | Delta::Removed { .. } | Delta::Unverifiable { .. } => true,
        };
        let expected: Vec<Drift> = all.iter().filter(kept).cloned().collect();
        assert_eq!(words(&drifts), words(&expected), "{wanted:?}");
        assert!(outcome.partial && outcome.complete());
        assert_eq!(outcome.stats.files_hashed > 0, wanted == Attribute::Content, "{wanted:?}");
    }
}

#[test]
fn a_lost_or_replaced_root_is_one_gap_and_nothing_is_removed() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Portable);
    let root = Root::open(temp.path()).unwrap();
    let lost = |when: &str| {
        let found = Mutex::new(Vec::new());
        let never = AtomicBool::new(false);
        let outcome = compare(&root, &manifest, &Options::default(), &Scope::All, &pool(), &never, &|drift| {
            found.lock().unwrap().push(drift);
        });
        assert!(outcome.root_lost && !outcome.complete(), "{when}");
        assert_eq!(words(&found.into_inner().unwrap()), ["unverifiable "], "{when}");
    };
    let aside = temp.path().with_extension("aside");
    fs::rename(temp.path(), &aside).unwrap();
    lost("gone");
    fs::create_dir(temp.path()).unwrap();
    lost("replaced");
    fs::remove_dir_all(aside).unwrap();
}

#[test]
fn a_root_lost_during_the_scan_removes_nothing() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Portable);
    fs::write(temp.path().join("etc/conf"), "other").unwrap();
    let root = Root::open(temp.path()).unwrap();
    let aside = temp.path().with_extension("during");
    let found = Mutex::new(Vec::new());
    let never = AtomicBool::new(false);
    fs::remove_dir_all(temp.path().join("gone")).unwrap();
    let outcome = compare(&root, &manifest, &Options::default(), &Scope::All, &pool(), &never, &|drift| {
        // The first drift comes while the walk is under way.
        let _second_time = fs::rename(temp.path(), &aside);
        found.lock().unwrap().push(drift);
    });
    assert!(outcome.root_lost);
    let drifts = found.into_inner().unwrap();
    assert!(drifts.iter().all(|drift| drift.change() != Change::Removed), "{drifts:?}");
    assert!(drifts.iter().any(|drift| drift.path.is_root()));
    fs::rename(&aside, temp.path()).unwrap();
}

#[test]
fn an_interrupted_scan_is_never_complete() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Portable);
    let root = Root::open(temp.path()).unwrap();
    let now = AtomicBool::new(true);
    let outcome = compare(&root, &manifest, &Options::default(), &Scope::All, &pool(), &now, &|drift| {
        panic!("{drift:?}");
    });
    assert!(outcome.interrupted && !outcome.complete());
    // Everything but the root, whose own attributes were looked at.
    assert_eq!(outcome.unreached, manifest.tree.len() as u64);
}

#[test]
fn the_agents_own_state_is_left_out_and_shown() {
    use std::os::unix::fs::MetadataExt as _;
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Content);
    fs::create_dir_all(temp.path().join("etc/state/spool")).unwrap();
    let metadata = temp.path().join("etc/state").metadata().unwrap();
    let options = Options { own_state: Some((metadata.dev(), metadata.ino())), ..Options::default() };
    let (drifts, outcome) = scan(temp.path(), &manifest, &options, &Scope::All);
    assert_eq!(words(&drifts), [""; 0]);
    assert_eq!(outcome.own_state, Some(TreePath::new("etc/state").unwrap()));
    assert!(outcome.partial);
}

#[test]
fn large_directories_are_compared_name_by_name() {
    let temp = tempfile::tempdir().unwrap();
    for i in 0..1000 {
        fs::write(temp.path().join(format!("file-{i}")), [0; 10]).unwrap();
        if i % 10 == 0 {
            fs::create_dir(temp.path().join(format!("directory-{i}"))).unwrap();
            fs::write(temp.path().join(format!("directory-{i}/file")), "").unwrap();
        }
    }
    let manifest = seal(temp.path(), Profile::Portable);
    assert_eq!(manifest.tree.len(), 1200);
    fs::remove_file(temp.path().join("file-7")).unwrap();
    fs::write(temp.path().join("file-500"), [1; 10]).unwrap();
    fs::write(temp.path().join("directory-990/new"), "").unwrap();
    let (drifts, outcome) = scan(temp.path(), &manifest, &Options::default(), &Scope::All);
    assert_eq!(words(&drifts), ["added directory-990/new", "changed file-500", "removed file-7"]);
    assert_eq!(outcome.stats.entries, 1200);
}

#[test]
fn more_than_the_limit_added_below_one_directory_are_one_drift() {
    let temp = sample();
    let manifest = seal(temp.path(), Profile::Content);
    fs::create_dir(temp.path().join("flood")).unwrap();
    (0..30).for_each(|i| fs::write(temp.path().join(format!("flood/{i}")), "").unwrap());
    (0..30).for_each(|i| fs::write(temp.path().join(format!("etc/deep/{i}")), "").unwrap());
    fs::write(temp.path().join("etc/one"), "").unwrap();
    let options = Options { collapse: Some(20), ..Options::default() };
    let (drifts, _) = scan(temp.path(), &manifest, &options, &Scope::All);
    assert_eq!(words(&drifts), ["added etc/deep", "added etc/one", "added flood"]);
}

#[test]
fn a_directory_that_stands_for_what_was_added_below_it_counts_if_it_was_added_itself() {
    use driftlock_common::finding::ManifestView;

    use super::report;
    use crate::baseline::{Accept, Baseline};

    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("sealed")).unwrap();
    // Of a directory nothing but its type is specified under this profile, whether it was sealed or not.
    let manifest = seal(temp.path(), Profile::Content);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), manifest.encode()).unwrap();
    let view: ManifestView = Baseline::load(file.path(), &Accept::Unsigned).unwrap().view();
    fs::create_dir(temp.path().join("new")).unwrap();
    for n in 0..5 {
        fs::write(temp.path().join(format!("sealed/{n}")), "").unwrap();
        fs::write(temp.path().join(format!("new/{n}")), "").unwrap();
    }
    let root = Root::open(temp.path()).unwrap();
    let never = AtomicBool::new(false);
    for (collapse, shown) in [(None, 11), (Some(3), 2), (Some(11), 11)] {
        let options = Options { collapse, ..Options::default() };
        let report = report(&root, &manifest, &view, &options, &pool(), &never, &|_| ());
        assert_eq!((report.findings.len(), report.summary.added), (shown, 11), "{collapse:?}");
    }
    // What is not held is counted all the same, and the tree is not named.
    for (held, named) in [(None, true), (Some(11), true), (Some(10), false)] {
        let options = Options { held, ..Options::default() };
        let report = report(&root, &manifest, &view, &options, &pool(), &never, &|_| ());
        assert_eq!((report.summary.added, report.summary.observed_tree.is_some()), (11, named), "{held:?}");
        assert_eq!(report.findings.is_empty(), !named);
    }
}
