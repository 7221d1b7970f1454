//! Sweeps: what is remembered saves reading, and never changes what is found.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use driftlock_agent::scan::{Identity, Options, Rely, Root, Scope, State, compare};
use driftlock_common::finding::Summary;
use driftlock_common::manifest::Manifest;
use driftlock_common::profile::Profile;
use driftlock_tests::disk::{Disk, Kind};
use driftlock_tests::mapped::Mapped;
use driftlock_tests::namespace;
use driftlock_tests::random_tree::{HOSTILE, RandomTree};
use driftlock_tests::require::{self, Requirement};
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::{child, oracle, property, root_trial, subject, trial};

const SEEDS: u64 = 120;
/// Everything is read once in this time: while a test runs nothing is due for that, where any moment of a shorter time may be
/// that of an entry.
const NEVER: Duration = Duration::MAX;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("sweep::a_sweep_equals_a_naive_comparison", || seeds(7 << 32, false)),
        root_trial("sweep::a_sweep_equals_a_naive_comparison_with_owners_devices_and_capabilities", || {
            seeds(8 << 32, true)
        }),
        trial("sweep::what_stat_cannot_show_is_found_when_everything_is_read_again", unshown),
        require::trial(
            "sweep::what_the_device_alone_has_is_found_when_everything_is_read_again_and_stays",
            DISK,
            device,
        ),
        trial("sweep::what_was_due_in_an_interrupted_sweep_stays_due", interrupted),
        trial("sweep::what_just_changed_is_read_again", young),
        trial("sweep::a_second_scan_reads_only_what_moved", second),
        trial("sweep::a_state_that_cannot_be_relied_on_is_said_and_everything_is_read", distrusted),
        root_trial("sweep::a_state_of_another_boot_or_of_before_the_clock_was_set_is_not_relied_on", other_time),
        trial("sweep::a_state_that_cannot_be_written_fails_after_the_verdict", unwritable),
    ]
}

/// A state of `root` that remembers everything: what was just made is not settled yet, so it is looked at until it is.
fn remembered(root: &Path, manifest: &Manifest) -> Result<Arc<State>> {
    let opened = Root::open(root)?;
    let identity = Identity::of(&opened, manifest.name(), manifest.header.profile, &Options::default());
    let entries = manifest.tree.iter().len();
    let state = Arc::new(State::new(identity, entries));
    eventually("everything is settled", || {
        let options = Options { state: Some((Arc::clone(&state), Rely::OnNothing)), ..Options::default() };
        let (drifts, outcome) = subject::scan(root, manifest, &options)?;
        ensure!(drifts.is_empty() && outcome.stats.remembered == 0, "undisturbed: {drifts:?}");
        ensure!(state.known() == entries, "{} of {entries} are remembered", state.known());
        Ok(())
    })?;
    Ok(state)
}

fn relying(state: &Arc<State>, full: Duration) -> Options {
    Options { state: Some((Arc::clone(state), Rely::OnState(full))), ..Options::default() }
}

fn seeds(first: u64, privileged: bool) -> Result<()> {
    (first..first + SEEDS).try_for_each(|seed| one(seed, privileged).with_context(|| format!("seed {seed}")))
}

fn one(seed: u64, privileged: bool) -> Result<()> {
    let level = usize::try_from(seed % 3)?;
    let temp = tempfile::tempdir()?;
    let root = temp.path();
    let mut random = RandomTree::new(seed, HOSTILE, privileged);
    random.fill(root)?;
    let before = oracle::look(root, level)?;
    let manifest = subject::seal(root, property::PROFILES[level])?;
    let state = remembered(root, &manifest)?;

    let (drifts, outcome) = subject::scan(root, &manifest, &relying(&state, NEVER))?;
    ensure!(drifts.is_empty() && outcome.complete() && outcome.stats.files_hashed == 0, "{:?}", outcome.stats);
    ensure!(outcome.stats.remembered == outcome.stats.entries, "{:?}", outcome.stats);

    random.tamper(root)?;
    let expected = oracle::differences(&before, &oracle::look(root, level)?);
    for _ in 0..2 {
        let (drifts, outcome) = subject::scan(root, &manifest, &relying(&state, NEVER))?;
        property::ensure_found(&expected, &drifts)?;
        ensure!(outcome.complete());
    }
    Ok(())
}

