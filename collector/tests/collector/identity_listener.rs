//! Connections: who says nothing is gone soon, who is one too many is told at once, and neither keeps anybody else out.

use std::io;
use std::time::Duration;

use axum::http::StatusCode;
use driftlock_collector::listener::Limits;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::identity_kit::{Client, Server, Settings};

const SOON: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_hours(1);

async fn server(plain: bool, limits: Limits) -> Server {
    Server::start_with(Settings { plain, limits, ..Settings::default() }).await
}

/// What comes until the other end closes.
async fn until_closed(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut got = Vec::new();
    // A reset is an end as well.
    let _ended = stream.read_to_end(&mut got).await;
    got
}

#[tokio::test]
async fn who_says_nothing_is_gone_soon() {
    let limits = Limits { first: SOON, idle: LONG, ..Limits::default() };
    for plain in [true, false] {
        let server = server(plain, limits).await;
        for sent in [&b""[..], b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01"] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            until_closed(stream).await;
        }
    }
}

#[tokio::test]
async fn headers_that_come_drop_by_drop_are_not_waited_for() {
    let server = server(true, Limits { first: SOON, idle: LONG, ..Limits::default() }).await;
    let (read, mut write) = TcpStream::connect(server.address).await.unwrap().into_split();
    let dripping = tokio::spawn(async move {
        write.write_all(b"GET /healthz HTTP/1.1\r\n").await?;
        loop {
            write.write_all(b"X: y\r\n").await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        #[expect(unreachable_code, reason = "the loop ends by an error alone")]
        io::Result::Ok(())
    });
    until_closed(read).await;
    assert!(dripping.await.unwrap().is_err());
}

#[tokio::test]
async fn after_the_handshake_a_request_is_due_all_the_same() {
    let server = server(false, Limits { first: SOON, idle: LONG, ..Limits::default() }).await;
    let host = server.join("web-1").await;
    for credentials in [None, Some(host.credentials())] {
        until_closed(server.handshake(credentials).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_connection_that_was_used_is_kept_and_an_idle_one_is_not() {
    let server = server(false, Limits { first: LONG, idle: SOON, ..Limits::default() }).await;
    let mut client = server.connect(None).await.unwrap();
    assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK);
    let mut stream = server.handshake(None).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(until_closed(stream).await.starts_with(b"HTTP/1.1 200"));

    let server = self::server(false, Limits { first: SOON, idle: LONG, ..Limits::default() }).await;
    let mut client = server.connect(None).await.unwrap();
    assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK);
    tokio::time::sleep(2 * SOON).await;
    assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK, "what is due at first is due once");
}

#[tokio::test]
async fn headers_have_a_largest_size() {
    let server = server(true, Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX: ").await.unwrap();
    // It answers before it has read all of it, and then may close.
    let _cut_off = stream.write_all(&vec![b'y'; 1024 * 1024]).await;
    assert!(until_closed(stream).await.starts_with(b"HTTP/1.1 431"));
}

#[tokio::test]
async fn strangers_of_one_address_are_few_and_keep_nobody_else_out() {
    let limits = Limits { strangers: 4, first: LONG, idle: LONG, ..Limits::default() };
    let server = server(false, limits).await;
    let host = server.join("web-1").await;
    // Who proved who it is no longer counts.
    let mut kept = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect(Some(&host)).await.unwrap();
        assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK);
        kept.push(client);
    }
    let mut silent = Vec::new();
    while silent.len() < 4 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(until_closed(TcpStream::connect(server.address).await.unwrap()).await.is_empty());
    // From elsewhere it is as ever; and so it is for who is connected already.
    let mut other = server.connect_from("127.0.0.2").await.unwrap();
    other.write_all(b"\x16\x03").await.unwrap();
    for client in &mut kept {
        assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK);
    }
    let metrics = axum::http::Request::get("/metrics").header("host", "localhost");
    let mut text = String::new();
    let router = driftlock_collector::app::app(std::sync::Arc::clone(&server.state));
    let response = tower::ServiceExt::oneshot(router, metrics.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    text.push_str(std::str::from_utf8(&body).unwrap());
    assert!(text.contains("driftlock_collector_connections_refused_total 1\n"), "{text}");
    // One that goes makes room for another.
    silent.pop();
    loop {
        // Its end may be seen later than the next one's beginning.
        match server.connect(None).await {
            Ok(mut client) => break assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK),
            Err(_one_too_many) => tokio::task::yield_now().await,
        }
    }
    drop(other);
}

#[tokio::test]
async fn an_accepted_token_makes_a_connection_known() {
    let limits = Limits { strangers: 2, first: LONG, idle: LONG, ..Limits::default() };
    let server = server(false, limits).await;
    let scope = driftlock_collector::store::identity::Scope::Report("web-1".parse().unwrap());
    let (secret, _) = server.state.identities.make_access_token(scope, LONG).await.unwrap();
    let bearer = format!("Bearer {}", secret.reveal());
    let events = [crate::kit::FakeAgent::new(1).snapshot(0, true, &[])];
    let mut kept: Vec<Client> = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect(None).await.unwrap();
        assert_eq!(client.report(&events, &[("authorization", &bearer)]).await.unwrap().0, 200);
        kept.push(client);
    }
    // A wrong one does not.
    let mut wrong = server.connect(None).await.unwrap();
    assert_eq!(wrong.report(&events, &[("authorization", "Bearer 0123456789abcdef")]).await.unwrap().0, 401);
    let mut second = server.connect(None).await.unwrap();
    assert_eq!(second.get("/healthz").await.unwrap(), StatusCode::OK);
    assert!(server.connect(None).await.is_err());
    drop((kept, wrong, second));
}

#[tokio::test]
async fn all_connections_together_have_a_limit() {
    let server = server(true, Limits { connections: 3, first: LONG, idle: LONG, ..Limits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::over(TcpStream::connect(server.address).await.unwrap()).await.unwrap();
        assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK);
        clients.push(client);
    }
    assert!(until_closed(TcpStream::connect(server.address).await.unwrap()).await.is_empty());
    for client in &mut clients {
        assert_eq!(client.get("/healthz").await.unwrap(), StatusCode::OK);
    }
}
