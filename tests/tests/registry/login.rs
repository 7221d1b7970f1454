//! Logging in: what a registry and its token endpoint may ask for, and who is never shown a credential.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use anyhow::{Result, ensure};
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;

use super::server::{
    Asked, BASIC, Image, PASSWORD, Reply, Server, TOKEN, expect_line, expect_same, log_in, seal, seal_source,
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("another_host_sees_no_credential", &[], another_host_sees_no_credential),
        trial("a_token_is_asked_for_with_the_credential_and_used", &[], a_token_is_used),
        trial("a_token_that_was_withdrawn_is_asked_for_again", &[], a_token_that_was_withdrawn),
        trial("an_identity_token_is_exchanged", &[], an_identity_token),
        trial("a_helper_is_asked", &[], a_helper_is_asked),
        trial("a_helper_that_misbehaves_ends_with_a_line", &[], a_helper_that_misbehaves),
        trial("a_file_that_is_damaged_is_not_quoted", &[], a_damaged_file),
    ];
    trials.extend(LIES.iter().map(|lie| {
        let name = format!("login_{}", lie.name.replace([' ', '-', ','], "_"));
        trial_with(name, &[], || lied(lie))
    }));
    trials
}

const TOKEN_PATH: &str = "/token";

/// A registry that wants a token, and what its endpoint answers.
struct Lie {
    name: &'static str,
    challenge: fn(SocketAddr) -> Option<String>,
    answer: fn() -> Reply,
    code: i32,
    says: &'static [&'static str],
}

fn bearer(address: SocketAddr) -> Option<String> {
    Some(format!("Bearer realm=\"http://{address}{TOKEN_PATH}\",service=\"a, b\",scope=\"repository:other:push,pull\""))
}

fn json(text: &str) -> Reply {
    Reply::Whole(200, Vec::new(), text.as_bytes().to_vec())
}

fn empty(status: u16) -> Reply {
    Reply::Whole(status, Vec::new(), Vec::new())
}

