//! The collector's pages in a real browser: what each shows, with hostile names, while findings arrive; that nothing
//! complains, nothing runs over the edge, everything can be reached by keys and has a name, and all works without scripts.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::browser::Browser;
use driftlock_tests::collector::{Collector, CollectorHome, token_of};
use driftlock_tests::http;
use driftlock_tests::require::Requirement::{Chromedriver, Chromium};
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::Sandbox;
use serde_json::{Value, json};

/// In places that an agent chooses: what a page, a shell or a terminal could take for something.
const HOSTILE: &str = "<script>alert(1)</script>\"'&\u{202e}\u{1b}[2J";
/// How a page shows that.
const SHOWN: &str = "<script>alert(1)</script>\"'&\\xe2\\x80\\xae\\x1b[2J";
const TIME: &str = "2026-01-02T03:04:05.000Z";
/// Where pictures of the pages go, if somebody wants to look at them.
const PICTURES: &str = "DRIFTLOCK_TEST_PICTURES";

fn main() -> ExitCode {
    run(vec![
        trial("every_page_shows_what_is_and_complains_of_nothing", &[Chromium, Chromedriver], every_page),
        trial("a_page_follows_what_happens_and_keeps_the_readers_place", &[Chromium, Chromedriver], a_page_follows),
        trial("a_storm_of_findings_is_a_few_looks", &[Chromium, Chromedriver], a_storm),
        trial("a_large_fleet_is_read_in_parts", &[Chromium, Chromedriver], a_large_fleet),
        trial("every_page_works_without_scripts_and_by_keys", &[Chromium, Chromedriver], without_scripts),
    ])
}

/// The events of one host, as its agent would send them.
struct Agent {
    address: SocketAddr,
    host: String,
    epoch: String,
    sequence: u64,
}

impl Agent {
    fn new(address: SocketAddr, host: &str, epoch: u8) -> Self {
        Self { address, host: host.to_owned(), epoch: format!("{epoch:032x}"), sequence: 0 }
    }

    fn event(&mut self, kind: &str, data: &Value) -> Value {
        self.sequence += 1;
        json!({
            "specversion": "1.0", "id": format!("{}-{:020}", self.epoch, self.sequence),
            "source": "urn:driftlock:host:claimed", "time": TIME, "epoch": self.epoch,
            "sequence": format!("{:020}", self.sequence), "datacontenttype": "application/json",
            "type": format!("dev.driftlock.{kind}.v1"), "data": data,
        })
    }

    fn send(&self, events: &[Value]) -> Result<()> {
        let authorization = format!("Bearer {}", token_of(&self.host));
        let headers =
            [("Authorization", authorization.as_str()), ("Content-Type", "application/cloudevents-batch+json")];
        let body = Value::from(events).to_string();
        let answer = http::send(self.address, "POST", "/v1/events", &headers, body.as_bytes())?.json()?;
        ensure!(answer["rejected"].is_null(), "{answer}");
        Ok(())
    }

    /// Nothing is open on it.
    fn snapshot(&mut self) -> Value {
        let data = json!({"target": "app", "manifest": manifest(), "part": 0, "last": true, "findings": []});
        self.event("target.snapshot", &data)
    }

    fn opened(&mut self, path: &str, severity: &str) -> Value {
        let data = json!({"target": "app", "finding": finding(path, severity), "opened_at": TIME, "count": 1});
        self.event("finding.opened", &data)
    }

    fn resolved(&mut self, path: &str) -> Value {
        self.event("finding.resolved", &json!({"target": "app", "path": path}))
    }

    fn condition(&mut self, reason: &str, detail: &str) -> Value {
        self.event("condition.opened", &json!({"target": "app", "reason": reason, "path": detail, "detail": detail}))
    }

    fn heartbeat(&self, name: &str, label: &str, started_at: &str) -> Value {
        json!({
            "specversion": "1.0", "id": format!("{}-h1", self.epoch), "source": "urn:driftlock:host:claimed",
            "time": TIME, "epoch": self.epoch, "datacontenttype": "application/json",
            "type": "dev.driftlock.agent.heartbeat.v1",
            "data": {
                "host": name, "labels": {"role": label}, "version": "0.1.0", "interval_s": 3600,
                // Never all of it: what is open is not compared then.
                "sequence": self.sequence + 1,
                "agent": {"started_at": started_at, "starts": 1, "boot": "b"},
                "targets": [{
                    "target": "app", "root": "/srv/app", "manifest": manifest(), "open_findings": 0,
                    "open_digest": format!("blake3:{}", "0".repeat(64)),
                    "coverage": {"watch_mode": "inotify", "last_sweep": TIME, "unverifiable": 0, "overflows": 0, "unwatched": 0},
                }],
            },
        })
    }
}

