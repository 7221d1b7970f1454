//! Bearer tokens: what each allows, for whom, until when.

use std::time::Duration;

use driftlock_collector::auth::HostTokens;
use driftlock_collector::store::identity::Scope;
use driftlock_common::event::Event;

use crate::identity_kit::{DAY, Server, Settings};
use crate::kit::{FakeAgent, TOKEN};

fn events() -> [Event; 1] {
    [FakeAgent::new(1).snapshot(0, true, &[])]
}

async fn token(server: &Server, scope: Scope, time: Duration) -> String {
    server.state.identities.make_access_token(scope, time).await.unwrap().0.reveal().to_owned()
}

/// Reports with a token, as the host that it names.
async fn report(server: &Server, token: &str, host: Option<&str>) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(host.map(|host| ("driftlock-host", host)));
    server.connect(None).await.unwrap().report(&events(), &headers).await.unwrap()
}

async fn read(server: &Server, token: Option<&str>) -> u16 {
    let mut request = axum::http::Request::get("/v1/hosts").header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut client = server.connect(None).await.unwrap();
    client.send(request.body(axum::body::Body::empty()).unwrap()).await.unwrap().0.as_u16()
}

#[tokio::test]
async fn a_token_allows_what_it_was_made_for() {
    let server = Server::start_with(Settings { read_needs_token: true, ..Settings::default() }).await;
    let one = token(&server, Scope::Report("web-1".parse().unwrap()), DAY).await;
    let many = token(&server, Scope::Report("ci-*".parse().unwrap()), DAY).await;
    let reading = token(&server, Scope::Read, DAY).await;
    let said = |status, code: &str| (status, code.to_owned());
    for (token, host, expected) in [
        (&one, None, said(200, "")),
        (&one, Some("web-1"), said(200, "")),
        (&one, Some("web-2"), said(403, "other_host")),
        (&one, Some("web-1,web-2"), said(403, "other_host")),
        (&many, None, said(400, "host_not_named")),
        (&many, Some("ci-1"), said(200, "")),
        (&many, Some("web-1"), said(403, "other_host")),
        (&many, Some("ci-../web-1"), said(403, "other_host")),
        (&reading, None, said(403, "scope")),
        (&reading, Some("web-1"), said(403, "scope")),
        (&"dlt_0123456789abcdef".to_owned(), None, said(401, "unauthorized")),
    ] {
        assert_eq!(report(&server, token, host).await, expected, "{host:?}");
    }
    assert_eq!(read(&server, None).await, 401);
    assert_eq!(read(&server, Some(&one)).await, 401);
    assert_eq!(read(&server, Some(&reading)).await, 200);
    // A host's certificate reads nothing.
    let host = server.join("web-9").await;
    assert_eq!(server.connect(Some(&host)).await.unwrap().get("/v1/hosts").await.unwrap().as_u16(), 401);
}

#[tokio::test]
async fn a_token_ends_by_its_time_or_by_its_id() {
    let server = Server::start_with(Settings { read_needs_token: true, ..Settings::default() }).await;
    let (short, long) = (token(&server, Scope::Read, DAY).await, token(&server, Scope::Read, DAY * 9).await);
    server.pass(DAY);
    assert_eq!(read(&server, Some(&short)).await, 401);
    assert_eq!(read(&server, Some(&long)).await, 200);
    let id = driftlock_common::digest::Digest::sha256(long.as_bytes()).to_hex();
    let identities = &server.state.identities;
    assert_eq!(identities.end_token("").await.unwrap(), 2, "an empty id is everybody's, and ends none");
    assert_eq!(read(&server, Some(&long)).await, 200);
    assert_eq!(identities.end_token("0000000000000000").await.unwrap(), 0);
    assert_eq!(identities.end_token(&id[..16]).await.unwrap(), 1);
    assert_eq!(read(&server, Some(&long)).await, 401);
}

#[tokio::test]
async fn a_token_for_many_does_not_speak_for_who_has_a_certificate() {
    let tokens = HostTokens::of("web-2".parse().unwrap(), TOKEN);
    let server = Server::start_with(Settings { tokens, ..Settings::default() }).await;
    let many = token(&server, Scope::Report("*".parse().unwrap()), DAY).await;
    assert_eq!(report(&server, &many, Some("web-1")).await.0, 200);
    server.join("web-1").await;
    assert_eq!(report(&server, &many, Some("web-1")).await, (403, "enrolled".to_owned()));
    // What an operator wrote for one host stands, until that host is revoked.
    assert_eq!(report(&server, TOKEN, None).await.0, 200);
    server.state.identities.revoke(&"web-2".parse().unwrap()).await.unwrap();
    assert_eq!(report(&server, TOKEN, None).await, (403, "revoked".to_owned()));
    assert_eq!(report(&server, &many, Some("web-2")).await, (403, "revoked".to_owned()));
}
