//! The pages: hostile text, headers, what they say.

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode};
use driftlock_collector::store::Lifetime;
use driftlock_common::condition::ConditionReason;
use driftlock_common::drift::Change;
use driftlock_common::event::Body;
use driftlock_common::policy::Severity;

use crate::kit::{Collector, FakeAgent, TIME, finding, judged, part_named};

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
    values[0]["data"]["finding"]["rule"] = HOSTILE.into();
    values[0]["data"]["finding"]["explanation"] = HOSTILE.into();
    values[2]["data"]["path"] = HOSTILE.into();
    values[2]["data"]["detail"] = HOSTILE.into();
    let beat = &mut values[3]["data"];
    beat["host"] = HOSTILE.into();
    beat["version"] = HOSTILE.into();
    let of = &beat["targets"][0]["manifest"]["tree"];
    beat["agent"] = serde_json::json!({"binary": of, "started_at": TIME, "starts": u64::MAX, "stopped_before": false});
    beat["labels"] = serde_json::json!({HOSTILE: HOSTILE});
    // Not delivered yet, or the target would be unknown to the heartbeat and be forgotten.
    beat["sequence"] = 999.into();
    let target = &mut beat["targets"][0];
    target["target"] = HOSTILE.into();
    target["root"] = HOSTILE.into();
    target["coverage"]["watch_mode"] = HOSTILE.into();
    target["coverage"]["blind"] = serde_json::json!([HOSTILE]);
    target["coverage"]["unverifiable"] = 1.into();
    target["coverage"]["gaps"] = serde_json::json!({HOSTILE: 1});
    target["coverage"]["oldest_unverified"] = serde_json::json!({"path": HOSTILE, "since": TIME});
    target["manifest"]["trust"] = HOSTILE.into();
    target["manifest"]["origin"] = HOSTILE.into();
    target["manifest"]["parts"] = serde_json::json!([part_named(HOSTILE)]);
    target["policy"] = serde_json::json!({"name": HOSTILE, "digest": target["manifest"]["tree"]});
    let (status, answer) = collector.post_bytes(serde_json::to_vec(&values).unwrap()).await;
    assert_eq!((status, &answer["accepted"]), (StatusCode::OK, &4.into()), "{answer}");
    collector
}

#[tokio::test]
async fn hostile_names_are_shown_and_do_nothing() {
    let collector = attacked().await;
    let query = "host=%3Cscript%3E%22&target=%22%3E%3Cscript%3E&rule=%22%3E%3Cscript%3E&directory=%22%3E%3Cscript%3E";
    let single = format!("/finding?id={}", collector.findings(Lifetime::Open).await[0].id);
    let hosts = "state=&name=%22%3E%3Cscript%3E&label=%22%3E%3Cscript%3E";
    let pages = [
        "/",
        "/hosts",
        "/host?name=web-1",
        "/findings",
        "/findings?state=all",
        &single,
        "/groups",
        "/conditions",
        &format!("/hosts?{hosts}"),
        &format!("/conditions?{}", "host=%22%3E%3Cscript%3E"),
        &format!("/findings?{query}"),
    ];
    for uri in pages {
        let (status, html) = collector.get(uri).await;
        assert_eq!(status, StatusCode::OK, "{html}");
        // The only script and the only attributes are the template's own.
        assert_eq!(html.matches("<script").count(), 1, "{uri}: {html}");
        assert!(html.contains("<script src=\"/assets/live.js?v="));
        assert!(!html.contains("<b>") && !html.contains('\u{202e}'), "{uri}: {html}");
    }
    let (_, fleet) = collector.get("/host?name=web-1").await;
    assert!(fleet.contains("policy &#60;script&#62;alert(1)&#60;/script&#62;"), "{fleet}");
    assert!(fleet.contains("1 not established: &#60;script&#62;alert(1)&#60;/script&#62;"), "{fleet}");
    assert!(fleet.contains("<li>&#60;script&#62;alert(1)&#60;/script&#62;"), "{fleet}");
    assert!(fleet.contains("version &#60;script&#62;alert(1)&#60;/script&#62;"), "{fleet}");
    let (_, html) = collector.get("/findings").await;
    assert!(html.contains("&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("<span class=\"escape\">\\xe2\\x80\\xae</span>"), "{html}");
    assert!(html.contains("Build step <code>&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("sealed in <span class=\"path\">&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("rule <code>&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("<p class=\"facts\">&#60;script&#62;alert(1)&#60;/script&#62;"), "{html}");
    assert!(html.contains("bin/<span class=\"escape\">\\xff\\x0a</span>"), "{html}");
}

#[tokio::test]
async fn every_answer_forbids_what_it_does_not_need() {
    let collector = Collector::new();
    for uri in [
        "/",
        "/hosts",
        "/host?name=x",
        "/findings",
        "/groups",
        "/v1/hosts",
        "/metrics",
        "/assets/live.js",
        "/nothing",
        "/healthz",
    ] {
        let request = Request::get(uri).header("host", "localhost").body(HttpBody::empty()).unwrap();
        let (_, headers, _) = collector.send(request).await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("-inline"), "{uri}: {policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{uri}");
        assert!(headers.contains_key("cache-control"), "{uri}");
    }
    // Nothing that the policy forbids is in the pages.
    for uri in ["/", "/hosts", "/host?name=web-1", "/findings", "/groups", "/conditions"] {
        let (_, html) = attacked().await.get(uri).await;
        assert!(!html.contains(" style=") && !html.contains("<style") && !html.contains(" onclick"), "{uri}");
        assert!(!html.contains("http://") && !html.replace("https://this.collector", "").contains("https://"), "{uri}");
    }
}

