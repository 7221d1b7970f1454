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
