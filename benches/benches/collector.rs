//! The collector of a large fleet. The real process, and everything that asks it, on one machine over loopback. The parts,
//! and what each promises; they are named on the command line, or all of them run, one after the other on one store of
//! 10,000 hosts and a million open findings, which is filled past the collector (`benches/src/fleet.rs`):
//!
//! - `questions`: each page and each kind of query within 50 ms (median of 11, asked in turns).
//! - `bytes`: what an event takes on disk: the growth of the file by 100,000 events that open, update and resolve findings,
//!   as agents report them, divided by their number. It is printed.
//! - `kill`: there again, and ready, 2 s after SIGKILL in the middle of batches (median of 5), with all that was acknowledged.
//! - `load`: 10,000 hosts that keep their connections, each with a certificate, and a heartbeat every 30 s; 1,000 requests
//!   in a second, heartbeats within them, the others with 5 events (median). 99 of 100 are answered within 250 ms of when
//!   they were due; less than 500 MB resident at any time. Every answer acknowledges what was sent, and no host is asked to
//!   send all of it again. Pages are read meanwhile; how long they take is printed.
//! - `silent`: 10,240 connections of 20 addresses that never say anything: who says something is answered within 250 ms (99
//!   of 100) meanwhile. What they take in memory is printed; in the end they are closed.
//!
//! `--smoke` does all of it with 50 hosts and 5,000 findings, and holds no promise. `--keep` leaves the store where it is.
//! `--seconds N` is how long the load goes on, `--requests N` how many there are in a second, more than the heartbeats;
//! `--open N` is how many findings are open, a multiple of the hosts. A collector that does not keep up answers 429, which
//! ends the bench.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_benches::fleet::{Fleet, host, path};
use driftlock_benches::link::Door;
use driftlock_benches::load::{self, Pace};
use driftlock_benches::median;
use driftlock_benches::promise::Promises;
use driftlock_benches::reading::{descriptors, peak, processor, resident};
use driftlock_benches::reporter::Reporter;
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, EVENTS_PATH};
use driftlock_tests::authority::Authority;
use driftlock_tests::collector::{Collector, CollectorHome, token_of};
use driftlock_tests::http;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::wait::eventually;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const ANSWERED: f64 = 0.050;
const THERE_AGAIN: f64 = 2.0;
const TAKEN: f64 = 0.250;
const MEMORY: f64 = 500e6;
/// Events in a batch.
const BATCH: usize = 100;
/// Silent connections of one address: as many as the collector lets a stranger have.
const OF_ONE_ADDRESS: usize = 512;

/// A part: its name, and what runs it.
type Part = (&'static str, fn(&mut Bench) -> Result<()>);

const PARTS: [Part; 5] = [
    ("questions", Bench::questions),
    ("bytes", Bench::bytes),
    ("kill", Bench::kill),
    ("load", Bench::load),
    ("silent", Bench::silent),
];

struct Size {
    fleet: Fleet,
    rounds: usize,
    events: usize,
    kills: usize,
    pace: Pace,
    /// Addresses that silent connections come from.
    addresses: u8,
}

struct Bench {
    size: Size,
    promises: Promises,
    sandbox: Sandbox,
    home: CollectorHome,
    reporters: Vec<Reporter>,
}

fn main() -> Result<()> {
    let mut size = Size {
        fleet: Fleet { hosts: 10_000, open: 1_000_000 },
        rounds: 11,
        events: 100_000,
        kills: 5,
        pace: Pace { requests: 1000, time: Duration::from_mins(2) },
        addresses: 20,
    };
    let (mut held, mut keep, mut parts) = (true, false, Vec::new());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--smoke" => {
                size = Size {
                    fleet: Fleet { hosts: 50, open: 5000 },
                    rounds: 2,
                    events: 1000,
                    kills: 1,
                    pace: Pace { requests: 50, time: Duration::from_secs(2) },
                    addresses: 1,
                };
                held = false;
            }
            "--keep" => keep = true,
            "--open" => size.fleet.open = arguments.next().context("--open how many?")?.parse()?,
            "--requests" => size.pace.requests = arguments.next().context("--requests how many?")?.parse()?,
            "--seconds" => {
                size.pace.time = Duration::from_secs(arguments.next().context("--seconds how many?")?.parse()?);
            }
            name => match PARTS.iter().find(|(known, _)| *known == name) {
                Some((known, _)) => parts.push(*known),
                None => bail!("unknown argument {name}"),
            },
        }
    }
    let mut bench = Bench::new(size, Promises::new(held), keep)?;
    for (name, part) in PARTS.iter().filter(|part| parts.is_empty() || parts.contains(&part.0)) {
        println!("\n{name}");
        part(&mut bench)?;
    }
    bench.promises.end()
}

