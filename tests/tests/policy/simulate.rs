//! `driftlock policy simulate` as an operator meets it: what it says of histories of every shape, of a real collector, and of
//! hostile ones.

use std::fmt::Write as _;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use driftlock_tests::agent::AgentHome;
use driftlock_tests::binaries::binaries;
use driftlock_tests::collector::CollectorHome;
use driftlock_tests::drift::drifts;
use driftlock_tests::http::Head;
use driftlock_tests::sandbox::Sandbox;
use serde_json::{Value, json};

use super::policy;

const OLD: &str = r#"version = 1
name = "old"

[[rule]]
id = "app-log"
path = "var/log/*.log"
allow = "append"
reason = "logs"

[[rule]]
id = "programs"
path = "usr/bin/**"
allow = "nothing"
severity = "high"
reason = "programs"

[[rule]]
id = "cache"
path = "var/cache/**"
allow = "any"
reason = "caches"
"#;

const NEW: &str = r#"version = 1
name = "new"

[[rule]]
id = "app-log"
path = "var/log/*.log"
allow = "append"
reason = "logs"

[[rule]]
id = "programs"
path = "usr/bin/**"
allow = "attributes"
attributes = "mode"
reason = "programs"

[[rule]]
id = "etc"
path = "etc/**"
allow = "any"
reason = "whoever edits"

[[rule]]
id = "never"
path = "srv/**"
allow = "any"
reason = "not there"
"#;

