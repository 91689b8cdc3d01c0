-- What a person stopped, or only tries: a panic keeps the kernel empty; a ban on trial ends unless it is confirmed.

CREATE TABLE panic (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    at       REAL    NOT NULL,
    until    REAL,                           -- NULL: until somebody resumes
    asked_by TEXT    NOT NULL,
    comment  TEXT    NOT NULL
) STRICT;

CREATE TABLE trials (
    sort_key BLOB PRIMARY KEY,
    network  TEXT    NOT NULL,
    at       REAL    NOT NULL,
    deadline REAL    NOT NULL,               -- end of the ban, if nobody confirms it
    until    REAL,                           -- its end, if somebody does; NULL: for ever
    rule     TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    asked_by TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE requests ADD COLUMN is_forced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN confirm INTEGER;  -- seconds within which it must be confirmed; NULL: it need not be

DROP VIEW request_audit;

CREATE VIEW request_audit AS
SELECT id,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS asked,
       asked_by, verb, target, seconds, comment,
       CASE is_done WHEN 1 THEN 'done' WHEN 0 THEN 'refused' ELSE 'waiting' END AS state,
       outcome,
       strftime('%Y-%m-%dT%H:%M:%SZ', finished_at, 'unixepoch') AS finished,
       is_forced, confirm
  FROM requests;

CREATE VIEW held AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS since,
       coalesce(strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch'), 'resume') AS until,
       asked_by, comment
  FROM panic
 WHERE until IS NULL OR until > unixepoch('now');

CREATE VIEW unconfirmed AS
SELECT network,
       strftime('%Y-%m-%dT%H:%M:%SZ', deadline, 'unixepoch') AS ends,
       coalesce(strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch'), 'for ever') AS until,
       reason, asked_by
  FROM trials
 WHERE deadline > unixepoch('now');