/// A store through a mapping whose page was dirty already moves no time on a tmpfs.
fn unshown() -> Result<()> {
    let temp = tempfile::tempdir_in("/dev/shm")?;
    let root = temp.path();
    fs::write(root.join("mapped"), "sealed")?;
    fs::write(root.join("other"), "other")?;
    let mut mapped = Mapped::open(&root.join("mapped"))?;
    mapped.store(b's')?;
    let manifest = subject::seal(root, Profile::Full)?;
    let state = remembered(root, &manifest)?;
    mapped.store(b'S')?;
    ensure!(fs::read(root.join("mapped"))? == b"Sealed", "the store is there to be read");
    let (drifts, _) = subject::scan(root, &manifest, &relying(&state, NEVER))?;
    ensure!(drifts.is_empty(), "stat shows it after all, and the test shows nothing: {drifts:?}");
    // In no time at all the whole of it is due.
    let (drifts, outcome) = subject::scan(root, &manifest, &relying(&state, Duration::from_nanos(1)))?;
    ensure!(subject::words(&drifts) == ["changed mapped"], "{drifts:?}");
    ensure!(outcome.stats.files_hashed == 2 && outcome.stats.remembered == 0, "{:?}", outcome.stats);
    Ok(())
}

const DISK: &[Requirement] = &[Requirement::Root, Requirement::MountNamespace, Requirement::Ext4];

/// Written below the file system: found by the rolling rehash alone, and then by every look until the device is as sealed.
fn device() -> Result<()> {
    const SEALED: &[u8] = b"Zq8-the sealed program-4Kx";
    namespace::within(|| {
        let temp = tempfile::tempdir()?;
        let disk = Disk::new(Kind::Ext4, temp.path().join("image"), temp.path().join("disk"))?;
        let root = temp.path().join("disk/tree");
        fs::create_dir(&root)?;
        // Around one buffer, one block, and nothing.
        for (name, size) in [("app", SEALED.len()), ("block", 4096), ("buffer", 128 << 10), ("more", (300 << 10) + 1)] {
            fs::write(root.join(name), [SEALED, name.as_bytes(), &vec![b'x'; size]].concat())?;
        }
        fs::write(root.join("empty"), "")?;
        let manifest = subject::seal(&root, Profile::Portable)?;
        let state = remembered(&root, &manifest)?;
        let all = Duration::from_nanos(1);
        let words = |rely| -> Result<Vec<String>> {
            let options = Options { state: Some((Arc::clone(&state), rely)), ..Options::default() };
            Ok(subject::words(&subject::scan(&root, &manifest, &options)?.0))
        };
        let (_, outcome) = subject::scan(&root, &manifest, &relying(&state, all))?;
        let bytes: u64 = fs::read_dir(&root)?.map(|file| Ok(file?.metadata()?.len())).sum::<Result<u64>>()?;
        ensure!(outcome.stats.bytes_hashed == 2 * bytes, "not {bytes} from either: {:?}", outcome.stats);

        for name in ["app", "block", "buffer", "more"] {
            let marker = [SEALED, name.as_bytes()].concat();
            let block = disk.find(&marker)?;
            disk.write(block, b"evil")?;
            ensure!(words(Rely::OnState(NEVER))?.is_empty(), "{name} is seen without reading the device");
            ensure!(words(Rely::OnNothing)?.is_empty(), "{name} is seen in the page cache");
            let expected = [format!("changed {name}")];
            for rely in [all, NEVER, all, NEVER].map(Rely::OnState).into_iter().chain([Rely::OnNothing]) {
                ensure!(words(rely)? == expected, "{name}, {rely:?}: {:?}", words(rely)?);
            }
            disk.write(block, &marker)?;
            ensure!(words(Rely::OnState(NEVER))?.is_empty(), "{name} is as it was");
            let (_, outcome) = subject::scan(&root, &manifest, &relying(&state, NEVER))?;
            ensure!(outcome.stats.files_hashed == 0, "and remembered: {:?}", outcome.stats);
        }
        Ok(())
    })
}

