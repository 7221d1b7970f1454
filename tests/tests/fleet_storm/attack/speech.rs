//! Owns what a host says that has joined, and should not. Must not own credentials.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::fleet::agent::{Agent, post};
use driftlock_tests::fleet::model::{Kind, Model};
use driftlock_tests::fleet::wire::{Wire, head, request};
use driftlock_tests::http::Answer;
use driftlock_tests::random::Random;
use serde_json::{Value, json};

use super::{Attack, DELAYED, REFUSED, REJECTED, Stage, expect};
use crate::fleet::Counts;

/// Whom attackers claim to be.
const VICTIM: &str = "host-00001";
/// What a bomb may cost, in bytes of memory: what few batches of the largest size take while they are read.
const MOST_MEMORY: u64 = 96 << 20;

pub(super) fn attacks<'a>(stage: &'a Stage, bystander: &Agent, fleet: &'a Counts) -> Vec<Attack<'a>> {
    let recorded = recorded(&bystander.model);
    vec![
        Attack::new("an event of another source", None, forged_source(stage)),
        Attack::new("a batch at another host's path", None, another_path(stage)),
        Attack::new("JSON that is deep or wide, or none", REFUSED, json_of_every_kind(stage)),
        Attack::new("events that are deep, wide or torn", REJECTED, events_of_every_kind(stage)),
        Attack::new("compression bombs", REFUSED, bombs(stage)),
        Attack::new("bodies that are too large", REFUSED, large(stage)),
        Attack::new("bodies that stop in the middle", DELAYED, stuck(stage, fleet)),
        Attack::new("what was said before, again", None, replay(stage, recorded)),
        Attack::new("an epoch that is over", REFUSED, epoch_that_is_over(stage)),
        Attack::new("nonsense without end", REFUSED, flood(stage)),
    ]
}

/// A batch as the bystander sent it: somebody who listened where it is not encrypted would have it.
fn recorded(bystander: &Model) -> Vec<u8> {
    let mut again = Model::new(&bystander.host, &mut Random::new(99));
    again.life.epoch.clone_from(&bystander.life.epoch);
    again.waiting.clear();
    (again.life.last, again.life.given) = (0, Vec::new());
    // The same sequences, with other words: what would be believed if it were the bystander's.
    again.is_as_sealed(b"etc/app.toml");
    again.differs(b"planted", Kind::Drift, 1);
    again.snapshot();
    again.batch(100, true).json
}

async fn forged_source(stage: &Stage) -> Result<u64> {
    // One that has joined and says nothing yet, so that nothing of its own stands where a forgery could.
    const SILENT: &str = "evil-victim";
    stage.evil(SILENT).await?;
    let mut evil = stage.evil("evil-source").await?;
    evil.agent.model = Model::new(VICTIM, &mut Random::new(1));
    evil.agent.model.name = SILENT.to_owned();
    evil.agent.model.differs(b"forged", Kind::Drift, 1);
    evil.says().await?;
    let batch = evil.agent.model.batch(100, true);
    let named = evil.posts_with(&[("driftlock-host", VICTIM)], &batch.json).await?;
    ensure!(named.status == 200, "{}", named.text());
    for (host, expected) in [("evil-source", 1), (VICTIM, 0)] {
        let listed =
            stage.endpoint.list(&format!("/v1/findings?state=open&host={host}&path=forged"), "findings").await?;
        ensure!(listed.len() == expected, "{host}: {listed:?}");
    }
    Ok(0)
}

