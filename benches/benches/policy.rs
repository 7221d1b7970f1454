//! What a policy costs: judging one drift after another on one core, reading its text, and `driftlock policy simulate` of a
//! history in a file. All with a policy of 1,000 rules: most name directories, some names with stars, some any depth.
//!
//! Beside it, without a promise, a policy of 1,000 rules whose every pattern is built to explode, judging paths that are as
//! near to matching as can be. `--rounds N` says how many rounds; medians are printed. `--smoke` does all of it on little,
//! and holds no promise.

use std::env;
use std::fmt::Write as _;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_benches::program::{memory, timed};
use driftlock_benches::promise::Promises;
use driftlock_benches::{driftlock, median};
use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::drift::{Attribute, Attributes, Delta, Drift, Sealed};
use driftlock_common::manifest::Header;
use driftlock_common::node::{Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::policy::{Context, Moment, Policy};
use driftlock_common::profile::Profile;
use driftlock_common::tree::Origin;

/// Judgements in a second on one core.
const RATE: f64 = 500_000.0;
/// Seconds, of a policy from its text.
const LOADED: f64 = 0.010;
/// Seconds, of simulating a million findings.
const SIMULATED: f64 = 5.0;

/// How much of everything.
struct Size {
    rounds: usize,
    rules: usize,
    drifts: usize,
    findings: usize,
}

fn main() -> Result<()> {
    let mut size = Size { rounds: 7, rules: 1000, drifts: 500_000, findings: 1_000_000 };
    let mut held = true;
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo says so to every bench.
            "--bench" => {}
            "--rounds" => size.rounds = args.next().context("--rounds needs a value")?.parse()?,
            "--smoke" => (size, held) = (Size { rounds: 1, rules: 1000, drifts: 2000, findings: 2000 }, false),
            _ => bail!("unknown argument {arg}"),
        }
    }
    ensure!(size.rounds > 0, "--rounds is at least 1");
    let mut promises = Promises::new(held);
    judging(&size, &mut promises)?;
    simulating(&size, &mut promises)?;
    promises.end()
}

fn judging(size: &Size, promises: &mut Promises) -> Result<()> {
    let text = realistic(size.rules, "any");
    let loading = rounds(size.rounds * 3, || Policy::parse(text.as_bytes()).map(drop).context("the policy"))?;
    let policy = Policy::parse(text.as_bytes())?;
    let drifts: Vec<Drift> =
        (0..size.drifts.min(20_000)).map(|number| drift(number, size.rules)).collect::<Result<_>>()?;
    let per_second = |policy: &Policy, drifts: &[Drift], count: usize| -> Result<(f64, usize)> {
        let mut tolerated = 0;
        let took = rounds(size.rounds, || {
            tolerated = 0;
            for drift in drifts.iter().cycle().take(count) {
                let verdict = policy.judge(black_box(drift), &Context::default(), Moment::default());
                tolerated += usize::from(!verdict.is_alert());
            }
            Ok(())
        })?;
        Ok((count as f64 / took.as_secs_f64(), tolerated))
    };
    let (rate, tolerated) = per_second(&policy, &drifts, size.drifts)?;
    println!("{} rules; {tolerated} of {} drifts are tolerated", policy.rules().len(), size.drifts);
    let worst = Policy::parse(exploding(size.rules).as_bytes())?;
    let near: Vec<Drift> = (0..8).map(near_miss).collect::<Result<_>>()?;
    let (slowest, _) = per_second(&worst, &near, size.drifts.div_ceil(1000))?;
    println!("- patterns that are built to explode: {slowest:.0} judgements in a second, of paths of 1,000 bytes");
    promises.at_least("judgements in a second on one core", rate, RATE);
    promises.at_most("a policy of 1,000 rules from its text, seconds", loading.as_secs_f64(), LOADED);
    Ok(())
}