/// What was due in a sweep that was interrupted is due in the next one.
fn interrupted() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let root = temp.path();
    fs::write(root.join("file"), "sealed")?;
    let manifest = subject::seal(root, Profile::Portable)?;
    let began = Instant::now();
    let state = remembered(root, &manifest)?;
    // Since the state was made once around has passed; after the interrupted sweep it takes as long again.
    let all = relying(&state, began.elapsed() / 2);
    let (pool, now) = (subject::pool()?, AtomicBool::new(true));
    let outcome = compare(&Root::open(root)?, &manifest, &all, &Scope::All, &pool, &now, &|_| ());
    ensure!(outcome.interrupted && outcome.stats.files_hashed == 0, "{outcome:?}");
    let (_, outcome) = subject::scan(root, &manifest, &all)?;
    ensure!(outcome.stats.files_hashed == 1 && outcome.stats.remembered == 0, "{:?}", outcome.stats);
    Ok(())
}

/// Two writes within a tick of the clock have one time, so that after the first stat says nothing about the second.
fn young() -> Result<()> {
    const ROUNDS: usize = 200;
    let temp = tempfile::tempdir()?;
    let root = temp.path();
    fs::write(root.join("old"), "old")?;
    fs::write(root.join("file"), "sealed")?;
    let manifest = subject::seal(root, Profile::Portable)?;
    let state = remembered(root, &manifest)?;
    let file = File::options().write(true).open(root.join("file"))?;
    for round in 0..ROUNDS {
        file.write_all_at(b"sealed", 0)?;
        let (drifts, outcome) = subject::scan(root, &manifest, &relying(&state, NEVER))?;
        ensure!(drifts.is_empty() && outcome.stats.files_hashed == 1, "round {round}: {:?}", outcome.stats);
        file.write_all_at(b"SEALED", 0)?;
        let (drifts, _) = subject::scan(root, &manifest, &relying(&state, NEVER))?;
        ensure!(subject::words(&drifts) == ["changed file"], "round {round}: {drifts:?}");
    }
    Ok(())
}

/// A sealed root that is settled, with a state of it.
struct Stage {
    temp: TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        let stage = Self { temp: tempfile::tempdir()? };
        let root = stage.root();
        fs::create_dir_all(root.join("etc"))?;
        for name in ["app", "etc/conf", "etc/other"] {
            fs::write(root.join(name), name)?;
        }
        fs::write(stage.manifest(), subject::seal(&root, Profile::Portable)?.encode())?;
        eventually("everything is remembered", || {
            let (code, summary, said) = stage.scan()?;
            ensure!(code == 0 && said.is_empty(), "{code} {said}");
            ensure!(summary.remembered == 4 && summary.files_hashed == 0, "{summary:?}");
            Ok(())
        })?;
        Ok(stage)
    }

    fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    fn manifest(&self) -> PathBuf {
        self.temp.path().join("manifest")
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["scan", "--format", "ndjson", "--manifest"].map(Into::into).into();
        args.extend([self.manifest().into(), "--state".into(), self.state().into(), self.root().into()]);
        args
    }

    /// Exit code, summary, and what was said.
    fn scan(&self) -> Result<(i32, Summary, String)> {
        outcome(&mut child::driftlock(self.args()))
    }
}

