//! The document of the API is held to the code: routes, parameters, words. That answers are as it says is tried from
//! outside, by `tests/tests/openapi`.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use driftlock_collector::app::{DOCUMENT, routes};
use driftlock_collector::fleet::HostState;
use driftlock_collector::store::identity::Standing;
use driftlock_common::condition::ConditionReason;
use driftlock_common::drift::{Attribute, Change};
use driftlock_common::gap::Reason;
use driftlock_common::policy::{Ruling, Severity};
use serde_json::Value;

use crate::kit::Collector;

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// Every operation: its method, its path, and what it is.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
        })
        .collect()
}

/// What a reference stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.strip_prefix('#').unwrap())
            .unwrap_or_else(|| panic!("{reference} leads nowhere")),
        None => value,
    }
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let document = document();
    let said: BTreeSet<(&str, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path.to_owned())).collect();
    let routed: Vec<(&str, String)> = routes();
    assert_eq!(said.len(), routed.len());
    assert_eq!(said, routed.into_iter().collect());
    let names: BTreeSet<&str> =
        operations(&document).iter().map(|(.., operation)| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(names.len(), said.len(), "an operationId stands twice");
}

#[test]
fn every_reference_leads_somewhere_and_everything_is_referred_to() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    match value.as_str() {
                        Some(reference) if key == "$ref" => drop(found.insert(reference)),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let mut defined = BTreeSet::new();
    for kind in ["schemas", "responses", "parameters"] {
        let names = document["components"][kind].as_object().unwrap().keys();
        defined.extend(names.map(|name| format!("#/components/{kind}/{name}")));
    }
    assert_eq!(found, defined.iter().map(String::as_str).collect());
}

/// Whoever asks with a parameter that there is not is told which there are.
#[tokio::test]
async fn every_parameter_is_in_the_document_and_nothing_else() {
    let collector = Collector::new();
    let document = document();
    let mut asked = 0;
    for (method, path, operation) in operations(&document) {
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parameters = parameters.iter().map(|parameter| resolved(&document, parameter));
        let (mut said, mut in_path) = (BTreeSet::new(), BTreeSet::new());
        for parameter in parameters {
            let name = parameter["name"].as_str().unwrap().to_owned();
            match parameter["in"].as_str().unwrap() {
                "query" => drop(said.insert(name)),
                "path" => drop(in_path.insert(format!("{{{name}}}"))),
                _ => {}
            }
        }
        let placed: BTreeSet<String> =
            path.split('/').filter(|part| part.starts_with('{')).map(str::to_owned).collect();
        assert_eq!(placed, in_path, "{path}");
        if method != "get" || !placed.is_empty() {
            continue;
        }
        let request =
            Request::get(format!("{path}?nonsense=1")).header("host", "localhost").body(Body::empty()).unwrap();
        let (status, _, body) = collector.send(request).await;
        let text = String::from_utf8_lossy(&body);
        if status == StatusCode::BAD_REQUEST {
            let known: BTreeSet<String> = text.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
            assert_eq!(said, known, "{path}: {text}");
            asked += 1;
        } else {
            assert!(said.is_empty(), "{path} has parameters, and took one that it has not: {status}");
        }
    }
    assert!(asked > 15, "{asked} paths take parameters");
}

#[test]
fn the_words_of_the_document_are_those_of_the_code() {
    let document = document();
    let attributes: BTreeSet<&str> = Attribute::ALL.iter().map(|attribute| attribute.name()).collect();
    let words = BTreeMap::from([
        ("Change", Change::ALL.map(|change| change.name()).into()),
        ("Severity", Severity::ALL.map(|severity| severity.name()).into()),
        ("Verdict", [Ruling::Alert, Ruling::Tolerated].map(Ruling::name).into()),
        ("Attribute", attributes),
        ("Gap", Reason::ALL.iter().map(|reason| reason.name()).collect()),
        ("ConditionReason", ConditionReason::TABLE.map(|(_, name, _)| name).into()),
        ("HostState", HostState::ALL.map(HostState::name).into()),
    ]);
    for (schema, words) in words {
        let said = &document["components"]["schemas"][schema]["enum"];
        let said: BTreeSet<&str> = said.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(said, words, "{schema}");
    }
    let standing = &document["components"]["schemas"]["Identity"]["properties"]["state"]["enum"];
    assert_eq!(*standing, serde_json::json!(Standing::TABLE.map(|(word, _)| word)));
}

#[tokio::test]
async fn the_document_is_served() {
    let collector = Collector::new();
    let (status, body) = collector.get("/v1/openapi.json").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, DOCUMENT));
    // A path that names nothing is refused as everything is.
    for path in ["/v1/targets/app/nothing", "/v1/targets/%ff/bundle", "/assets/%ff", "/nothing"] {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(collector.app.clone(), request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        let problem = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let problem: Value = serde_json::from_slice(&problem).unwrap();
        assert!(problem["code"].is_string(), "{path}: {problem}");
    }
}
