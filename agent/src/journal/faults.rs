//! What a crash, a full disk or a rotten one can do to the journal, against a model that only counts.

use std::fs;
use std::path::Path;

use driftlock_common::event::{Body, Event, FindingResolved, Stopped};
use proptest::prelude::*;
use rustix::fs::{FlockOperation, flock};

use super::directory::LOCK;
use super::{Appended, Entry, Journal, JournalError, Recovered};

const LIMIT: u64 = 64 * 1000 * 1000;

fn open(dir: &Path) -> (Journal, Recovered) {
    // What another test starts has a copy of the lock's descriptor until it has become its program.
    if let Ok(lock) = fs::File::open(dir.join(LOCK)) {
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        flock(&lock, FlockOperation::Unlock).unwrap();
    }
    Journal::open(dir, None, LIMIT).unwrap()
}

fn entry(n: usize) -> Entry {
    let body = Body::FindingOpened(
        serde_json::from_value(serde_json::json!({
            "target": "app", "opened_at": "t", "count": 1,
            "finding": { "path": format!("f{n}"), "change": "removed" },
        }))
        .unwrap(),
    );
    Entry { time: "2026-01-01T00:00:00Z".to_owned(), body }
}

fn resolved(n: usize) -> Entry {
    let body =
        Body::FindingResolved(FindingResolved { target: "app".to_owned(), path: format!("f{n}"), path_b64: None });
    Entry { time: "2026-01-01T00:00:00Z".to_owned(), body }
}

fn filler(bytes: usize) -> Entry {
    let body = Body::Stopped(Stopped { reason: "x".repeat(bytes), ephemeral: false });
    Entry { time: String::new(), body }
}

fn events(journal: &mut Journal, max: usize) -> Vec<Event> {
    journal.batch(max).unwrap().map(|batch| serde_json::from_slice(&batch.json).unwrap()).unwrap_or_default()
}

fn open_paths(recovered: &Recovered) -> Vec<String> {
    recovered.findings.iter().map(|body| body.finding.path.clone()).collect()
}

fn log_of(dir: &Path) -> std::path::PathBuf {
    let logs: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    assert_eq!(logs.len(), 1);
    logs[0].clone()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, recovered) = open(dir.path());
    assert_eq!(recovered, Recovered::default());
    let (host, epoch) = (journal.host().to_owned(), journal.epoch().to_owned());
    journal.append(&[entry(1), entry(2), entry(3)]).unwrap();
    journal.append(&[resolved(2)]).unwrap();
    let batch = events(&mut journal, 3);
    assert_eq!(batch.iter().map(|e| e.sequence_number().unwrap().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(batch[0].id, format!("{epoch}-00000000000000000001"));
    journal.acknowledge(2).unwrap();
    drop(journal);

    let (mut journal, recovered) = open(dir.path());
    assert_eq!((journal.host(), journal.epoch(), journal.sequence()), (host.as_str(), epoch.as_str(), 4));
    assert_eq!(open_paths(&recovered), ["f1", "f3"]);
    let batch = events(&mut journal, 500);
    assert_eq!(batch.iter().map(|e| e.sequence_number().unwrap().unwrap()).collect::<Vec<_>>(), [3, 4]);
    journal.acknowledge(99).unwrap();
    assert!(journal.is_delivered());
    assert_eq!(journal.batch(500).unwrap(), None);
}

#[test]
fn a_second_agent_is_refused_by_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (_held, _) = open(dir.path());
    let error = Journal::open(dir.path(), None, LIMIT).unwrap_err();
    assert!(matches!(error, JournalError::Locked(_)), "{error}");
}

#[test]
fn closed_segments_go_when_they_are_acknowledged_and_what_is_open_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    for n in 0..6 {
        journal.append(&[entry(n), filler(600_000)]).unwrap();
    }
    assert!(journal.segments.len() > 2);
    let mut sent = 0;
    while let Some(batch) = journal.batch(500).unwrap() {
        sent += batch.events;
        journal.acknowledge(batch.last).unwrap();
    }
    assert_eq!(sent, 12);
    assert_eq!(journal.segments.len(), 1);
    drop(journal);
    let (journal, recovered) = open(dir.path());
    assert_eq!(journal.sequence(), 12);
    assert!(journal.is_delivered());
    assert_eq!(open_paths(&recovered), ["f0", "f1", "f2", "f3", "f4", "f5"]);
}