const LIES: &[Lie] = &[
    Lie {
        name: "401 for ever",
        challenge: bearer,
        answer: || json("{\"token\":\"x\"}"),
        code: 77,
        says: &["answers 401 Unauthorized: the credential is refused"],
    },
    Lie {
        name: "401 for ever to a password",
        challenge: |_| Some("Basic realm=\"x\"".into()),
        answer: || empty(500),
        code: 77,
        says: &["answers 401 Unauthorized: the credential is refused"],
    },
    Lie {
        name: "401 without a challenge",
        challenge: |_| None,
        answer: || empty(500),
        code: 65,
        says: &["asks for neither Bearer nor Basic in a way that can be understood"],
    },
    Lie {
        name: "401 with a challenge that is cut off",
        challenge: |_| Some("Bearer realm=\"http".into()),
        answer: || empty(500),
        code: 65,
        says: &["asks for neither Bearer nor Basic"],
    },
    Lie {
        name: "a token endpoint in plain text elsewhere",
        challenge: |_| Some("Bearer realm=\"http://192.0.2.1/token\"".into()),
        answer: || empty(500),
        code: 77,
        says: &["names a token endpoint that is not https://"],
    },
    Lie {
        name: "a token endpoint that is a file",
        challenge: |_| Some("Bearer realm=\"file:///etc/passwd\"".into()),
        answer: || empty(500),
        code: 77,
        says: &["names a token endpoint that is not https://"],
    },
    Lie {
        name: "a token without end",
        challenge: bearer,
        answer: || Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n{\"token\":\"".to_vec()),
        code: 65,
        says: &["the token endpoint ", " answers with more than 65536 bytes"],
    },
    Lie {
        name: "no token",
        challenge: bearer,
        answer: || json("{\"expires_in\":60}"),
        code: 65,
        says: &["answers without a token"],
    },
    Lie {
        name: "an empty token",
        challenge: bearer,
        answer: || json("{\"token\":\"\"}"),
        code: 65,
        says: &["answers without a token"],
    },
    Lie {
        name: "a token of another type",
        challenge: bearer,
        answer: || json("{\"token\":[1]}"),
        code: 65,
        says: &["answers with something else than JSON"],
    },
    Lie {
        name: "a token that is a header",
        challenge: bearer,
        answer: || json("{\"token\":\"x\\r\\nHost: evil\"}"),
        code: 65,
        says: &["answers with a token that cannot stand in a header"],
    },
    Lie {
        name: "a page",
        challenge: bearer,
        answer: || json("<html>welcome to the hotel</html>"),
        code: 65,
        says: &["answers with something else than JSON"],
    },
    Lie {
        name: "a redirect of the token",
        challenge: bearer,
        answer: || Reply::Whole(307, vec![("Location", "http://127.0.0.1:1/".into())], Vec::new()),
        code: 65,
        says: &["answers with a redirect, which is not followed"],
    },
    Lie {
        name: "a token endpoint that refuses",
        challenge: bearer,
        answer: || Reply::Whole(401, Vec::new(), br#"{"errors":[{"code":"UNAUTHORIZED","message":"x"}]}"#.to_vec()),
        code: 77,
        says: &["answers 401 Unauthorized (UNAUTHORIZED): the credential is refused"],
    },
    Lie {
        name: "a token endpoint that is busy for ever",
        challenge: bearer,
        answer: || Reply::Whole(503, vec![("Retry-After", "0".into())], Vec::new()),
        code: 69,
        says: &["answers 503 Service Unavailable, asked 5 times"],
    },
];

fn lied(lie: &'static Lie) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let act = |asked: &Asked<'_>| {
        if asked.path.starts_with(TOKEN_PATH) {
            return Some((lie.answer)());
        }
        let challenge = (lie.challenge)(asked.address).map(|challenge| ("WWW-Authenticate", challenge));
        Some(Reply::Whole(401, challenge.into_iter().collect(), Vec::new()))
    };
    let server = Server::start(image, Box::new(act))?;
    expect_line(&seal(&sandbox, &server)?, lie.code, lie.says)?;
    ensure!(server.requests().len() <= 10, "{} requests", server.requests().len());
    Ok(())
}

/// Asks for `wanted`, and answers 401 with a challenge to everything else.
fn guarded(asked: &Asked<'_>, wanted: &str, challenge: String) -> Option<Reply> {
    let shown = asked.head.header("authorization");
    (shown != Some(wanted)).then(|| Reply::Whole(401, vec![("WWW-Authenticate", challenge)], Vec::new()))
}

/// Layers lie on another server, and the registry redirects there.
fn another_host_sees_no_credential() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let other = Server::start(Arc::clone(&image), Box::new(|_| None))?;
    let to = other.address;
    let act = move |asked: &Asked<'_>| {
        if let Some(reply) = guarded(asked, &format!("Basic {BASIC}"), "Basic realm=\"x\"".into()) {
            return Some(reply);
        }
        // A user name in the address would become a credential.
        let location = format!("http://evil:evil@{to}{}", asked.path);
        asked.is_layer().then(|| Reply::Whole(307, vec![("Location", location)], Vec::new()))
    };
    let server = Server::start(Arc::clone(&image), Box::new(act))?;
    log_in(&sandbox, &[&server.address.to_string(), &to.to_string(), "127.0.0.1"])?;
    expect_same(&sandbox, seal_source(&sandbox, &server.source())?, &image)?;
    let seen = other.requests();
    ensure!(seen.len() == 1, "{seen:?}");
    for (name, value) in seen.iter().flat_map(|head| &head.headers) {
        ensure!(name != "authorization" && !value.contains(BASIC) && !value.contains(PASSWORD), "{name}: {value}");
    }
    Ok(())
}

fn a_token_is_used() -> Result<()> {
    for key in ["token", "access_token"] {
        let sandbox = Sandbox::new()?;
        let image = Arc::new(Image::create(&sandbox, "image")?);
        let act = move |asked: &Asked<'_>| {
            if asked.path.starts_with(TOKEN_PATH) {
                return Some(json(&format!("{{\"{key}\":\"{TOKEN}\",\"expires_in\":300}}")));
            }
            guarded(asked, &format!("Bearer {TOKEN}"), bearer(asked.address)?)
        };
        let server = Server::start(Arc::clone(&image), Box::new(act))?;
        expect_same(&sandbox, seal(&sandbox, &server)?, &image)?;
        let requests = server.requests();
        let asked: Vec<_> = requests.iter().filter(|head| head.first.starts_with("GET /token")).collect();
        // Once, for this repository and reading alone, whatever the challenge named.
        ensure!(asked.len() == 1 && requests.len() == 5, "{requests:?}");
        ensure!(asked[0].first == "GET /token?service=a%2C+b&scope=repository%3Aapp%3Apull HTTP/1.1", "{asked:?}");
        ensure!(asked[0].header("authorization") == Some(&format!("Basic {BASIC}")), "{asked:?}");
    }
    Ok(())
}