fn manifest() -> Value {
    let digest = "0".repeat(64);
    json!({"tree": format!("blake3:{digest}"), "sha256": digest, "trust": "signed", "key": "build", "origin": "image"})
}

fn finding(path: &str, severity: &str) -> Value {
    json!({
        "path": path, "change": "changed", "attributes": ["mode"], "severity": severity, "verdict": "alert",
        "expected": {"type": "file", "size": 5, "mode": "0755", "uid": 0, "gid": 0},
        "observed": {"type": "file", "size": 5, "mode": "0777", "uid": 0, "gid": 0}, "rule": "programs",
        "step": "RUN make install",
    })
}

/// As a finding whose path has bytes that are no text says them.
fn hostile_finding() -> Value {
    let mut finding = finding("", "critical");
    finding["path"] = "<script>alert(1)</script>\"'&\\xe2\\x80\\xae\\x1b[2J".into();
    finding["path_b64"] = driftlock_common::path::to_base64(HOSTILE.as_bytes()).into();
    for key in ["rule", "step", "explanation"] {
        finding[key] = HOSTILE.into();
    }
    finding["observed"]["type"] = HOSTILE.into();
    finding
}

/// A collector with a fleet: many hosts with one drift in common, one that chooses hostile names, one expected.
struct Stage {
    sandbox: Sandbox,
    collector: Collector,
}

const FLEET: usize = 12;

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let hosts: Vec<String> = (0..FLEET).map(host).chain(["hostile".to_owned()]).collect();
        let home = CollectorHome::new(&sandbox, &hosts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let fleet = sandbox.write(
            "fleet.toml",
            "expected = [\"web-00\", \"gone\"]\n[[quiet]]\nhosts = \"web-01\"\nat = \"00:00\"\nfor = \"24h\"\nreason = \"kernel <update>\"\n",
        )?;
        enroll(&sandbox, &home)?;
        let collector = home.start_with(&sandbox, &["--fleet".as_ref(), fleet.as_os_str()])?;
        let stage = Self { sandbox, collector };
        for number in 0..FLEET {
            let mut agent = stage.agent(number);
            let mut events = vec![agent.snapshot()];
            if number < 9 {
                events.push(agent.opened("usr/bin/shop", "high"));
            }
            events.push(agent.heartbeat(&format!("{}.example", agent.host), "web", TIME));
            agent.send(&events)?;
        }
        let mut agent = Agent::new(stage.collector.address(), "hostile", 99);
        let opened = json!({"target": HOSTILE, "finding": hostile_finding(), "opened_at": TIME, "count": 1});
        let events = [
            agent.snapshot(),
            agent.event("finding.opened", &opened),
            agent.condition("root_lost", HOSTILE),
            agent.heartbeat(HOSTILE, HOSTILE, TIME),
        ];
        agent.send(&events)?;
        Ok(stage)
    }

    fn agent(&self, number: usize) -> Agent {
        Agent::new(self.collector.address(), &host(number), u8::try_from(number + 1).unwrap_or(u8::MAX))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.collector.address())
    }
}

fn host(number: usize) -> String {
    format!("web-{number:02}")
}

/// What a token for joining gives a host, as far as an operator may say so.
const LABEL: &str = "note=<script>alert(1)</script>\"'&\u{202e}";
const SHOWN_LABEL: &str = "note=<script>alert(1)</script>\"'&\\xe2\\x80\\xae";

/// Two hosts join, one is refused again, and so is one that never did; there are tokens of each kind, and two CAs.
fn enroll(sandbox: &Sandbox, home: &CollectorHome) -> Result<()> {
    let collector = home.start_with(sandbox, &["--tls".as_ref(), "on".as_ref()])?;
    let server = format!("https://{}", collector.address());
    for name in ["web-00", "hostile-2"] {
        let token = home.operator(sandbox, &["enroll-token", name, "--label", LABEL])?;
        let state = sandbox.path(format!("{name}.state")).display().to_string();
        let words = ["enroll", "--server", &server, "--name", name, "--token", &token, "--state-dir", &state];
        sandbox.driftlock(words).run()?.expect(0)?;
    }
    for words in [
        &["revoke", "hostile-2"][..],
        &["revoke", "never-joined"],
        &["enroll-token", "db-*", "--replace"],
        &["token", "add", "--report", "ci-*"],
        &["token", "add", "--read"],
        &["token", "add", "--push"],
        &["ca", "rotate"],
    ] {
        home.operator(sandbox, words)?;
    }
    ensure!(collector.stop()? == 0, "the collector did not stop");
    Ok(())
}