impl Bench {
    /// Fills a store.
    fn new(size: Size, promises: Promises, keep: bool) -> Result<Self> {
        let mut sandbox = Sandbox::new()?;
        if keep {
            println!("{}", sandbox.keep().display());
        }
        let names: Vec<String> = (0..size.fleet.hosts).map(host).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let home = CollectorHome::new(&sandbox, &names)?;
        home.start(&sandbox)?.stop()?;
        let started = Instant::now();
        let file = file_of(&sandbox);
        size.fleet.fill(&file)?;
        println!(
            "{} hosts, {} open findings: {:.0} MB, made in {:.1?}",
            size.fleet.hosts,
            size.fleet.open,
            megabytes(fs::metadata(&file)?.len()),
            started.elapsed()
        );
        let reporters = (0..size.fleet.hosts).map(|number| Reporter::new(size.fleet, number)).collect::<Result<_>>()?;
        Ok(Self { size, promises, sandbox, home, reporters })
    }

    fn start(&self) -> Result<Collector> {
        self.home.start(&self.sandbox)
    }

    fn questions(&mut self) -> Result<()> {
        let mut collector = self.start()?;
        let asked = questions(&self.size.fleet, collector.address())?;
        let mut times: Vec<Vec<Duration>> = asked.iter().map(|_| Vec::new()).collect();
        for round in 0..=self.size.rounds {
            for ((_, uri), times) in asked.iter().zip(&mut times) {
                let started = Instant::now();
                let answer = http::get(collector.address(), uri)?;
                let elapsed = started.elapsed();
                ensure!(answer.status == 200, "{uri}: {}", answer.text());
                // The first round fills the caches.
                if round > 0 {
                    times.push(elapsed);
                }
            }
        }
        println!("| asked for | median | slowest |\n|---|---:|---:|");
        let mut slowest = Duration::ZERO;
        for ((words, _), times) in asked.iter().zip(&times) {
            let middle = median(times).context("no rounds")?;
            let most = times.iter().max().copied().unwrap_or_default();
            println!("| {words} | {:.1} ms | {:.1} ms |", milliseconds(middle), milliseconds(most));
            slowest = slowest.max(middle);
        }
        self.promises.at_most("the slowest median, seconds", slowest.as_secs_f64(), ANSWERED);
        let memory = peak(collector.process().id())?;
        self.promises.at_most("resident at most, by questions, bytes", memory as f64, MEMORY);
        collector.stop()?;
        Ok(())
    }

