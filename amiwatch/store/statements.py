"""
What is written, statement by statement.

Rule 1: one ``Statement`` per kind of row: its SQL beside the function that makes its parameters. No I/O.

Rule 2: text of an attacker is cut, and only ever a parameter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from amiwatch.judgement.values import Alert, Ban, IPNetwork, source_network
from amiwatch.store.records import (
    ATTEMPT_BUCKET,
    MAX_REASON,
    TIME_UNIT,
    TIMES_LIMIT,
    AllowEntry,
    AttemptCount,
    Status,
    address_text,
    bounded,
    evidence_json,
    key_range,
    network_key,
)

ALERT_MERGE = 3600
"""Seconds within which the same alert is counted instead of written again."""

SAMPLE_LIMIT = 2048
"""Bytes of a tampered block that are kept."""

SAMPLE_ROWS = 1000
"""Tampered blocks that are kept, the latest."""

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL, and how the arguments of a put become its parameters."""

    name: str
    sql: str
    row: Callable[..., Row]


def ban_row(ban_id: int, ban: Ban, pbx: str, origin: str, is_enforced: bool, banned_by: str) -> Row:
    """Return the parameters of ``INSERT_BAN``."""
    return (
        ban_id,
        network_key(ban.network),
        str(ban.network),
        str(ban.address),
        pbx,
        ban.at,
        None if ban.seconds is None else ban.at + ban.seconds,
        ban.level,
        ban.rule,
        origin,
        ban.service,
        ban.is_proven,
        is_enforced,
        bounded(ban.reason, MAX_REASON),
        bounded(banned_by),
    )


INSERT_BAN = """
INSERT INTO bans (id, sort_key, network, address, pbx, at, until, level, rule, origin, service, is_proven, is_enforced,
                  reason, banned_by)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

INSERT_EVIDENCE = "INSERT INTO evidence (ban_id, events) VALUES (?, ?)"

COUNT_OFFENDER = """
INSERT INTO offenders (sort_key, network, first_at, last_at, until, level, bans)
VALUES (:key, :network, :at, :at, :until, :level, 1)
ON CONFLICT (sort_key) DO UPDATE SET
    last_at = max(last_at, excluded.last_at),
    until   = max(until, excluded.until),
    level   = CASE WHEN excluded.level > 0 THEN excluded.level ELSE level END,
    bans    = bans + 1