/// Every page: its address, what finds texts on it, and some that are there.
fn pages(stage: &Stage) -> Result<Vec<(String, &'static str, Vec<String>)>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let group = http::get(stage.collector.address(), "/v1/groups")?.json()?["groups"][0]["group"]
        .as_str()
        .context("a group")?
        .to_owned();
    Ok(vec![
        (
            "/".to_owned(),
            ".tiles li, h2.path, .width, .conditions code",
            texts(&["1\nabsent", "10\ndrifted", "usr/bin/shop", "on 9 hosts", "root_lost"]),
        ),
        (
            "/hosts".to_owned(),
            "tbody th a, .state, .chip, tbody th .quiet",
            texts(&["web-00", "gone", "absent", "role=web", SHOWN, "quiet time: kernel <update>"]),
        ),
        ("/hosts?state=clean".to_owned(), "tbody th a", texts(&["web-09", "web-10", "web-11"])),
        (
            "/host?name=web-00".to_owned(),
            "h1, dd, .targets th, .arrivals li, .standing",
            texts(&["web-00\ndrifted", "1 high", "app\n/srv/app", "valid"]),
        ),
        ("/host?name=hostile".to_owned(), "h1, .under, .conditions .path", texts(&["hostile\ndrifted", SHOWN])),
        ("/host?name=gone".to_owned(), "h1, h2", texts(&["gone\nabsent", "Never heard of"])),
        (
            "/findings".to_owned(),
            ".finding h2, .finding td",
            texts(&["usr/bin/shop", SHOWN, "0755  rwxr-xr-x", "0777  rwxrwxrwx"]),
        ),
        (format!("/findings?group={group}&verdict=all"), ".facts a", texts(&["web-00", "web-08"])),
        ("/finding?id=1".to_owned(), "h2, .all", texts(&["usr/bin/shop", "The same drift is open on 9 hosts."])),
        ("/groups".to_owned(), "h2, .width", texts(&["usr/bin/shop", "on 9 hosts", SHOWN, "on hostile"])),
        ("/conditions".to_owned(), "td code, .path", texts(&["root_lost", SHOWN])),
        ("/holes".to_owned(), "h1, h2", texts(&["No hole"])),
        (
            "/enrolment".to_owned(),
            "tbody th a, .standing, .chip, .names a, .cas td",
            texts(&[
                "web-00",
                "valid",
                "hostile-2",
                "revoked",
                "never-joined",
                SHOWN_LABEL,
                "issues certificates of hosts",
            ]),
        ),
        (
            "/tokens".to_owned(),
            "td, td .path, .standing, .chip, td a",
            texts(&["read", "push", "ci-*", "db-*", "used", "valid", "web-00", SHOWN_LABEL]),
        ),
    ])
}

/// What must hold of every page at every width.
fn examine(browser: &Browser, page: &str) -> Result<()> {
    let overflow = browser.script(
        "const root = document.documentElement; \
         return root.scrollWidth > root.clientWidth ? [...document.querySelectorAll('body *')]\
         .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest('.scroll')).map(e => e.outerHTML.slice(0, 200)) : []",
    )?;
    ensure!(overflow == json!([]), "{page} runs over the edge: {overflow}");
    let twice = browser.script(
        "const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.filter((id, at) => ids.indexOf(id) !== at)",
    )?;
    ensure!(twice == json!([]), "{page} has ids twice: {twice}");
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{page}: {complaints:?}");
    Ok(())
}

