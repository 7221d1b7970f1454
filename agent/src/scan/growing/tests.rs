//! Logs that grow, are rotated and are cut, each looked at before and after, as the agent and as a single scan do.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use proptest::prelude::*;

use super::super::{ObserveTerms, Options, Scope, compare, observe};
use super::*;
use crate::pool::Pool;

const LOG: &str = "log/app.log";
/// Under the same rule, and not sealed.
const NEW: &str = "log/new.log";
const SEALED: &str = "the application begins\n";

/// A root with a log, and what is remembered of it.
struct World {
    temp: tempfile::TempDir,
    pool: Pool,
    manifest: Manifest,
    policy: Arc<Policy>,
    growing: Arc<Growing>,
    /// Lines that were written, so that no two are the same.
    written: AtomicU32,
}

const IDENTITY: Identity = Identity::from_digest(Digest::from_bytes([1; 32]));
const LONG: Duration = Duration::from_hours(24);

impl World {
    fn new(algorithm: Algorithm, growing: Growing) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let pool = Pool::new(std::num::NonZeroUsize::new(1)).unwrap();
        fs::create_dir(temp.path().join("log")).unwrap();
        fs::write(temp.path().join(LOG), SEALED).unwrap();
        let terms =
            ObserveTerms { profile: Profile::Portable, content: algorithm, excludes: Excludes::none(), sha256: false };
        let tree = observe(&Root::open(temp.path()).unwrap(), &terms, &pool).tree;
        let manifest = Manifest { header: Header::new(Profile::Portable, algorithm, Excludes::none()), tree };
        let text = "version = 1\nname = 'p'\n[[rule]]\nid = 'logs'\nreason = 'x'\npath = 'log/{app,new}.log'\n\
                    allow = 'append'\nrotate = ['*.log.{1..3}', '*.log.{1..3}.gz', 'old/*.log-*']\nkeep = 3\n";
        let policy = Arc::new(Policy::parse(text.as_bytes()).unwrap());
        Self { temp, pool, manifest, policy, growing: Arc::new(growing), written: AtomicU32::new(0) }
    }

    /// As an agent has it that looked at a log of some lines.
    fn watched() -> Self {
        let world = Self::new(Algorithm::Blake3, Growing::of(IDENTITY, LONG));
        for log in [LOG, NEW] {
            world.append(log, &lines(0..1000));
        }
        assert_eq!(world.look(), ["changed log/app.log tolerated", "added log/new.log tolerated"]);
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn append(&self, log: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.at(log)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn append_lines(&self, count: u32) {
        let from = self.written.fetch_add(count, Ordering::Relaxed);
        self.append(LOG, &lines(from..from + count));
    }

    /// What is found and said of each path; ` ?` is what may be over in a moment.
    fn look(&self) -> Vec<String> {
        self.look_at(&Scope::All).0
    }

    fn look_at(&self, scope: &Scope) -> (Vec<String>, u64) {
        let options = Options {
            policy: Some(Arc::clone(&self.policy)),
            growing: Some(Arc::clone(&self.growing)),
            ..Options::default()
        };
        let (found, never) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
        let root = Root::open(self.temp.path()).unwrap();
        let outcome = compare(&root, &self.manifest, &options, scope, &self.pool, &never, &|drift| {
            let settled = if self.growing.is_settled(&drift.path) { "" } else { " ?" };
            let judged = options.judge().judged(drift);
            let said = judged.severity().map_or("tolerated", driftlock_common::policy::Severity::name);
            let line = format!("{} {} {said}{settled}", judged.drift.change(), judged.drift.path.escaped());
            found.lock().unwrap().insert(judged.drift.path, line);
        });
        let found = found.into_inner().unwrap();
        (found.into_values().filter(|line| !line.ends_with(" log/old medium")).collect(), outcome.stats.bytes_hashed)
    }

    /// As if it were a while later.
    fn settle(&self) {
        for entry in lock(&self.growing.entries).values() {
            if let Some(lost) = &mut lock(entry).lost {
                lost.since = lost.since.checked_sub(SETTLE).unwrap();
            }
        }
    }

    /// The agent ends and begins anew.
    fn restart(&mut self) {
        let file = self.temp.path().with_extension("state");
        self.growing.save(&file).unwrap();
        self.growing = Arc::new(Growing::load(&file, IDENTITY, LONG).unwrap());
        fs::remove_file(file).unwrap();
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|n| format!("request {n} was answered\n")).collect()
}

fn gzip(from: &Path, to: &Path) {
    let mut encoder = flate2::write::GzEncoder::new(File::create(to).unwrap(), flate2::Compression::fast());
    encoder.write_all(&fs::read(from).unwrap()).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(from).unwrap();
}

#[test]
fn only_what_was_written_since_is_read() {
    let mut world = World::watched();
    let scope = Scope::Entry(TreePath::new(LOG).unwrap());
    let tolerated = || vec!["changed log/app.log tolerated".to_owned()];
    assert_eq!(world.look_at(&scope), (tolerated(), 0));
    world.append(LOG, "one line more\n");
    assert_eq!(world.look_at(&scope), (tolerated(), 14));
    // The digest is that of all of it all the same.
    let all = fs::read(world.at(LOG)).unwrap();
    let known = lock(&lock(&world.growing.entries)[&TreePath::new(LOG).unwrap()]).known.clone().unwrap();
    assert_eq!((known.length, known.prefix), (all.len() as u64, Digest::blake3(&all)));
    // No hasher survives, so everything is read once.
    world.restart();
    world.append(LOG, "another\n");
    assert_eq!(world.look_at(&scope), (tolerated(), all.len() as u64 + 8));
    world.append(LOG, "another\n");
    assert_eq!(world.look_at(&scope), (tolerated(), 8));
}

/// What is done to a log that was looked at, and what is said of it then.
type Story = (&'static str, fn(&World), &'static str);

const FINE: &str = "changed log/app.log tolerated";
const CUT: &str = "changed log/app.log high";

const STORIES: &[Story] = &[
    ("it grew", |world| world.append(LOG, "more\n"), FINE),
    ("nothing happened", |_| {}, FINE),
    (
        "renamed, another in its place",
        |world| {
            fs::rename(world.at(LOG), world.at("log/app.log.1")).unwrap();
            world.append(LOG, "a new one\n");
        },
        FINE,
    ),
    (
        "renamed into a directory",
        |world| {
            fs::create_dir(world.at("log/old")).unwrap();
            fs::rename(world.at(LOG), world.at("log/old/app.log-20260101")).unwrap();
            world.append(LOG, "a new one\n");
        },
        FINE,
    ),
    (
        "copied and truncated, and longer than before by now",
        |world| {
            fs::copy(world.at(LOG), world.at("log/app.log.1")).unwrap();
            fs::write(world.at(LOG), lines(1000..3000)).unwrap();
        },
        FINE,
    ),
    (
        "packed",
        |world| {
            fs::rename(world.at(LOG), world.at("log/app.log.1")).unwrap();
            gzip(&world.at("log/app.log.1"), &world.at("log/app.log.1.gz"));
            world.append(LOG, "a new one\n");
        },
        FINE,
    ),
    (
        "truncated with what was written while it was copied",
        |world| {
            fs::copy(world.at(LOG), world.at("log/app.log.1")).unwrap();
            world.append(LOG, "written meanwhile, and read\n");
            assert_eq!(said(&world.look(), LOG), FINE);
            fs::write(world.at(LOG), "").unwrap();
        },
        FINE,
    ),
    (
        "truncated with more than was written while it was copied",
        |world| {
            fs::copy(world.at(LOG), world.at("log/app.log.1")).unwrap();
            for _ in 0..2 {
                world.append(LOG, "written meanwhile, and read\n");
                assert_eq!(said(&world.look(), LOG), FINE);
            }
            fs::write(world.at(LOG), "").unwrap();
        },
        CUT,
    ),
    (
        "cut where it lies to what it was a look before",
        |world| {
            let length = fs::metadata(world.at(LOG)).unwrap().len();
            world.append(LOG, "written last, and read\n");
            assert_eq!(said(&world.look(), LOG), FINE);
            OpenOptions::new().write(true).open(world.at(LOG)).unwrap().set_len(length).unwrap();
        },
        CUT,
    ),
    ("truncated", |world| fs::write(world.at(LOG), "").unwrap(), CUT),
    (
        "truncated, and longer than before by now",
        |world| fs::write(world.at(LOG), format!("{SEALED}{}", lines(1000..3000))).unwrap(),
        CUT,
    ),
    (
        "one line less",
        |world| {
            let text = fs::read_to_string(world.at(LOG)).unwrap().replace("request 500 was answered\n", "");
            fs::write(world.at("without"), format!("{text}{}", lines(1000..2000))).unwrap();
            fs::rename(world.at("without"), world.at(LOG)).unwrap();
        },
        CUT,
    ),
    (
        "written over where it lies",
        |world| {
            let file = OpenOptions::new().write(true).open(world.at(LOG)).unwrap();
            file.write_all_at(b"request", 5000).unwrap();
        },
        CUT,
    ),
    (
        "cut, and a copy of the rest beside it",
        |world| {
            fs::write(world.at("log/app.log.1"), lines(10..1000)).unwrap();
            fs::write(world.at(LOG), "").unwrap();
        },
        CUT,
    ),
    ("gone", |world| fs::remove_file(world.at(LOG)).unwrap(), "removed log/app.log high"),
    (
        "renamed, and none in its place yet",
        |world| fs::rename(world.at(LOG), world.at("log/app.log.1")).unwrap(),
        "removed log/app.log tolerated",
    ),
    (
        "a link in its place",
        |world| {
            fs::rename(world.at(LOG), world.at("log/app.log.1")).unwrap();
            symlink("app.log.1", world.at(LOG)).unwrap();
        },
        "changed log/app.log medium",
    ),
    (
        "a directory that is a link in the place of what it was rotated to",
        |world| {
            fs::create_dir(world.at("elsewhere")).unwrap();
            fs::rename(world.at(LOG), world.at("elsewhere/app.log-1")).unwrap();
            symlink("../elsewhere", world.at("log/old")).unwrap();
            world.append(LOG, "");
        },
        CUT,
    ),
];

fn said(found: &[String], path: &str) -> String {
    let of_path = |line: &&String| line.split(' ').nth(1) == Some(path);
    found.iter().find(of_path).cloned().unwrap_or_default()
}

#[test]
fn what_became_of_a_log_is_said_once_it_is_settled_and_stays() {
    for (name, act, expected) in STORIES {
        let mut world = World::watched();
        act(&world);
        let cut = expected.ends_with(" high");
        let unsettled = format!("{expected}{}", if cut { " ?" } else { "" });
        assert_eq!(said(&world.look(), LOG), unsettled, "{name}");
        world.settle();
        assert_eq!(said(&world.look(), LOG), *expected, "{name}");
        // A loss stays one when it goes on, and when the agent begins anew.
        if cut && world.at(LOG).exists() {
            for _ in 0..2 {
                world.append(LOG, &lines(5000..9000));
                assert_eq!(said(&world.look(), LOG), CUT, "{name}");
                world.restart();
            }
        }
    }
}

/// A rotation gives the new file its mode last.
#[test]
fn an_alert_about_a_log_may_pass_for_a_moment_in_an_agent_alone() {
    let log = TreePath::new(LOG).unwrap();
    let world = World::watched();
    assert!(world.growing.may_pass(&log, true));
    let long_ago = Instant::now().checked_sub(SETTLE);
    assert!(long_ago.is_some());
    let begun = || lock(&world.growing.entries).get(&log).map(Arc::clone).unwrap();
    lock(&begun()).wrong = long_ago;
    assert!(!world.growing.may_pass(&log, true), "what lasts is said");
    assert!(!world.growing.may_pass(&log, false) && lock(&begun()).wrong.is_none(), "it is right again");
    assert!(!world.growing.may_pass(&TreePath::new("bin/app").unwrap(), true), "it does not grow");
    let once = World::new(Algorithm::Blake3, Growing::once());
    once.look();
    assert!(!once.growing.may_pass(&log, true), "nobody looks again");
}

/// The same in one scan of what was sealed only: nothing is to be settled.
#[test]
fn a_single_scan_knows_what_was_sealed() {
    for algorithm in [Algorithm::Blake3, Algorithm::Sha256] {
        let once = || World::new(algorithm, Growing::once());
        let world = once();
        assert!(world.look().is_empty());
        world.append(LOG, "more\n");
        assert_eq!(world.look(), [FINE], "{algorithm:?}");
        let world = once();
        fs::write(world.at(LOG), "").unwrap();
        assert_eq!(world.look(), [CUT], "{algorithm:?}");
        let world = once();
        fs::write(world.at(LOG), "another beginning, and longer than before\n").unwrap();
        // By SHA-256 alone it cannot be known that it is not beside it.
        let said = if algorithm == Algorithm::Blake3 { CUT } else { "changed log/app.log medium" };
        assert_eq!(world.look(), [said], "{algorithm:?}");
    }
    let world = World::new(Algorithm::Blake3, Growing::once());
    fs::rename(world.at(LOG), world.at("log/app.log.1")).unwrap();
    world.append(LOG, "a new one\n");
    assert_eq!(world.look(), [FINE, "added log/app.log.1 tolerated"]);
}

#[test]
fn what_was_not_sealed_is_missed_too() {
    let mut world = World::watched();
    let cut = "added log/new.log high";
    fs::write(world.at(NEW), lines(500..1000)).unwrap();
    assert_eq!(said(&world.look(), NEW), format!("{cut} ?"));
    // In time it is where logs are rotated to.
    fs::write(world.at("log/new.log.3"), lines(0..1000)).unwrap();
    assert_eq!(said(&world.look(), NEW), "added log/new.log tolerated");
    // Gone, which no difference can say; but not forgotten.
    fs::remove_file(world.at(NEW)).unwrap();
    assert_eq!(said(&world.look(), NEW), "");
    world.look();
    world.restart();
    world.append(NEW, "another\n");
    world.look();
    world.settle();
    assert_eq!(said(&world.look(), NEW), cut);
    // What was rotated away is forgotten.
    let world = World::watched();
    fs::rename(world.at(NEW), world.at("log/new.log.1")).unwrap();
    world.look();
    assert!(!lock(&world.growing.entries).contains_key(&TreePath::new(NEW).unwrap()));
}

/// Bytes in the middle are read when everything is.
#[test]
fn what_the_ends_do_not_show_is_found_when_everything_is_read() {
    let act = |world: &World| {
        let file = OpenOptions::new().write(true).open(world.at(LOG)).unwrap();
        file.write_all_at(b"another", 10_000).unwrap();
        world.append(LOG, "more\n");
    };
    let world = World::watched();
    act(&world);
    assert_eq!(said(&world.look(), LOG), FINE);
    let world = World::new(Algorithm::Blake3, Growing::of(IDENTITY, Duration::ZERO));
    world.append(LOG, &lines(0..1000));
    assert_eq!(world.look(), [FINE]);
    act(&world);
    assert_eq!(world.look(), [format!("{CUT} ?")]);
}

#[test]
fn a_loss_that_is_found_again_is_none() {
    let mut world = World::watched();
    let before = fs::read(world.at(LOG)).unwrap();
    fs::write(world.at(LOG), "").unwrap();
    world.look();
    world.settle();
    assert_eq!(said(&world.look(), LOG), CUT);
    world.restart();
    fs::write(world.at("log/app.log.2"), &before).unwrap();
    world.append(LOG, "on it goes\n");
    assert_eq!(said(&world.look(), LOG), FINE);
}

#[test]
fn no_more_is_remembered_than_there_is_room_for() {
    let growing = Growing::of(IDENTITY, LONG);
    let path = |n: usize| TreePath::new(format!("{n}")).unwrap();
    for n in 0..MAX_REMEMBERED {
        growing.entry(&path(n));
    }
    lock(&growing.entry(&path(7))).is_missing = true;
    growing.entry(&path(MAX_REMEMBERED));
    growing.entry(&path(MAX_REMEMBERED + 1));
    growing.entry(&TreePath::new("x".repeat(MAX_PATH + 1)).unwrap());
    let entries = lock(&growing.entries);
    assert_eq!(entries.len(), MAX_REMEMBERED);
    // What is missing makes room; nothing else does.
    assert!(!entries.contains_key(&path(7)) && entries.contains_key(&path(MAX_REMEMBERED)));
    drop(entries);

    let world = World::watched();
    world.growing.running.store(MAX_RUNNING, Ordering::Relaxed);
    lock(&world.growing.entry(&TreePath::new(LOG).unwrap())).running = None;
    world.append(LOG, "more\n");
    assert_eq!(said(&world.look(), LOG), FINE);
    world.append(LOG, "more\n");
    let (found, bytes) = world.look_at(&Scope::Entry(TreePath::new(LOG).unwrap()));
    assert_eq!((said(&found, LOG), bytes), (FINE.to_owned(), fs::metadata(world.at(LOG)).unwrap().len()));
}

#[test]
fn a_damaged_memory_is_none() {
    let world = World::watched();
    let file = world.temp.path().with_extension("state");
    world.growing.save(&file).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[60] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(matches!(Growing::load(&file, IDENTITY, LONG), Err(Distrust::Damaged)));
    fs::remove_file(file).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Append(u32),
    Look,
    Rename,
    CopyTruncate,
    Gzip(u32),
}

/// What logrotate does to the rotated files before a new one.
fn shift(world: &World) {
    let name = |n: u32, end: &str| world.at(&format!("{LOG}.{n}{end}"));
    for n in (1..3).rev() {
        for end in ["", ".gz"] {
            if name(n, end).exists() {
                for old in ["", ".gz"] {
                    // Of the oldest there is one at most.
                    let _absent = fs::remove_file(name(n + 1, old));
                }
                fs::rename(name(n, end), name(n + 1, end)).unwrap();
            }
        }
    }
}

fn do_step(world: &World, step: &Step) {
    match step {
        Step::Append(count) => world.append_lines(*count),
        Step::Look => {}
        Step::Rename => {
            shift(world);
            fs::rename(world.at(LOG), world.at(&format!("{LOG}.1"))).unwrap();
            fs::write(world.at(LOG), "").unwrap();
        }
        Step::CopyTruncate => {
            shift(world);
            fs::copy(world.at(LOG), world.at(&format!("{LOG}.1"))).unwrap();
            OpenOptions::new().write(true).open(world.at(LOG)).unwrap().set_len(0).unwrap();
        }
        Step::Gzip(n) => {
            let plain = world.at(&format!("{LOG}.{n}"));
            if plain.exists() {
                gzip(&plain, &world.at(&format!("{LOG}.{n}.gz")));
            }
        }
    }
    if !matches!(step, Step::Append(_)) {
        let found = world.look();
        assert!(found.iter().all(|line| line.ends_with(" tolerated")), "{step:?}: {found:?}");
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u32..400).prop_map(Step::Append),
        2 => Just(Step::Look),
        1 => Just(Step::Rename),
        1 => Just(Step::CopyTruncate),
        1 => (1_u32..4).prop_map(Step::Gzip),
    ];
    prop::collection::vec(step, 0..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// However a log is written and rotated, it is no alert; with one line less than was seen, it is one.
    #[test]
    fn rotations_are_no_alert_and_a_cut_is_one(before in steps(), after in steps(), at in 0_usize..1000) {
        let world = World::watched();
        world.written.store(10_000, Ordering::Relaxed);
        before.iter().for_each(|step| do_step(&world, step));
        world.append_lines(2);
        prop_assert_eq!(said(&world.look(), LOG), FINE);
        after.iter().for_each(|step| do_step(&world, step));
        world.append_lines(3);
        prop_assert_eq!(said(&world.look(), LOG), FINE);

        let text = fs::read_to_string(world.at(LOG)).unwrap();
        let mut kept: Vec<&str> = text.lines().collect();
        kept.remove(at % kept.len());
        fs::write(world.at(LOG), kept.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        prop_assert_eq!(said(&world.look(), LOG), format!("{CUT} ?"));
        world.settle();
        prop_assert_eq!(said(&world.look(), LOG), CUT);
    }
}