    fn bytes(&mut self) -> Result<()> {
        let file = file_of(&self.sandbox);
        let before = fs::metadata(&file)?.len();
        let collector = self.start()?;
        let (mut sent, mut json) = (0, 0);
        let started = Instant::now();
        while sent < self.size.events {
            for reporter in self.reporters.iter_mut().take(10) {
                json += report(&collector, reporter, BATCH)?;
                sent += BATCH;
            }
        }
        let elapsed = started.elapsed();
        // What is in the log is written into the file when the last connection is closed.
        collector.stop()?;
        let grown = fs::metadata(&file)?.len().saturating_sub(before);
        println!(
            "an event takes {:.0} bytes on disk, {} as JSON ({sent} events, {:.0} in a second by one connection after the \
             other, one batch of {BATCH} after the other)",
            grown as f64 / sent as f64,
            json / sent,
            sent as f64 / elapsed.as_secs_f64()
        );
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let mut times = Vec::new();
        for kill in 0..self.size.kills {
            let collector = self.start()?;
            let reporter = &mut self.reporters[20 + kill];
            // Enough that the log holds thousands of pages.
            for _ in 0..100 {
                report(&collector, reporter, BATCH)?;
            }
            collector.kill()?;
            let started = Instant::now();
            let collector = self.home.start(&self.sandbox)?;
            ensure!(http::get(collector.address(), "/readyz")?.status == 200, "not ready");
            times.push(started.elapsed());
            report(&collector, reporter, 1)?;
            collector.stop()?;
        }
        let (middle, most) = (median(&times).context("no kills")?, times.iter().max().copied().unwrap_or_default());
        println!(
            "there again {:.0} ms after SIGKILL (median of {}, at most {:.0})",
            milliseconds(middle),
            times.len(),
            milliseconds(most)
        );
        self.promises.at_most("there again after SIGKILL, seconds", middle.as_secs_f64(), THERE_AGAIN);
        Ok(())
    }

    fn load(&mut self) -> Result<()> {
        let (mut collector, door) = self.start_with_tls()?;
        let pid = collector.process().id();
        let reporters = std::mem::take(&mut self.reporters);
        let (before, runtime) = (resident(pid)?, Runtime::new()?);
        let started = Instant::now();
        let agents = runtime.block_on(load::connect(&door, reporters))?;
        let (elapsed, kept) = (started.elapsed(), resident(pid)?);
        println!(
            "{} connections: {:.0} in a second, {:.0} MB resident, {:.1} kB each",
            agents.len(),
            agents.len() as f64 / elapsed.as_secs_f64(),
            megabytes(kept),
            kept.saturating_sub(before) as f64 / 1e3 / agents.len() as f64
        );
        let (cpu, started) = (processor(pid)?, Instant::now());
        let (outcome, pages) = runtime.block_on(async {
            tokio::join!(load::run(&agents, self.size.pace), read_meanwhile(&door, self.size.pace.time))
        });
        let (outcome, pages) = (outcome?, pages?);
        let (cpu, elapsed) = (processor(pid)? - cpu, started.elapsed().as_secs_f64());
        let mut from_due = outcome.from_due;
        let answered = from_due.len() as f64 / elapsed;
        println!(
            "{answered:.0} requests and {:.0} events in a second for {elapsed:.0} s, {:.2} cores of the collector's",
            outcome.events as f64 / elapsed,
            cpu.as_secs_f64() / elapsed
        );
        println!("from due to answered: {}", spread(&mut from_due));
        println!("from sent to answered: {}", spread(&mut outcome.from_sent.clone()));
        println!("the overview meanwhile: {}", spread(&mut pages.clone()));
        self.promises.at_least("requests answered in a second", answered, 0.95 * f64::from(self.size.pace.requests));
        self.promises.at_most("from due to answered, p99, seconds", percentile(&from_due, 99), TAKEN);
        self.promises.at_most("resident at most, under load, bytes", peak(pid)? as f64, MEMORY);
        for agent in agents {
            self.reporters.push(Arc::into_inner(agent).context("an agent is in use")?.into_inner().reporter);
        }
        drop(runtime);
        collector.stop()?;
        Ok(())
    }

