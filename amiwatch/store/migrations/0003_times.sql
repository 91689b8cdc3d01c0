-- When each attempt was, and how many were answered with a password: what judging the history again needs.

ALTER TABLE attempts ADD COLUMN times TEXT NOT NULL DEFAULT '';      -- hundredths of a second since bucket: '17,230'
ALTER TABLE attempts ADD COLUMN answers INTEGER NOT NULL DEFAULT 0;

CREATE VIEW attempt_times AS
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', bucket + moment.value / 100.0, 'unixepoch') AS at,
       address, account, outcome, service, transport, pbx
  FROM attempts, json_each('[' || times || ']') AS moment;

DROP VIEW attempt_log;
CREATE VIEW attempt_log AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', bucket, 'unixepoch') AS ten_minutes_from,
       address, account, outcome, attempts, service, transport, pbx,
       strftime('%Y-%m-%dT%H:%M:%SZ', first_at, 'unixepoch') AS first,
       strftime('%Y-%m-%dT%H:%M:%SZ', last_at, 'unixepoch') AS last,
       answers
  FROM attempts;
