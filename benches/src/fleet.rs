//! Owns making the store of a large fleet in little time: hosts, their targets and findings, written into the file of a
//! collector that is not running. Must not own its tables: a collector made them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_collector::store::GroupKey;
use driftlock_common::digest::Digest;
use driftlock_common::finding::Finding;
use driftlock_common::policy::Severity;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// The target of every host.
pub const TARGET: &str = "system";
/// What each is sealed as, but for where it lies.
const CONTENT: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
/// When the first finding came, in milliseconds since 1970.
const BEGAN: i64 = 1_790_000_000_000;

/// How large a fleet is.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Hosts, each with one target.
    pub hosts: usize,
    /// Open findings of all hosts together, a multiple of their number.
    pub open: usize,
}

/// The key of a host.
pub fn host(number: usize) -> String {
    format!("host-{number:05}.example")
}

/// The epoch of a host's agent, of which the first event was taken.
pub fn epoch(number: usize) -> String {
    format!("{number:032x}")
}

/// The manifest of every host's target, as agents say it.
pub fn manifest() -> Value {
    json!({"tree": format!("blake3:{CONTENT}"), "sha256": CONTENT, "trust": "signed", "origin": "image"})
}

/// A file as agents describe it.
pub fn file(mode: &str, content: &str) -> Value {
    json!({"type": "file", "size": 48392, "mode": mode, "uid": 0, "gid": 0, "blake3": content})
}

/// The path of the finding of this number on a host. A fifth are spread over directories of few, and most lie in those of
/// which the page makes a line.
pub fn path(number: usize) -> String {
    match number % 5 {
        0 => format!("etc/service-{}/main.conf", number / 5),
        1 => format!("usr/bin/tool-{number}"),
        _ => format!("usr/lib/package-{}/module-{number}.so", number / 50),
    }
}

impl Fleet {
    /// The finding of this number on a host, as its agent says it. It is the same drift on many hosts, but for a fifth of
    /// them, which each host has for itself; half of the hosts have a policy that tolerates some.
    ///
    /// # Errors
    /// If it is none.
    pub fn finding(self, host_number: usize, number: usize) -> Result<Finding> {
        let mut finding = json!({"path": path(number), "change": "changed", "severity": "medium"});
        // Few are critical, fewer could not be established.
        let at = number * self.hosts + host_number;
        let severities = [Severity::Info, Severity::Low, Severity::Medium, Severity::High];
        let severity = if at % 5003 == 3 { Severity::Critical } else { severities[number % 4] };
        finding["severity"] = severity.name().into();
        let own = Digest::blake3(host(host_number).as_bytes()).to_string();
        let (sealed, observed) =
            (file("0755", CONTENT), file("0775", if number.is_multiple_of(5) { &own } else { CONTENT }));
        let change = ["changed", "added", "removed", "changed"][number % 4];
        let change = if at % 9973 == 1 { "unverifiable" } else { change };
        finding["change"] = change.into();
        match change {
            "added" => finding["observed"] = observed,
            "removed" => finding["expected"] = sealed,
            "unverifiable" => (finding["expected"], finding["reason"]) = (sealed, "io".into()),
            _ => {
                finding["attributes"] = json!(["content", "mode"]);
                (finding["expected"], finding["observed"]) = (sealed, observed);
            }
        }
        if host_number % 2 == 1 && number % 10 == 7 {
            (finding["verdict"], finding["rule"]) = ("tolerated".into(), "packages".into());
        }
        Ok(serde_json::from_value(finding)?)
    }

    /// How many findings each host has.
    pub const fn of_each(self) -> usize {
        self.open / self.hosts
    }

    /// Fills the store in `file`. The findings of all hosts come by turns, as they do in a fleet.
    ///
    /// # Errors
    /// If it has not the tables of this version, or is in use.
    pub fn fill(self, file: &Path) -> Result<()> {
        let mut connection = Connection::open(file)?;
        // What is made here is made again if it is lost.
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "cache_size", -1024 * 1024)?;
        let transaction = connection.transaction()?;
        for number in 0..self.hosts {
            add_host(&transaction, number)?;
        }
        let mut received_at = BEGAN;
        for number in 0..self.of_each() {
            for host_number in 0..self.hosts {
                add_finding(&transaction, &host(host_number), &self.finding(host_number, number)?, received_at)?;
                received_at += 1;
            }
        }
        transaction.commit()?;
        let found: i64 = connection.query_row("SELECT sum(number) FROM tallies", [], |row| row.get(0))?;
        ensure!(usize::try_from(found)? == self.open, "{found} findings of {} are counted", self.open);
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").context("the log")?;
        Ok(())
    }
}

fn add_finding(connection: &Connection, host: &str, finding: &Finding, received_at: i64) -> Result<()> {
    let severity = finding.severity().and_then(|severity| Severity::ALL.iter().position(|known| *known == severity));
    let severity = severity.map_or(0, |place| place + 1);
    connection
        .prepare_cached(
            "INSERT INTO findings (host, target, path, directory, change, severity, rule, alone, finding, state,
                 opened_at, updated_at, count, received_at, drift)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'open', ?10, ?10, 1, ?10, unhex(?11))",
        )?
        .execute(params![
            host,
            TARGET,
            finding.path.as_bytes(),
            finding.path.rsplit_once('/').map_or("", |(directory, _)| directory).as_bytes(),
            finding.change.name(),
            i64::try_from(severity)?,
            finding.rule.as_deref().unwrap_or("-"),
            finding.severity() == Some(Severity::Critical),
            serde_json::to_string(finding)?,
            received_at,
            GroupKey::of(finding)?.to_string()
        ])?;
    Ok(())
}

fn add_host(connection: &Connection, number: usize) -> Result<()> {
    let (host, epoch) = (host(number), epoch(number));
    let labels = json!({"role": format!("role-{}", number % 20), "site": format!("site-{}", number % 7)}).to_string();
    connection
        .prepare_cached(
            "INSERT INTO hosts (host, name, claimed, labels, version, interval_s, epoch, first_seen, last_seen)
             VALUES (?1, ?1, ?2, ?3, '0.1.0', 30, ?2, 1, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
        )?
        .execute(params![host, epoch, labels])?;
    connection
        .prepare_cached(
            "INSERT INTO epochs (host, epoch, ack, first_seen, generation) SELECT ?1, ?2, 1, 1, generation FROM store",
        )?
        .execute(params![host, epoch])?;
    connection
        .prepare_cached(
            "INSERT INTO targets (host, target, root, manifest, coverage, resync, sealed, swept_at)
             VALUES (?1, ?2, '/', ?3, ?4, 0, 1, ?5)",
        )?
        .execute(params![host, TARGET, manifest().to_string(), coverage().to_string(), BEGAN])?;
    if number.is_multiple_of(10) {
        connection
            .prepare_cached(
                "INSERT INTO conditions (host, key, target, reason, detail, origin, state, opened_at, updated_at)
                 VALUES (?1, 'x', ?2, 'watch_degraded', 'as in a test', 'agent', 'open', 1, 1)",
            )?
            .execute(params![host, TARGET])?;
    }
    Ok(())
}

/// What every host's agent vouches for.
pub fn coverage() -> Value {
    json!({"watch_mode": "fanotify", "last_sweep": "2026-11-30T08:00:00Z", "unverifiable": 0, "overflows": 0,
        "unwatched": 0})
}
