//! The client against a server that does whatever a script says, over a real socket.

use std::time::Duration;

use driftlock_common::event::{Answer, Rejected};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Client, Reply, Timeouts};
use crate::config::{Config, Report};

/// Answers one connection with `response`, then hands over what was asked. Without a response it never answers.
async fn exchange(response: Option<&str>) -> (Reply, String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let report = Report {
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()),
        ..Config::new("/s").report
    };
    let timeouts = Timeouts {
        connect: Duration::from_secs(5),
        whole: Duration::from_millis(if response.is_some() { 5000 } else { 200 }),
    };
    let client = Client::new(&report, None, timeouts).unwrap().unwrap();
    let response = response.map(str::to_owned);
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut head, mut body) = (Vec::new(), Vec::new());
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .unwrap();
        body.resize(length, 0);
        socket.read_exact(&mut body).await.unwrap();
        match &response {
            Some(response) => socket.write_all(response.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
        (head, body)
    };
    let send = client.send(b"[{}]".to_vec());
    if response.is_none() {
        let reply = tokio::select! { reply = send => reply, _ = server => unreachable!("it never answers") };
        return (reply, String::new(), Vec::new());
    }
    let (reply, (head, body)) = tokio::join!(send, server);
    (reply, head, body)
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

async fn reply_to(response: &str) -> Reply {
    exchange(Some(response)).await.0
}

#[tokio::test]
async fn an_answer_is_read_and_the_request_is_as_promised() {
    let body = r#"{"accepted":1,"duplicates":2,"rejected":[{"id":"x","reason":"y"}],"ack":3,"resync":true,"new":1}"#;
    let (reply, head, body) = exchange(Some(&http("200 OK", "", body))).await;
    let rejected = vec![Rejected { id: "x".to_owned(), reason: "y".to_owned() }];
    assert_eq!(reply, Reply::Answered(Answer { accepted: 1, duplicates: 2, rejected, ack: 3, resync: true }));
    assert!(head.starts_with("POST /v1/events HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/cloudevents-batch+json\r\n"), "{head}");
    assert!(head.contains("content-encoding: zstd\r\n"), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(zstd::decode_all(&body[..]).unwrap(), b"[{}]");
}

#[tokio::test]
async fn what_each_status_means() {
    for (response, expected) in [
        (http("500 Internal Server Error", "", "oops"), "retry"),
        (http("502 Bad Gateway", "", ""), "retry"),
        (http("503 Service Unavailable", "retry-after: 7\r\n", ""), "retry 7"),
        (http("429 Too Many Requests", "retry-after: 100000\r\n", ""), "retry 300"),
        (http("429 Too Many Requests", "retry-after: soon\r\n", ""), "retry"),
        (http("302 Found", "location: http://127.0.0.1:1/\r\n", ""), "retry"),
        (http("304 Not Modified", "", ""), "retry"),
        (http("200 OK", "", "<html>a proxy says hello</html>"), "retry"),
        (http("200 OK", "", ""), "retry"),
        (http("200 OK", "", "[]"), "retry"),
        (http("200 OK", "", &"x".repeat(2_000_000)), "retry"),
        ("garbage that is not HTTP\r\n\r\n".to_owned(), "retry"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(), "retry"),
        (String::new(), "retry"),
        (http("413 Payload Too Large", "", ""), "large"),
        (http("401 Unauthorized", "", ""), "refused"),
        (http("403 Forbidden", "", ""), "refused"),
        (http("400 Bad Request", "", "what\nis this"), "rejected"),
        (http("404 Not Found", "", ""), "rejected"),
        (http("422 Unprocessable Content", "", ""), "rejected"),
        (http("504 Gateway Timeout", "", ""), "retry"),
        (http("408 Request Timeout", "", ""), "retry"),
        (http("202 Accepted", "", r#"{"accepted":0,"duplicates":0,"ack":0}"#), "answered"),
        (http("204 No Content", "", ""), "retry"),
        (http("418 I'm a teapot", "retry-after: 7\r\n", ""), "rejected"),
        (http("599 Unheard Of", "retry-after: 7\r\n", ""), "retry 7"),
    ] {
        let reply = reply_to(&response).await;
        let word = match &reply {
            Reply::Answered(_) => "answered".to_owned(),
            Reply::Retry { after: None, .. } => "retry".to_owned(),
            Reply::Retry { after: Some(after), .. } => format!("retry {}", after.as_secs()),
            Reply::TooLarge => "large".to_owned(),
            Reply::Rejected { .. } => "rejected".to_owned(),
            Reply::Refused { .. } => "refused".to_owned(),
        };
        assert_eq!(word, expected, "{}", response.lines().next().unwrap_or_default());
        assert!(!reply.to_string().contains('\n'), "{reply}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let (reply, ..) = exchange(None).await;
    assert!(matches!(reply, Reply::Retry { after: None, .. }), "{reply:?}");
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let report = Report { endpoint: Some(endpoint), ..Config::new("/s").report };
    let client = Client::new(&report, None, Timeouts::default()).unwrap().unwrap();
    let reply = client.send(b"[]".to_vec()).await;
    assert!(matches!(reply, Reply::Retry { after: None, .. }), "{reply:?}");
}