async fn another_path(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-path").await?;
    let digest = "0".repeat(64);
    for (method, path, status) in [
        ("POST", format!("/v1/events/{VICTIM}"), 404),
        ("POST", format!("/v1/hosts/{VICTIM}/events"), 404),
        ("POST", format!("/v1/hosts/{VICTIM}"), 404),
        ("DELETE", format!("/v1/hosts/{VICTIM}"), 404),
        ("POST", "/v1/hosts".to_owned(), 405),
        ("PUT", format!("/v1/manifests/{digest}"), 401),
        ("PUT", "/v1/targets/app/bundle".to_owned(), 401),
        ("GET", format!("/v1/findings?host={VICTIM}"), 401),
        ("GET", "/v1/hosts".to_owned(), 401),
        ("GET", "/v1/conditions".to_owned(), 401),
        ("GET", "/v1/stream".to_owned(), 401),
        ("GET", "/metrics".to_owned(), 401),
        ("GET", format!("/host?name={VICTIM}"), 401),
        ("GET", "/v1/manifests/..%2f..%2fcollector.sqlite3".to_owned(), 400),
        ("GET", "/v1/targets/..%2f..%2fca/bundle".to_owned(), 404),
        ("GET", "/assets/..%2f..%2f..%2fetc%2fpasswd".to_owned(), 401),
        ("POST", "/enroll-token".to_owned(), 404),
        ("POST", "/revoke".to_owned(), 404),
    ] {
        let answer = evil.asks(&request(method, &path, &[], b"[]")).await?;
        ensure!(answer.status == status, "{method} {path}: {} instead of {status}: {}", answer.status, answer.text());
        ensure!(!answer.text().contains(VICTIM), "{method} {path}: {}", answer.text());
    }
    Ok(0)
}

async fn json_of_every_kind(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-json").await?;
    let wide = |item: &str, number: usize| format!("[{}{item}]", format!("{item},").repeat(number - 1));
    let bodies = [
        ("an array without an end", "[".repeat(1_000_000), 400, "json"),
        ("an object in an object", "{\"a\":".repeat(150_000), 400, "json"),
        ("an array around everything", format!("[{}{}]", "[".repeat(400_000), "]".repeat(400_001)), 400, "json"),
        ("half a million empty arrays", wide("[]", 340_000), 413, "too_large"),
        ("as many numbers", wide("0", 500_000), 413, "too_large"),
        ("an object of objects", format!("{{\"a\":{}}}", wide("{}", 300_000)), 400, "json"),
        ("a text without an end", format!("[\"{}", "\\u0041".repeat(150_000)), 400, "json"),
        ("an array and more", "[][]".to_owned(), 400, "json"),
        ("nothing", String::new(), 400, "json"),
    ];
    let number = bodies.len() as u64;
    for (what, body, status, code) in bodies {
        expect(what, &evil.posts(body.as_bytes()).await?, status, code)?;
    }
    expect("no UTF-8", &evil.posts(b"[\"\xff\xfe\"]").await?, 400, "json")?;
    expect("a byte order mark of UTF-16", &evil.posts(b"\xfe\xff\0[\0]").await?, 400, "json")?;
    Ok(number + 2)
}

async fn events_of_every_kind(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-events").await?;
    let event: Value = serde_json::from_str(&evil.agent.model.waiting[0].json)?;
    let text = event.to_string();
    let with = |key: &str, value: &str| text.replacen('{', &format!("{{\"{key}\":{value},"), 1);
    let keys: String = (0..60_000).map(|number| format!("\"k{number}\":0,")).collect();
    let long = "x".repeat(300_000);
    let events = [
        format!("{{{keys}\"id\":\"wide\"}}"),
        format!("{{\"id\":\"deep\",\"data\":{}{}}}", "[".repeat(300_000), "]".repeat(300_000)),
        with("data", &format!("{}0{}", "{\"a\":".repeat(60_000), "}".repeat(60_000))),
        text.replace("\"specversion\":\"1.0\"", &format!("\"specversion\":\"{long}\"")),
        text.replace("\"target\":\"app\"", &format!("\"target\":\"{long}\"")),
        text.replace("\"part\":0", "\"part\":1e400"),
        text.replace("\"part\":0", "\"part\":-1"),
        text.replace("\"target\":\"app\"", "\"target\":\"\\ud800\""),
        format!("{{\"id\":\"{long}\"}}"),
        "null".to_owned(),
        "1e999".to_owned(),
    ];
    let number = events.len();
    for event in events {
        let answer = evil.posts(format!("[{event}]").as_bytes()).await?.json()?;
        let rejected = answer["rejected"].as_array().map_or(0, Vec::len);
        let shown: String = event.chars().take(100).collect();
        ensure!((rejected, answer["accepted"].as_u64()) == (1, Some(0)), "{answer} for {shown}");
        ensure!(answer.to_string().len() < 1000, "an answer as long as what it answers: {shown}");
    }
    Ok(number as u64)
}

