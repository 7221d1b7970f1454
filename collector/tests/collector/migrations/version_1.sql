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
