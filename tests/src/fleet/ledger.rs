//! Owns a look at what the collector keeps past the collector: its SQLite file, copied and opened by the test itself, held
//! against what was acknowledged. Must not own what the collector shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rusqlite::Connection;

use super::model::{Life, Model};

/// A copy of the store of a collector that does not run, as its end left it.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    _copy: tempfile::TempDir,
}

/// What it holds of a fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Events.
    pub events: u64,
    /// Of these, those that were acknowledged to the host.
    pub acknowledged: u64,
}

impl Ledger {
    /// Copies the store of the data directory, its log too, to `scratch` and opens it there.
    ///
    /// # Errors
    /// If it cannot be copied or opened.
    pub fn open(data: &Path, scratch: &Path) -> Result<Self> {
        let copy = tempfile::tempdir_in(scratch)?;
        for entry in fs::read_dir(data)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_of_the_store = name.to_string_lossy().starts_with("collector.sqlite3");
            // The index of the log is made anew.
            if is_of_the_store && !name.to_string_lossy().ends_with("-shm") {
                fs::copy(entry.path(), copy.path().join(name))?;
            }
        }
        let connection = Connection::open(copy.path().join("collector.sqlite3"))?;
        Ok(Self { connection, _copy: copy })
    }

    /// Holds it against what these hosts were told: every acknowledged event is there once and as it was said; whatever else
    /// is there was said too.
    ///
    /// # Errors
    /// If it does not hold.
    pub fn check<'a>(&self, hosts: impl IntoIterator<Item = &'a Model>) -> Result<Held> {
        let intact: String = self.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(intact == "ok", "{intact}");
        let mut held = Held::default();
        for model in hosts {
            for life in model.earlier.iter().chain([&model.life]) {
                self.check_life(&model.host, life, &mut held)
                    .with_context(|| format!("{} {}", model.host, life.epoch))?;
            }
        }
        Ok(held)
    }

    /// All events that are kept, of whomever.
    ///
    /// # Errors
    /// If they cannot be counted.
    pub fn events(&self) -> Result<u64> {
        self.number("SELECT count(*) FROM events")
    }

    /// That the numbers which are kept beside the findings, for lists of hosts and groups, are those of the findings.
    ///
    /// # Errors
    /// If they are not.
    pub fn check_tallies(&self) -> Result<()> {
        for (what, differences) in [
            (
                "tallies",
                "SELECT count(*) FROM (SELECT host, target, severity, change, count(*) AS number FROM findings
                     WHERE state = 'open' GROUP BY 1, 2, 3, 4) AS truth
                 FULL JOIN tallies USING (host, target, severity, change) WHERE truth.number IS NOT tallies.number",
            ),
            (
                "drifts",
                "SELECT count(*) FROM (SELECT drift AS key, count(*) AS findings, count(DISTINCT host) AS hosts
                     FROM findings WHERE state = 'open' AND drift IS NOT NULL GROUP BY 1) AS truth
                 FULL JOIN drifts USING (key)
                 WHERE (truth.findings, truth.hosts) IS NOT (drifts.findings, drifts.hosts)",
            ),
        ] {
            let wrong = self.number(differences)?;
            ensure!(wrong == 0, "{wrong} {what} are not what the findings are");
        }
        Ok(())
    }

    /// Ranges of sequences of a life that never came.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn holes(&self, host: &str, life: &Life) -> Result<u64> {
        let sql = "SELECT count(*) FROM holes WHERE host = ?1 AND epoch = ?2";
        Ok(self.connection.query_row(sql, [host, &life.epoch], |row| row.get::<_, i64>(0))?.try_into()?)
    }

    fn number(&self, sql: &str) -> Result<u64> {
        Ok(self.connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.try_into()?)
    }

    fn check_life(&self, host: &str, life: &Life, held: &mut Held) -> Result<()> {
        let sql = "SELECT sequence, json FROM events WHERE host = ?1 AND epoch = ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map([host, &life.epoch], |row| {
            Ok((row.get::<_, i64>(0)?, blake3::hash(row.get_ref(1)?.as_bytes()?)))
        })?;
        let mut kept = BTreeMap::new();
        for row in rows {
            let (sequence, hash) = row?;
            let sequence = u64::try_from(sequence)?;
            let Some(given) = life.given.get(usize::try_from(sequence)?.wrapping_sub(1)) else {
                bail!("event {sequence}, which was never said");
            };
            ensure!(*given == hash, "event {sequence} is not what was said");
            ensure!(kept.insert(sequence, ()).is_none(), "event {sequence} is there twice");
        }
        let missing: Vec<u64> = (1..=life.acknowledged).filter(|sequence| !kept.contains_key(sequence)).collect();
        ensure!(missing.is_empty(), "acknowledged up to {}, and lost: {missing:?}", life.acknowledged);
        held.events += kept.len() as u64;
        held.acknowledged += life.acknowledged;
        Ok(())
    }
}
