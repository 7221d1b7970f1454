//! A day of a collector that does not answer, by a clock that is only counted: nothing is lost within the spool, and nobody is
//! asked more often than is of use.

use std::time::Duration;

use driftlock_common::event::{Answer, Body, Event};

use super::once::{self, Undelivered};
use super::{Client, Courier, Reply, Timeouts};
use crate::config::{Config, DEFAULT_SPOOL, Report};
use crate::http::spread;
use crate::journal::{Entry, Journal};

/// One of these is found every three seconds of the day.
fn entry(number: usize) -> Entry {
    let digest = "0123456789abcdef".repeat(4);
    let node = |mode: &str| {
        serde_json::json!({
            "type": "file", "mode": mode, "uid": 0, "gid": 0, "size": 1_234_567,
            "blake3": format!("blake3:{digest}"), "sha256": format!("sha256:{digest}"),
        })
    };
    let body = serde_json::json!({
        "target": "app", "opened_at": "2026-01-01T00:00:00.000Z", "count": 1,
        "finding": {
            "path": format!("usr/lib/x86_64-linux-gnu/some-application/plugins/module-{number:06}.so"),
            "change": "changed", "attributes": ["content", "mode"], "expected": node("0644"), "observed": node("0755"),
        },
    });
    Entry {
        time: "2026-01-01T00:00:00.000Z".to_owned(),
        body: Body::FindingOpened(serde_json::from_value(body).unwrap()),
    }
}

#[test]
fn a_day_of_a_dead_collector_fits_into_the_spool_and_is_delivered_in_order() {
    const MINUTE: usize = 20;
    const MINUTES: usize = 24 * 60;
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), None, DEFAULT_SPOOL).unwrap();
    let mut courier = Courier::new();
    let (mut attempts, mut longest) = (0u32, Duration::ZERO);
    for minute in 0..MINUTES {
        let entries: Vec<Entry> = (0..MINUTE).map(|second| entry(minute * MINUTE + second)).collect();
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let appended = journal.append(rest).unwrap();
            assert_eq!(appended.dropped, 0, "minute {minute}");
            rest = &rest[appended.entries..];
        }
        let now = Duration::from_secs(60 * minute as u64);
        if courier.not_before() <= now {
            let batch = journal.batch(courier.max_events()).unwrap().unwrap();
            let reply = Reply::Retry { why: "nobody".to_owned(), after: None };
            let random = attempts.wrapping_mul(0x9e37_79b9);
            let verdict = courier.reply(reply, batch.events, batch.last, journal.sequence(), now, random);
            assert_eq!(verdict.acknowledged, None);
            attempts += 1;
            longest = longest.max(courier.not_before() - now);
        }
    }
    let told = (MINUTE * MINUTES) as u64;
    assert_eq!((journal.undelivered(), journal.sequence()), (told, told));
    assert!(longest <= Duration::from_mins(5) && attempts < 24 * 60, "{attempts} attempts, at most {longest:?} apart");
    // What is on disk is what a restart finds.
    drop(journal);
    let (mut journal, recovered) = Journal::open(dir.path(), None, DEFAULT_SPOOL).unwrap();
    assert_eq!((recovered.findings.len() as u64, journal.undelivered()), (told, told));
    let now = Duration::from_hours(24);
    let mut next = 1;
    while let Some(batch) = journal.batch(courier.max_events()).unwrap() {
        for event in serde_json::from_slice::<Vec<Event>>(&batch.json).unwrap() {
            assert_eq!(event.sequence_number().unwrap(), Some(next));
            next += 1;
        }
        let answer = Answer { accepted: batch.events as u64, ack: batch.last, ..Answer::default() };
        let verdict = courier.reply(Reply::Answered(answer), batch.events, batch.last, journal.sequence(), now, 0);
        journal.acknowledge(verdict.acknowledged.unwrap()).unwrap();
        assert_eq!(courier.not_before(), now, "no pause while it goes on");
    }
    assert_eq!(next, told + 1);
    assert!(journal.is_delivered());
}

#[test]
fn ten_thousand_hosts_do_not_come_back_at_once() {
    // Each waits by its own random number: no tenth of the time has more than its share of them, give or take.
    let waits =
        (0..10_000u32).map(|host| spread(Duration::from_mins(5), host.wrapping_mul(0x9e37_79b9)).as_secs() / 30);
    let mut tenths = [0u32; 11];
    waits.for_each(|tenth| tenths[usize::try_from(tenth).unwrap()] += 1);
    assert!(tenths[..10].iter().all(|hosts| (900..1100).contains(hosts)), "{tenths:?}");
}

#[tokio::test]
async fn what_one_run_has_to_say_is_not_lost_in_silence() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let report = Report { endpoint: Some(endpoint), ..Config::new("/s").report };
    let client = Client::new(&report, None, Timeouts::default()).unwrap().unwrap();
    let beat = serde_json::from_value(serde_json::json!({
        "host": "ci", "version": "1", "interval_s": 30, "sequence": 0, "targets": [],
    }));
    let report = once::Report {
        host: "ci".parse().unwrap(),
        time: "2026-01-01T00:00:00Z".to_owned(),
        bodies: vec![entry(1).body],
        beat: beat.unwrap(),
        stopped: serde_json::from_value(serde_json::json!({"reason": "scanned", "ephemeral": true})).unwrap(),
    };
    let why = once::deliver(&client, report, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(&why, Undelivered::Late(1, why) if why.contains("refused")), "{why}");
}
