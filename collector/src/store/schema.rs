//! Owns the tables and their versions. A version is never edited after it was released: another one is added.

use rusqlite::Connection;

use super::StoreError;

/// Statements that lead from each version to the next, beginning at an empty file.
const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5];

/// `drift` of a finding is the key of what it has in common with others ([`super::group`]), `drifts` the numbers of open
/// findings of each, kept by triggers. `runs` is when a collector had the store open. `known` is JSON: who reports as a
/// host, and who did before; `arrivals` what came between. A token that `pushes` is for pushing, not for reading.
/// `beat_sequence` and `stop_sequence` are where in the epoch of its agent a host gave its last heartbeat and stopped.
const VERSION_5: &str = "
ALTER TABLE findings ADD COLUMN drift BLOB;
CREATE INDEX findings_open_of_drift ON findings (drift, host) WHERE state = 'open';
CREATE INDEX findings_open_of_drift_newest ON findings (drift, id) WHERE state = 'open';
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
    id INTEGER PRIMARY KEY,
    begun_at INTEGER NOT NULL,
    alive_at INTEGER NOT NULL
) STRICT;

ALTER TABLE hosts ADD COLUMN known TEXT;
ALTER TABLE hosts ADD COLUMN beat_sequence INTEGER;
ALTER TABLE hosts ADD COLUMN stop_sequence INTEGER;
ALTER TABLE hosts DROP COLUMN beat_time;
CREATE TABLE arrivals (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    what TEXT NOT NULL,
    at INTEGER NOT NULL,
    source TEXT
) STRICT;
CREATE INDEX arrivals_of_host ON arrivals (host, id);

ALTER TABLE access_tokens ADD COLUMN pushes INTEGER NOT NULL DEFAULT 0;
";

/// `store` has one row. `generation` names one life of the store: another one begins with `restore`. An epoch has the
/// generation in which an event of it was last taken, so the first batch after a restore is told from others.
/// `holes` are ranges of sequences that never came, without those that came later; of a kind: `lost`, or `restore` for what
/// was acknowledged after the backup was made.
/// `tallies` are the numbers of open findings, kept by triggers, so that no list of hosts counts findings.
/// `sealed`, `swept_at` and `unverifiable` are what `manifest` and `coverage` say, for [`super::facts`] to read in one index.
const VERSION_4: &str = "
CREATE TABLE store (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    generation TEXT NOT NULL,
    begun_at INTEGER NOT NULL,
    restored_at INTEGER
) STRICT;
INSERT INTO store VALUES (1, lower(hex(randomblob(16))), CAST(unixepoch('subsec') * 1000 AS INTEGER), NULL);
ALTER TABLE epochs ADD COLUMN generation TEXT NOT NULL DEFAULT '';
UPDATE epochs SET generation = (SELECT generation FROM store);

CREATE TABLE holes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    epoch TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    kind TEXT NOT NULL,
    noted_at INTEGER NOT NULL,
    UNIQUE (host, epoch, first)
) STRICT;

CREATE TABLE tallies (
    host TEXT NOT NULL,
    target TEXT NOT NULL,
    severity INTEGER NOT NULL,
    change TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (host, target, severity, change)
) STRICT, WITHOUT ROWID;
INSERT INTO tallies SELECT host, target, severity, change, count(*) FROM findings WHERE state = 'open'
    GROUP BY host, target, severity, change;
CREATE TRIGGER findings_opened AFTER INSERT ON findings WHEN new.state = 'open' BEGIN
    INSERT INTO tallies VALUES (new.host, new.target, new.severity, new.change, 1)
        ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER findings_ended AFTER UPDATE OF state, severity, change ON findings
WHEN (old.state, old.severity, old.change) IS NOT (new.state, new.severity, new.change) BEGIN
    DELETE FROM tallies WHERE old.state = 'open' AND number = 1
        AND host = old.host AND target = old.target AND severity = old.severity AND change = old.change;
    UPDATE tallies SET number = number - 1 WHERE old.state = 'open' AND number > 1
        AND host = old.host AND target = old.target AND severity = old.severity AND change = old.change;
    INSERT INTO tallies SELECT new.host, new.target, new.severity, new.change, 1 WHERE new.state = 'open'
        ON CONFLICT DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER findings_deleted AFTER DELETE ON findings WHEN old.state = 'open' BEGIN
    UPDATE tallies SET number = number - 1
        WHERE host = old.host AND target = old.target AND severity = old.severity AND change = old.change;
    DELETE FROM tallies WHERE number = 0
        AND host = old.host AND target = old.target AND severity = old.severity AND change = old.change;
END;

ALTER TABLE targets ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE targets ADD COLUMN swept_at INTEGER;
ALTER TABLE targets ADD COLUMN unverifiable INTEGER NOT NULL DEFAULT 0;
UPDATE targets SET sealed = manifest IS NOT NULL,
    swept_at = CAST(unixepoch(json_extract(coverage, '$.last_sweep'), 'subsec') * 1000 AS INTEGER),
    unverifiable = coalesce(json_extract(coverage, '$.unverifiable'), 0);
CREATE INDEX targets_facts ON targets (host, target, sealed, swept_at, verified_at, unverifiable, resync);

CREATE INDEX hosts_of_name ON hosts (name);
CREATE INDEX findings_open_of_host ON findings (host, id) WHERE state = 'open';
CREATE INDEX findings_open_of_target ON findings (target, id) WHERE state = 'open';
CREATE INDEX findings_open_of_change ON findings (change, id) WHERE state = 'open';
CREATE INDEX findings_open_of_rule ON findings (rule, id) WHERE state = 'open';
CREATE INDEX findings_open_of_directory ON findings (directory, id) WHERE state = 'open';
CREATE INDEX findings_resolved_newest ON findings (id) WHERE state = 'resolved';
CREATE INDEX findings_resolved ON findings (received_at) WHERE state = 'resolved';
ALTER TABLE conditions ADD COLUMN received_at INTEGER NOT NULL DEFAULT 0;
UPDATE conditions SET received_at = updated_at;
CREATE INDEX conditions_open_newest ON conditions (id) WHERE state = 'open';
CREATE INDEX conditions_resolved ON conditions (received_at) WHERE state = 'resolved';
";

/// Who may connect. Digests are SHA-256 in hexadecimal; `labels` is JSON; keys are PEM. A token that has a pattern is for
/// reporting, one without for reading.
const VERSION_3: &str = "
CREATE TABLE identities (
    host TEXT NOT NULL PRIMARY KEY,
    labels TEXT NOT NULL,
    receipt_key TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    host TEXT NOT NULL PRIMARY KEY,
    revoked_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE enrolment_tokens (
    digest TEXT NOT NULL PRIMARY KEY,
    pattern TEXT NOT NULL,
    labels TEXT NOT NULL,
    replaces INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    used_by TEXT,
    used_keys TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE access_tokens (
    digest TEXT NOT NULL PRIMARY KEY,
    pattern TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT, WITHOUT ROWID;
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

/// The newest version.
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Brings a file to the newest version, in one transaction.
///
/// # Errors
/// If it has a newer version than this code knows, or SQLite refuses.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = newest();
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
