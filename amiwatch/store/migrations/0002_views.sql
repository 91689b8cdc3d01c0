-- The views people query (docs/database.md). Their names and columns stay; new columns come at the end.

CREATE VIEW banned AS
SELECT network,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS since,
       coalesce(strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch'), 'for ever') AS until,
       CAST(max(until - unixepoch('now'), 0) AS INTEGER) AS seconds_left,
       level, rule, reason, service, origin, is_enforced, pbx, banned_by, address, id
  FROM bans
 WHERE ended_at IS NULL AND (until IS NULL OR until > unixepoch('now'));

CREATE VIEW ban_history AS
SELECT address, network,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS since,
       strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch') AS until,
       strftime('%Y-%m-%dT%H:%M:%SZ', coalesce(ended_at, CASE WHEN until <= unixepoch('now') THEN until END),
                'unixepoch') AS ended,
       coalesce(ended_why, CASE WHEN until <= unixepoch('now') THEN 'expired' END) AS ended_why,
       ended_by, level, rule, reason, service, origin, is_proven, is_enforced, pbx, banned_by, id
  FROM bans;

CREATE VIEW ban_evidence AS
SELECT evidence.ban_id, bans.network,
       strftime('%Y-%m-%dT%H:%M:%fZ', event.value ->> 'at', 'unixepoch') AS at,
       event.value ->> 'kind' AS kind, event.value ->> 'service' AS service,
       event.value ->> 'account' AS account, event.value ->> 'session' AS session,
       event.value ->> 'transport' AS transport, event.value ->> 'address' AS address,
       event.value ->> 'port' AS port
  FROM evidence
  JOIN bans ON bans.id = evidence.ban_id, json_each(evidence.events) AS event;

CREATE VIEW attempt_log AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', bucket, 'unixepoch') AS ten_minutes_from,
       address, account, outcome, attempts, service, transport, pbx,
       strftime('%Y-%m-%dT%H:%M:%SZ', first_at, 'unixepoch') AS first,
       strftime('%Y-%m-%dT%H:%M:%SZ', last_at, 'unixepoch') AS last
  FROM attempts;

CREATE VIEW top_offenders_24h AS
SELECT attempts.address, sum(attempts.attempts) AS attempts, count(DISTINCT attempts.account) AS accounts,
       strftime('%Y-%m-%dT%H:%M:%SZ', min(attempts.first_at), 'unixepoch') AS first,
       strftime('%Y-%m-%dT%H:%M:%SZ', max(attempts.last_at), 'unixepoch') AS last,
       EXISTS (SELECT 1 FROM bans
                WHERE bans.sort_key = attempts.sort_key AND bans.ended_at IS NULL
                  AND (bans.until IS NULL OR bans.until > unixepoch('now'))) AS is_banned
  FROM attempts
 WHERE attempts.bucket >= unixepoch('now') - 86400 AND attempts.outcome <> 'success'
 GROUP BY attempts.sort_key
 ORDER BY 2 DESC;

CREATE VIEW attempts_per_hour AS
SELECT strftime('%Y-%m-%dT%H:00:00Z', bucket, 'unixepoch') AS hour,
       outcome, sum(attempts) AS attempts, count(DISTINCT sort_key) AS sources, count(DISTINCT account) AS accounts
  FROM attempts
 GROUP BY bucket / 3600, outcome;

CREATE VIEW accounts_under_attack AS
SELECT account, sum(attempts) AS attempts, count(DISTINCT sort_key) AS sources,
       strftime('%Y-%m-%dT%H:%M:%SZ', min(first_at), 'unixepoch') AS first,
       strftime('%Y-%m-%dT%H:%M:%SZ', max(last_at), 'unixepoch') AS last
  FROM attempts
 WHERE bucket >= unixepoch('now') - 86400 AND outcome <> 'success'
 GROUP BY account
 ORDER BY 3 DESC, 2 DESC;

CREATE VIEW alert_log AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS first,
       strftime('%Y-%m-%dT%H:%M:%SZ', last_at, 'unixepoch') AS last,
       times, kind, address, account, reason, pbx
  FROM alerts;

CREATE VIEW link_log AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS at, pbx, state, detail
  FROM links;

CREATE VIEW link_gaps AS
SELECT pbx,
       strftime('%Y-%m-%dT%H:%M:%SZ', began_at, 'unixepoch') AS began,
       strftime('%Y-%m-%dT%H:%M:%SZ', ended_at, 'unixepoch') AS ended,
       round(coalesce(ended_at, unixepoch('now')) - began_at, 1) AS seconds,
       reason
  FROM gaps;

CREATE VIEW request_audit AS
SELECT id,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS asked,
       asked_by, verb, target, seconds, comment,
       CASE is_done WHEN 1 THEN 'done' WHEN 0 THEN 'refused' ELSE 'waiting' END AS state,
       outcome,
       strftime('%Y-%m-%dT%H:%M:%SZ', finished_at, 'unixepoch') AS finished
  FROM requests;

CREATE VIEW allowed AS
SELECT target, comment,
       strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS since,
       coalesce(strftime('%Y-%m-%dT%H:%M:%SZ', until, 'unixepoch'), 'for ever') AS until,
       added_by
  FROM allowlist
 WHERE until IS NULL OR until > unixepoch('now');
