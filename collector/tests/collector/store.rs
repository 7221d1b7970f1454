//! What every store must keep: the promises of the trait, without HTTP.

use driftlock_collector::clock::Timestamp;
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use driftlock_collector::store::{Changed, FindingQuery, Lifetime, Store as _, StoreError};

use crate::kit::{Collector, FakeAgent};

#[tokio::test]
async fn changes_are_published_in_the_order_of_their_commits() {
    let collector = Collector::new();
    let mut changes = collector.store.changes();
    let mut agent = FakeAgent::new(1);
    let events = [agent.opened("a"), agent.opened("b"), agent.resolved("a")];
    collector.post(&events).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let Changed::Finding(record) = &*changes.recv().await.unwrap() {
            seen.push((record.finding.path.clone(), record.state));
        }
    }
    let expected = [("a", Lifetime::Open), ("b", Lifetime::Open), ("a", Lifetime::Resolved)];
    assert_eq!(seen, expected.map(|(path, state)| (path.to_owned(), state)));
}

#[tokio::test]
async fn a_directory_belongs_to_one_collector() {
    let directory = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(directory.path(), Limits::default()).unwrap();
    let second = SqliteStore::open(directory.path(), Limits::default());
    assert!(matches!(second, Err(StoreError::InUse(_))));
    drop(first);
    SqliteStore::open(directory.path(), Limits::default()).unwrap();
}

#[test]
fn a_later_version_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(directory.path(), Limits::default()).unwrap());
    let file = directory.path().join("collector.sqlite3");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = SqliteStore::open(directory.path(), Limits::default()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    let version: i64 =
        rusqlite::Connection::open(&file).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

#[tokio::test]
async fn names_that_are_not_text_are_kept_as_bytes() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let names: [&[u8]; 4] = [b"\xff", b"\\xff", b"a\nb", "\u{fffd}".as_bytes()];
    let events: Vec<_> = names.iter().map(|name| agent.opened(name)).collect();
    collector.post(&events).await;
    let open = collector.findings(Lifetime::Open).await;
    let mut paths: Vec<_> = open.iter().map(|record| record.path.as_slice()).collect();
    paths.sort_unstable();
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(paths, sorted);
    for name in names {
        let query = FindingQuery { path: Some(name.to_vec()), limit: 9, ..FindingQuery::default() };
        assert_eq!(collector.store.findings(query).await.unwrap().items.len(), 1);
    }
    let resolved = agent.resolved(b"\xff");
    collector.post(&[resolved]).await;
    assert_eq!(collector.findings(Lifetime::Open).await.len(), 3);
}

#[tokio::test]
async fn batches_that_come_together_are_each_answered_for_themselves() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events: Vec<_> = (0..50).map(|n| agent.opened(format!("f{n}"))).collect();
    collector.apply_at(&events[..1], Timestamp::now()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for event in events {
        let store = std::sync::Arc::clone(&collector.store);
        tasks.spawn(async move {
            let batch = driftlock_collector::batch::decode(&serde_json::to_vec(&[event]).unwrap()).unwrap();
            let delivery = driftlock_collector::store::Delivery {
                host: "web-1".into(),
                received_at: Timestamp::now(),
                from: None,
                batch,
            };
            store.apply(delivery).await.unwrap()
        });
    }
    assert_eq!(tasks.join_all().await.len(), 50);
}
