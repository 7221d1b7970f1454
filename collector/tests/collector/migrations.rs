//! Stores of every earlier version, made of the statements that made them then, filled, opened, and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use driftlock_collector::batch::decode;
use driftlock_collector::clock::Timestamp;
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use driftlock_collector::store::{Applied, Delivery, FindingQuery, HostQuery, Lifetime, Store as _, StoreError};
use driftlock_common::coverage::Coverage;
use driftlock_common::drift::Change;
use driftlock_common::event::Event;
use driftlock_common::policy::Severity;
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::kit::{FakeAgent, finding};

/// What each version added, as it was when it was the newest. These files are never edited.
const VERSIONS: [&str; 4] = [
    include_str!("migrations/version_1.sql"),
    include_str!("migrations/version_2.sql"),
    include_str!("migrations/version_3.sql"),
    include_str!("migrations/version_4.sql"),
];

/// The events of the one agent, with which the store is filled.
fn events() -> Vec<Event> {
    let mut agent = FakeAgent::new(1);
    vec![agent.opened("etc/open"), agent.opened("etc/over"), agent.resolved("etc/over")]
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("collector.sqlite3")
}

/// A store of a version with rows in every table.
fn old_store(version: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let connection = Connection::open(file(&directory)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    for statements in &VERSIONS[..version] {
        connection.execute_batch(statements).unwrap();
    }
    connection.pragma_update(None, "user_version", i64::try_from(version).unwrap()).unwrap();
    let epoch = FakeAgent::new(1).epoch;
    let hosts = "INSERT INTO hosts (host, name, claimed, labels, version, ephemeral, interval_s, epoch, first_seen,
        last_seen, beat_time, stopped_at, conflict_at) VALUES (?1, ?2, 'claimed', '{\"role\":\"web\"}', '0.1.0', 1, 30,
        ?3, 1000, 2000, 1500, NULL, 1700)";
    connection.execute(hosts, params!["web-1", "web-1.example", epoch]).unwrap();
    connection.execute(hosts, params!["web-2", "", "f".repeat(32)]).unwrap();
    if version >= 2 {
        let agent = r#"{"started_at":"2026-01-02T03:04:05Z","starts":2}"#;
        connection.execute("UPDATE hosts SET agent = ?1 WHERE host = 'web-1'", [agent]).unwrap();
    }
    let epochs = "INSERT INTO epochs (host, epoch, ack, lost, first_seen) VALUES (?1, ?2, ?3, ?4, 1000)";
    connection.execute(epochs, params!["web-1", epoch, 3, 2]).unwrap();
    connection.execute(epochs, params!["web-1", "0".repeat(32), 70, 0]).unwrap();
    connection.execute(epochs, params!["web-2", "f".repeat(32), 0, 0]).unwrap();
    let coverage = Coverage {
        watch_mode: "inotify".into(),
        last_sweep: Some("2026-01-02T04:04:05.678+01:00".into()),
        unverifiable: 3,
        ..Coverage::default()
    };
    let coverage = serde_json::to_string(&coverage).unwrap();
    let manifest = serde_json::to_string(&crate::kit::manifest()).unwrap();
    connection
        .execute(
            "INSERT INTO targets (host, target, root, manifest, policy, coverage, verified_at, resync, snapshot_next,
                 open_digest) VALUES ('web-1', 'app', '/srv/app', ?1, NULL, ?2, 1800, 0, 1, 'blake3:00'),
                 ('web-1', 'bare', '', NULL, NULL, NULL, NULL, 1, NULL, NULL)",
            params![manifest, coverage],
        )
        .unwrap();
    if version >= 3 {
        connection
            .execute_batch(
                "INSERT INTO identities VALUES ('web-1', '{\"site\":\"here\"}', 'key', 900, 910, 99000);
                 INSERT INTO revocations VALUES ('web-2', 950);
                 INSERT INTO enrolment_tokens VALUES ('00', 'web-*', '{}', 0, 800, 990, 900, 'web-1', '01');
                 INSERT INTO access_tokens VALUES ('02', NULL, 800, 99000, NULL);",
            )
            .unwrap();
    }
    if version >= 4 {
        // What the collector of that version wrote beside.
        connection
            .execute(
                "UPDATE targets SET sealed = 1, swept_at = ?1, unverifiable = 3 WHERE target = 'app'",
                [Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap().millis()],
            )
            .unwrap();
        connection.execute_batch("UPDATE epochs SET generation = (SELECT generation FROM store)").unwrap();
    }
    connection.execute("INSERT INTO snapshot_paths VALUES ('web-1', 'app', X'ff')", []).unwrap();
    for (path, change, severity, state) in [
        (&b"etc/open"[..], "changed", 3, "open"),
        (b"etc/over", "changed", 3, "resolved"),
        (b"etc/\xff", "changed", 3, "open"),
        (b"etc/gap", "unverifiable", 5, "open"),
        (b"var/log", "added", 0, "open"),
    ] {
        let mut body = finding(path, 4).finding;
        body.change = Change::ALL.into_iter().find(|known| known.name() == change).unwrap();
        connection
            .execute(
                "INSERT INTO findings (host, target, path, directory, change, severity, rule, alone, finding, state,
                     opened_at, updated_at, resolved_at, count, flapping, received_at)
                 VALUES ('web-1', 'app', ?1, X'657463', ?2, ?3, '-', 1, ?4, ?5, 1100, 1200, ?6, 4, 9, 1300)",
                params![
                    path,
                    change,
                    severity,
                    serde_json::to_string(&body).unwrap(),
                    state,
                    (state == "resolved").then_some(1200)
                ],
            )
            .unwrap();
    }
    for (key, state, resolved_at) in [("a", "open", None), ("b", "resolved", Some(1900))] {
        connection
            .execute(
                "INSERT INTO conditions (host, key, target, reason, path, detail, origin, state, opened_at, updated_at,
                     resolved_at) VALUES ('web-1', ?1, NULL, 'overflow', NULL, 'x', 'agent', ?2, 1400, 1900, ?3)",
                params![key, state, resolved_at],
            )
            .unwrap();
    }
    for event in events() {
        connection
            .execute(
                "INSERT INTO events (host, epoch, sequence, type, time, received_at, json)
                 VALUES ('web-1', ?1, ?2, 'x', 1000, 1001, ?3)",
                params![
                    event.epoch,
                    i64::try_from(event.sequence_number().unwrap().unwrap()).unwrap(),
                    serde_json::to_string(&event).unwrap()
                ],
            )
            .unwrap();
    }
    drop(connection);
    directory
}

