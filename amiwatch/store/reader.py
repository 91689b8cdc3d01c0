"""
The read side: plain ``sqlite3``, read-only, while the daemon writes.

::

    with Reader(path) as reader:
        for ban in reader.bans(open_at=time.time()):
            print(ban.network, ban.until, ban.reason)

Rule 1: nothing here writes. Every method raises StoreError, with a sentence that says what to do.

Rule 2: listings are iterators, the newest first; ``after`` is the id of the last row seen, to go on from there.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

from amiwatch.errors import StoreError
from amiwatch.judgement.values import Evidence, IPNetwork
from amiwatch.store import schema
from amiwatch.store.records import (
    ATTEMPT_BUCKET,
    AccountRecord,
    AlertRecord,
    AllowEntry,
    AttemptRecord,
    BanRecord,
    EventRecord,
    GapRecord,
    LearnedPort,
    LinkRecord,
    OffenderRecord,
    Panic,
    Request,
    SourceRecord,
    Status,
    StoredBan,
    StoredOffender,
    StoredTrust,
    Trial,
    TriedRecord,
    counted_network,
    covering_keys,
    evidence_from,
    key_network,
    key_range,
    network_key,
)

READ_TIMEOUT = 5.0
"""Seconds to wait for a lock. Readers wait for nobody in WAL, except where a file is being recovered."""

FETCH_ROWS = 1000
"""Rows fetched at once."""

COUNTED = (
    "bans",
    "evidence",
    "offenders",
    "attempts",
    "alerts",
    "requests",
    "allowlist",
    "trust",
    "links",
    "gaps",
    "tampered",
)
"""Tables that ``count`` knows."""

Row = TypeVar("Row", bound=tuple[Any, ...])

NO_SIDECARS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
"""What SQLite says where -wal and -shm are missing and may not be made."""

OPEN = "ended_at IS NULL AND (until IS NULL OR until > :now)"


class Reader:
    """A read-only connection. Threads may share it, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._db = _connect(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────

    def bans(
        self,
        *,
        open_at: float | None = None,
        within: IPNetwork | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> Iterator[BanRecord]:
        """List bans: those open at an instant (None: all there were), inside a network (None: anywhere)."""
        where = _Where()
        if open_at is not None:
            where.add(OPEN, now=open_at)
        where.add_within(within)
        return self._list(BanRecord, "bans", where, after, limit)

    def count_open(self, now: float) -> int:
        """Count the bans that are open at an instant (7 ms for 100,000)."""
        sql = f"SELECT count(*) FROM bans INDEXED BY bans_open_until WHERE {OPEN}"  # noqa: S608 - texts of ours
        return int(next(self._fetch(sql, {"now": now}))[0])

    def history(self, network: IPNetwork) -> list[BanRecord]:
        """Return all bans of a network, of what holds it and of what lies inside it, the newest first."""
        first, last = key_range(network)
        keys = covering_keys(network)
        where = f"sort_key IN ({', '.join('?' * len(keys))}) OR sort_key BETWEEN ? AND ?"
        sql = f"SELECT {_columns(BanRecord)} FROM bans WHERE {where} ORDER BY id DESC"  # noqa: S608 - texts of ours
        return list(self._rows(BanRecord, sql, (*keys, first, last)))

    def dropped(self) -> tuple[int, int]:
        """Return how many packets all bans dropped together that are not forgotten yet, and how many bans did."""
        # Only through the index are the few read that dropped any.
        sql = "SELECT coalesce(sum(packets), 0), count(*) FROM bans INDEXED BY bans_dropped WHERE packets > 0"
        packets, bans = next(self._fetch(sql, ()))
        return int(packets), int(bans)

    def counters(self, network: IPNetwork | None = None) -> dict[IPNetwork, tuple[int, int]]:
        """Return what the kernel's counters said last, packets and octets (None: of all networks)."""
        where = _Where()
        if network is not None:
            where.add("sort_key = :key", key=network_key(network))
        sql = f"SELECT sort_key, packets, octets FROM counters {where}"  # noqa: S608 - texts of ours
        return {key_network(key): (packets, octets) for key, packets, octets in self._fetch(sql, where.parameters)}

    def bans_by_rules(self, since: float, until: float) -> Iterator[BanRecord]:
        """List the bans that rules decided in this time, the oldest first; observed ones too."""
        where = _Where()
        where.add("at BETWEEN :since AND :until AND origin = 'rule'", since=since, until=until)
        sql = f"SELECT {_columns(BanRecord)} FROM bans {where} ORDER BY at"  # noqa: S608 - texts of ours
        return self._rows(BanRecord, sql, where.parameters)

    def evidence(self, ban_id: int) -> list[Evidence]:
        """Return the events that are kept with a ban; none for a ban by hand."""
        for (events,) in self._fetch("SELECT events FROM evidence WHERE ban_id = ?", (ban_id,)):
            return evidence_from(events)
        return []

    def requests(self, *, after: int | None = None, limit: int | None = None) -> Iterator[Request]:
        """List what people asked for, the newest first."""
        for record in self._list(_RequestRecord, "requests", _Where(), after, limit):
            yield _request(record)

    def request(self, request_id: int) -> Request | None:
        """Return one request, None if there is none of that id (it may be forgotten)."""
        sql = f"SELECT {_columns(_RequestRecord)} FROM requests WHERE id = ?"  # noqa: S608
        return next((_request(record) for record in self._rows(_RequestRecord, sql, (request_id,))), None)

    def allowlist(self, now: float | None = None) -> list[AllowEntry]:
        """Return the allowlist by target; with ``now``, without what ran out."""
        sql = """
            SELECT target, comment, at, until, added_by FROM allowlist
             WHERE :now IS NULL OR until IS NULL OR until > :now ORDER BY target
        """
        return [AllowEntry(*row) for row in self._fetch(sql, {"now": now})]

    def panic(self) -> Panic | None:
        """Return the panic that was not ended, None if there is none. Compare ``until``."""
        return next((Panic(*row) for row in self._fetch("SELECT at, until, asked_by, comment FROM panic", ())), None)

    def trials(self) -> list[Trial]:
        """Return the bans that were not confirmed, those that end first first. Compare ``deadline``."""
        sql = "SELECT sort_key, at, deadline, until, rule, reason, asked_by FROM trials ORDER BY deadline"
        return [Trial(key_network(row[0]), *row[1:]) for row in self._fetch(sql, ())]

    def attempts(
        self,
        *,
        since: float = 0.0,
        within: IPNetwork | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> Iterator[AttemptRecord]:
        """List attempts, ten minutes of one source and account a row; ``within`` an IPv6 address means its /64."""
        where = _Where()
        where.add("bucket >= :since", since=since // ATTEMPT_BUCKET * ATTEMPT_BUCKET)
        where.add_within(None if within is None else counted_network(within))
        return self._list(AttemptRecord, "attempts", where, after, limit)

    def attempts_as_they_came(
        self, *, since: float, until: float, within: IPNetwork | None = None
    ) -> Iterator[AttemptRecord]:
        """List the rows of attempts that began in this time, the oldest first; ``within`` as for ``attempts``."""
        where = _Where()
        where.add("bucket >= :bucket", bucket=since // ATTEMPT_BUCKET * ATTEMPT_BUCKET)
        where.add("first_at BETWEEN :since AND :until", since=since, until=until)
        where.add_within(None if within is None else counted_network(within))
        sql = f"SELECT {_columns(AttemptRecord)} FROM attempts {where} ORDER BY bucket, first_at"  # noqa: S608
        return self._rows(AttemptRecord, sql, where.parameters)

    def newest_rows_begin(self, rows: int, *, since: float, within: IPNetwork) -> float:
        """Return from when on so many rows of attempts lie within a network, to ten minutes; ``since`` if fewer do."""
        where = _Where()
        where.add("bucket >= :since", since=since // ATTEMPT_BUCKET * ATTEMPT_BUCKET)
        where.add_within(counted_network(within))
        sql = f"SELECT bucket FROM attempts {where} ORDER BY bucket DESC LIMIT 1 OFFSET :rows"  # noqa: S608
        found = next(self._fetch(sql, {**where.parameters, "rows": rows}), None)
        return since if found is None else max(since, float(found[0]))

    def oldest_attempt(self) -> float | None:
        """Return how far the attempts go back, to ten minutes; None without any."""
        oldest = next(self._fetch("SELECT min(bucket) FROM attempts", ()))[0]
        return None if oldest is None else float(oldest)

    def count_attempts(self, since: float, until: float) -> tuple[int, int]:
        """Count the attempts of this time (to ten minutes), and those of them whose own time is known."""
        sql = """
            SELECT coalesce(sum(attempts), 0),
                   coalesce(sum(min(attempts, length(times) - length(replace(times, ',', '')) + (times <> ''))), 0)
              FROM attempts WHERE bucket BETWEEN ? AND ?
        """
        found = next(self._fetch(sql, (since // ATTEMPT_BUCKET * ATTEMPT_BUCKET, until)))
        return int(found[0]), int(found[1])

    def alerts(
        self,
        *,
        since: float = 0.0,
        within: IPNetwork | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> Iterator[AlertRecord]:
        """List alerts that were last raised since then; ``within`` as for ``attempts``."""
        where = _Where()
        where.add("last_at >= :since", since=since)
        where.add_within(None if within is None else counted_network(within))
        return self._list(AlertRecord, "alerts", where, after, limit)

    def events(
        self,
        *,
        since: float = 0.0,
        within: IPNetwork | None = None,
        account: str | None = None,
        limit: int | None = None,
    ) -> Iterator[EventRecord]:
        """List attempts and alerts together, those last seen first; ``within`` as for ``attempts``."""
        where = _Where()
        where.add("last_at >= :since", since=since)
        where.add_within(None if within is None else counted_network(within))
        if account is not None:
            where.add("account = :account", account=account)
        with_index = _Where()
        with_index.conditions += where.conditions
        with_index.add("bucket >= :bucket", bucket=since // ATTEMPT_BUCKET * ATTEMPT_BUCKET)
        sql = f"""
            SELECT 'attempt', first_at, last_at, attempts, pbx, outcome, address, account, service, transport, ''
              FROM attempts {with_index}
            UNION ALL
            SELECT 'alert', at, last_at, times, pbx, kind, address, account, '', '', reason FROM alerts {where}
             ORDER BY 3 DESC LIMIT :limit
        """  # noqa: S608 - texts of ours
        parameters = {**where.parameters, **with_index.parameters, "limit": -1 if limit is None else limit}
        return self._rows(EventRecord, sql, parameters)

    def accounts_tried(self, network: IPNetwork, *, limit: int) -> list[TriedRecord]:
        """Return the accounts that a source tried, the most tried first; ``network`` as for ``attempts``."""
        where = _Where()
        where.add_within(counted_network(network))
        sql = f"""
            SELECT account, outcome, sum(attempts), min(first_at), max(last_at) FROM attempts {where}
             GROUP BY account, outcome ORDER BY 3 DESC, 5 DESC LIMIT :limit
        """  # noqa: S608 - texts of ours
        return list(self._rows(TriedRecord, sql, {**where.parameters, "limit": limit}))

    def alerts_about(self, accounts: Sequence[str], *, since: float, until: float) -> list[AlertRecord]:
        """Return the alerts about no address: about these accounts, or, raised in this time, about everybody."""
        marks = ", ".join("?" * len(accounts))
        sql = f"""
            SELECT {_columns(AlertRecord)} FROM alerts
             WHERE sort_key IS NULL AND last_at >= ? AND at <= ? AND (account = '' OR account IN ({marks}))
             ORDER BY last_at DESC LIMIT {FETCH_ROWS}
        """  # noqa: S608 - texts of ours
        return list(self._rows(AlertRecord, sql, (since, until, *accounts)))

    def account_alerts(self, account: str, *, limit: int) -> list[AlertRecord]:
        """Return the alerts about one account, from wherever, the newest first."""
        where = _Where()
        where.add("account = :account", account=account)
        return list(self._list(AlertRecord, "alerts", where, None, limit))

    def sources_of(self, account: str, *, limit: int) -> list[SourceRecord]:
        """Return who tried an account and with what outcome, those last seen first."""
        sql = """
            SELECT address, outcome, sum(attempts), min(first_at), max(last_at) FROM attempts WHERE account = ?
             GROUP BY sort_key, outcome ORDER BY 5 DESC LIMIT ?
        """
        return list(self._rows(SourceRecord, sql, (account, limit)))

    def sources_within(self, network: IPNetwork, *, limit: int) -> list[OffenderRecord]:
        """Return the sources inside a network with failed attempts, those with most first; none is called banned."""
        where = _Where()
        where.add_within(counted_network(network))
        sql = f"""
            SELECT address, sum(attempts), count(DISTINCT account), min(first_at), max(last_at), 0
              FROM attempts {where} AND outcome <> 'success' GROUP BY sort_key ORDER BY 2 DESC LIMIT :limit
        """  # noqa: S608 - texts of ours
        return list(self._rows(OffenderRecord, sql, {**where.parameters, "limit": limit}))

    def links(self, *, pbx: str | None = None, limit: int | None = None) -> Iterator[LinkRecord]:
        """List the changes of AMI links."""
        return self._list(LinkRecord, "links", _of_pbx(pbx), None, limit)

    def gaps(self, *, pbx: str | None = None, limit: int | None = None) -> Iterator[GapRecord]:
        """List the times in which nothing was heard of a PBX."""
        return self._list(GapRecord, "gaps", _of_pbx(pbx), None, limit)

    def status(self) -> Status | None:
        """Return what the daemon last said of itself; None if none ever ran. Compare ``heartbeat_at``."""
        sql = "SELECT pid, started_at, heartbeat_at, mode, version, firewall, counters FROM daemon"
        for pid, started_at, heartbeat_at, mode, version, firewall, counters in self._fetch(sql, ()):
            return Status(pid, started_at, heartbeat_at, mode, version, firewall, json.loads(counters))
        return None

    def top_offenders(self, *, since: float, limit: int, now: float) -> list[OffenderRecord]:
        """Return the sources with most failed attempts since then (to ten minutes)."""
        sql = f"""
            SELECT address, sum(attempts), count(DISTINCT account), min(first_at), max(last_at),
                   EXISTS (SELECT 1 FROM bans WHERE bans.sort_key = attempts.sort_key AND {OPEN})
              FROM attempts WHERE bucket >= :since AND outcome <> 'success'
             GROUP BY sort_key ORDER BY 2 DESC LIMIT :limit
        """  # noqa: S608 - texts of ours
        parameters = {"since": since // ATTEMPT_BUCKET * ATTEMPT_BUCKET, "limit": limit, "now": now}
        return list(self._rows(OffenderRecord, sql, parameters))

    def attacked_accounts(self, *, since: float, limit: int) -> list[AccountRecord]:
        """Return the accounts that most sources failed on since then (to ten minutes)."""
        sql = """
            SELECT account, sum(attempts), count(DISTINCT sort_key), min(first_at), max(last_at)
              FROM attempts WHERE bucket >= ? AND outcome <> 'success'
             GROUP BY account ORDER BY 3 DESC, 2 DESC LIMIT ?
        """
        return list(self._rows(AccountRecord, sql, (since // ATTEMPT_BUCKET * ATTEMPT_BUCKET, limit)))

    # ── for the daemon ───────────────────────────────────────────────────────────────────────────────────────────────

    def stored_bans(self, now: float, rows: int) -> Iterator[list[StoredBan]]:
        """Yield the open bans as values, so many at a time, the soonest to end first."""
        columns = "sort_key, at, until, level, rule, is_enforced, is_proven"
        # Without statistics SQLite would take an index that lacks these columns, and read every row of the table.
        sql = f"SELECT {columns} FROM bans INDEXED BY bans_open_until WHERE {OPEN}"  # noqa: S608 - texts of ours
        with schema.translated(self.path):
            cursor = self._db.execute(sql, {"now": now})
            while found := cursor.fetchmany(rows):
                yield [
                    StoredBan(key, at, until, level, rule, is_enforced == 1, is_proven == 1)
                    for key, at, until, level, rule, is_enforced, is_proven in found
                ]

    def stored_offenders(self, since: float, limit: int = -1) -> Iterator[StoredOffender]:
        """Yield the networks banned since then, the last of them where there are more than ``limit``, in order."""
        columns = "sort_key, first_at, last_at, until, level, bans"
        newest = f"SELECT {columns} FROM offenders WHERE last_at >= ? ORDER BY last_at DESC LIMIT ?"  # noqa: S608 - texts of ours
        sql = f"SELECT {columns} FROM ({newest}) ORDER BY last_at"  # noqa: S608
        return map(StoredOffender._make, self._fetch(sql, (since, limit)))

    def stored_trust(self, now: float) -> list[StoredTrust]:
        """Return the trust that has not run out, in the order of the last logins."""
        sql = "SELECT sort_key, account, since, until, last_at FROM trust WHERE until > ? ORDER BY last_at"
        return [StoredTrust(key_network(row[0]), *row[1:]) for row in self._fetch(sql, (now,))]

    def pending_requests(self, limit: int = -1) -> list[Request]:
        """Return the requests that wait, the oldest first."""
        sql = f"SELECT {_columns(_RequestRecord)} FROM requests WHERE finished_at IS NULL ORDER BY id LIMIT ?"  # noqa: S608
        return [_request(record) for record in self._rows(_RequestRecord, sql, (limit,))]

    def learned_ports(self) -> Iterator[LearnedPort]:
        """List the ports of Asterisk that its events told, in order."""
        sql = f"SELECT {_columns(LearnedPort)} FROM learned_ports ORDER BY protocol, port"  # noqa: S608 - texts of ours
        return self._rows(LearnedPort, sql, ())

    def switches(self) -> dict[str, bool]:
        """Return what a person switched on or off, by its name."""
        return {name: bool(is_on) for name, is_on in self._fetch("SELECT name, is_on FROM switches", ())}

    def count(self, table: str) -> int:
        """Count the rows of a table (one of ``COUNTED``)."""
        if table not in COUNTED:
            raise ValueError(f"no such table: {table!r}")
        return int(next(self._fetch(f"SELECT count(*) FROM {table}", ()))[0])  # noqa: S608 - one of ours

    # ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _list(self, kind: type[Row], table: str, where: _Where, after: int | None, limit: int | None) -> Iterator[Row]:
        if after is not None:
            where.add("id < :after", after=after)
        parameters = {**where.parameters, "limit": -1 if limit is None else limit}
        sql = f"SELECT {_columns(kind)} FROM {table} {where} ORDER BY id DESC LIMIT :limit"  # noqa: S608 - texts of ours
        return self._rows(kind, sql, parameters)

    def _rows(self, kind: type[Row], sql: str, parameters: Any) -> Iterator[Row]:
        return map(kind._make, self._fetch(sql, parameters))  # type: ignore[attr-defined]

    def _fetch(self, sql: str, parameters: Any) -> Iterator[tuple[Any, ...]]:
        with schema.translated(self.path):
            cursor = self._db.execute(sql, parameters)
            while rows := cursor.fetchmany(FETCH_ROWS):
                yield from rows


class _RequestRecord(NamedTuple):
    id: int
    at: float
    asked_by: str
    verb: str
    target: str
    seconds: int | None
    comment: str
    finished_at: float | None
    is_done: int | None
    outcome: str | None
    is_forced: int
    confirm: int | None


class _Where:
    """Conditions, each with its parameters."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.parameters: dict[str, object] = {}

    def add(self, condition: str, **parameters: object) -> None:
        self.conditions.append(f"({condition})")
        self.parameters.update(parameters)

    def add_within(self, network: IPNetwork | None) -> None:
        if network is not None:
            first, last = key_range(network)
            self.add("sort_key BETWEEN :first AND :last", first=first, last=last)

    def __str__(self) -> str:
        return "WHERE " + " AND ".join(self.conditions) if self.conditions else ""


def _of_pbx(pbx: str | None) -> _Where:
    where = _Where()
    if pbx is not None:
        where.add("pbx = :pbx", pbx=pbx)
    return where


def _request(record: _RequestRecord) -> Request:
    is_done = None if record.is_done is None else record.is_done == 1
    return Request(*record[:8], is_done, record.outcome, record.is_forced == 1, record.confirm)


def _columns(kind: type[tuple[Any, ...]]) -> str:
    return ", ".join(kind._fields)  # type: ignore[attr-defined]


def _connect(path: Path) -> sqlite3.Connection:
    with schema.translated(path):
        if not schema.exists(path):
            raise StoreError(schema.NONE_YET.format(str(path)))
        if not path.is_file():  # of a directory SQLite says "disk I/O error"
            raise StoreError(schema.NO_FILE.format(str(path)))
        try:
            return _open(path, "mode=ro")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF not in NO_SIDECARS or not os.access(path, os.R_OK):
                raise
        return _open_unmerged(path)


def _open_unmerged(path: Path) -> sqlite3.Connection:
    """Open a file whose -shm is missing in a directory that we may not write: nobody has it open."""
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise StoreError(f"{str(path)!r} was not closed cleanly: read it once as root.")
    return _open(path, "immutable=1")


def _open(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=READ_TIMEOUT, check_same_thread=False)
    try:
        schema.require_version(db, path)
    except BaseException:
        db.close()
        raise
    return db
