//! Owns the tables and their versions. A version is never edited after it was released: another one is added.

use rusqlite::Connection;

use super::StoreError;

/// Statements that lead from each version to the next, beginning at an empty file.
const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3];

/// `drift` of a finding is the key of what it has in common with others ([`super::group`]), `drifts` the numbers of open
/// findings of each, kept by triggers. `runs` is when a collector had the store open. `known` is JSON: who reports as a
/// host, and who did before; `arrivals` what came between.
const VERSION_3: &str = "
ALTER TABLE findings ADD COLUMN drift BLOB;
CREATE INDEX findings_open_of_drift ON findings (drift, host) WHERE state = 'open';
CREATE TABLE drifts (
    key BLOB NOT NULL PRIMARY KEY,
    severity INTEGER NOT NULL,
    change TEXT NOT NULL,
    hosts INTEGER NOT NULL,
    findings INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX drifts_widest ON drifts (severity, change, hosts, key);
CREATE TRIGGER drifts_opened AFTER INSERT ON findings WHEN new.state = 'open' AND new.drift IS NOT NULL BEGIN
    INSERT INTO drifts VALUES (new.drift, new.severity, new.change, 1, 1, new.received_at, new.received_at)
        ON CONFLICT DO UPDATE SET findings = findings + 1, last_at = max(last_at, new.received_at),
            hosts = hosts + NOT EXISTS (SELECT 1 FROM findings f WHERE f.drift = new.drift AND f.host = new.host
                AND f.state = 'open' AND f.id <> new.id);
END;
CREATE TRIGGER drifts_changed AFTER UPDATE OF state, drift ON findings
WHEN (old.state, old.drift) IS NOT (new.state, new.drift) BEGIN
    UPDATE drifts SET findings = findings - 1,
            hosts = hosts - NOT EXISTS (SELECT 1 FROM findings f WHERE f.drift = old.drift AND f.host = old.host
                AND f.state = 'open' AND f.id <> old.id)
        WHERE key = old.drift AND old.state = 'open';
    DELETE FROM drifts WHERE key = old.drift AND findings = 0;
    INSERT INTO drifts SELECT new.drift, new.severity, new.change, 1, 1, new.received_at, new.received_at
            WHERE new.state = 'open' AND new.drift IS NOT NULL
        ON CONFLICT DO UPDATE SET findings = findings + 1, last_at = max(last_at, new.received_at),
            hosts = hosts + NOT EXISTS (SELECT 1 FROM findings f WHERE f.drift = new.drift AND f.host = new.host
                AND f.state = 'open' AND f.id <> new.id);
END;
CREATE TRIGGER drifts_deleted AFTER DELETE ON findings WHEN old.state = 'open' BEGIN
    UPDATE drifts SET findings = findings - 1,
            hosts = hosts - NOT EXISTS (SELECT 1 FROM findings f WHERE f.drift = old.drift AND f.host = old.host
                AND f.state = 'open')
        WHERE key = old.drift;
    DELETE FROM drifts WHERE key = old.drift AND findings = 0;
END;

CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    begun_at INTEGER NOT NULL,
    alive_at INTEGER NOT NULL
) STRICT;

ALTER TABLE hosts ADD COLUMN known TEXT;
CREATE TABLE arrivals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    what TEXT NOT NULL,
    at INTEGER NOT NULL,
    source TEXT
) STRICT;
CREATE INDEX arrivals_of_host ON arrivals (host, id);
";

/// `agent` is JSON: what runs there.
const VERSION_2: &str = "ALTER TABLE hosts ADD COLUMN agent TEXT;";

/// Times are milliseconds since 1970. `host` is always the name of a credential, never what an agent says.
/// Paths are bytes; `directory` is the one that a path is in. `severity` is 0 for what is tolerated, else from 1, info, to
/// 5, critical: so the order is that of loudness. `rule` is `-` if none covers a finding; `alone` is 1 for what is never
/// folded.
/// `finding`, `manifest`, `policy`, `coverage`, `labels` and `json` are JSON.
const VERSION_1: &str = "
CREATE TABLE hosts (
    host TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL DEFAULT '',
    claimed TEXT NOT NULL DEFAULT '',
    labels TEXT NOT NULL DEFAULT '{}',
    version TEXT NOT NULL DEFAULT '',
    ephemeral INTEGER NOT NULL DEFAULT 0,
    interval_s INTEGER NOT NULL DEFAULT 0,
    epoch TEXT NOT NULL DEFAULT '',
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    beat_time INTEGER,
    stopped_at INTEGER,
    conflict_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE epochs (
    host TEXT NOT NULL,
    epoch TEXT NOT NULL,
    ack INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    first_seen INTEGER NOT NULL,
    PRIMARY KEY (host, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE targets (
    host TEXT NOT NULL,
    target TEXT NOT NULL,
    root TEXT NOT NULL DEFAULT '',
    manifest TEXT,
    policy TEXT,
    coverage TEXT,
    verified_at INTEGER,
    resync INTEGER NOT NULL DEFAULT 1,
    snapshot_next INTEGER,
    open_digest TEXT,
    PRIMARY KEY (host, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshot_paths (
    host TEXT NOT NULL,
    target TEXT NOT NULL,
    path BLOB NOT NULL,
    PRIMARY KEY (host, target, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE findings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    target TEXT NOT NULL,
    path BLOB NOT NULL,
    directory BLOB NOT NULL,
    change TEXT NOT NULL,
    severity INTEGER NOT NULL,
    rule TEXT NOT NULL,
    alone INTEGER NOT NULL,
    finding TEXT NOT NULL,
    state TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    resolved_at INTEGER,
    count INTEGER NOT NULL,
    flapping INTEGER,
    received_at INTEGER NOT NULL,
    UNIQUE (host, target, path)
) STRICT;
CREATE INDEX findings_open ON findings (id) WHERE state = 'open';
CREATE INDEX findings_open_loudest ON findings (severity, id) WHERE state = 'open';
CREATE INDEX findings_open_of_kind ON findings (host, target, severity, change, rule, directory, alone)
    WHERE state = 'open';
CREATE INDEX findings_loudest ON findings (severity, id);
CREATE INDEX findings_of_path ON findings (path);

CREATE TABLE conditions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    key TEXT NOT NULL,
    target TEXT,
    reason TEXT NOT NULL,
    path TEXT,
    detail TEXT NOT NULL,
    origin TEXT NOT NULL,
    state TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    resolved_at INTEGER,
    UNIQUE (host, key)
) STRICT;
CREATE INDEX conditions_open ON conditions (host, reason) WHERE state = 'open';

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    epoch TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    time INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    json TEXT NOT NULL,
    UNIQUE (host, epoch, sequence)
) STRICT;
";

/// Brings a file to the newest version, in one transaction.
///
/// # Errors
/// If it has a newer version than this code knows, or SQLite refuses.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for statements in &MIGRATIONS[done..] {
        transaction.execute_batch(statements)?;
    }
    super::group::give_keys(&transaction)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