    fn silent(&mut self) -> Result<()> {
        let (mut collector, door) = self.start_with_tls()?;
        let (pid, address) = (collector.process().id(), collector.address());
        let runtime = Runtime::new()?;
        let agent = runtime.block_on(load::connect(&door, self.reporters.drain(..1).collect()))?;
        let agent = &mut *agent[0].try_lock()?;
        let (before, descriptors_before) = (resident(pid)?, descriptors(pid)?);
        let mut silent: Vec<TcpStream> = Vec::new();
        for source in 0..self.size.addresses {
            let source = Ipv4Addr::new(127, 0, 1, source + 1);
            // At once: those who came first are closed after ten seconds.
            let mut coming: JoinSet<std::io::Result<TcpStream>> = JoinSet::new();
            for _ in 0..OF_ONE_ADDRESS {
                let connect = async move {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind((source, 0).into())?;
                    socket.connect(address).await
                };
                coming.spawn_on(connect, runtime.handle());
            }
            for stream in runtime.block_on(coming.join_all()) {
                silent.push(stream?);
            }
        }
        let number = silent.len();
        eventually("all of them to be accepted", || {
            let more = descriptors(pid)?.saturating_sub(descriptors_before);
            ensure!(more >= number, "{more} of {number}");
            Ok::<_, anyhow::Error>(())
        })?;
        let during = resident(pid)?;
        let mut times = Vec::new();
        for _ in 0..200 {
            let started = Instant::now();
            runtime.block_on(agent.send(1))?;
            times.push(started.elapsed());
        }
        ensure!(descriptors(pid)? >= descriptors_before + number, "some are closed already");
        println!(
            "{number} silent connections: {:.1} MB more, {:.1} kB each",
            megabytes(during.saturating_sub(before)),
            during.saturating_sub(before) as f64 / 1e3 / number as f64
        );
        println!("meanwhile, from sent to answered: {}", spread(&mut times));
        eventually("none of them to be left", || {
            let left = descriptors(pid)?.saturating_sub(descriptors_before);
            ensure!(left < 10, "{left}");
            Ok::<_, anyhow::Error>(())
        })?;
        self.promises.at_most("beside silent connections, p99, seconds", percentile(&times, 99), TAKEN);
        self.promises.at_most("resident at most, by silent connections, bytes", peak(pid)? as f64, MEMORY);
        collector.stop()?;
        Ok(())
    }