fn every_page() -> Result<()> {
    let stage = Stage::new()?;
    let browser = Browser::start(&stage.sandbox, 1280, 900)?;
    let pictures = std::env::var_os(PICTURES).map(PathBuf::from);
    for (number, (path, selector, expected)) in pages(&stage)?.into_iter().enumerate() {
        browser.resize(1280, 900)?;
        browser.open(&stage.url(&path))?;
        browser.eventually("return document.getElementById('status').dataset.word === 'live'")?;
        let texts: Vec<String> = browser.texts(selector)?.iter().map(|text| text.trim().to_owned()).collect();
        for text in expected {
            ensure!(texts.contains(&text), "{path}: {text:?} is not one of {texts:#?}");
        }
        // What was hostile did nothing.
        ensure!(browser.script("return document.querySelectorAll('script').length")? == 1, "{path}");
        for scheme in ["light", "dark"] {
            browser.prefer(scheme)?;
            for width in [1280, 800, 360] {
                browser.resize(width, 900)?;
                examine(&browser, &format!("{path} at {width}"))?;
                if let Some(pictures) = &pictures {
                    fs::create_dir_all(pictures)?;
                    browser.picture(&pictures.join(format!("{number:02}-{scheme}-{width}.png")))?;
                }
            }
        }
    }
    Ok(())
}

fn a_page_follows() -> Result<()> {
    let stage = Stage::new()?;
    let browser = Browser::start(&stage.sandbox, 1280, 900)?;
    let mut agent = stage.agent(10);
    agent.sequence = 1;
    browser.open(&stage.url("/findings?sort=newest"))?;
    browser.eventually("return document.getElementById('status').dataset.word === 'live'")?;
    // Somebody reads: one is opened, a link has the focus.
    browser.script(
        "window.kept = document.querySelector('.finding:last-of-type'); kept.querySelector('details').open = true; \
         kept.querySelector('h2 a').focus()",
    )?;
    let first = agent.opened("etc/first", "low");
    agent.send(&[first])?;
    browser.eventually("return document.querySelector('.finding h2').innerText === 'etc/first'")?;
    let second = agent.resolved("etc/first");
    let third = agent.opened("etc/second", "critical");
    agent.send(&[second, third])?;
    browser.eventually(
        "return [...document.querySelectorAll('.finding h2')].map(e => e.innerText).filter(t => t.startsWith('etc/')).join() === 'etc/second'",
    )?;
    let kept = browser.script(
        "return kept.isConnected && kept.querySelector('details').open && document.activeElement === kept.querySelector('h2 a')",
    )?;
    ensure!(kept == true, "what was read was taken away");

    // The page of a host follows that host, and is left alone otherwise.
    browser.open(&stage.url("/host?name=web-10"))?;
    browser.eventually("return document.getElementById('status').dataset.word === 'live'")?;
    let last = agent.condition("root_lost", "it is gone");
    agent.send(&[last])?;
    browser.eventually("return document.querySelector('.conditions code')?.innerText === 'root_lost'")?;
    // Another agent with its credential, from its own first start on.
    let other = Agent { epoch: format!("{:032x}", 1234), sequence: 0, ..stage.agent(10) };
    other.send(&[other.heartbeat("web-10", "web", "2026-01-02T04:00:00Z")])?;
    browser.eventually("return document.querySelector('.arrivals .arrival').innerText === 'reinstalled'")?;
    ensure!(browser.complaints()?.is_empty(), "{:?}", browser.complaints()?);
    Ok(())
}

fn a_storm() -> Result<()> {
    const EVENTS: usize = 4000;
    let stage = Stage::new()?;
    let browser = Browser::start(&stage.sandbox, 1280, 900)?;
    for page in ["/", "/findings?sort=newest"] {
        browser.open(&stage.url(page))?;
        browser.eventually("return document.getElementById('status').dataset.word === 'live'")?;
    }
    let mut agent = stage.agent(11);
    agent.sequence = 1;
    let mut events: Vec<Value> = (0..EVENTS).map(|number| agent.opened(&format!("var/{number}/x"), "low")).collect();
    events.push(agent.opened("last/of/all", "low"));
    for batch in events.chunks(500) {
        agent.send(batch)?;
    }
    browser.eventually("return document.querySelector('.finding h2')?.innerText === 'last/of/all'")?;
    let looks = browser
        .script("return performance.getEntriesByType('resource').filter(e => e.initiatorType === 'fetch').length")?;
    let looks = looks.as_u64().context("a number")?;
    ensure!(looks > 0 && looks < 100, "{looks} looks for {EVENTS} findings");
    examine(&browser, "/findings after a storm")
}

