-- The tables. Times are seconds since the epoch (UTC), durations seconds, addresses canonical text.
-- sort_key is for lookups only: family (1 byte), network address, prefix length (1 byte); see store/records.py.

PRAGMA application_id = 0x616D6977;

CREATE TABLE bans (
    id          INTEGER PRIMARY KEY,
    sort_key    BLOB    NOT NULL,
    network     TEXT    NOT NULL,
    address     TEXT    NOT NULL,
    pbx         TEXT    NOT NULL,
    at          REAL    NOT NULL,
    until       REAL,                        -- NULL: for ever
    level       INTEGER NOT NULL,            -- rung of the ladder; 0 by hand
    rule        TEXT    NOT NULL,
    origin      TEXT    NOT NULL CHECK (origin IN ('rule', 'manual', 'recovered')),
    service     TEXT    NOT NULL,
    is_proven   INTEGER NOT NULL,
    is_enforced INTEGER NOT NULL,            -- 0: observe mode, "would have banned"
    reason      TEXT    NOT NULL,
    banned_by   TEXT    NOT NULL,            -- a person, for a ban by hand
    ended_at    REAL,                        -- NULL: open (it may have run out: compare until)
    ended_by    TEXT,
    ended_why   TEXT                         -- 'expired', 'replaced', or the reason of an unban
) STRICT;

CREATE UNIQUE INDEX bans_open ON bans (sort_key) WHERE ended_at IS NULL;
-- Holds all that the daemon reads at start, so that a million bans are one run through an index.
CREATE INDEX bans_open_until ON bans (until, sort_key, at, level, rule, is_enforced, ended_at) WHERE ended_at IS NULL;
CREATE INDEX bans_ended ON bans (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX bans_network ON bans (sort_key, at);
CREATE INDEX bans_address ON bans (address);
CREATE INDEX bans_at ON bans (at);

-- A network has one open ban at most: a new one closes the one before.
CREATE TRIGGER bans_replace BEFORE INSERT ON bans WHEN NEW.ended_at IS NULL
BEGIN
    UPDATE bans
       SET ended_at  = min(coalesce(until, NEW.at), NEW.at),
           ended_by  = '',
           ended_why = CASE WHEN until <= NEW.at THEN 'expired' ELSE 'replaced' END
     WHERE sort_key = NEW.sort_key AND ended_at IS NULL;
END;

-- Apart from bans, so that listing a million bans does not read their evidence.
CREATE TABLE evidence (
    ban_id INTEGER PRIMARY KEY REFERENCES bans (id) ON DELETE CASCADE,
    events TEXT NOT NULL CHECK (json_valid(events))
) STRICT;

CREATE TABLE offenders (
    sort_key BLOB    PRIMARY KEY,
    network  TEXT    NOT NULL,
    first_at REAL    NOT NULL,
    last_at  REAL    NOT NULL,
    until    REAL    NOT NULL,               -- end of the longest ban; its begin, if it has no end
    level    INTEGER NOT NULL,               -- rung of the ladder when last banned; 0: pardoned
    bans     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX offenders_last ON offenders (last_at);

CREATE TABLE attempts (
    id        INTEGER PRIMARY KEY,
    sort_key  BLOB    NOT NULL,
    bucket    INTEGER NOT NULL,              -- begin of ten minutes
    address   TEXT    NOT NULL,              -- an address, or the /64 of an IPv6 source
    pbx       TEXT    NOT NULL,
    account   TEXT    NOT NULL,              -- chosen by the sender
    service   TEXT    NOT NULL,
    transport TEXT    NOT NULL,
    outcome   TEXT    NOT NULL,
    attempts  INTEGER NOT NULL,
    first_at  REAL    NOT NULL,
    last_at   REAL    NOT NULL
) STRICT;

CREATE UNIQUE INDEX attempts_one ON attempts (sort_key, bucket, account, pbx, service, transport, outcome);
CREATE INDEX attempts_bucket ON attempts (bucket);

CREATE TABLE alerts (
    id       INTEGER PRIMARY KEY,
    sort_key BLOB,
    at       REAL    NOT NULL,
    last_at  REAL    NOT NULL,
    times    INTEGER NOT NULL,
    pbx      TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    address  TEXT,
    account  TEXT    NOT NULL,
    reason   TEXT    NOT NULL
) STRICT;

CREATE INDEX alerts_same ON alerts (sort_key, kind, account, pbx, at);
CREATE INDEX alerts_last ON alerts (last_at);

-- What people asked for, and what became of it: queue and audit in one.
CREATE TABLE requests (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    at          REAL    NOT NULL,
    asked_by    TEXT    NOT NULL,
    verb        TEXT    NOT NULL,
    target      TEXT    NOT NULL,
    seconds     INTEGER,
    comment     TEXT    NOT NULL,
    finished_at REAL,                        -- NULL: waits for the daemon
    is_done     INTEGER,                     -- 0: refused or failed
    outcome     TEXT
) STRICT;

CREATE INDEX requests_pending ON requests (id) WHERE finished_at IS NULL;

CREATE TABLE allowlist (
    target   TEXT PRIMARY KEY,               -- a network or a DNS name
    comment  TEXT NOT NULL,
    at       REAL NOT NULL,
    until    REAL,                           -- NULL: for ever
    added_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE trust (
    sort_key BLOB NOT NULL,
    account  TEXT NOT NULL,
    network  TEXT NOT NULL,
    since    REAL NOT NULL,
    until    REAL NOT NULL,
    last_at  REAL NOT NULL,
    PRIMARY KEY (sort_key, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE links (
    id     INTEGER PRIMARY KEY,
    pbx    TEXT NOT NULL,
    at     REAL NOT NULL,
    state  TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX links_at ON links (at);

CREATE TABLE gaps (
    id       INTEGER PRIMARY KEY,
    pbx      TEXT NOT NULL,
    began_at REAL NOT NULL,
    ended_at REAL,                           -- NULL: still deaf
    reason   TEXT NOT NULL
) STRICT;

CREATE INDEX gaps_pbx ON gaps (pbx, began_at);

-- Blocks that were refused, cut to 2 KiB, secrets struck out.
CREATE TABLE tampered (
    id     INTEGER PRIMARY KEY,
    pbx    TEXT NOT NULL,
    at     REAL NOT NULL,
    sample BLOB NOT NULL
) STRICT;

CREATE TABLE daemon (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    pid          INTEGER NOT NULL,
    started_at   REAL    NOT NULL,
    heartbeat_at REAL    NOT NULL,
    mode         TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    firewall     TEXT    NOT NULL,
    counters     TEXT    NOT NULL CHECK (json_valid(counters))
) STRICT;
