//! Owns names and paths that are more than data where they are not taken as data: SQL, HTML, lines of a log. Must not own what
//! pages look like.

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::fleet::model::{Kind, Model};
use serde_json::{Value, json};

use super::{Attack, Stage};

/// Each stands for a way to break out of what a text is put into.
const TEXTS: [&str; 9] = [
    "'; DROP TABLE events; --",
    "\" OR \"\"=\"",
    "%' ESCAPE '%' UNION SELECT json FROM events --",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}${7*7}",
    "line\n2026-01-01T00:00:00.000000Z  INFO driftlock_collector: forged\r\n",
    "\u{1b}[2J\u{1b}]0;title\u{7}",
    "\u{202e}gpj.exe\u{2066}\u{0}\u{feff}",
];
/// What of these may be in no page as it is.
const RAW: [&str; 2] = ["<script>alert(", "<img src=x"];
/// Nor this, if it was said by a host: a form shows what was asked for as it was asked.
const UNSEEN: [&str; 2] = ["\u{1b}", "\u{202e}"];

pub(super) fn attacks(stage: &Stage) -> Vec<Attack<'_>> {
    vec![
        Attack::new("names and paths that are SQL, HTML and lines of a log", None, said(stage)),
        Attack::new("queries that are SQL", None, asked(stage)),
    ]
}

async fn said(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-names").await?;
    for text in TEXTS {
        // No path has a NUL.
        evil.agent.model.differs(text.replace('\0', "").as_bytes(), Kind::Drift, 1);
    }
    // Every text that an event has becomes one of these.
    let texts = json!({
        "detail": TEXTS.join(" "), "name": TEXTS[3], "step": TEXTS[4], "rule": TEXTS[0], "explanation": TEXTS[3],
        "root": TEXTS[6], "watch_mode": TEXTS[7], "version": TEXTS[4], "role": TEXTS[3],
    });
    let batch = evil.agent.model.batch(100, true);
    let mut events: Value = serde_json::from_slice(&batch.json)?;
    let sent = events.as_array().map_or(0, Vec::len);
    spoil(&mut events, &texts);
    let last = events.as_array_mut().context("events")?;
    // A target of such a name, of whose findings the beginning is missing: that is a line of the log.
    let mut torn = Model::new("evil-names", &mut driftlock_tests::random::Random::new(1));
    torn.life.epoch.clone_from(&evil.agent.model.life.epoch);
    torn.waiting.clear();
    torn.life.last = evil.agent.model.life.last;
    torn.snapshot();
    let mut torn: Value = serde_json::from_str(&torn.waiting[0].json)?;
    torn["data"]["part"] = json!(3);
    torn["data"]["target"] = json!(TEXTS[6]);
    last.insert(sent - 1, torn);
    let answer = evil.posts(events.to_string().as_bytes()).await?.json()?;
    ensure!(answer["accepted"] == json!(sent + 1), "{answer}");

    // It is there as it was said.
    let listed = stage.endpoint.list("/v1/findings?state=open&host=evil-names", "findings").await?;
    ensure!(listed.len() == TEXTS.len(), "{listed:?}");
    let hosts = stage.endpoint.list("/v1/hosts?host=evil-names", "hosts").await?;
    ensure!(hosts.len() == 1 && hosts[0]["version"] == TEXTS[4], "{hosts:?}");
    // And nowhere is it anything else.
    for page in
        ["/", "/hosts", "/host?name=evil-names", "/findings?host=evil-names", "/groups", "/conditions", "/metrics"]
    {
        let answer = stage.endpoint.get(page).await?;
        ensure!(answer.status == 200, "{page}: {}", answer.status);
        for raw in RAW.iter().chain(&UNSEEN) {
            ensure!(!answer.text().contains(raw), "{page} holds {raw:?}");
        }
    }
    Ok(0)
}

/// Puts texts in place of others, by their keys.
fn spoil(value: &mut Value, texts: &Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| spoil(item, texts)),
        Value::Object(fields) => {
            for (key, field) in fields {
                if field.is_string() && texts[key].is_string() {
                    *field = texts[key].clone();
                } else {
                    spoil(field, texts);
                }
            }
        }
        _ => {}
    }
}

async fn asked(stage: &Stage) -> Result<u64> {
    for text in TEXTS {
        let text: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for (path, statuses) in [
            (format!("/v1/findings?host={text}"), [200, 200]),
            (format!("/v1/findings?target={text}"), [200, 200]),
            (format!("/v1/findings?path={text}"), [200, 400]),
            (format!("/v1/findings?below={text}"), [200, 400]),
            (format!("/v1/findings?rule={text}"), [200, 400]),
            (format!("/v1/findings?cursor={text}"), [400, 400]),
            (format!("/v1/findings?sort={text}"), [400, 400]),
            (format!("/v1/findings?severity={text}"), [400, 400]),
            (format!("/v1/findings?group={text}"), [400, 400]),
            (format!("/v1/findings?{text}=1"), [400, 400]),
            (format!("/v1/hosts?name={text}"), [200, 200]),
            (format!("/v1/hosts?label={text}"), [200, 200]),
            (format!("/v1/hosts?cursor={text}"), [200, 200]),
            (format!("/v1/conditions?host={text}"), [200, 200]),
            (format!("/hosts?name={text}"), [200, 200]),
            (format!("/findings?path={text}"), [200, 400]),
            (format!("/host?name={text}"), [400, 404]),
            (format!("/v1/manifests/{text}"), [400, 400]),
            (format!("/v1/targets/{text}/bundle"), [401, 401]),
            (format!("/{text}"), [404, 404]),
        ] {
            let answer = stage.endpoint.get(&path).await?;
            ensure!(statuses.contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
            for raw in RAW.iter().filter(|_| !path.starts_with("/v1")) {
                ensure!(!answer.text().contains(raw), "{path} holds {raw:?}");
            }
        }
    }
    // Nothing was dropped, and nobody else is listed.
    let everyone = stage.endpoint.list("/v1/hosts?limit=1000", "hosts").await?;
    let number = stage.endpoint.list("/v1/hosts?limit=1000&name=", "hosts").await?.len();
    ensure!(everyone.len() == number && number > 1, "{number}");
    Ok(0)
}

/// Each line of a log begins with its time and has nothing in it that is not shown.
pub(super) fn check_log(log: &str) -> Result<()> {
    let mut lines = log.lines();
    // What is said to who started it comes first.
    ensure!(lines.next().is_some_and(|line| line.contains("https://")), "{log}");
    for line in lines.skip_while(|line| !is_logged(line)) {
        ensure!(is_logged(line), "a line of its own: {line:?}");
        ensure!(!line.chars().any(char::is_control), "{line:?}");
        ensure!(!line.contains('\u{202e}'), "{line:?}");
    }
    ensure!(log.contains("snapshot with a missing part"), "what was to be logged was not:\n{log}");
    Ok(())
}

fn is_logged(line: &str) -> bool {
    let (time, rest) = line.split_once(' ').unwrap_or_default();
    let levels = ["ERROR", "WARN", "INFO"];
    time.ends_with('Z') && time.contains('T') && levels.iter().any(|level| rest.trim_start().starts_with(level))
}