/// Otherwise a burst, each event of which adds to what is open, would take time and space by its square.
#[test]
fn checkpoints_cost_no_more_than_events() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    let (mut events, mut checkpoints, mut last) = (0, 0, 0);
    for n in 0..20 {
        let entries: Vec<Entry> = (0..4000).map(|k| entry(n * 4000 + k)).collect();
        assert_eq!(journal.append(&entries).unwrap(), Appended { entries: 4000, dropped: 0 });
        events += journal.segments.back().unwrap().len();
        let checkpoint = fs::metadata(dir.path().join("checkpoint")).unwrap();
        if std::mem::replace(&mut last, checkpoint.ino()) != checkpoint.ino() {
            checkpoints += checkpoint.len();
        }
        journal.acknowledge(journal.sequence()).unwrap();
        assert_eq!(journal.batch(500).unwrap(), None);
    }
    // Each is at most as large as the one before, which as much was written since, and what came since.
    assert!(checkpoints > 0 && checkpoints <= 2 * events, "{checkpoints} bytes of checkpoints, {events} of events");
    drop(journal);
    assert_eq!(open(dir.path()).1.findings.len(), 80_000);
}

/// Segments that nobody waits for stay until a checkpoint has what is in them: none of it is sent again, or lost.
#[test]
fn what_is_acknowledged_and_not_yet_in_a_checkpoint_is_neither_sent_again_nor_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    // A checkpoint that is larger than what follows.
    let large: Vec<Entry> = (0..40_000).map(entry).collect();
    let mut given = 0;
    while given < large.len() {
        given += journal.append(&large[given..]).unwrap().entries;
    }
    journal.acknowledge(journal.sequence()).unwrap();
    journal.checkpoint().unwrap();
    for n in 0..3 {
        journal.append(&[resolved(n), filler(1_200_000)]).unwrap();
    }
    let sequence = journal.sequence();
    journal.acknowledge(sequence - 3).unwrap();
    assert_eq!(journal.segments.len(), 3, "none of them is in a checkpoint");
    let sequences = |journal: &mut Journal| -> Vec<u64> {
        events(journal, 500).iter().map(|event| event.sequence_number().unwrap().unwrap()).collect()
    };
    assert_eq!(sequences(&mut journal)[0], sequence - 2);
    drop(journal);
    let (mut journal, recovered) = open(dir.path());
    assert_eq!(recovered.findings.len(), 40_000 - 3);
    assert_eq!(sequences(&mut journal)[0], sequence - 2);
    journal.acknowledge(sequence).unwrap();
    assert!(journal.is_delivered());
    journal.checkpoint().unwrap();
    assert_eq!(journal.segments.len(), 0);
}

#[test]
fn a_full_spool_gives_up_what_waits_but_not_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), None, 4_000_000).unwrap();
    let mut dropped = 0;
    for n in 0..20 {
        dropped += journal.append(&[entry(n), filler(500_000)]).unwrap().dropped;
        assert!(journal.bytes() <= 4_000_000);
    }
    assert!(dropped > 0);
    assert_eq!(journal.sequence(), 40);
    drop(journal);
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.findings.len(), 20);
}

#[test]
fn what_is_given_up_is_said_though_the_disk_fails_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), None, 4_000_000).unwrap();
    let mut given = 0;
    while journal.bytes() + 600_000 < 4_000_000 {
        given += journal.append(&[filler(500_000)]).unwrap().entries as u64;
    }
    // No checkpoint can be written.
    let blocked = dir.path().join("checkpoint.next");
    fs::create_dir(&blocked).unwrap();
    while journal.append(&[filler(500_000)]).is_ok() {
        given += 1;
    }
    fs::remove_dir(&blocked).unwrap();
    let mut dropped = 0;
    for _ in 0..2 {
        dropped += journal.append(&[filler(500_000)]).unwrap().dropped;
    }
    assert_eq!(dropped, given);
}

#[test]
fn a_journal_that_was_cut_is_a_prefix_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    for n in 1..=4 {
        journal.append(&[entry(n)]).unwrap();
    }
    drop(journal);
    let log = log_of(dir.path());
    let len = fs::metadata(&log).unwrap().len();
    let mut longest = 0;
    for cut in (0..len).step_by(5).chain([len]) {
        let other = tempfile::tempdir().unwrap();
        copy(dir.path(), other.path());
        fs::OpenOptions::new().write(true).open(log_of(other.path())).unwrap().set_len(cut).unwrap();
        let (mut journal, recovered) = open(other.path());
        assert_eq!(recovered.damage, "", "cut at {cut}");
        let count = usize::try_from(journal.sequence()).unwrap();
        assert!(count >= longest, "a longer file gives no less");
        longest = count;
        assert_eq!(open_paths(&recovered), ["f1", "f2", "f3", "f4"][..count]);
        // The next event continues where the prefix ends, and is read back.
        journal.append(&[entry(9)]).unwrap();
        drop(journal);
        let (journal, recovered) = open(other.path());
        assert_eq!(journal.sequence(), count as u64 + 1);
        assert!(open_paths(&recovered).contains(&"f9".to_owned()));
    }
    assert_eq!(longest, 4);
}