fn simulating(size: &Size, promises: &mut Promises) -> Result<()> {
    let temp = tempfile::Builder::new().prefix("driftlock-bench-").tempdir()?;
    let place = |name: &str| temp.path().join(name);
    std::fs::write(place("old.toml"), realistic(size.rules, "nothing"))?;
    std::fs::write(place("new.toml"), realistic(size.rules, "any"))?;
    let bytes = history(&place("history.ndjson"), size)?;
    let driftlock = driftlock()?;
    let command = || {
        let mut command = Command::new(&driftlock);
        command.current_dir(temp.path()).args(["policy", "simulate", "new.toml", "--against", "old.toml"]);
        command.args(["--history", "history.ndjson"]);
        command
    };
    let took = (0..size.rounds).map(|_| timed(&mut command())).collect::<Result<Vec<_>>>()?;
    let took = median(&took).context("a round")?.as_secs_f64();
    let most = memory(&mut command())?;
    println!("{} findings, {bytes} bytes; {most} bytes of memory", size.findings);
    promises.at_most("simulating them between two policies of 1,000 rules, seconds", took, SIMULATED);
    Ok(())
}

/// The median of so many rounds.
fn rounds(count: usize, mut round: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        round()?;
        times.push(started.elapsed());
    }
    median(&times).context("a round")
}

/// Rules as a large installation has them: of a hundred, 60 for directories and files of a package, 30 for names with stars
/// in a directory, 10 for a name at any depth.
fn realistic(rules: usize, allow: &str) -> String {
    let mut text = "version = 1\nname = \"large\"\n".to_owned();
    for number in 0..rules {
        let paths = match number % 100 {
            0..60 => format!("\"usr/lib/package-{number}/**\", \"etc/package-{number}/{{main,local}}.conf\""),
            60..90 => format!("\"var/log/service-{number}/*.log\", \"var/log/service-{number}/*.log.{{1..3}}\""),
            _ => format!("\"**/cache-{number}/**\", \"**/*.kind-{number}\""),
        };
        let reason = "what the package does while it runs";
        let _infallible = writeln!(
            text,
            "\n[[rule]]\nid = \"rule-{number}\"\npath = [{paths}]\nallow = \"{allow}\"\nreason = \"{reason}\""
        );
    }
    text
}

/// Each pattern goes back as often as a pattern can, and has nothing that it could be found by.
fn exploding(rules: usize) -> String {
    let mut text = "version = 1\nname = \"exploding\"\n".to_owned();
    for number in 0..rules {
        let path = format!("{}*b{number}*/**/*a*", "**/*a*a*a/".repeat(8));
        let _infallible =
            writeln!(text, "\n[[rule]]\nid = \"rule-{number}\"\npath = \"{path}\"\nallow = \"any\"\nreason = \"x\"");
    }
    text
}

fn near_miss(number: usize) -> Result<Drift> {
    let name = "a".repeat(20 + number);
    changed(&vec![name.as_str(); 1000 / (21 + number)].join("/"))
}

/// Paths of all kinds: a fifth is covered by a rule, others lie beside what is.
fn drift(number: usize, rules: usize) -> Result<Drift> {
    // Spread over the rules, without a pattern in the order.
    let rule = number.wrapping_mul(7919) % rules;
    changed(&match (number % 2, number % 10) {
        (0, 0) => format!("etc/package-{rule}/main.conf"),
        (0, 2) => format!("var/log/service-{rule}/error.log"),
        (0, 4) => format!("home/user-{number}/.local/cache-{rule}/index"),
        (0, _) => format!("usr/lib/package-{rule}/plugins/module-{number}.so"),
        (_, 1) => format!("srv/site-{number}/static/app.js"),
        (_, 3) => format!("etc/package-{rule}/other.conf"),
        _ => format!("usr/share/doc/package-{number}/copyright"),
    })
}

fn changed(path: &str) -> Result<Drift> {
    let file = |content: &[u8]| Node {
        mode: Some(0o644),
        uid: Some(0),
        gid: Some(0),
        ..Node::bare(Kind::File { size: Some(4096), content: Some(Digest::blake3(content)) })
    };
    let expected = Sealed { node: file(b"sealed"), origin: Origin { layer: Some(3), ..Origin::default() }, part: 0 };
    let attributes = Attributes::of(Attribute::Content);
    let delta = Delta::Changed { attributes, expected, observed: file(path.as_bytes()), unverified: None };
    Ok(Drift { path: TreePath::new(path)?, delta })
}

/// Writes findings as `scan --format ndjson` does; how many bytes.
fn history(path: &Path, size: &Size) -> Result<u64> {
    let header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..size.findings {
        file.write_all(&driftlock_agent::output::finding_line(&drift(number, size.rules)?.into(), (&header).into()))?;
    }
    Ok(file.into_inner()?.metadata()?.len())
}
