//! The pages: hostile text, headers, what they say.

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode};
use driftlock_common::condition::ConditionReason;

use crate::kit::{Collector, FakeAgent, part_named};

const HOSTILE: &str = "<script>alert(1)</script>\"'&\u{202e}";

/// A collector in which everything that an agent may choose is hostile.
async fn attacked() -> Collector {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let snapshot = agent.snapshot(0, true, &[]);
    collector.post(&[snapshot]).await;
    let mut events = vec![
        agent.opened(HOSTILE),
        agent.opened(b"bin/\xff\n<b>"),
        agent.condition(true, None, ConditionReason::RootLost),
        agent.heartbeat(&[]),
    ];
    let mut values: Vec<serde_json::Value> =
        events.drain(..).map(|event| serde_json::to_value(event).unwrap()).collect();
    values[0]["source"] = format!("urn:driftlock:host:{HOSTILE}").into();
    values[0]["data"]["target"] = HOSTILE.into();
    values[0]["data"]["finding"]["observed"] = serde_json::json!({"type": HOSTILE, "mode": HOSTILE, "target": HOSTILE, "xattrs": [{"name": HOSTILE, "value": HOSTILE}]});
    values[0]["data"]["finding"]["attributes"] = serde_json::json!(["type", "mode", "target", "xattrs"]);
    values[0]["data"]["finding"]["step"] = HOSTILE.into();
    values[0]["data"]["finding"]["manifest"] = HOSTILE.into();
    values[2]["data"]["path"] = HOSTILE.into();
    values[2]["data"]["detail"] = HOSTILE.into();
    let beat = &mut values[3]["data"];
    beat["host"] = HOSTILE.into();
    beat["version"] = HOSTILE.into();
    beat["labels"] = serde_json::json!({HOSTILE: HOSTILE});
    // Not delivered yet, or the target would be unknown to the heartbeat and be forgotten.
    beat["sequence"] = 999.into();
    let target = &mut beat["targets"][0];
    target["target"] = HOSTILE.into();
    target["root"] = HOSTILE.into();
    target["coverage"]["watch_mode"] = HOSTILE.into();
    target["manifest"]["trust"] = HOSTILE.into();
    target["manifest"]["origin"] = HOSTILE.into();
    target["manifest"]["parts"] = serde_json::json!([part_named(HOSTILE)]);
    let (status, answer) = collector.post_bytes(serde_json::to_vec(&values).unwrap()).await;
    assert_eq!((status, &answer["accepted"]), (StatusCode::OK, &4.into()), "{answer}");
    collector
}

#[tokio::test]
async fn hostile_names_are_shown_and_do_nothing() {
    let collector = attacked().await;
    let query = "host=%3Cscript%3E%22&target=%22%3E%3Cscript%3E";
    for uri in ["/", "/findings", "/findings?state=all", &format!("/findings?{query}")] {
        let (status, html) = collector.get(uri).await;
        assert_eq!(status, StatusCode::OK, "{html}");
        // The only script and the only attributes are the template's own.
        assert_eq!(html.matches("<script").count(), 1, "{uri}: {html}");
        assert!(html.contains("<script src=\"/assets/live.js?v="));
        assert!(!html.contains("<b>") && !html.contains('\u{202e}'), "{uri}: {html}");
    }
    let (_, html) = collector.get("/findings").await;
    assert!(html.contains("&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("<span class=\"escape\">\\xe2\\x80\\xae</span>"), "{html}");
    assert!(html.contains("Build step <code>&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("sealed in <span class=\"path\">&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("bin/<span class=\"escape\">\\xff\\x0a</span>"), "{html}");
}

#[tokio::test]
async fn every_answer_forbids_what_it_does_not_need() {
    let collector = Collector::new();
    for uri in ["/", "/findings", "/v1/hosts", "/metrics", "/assets/live.js", "/nothing", "/healthz"] {
        let request = Request::get(uri).header("host", "localhost").body(HttpBody::empty()).unwrap();
        let (_, headers, _) = collector.send(request).await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("-inline"), "{uri}: {policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{uri}");
        assert!(headers.contains_key("cache-control"), "{uri}");
    }
    // Nothing that the policy forbids is in the pages.
    for uri in ["/", "/findings"] {
        let (_, html) = attacked().await.get(uri).await;
        assert!(!html.contains(" style=") && !html.contains("<style") && !html.contains(" onclick"), "{uri}");
        assert!(!html.contains("http://") && !html.replace("https://this.collector", "").contains("https://"), "{uri}");
    }
}

#[tokio::test]
async fn a_page_of_somebody_else_pointed_here_gets_nothing() {
    let collector = attacked().await;
    for uri in ["/", "/findings", "/v1/hosts", "/v1/findings", "/v1/stream", "/metrics", "/assets/live.js"] {
        let request = Request::get(uri).header("host", "evil.example:8443").body(HttpBody::empty()).unwrap();
        let (status, _, body) = collector.send(request).await;
        assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{uri}");
        assert!(!String::from_utf8_lossy(&body).contains("web-1"), "{uri}");
    }
}

#[tokio::test]
async fn empty_pages_teach() {
    let collector = Collector::new();
    assert!(collector.get("/").await.1.contains("No host has reported yet"));
    assert!(collector.get("/findings").await.1.contains("Nothing is open"));
    assert!(collector.get("/findings?host=x").await.1.contains("Nothing matches"));
}

#[tokio::test]
async fn both_sides_stand_side_by_side() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events = [agent.opened("usr/bin/app")];
    collector.post(&events).await;
    let (_, html) = collector.get("/findings").await;
    assert!(html.contains(
        "<tr class=\"differs\"><th scope=\"row\">mode</th><td class=\"sealed\">0755  rwxr-xr-x</td>\
         <td class=\"observed\">4755  rwsr-xr-x</td></tr>"
    ));
    assert!(html.contains("sealed in <span class=\"path\">/etc/base.manifest</span>"), "{html}");
    assert!(html.contains("sealed by layer 1, attributes by layer 2"), "{html}");
    assert!(html.contains("Build step <code>RUN make install</code>"), "{html}");
}