#[test]
fn a_rotten_middle_ends_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path());
    for n in 1..=4 {
        journal.append(&[entry(n)]).unwrap();
    }
    let epoch = journal.epoch().to_owned();
    drop(journal);
    let len = usize::try_from(fs::metadata(log_of(dir.path())).unwrap().len()).unwrap();
    for at in (0..len).step_by(31) {
        let other = tempfile::tempdir().unwrap();
        copy(dir.path(), other.path());
        let log = log_of(other.path());
        let mut bytes = fs::read(&log).unwrap();
        bytes[at] ^= 0x10;
        fs::write(&log, bytes).unwrap();
        let (mut journal, recovered) = open(other.path());
        let last_record = len * 3 / 4;
        if at < last_record {
            assert_ne!(recovered.damage, "", "flip at {at}");
            assert_ne!(journal.epoch(), epoch, "a sequence may have been used beyond the damage");
            assert_eq!(recovered.findings, []);
        }
        // Whatever happened, it can be used.
        journal.append(&[entry(9)]).unwrap();
        assert!(!events(&mut journal, 500).is_empty());
    }
}

#[test]
fn a_rotten_or_missing_checkpoint_ends_the_epoch() {
    for damage in [None, Some(&b"garbage"[..]), Some(b"")] {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        journal.append(&[entry(1)]).unwrap();
        let epoch = journal.epoch().to_owned();
        drop(journal);
        let checkpoint = dir.path().join("checkpoint");
        match damage {
            None => fs::remove_file(checkpoint).unwrap(),
            Some(bytes) => fs::write(checkpoint, bytes).unwrap(),
        }
        let (journal, recovered) = open(dir.path());
        assert_ne!(recovered.damage, "");
        assert_ne!(journal.epoch(), epoch);
        assert_eq!(journal.sequence(), 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Resolve(usize),
    Ack(u64),
    /// Large enough to close a segment.
    Grow,
    /// The process is gone; nothing in memory is left.
    Restart,
    NewEpoch,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_journal_agrees_with_a_model_that_only_counts(steps in prop::collection::vec(prop_oneof![
        4 => prop::collection::vec(0usize..10, 1..5).prop_map(Step::Append),
        2 => (0usize..10).prop_map(Step::Resolve),
        3 => (0u64..30).prop_map(Step::Ack),
        1 => Just(Step::Grow),
        2 => Just(Step::Restart),
        1 => Just(Step::NewEpoch),
    ], 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(dir.path());
        let (mut sequence, mut acked) = (0u64, 0u64);
        let mut open_now = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Append(paths) => {
                    let entries: Vec<Entry> = paths.iter().map(|n| entry(*n)).collect();
                    sequence += entries.len() as u64;
                    open_now.extend(paths);
                    prop_assert_eq!(journal.append(&entries).unwrap().entries, entries.len());
                }
                Step::Resolve(n) => {
                    journal.append(&[resolved(n)]).unwrap();
                    sequence += 1;
                    open_now.remove(&n);
                }
                Step::Ack(to) => {
                    journal.acknowledge(to).unwrap();
                    acked = acked.max(to.min(sequence));
                }
                Step::Grow => {
                    journal.append(&[filler(1_100_000)]).unwrap();
                    sequence += 1;
                }
                Step::Restart => {
                    drop(journal);
                    let (again, recovered) = open(dir.path());
                    journal = again;
                    prop_assert_eq!(&recovered.damage, "");
                    let expected: Vec<String> = open_now.iter().map(|n| format!("f{n}")).collect();
                    prop_assert_eq!(open_paths(&recovered), expected);
                }
                Step::NewEpoch => {
                    journal.new_epoch().unwrap();
                    (sequence, acked) = (0, 0);
                    open_now.clear();
                }
            }
            prop_assert_eq!(journal.sequence(), sequence);
            let waiting = events(&mut journal, 10_000);
            let mut expected: Vec<u64> = (acked + 1..=sequence).collect();
            expected.truncate(waiting.len());
            prop_assert_eq!(waiting.is_empty(), acked == sequence);
            let numbers: Vec<u64> = waiting.iter().map(|e| e.sequence_number().unwrap().unwrap()).collect();
            prop_assert_eq!(numbers, expected);
        }
    }
}