"""


def evidence_row(ban_id: int, ban: Ban) -> Row:
    """Return the parameters of ``INSERT_EVIDENCE``."""
    return (ban_id, evidence_json(list(ban.evidence)))


def offender_row(ban: Ban) -> dict[str, object]:
    """Return the parameters of ``COUNT_OFFENDER``."""
    return {
        "key": network_key(ban.network),
        "network": str(ban.network),
        "at": ban.at,
        "until": ban.at + (ban.seconds or 0),
        "level": ban.level,
    }


BAN = Statement("ban", INSERT_BAN, ban_row)

LIFT = Statement(
    "lift",
    """
    UPDATE bans
       SET ended_at  = min(coalesce(until, ?), ?),
           ended_by  = CASE WHEN until <= ? THEN '' ELSE ? END,
           ended_why = CASE WHEN until <= ? THEN 'expired' ELSE ? END
     WHERE sort_key = ? AND ended_at IS NULL
    """,
    lambda network, at, by, reason: (at, at, at, bounded(by), at, bounded(reason, MAX_REASON), network_key(network)),
)

PARDON = Statement(
    "pardon",
    "UPDATE offenders SET level = 0 WHERE sort_key = ?",
    lambda network: (network_key(network),),
)

EXPIRE = Statement(
    "expire",
    """
    UPDATE bans SET ended_at = until, ended_by = '', ended_why = 'expired'
     WHERE id IN (SELECT id FROM bans WHERE ended_at IS NULL AND until <= ? LIMIT ?)
    """,
    lambda now, limit: (now, limit),
)

FINISH = Statement(
    "finish",
    "UPDATE requests SET finished_at = ?, is_done = ?, outcome = ? WHERE id = ? AND finished_at IS NULL",
    lambda request_id, at, outcome, is_done: (at, is_done, bounded(outcome, MAX_REASON), request_id),
)


def _allow_row(entry: AllowEntry) -> Row:
    return (
        bounded(entry.target, 255),
        bounded(entry.comment, MAX_REASON),
        entry.at,
        entry.until,
        bounded(entry.added_by),
    )


ALLOW = Statement(
    "allow",
    """
    INSERT INTO allowlist (target, comment, at, until, added_by) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (target) DO UPDATE SET
        comment = excluded.comment, at = excluded.at, until = excluded.until, added_by = excluded.added_by
    """,
    _allow_row,
)

DISALLOW = Statement("disallow", "DELETE FROM allowlist WHERE target = ?", lambda target: (target,))

PANIC = Statement(
    "panic",
    "INSERT OR REPLACE INTO panic (id, at, until, asked_by, comment) VALUES (1, ?, ?, ?, ?)",
    lambda panic: (panic.at, panic.until, bounded(panic.asked_by), bounded(panic.comment, MAX_REASON)),
)

RESUME = Statement("resume", "DELETE FROM panic", lambda: ())

TRIAL = Statement(
    "trial",
    """
    INSERT OR REPLACE INTO trials (sort_key, network, at, deadline, until, rule, reason, asked_by)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    """,
    lambda trial: (
        network_key(trial.network),
        str(trial.network),
        trial.at,
        trial.deadline,
        trial.until,
        trial.rule,
        bounded(trial.reason, MAX_REASON),
        bounded(trial.asked_by),
    ),
)

TRIAL_END = Statement("trial end", "DELETE FROM trials WHERE sort_key = ?", lambda network: (network_key(network),))

LINK = Statement(
    "link",
    "INSERT INTO links (pbx, at, state, detail) VALUES (?, ?, ?, ?)",
    lambda pbx, at, state, detail: (pbx, at, state, bounded(detail, MAX_REASON)),
)

GAP_BEGIN = Statement(
    "gap begin",
    """
    INSERT INTO gaps (pbx, began_at, reason)
    SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM gaps WHERE pbx = ? AND ended_at IS NULL)
    """,
    lambda pbx, at, reason: (pbx, at, bounded(reason, MAX_REASON), pbx),
)

GAP_END = Statement(
    "gap end",
    "UPDATE gaps SET ended_at = max(began_at, ?) WHERE pbx = ? AND ended_at IS NULL",
    lambda pbx, at: (at, pbx),
)


def _attempt_row(attempts: AttemptCount) -> Row:
    bucket = int(attempts.first_at // ATTEMPT_BUCKET * ATTEMPT_BUCKET)
    return (
        network_key(attempts.source),
        bucket,
        address_text(attempts.source),
        attempts.pbx,
        bounded(attempts.account),
        bounded(attempts.service),
        bounded(attempts.transport),
        attempts.outcome,
        attempts.count,
        attempts.first_at,
        attempts.last_at,
        attempts.answers,
        ",".join([str(round((at - bucket) / TIME_UNIT)) for at in attempts.times]),
    )


ATTEMPT = Statement(
    "attempt",
    f"""
    INSERT INTO attempts
        (sort_key, bucket, address, pbx, account, service, transport, outcome, attempts, first_at, last_at, answers,
         times)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (sort_key, bucket, account, pbx, service, transport, outcome) DO UPDATE SET
        attempts = attempts + excluded.attempts,
        first_at = min(first_at, excluded.first_at),
        last_at  = max(last_at, excluded.last_at),
        answers  = answers + excluded.answers,
        times    = CASE WHEN length(times) < {TIMES_LIMIT} THEN trim(times || ',' || excluded.times, ',') ELSE times END
    """,  # noqa: S608 - a number of ours
    _attempt_row,
)


def _alert_row(alert: Alert, pbx: str) -> Row:
    source = None if alert.address is None else source_network(alert.address)
    key = None if source is None else network_key(source)
    address = None if alert.address is None else str(alert.address)
    account, reason = bounded(alert.account), bounded(alert.reason, MAX_REASON)
    same = (key, alert.kind, account, pbx, alert.at)
    return (*same, key, alert.at, alert.at, pbx, alert.kind, address, account, reason)


ALERT = Statement(
    "alert",
    f"""
    INSERT INTO alerts (id, sort_key, at, last_at, times, pbx, kind, address, account, reason)
    VALUES ((SELECT id FROM alerts
              WHERE sort_key IS ? AND kind = ? AND account = ? AND pbx = ? AND at > ? - {ALERT_MERGE}
              ORDER BY at DESC LIMIT 1),
            ?, ?, ?, 1, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        times = times + 1, last_at = max(last_at, excluded.last_at), reason = excluded.reason
    """,  # noqa: S608 - a number of ours
    _alert_row,
)

TAMPERED = Statement(
    "tampered",
    "INSERT INTO tampered (pbx, at, sample) VALUES (?, ?, ?)",
    lambda pbx, at, sample: (pbx, at, sample[:SAMPLE_LIMIT]),
)

COUNTERS = Statement(
    "counters",
    """
    INSERT INTO counters (sort_key, packets, octets, at) VALUES (?, ?, ?, ?)
    ON CONFLICT (sort_key) DO UPDATE SET packets = excluded.packets, octets = excluded.octets, at = excluded.at
    """,
    lambda network, packets, octets, at: (network_key(network), packets, octets, at),
)

TRIM_TAMPERED = f"DELETE FROM tampered WHERE id <= (SELECT max(id) FROM tampered) - {SAMPLE_ROWS}"  # noqa: S608

TRUST = Statement(
    "trust",
    """
    INSERT INTO trust (sort_key, network, account, since, until, last_at) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (sort_key, account) DO UPDATE SET
        since = min(since, excluded.since), until = max(until, excluded.until), last_at = max(last_at, excluded.last_at)
    """,
    lambda network, account, since, until, last_at: (
        network_key(network),
        str(network),
        bounded(account),
        since,
        until,
        last_at,
    ),
)

LEARNED_PORT = Statement(
    "learned_port",
    """
    INSERT INTO learned_ports (protocol, port, pbx, at) VALUES (?, ?, ?, ?)
    ON CONFLICT (protocol, port) DO UPDATE SET pbx = excluded.pbx, at = excluded.at
    """,
    lambda port: tuple(port),
)

SWITCH = Statement(
    "switch",
    "INSERT OR REPLACE INTO switches (name, is_on, at, changed_by) VALUES (?, ?, ?, ?)",
    lambda name, is_on, at, by: (name, is_on, at, bounded(by)),
)


def _status_row(status: Status) -> Row:
    counters = json.dumps(dict(status.counters))
    return (
        status.pid,
        status.started_at,
        status.heartbeat_at,
        status.mode,
        status.version,
        status.firewall,
        counters,
    )


STATUS = Statement(
    "status",
    """
    INSERT OR REPLACE INTO daemon (id, pid, started_at, heartbeat_at, mode, version, firewall, counters)
    VALUES (1, ?, ?, ?, ?, ?, ?, ?)
    """,
    _status_row,
)


TRIM_ATTEMPTS = "DELETE FROM attempts WHERE id IN (SELECT id FROM attempts ORDER BY bucket LIMIT ?)"


def _in_steps(table: str, condition: str, key: str = "id") -> str:
    """Return SQL that deletes ``:limit`` rows at most. Called with texts of this file only."""
    return f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {condition} LIMIT :limit)"  # noqa: S608


_IS_FREE = "NOT EXISTS (SELECT 1 FROM bans WHERE bans.sort_key = counters.sort_key AND bans.ended_at IS NULL)"

FORGET: dict[str, str] = {
    "bans": _in_steps("bans", "ended_at < :before"),
    "offenders": _in_steps(
        "offenders",
        """last_at < :before AND NOT EXISTS
           (SELECT 1 FROM bans WHERE bans.sort_key = offenders.sort_key AND bans.ended_at IS NULL)""",
        key="sort_key",
    ),
    "counters": _in_steps("counters", f"at < :before AND {_IS_FREE}", key="sort_key"),
    "attempts": _in_steps("attempts", "bucket < :before"),
    "alerts": _in_steps("alerts", "last_at < :before"),
    "requests": _in_steps("requests", "finished_at < :before"),
    "allowlist": _in_steps("allowlist", "until < :before", key="target"),
    "trust": _in_steps("trust", "until < :before", key="sort_key, account"),
    "links": _in_steps("links", "at < :before"),
    "gaps": _in_steps("gaps", "ended_at < :before"),
    "tampered": _in_steps("tampered", "at < :before"),
    "learned_ports": _in_steps("learned_ports", "at < :before", key="protocol, port"),
}
"""Retention: how the old rows of each table go. Evidence goes with its ban."""


_INSIDE = "sort_key BETWEEN :first AND :last"

FORGET_NETWORK: dict[str, str] = {
    "bans": _in_steps("bans", f"{_INSIDE} AND (ended_at IS NOT NULL OR until <= :now)"),
    "offenders": _in_steps(
        "offenders",
        f"""{_INSIDE} AND NOT EXISTS
            (SELECT 1 FROM bans WHERE bans.sort_key = offenders.sort_key AND bans.ended_at IS NULL)""",  # noqa: S608 - a text of ours
        key="sort_key",
    ),
    "counters": _in_steps("counters", f"{_INSIDE} AND {_IS_FREE}", key="sort_key"),
    "attempts": _in_steps("attempts", _INSIDE),
    "alerts": _in_steps("alerts", _INSIDE),
    "trust": _in_steps("trust", _INSIDE, key="sort_key, account"),
    "requests": _in_steps("requests", "target IN (:network, :address) AND finished_at IS NOT NULL"),
    "tampered": _in_steps("tampered", "instr(CAST(sample AS TEXT), :address)"),
}
"""All that is known of one network: how it goes. What is still banned stays."""


def forget_parameters(network: IPNetwork, now: float) -> dict[str, object]:
    """Return the parameters of ``FORGET_NETWORK``."""
    first, last = key_range(network)
    return {"first": first, "last": last, "network": str(network), "address": str(network.network_address), "now": now}