#[tokio::test]
async fn a_page_of_somebody_else_pointed_here_gets_nothing() {
    let collector = attacked().await;
    for uri in [
        "/",
        "/hosts",
        "/host?name=web-1",
        "/findings",
        "/groups",
        "/conditions",
        "/v1/hosts",
        "/v1/findings",
        "/v1/groups",
        "/v1/stream",
        "/metrics",
        "/assets/live.js",
    ] {
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
    assert!(collector.get("/findings").await.1.contains("No alert is open"));
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

/// Where texts first stand in a page, which has each.
fn places<const N: usize>(html: &str, texts: [&str; N]) -> [usize; N] {
    texts.map(|text| html.find(text).unwrap_or_else(|| panic!("{text} is not in\n{html}")))
}

#[tokio::test]
async fn alerts_come_first_and_the_loudest_of_them_before_all_others() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let severities = [Some(Severity::Low), Some(Severity::Critical), None, Some(Severity::High), Some(Severity::Info)];
    let mut events = vec![agent.opened("unjudged")];
    for (number, severity) in severities.into_iter().enumerate() {
        events.push(agent.event(Body::FindingOpened(judged(&format!("path-{number}"), severity, "some-rule"))));
    }
    collector.post(&events).await;
    let (_, html) = collector.get("/findings").await;
    assert!(places(&html, ["path-1", "path-3", "unjudged", "path-0", "path-4"]).is_sorted(), "{html}");
    assert!(!html.contains("path-2"), "{html}");
    // The word is there, not its colour alone.
    for severity in Severity::ALL {
        assert!(html.contains(&format!("<span class=\"mark {severity}\">{severity}</span>")), "{severity}: {html}");
    }
    assert!(html.contains("rule <code>some-rule</code>") && html.contains("because of some-rule"), "{html}");

    let (_, html) = collector.get("/findings?verdict=tolerated").await;
    assert!(html.contains("<span class=\"mark tolerated\">tolerated</span>") && html.contains("path-2"), "{html}");
    assert!(!html.contains("path-1"), "{html}");
    let (_, html) = collector.get("/findings?verdict=all&sort=newest").await;
    assert!(places(&html, ["path-4", "path-3", "path-2", "path-1", "path-0", "unjudged"]).is_sorted(), "{html}");

    let (_, fleet) = collector.get("/").await;
    assert!(fleet.contains("<strong>5</strong> <span>open alerts</span>"), "{fleet}");
    let (_, fleet) = collector.get("/host?name=web-1").await;
    let link = "href=\"/findings?host=web-1&amp;target=app&amp;severity=critical\">1 critical</a>";
    assert!(fleet.contains(link), "{fleet}");
    assert!(fleet.contains("target=app&amp;verdict=tolerated\">1 tolerated</a>"), "{fleet}");
}

/// The address of every line that stands for many, with what it says.
fn folds(html: &str) -> Vec<(String, String)> {
    let lines = html.split("<h2><a href=\"").skip(1);
    let parts = lines.map(|line| line.split_once("</h2>").unwrap().0.split_once("\">").unwrap());
    parts.map(|(link, text)| (link.replace("&amp;", "&"), text.replace("</a>", ""))).collect()
}

#[tokio::test]
async fn many_of_one_kind_below_one_directory_are_one_line_that_leads_to_each() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let hostile = "<b>\"&\n";
    let mut bodies: Vec<_> =
        (0..20).map(|n| judged(&format!("srv/{hostile}/{n}"), Some(Severity::High), "<i>")).collect();
    bodies.extend((0..20).map(|n| judged(&format!("top-{n}"), Some(Severity::Medium), "")));
    bodies.extend((0..30).map(|n| judged(&format!("opt/{}/{n}", n / 3), Some(Severity::Medium), "opt")));
    bodies.extend((0..21).map(|n| judged(&format!("opt/large/{n}"), Some(Severity::Medium), "opt")));
    // Many, but what is critical and what gives rights is never folded.
    bodies.extend((0..20).map(|n| judged(&format!("etc/{n}"), Some(Severity::Critical), "etc")));
    bodies.extend((0..20).map(|n| finding(format!("bin/{n}").as_bytes(), 1)));
    // As many as make a line, but one of them apart: in severity, rule, verdict, directory, change, target.
    bodies.extend((0..19).map(|n| judged(&format!("var/log/{n}"), Some(Severity::Low), "logs")));
    bodies.push(judged("ruled", Some(Severity::Medium), "top"));
    bodies.push(judged("var/log/severity", Some(Severity::Info), "logs"));
    bodies.push(judged("var/log/rule", Some(Severity::Low), "other"));
    bodies.push(judged("var/log/verdict", None, "logs"));
    bodies.push(judged("srv/log/directory", Some(Severity::Low), "logs"));
    let mut other = judged("var/log/change", Some(Severity::Low), "logs");
    other.finding.change = Change::Removed;
    bodies.push(other);
    let mut other = judged("var/log/target", Some(Severity::Low), "logs");
    other.target = "other".into();
    bodies.push(other);
    let events: Vec<_> = bodies.into_iter().map(|body| agent.event(Body::FindingOpened(body))).collect();
    collector.post(&events).await;

    let (_, html) = collector.get("/findings").await;
    let found = folds(&html);
    let texts: Vec<_> = found.iter().map(|(_, text)| text.as_str()).collect();
    let below = |number: u32, path: &str| format!("{number} findings below <span class=\"path\">{path}</span>");
    let escaped = below(20, "srv/&#60;b&#62;&#34;&#38;<span class=\"escape\">\\x0a</span>");
    let top = "20 findings in <span class=\"path\">.</span>".to_owned();
    assert_eq!(texts, [escaped, below(21, "opt/large"), below(30, "opt"), top]);
    assert!(html.contains("91 findings are 4 lines below"), "{html}");
    assert_eq!(html.matches("<article ").count(), 4 + 20 + 20 + 19 + 6, "{html}");
    for (link, text) in found {
        let (status, html) = collector.get(&link).await;
        assert_eq!(status, StatusCode::OK, "{link}: {html}");
        let number: usize = text.split(' ').next().unwrap().parse().unwrap();
        // What was a line of its own further down is one there too.
        let further_down: Vec<_> = folds(&html).into_iter().map(|(_, text)| text).collect();
        assert_eq!(further_down, if number == 30 { vec![below(21, "opt/large")] } else { vec![] }, "{link}");
        assert_eq!(html.matches("<article ").count(), number + further_down.len(), "{link}: {html}");
        let list = collector.json(&link.replace("/findings?", "/v1/findings?")).await;
        let all = if number == 30 { 51 } else { number };
        assert_eq!(list["findings"].as_array().unwrap().len(), all, "{link}");
    }

    // One less, and each stands for itself again.
    let resolved = agent.resolved("top-7");
    collector.post(&[resolved]).await;
    let (_, html) = collector.get("/findings?below=.&rule=-").await;
    assert!(folds(&html).is_empty() && html.contains("top-19") && !html.contains("top-7<"), "{html}");
    // What is over is history, each for itself.
    let (_, html) = collector.get("/findings?state=all").await;
    assert!(folds(&html).is_empty(), "{html}");
}

#[tokio::test]
async fn a_page_goes_on_where_it_ended() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events: Vec<_> = (0..130).map(|n| agent.opened(format!("d{}/f{n:03}", n % 7))).collect();
    collector.post(&events[..100]).await;
    collector.post(&events[100..]).await;
    for (sort, word) in [("newest", "Earlier findings"), ("severity", "Further findings")] {
        let mut uri = format!("/findings?sort={sort}&limit=3&rule=-");
        let mut paths = Vec::new();
        loop {
            let (_, html) = collector.get(&uri).await;
            let headings = html.split("<h2 class=\"path\"><a href=\"").skip(1);
            let path = |line: &str| line.split_once("\">").unwrap().1.split_once('<').unwrap().0.to_owned();
            paths.extend(headings.map(path));
            let Some((before, _)) = html.split_once(&format!("\">{word}</a>")) else { break };
            uri = before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&");
        }
        assert_eq!(paths.len(), 130, "{sort}");
        assert!(paths.is_sorted_by(|a, b| a[a.len() - 3..] > b[b.len() - 3..]), "{sort}: {paths:?}");
    }
}