fn outcome(command: &mut Command) -> Result<(i32, Summary, String)> {
    let output = command.stdin(Stdio::null()).output()?;
    let (stdout, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    let last = stdout.lines().last().with_context(|| format!("no output: {said}"))?;
    let summary = serde_json::from_str(last).with_context(|| format!("no summary: {last}"))?;
    Ok((output.status.code().context("ended by a signal")?, summary, said))
}

fn second() -> Result<()> {
    let stage = Stage::new()?;
    let conf = stage.root().join("etc/conf");
    // Of the same size, and with its time put back.
    let time = fs::metadata(&conf)?.modified()?;
    fs::write(&conf, "etc/CONF")?;
    File::options().write(true).open(&conf)?.set_modified(time)?;
    let (code, summary, _) = stage.scan()?;
    ensure!(code == 4 && summary.changed == 1, "{summary:?}");
    ensure!(summary.files_hashed == 1 && summary.remembered == 3, "{summary:?}");
    ensure!(summary.observed_tree.is_some_and(|tree| tree != summary.manifest.tree), "{summary:?}");
    // What is not as sealed is read each time.
    let (code, summary, _) = stage.scan()?;
    ensure!(code == 4 && summary.files_hashed == 1 && summary.remembered == 3, "{summary:?}");
    // Other attributes: what is remembered says nothing about them.
    let (_, summary, said) = outcome(child::driftlock(stage.args()).args(["--only", "content"]))?;
    ensure!(said.contains("other attributes: everything is read") && summary.remembered == 0, "{said} {summary:?}");
    Ok(())
}

fn distrusted() -> Result<()> {
    let stage = Stage::new()?;
    let good = fs::read(stage.state())?;
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("empty", Vec::new(), "it is no state file"),
        ("something else", b"{\"driftlock\":1}\n".to_vec(), "it is no state file"),
        ("cut", good[..good.len() - 1].to_vec(), "it is damaged or cut off"),
        ("longer", [&good[..], b"x"].concat(), "it is damaged or cut off"),
        ("a mark changed", flipped(good.len() - 40), "it is damaged or cut off"),
        ("the key changed", flipped(60), "it is damaged or cut off"),
        ("of a later version", flipped(17), "is not known: this driftlock reads version 2"),
        ("another identity", flipped(30), "it is about another root, another baseline, or other attributes"),
    ];
    let expect = |what: &str, why: &str| {
        let (code, summary, said) = stage.scan()?;
        ensure!(code == 0 && summary.remembered == 0 && summary.files_hashed == 3, "{what}: {code} {summary:?}");
        ensure!(said.lines().count() == 1, "{what}: one line, not {said:?}");
        ensure!(said.contains(why) && said.contains(": everything is read"), "{what}: {said}");
        // And it is of use again.
        let (code, summary, said) = stage.scan()?;
        ensure!(code == 0 && summary.remembered == 4 && said.is_empty(), "{what}, after: {said} {summary:?}");
        Ok(())
    };
    for (what, bytes, why) in cases {
        fs::write(stage.state(), bytes)?;
        expect(what, why)?;
    }
    // Another root with the same files, and another baseline for the same root.
    let other = Stage::new()?;
    fs::copy(other.state(), stage.state())?;
    expect("of another root", "it is about another root")?;
    // Damaged while something changed: what is found is found all the same.
    fs::write(stage.state(), flipped(good.len() - 1))?;
    fs::write(stage.root().join("app"), "APP")?;
    let (code, summary, _) = stage.scan()?;
    ensure!(code == 4 && summary.changed == 1, "{summary:?}");
    fs::write(stage.manifest(), subject::seal(&stage.root(), Profile::Portable)?.encode())?;
    let (code, summary, said) = stage.scan()?;
    ensure!(code == 0 && summary.remembered == 0 && said.contains("another baseline"), "{said} {summary:?}");
    Ok(())
}

fn other_time() -> Result<()> {
    for (script, why) in [
        // A time namespace: the same boot, on another clock.
        ("exec unshare --time --boottime 1000 \"$@\"", "the clock was set since it was written"),
        (
            "exec unshare --mount sh -c 'mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"' \"$BOOT\" \"$@\"",
            "the machine was started again since it was written",
        ),
    ] {
        let stage = Stage::new()?;
        let boot = stage.temp.path().join("boot_id");
        fs::write(&boot, "01234567-89ab-cdef-0123-456789abcdef\n")?;
        let mut command = Command::new("sh");
        let driftlock = child::driftlock(stage.args());
        let program = std::env::current_exe()?;
        command.args(["-c", script, "sh"]).arg(program).args(driftlock.get_args()).env("BOOT", boot);
        let (code, summary, said) = outcome(&mut command)?;
        ensure!(code == 0 && summary.remembered == 0 && summary.files_hashed == 3, "{said} {summary:?}");
        ensure!(said.contains(why), "{said}");
    }
    Ok(())
}

fn unwritable() -> Result<()> {
    let stage = Stage::new()?;
    fs::set_permissions(stage.temp.path(), Permissions::from_mode(0o755))?;
    let mut args = stage.args();
    let place = args.len() - 2;
    args[place] = stage.temp.path().join("no/such/place").into();
    let (code, summary, said) = outcome(&mut child::driftlock(args))?;
    ensure!(code == 73 && summary.complete && said.contains("no/such/place"), "{code} {said}");
    Ok(())
}
