//! Everything in a registry's power, by name: each attack ends with one line and its exit code, each trouble that can be
//! overcome with the very manifest that the image has elsewhere.

use std::sync::Arc;

use anyhow::{Result, ensure};
use driftlock_tests::image::sha256;
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;

use super::server::{Asked, IMAGE_TYPE, Image, Reply, Server, expect_line, expect_same, seal, seal_source};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a_blob_that_is_cut_off_is_resumed", &[], a_blob_that_is_cut_off_is_resumed),
        trial("nobody_listens", &[], nobody_listens),
        trial("a_tag_is_refused_although_nobody_answers", &[], a_tag_is_refused),
    ];
    trials.extend(ATTACKS.iter().map(|attack| named("attack", attack.name, || attacked(attack))));
    trials.extend(TROUBLES.iter().map(|trouble| named("trouble", trouble.name, || troubled(trouble))));
    trials
}

fn named(table: &str, name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    trial_with(format!("{table}_{}", name.replace([' ', '-', ','], "_")), &[], test)
}

struct Attack {
    name: &'static str,
    act: fn(&Asked<'_>) -> Option<Reply>,
    code: i32,
    says: &'static [&'static str],
}

struct Trouble {
    name: &'static str,
    act: fn(&Asked<'_>) -> Option<Reply>,
}

fn typed(kind: &str, body: Vec<u8>) -> Option<Reply> {
    Some(Reply::Whole(200, vec![("Content-Type", kind.to_owned())], body))
}

fn body(body: Vec<u8>) -> Option<Reply> {
    typed("application/octet-stream", body)
}

fn status(status: u16, headers: &[(&'static str, &str)]) -> Option<Reply> {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Some(Reply::Whole(status, headers, Vec::new()))
}

fn raw(head: &str, body: &[u8]) -> Option<Reply> {
    Some(Reply::Raw([format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()))
}

fn chunked(chunks: &[&[u8]]) -> Option<Reply> {
    let mut body = Vec::new();
    for chunk in chunks.iter().chain([&&b""[..]]) {
        body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
    }
    raw("200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/octet-stream", &body)
}

/// Another last byte.
fn forged(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes
}

fn with(asked: &Asked<'_>, from: &str, to: &str) -> Vec<u8> {
    String::from_utf8_lossy(&asked.honest()).replace(from, to).into_bytes()
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "another manifest",
        act: |asked| asked.is_manifest().then(|| with(asked, "layers", "layerz")).and_then(body),
        code: 65,
        says: &["wrong digest: the bytes have sha256:", "/app: blob sha256:"],
    },
    Attack {
        name: "another configuration",
        act: |asked| asked.is_config().then(|| forged(asked.honest())).and_then(body),
        code: 65,
        says: &["wrong digest"],
    },
    Attack {
        name: "another layer",
        act: |asked| asked.is_layer().then(|| forged(asked.honest())).and_then(body),
        code: 65,
        says: &["wrong digest"],
    },
    Attack {
        name: "a layer that is no archive",
        act: |asked| asked.is_layer().then(|| vec![b'x'; asked.honest().len()]).and_then(body),
        code: 65,
        says: &["wrong digest"],
    },
    Attack {
        name: "a huge manifest by its length",
        act: |asked| asked.is_manifest().then(|| raw("200 OK\r\nContent-Length: 5000000", b"{")).flatten(),
        code: 65,
        says: &["larger than the 4194304 bytes allowed for it"],
    },
    Attack {
        name: "a manifest without end",
        act: |asked| asked.is_manifest().then(|| Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
        code: 65,
        says: &["larger than the 4194304 bytes allowed for it"],
    },
    Attack {
        name: "a configuration that is stated shorter",
        act: |asked| asked.is_config().then(|| raw("200 OK\r\nContent-Length: 3", b"{}\n")).flatten(),
        code: 65,
        says: &["wrong size: the descriptor says ", "there are 3"],
    },
    Attack {
        name: "a configuration that goes on",
        act: |asked| asked.is_config().then(|| chunked(&[&asked.honest(), b" "])).flatten(),
        code: 65,
        says: &["sends more than the ", " bytes that it should have"],
    },
    Attack {
        name: "a configuration that ends too early",
        act: |asked| asked.is_config().then(|| chunked(&[b"{}"])).flatten(),
        code: 65,
        says: &["wrong size: the descriptor says ", "there are 2"],
    },
    Attack {
        name: "a layer that is stated shorter",
        act: |asked| asked.is_layer().then(|| raw("200 OK\r\nContent-Length: 3", b"abc")).flatten(),
        code: 65,
        says: &["wrong size: the descriptor says ", "there are 3"],
    },
    Attack {
        name: "a layer that is stated longer",
        act: |asked| asked.is_layer().then(|| body([asked.honest(), b"x".to_vec()].concat())).flatten(),
        code: 65,
        says: &["wrong size: the descriptor says "],
    },
    Attack {
        name: "a layer that goes on",
        act: |asked| asked.is_layer().then(|| chunked(&[&asked.honest(), b"more"])).flatten(),
        code: 65,
        says: &["sends more than the ", " bytes that it should have"],
    },
    Attack {
        name: "a layer without end",
        act: |asked| asked.is_layer().then(|| Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
        code: 65,
        says: &["sends more than the ", " bytes that it should have"],
    },
    Attack {
        name: "a layer that ends too early, and there is no more",
        act: |asked| match (asked.is_layer(), asked.from()) {
            (false, _) => None,
            (true, None) => chunked(&[&asked.honest()[..10]]),
            (true, Some(_)) => raw("416 No\r\nContent-Range: bytes */10\r\nContent-Length: 0", b""),
        },
        code: 65,
        says: &["wrong size: the descriptor says ", "there are 10"],
    },
    Attack {
        name: "another range than was asked for",
        act: |asked| match (asked.is_layer(), asked.from()) {
            (false, _) => None,
            (true, None) => raw("200 OK", &asked.honest()[..1000]),
            (true, Some(_)) => {
                let rest = asked.honest()[900..].to_vec();
                let end = asked.honest().len();
                raw(&format!("206 Part\r\nContent-Range: bytes 900-{}/{end}", end - 1), &rest)
            }
        },
        code: 65,
        says: &["was asked for the bytes from 1000 on and answers with another range"],
    },
    Attack {
        name: "a range of something longer",
        act: |asked| match (asked.is_layer(), asked.from()) {
            (false, _) => None,
            (true, None) => raw("200 OK", &asked.honest()[..1000]),
            (true, Some(_)) => {
                let end = asked.honest().len();
                raw(&format!("206 Part\r\nContent-Range: bytes 1000-{}/{}", end - 1, end + 9), &asked.honest()[1000..])
            }
        },
        code: 65,
        says: &["answers with another range"],
    },
    Attack {
        name: "a part without a range",
        act: |asked| match (asked.is_layer(), asked.from()) {
            (false, _) => None,
            (true, None) => raw("200 OK", &asked.honest()[..1000]),
            (true, Some(_)) => raw("206 Part", &asked.honest()[1000..]),
        },
        code: 65,
        says: &["answers with another range"],
    },
    Attack {
        name: "a part that nobody asked for",
        act: |asked| {
            let end = asked.honest().len();
            let head = format!("206 Part\r\nContent-Range: bytes 0-{}/{end}", end.saturating_sub(1));
            asked.is_layer().then(|| raw(&head, &asked.honest())).flatten()
        },
        code: 65,
        says: &["was asked for the bytes from 0 on and answers with another range"],
    },
    Attack {
        name: "a connection that is cut whenever something has come",
        act: |asked| asked.is_layer().then(|| raw("200 OK\r\nTransfer-Encoding: chunked", b"5\r\nab")).flatten(),
        code: 69,
        says: &["broke off 5 times, the last time: "],
    },
    Attack {
        name: "redirects in a circle",
        act: |asked| asked.is_layer().then(|| status(307, &[("Location", asked.path)])).flatten(),
        code: 65,
        says: &["redirects more than 5 times"],
    },
    Attack {
        name: "a redirect to plain http elsewhere",
        act: |asked| asked.is_layer().then(|| status(307, &[("Location", "http://192.0.2.1/x?secret=1")])).flatten(),
        code: 77,
        says: &["redirects to 192.0.2.1 without encryption, which is refused"],
    },
    Attack {
        name: "a redirect to a file",
        act: |asked| asked.is_layer().then(|| status(302, &[("Location", "file:///etc/passwd")])).flatten(),
        code: 65,
        says: &["redirects to something that is no address of a server"],
    },
    Attack {
        name: "a redirect to nowhere",
        act: |asked| asked.is_layer().then(|| status(307, &[])).flatten(),
        code: 65,
        says: &["redirects to something that is no address of a server"],
    },
    Attack {
        name: "a redirect of the manifest to a page",
        act: |asked| match asked.is_manifest() {
            true => status(303, &[("Location", "/login")]),
            false => typed("text/html; charset=utf-8", b"<html>welcome to the hotel</html>".to_vec()),
        },
        code: 65,
        says: &["it comes as text/html, which is no image manifest or index"],
    },
    Attack {
        name: "a manifest under another type",
        act: |asked| {
            asked.is_manifest().then(|| typed("application/vnd.oci.image.index.v1+json", asked.honest())).flatten()
        },
        code: 65,
        says: &[
            "it comes as application/vnd.oci.image.index.v1+json, but calls itself application/vnd.oci.image.manifest",
        ],
    },
    Attack {
        name: "a manifest that is an index too",
        act: |asked| {
            let both = with(asked, "\"layers\"", "\"manifests\":[],\"layers\"");
            asked.is_manifest().then(|| typed(IMAGE_TYPE, both)).flatten()
        },
        code: 65,
        says: &["both manifests and layers"],
    },
    Attack {
        name: "a manifest of schema 1",
        act: |asked| {
            let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
            asked.is_manifest().then(|| typed(kind, b"{\"schemaVersion\":1}".to_vec())).flatten()
        },
        code: 65,
        says: &["a Docker image of schema 1, whose layers cannot be verified: push it again with a current tool"],
    },
    Attack {
        name: "a manifest that is not JSON",
        act: |asked| asked.is_manifest().then(|| body(b"\xff\x00{".to_vec())).flatten(),
        code: 65,
        says: &["not the JSON expected here"],
    },
    Attack {
        name: "a manifest that is not there",
        act: |asked| asked.is_manifest().then(|| status(404, &[])).flatten(),
        code: 66,
        says: &["there is no image sha256:"],
    },
    Attack {
        name: "a layer that is not there",
        act: |asked| asked.is_layer().then(|| status(404, &[])).flatten(),
        code: 65,
        says: &["missing: something refers to it, but it is not there"],
    },
    Attack {
        name: "429 for ever",
        act: |_| status(429, &[("Retry-After", "0")]),
        code: 69,
        says: &["answers 429 Too Many Requests, asked 5 times"],
    },
    Attack {
        name: "503 for ever",
        act: |asked| asked.is_layer().then(|| status(503, &[("Retry-After", "0")])).flatten(),
        code: 69,
        says: &["answers 503 Service Unavailable, asked 5 times"],
    },
    Attack {
        name: "429 until tomorrow",
        act: |_| status(429, &[("Retry-After", "86400")]),
        code: 69,
        says: &["answers 429 Too Many Requests and asks to wait longer than 60 s: try again later"],
    },
    Attack {
        name: "a status that makes no sense",
        act: |_| Some(Reply::Whole(400, Vec::new(), br#"{"errors":[{"code":"NAME_INVALID"}]}"#.to_vec())),
        code: 65,
        says: &["answers 400 Bad Request (NAME_INVALID), which makes no sense here"],
    },
    Attack {
        name: "an error without end",
        act: |_| Some(Reply::Endless(b"HTTP/1.1 400 Bad\r\n\r\n".to_vec())),
        code: 65,
        says: &["answers 400 Bad Request, which makes no sense here"],
    },
    Attack {
        name: "a thousand headers",
        act: |_| raw(&format!("200 OK\r\n{}x: y", "x: y\r\n".repeat(1000)), b"{}"),
        code: 69,
        says: &["broke off 5 times, the last time: "],
    },
    Attack {
        name: "a header of a megabyte",
        act: |_| raw(&format!("200 OK\r\nx: {}", "y".repeat(1 << 20)), b"{}"),
        code: 69,
        says: &["broke off 5 times, the last time: "],
    },
    Attack {
        name: "something that is not HTTP",
        act: |_| Some(Reply::Raw(b"220 mail ready\r\n\r\n\xff\xfe\x00".to_vec())),
        code: 69,
        says: &["broke off 5 times, the last time: "],
    },
    Attack {
        name: "two lengths",
        act: |asked| {
            asked.is_layer().then(|| raw("200 OK\r\nContent-Length: 3\r\nContent-Length: 4", b"abcd")).flatten()
        },
        code: 69,
        says: &["broke off 5 times, the last time: "],
    },
];

/// What passes, and what must not matter.
const TROUBLES: &[Trouble] = &[
    Trouble { name: "none", act: |_| None },
    Trouble { name: "429 once", act: |asked| (asked.nth == 0).then(|| status(429, &[("Retry-After", "0")])).flatten() },
    Trouble {
        name: "500 three times",
        act: |asked| (asked.nth < 3).then(|| status(500, &[("Retry-After", "0")])).flatten(),
    },
    Trouble {
        name: "a connection that is closed without an answer",
        act: |asked| (asked.nth == 0).then(|| Reply::Raw(Vec::new())),
    },
    Trouble {
        name: "a configuration that is cut off once",
        act: |asked| {
            let first = asked.is_config() && asked.nth == 0;
            first.then(|| raw(&format!("200 OK\r\nContent-Length: {}", asked.honest().len()), b"{")).flatten()
        },
    },
    Trouble {
        name: "a server that knows no ranges",
        act: |asked| {
            let head = format!("200 OK\r\nContent-Length: {}", asked.honest().len());
            (asked.is_layer() && asked.nth < 2).then(|| raw(&head, &asked.honest()[..1000 * (asked.nth + 1)])).flatten()
        },
    },
    Trouble {
        name: "a body without its length",
        act: |asked| asked.is_layer().then(|| raw("200 OK", &asked.honest())).flatten(),
    },
    Trouble {
        name: "a body in chunks",
        act: |asked| {
            let bytes = asked.honest();
            asked.is_layer().then(|| chunked(&bytes.chunks(777).collect::<Vec<_>>())).flatten()
        },
    },
    Trouble {
        name: "a manifest without a type",
        act: |asked| asked.is_manifest().then(|| Reply::Whole(200, Vec::new(), asked.honest())),
    },
    Trouble {
        name: "five redirects",
        act: |asked| {
            let hop = asked.path.split_once("?hop=").and_then(|(_, hop)| hop.parse::<u8>().ok()).unwrap_or(0);
            let blob = format!("/v2/app/blobs/sha256:{}", asked.image.layer);
            match (asked.path.contains(&asked.image.layer), hop) {
                (false, _) => None,
                (true, 5) => body(asked.image.blob(&asked.image.layer)),
                (true, hop) => status(307, &[("Location", &format!("{blob}?hop={}", hop + 1))]),
            }
        },
    },
];

fn attacked(attack: &Attack) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let server = Server::start(Arc::clone(&image), Box::new(attack.act))?;
    expect_line(&seal(&sandbox, &server)?, attack.code, attack.says)?;
    ensure!(
        server.requests().iter().all(|head| head.header("authorization").is_none()),
        "nobody asked for a credential"
    );
    Ok(())
}

fn troubled(trouble: &Trouble) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let server = Server::start(Arc::clone(&image), Box::new(trouble.act))?;
    expect_same(&sandbox, seal(&sandbox, &server)?, &image)
}

/// Only what is missing is asked for, and the whole is hashed all the same.
fn a_blob_that_is_cut_off_is_resumed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let act = |asked: &Asked<'_>| {
        let (bytes, from) = (asked.honest(), asked.from().unwrap_or(0));
        let (end, to) = (bytes.len(), (from + 3000).min(bytes.len()));
        let range = format!("Content-Range: bytes {from}-{}/{end}\r\nContent-Length: {}", end - 1, end - from);
        match (asked.is_layer(), asked.nth) {
            (false, _) => None,
            (true, 0) => raw(&format!("200 OK\r\nContent-Length: {end}"), &bytes[..to]),
            // The last of the tries that there are.
            (true, 4) => raw(&format!("206 Part\r\n{range}"), &bytes[from..]),
            (true, _) => raw(&format!("206 Part\r\n{range}"), &bytes[from..to]),
        }
    };
    let server = Server::start(Arc::clone(&image), Box::new(act))?;
    expect_same(&sandbox, seal(&sandbox, &server)?, &image)?;
    let requests = server.requests();
    let layers = requests.iter().filter(|head| head.first.contains(&image.layer));
    let ranges: Vec<_> = layers.map(|head| head.header("range").unwrap_or("all")).collect();
    ensure!(ranges == ["all", "bytes=3000-", "bytes=6000-", "bytes=9000-", "bytes=12000-"], "{ranges:?}");
    ensure!(sha256(&image.blob(&image.layer)) == image.layer, "the kit's own image");
    Ok(())
}

fn nobody_listens() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let finished = seal_source(&sandbox, &format!("registry:127.0.0.1:1/app@sha256:{}", "0".repeat(64)))?;
    expect_line(&finished, 69, &["registry:127.0.0.1:1/app: ", "127.0.0.1:1 cannot be reached: "])
}

fn a_tag_is_refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let says = ["registry:127.0.0.1:1/app:v1: a tag may lead elsewhere tomorrow", "is not known", "cannot be reached"];
    expect_line(&seal_source(&sandbox, "registry:127.0.0.1:1/app:v1")?, 64, &says)
}
