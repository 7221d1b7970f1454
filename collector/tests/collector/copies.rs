//! Copies: made while others write, restored, refused where they cannot be used, and how hosts go on after one.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use driftlock_collector::batch::decode;
use driftlock_collector::clock::Timestamp;
use driftlock_collector::store::copy::{Copied, backup, restore};
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use driftlock_collector::store::{
    Applied, Delivery, FindingQuery, HoleKind, HoleQuery, HostQuery, Lifetime, Store as _, StoreError,
};
use driftlock_common::event::{Answer, Event};
use rusqlite::Connection;

use crate::kit::FakeAgent;

fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(directory, Limits::default()).unwrap()
}

async fn answer(store: &SqliteStore, host: &str, events: &[Event]) -> Answer {
    let batch = decode(&serde_json::to_vec(events).unwrap()).unwrap();
    let delivery = Delivery { host: host.into(), received_at: Timestamp::now(), from: None, batch };
    match store.apply(delivery).await.unwrap() {
        Applied::Answer(answer) => answer,
        Applied::Conflict => panic!("refused as another agent's"),
    }
}

async fn open_paths(store: &SqliteStore, host: &str) -> Vec<String> {
    let query = FindingQuery {
        state: Some(Lifetime::Open),
        host: Some(host.into()),
        limit: 100_000,
        ..FindingQuery::default()
    };
    store.findings(query).await.unwrap().items.into_iter().map(|found| found.finding.path).rev().collect()
}

fn generation(directory: &Path) -> String {
    let connection = Connection::open(directory.join("collector.sqlite3")).unwrap();
    connection.query_row("SELECT generation FROM store", [], |row| row.get(0)).unwrap()
}

const HOSTS: u8 = 4;

/// Each event of a host opens one finding, so a state of the store shows in both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_under_load_is_one_state_and_hosts_go_on_from_it() {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    let store = Arc::new(open(&data));
    let stop = Arc::new(AtomicBool::new(false));
    let acked: Arc<[AtomicU64; HOSTS as usize]> = Arc::default();
    let mut writers = tokio::task::JoinSet::new();
    for host in 0..HOSTS {
        let (store, stop, acked) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&acked));
        writers.spawn(async move {
            let mut agent = FakeAgent::new(host);
            while !stop.load(Ordering::Relaxed) {
                let events: Vec<Event> = (0..3).map(|_| agent.opened(format!("f{}", agent.sequence + 1))).collect();
                let ack = answer(&store, &format!("h{host}"), &events).await.ack;
                acked[usize::from(host)].store(ack, Ordering::SeqCst);
            }
            agent
        });
    }
    let all = |acked: &[AtomicU64]| acked.iter().map(|ack| ack.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let mut copies = Vec::new();
    for number in 0..3 {
        // Something new is there each time.
        let before = all(&*acked);
        while all(&*acked).iter().zip(&before).any(|(now, before)| *now < before + 30) {
            tokio::task::yield_now().await;
        }
        let before = all(&*acked);
        let (data, file) = (data.clone(), work.path().join(format!("copy-{number}")));
        let copied = tokio::task::spawn_blocking({
            let file = file.clone();
            move || backup(&data, &file).unwrap()
        });
        let copied = copied.await.unwrap();
        assert_eq!((copied.hosts, copied.files, copied.left_out), (u64::from(HOSTS), 0, 0));
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        copies.push((file, before, all(&*acked), copied.open));
    }
    stop.store(true, Ordering::Relaxed);
    let mut agents = writers.join_all().await;
    agents.sort_by(|a, b| a.epoch.cmp(&b.epoch));
    drop(store);
    let entries: Vec<_> = fs::read_dir(work.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries.len(), 4, "nothing else is left: {entries:?}");

    for (number, (file, before, after, of_all)) in copies.into_iter().enumerate() {
        let directory = work.path().join(format!("restored-{number}"));
        restore(&file, &directory, Timestamp::now()).unwrap();
        assert_ne!(generation(&directory), generation(&data));
        let store = open(&directory);
        let hosts = store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap().items;
        assert_eq!(hosts.iter().map(|host| host.ack).sum::<u64>(), of_all);
        assert_eq!(store.totals().await.unwrap().events, of_all);
        for (host, (before, after)) in hosts.iter().zip(before.iter().zip(&after)) {
            // A batch that was answered before the copy began is in it; one that was not sent when it ended is not.
            assert!(host.ack >= *before && host.ack <= after + 3, "{before} {} {after}", host.ack);
            let expected: Vec<String> = (1..=host.ack).map(|n| format!("f{n}")).collect();
            assert_eq!(open_paths(&store, &host.host).await, expected, "all of a batch, and nothing behind it");
            assert!(host.targets.iter().all(|target| target.resync));
        }
        // Each agent goes on where it is, and is asked for everything.
        for (host, agent) in hosts.iter().zip(&agents) {
            let mut agent = FakeAgent { epoch: agent.epoch.clone(), sequence: agent.sequence };
            let (acknowledged, key) = (agent.sequence, host.host.as_str());
            let heard = answer(&store, key, &[agent.heartbeat(&[])]).await;
            assert_eq!((heard.resync, heard.ack), (true, host.ack));
            let next = agent.opened("next");
            let taken = answer(&store, key, &[next]).await;
            assert_eq!((taken.accepted, taken.ack, taken.resync), (1, acknowledged + 1, true));
            let holes = store.holes(HoleQuery { host: Some(key.into()), limit: 9, before: None }).await.unwrap().items;
            let found: Vec<_> = holes.iter().map(|hole| (hole.sequences.clone(), hole.kind)).collect();
            let expected = (host.ack < acknowledged).then(|| (host.ack + 1..=acknowledged, HoleKind::Restore));
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
            let snapshot = agent.snapshot(0, true, &["next", "f1"]);
            assert!(!answer(&store, key, &[snapshot]).await.resync);
            assert_eq!(open_paths(&store, key).await, ["f1", "next"]);
            // From here on what is missing is lost.
            let _lost = agent.opened("lost");
            let behind = agent.opened("behind");
            answer(&store, key, &[behind]).await;
            let holes = store.holes(HoleQuery { host: Some(key.into()), limit: 1, before: None }).await.unwrap().items;
            assert_eq!(holes[0].kind, HoleKind::Lost);
            let query = HostQuery { host: Some(key.into()), limit: 1, ..HostQuery::default() };
            assert_eq!(store.hosts(query).await.unwrap().items[0].lost, 1);
        }
    }
}