/// Lists longer than a page: each of them once, by following the links, and nothing runs over the edge.
fn a_large_fleet() -> Result<()> {
    const HOSTS: usize = 250;
    const FINDINGS: usize = 12;
    let sandbox = Sandbox::new()?;
    let names: Vec<String> = (0..HOSTS).map(|number| format!("host-{number:05}.example")).collect();
    let collector =
        CollectorHome::new(&sandbox, &names.iter().map(String::as_str).collect::<Vec<_>>())?.start(&sandbox)?;
    for (number, name) in (0..).zip(&names) {
        let mut agent = Agent::new(collector.address(), name, 0);
        agent.epoch = format!("{number:032x}");
        let mut events = vec![agent.snapshot()];
        // One in common with all, one with some, the others with none.
        events.push(agent.opened("usr/bin/shop", "high"));
        events.push(agent.opened(&format!("etc/role-{}.conf", number % 7), "medium"));
        for place in 2..FINDINGS {
            events.push(agent.opened(&format!("var/{number}/{place}"), "low"));
        }
        events.push(agent.heartbeat(name, &format!("role-{}", number % 7), TIME));
        agent.send(&events)?;
    }
    let browser = Browser::start(&sandbox, 1280, 900)?;
    let url = |path: &str| format!("http://{}{path}", collector.address());
    for (path, selector, number) in [
        ("/hosts", "tr.item", HOSTS),
        ("/findings?severity=high", "article.item", HOSTS),
        ("/groups?severity=medium", "article.item", 7),
        ("/findings?directory=usr%2Fbin", "article.item", HOSTS),
        ("/conditions", "tbody tr", HOSTS),
    ] {
        browser.open(&url(path))?;
        let mut seen = BTreeSet::new();
        let mut parts = 0;
        loop {
            parts += 1;
            for width in [1280, 360] {
                browser.resize(width, 900)?;
                examine(&browser, &format!("{path}, part {parts}, at {width}"))?;
            }
            let texts = browser.script(&format!(
                "return [...document.querySelectorAll('{selector}')].map(e => e.id || e.querySelector('th').innerText)"
            ))?;
            for text in texts.as_array().context("a list")? {
                ensure!(seen.insert(text.to_string()), "{path}: {text} stands twice");
            }
            let next = browser.script("return document.querySelector('.more a')?.href ?? null")?;
            match next.as_str() {
                Some(next) => browser.open(next)?,
                None => break,
            }
        }
        ensure!(seen.len() == number && parts == number.div_ceil(100), "{path}: {} in {parts} parts", seen.len());
    }
    browser.open(&url("/"))?;
    let numbers = browser.texts(".tile strong")?;
    ensure!(numbers.iter().any(|text| text == &HOSTS.to_string()), "{numbers:?}");
    Ok(())
}

fn without_scripts() -> Result<()> {
    let stage = Stage::new()?;
    let browser = Browser::start(&stage.sandbox, 1280, 900)?;
    for (path, selector, expected) in pages(&stage)? {
        browser.open(&stage.url(&path))?;
        // Every control says what it is for.
        for name in browser.names("a, button, input:not([type=hidden]), select, summary, [tabindex='0']")? {
            ensure!(!name.trim().is_empty(), "{path}: something without a name");
        }
        let unreachable = browser.script(
            "return [...document.querySelectorAll('#content a, #content button, #content input:not([type=hidden]), #content select, #content summary')]\
             .filter(e => e.tabIndex < 0 || getComputedStyle(e).visibility === 'hidden').length",
        )?;
        ensure!(unreachable == 0, "{path}: {unreachable} that keys do not reach");
        let headers = browser.script("return [...document.querySelectorAll('th')].filter(e => !e.scope).length")?;
        ensure!(headers == 0, "{path}: a header of a table that does not say of what");
        browser.allow_scripts(false)?;
        browser.open(&stage.url(&path))?;
        browser.allow_scripts(true)?;
        let texts: BTreeSet<String> = browser.texts(selector)?.iter().map(|text| text.trim().to_owned()).collect();
        for text in expected {
            ensure!(texts.contains(&text), "{path} without scripts: {text:?} is not one of {texts:#?}");
        }
    }
    // The first key leads past the bar.
    browser.open(&stage.url("/hosts"))?;
    browser.press("\u{e004}")?;
    ensure!(browser.script("return document.activeElement.innerText")? == "Skip to content", "the first stop");
    browser.press("\u{e007}")?;
    browser.eventually("return document.activeElement.id === 'content'")
}
