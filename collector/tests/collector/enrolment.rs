//! Who may connect, as it is shown: hosts that joined, tokens, CAs; by whom it may be read; and that a host that enrolled
//! again is told from one that was made anew.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use driftlock_collector::app::app;
use driftlock_collector::store::identity::Scope;
use driftlock_common::event::{Body as EventBody, Running};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::identity_kit::{DAY, Keys, Server, Settings};
use crate::kit::FakeAgent;

async fn get(server: &Server, uri: &str, token: Option<&str>) -> (StatusCode, String) {
    let request = Request::get(uri).header("host", "localhost");
    let request = match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    };
    let response = app(server.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn list(server: &Server, uri: &str, key: &str) -> Vec<Value> {
    let (status, body) = get(server, uri, None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()[key].as_array().unwrap().clone()
}

fn words(list: &[Value], keys: [&str; 2]) -> Vec<[String; 2]> {
    list.iter().map(|item| keys.map(|key| item[key].as_str().unwrap_or_default().to_owned())).collect()
}

#[tokio::test]
async fn hosts_that_joined_with_what_became_of_their_certificates() {
    let server = Server::start().await;
    server.join("old").await;
    server.pass(DAY * 20);
    let renewed = server.join("renewed").await;
    server.join("lost").await;
    server.pass(DAY * 11);
    let csr = Keys::new().csr();
    let mut client = server.connect(Some(&renewed)).await.unwrap();
    assert_eq!(client.renew(&csr).await.unwrap().0, StatusCode::OK);
    server.state.identities.revoke(&"lost".parse().unwrap()).await.unwrap();
    server.state.identities.revoke(&"never-joined".parse().unwrap()).await.unwrap();
    let all = list(&server, "/v1/identities", "identities").await;
    let expected = [["lost", "revoked"], ["old", "expired"], ["renewed", "valid"]].map(|pair| pair.map(str::to_owned));
    assert_eq!(words(&all, ["host", "state"]), expected);
    assert_eq!(all[0]["labels"], json!({"role": "from-the-token"}));
    assert_eq!(all[1]["issued_at"], all[1]["enrolled_at"]);
    assert!(all[2]["issued_at"].as_str() > all[2]["enrolled_at"].as_str(), "{all:?}");
    // Each state alone, and part after part.
    for (number, state) in ["revoked", "expired", "valid"].into_iter().enumerate() {
        let found = list(&server, &format!("/v1/identities?state={state}"), "identities").await;
        assert_eq!(found, [all[number].clone()]);
    }
    let (_, part) = get(&server, "/v1/identities?limit=2", None).await;
    let part: Value = serde_json::from_str(&part).unwrap();
    assert_eq!((part["identities"].as_array().unwrap().len(), &part["next"]), (2, &json!("old")));
    let rest = list(&server, "/v1/identities?limit=2&cursor=old", "identities").await;
    assert_eq!(rest, [all[2].clone()]);
    let refused = list(&server, "/v1/revocations", "revocations").await;
    assert_eq!(words(&refused, ["host", "host"]).concat(), ["lost", "lost", "never-joined", "never-joined"]);

    let (status, page) = get(&server, "/enrolment", None).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    for part in ["standing revoked", "standing expired", "standing valid", "never-joined", "issues every certificate"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let (_, page) = get(&server, "/enrolment?state=expired", None).await;
    assert!(page.contains("identity-old") && !page.contains("identity-lost"), "{page}");
    for wrong in ["/v1/identities?state=x", "/v1/identities?host=a%2Fb", "/enrolment?cursor=%20", "/v1/cas?x=1"] {
        assert_eq!(get(&server, wrong, None).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn tokens_are_listed_without_what_they_are() {
    let server = Server::start().await;
    let joining = server.token("web-*", true).await;
    let unused = server.token("db-1", false).await;
    assert!(Keys::new().enroll(&server, "web-7", &joining).await.is_ok());
    let identities = &server.state.identities;
    let mut secrets = vec![joining.secret().to_owned(), unused.secret().to_owned()];
    for scope in [Scope::Report("ci-*".parse().unwrap()), Scope::Read, Scope::Push] {
        let (secret, token) = identities.make_access_token(scope.clone(), DAY).await.unwrap();
        secrets.push(secret.reveal().to_owned());
        if scope == Scope::Push {
            identities.end_token(&token.digest.to_hex()).await.unwrap();
        }
    }
    server.pass(DAY / 2);
    let all = list(&server, "/v1/tokens", "tokens").await;
    let mut found = words(&all, ["scope", "state"]);
    found.sort();
    let expected =
        [["enroll", "expired"], ["enroll", "used"], ["push", "ended"], ["read", "valid"], ["report", "valid"]];
    assert_eq!(found, expected.map(|pair| pair.map(str::to_owned)));
    let used = list(&server, "/v1/tokens?state=used", "tokens").await;
    assert_eq!(
        (&used[0]["used_by"], &used[0]["host"], &used[0]["replaces"]),
        (&json!("web-7"), &json!("web-*"), &json!(true))
    );
    // Part after part they are the same.
    let (mut parts, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, body) = get(&server, &format!("/v1/tokens?limit=2&cursor={cursor}"), None).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        parts.extend(body["tokens"].as_array().unwrap().clone());
        match body["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(parts, all);
    for uri in ["/tokens", "/tokens?scope=enroll", "/enrolment", "/v1/tokens", "/v1/identities", "/v1/cas"] {
        let (status, body) = get(&server, uri, None).await;
        assert_eq!(status, StatusCode::OK, "{uri}: {body}");
        for secret in &secrets {
            assert!(!body.contains(secret.as_str()), "{uri} shows a secret");
        }
        assert!(!body.contains("PRIVATE KEY"), "{uri} shows a key");
    }
    let (_, page) = get(&server, "/tokens", None).await;
    assert!(page.contains("also in place of a host that is known") && page.contains(">web-7</a>"), "{page}");
}

#[tokio::test]
async fn who_may_not_read_is_shown_nothing_of_it() {
    let server = Server::start_with(Settings { read_needs_token: true, ..Settings::default() }).await;
    let token = async |scope| {
        let (secret, _) = server.state.identities.make_access_token(scope, DAY).await.unwrap();
        secret.reveal().to_owned()
    };
    let others = [token(Scope::Report("*".parse().unwrap())).await, token(Scope::Push).await];
    let reading = token(Scope::Read).await;
    for uri in ["/enrolment", "/tokens", "/v1/identities", "/v1/tokens", "/v1/revocations", "/v1/cas"] {
        assert_eq!(get(&server, uri, None).await.0, StatusCode::UNAUTHORIZED, "{uri}");
        for other in &others {
            assert_eq!(get(&server, uri, Some(other)).await.0, StatusCode::UNAUTHORIZED, "{uri}");
        }
        assert_eq!(get(&server, uri, Some(&reading)).await.0, StatusCode::OK, "{uri}");
    }
}

#[tokio::test]
async fn a_host_that_enrolled_again_is_told_from_one_that_was_made_anew() {
    let server = Server::start().await;
    let beat = |agent: &FakeAgent| {
        let mut event = agent.heartbeat(&[]);
        if let EventBody::Heartbeat(beat) = &mut event.body {
            beat.agent = Some(Running {
                binary: None,
                config: None,
                started_at: crate::kit::TIME.to_owned(),
                starts: 1,
                stopped_before: None,
                boot: None,
            });
        }
        event
    };
    let report = async |host: &crate::identity_kit::Host, agent: &FakeAgent| {
        let mut client = server.connect(Some(host)).await.unwrap();
        assert_eq!(client.report(&[beat(agent)], &[]).await.unwrap(), (200, String::new()));
        let arrivals = server.state.store.arrivals("web-1".to_owned()).await.unwrap();
        arrivals.first().map(|arrival| arrival.what.name()).unwrap_or_default()
    };
    let host = server.join("web-1").await;
    assert_eq!(report(&host, &FakeAgent::new(1)).await, "first");
    // Its state is lost, its certificate is not.
    assert_eq!(report(&host, &FakeAgent::new(2)).await, "reinstalled");
    // All of it is.
    let token = server.token("web-1", true).await;
    let again = Keys::new().enroll(&server, "web-1", &token).await.unwrap_or_else(|(_, problem)| panic!("{problem}"));
    assert_eq!(report(&again, &FakeAgent::new(3)).await, "reenrolled");
    let (_, page) = get(&server, "/host?name=web-1", None).await;
    assert!(page.contains("its certificate") && page.contains("enrolled again"), "{page}");
}
