-- How many packets each ban has dropped. The kernel counts per entry of its set; here it is summed up per ban.

ALTER TABLE bans ADD COLUMN packets INTEGER NOT NULL DEFAULT 0;   -- dropped since the ban began
ALTER TABLE bans ADD COLUMN octets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE bans ADD COLUMN counted_at REAL;                      -- last change of the two; NULL: nothing was dropped

-- For the sum over all bans: most of them drop nothing.
CREATE INDEX bans_dropped ON bans (packets, octets) WHERE packets > 0;

-- What the kernel's counter of a network said last. Telling it again changes nothing, and one that is less than it was
-- began anew (a reboot, a flush): so a count is neither lost nor taken twice, whoever is restarted when.
CREATE TABLE counters (
    sort_key BLOB    PRIMARY KEY,
    packets  INTEGER NOT NULL,
    octets   INTEGER NOT NULL,
    at       REAL    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER counters_begin AFTER INSERT ON counters
BEGIN
    UPDATE bans SET packets = packets + NEW.packets, octets = octets + NEW.octets, counted_at = NEW.at
     WHERE sort_key = NEW.sort_key AND ended_at IS NULL AND NEW.packets > 0;
END;

CREATE TRIGGER counters_go_on AFTER UPDATE ON counters
BEGIN
    UPDATE bans
       SET packets = packets + NEW.packets - CASE WHEN NEW.packets >= OLD.packets THEN OLD.packets ELSE 0 END,
           octets  = octets + NEW.octets - CASE WHEN NEW.packets >= OLD.packets THEN OLD.octets ELSE 0 END,
           counted_at = NEW.at
     WHERE sort_key = NEW.sort_key AND ended_at IS NULL AND NEW.packets > 0 AND NEW.packets <> OLD.packets;
END;

-- As before; and where no ban was in force, the kernel begins to count anew.
DROP TRIGGER bans_replace;
CREATE TRIGGER bans_replace BEFORE INSERT ON bans WHEN NEW.ended_at IS NULL
BEGIN
    DELETE FROM counters
     WHERE sort_key = NEW.sort_key
       AND NOT EXISTS (SELECT 1 FROM bans
                        WHERE sort_key = NEW.sort_key AND ended_at IS NULL AND (until IS NULL OR until > NEW.at));
    UPDATE bans
       SET ended_at  = min(coalesce(until, NEW.at), NEW.at),
           ended_by  = '',
           ended_why = CASE WHEN until <= NEW.at THEN 'expired' ELSE 'replaced' END
     WHERE sort_key = NEW.sort_key AND ended_at IS NULL;
END;

DROP VIEW banned;
CREATE VIEW banned AS
SELECT network,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS since,
       coalesce(strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch'), 'for ever') AS until,
       CAST(max(until - unixepoch('now'), 0) AS INTEGER) AS seconds_left,
       level, rule, reason, service, origin, is_enforced, pbx, banned_by, address, id, packets, octets
  FROM bans
 WHERE ended_at IS NULL AND (until IS NULL OR until > unixepoch('now'));

DROP VIEW ban_history;
CREATE VIEW ban_history AS
SELECT address, network,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS since,
       strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch') AS until,
       strftime('%Y-%m-%dT%H:%M:%SZ', coalesce(ended_at, CASE WHEN until <= unixepoch('now') THEN until END),
                'unixepoch') AS ended,
       coalesce(ended_why, CASE WHEN until <= unixepoch('now') THEN 'expired' END) AS ended_why,
       ended_by, level, rule, reason, service, origin, is_proven, is_enforced, pbx, banned_by, id, packets, octets
  FROM bans;
