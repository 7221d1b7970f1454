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
