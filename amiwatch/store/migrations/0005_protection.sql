-- What the drop rule covers besides the settings: ports that Asterisk was seen to use, and what a person switched on.

CREATE TABLE learned_ports (
    protocol TEXT    NOT NULL CHECK (protocol IN ('udp', 'tcp')),
    port     INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    pbx      TEXT    NOT NULL,
    at       REAL    NOT NULL,
    PRIMARY KEY (protocol, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE switches (
    name       TEXT    PRIMARY KEY,              -- 'tiers'
    is_on      INTEGER NOT NULL,
    at         REAL    NOT NULL,
    changed_by TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE VIEW ports_learned AS
SELECT port, protocol, pbx, strftime('%Y-%m-%dT%H:%M:%SZ', at, 'unixepoch') AS learned FROM learned_ports;