/// A scan's line, an event and an answer's finding, each as driftlock writes them, with what holds no finding between them.
fn history() -> String {
    let mode = r#""change":"changed","attributes":["mode"],"expected":{"type":"file","mode":"0755"},"observed":{"type":"file","mode":"0777"}"#;
    let grown = r#""change":"changed","attributes":["content"],"expected":{"type":"file","size":1},"observed":{"type":"file","size":2}"#;
    let added = r#""change":"added","observed":{"type":"file","size":2,"mode":"0644"}"#;
    let event = |number: u32, kind: &str, data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"e-{number}","source":"urn:driftlock:host:web-1","time":"2026-01-01T00:00:00Z","epoch":"e","sequence":"{number:020}","datacontenttype":"application/json","type":"dev.driftlock.{kind}.v1","data":{data}}}"#
        )
    };
    let body = |finding: &str| {
        format!(r#"{{"target":"shop","finding":{{{finding}}},"opened_at":"2026-01-01T00:00:00Z","count":1}}"#)
    };
    let told = r#""verdict":"tolerated","rule":"app-log","explanation":"logs""#;
    let lines = [
        format!(r#"{{"type":"finding","path":"usr/bin/app",{mode}}}"#),
        event(1, "finding.opened", &body(&format!(r#""path":"var/log/app.log",{grown},{told}"#))),
        event(2, "finding.updated", &body(&format!(r#""path":"var/log/other.log",{grown}"#))),
        event(3, "finding.resolved", r#"{"target":"shop","path":"var/log/app.log"}"#),
        format!(
            r#"{{"host":"web-2","target":"shop","path":"etc/\\x1b","path_b64":"ZXRjLxs=",{added},"state":"open","opened_at":"2026-01-01T00:00:00Z","count":1}}"#
        ),
        format!(r#"{{"host":"web-2","target":"shop","path":"var/cache/a",{added},"state":"open"}}"#),
        format!(r#"{{"host":"web-2","target":"shop","path":"usr/bin/[x]",{added},"state":"resolved"}}"#),
        format!(r#"{{"type":"finding","path":"usr/bin/app",{mode}}}"#),
        r#"{"type":"summary","complete":true}"#.to_owned(),
    ];
    lines.map(|line| line + "\n").concat()
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new().unwrap();
    sandbox.write("old.toml", OLD).unwrap();
    sandbox.write("new.toml", NEW).unwrap();
    sandbox
}

fn simulate(place: &Path, arguments: &[&str]) -> (i32, String, String) {
    policy(place, &[&["simulate", "new.toml"], arguments].concat())
}

const SAID: &str = "\
against       old, blake3:OLD
replayed      7 findings
                            alerts            tolerated            not known
rule              before     after     before     after     before     after
app-log                0         0          1         1          1         1
programs               3         1          0         2          0         0
etc                    0         0          0         1          0         0
cache                  0         0          1         0          0         0
no rule                1         1          0         0          0         0
newly silent  3
  high        usr/bin/app  changed mode, by programs, 2 times
  medium      web-2 shop etc/\\x1b  added, by etc
newly loud    1
  medium      web-2 shop var/cache/a  added, by no rule
severity      1 alerts quieter, 0 louder
never hit     never
";

#[test]
fn what_falls_silent_is_listed_with_what_it_was() {
    let sandbox = sandbox();
    sandbox.write("history", history()).unwrap();
    let digest = |text: &str| driftlock_common::policy::Policy::parse(text.as_bytes()).unwrap().digest().to_string();
    let expected = format!("policy        new, {}\n{SAID}", digest(NEW)).replace("blake3:OLD", &digest(OLD));
    let against = ["--against", "old.toml", "--history", "history"];
    let place = sandbox.path("");
    assert_eq!(simulate(&place, &against), (0, expected.clone(), String::new()));
    for (severity, code) in [("info", 1), ("medium", 1), ("high", 1), ("critical", 0)] {
        let fail_on = format!("--fail-on=newly-silent={severity}");
        let fails = if code == 1 { "fails         more fell silent than may\n" } else { "" };
        let said = simulate(&place, &[&against[..], &[&fail_on]].concat());
        assert_eq!(said, (code, format!("{expected}{fails}"), String::new()), "{severity}");
    }
    // The same policy twice is no news; nothing in the place of a policy is all of it.
    let (code, stdout, _) = policy(&place, &["simulate", "old.toml", "--against", "old.toml", "--history", "history"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("newly silent  0\n") && !stdout.contains("newly loud"), "{stdout}");
    let (code, stdout, _) = simulate(&place, &["--history", "history", "--fail-on", "newly-silent=high"]);
    assert!(code == 0 && stdout.contains("\nagainst       nothing: everything was an alert\n"), "{stdout}");
    let unknown = "not known     2 without the file: whether it only grew or was rotated\n  medium      web-1 shop var/log/app.log  changed content, by app-log\n";
    assert!(stdout.contains(unknown), "{stdout}");
}

#[test]
fn the_json_of_a_simulation() {
    let sandbox = sandbox();
    sandbox.write("history", history()).unwrap();
    let (code, stdout, stderr) = simulate(
        &sandbox.path(""),
        &["--against", "old.toml", "--history", "history", "--format", "json", "--fail-on", "newly-silent=medium"],
    );
    assert_eq!((code, stderr.as_str()), (1, ""));
    let digest = |text: &str| driftlock_common::policy::Policy::parse(text.as_bytes()).unwrap().digest().to_string();
    let mut expected = format!(
        r#"{{"policy":{{"name":"new","digest":"{}"}},"against":{{"name":"old","digest":"{}"}},"replayed":7,"rules":["#,
        digest(NEW),
        digest(OLD)
    );
    for (comma, rule, [a, b, c, d, e, f]) in [
        ("", "\"app-log\"", [0, 1, 1, 0, 1, 1]),
        (",", "\"programs\"", [3, 0, 0, 1, 2, 0]),
        (",", "\"etc\"", [0, 0, 0, 0, 1, 0]),
        (",", "\"cache\"", [0, 1, 0, 0, 0, 0]),
        (",", "null", [1, 0, 0, 1, 0, 0]),
    ] {
        write!(expected, r#"{comma}{{"rule":{rule},"before":{{"alerts":{a},"tolerated":{b},"unknown":{c}}},"after":{{"alerts":{d},"tolerated":{e},"unknown":{f}}}}}"#).unwrap();
    }
    expected += r#"],"newly_silent":{"count":3,"findings":[{"severity":"high","path":"usr/bin/app","change":"changed","attributes":["mode"],"rule":"programs","count":2},{"severity":"medium","host":"web-2","target":"shop","path":"etc/\\x1b","path_b64":"ZXRjLxs=","change":"added","rule":"etc","count":1}],"more":0},"unknown":{"count":0,"findings":[],"more":0},"newly_loud":{"count":1,"findings":[{"severity":"medium","host":"web-2","target":"shop","path":"var/cache/a","change":"added","rule":null,"count":1}],"more":0},"quieter":1,"louder":0,"never_hit":["never"],"without_finding":2,"unreadable":0,"why_unreadable":[],"fails":true}"#;
    assert_eq!(stdout.trim_end(), expected);
}

#[test]
fn what_driftlock_writes_is_read_as_what_it_is() {
    let sandbox = sandbox();
    for path in ["tree/etc/conf", "tree/usr/bin/app", "tree/var/log/a.log"] {
        sandbox.write(path, "sealed").unwrap();
    }
    let place = sandbox.path("");
    let run = |arguments: &[&str]| {
        let output = Command::new(&binaries().driftlock).args(arguments).current_dir(&place).output().unwrap();
        (output.status.code().unwrap(), output.stdout)
    };
    assert_eq!(run(&["seal", "dir:tree", "-o", "manifest"]).0, 0);
    sandbox.write("tree/etc/conf", "changed").unwrap();
    sandbox.write("tree/etc/new\n", "added").unwrap();
    sandbox.write("tree/var/log/a.log", "sealed, and more").unwrap();
    let said = |text: &str| {
        ["replayed", "newly silent", "not known", "  medium"]
            .map(|word| text.lines().filter(|line| line.starts_with(word)).collect::<Vec<_>>().join("\n"))
    };
    let mut seen = Vec::new();
    for format in ["ndjson", "json"] {
        let (code, written) = run(&["scan", "--manifest", "manifest", "--format", format, "tree"]);
        assert_eq!(code, 5);
        sandbox.write("history", &written).unwrap();
        let (code, stdout, stderr) = simulate(&place, &["--history", "history"]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert!(stdout.contains("  medium      etc/new\\x0a  added, by etc\n"), "{stdout}");
        seen.push(said(&stdout));
        // And through a pipe.
        let piped = pipe(&place, &written);
        assert_eq!(piped, stdout);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0][0], "replayed      3 findings");
    assert_eq!(seen[0][1], "newly silent  2");
    assert_eq!(seen[0][2], "not known     1 without the file: whether it only grew or was rotated");
}

fn pipe(place: &Path, written: &[u8]) -> String {
    let mut command = Command::new(&binaries().driftlock);
    command.args(["policy", "simulate", "new.toml", "--history", "-"]).current_dir(place);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(written).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Each holds one good finding that would fall silent, and is told in spite of the rest.
#[test]
fn hostile_histories_are_a_gap_and_never_clean() {
    let sandbox = sandbox();
    let place = sandbox.path("");
    let good = r#"{"type":"finding","path":"etc/a","change":"added","observed":{"type":"file"}}"#;
    let lines = |bad: &[u8]| [good.as_bytes(), b"\n", bad, b"\n"].concat();
    let deep = "[".repeat(100_000);
    let long = format!(r#"{{"type":"finding","path":"{}"}}"#, "x".repeat(5 * 1024 * 1024));
    let neither = "it is neither a line of a scan, an event of the agent, nor a finding of a collector";
    for (name, history, said) in [
        ("cut-line", [good, "\n", &good[..40]].concat().into_bytes(), "line 2: EOF while parsing"),
        ("not-json", lines(b"drift etc/a"), "line 2: expected value"),
        ("not-utf-8", lines(b"{\"type\":\"\xff\"}"), "line 2: invalid unicode code point"),
        ("nul", lines(b"\0"), "line 2: expected value"),
        ("array", lines(format!("[{good}]").as_bytes()), "line 2: invalid type"),
        ("foreign", lines(br#"{"level":"info"}"#), neither),
        ("later-event", lines(br#"{"type":"dev.driftlock.finding.opened.v2","data":{}}"#), neither),
        (
            "event-without-data",
            lines(br#"{"type":"dev.driftlock.finding.opened.v1"}"#),
            "line 2: an event without data",
        ),
        ("twice-type", lines(br#"{"type":"summary","type":"finding"}"#), "line 2: duplicate field `type`"),
        (
            "unknown-change",
            lines(good.replace("added", "\\u001b[31m").as_bytes()),
            "line 2: unknown variant `\\x1b[31m`",
        ),
        ("contradiction", lines(good.replace("added", "removed").as_bytes()), "line 2: expected is missing"),
        (
            "two-spellings",
            lines(good.replace("etc/a\"", "etc/a\",\"path_b64\":\"YQ==\"").as_bytes()),
            "line 2: path is no path of a tree",
        ),
        ("outside", lines(good.replace("etc/a", "../a").as_bytes()), "line 2: path is no path of a tree"),
        ("deep", lines(deep.as_bytes()), "line 2: "),
        ("long-line", lines(long.as_bytes()), "line 2: it is longer than 4194304 bytes"),
        (
            "answer-cut",
            format!("{{\"findings\":[{good},{{\"type\"").into_bytes(),
            "behind finding 1: the rest was not read: EOF",
        ),
        (
            "answer-bad-finding",
            format!("{{\"findings\":[{{\"change\":1}},{good}],\"next\":null}}").into_bytes(),
            "finding 1: ",
        ),
        (
            "answer-summary-as-finding",
            format!("{{\"findings\":[{{\"type\":\"summary\"}},{good}]}}").into_bytes(),
            "finding 1: it is no finding",
        ),
        (
            "answer-long-finding",
            format!("{{\"findings\":[{good},{long}]}}").into_bytes(),
            "behind finding 1: the rest was not read: it holds something longer",
        ),
        ("answer-twice", format!("{{\"findings\":[{good}],\"findings\":[]}}").into_bytes(), "there are findings twice"),
        (
            "answer-garbage-behind",
            format!("{{\"findings\":[{good}]}}]").into_bytes(),
            "behind finding 1: the rest was not read",
        ),
        (
            "answer-next-page",
            format!("{{ \"findings\" : [{good}], \"next\": \"7\"}}\n").into_bytes(),
            "the end: it says that there is a next page, which is not here",
        ),
    ] {
        sandbox.write("history", &history).unwrap();
        let (code, stdout, stderr) = simulate(&place, &["--history", "history", "--fail-on", "newly-silent=low"]);
        assert_eq!(code, 65, "{name}: {stdout}{stderr}");
        assert!(stdout.contains("newly silent  1\n  medium      etc/a  added, by etc\n"), "{name}: {stdout}");
        assert!(stdout.contains("not read      1: what it would say is not known\n"), "{name}: {stdout}");
        assert!(stdout.contains(said), "{name}: {stdout}");
        let one_line = "driftlock: 1 of what was found could not be read: what it would say is not known\n";
        assert_eq!(stderr, one_line, "{name}");
        assert!(!stdout.chars().any(|ch| ch.is_control() && ch != '\n'), "{name}: {stdout:?}");
        assert!(stdout.len() < 4000, "{name} says {} bytes", stdout.len());
    }
    // Many are counted, and the first are said.
    sandbox.write("history", "x\n".repeat(1000)).unwrap();
    let (code, stdout, _) = simulate(&place, &["--history", "history"]);
    assert_eq!((code, stdout.matches("expected value in column 1\n").count()), (65, 10), "{stdout}");
    assert!(stdout.contains("not read      1000: "), "{stdout}");
    for empty in ["", " \n\n"] {
        sandbox.write("history", empty).unwrap();
        let (code, stdout, _) = simulate(&place, &["--history", "history"]);
        assert!(code == 65 && stdout.contains("the whole: there is nothing in it"), "{stdout}");
    }
    // A clean scan is a history without a finding, and two answers one behind the other are one.
    sandbox.write("history", "{\"type\":\"summary\"}\n").unwrap();
    assert_eq!(simulate(&place, &["--history", "history"]).0, 0);
    let first = format!("{{\"findings\":[{good}],\"next\":\"7\"}}");
    sandbox.write("history", format!("{first}\n{{\"findings\":[{good}],\"next\":null}}")).unwrap();
    let (code, stdout, _) = simulate(&place, &["--history", "history"]);
    assert!(code == 0 && stdout.contains("replayed      2 findings\n"), "{stdout}");
}

#[test]
fn what_is_asked_wrongly_is_one_line_and_its_code() {
    let sandbox = sandbox();
    let place = sandbox.path("");
    sandbox.write("empty-token", "").unwrap();
    sandbox.write("h", "{\"type\":\"summary\"}\n").unwrap();
    for (arguments, code, said) in [
        (&["--history", "none"][..], 66, "driftlock: none: No such file or directory (os error 2)\n"),
        (&["--history", "tmp"], 66, "driftlock: tmp: Is a directory (os error 21)\n"),
        (&["--history", "h", "--against", "none"], 66, "driftlock: none: No such file or directory (os error 2)\n"),
        (
            &["--server", "http://127.0.0.1:1", "--token-file", "none"],
            66,
            "driftlock: none: No such file or directory (os error 2)\n",
        ),
        (
            &["--server", "http://127.0.0.1:1", "--token-file", "empty-token"],
            78,
            "driftlock: empty-token does not hold a token of printable characters\n",
        ),
        (&["--server", "https://127.0.0.1:1", "--ca-file", "h"], 78, "driftlock: h holds no PEM certificates\n"),
    ] {
        assert_eq!(simulate(&place, arguments), (code, String::new(), said.to_owned()), "{arguments:?}");
    }
    for arguments in [
        &[][..],
        &["--history", "h", "--server", "http://127.0.0.1:1"],
        &["--history", "h", "--token-file", "h"],
        &["--server", "http://10.0.0.1"],
        &["--history", "h", "--fail-on", "silent=high"],
        &["--history", "h", "--fail-on", "newly-silent=loud"],
    ] {
        let (code, _, stderr) = simulate(&place, arguments);
        assert_eq!(code, 64, "{arguments:?}: {stderr}");
    }
    let (code, _, stderr) = simulate(&place, &["--server", "http://127.0.0.1:1"]);
    assert!(code == 69 && stderr.starts_with("driftlock: http://127.0.0.1:1: no answer: "), "{code} {stderr}");
}

/// A real collector that a real agent filled, read in one page and in many.
#[test]
fn a_collector_is_asked_page_after_page() {
    let sandbox = sandbox();
    let place = sandbox.path("");
    for number in 0..30 {
        sandbox.write(format!("tree/etc/{number}"), "sealed").unwrap();
    }
    let sealed =
        Command::new(&binaries().driftlock).args(["seal", "dir:tree", "-o", "manifest"]).current_dir(&place).status();
    assert!(sealed.unwrap().success());
    for number in 0..30 {
        sandbox.write(format!("tree/etc/{number}"), "changed").unwrap();
    }
    sandbox.write("tree/srv\n", "added").unwrap();
    let collector = CollectorHome::new(&sandbox, &["web-1"]).unwrap().start(&sandbox).unwrap();
    let home = AgentHome::new(&sandbox, "web-1").unwrap();
    let agent = home.target("shop", &sandbox.path("tree"), &sandbox.path("manifest")).reports_to(collector.address());
    let agent = agent.start(&sandbox).unwrap();
    let (code, written) = {
        let mut scan = Command::new(&binaries().driftlock);
        let output =
            scan.args(["scan", "--manifest", "manifest", "--format", "json", "tree"]).current_dir(&place).output();
        let output = output.unwrap();
        (output.status.code(), output.stdout)
    };
    assert_eq!(code, Some(5));
    let scanned: Value = serde_json::from_slice(&written).unwrap();
    collector.eventually_open(&drifts(scanned["findings"].as_array().unwrap()).unwrap()).unwrap();
    let server = format!("http://{}", collector.address());
    let (code, stdout, stderr) = simulate(&place, &["--server", &server, "--fail-on", "newly-silent=medium"]);
    assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
    assert!(stdout.contains("replayed      31 findings\n") && stdout.contains("newly silent  30\n"), "{stdout}");
    assert!(stdout.contains("  medium      web-1 shop etc/7  changed content, by etc\n"), "{stdout}");
    // The same through answers of ten, one behind the other.
    let mut pages = String::new();
    let mut cursor = String::new();
    while let Some(answer) = {
        let answer =
            driftlock_tests::http::get(collector.address(), &format!("/v1/findings?limit=10{cursor}")).unwrap();
        pages += &answer.text();
        answer.json().unwrap()["next"].as_str().map(str::to_owned)
    } {
        cursor = format!("&cursor={answer}");
    }
    assert_eq!(pages.matches("\"findings\":").count(), 4);
    sandbox.write("history", pages).unwrap();
    let (_, from_file, _) = simulate(&place, &["--history", "history", "--fail-on", "newly-silent=medium"]);
    assert_eq!(from_file, stdout);
    agent.stop().unwrap();
}

/// A server that gives these answers, a connection each, then the last one again and again. Its thread ends with the test.
fn server(answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let last = answers.last().cloned();
        for answer in answers.into_iter().chain(std::iter::repeat_with(move || last.clone().unwrap())) {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _request = Head::read(&mut BufReader::new(&stream));
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn a_hostile_collector_ends_with_one_line() {
    let sandbox = sandbox();
    let place = sandbox.path("");
    let finding = json!({"host": "h", "target": "t", "path": "etc/a", "change": "added", "observed": {"type": "file"}});
    let page = |next: Value| answer("200 OK", &json!({"findings": [finding.clone()], "next": next}).to_string());
    let elsewhere =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (name, answers, code, said) in [
        ("same-page-for-ever", vec![page(json!("7"))], 65, "an answer that cannot be read: its next page is the same"),
        ("no-json", vec![answer("200 OK", "<html>")], 65, "an answer that cannot be read: it has no findings"),
        ("empty", vec![answer("200 OK", "")], 65, "an answer that cannot be read: it has no findings"),
        ("redirect", vec![elsewhere.to_owned()], 69, "302 Found"),
        (
            "denied",
            vec![answer("401 Unauthorized", "no\u{1b}")],
            77,
            "401 Unauthorized: no\\u{1b}; name the collector's read token by --token-file",
        ),
        ("broken", vec![page(json!("7")), answer("500 Internal Server Error", "")], 69, "500 Internal Server Error"),
        (
            "cut",
            vec!["HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"findings\":[".to_owned()],
            69,
            "no answer: ",
        ),
        ("not-http", vec!["hello".to_owned()], 69, "no answer: "),
    ] {
        let address = server(answers);
        let (ended, stdout, stderr) = simulate(&place, &["--server", &format!("http://{address}")]);
        assert_eq!((ended, stdout.as_str()), (code, ""), "{name}: {stderr}");
        assert!(
            stderr.starts_with(&format!("driftlock: http://{address}: ")) && stderr.contains(said),
            "{name}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
    }
    // What it has but cannot be read is a gap, as in a file; a page that is too long is asked for in smaller parts.
    let cut = answer("200 OK", &format!("{{\"findings\":[{finding},{{"));
    let address = server(vec![cut]);
    let (ended, stdout, _) = simulate(&place, &["--server", &format!("http://{address}")]);
    assert!(ended == 65 && stdout.contains("newly silent  1\n") && stdout.contains("not read      1"), "{stdout}");
    let large = answer("200 OK", &format!("{{\"findings\":[{finding}],\"x\":\"{}\"}}", "x".repeat(65 * 1024 * 1024)));
    let address = server(vec![large, page(Value::Null)]);
    let (ended, stdout, stderr) = simulate(&place, &["--server", &format!("http://{address}")]);
    assert!(ended == 0 && stdout.contains("replayed      1 findings\n"), "{stdout}{stderr}");
}
