//! What never came, at the API: listed, narrowed to a host, told from what a restore took.

use serde_json::json;

use crate::kit::{Collector, FakeAgent};

#[tokio::test]
async fn holes_are_listed_until_they_are_filled() {
    let collector = Collector::new();
    let mut agent = FakeAgent::new(1);
    let events: Vec<_> = (0..6).map(|n| agent.opened(format!("f{n}"))).collect();
    collector.post(&[events[0].clone(), events[3].clone(), events[5].clone()]).await;
    let list = collector.json("/v1/holes?host=web-1").await;
    let ranges: Vec<_> = list["holes"].as_array().unwrap().iter().map(|hole| (&hole["first"], &hole["last"])).collect();
    assert_eq!(ranges, [(&json!(5), &json!(5)), (&json!(2), &json!(3))]);
    let hole = &list["holes"][0];
    assert_eq!((&hole["host"], &hole["epoch"], &hole["kind"]), (&"web-1".into(), &json!(agent.epoch), &"lost".into()));
    assert!(hole["noted_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(collector.json("/v1/holes?host=web-2").await, json!({"holes": [], "next": null}));
    let part = collector.json("/v1/holes?limit=1").await;
    let rest = collector.json(&format!("/v1/holes?limit=1&cursor={}", part["next"].as_str().unwrap())).await;
    assert_eq!((&rest["holes"][0]["first"], &rest["next"]), (&json!(2), &json!(null)));
    collector.post(&events).await;
    assert_eq!(collector.json("/v1/holes").await["holes"], json!([]));
    assert_eq!(collector.json("/v1/hosts").await["hosts"][0]["lost"], 0);
}