/// A frame of zstd that holds this many zeros.
fn zeros(bytes: u64, window_log: Option<u32>) -> Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
    if let Some(window_log) = window_log {
        encoder.long_distance_matching(true)?;
        encoder.window_log(window_log)?;
    }
    let block = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        encoder.write_all(&block)?;
    }
    Ok(encoder.finish()?)
}

async fn bombs(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-bomb").await?;
    let before = stage.peak()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&vec![0; 64 << 20])?;
    let gzip = gzip.finish()?;
    let bomb = zeros(128 << 20, None)?;
    let small = zeros(1 << 20, None)?;
    // RFC 8878, 3.1.1: one segment, so that its window is its size, which is said in eight bytes.
    let mut huge = b"\x28\xb5\x2f\xfd\xe0".to_vec();
    huge.extend_from_slice(&(1_u64 << 60).to_le_bytes());
    huge.extend_from_slice(b"\x03\0\0");
    // The same, 3.1.2: frames to be skipped.
    let mut skipped = b"\x50\x2a\x4d\x18\xff\xff\xff\xff".to_vec();
    skipped.extend_from_slice(&[0; 4096]);
    let zstd = &[("content-encoding", "zstd")][..];
    let coded = |coding: &'static str| vec![("content-encoding", coding)];
    let cases = vec![
        ("zeros", zstd.to_vec(), bomb.clone(), 413, "too_large"),
        ("frames of zeros", zstd.to_vec(), small.repeat(2000), 413, "too_large"),
        ("a window of 128 MiB", zstd.to_vec(), zeros(2 << 20, Some(27))?, 400, "compression"),
        ("a window of 1 GiB", zstd.to_vec(), zeros(2 << 20, Some(30))?, 400, "compression"),
        ("a size of an exbibyte", zstd.to_vec(), huge, 400, "compression"),
        ("a frame to be skipped that does not end", zstd.to_vec(), skipped, 400, "compression"),
        ("a frame that is cut off", zstd.to_vec(), bomb[..bomb.len() / 2].to_vec(), 413, "too_large"),
        ("a bomb in a bomb", zstd.to_vec(), zstd::bulk::compress(&bomb, 3)?, 400, "json"),
        ("gzip", coded("gzip"), gzip.clone(), 415, "content_encoding"),
        ("gzip that is called zstd", zstd.to_vec(), gzip, 400, "compression"),
        ("zstd, twice", coded("zstd, zstd"), zstd::bulk::compress(&bomb, 3)?, 415, "content_encoding"),
        ("deflate", coded("deflate"), small.clone(), 415, "content_encoding"),
        ("br", coded("br"), small, 415, "content_encoding"),
    ];
    let number = cases.len() as u64;
    for (what, headers, body, status, code) in cases {
        expect(what, &evil.posts_with(&headers, &body).await?, status, code)?;
    }
    let more = stage.peak()?.saturating_sub(before);
    ensure!(more < MOST_MEMORY, "bombs took {} MiB", more >> 20);
    Ok(number)
}

async fn large(stage: &Stage) -> Result<u64> {
    let evil = stage.evil("evil-size").await?;
    let headers = [("content-type", "application/cloudevents-batch+json")];
    // Nothing of it has to come before it is refused.
    let mut wire = Wire::open(stage.endpoint.address(), &evil.identity.config).await?;
    wire.send(&head("POST", "/v1/events", &headers, 1 << 30)).await?;
    expect("a gibibyte that is announced", &wire.answer().await?, 413, "too_large")?;
    // What is no length is no batch either, so it is not counted as one.
    let mut wire = Wire::open(stage.endpoint.address(), &evil.identity.config).await?;
    wire.send(&head("POST", "/v1/events", &headers, usize::MAX)).await?;
    let answer = wire.answer().await?;
    ensure!((400..500).contains(&answer.status), "a length that is none: {answer:?}");
    let before = stage.peak()?;
    // In chunks, without an end.
    let mut wire = Wire::open(stage.endpoint.address(), &evil.identity.config).await?;
    wire.send(
        b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cloudevents-batch+json\r\n\
          transfer-encoding: chunked\r\n\r\n",
    )
    .await?;
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    let mut sent = 0_u64;
    while sent < 1 << 30 && wire.send(&chunk).await.is_ok() {
        sent += 0x10000;
    }
    ensure!(sent < 1 << 30, "a gibibyte was taken");
    let more = stage.peak()?.saturating_sub(before);
    ensure!(more < MOST_MEMORY, "a body took {} MiB", more >> 20);
    Ok(2)
}