#[tokio::test]
async fn an_epoch_that_began_after_the_copy_has_no_hole_either() {
    let work = tempfile::tempdir().unwrap();
    let (data, file, restored) = (work.path().join("data"), work.path().join("copy"), work.path().join("restored"));
    let store = open(&data);
    answer(&store, "known", &[FakeAgent::new(1).opened("a")]).await;
    backup(&data, &file).unwrap();
    restore(&file, &restored, Timestamp::now()).unwrap();
    let store = open(&restored);
    for (host, epoch) in [("known", 2), ("new", 3)] {
        let mut agent = FakeAgent { sequence: 41, ..FakeAgent::new(epoch) };
        answer(&store, host, &[agent.heartbeat(&[])]).await;
        let taken = answer(&store, host, &[agent.opened("b")]).await;
        assert_eq!((taken.ack, taken.resync), (42, true));
        // A later one begins at 1, or something is lost.
        let mut later = FakeAgent { sequence: 6, ..FakeAgent::new(epoch + 10) };
        answer(&store, host, &[later.opened("c")]).await;
        let holes = store.holes(HoleQuery { host: Some(host.into()), limit: 9, before: None }).await.unwrap().items;
        let found: Vec<_> = holes.iter().map(|hole| (hole.sequences.clone(), hole.kind)).collect();
        assert_eq!(found, [(1..=6, HoleKind::Lost), (1..=41, HoleKind::Restore)]);
    }
}