/// Each request of the registry wants another token.
fn a_token_that_was_withdrawn() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let act = |asked: &Asked<'_>| {
        if asked.path.starts_with(TOKEN_PATH) {
            return Some(json(&format!("{{\"token\":\"{TOKEN}-{}\"}}", asked.nth)));
        }
        let wanted = if asked.is_manifest() {
            0
        } else if asked.is_config() {
            1
        } else {
            2
        };
        guarded(asked, &format!("Bearer {TOKEN}-{wanted}"), bearer(asked.address)?)
    };
    let server = Server::start(Arc::clone(&image), Box::new(act))?;
    expect_same(&sandbox, seal(&sandbox, &server)?, &image)
}

fn an_identity_token() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let act = |asked: &Asked<'_>| {
        if asked.path.starts_with(TOKEN_PATH) {
            let posted = asked.head.first == "POST /token HTTP/1.1" && asked.head.header("authorization").is_none();
            return Some(if posted { json(&format!("{{\"access_token\":\"{TOKEN}\"}}")) } else { empty(400) });
        }
        guarded(asked, &format!("Bearer {TOKEN}"), bearer(asked.address)?)
    };
    let server = Server::start(Arc::clone(&image), Box::new(act))?;
    let auths = format!("{{\"auths\": {{\"{}\": {{\"identitytoken\": \"{PASSWORD}\"}}}}}}", server.address);
    sandbox.write(".docker/config.json", auths)?;
    expect_same(&sandbox, seal_source(&sandbox, &server.source())?, &image)
}

/// A helper in the sandbox, and the PATH to it.
fn helper(sandbox: &Sandbox, script: &str) -> Result<String> {
    let path = sandbox.write("helpers/docker-credential-test", format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    sandbox.write(".docker/config.json", "{\"credsStore\": \"test\"}")?;
    let path = std::env::var("PATH")?;
    Ok(format!("{}:{path}", sandbox.path("helpers").display()))
}

fn a_helper_is_asked() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let act = |asked: &Asked<'_>| guarded(asked, &format!("Basic {BASIC}"), "Basic realm=\"x\"".into());
    let server = Server::start(Arc::clone(&image), Box::new(act))?;
    let answer = format!("printf '{{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"{PASSWORD}\"}}'");
    let script = format!("[ \"$1\" = get ] && [ \"$(cat)\" = {} ] && {answer}", server.address);
    let path = helper(&sandbox, &script)?;
    let sealing = sandbox.driftlock(["seal", &server.source(), "-o", "sealed"]).env("PATH", path);
    expect_same(&sandbox, sealing.run()?, &image)
}

fn a_helper_that_misbehaves() -> Result<()> {
    for (script, code, says) in [
        ("exit 3", 78, "docker-credential-test: it ended with exit status: 3"),
        ("echo credentials not found in native keychain; exit 1", 77, "not for everybody"),
        (&*format!("echo {PASSWORD}"), 78, "docker-credential-test: its answer is not the JSON of a credential helper"),
        ("cat /dev/zero", 78, "its answer is not the JSON"),
        ("exec </dev/null; exit 0", 78, "its answer is not the JSON"),
    ] {
        let sandbox = Sandbox::new()?;
        let image = Arc::new(Image::create(&sandbox, "image")?);
        let act = |asked: &Asked<'_>| guarded(asked, &format!("Basic {BASIC}"), "Basic realm=\"x\"".into());
        let server = Server::start(image, Box::new(act))?;
        let path = helper(&sandbox, script)?;
        let finished = sandbox.driftlock(["seal", &server.source(), "-o", "sealed"]).env("PATH", path).run()?;
        expect_line(&finished, code, &[says])?;
        ensure!(!finished.stderr.contains(PASSWORD), "{finished:?}");
    }
    Ok(())
}

fn a_damaged_file() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let image = Arc::new(Image::create(&sandbox, "image")?);
    let act = |asked: &Asked<'_>| guarded(asked, &format!("Basic {BASIC}"), "Basic realm=\"x\"".into());
    let server = Server::start(image, Box::new(act))?;
    sandbox.write("auth.json", format!("{{\"auths\": {{\"x\": \"{PASSWORD}\"}}}}"))?;
    let seal = |file: &str| {
        sandbox.driftlock(["seal", &server.source(), "-o", "sealed"]).env("REGISTRY_AUTH_FILE", file).run()
    };
    let finished = seal("auth.json")?;
    expect_line(&finished, 78, &["auth.json: not a file of credentials", "line 1, column "])?;
    ensure!(!finished.stderr.contains(PASSWORD), "{finished:?}");
    expect_line(&seal("none.json")?, 78, &["none.json: REGISTRY_AUTH_FILE names it, but it is not there"])
}
