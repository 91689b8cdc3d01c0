"""
The write side: bans and evidence go into SQLite right behind the firewall, and never in its way.

::

    store = await Store.open(path)                 # raises StoreError: for the command line
    store = await Store.open_or_wait(path, ...)    # a lock or a full disk is said and waited out: for the daemon
    async with store:
        for ban in await store.active_bans(now): ...
        store.put_ban(ban, pbx="office", origin="rule", is_enforced=True)

Rule 1: one task owns the write connection. It commits in groups: at most ``puts.BATCH_ROWS`` rows or ``BATCH_SECONDS``.

Rule 2: what can't be written waits (``puts``: bounded) and is tried again with back-off; what was shed is counted and
said once a minute.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import aiosqlite

from amiwatch.errors import StoreCorrupt, StoreError, StoreUnavailable
from amiwatch.judgement.values import IPNetwork
from amiwatch.store import forgetting, statements
from amiwatch.store.connection import PATIENCE, Connection
from amiwatch.store.puts import MAX_WAITING, Put, Puts
from amiwatch.store.reader import Reader
from amiwatch.store.records import (
    AllowEntry,
    LearnedPort,
    Panic,
    Request,
    StoredBan,
    StoredOffender,
    StoredTrust,
    Trial,
)

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.25
"""How long a row may wait for company. A finished request does not wait: a person looks at the clock."""

MAX_ATTEMPT_ROWS = 1_000_000
"""Rows of ``attempts`` (150 MB); above it the oldest go first."""

CHUNK_ROWS = 5000
"""Bans read in one go at start: 20 ms in which the event loop shares the interpreter with the reading thread."""

FIRST_RETRY = 0.25
LAST_RETRY = 10.0
"""Seconds before a failed batch is tried again: doubled each time."""

TICK = 60.0
"""Seconds between two looks at what ran out and what was shed."""

CLOSE_SECONDS = 0.8
"""Longest ``close()``: the daemon stops within a second."""

POISON = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
    OverflowError,
    TypeError,
    ValueError,
    AttributeError,
)
"""What one wrong row raises: it is dropped, loudly, and the others are written."""


class Options(TypedDict, total=False):
    """What ``Store`` takes beside its path."""

    now: Callable[[], float]
    on_trouble: Callable[[str], None]
    on_opened: Callable[[bool], None] | None
    max_attempt_rows: int
    max_waiting: int
    patience: float


class Store(Puts):
    """
    The write side of one database, and what the daemon reads at start.

    ``on_trouble`` gets one sentence when writing begins to fail, when rows are shed or lost, and when it works again.
    ``on_opened`` is called when a database was opened later than ``open_or_wait`` returned: with True for a new, empty
    one (the old was corrupt or removed: put again what is known), with False for the known one (read what it holds).
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float] = time.time,
        on_trouble: Callable[[str], None] = log.error,
        on_opened: Callable[[bool], None] | None = None,
        max_attempt_rows: int = MAX_ATTEMPT_ROWS,
        max_waiting: int = MAX_WAITING,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(now=now, say=on_trouble, max_waiting=max_waiting)
        self.path = Path(path)
        self.written = 0
        """Rows committed."""
        self.commits = 0
        """Transactions they took."""
        self.trimmed = 0
        """Rows of attempts deleted because of ``max_attempt_rows``."""
        self._connection = Connection(self.path, now=now, say=on_trouble, on_opened=on_opened, patience=patience)
        self._max_attempt_rows = max_attempt_rows
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said_shed = 0
        self._said_trimmed = 0
        self._next_tick = time.monotonic() + TICK
        self._waiters: list[asyncio.Future[None]] = []

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    async def open(cls, path: Path, **options: Unpack[Options]) -> Self:
        """Open the database, made if missing. Raises StoreError; a corrupt file is set aside first."""
        store = cls(path, **options)
        await store._connection.open()
        store._start()
        return store

    @classmethod
    async def open_or_wait(cls, path: Path, **options: Unpack[Options]) -> Self:
        """Do as ``open``, but let the writer task try again where a lock or a full disk may pass. Raises StoreError."""
        store = cls(path, **options)
        try:
            await store._connection.open()
        except StoreUnavailable as error:
            store._connection.endure(error)
        store._start()
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def is_working(self) -> bool:
        """Tell whether the last batch was written (or none had to be)."""
        return self._connection.trouble is None and self._connection.is_open

    async def flush(self) -> None:
        """Wait until everything put so far is committed. Raises StoreError if a try to write it failed."""
        if self._task is None or self._task.done():
            raise self._connection.trouble or StoreError(f"The database {str(self.path)!r} is closed.")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        self._hurry.set()
        await waiter

    async def close(self) -> None:
        """Write what waits, merge the write-ahead log and let go, within ``CLOSE_SECONDS``. May be called twice."""
        self._stop.set()
        self._wake.set()
        self._hurry.set()
        if self._task is None:
            return
        task, self._task = self._task, None
        deadline = time.monotonic() + CLOSE_SECONDS
        await asyncio.wait({task}, timeout=CLOSE_SECONDS)
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if self.waiting:
            self.lost += self.waiting
            why = self._connection.trouble or ""
            self._say(f"Not written to {str(self.path)!r} before the end: {self.waiting} rows. {why}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._connection.close(), max(0.1, deadline - time.monotonic()))

    # ── reading, for the daemon ──────────────────────────────────────────────────────────────────────────────────────

    async def active_bans(self, now: float) -> list[StoredBan]:
        """Return the bans that have not ended (observed ones too), in any order. Raises StoreError."""
        return [ban async for chunk in self.active_ban_chunks(now) for ban in chunk]

    async def active_ban_chunks(self, now: float, *, rows: int = CHUNK_ROWS) -> AsyncIterator[list[StoredBan]]:
        """
        Yield the bans that have not ended, so many at a time: a million at once would take 700 MB.

        Raises StoreError. Where the file turns out to be damaged, it is replaced and the listing ends.
        """
        async for chunk in self._connection.chunks(lambda reader: reader.stored_bans(now, rows)):
            yield chunk

    async def offenders(self, since: float = 0.0) -> list[StoredOffender]:
        """Return every network banned since then, with its rung. Raises StoreError."""
        return [offender async for chunk in self.offender_chunks(since) for offender in chunk]

    async def offender_chunks(
        self, since: float = 0.0, *, rows: int = CHUNK_ROWS, limit: int = -1
    ) -> AsyncIterator[list[StoredOffender]]:
        """Yield the same, so many at a time (see ``active_ban_chunks``), the last ``limit`` of them."""

        def read(reader: Reader) -> Iterator[list[StoredOffender]]:
            found = reader.stored_offenders(since, limit)
            return iter(lambda: list(islice(found, rows)), [])

        async for chunk in self._connection.chunks(read):
            yield chunk

    async def trust(self, now: float) -> list[StoredTrust]:
        """Return the trust that has not run out. Raises StoreError."""
        return await self._connection.read(lambda reader: reader.stored_trust(now))

    async def allowlist(self, now: float) -> list[AllowEntry]:
        """Return the allowlist without what ran out. Raises StoreError."""
        return await self._connection.read(lambda reader: list(reader.allowlist(now)))

    async def panic(self) -> Panic | None:
        """Return the panic that was not ended; its time may be over. Raises StoreError."""
        return await self._connection.read(lambda reader: reader.panic())

    async def trials(self) -> list[Trial]:
        """Return the bans that were not confirmed; the time of some may be over. Raises StoreError."""
        return await self._connection.read(lambda reader: reader.trials())

    async def learned_ports(self) -> list[LearnedPort]:
        """Return the ports of Asterisk that were learned. Raises StoreError."""
        return await self._connection.read(lambda reader: list(reader.learned_ports()))

    async def switches(self) -> dict[str, bool]:
        """Return what a person switched on or off, by its name. Raises StoreError."""
        return await self._connection.read(lambda reader: reader.switches())

    async def pending_requests(self, limit: int = -1) -> list[Request]:
        """Return the requests that nobody finished (nor this store was told to finish), oldest first. StoreError."""
        if not self.waiting:
            self._finished.clear()  # all are on the disk
        finished = set(self._finished)
        wanted = limit if limit < 0 else limit + len(finished)
        pending = await self._connection.read(lambda reader: reader.pending_requests(wanted))
        return [request for request in pending if request.id not in finished]

    async def data_version(self) -> int:
        """
        Return a number that changes when another process has committed something (0.2 ms). Raises StoreError.

        It is the write connection that is asked, so our own commits do not change it. Opening the database anew does. 0
        while there is none.
        """
        return await self._connection.data_version()

    # ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def forget(self, older_than: float) -> dict[str, int]:
        """
        Delete what ended before ``older_than``; return how many rows of each table. Raises StoreError; may be repeated.

        Open bans, waiting requests and gaps that last stay. It goes in steps, with other writes in between.
        """
        return await forgetting.forget(self._connection, older_than=older_than, now=self._now())

    async def forget_network(self, network: IPNetwork) -> dict[str, int]:
        """
        Delete everything about a network (for one person's address), and what lies inside it.

        A ban that is still open stays, with its evidence: its number is under ``kept``. An IPv6 address is taken as its
        /64, for that is how it is counted. Deleted bytes are overwritten. Returns rows per table; raises StoreError.
        """
        return await forgetting.forget_network(self._connection, network, now=self._now())

    # ── the writer task ──────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="store writer")
        self._task.add_done_callback(self._notice_end)

    def _notice_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._connection.trouble = StoreError(f"The store's writer ended by a fault of ours ({error!r}).")
            self._say(f"{self._connection.trouble} Nothing is recorded any more: restart the daemon, and report it.")
            self._answer(self._waiters[:], self._connection.trouble)

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while not (self._stop.is_set() and self._is_done()):
            await self._gather()
            try:
                await self._write()
            except StoreError as error:
                self._connection.endure(error)
                self._answer(self._waiters[:], error)
                if self._stop.is_set():
                    return
                await _wait(self._stop, delay)
                delay = min(2 * delay, LAST_RETRY)
            else:
                delay = FIRST_RETRY
                self._connection.recover()

    def _is_done(self) -> bool:
        return self.waiting == 0 and self._status is None and not self._waiters

    async def _gather(self) -> None:
        """Wait for work, then a moment for company."""
        if self._connection.trouble is not None or self._batch:
            return
        await _wait(self._wake, TICK)
        if not self._waiters and not self._is_done():
            await _wait(self._hurry, BATCH_SECONDS)

    async def _write(self) -> None:
        self._tick()
        await self._connection.ensure_open()
        self._take()
        inode = self._connection.inode
        waiters = [] if self._bans or self._noise else self._waiters[:]
        try:
            await self._commit_batch()
        except StoreCorrupt as error:
            await self._connection.begin_anew(error, inode)
            await self._commit_batch()
        await self._bound_attempts()
        self._answer(waiters, None)

    async def _commit_batch(self) -> None:
        try:
            await self._commit(self._batch)
        except POISON:
            await self._sift()
        else:
            self.written += len(self._batch)
            self._batch = []

    async def _sift(self) -> None:
        """Write the rows of a batch one by one, and drop those that SQLite will never take."""
        while self._batch:
            try:
                await self._commit(self._batch[:1])
            except POISON as error:
                self._lose(
                    1,
                    f"SQLite will not take {self._batch[0].statement.name} {self._batch[0].arguments!r:.300}: {error}",
                )
            else:
                self.written += 1
            del self._batch[0]

    async def _commit(self, batch: Sequence[Put]) -> None:
        if not batch:
            return
        async with self._connection.transaction() as db:
            for statement, puts in groupby(batch, key=lambda put: put.statement):
                rows = [put.arguments for put in puts]
                if statement is statements.BAN:
                    await _insert_bans(db, rows)
                else:
                    # Not a list: a thousand rows are made by the thread that writes them, not by the event loop.
                    await db.executemany(statement.sql, (statement.row(*row) for row in rows))
                if statement is statements.TAMPERED:
                    await db.execute(statements.TRIM_TAMPERED)
                self._connection.attempt_rows += len(rows) if statement is statements.ATTEMPT else 0
        self.commits += 1

    async def _bound_attempts(self) -> None:
        """Delete one step of the oldest attempts if there are too many; the next batch goes on with it."""
        if self._connection.attempt_rows <= self._max_attempt_rows:
            return
        rows = await self._connection.read(lambda reader: reader.count("attempts"))
        if rows > self._max_attempt_rows:
            excess = rows - self._max_attempt_rows * 19 // 20
            deleted = await self._connection.change(statements.TRIM_ATTEMPTS, (min(forgetting.STEP_ROWS, excess),))
            rows -= deleted
            self.trimmed += deleted
        self._connection.attempt_rows = rows

    def _tick(self) -> None:
        """Once a minute: close what ran out, and say what was shed."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        if self._connection.trouble is None:
            self._batch.append(Put(statements.EXPIRE, (self._now(), forgetting.STEP_ROWS)))
        if self.shed > self._said_shed:
            self._say(f"{self.shed - self._said_shed} rows of attempts or trust were not stored: too many at once.")
        if self.trimmed > self._said_trimmed:
            self._say(
                f"The oldest {self.trimmed - self._said_trimmed} rows of attempts were deleted: the bound is "
                f"{self._max_attempt_rows} rows."
            )
        self._said_shed, self._said_trimmed = self.shed, self.trimmed

    def _answer(self, waiters: Sequence[asyncio.Future[None]], error: StoreError | None) -> None:
        """Tell those who wait in ``flush()``."""
        self._waiters = self._waiters[len(waiters) :]
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


async def _insert_bans(db: aiosqlite.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert bans with their evidence, and count the enforced ones for the ladder. Ids are given here, for both."""
    last = int(next(iter(await db.execute_fetchall("SELECT coalesce(max(id), 0) FROM bans")))[0])
    numbered = list(enumerate(rows, start=last + 1))
    await db.executemany(statements.INSERT_BAN, (statements.ban_row(ban_id, *row) for ban_id, row in numbered))
    evidence = (statements.evidence_row(ban_id, row[0]) for ban_id, row in numbered if row[0].evidence)
    await db.executemany(statements.INSERT_EVIDENCE, evidence)
    enforced = (statements.offender_row(ban) for ban, _, _, is_enforced, _ in rows if is_enforced)
    await db.executemany(statements.COUNT_OFFENDER, enforced)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