#[test]
fn what_lies_beside_the_database_is_copied_too() {
    let work = tempfile::tempdir().unwrap();
    let (data, file, restored) = (work.path().join("data"), work.path().join("copy"), work.path().join("restored"));
    let store = open(&data);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fs::create_dir_all(data.join("ca/old")).unwrap();
    for (name, content, mode) in [
        ("ca/key.pem", &b"secret"[..], 0o600),
        ("ca/old/empty", b"", 0o644),
        ("manifest", &large, 0o640),
        ("name of \u{1b} bytes", b"x", 0o400),
        ("collector.sqlite3.partial", b"of another time", 0o600),
    ] {
        fs::write(data.join(name), content).unwrap();
        fs::set_permissions(data.join(name), Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", data.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(data.join("admin.sock")).unwrap();
    let copied = backup(&data, &file).unwrap();
    assert_eq!(copied, Copied { hosts: 0, open: 0, files: 4, left_out: 1 });
    drop(store);
    assert_eq!(restore(&file, &restored, Timestamp::now()).unwrap().files, 4);
    for (name, mode) in
        [("ca/key.pem", 0o600), ("ca/old/empty", 0o644), ("manifest", 0o640), ("name of \u{1b} bytes", 0o400)]
    {
        assert_eq!(fs::read(restored.join(name)).unwrap(), fs::read(data.join(name)).unwrap(), "{name}");
        assert_eq!(fs::metadata(restored.join(name)).unwrap().mode() & 0o777, mode, "{name}");
    }
    let mut names: Vec<_> = fs::read_dir(&restored).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca", "collector.sqlite3", "lock", "manifest", "name of \u{1b} bytes"]);
    assert_eq!(fs::metadata(restored.join("collector.sqlite3")).unwrap().mode() & 0o777, 0o600);
    // A copy of a copy is one, without a table that is no store's.
    drop(open(&restored));
    let again = work.path().join("again");
    backup(&restored, &again).unwrap();
    restore(&again, &work.path().join("twice"), Timestamp::now()).unwrap();
}

#[tokio::test]
async fn what_is_no_copy_is_refused_and_makes_nothing() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let store = open(&at("data"));
    let mut agent = FakeAgent::new(1);
    let events: Vec<Event> = (0..400).map(|n| agent.opened(format!("d{}/f{n}", n % 7))).collect();
    answer(&store, "h", &events).await;
    backup(&at("data"), &at("copy")).unwrap();

    assert!(matches!(backup(&at("data"), &at("copy")), Err(StoreError::Exists(_))));
    assert!(matches!(backup(&at("nothing"), &at("x")), Err(StoreError::Open { .. })));
    fs::create_dir(at("empty")).unwrap();
    assert!(matches!(backup(&at("empty"), &at("x")), Err(StoreError::Open { .. })));
    assert!(matches!(backup(&at("data"), &at("no/x")), Err(StoreError::Open { .. })));
    assert!(matches!(restore(&at("nothing"), &at("new"), Timestamp::now()), Err(StoreError::Open { .. })));
    assert!(matches!(restore(&at("copy"), &at("data"), Timestamp::now()), Err(StoreError::InUse(_))));
    drop(store);
    assert!(matches!(restore(&at("copy"), &at("data"), Timestamp::now()), Err(StoreError::Exists(_))));

    let good = fs::read(at("copy")).unwrap();
    let change = |change: &dyn Fn(&Connection)| {
        fs::write(at("changed"), &good).unwrap();
        let connection = Connection::open(at("changed")).unwrap();
        change(&connection);
        drop(connection);
        fs::read(at("changed")).unwrap()
    };
    let mut flipped = good.clone();
    // Every page's header but the first's.
    flipped.chunks_mut(4096).skip(1).for_each(|page| page[0] ^= 0x55);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("text", b"not a database, though long enough to look at".repeat(100)),
        ("cut", good[..good.len() / 2].to_vec()),
        ("flipped", flipped),
        ("of another program", change(&|c| c.execute_batch("DROP TABLE findings").unwrap())),
        ("without a version", change(&|c| c.pragma_update(None, "user_version", 0).unwrap())),
        (
            "an index that lies",
            change(&|c| {
                c.pragma_update(None, "writable_schema", true).unwrap();
                c.execute(
                    "UPDATE sqlite_schema SET sql = replace(sql, '(id)', '(count)') WHERE name = 'findings_open'",
                    [],
                )
                .unwrap();
            }),
        ),
        (
            "a file outside",
            change(&|c| {
                c.execute("INSERT INTO files_beside VALUES (?1, 0, 384, X'78')", [&b"../outside"[..]]).unwrap();
            }),
        ),
        (
            "a file at the root",
            change(&|c| {
                c.execute("INSERT INTO files_beside VALUES (?1, 0, 384, X'78')", [&b"/tmp/outside"[..]]).unwrap();
            }),
        ),
        (
            "a file in place of the store",
            change(&|c| {
                c.execute("INSERT INTO files_beside VALUES (?1, 0, 384, X'78')", [&b"collector.sqlite3"[..]]).unwrap();
            }),
        ),
    ] {
        fs::write(at("bad"), bytes).unwrap();
        let error = restore(&at("bad"), &at("new"), Timestamp::now()).unwrap_err();
        assert!(matches!(error, StoreError::NoStore { .. }), "{name}: {error:?}");
        assert!(!at("new").join("collector.sqlite3").exists() && !at("outside").exists(), "{name}");
    }
    fs::write(at("bad"), change(&|c| c.pragma_update(None, "user_version", 99).unwrap())).unwrap();
    let error = restore(&at("bad"), &at("new"), Timestamp::now()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");

    // What was left by one that did not end is in nobody's way.
    assert_eq!(restore(&at("copy"), &at("new"), Timestamp::now()).unwrap().open, 400);
    assert_eq!(open_paths(&open(&at("new")), "h").await.len(), 400);
}