type Rows = Vec<Vec<Value>>;

/// Names of the columns of every table, or those of `like`, with their rows. Without one that version 5 has no more.
fn tables(file: &Path, like: Option<&BTreeMap<String, (Vec<String>, Rows)>>) -> BTreeMap<String, (Vec<String>, Rows)> {
    let connection = Connection::open(file).unwrap();
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    let names: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let mut tables = BTreeMap::new();
    for name in names.into_iter().filter(|name| like.is_none_or(|like| like.contains_key(name))) {
        let columns: Vec<String> = match like {
            Some(like) => like[&name].0.clone(),
            None => {
                let mut columns = connection
                    .prepare(&format!("SELECT name FROM pragma_table_info('{name}') WHERE name <> 'beat_time'"))
                    .unwrap();
                columns.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
            }
        };
        let list = columns.join(", ");
        let mut rows = connection.prepare(&format!("SELECT {list} FROM {name} ORDER BY {list}")).unwrap();
        let rows = rows
            .query_map([], |row| (0..columns.len()).map(|column| row.get::<_, Value>(column)).collect())
            .unwrap()
            .collect::<Result<Rows, _>>()
            .unwrap();
        tables.insert(name, (columns, rows));
    }
    tables
}

fn schema(file: &Path) -> Vec<(String, String)> {
    let connection = Connection::open(file).unwrap();
    let mut statement =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_store_of_every_earlier_version_is_what_it_was() {
    let fresh = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(fresh.path(), Limits::default()).unwrap());
    for version in 1..=VERSIONS.len() {
        let directory = old_store(version);
        let before = tables(&file(&directory), None);
        assert!(before.values().filter(|(_, rows)| !rows.is_empty()).count() >= 7, "{before:?}");
        drop(SqliteStore::open(directory.path(), Limits::default()).unwrap());
        assert_eq!(tables(&file(&directory), Some(&before)), before, "version {version}: no row was changed");
        assert_eq!(schema(&file(&directory)), schema(&file(&fresh)), "version {version}: it is as one made now");

        let store = SqliteStore::open(directory.path(), Limits::default()).unwrap();
        let open = FindingQuery { state: Some(Lifetime::Open), limit: 99, ..FindingQuery::default() };
        let open = store.findings(open).await.unwrap().items;
        assert_eq!(open.len(), 4);
        assert!(open.iter().all(|found| (found.count, found.flapping) == (4, Some(9))));
        let mut totals = store.totals().await.unwrap();
        totals.findings.sort();
        assert_eq!(
            totals.findings,
            [
                (Change::Added, None, 1),
                (Change::Changed, Some(Severity::Medium), 2),
                (Change::Unverifiable, Some(Severity::Critical), 1)
            ]
        );
        assert_eq!(totals.events, 3);
        let hosts = store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap().items;
        let app = &hosts[0].targets[0];
        assert_eq!(app.swept_at.unwrap().to_string(), "2026-01-02T03:04:05.678Z");
        let facts = store.facts().await.unwrap();
        for (host, known) in hosts.iter().zip(&facts) {
            assert_eq!((&host.host, format!("{:?}", host.facts())), (&known.host, format!("{:?}", known.facts)));
        }
        let told = &facts[0].facts;
        assert_eq!((told.open_drift, told.open_unverifiable, told.targets[0].unverifiable), (2, 1, 3));
        assert_eq!(hosts[0].lost, 2);

        // What was taken before is known, and the first gap is one, as nothing was restored.
        let mut agent = FakeAgent { sequence: 4, ..FakeAgent::new(1) };
        let mut sent = events();
        sent.push(agent.opened("etc/new"));
        let batch = decode(&serde_json::to_vec(&sent).unwrap()).unwrap();
        let delivery = Delivery { host: "web-1".into(), received_at: Timestamp::now(), from: None, batch };
        let Applied::Answer(answer) = store.apply(delivery).await.unwrap() else { panic!("refused") };
        assert_eq!((answer.duplicates, answer.accepted, answer.ack), (3, 1, 5));
        let hosts = store.hosts(HostQuery { limit: 9, ..HostQuery::default() }).await.unwrap().items;
        assert_eq!(hosts[0].lost, 3);
    }
}

#[test]
fn a_step_that_fails_leaves_everything_as_it_was() {
    let directory = old_store(2);
    // Something is in the way of a later version.
    Connection::open(file(&directory)).unwrap().execute_batch("CREATE TABLE tallies (x)").unwrap();
    let before = (schema(&file(&directory)), tables(&file(&directory), None));
    let error = SqliteStore::open(directory.path(), Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::Engine(_)), "{error}");
    assert_eq!((schema(&file(&directory)), tables(&file(&directory), None)), before);
    let version: i64 =
        Connection::open(file(&directory)).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
}