/// Two of a host are as many as it may have under way. They hold up nobody else.
async fn stuck(stage: &Stage, fleet: &Counts) -> Result<u64> {
    let mut evil = stage.evil("evil-stuck").await?;
    let headers = [("content-type", "application/cloudevents-batch+json")];
    let mut begun = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::open(stage.endpoint.address(), &evil.identity.config).await?;
        wire.send(&head("POST", "/v1/events", &headers, 1_000_000)).await?;
        wire.send(&vec![b' '; 900_000]).await?;
        begun.push(wire);
    }
    let mut delayed = 0;
    // A third is refused once both have begun to be read.
    let is_refused = async || {
        let answer = evil.posts(b"[]").await?;
        delayed += u64::from(answer.status == 429);
        Ok(answer)
    };
    let answer = stage.until(|answer: &Answer| answer.status == 429, is_refused).await?;
    expect("a third at once", &answer, 429, "under_way")?;
    let (before, _) = fleet.deliveries();
    stage.until(|taken| *taken > before + 50, async || Ok(fleet.deliveries().0)).await?;
    drop(begun);
    Ok(delayed)
}

async fn replay(stage: &Stage, recorded: Vec<u8>) -> Result<u64> {
    let mut evil = stage.evil("evil-replay").await?;
    // Its own words, again and again.
    let batch = evil.agent.model.batch(100, false);
    let first = evil.posts(&batch.json).await?.json()?;
    ensure!(first["accepted"] == batch.events, "{first}");
    for _ in 0..20 {
        let again = evil.posts(&batch.json).await?.json()?;
        ensure!((&again["accepted"], &again["duplicates"]) == (&json!(0), &json!(batch.events)), "{again}");
    }
    // Those of another host are its own, and change nothing of the other.
    let answer = evil.posts(&recorded).await?;
    ensure!(answer.status == 200, "{}", answer.text());
    for (host, expected) in [("evil-replay", 1), ("bystander", 0)] {
        let path = format!("/v1/findings?state=open&host={host}&path=planted");
        let listed = stage.endpoint.list(&path, "findings").await?;
        ensure!(listed.len() == expected, "{host}: {listed:?}");
    }
    Ok(0)
}

async fn epoch_that_is_over(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-epoch").await?;
    evil.says().await?;
    evil.agent.model.differs(b"before", Kind::Drift, 1);
    let kept = evil.agent.model.batch(100, true).json;
    evil.agent.model.lose_state(&mut Random::new(5));
    evil.agent.model.is_as_sealed(b"before");
    evil.says().await?;
    expect("an epoch that is over", &evil.posts(&kept).await?, 403, "identity_conflict")?;
    let listed = stage.endpoint.list("/v1/conditions?state=open&host=evil-epoch", "conditions").await?;
    let reasons: Vec<&Value> = listed.iter().map(|condition| &condition["reason"]).collect();
    ensure!(reasons == ["identity_conflict"], "{listed:?}");
    let open = stage.endpoint.list("/v1/findings?state=open&host=evil-epoch", "findings").await?;
    ensure!(open.is_empty(), "{open:?}");
    Ok(1)
}

/// Each costs as much as the largest batch, so that who sends them soon has to wait: alone.
async fn flood(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-flood").await?;
    let request = post(b"{");
    let mut refused = 0;
    let answer = loop {
        let answer = evil.asks(&request).await?;
        if answer.status != 400 {
            break answer;
        }
        refused += 1;
        ensure!(refused < 10_000, "nobody has to wait");
    };
    expect("a flood", &answer, 429, "rate")?;
    let wait: u64 = answer.head.header("retry-after").context("retry-after")?.parse()?;
    ensure!(wait > 0, "{wait}");
    // Over another connection it is the same.
    let answer = stage.ask(&Arc::clone(&evil.identity.config), &request).await?;
    expect("a flood over another connection", &answer, 429, "rate")?;
    Ok(refused)
}