    /// Starts it so that hosts come with certificates of a CA.
    fn start_with_tls(&self) -> Result<(Collector, Door)> {
        let authority = Authority::new()?;
        let (certificate, key) = authority.certify_server(&["127.0.0.1"])?;
        let files = [
            ("--tls-cert", "server.pem", certificate.pem()),
            ("--tls-key", "server.key", key.serialize_pem()),
            ("--client-ca", "clients.pem", authority.pem().to_owned()),
        ];
        let mut arguments: Vec<OsString> = Vec::new();
        for (argument, name, content) in files {
            let file = self.sandbox.write(name, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            arguments.extend([argument.into(), file.into()]);
        }
        let arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        let collector = self.home.start_with(&self.sandbox, &arguments)?;
        let door = Door::new(collector.address(), authority)?;
        Ok((collector, door))
    }
}

/// What is asked, and by which words it is told.
fn questions(fleet: &Fleet, address: std::net::SocketAddr) -> Result<Vec<(&'static str, String)>> {
    let one = host(fleet.hosts / 2);
    let first = path(0);
    // The widest group, which is on every host or every second one.
    let groups = http::get(address, "/v1/groups?limit=1")?.json()?;
    let group = groups["groups"][0]["group"].as_str().with_context(|| groups.to_string())?.to_owned();
    let next = |uri: &str| -> Result<String> {
        let answer = http::get(address, uri)?.json()?;
        Ok(format!("{uri}&cursor={}", answer["next"].as_str().with_context(|| answer.to_string())?))
    };
    Ok(vec![
        ("the overview", "/".to_owned()),
        ("its numbers", "/metrics".to_owned()),
        ("the page of hosts", "/hosts".to_owned()),
        ("the page of hosts that are drifted", "/hosts?state=drifted".to_owned()),
        ("the page of hosts with a label", "/hosts?label=site%3Dsite-3".to_owned()),
        ("the page of hosts by a part of their name", "/hosts?name=-0777".to_owned()),
        ("the page of a host", format!("/host?name={one}")),
        ("the page of findings", "/findings".to_owned()),
        ("the page of findings of a host", format!("/findings?host={one}")),
        ("the page of groups", "/groups".to_owned()),
        ("the page of groups, the loudest first", "/groups?sort=severity&verdict=all".to_owned()),
        ("the page of findings of a group", format!("/findings?group={group}")),
        ("the page of conditions", "/conditions".to_owned()),
        ("a hundred groups", "/v1/groups".to_owned()),
        ("a thousand groups", "/v1/groups?limit=1000".to_owned()),
        ("a later part of them", next("/v1/groups?limit=100")?),
        ("groups of one kind, the loudest first", "/v1/groups?sort=severity&change=removed".to_owned()),
        ("the findings of a group", format!("/v1/findings?state=open&group={group}")),
        ("of a group, the loudest first", format!("/v1/findings?state=open&group={group}&sort=severity")),
        ("the newest findings", "/v1/findings?state=open".to_owned()),
        ("a thousand of them", "/v1/findings?state=open&limit=1000".to_owned()),
        ("the loudest", "/v1/findings?state=open&sort=severity".to_owned()),
        ("a later part", format!("/v1/findings?state=open&cursor={}", fleet.open / 2)),
        ("of a host", format!("/v1/findings?state=open&host={one}")),
        ("of a host that is not there", "/v1/findings?state=open&host=nobody".to_owned()),
        ("of a target that all have", "/v1/findings?state=open&target=system&sort=severity".to_owned()),
        ("of a path that all have", format!("/v1/findings?state=open&path={first}")),
        ("of a path that none has", "/v1/findings?path=no/such/path".to_owned()),
        ("of one directory", "/v1/findings?state=open&directory=etc/service-1&sort=severity".to_owned()),
        ("below a directory", "/v1/findings?state=open&below=usr&sort=severity".to_owned()),
        ("below one that few have", "/v1/findings?state=open&below=srv".to_owned()),
        ("critical ones", "/v1/findings?state=open&severity=critical".to_owned()),
        ("what could not be established", "/v1/findings?state=open&change=unverifiable".to_owned()),
        ("what is tolerated", "/v1/findings?state=open&verdict=tolerated".to_owned()),
        ("of a rule", "/v1/findings?state=open&rule=packages&sort=severity".to_owned()),
        ("of no rule, below, changed", "/v1/findings?state=open&rule=-&below=etc&change=removed".to_owned()),
        ("what was resolved", "/v1/findings?state=resolved".to_owned()),
        ("a hundred hosts", "/v1/hosts".to_owned()),
        ("a thousand hosts", "/v1/hosts?limit=1000".to_owned()),
        ("one host", format!("/v1/hosts?host={one}")),
        ("conditions", "/v1/conditions?state=open".to_owned()),
        ("holes", "/v1/holes".to_owned()),
    ])
}

/// Reports some events by a token; how long they are as JSON.
fn report(collector: &Collector, reporter: &mut Reporter, events: usize) -> Result<usize> {
    let batch = reporter.batch(events)?;
    let token = format!("Bearer {}", token_of(reporter.host()));
    let headers = [("authorization", token.as_str()), ("content-type", BATCH_MEDIA_TYPE)];
    let answer = http::send(collector.address(), "POST", EVENTS_PATH, &headers, &batch)?.json()?;
    reporter.check(&serde_json::from_value::<Answer>(answer)?)?;
    Ok(batch.len())
}

/// Reads the overview once a second for so long.
async fn read_meanwhile(door: &Door, time: Duration) -> Result<Vec<Duration>> {
    let (mut times, mut reader, began) = (Vec::new(), door.connect("reader").await?, Instant::now());
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    while began.elapsed() < time {
        interval.tick().await;
        let started = Instant::now();
        reader.get("/").await?;
        times.push(started.elapsed());
    }
    Ok(times)
}

fn file_of(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("collector").join(Path::new("data/collector.sqlite3"))
}

/// Half, nine of ten and 99 of 100 of them, and the slowest. They are sorted.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let [p50, p90, p99, most] = [50, 90, 99, 100].map(|percent| percentile(times, percent) * 1000.0);
    format!("p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, at most {most:.1} ms of {}", times.len())
}

/// Of sorted times, in seconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).map_or(f64::NAN, Duration::as_secs_f64)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
