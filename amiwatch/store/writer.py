"""
The write side: bans and evidence go into SQLite right behind the firewall, and never in its way.

::

    store = await Store.open(path)                 # raises StoreError: for the command line
    store = await Store.open_or_wait(path, ...)    # a lock or a full disk is said and waited out: for the daemon
    async with store:
        for ban in await store.active_bans(now): ...
        store.put_ban(ban, pbx="office", origin="rule", is_enforced=True)

Rule 1: ``put_*`` and ``finish_request`` never wait and never raise. They are for the event loop's own thread.

Rule 2: one task owns the write connection. It commits in groups: at most ``BATCH_ROWS`` rows or ``BATCH_SECONDS``.

Rule 3: nothing is lost silently. What can't be written waits (bounded) and is tried again with back-off; counts of the
world's noise (attempts, alerts, tampered samples, trust) are shed first, and that is counted and said once a minute.
Bans, lifts, allowlist, gaps and outcomes have a bound of their own that a full disk reaches after hours.

Rule 4: a corrupt file is set aside as ``<name>.corrupt-<UTC>`` and a new one begun, at start and while running.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import groupby, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict, TypeVar, Unpack

import aiosqlite

from amiwatch.errors import StoreCorrupt, StoreError, StoreUnavailable
from amiwatch.judgement.values import Alert, Ban, IPNetwork
from amiwatch.store import schema, statements
from amiwatch.store.reader import Reader
from amiwatch.store.records import (
    AllowEntry,
    AttemptCount,
    LearnedPort,
    Panic,
    Request,
    Status,
    StoredBan,
    StoredOffender,
    StoredTrust,
    Trial,
    counted_network,
)
from amiwatch.store.statements import Statement

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_ROWS = 1000
"""Rows of one transaction: beyond that a commit gets longer, not cheaper (measured 69-86 k rows/s)."""

BATCH_SECONDS = 0.25
"""How long a row may wait for company. A finished request does not wait: a person looks at the clock."""

MAX_WAITING = 50_000
"""Rows of attempts, alerts, trust and samples that wait for the disk (15 MB); more are shed."""

MAX_WAITING_BANS = 200_000
"""Bans, lifts and outcomes that wait for the disk (200 MB with evidence): at 20 bans a second, hours of a full disk."""

MAX_ATTEMPT_ROWS = 1_000_000
"""Rows of ``attempts`` (150 MB); above it the oldest go first."""

STEP_ROWS = 5000
"""Rows deleted in one transaction: 0.1-0.25 s at worst, so that bans are written in between."""

VACUUM_PAGES = 2000
"""Pages given back to the disk in one go (8 MB, 45 ms)."""

CHUNK_ROWS = 5000
"""Bans read in one go at start: 20 ms in which the event loop shares the interpreter with the reading thread."""

FIRST_RETRY = 0.25
LAST_RETRY = 10.0
"""Seconds before a failed batch is tried again: doubled each time."""

PATIENCE = 5.0
"""Seconds that a lock may last before it is called trouble: other programs may write now and then."""

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


class _Put(NamedTuple):
    statement: Statement
    arguments: tuple[Any, ...]


class Options(TypedDict, total=False):
    """What ``Store`` takes beside its path."""

    now: Callable[[], float]
    on_trouble: Callable[[str], None]
    on_opened: Callable[[bool], None] | None
    max_attempt_rows: int
    max_waiting: int
    patience: float


class Store:
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
        self.path = Path(path)
        self.written = 0
        """Rows committed."""
        self.commits = 0
        """Transactions they took."""
        self.shed = 0
        """Rows refused because too many waited."""
        self.lost = 0
        """Rows that SQLite would never take, bans beyond their bound, and what was left when ``close()`` ran out."""
        self.trimmed = 0
        """Rows of attempts deleted because of ``max_attempt_rows``."""
        self._now = now
        self._say = on_trouble
        self._on_opened = on_opened
        self._max_attempt_rows = max_attempt_rows
        self._max_waiting = max_waiting
        self._patience = patience
        self._bans: deque[_Put] = deque()
        self._noise: deque[_Put] = deque()
        self._batch: list[_Put] = []
        self._status: Status | None = None
        self._finished: deque[int] = deque(maxlen=BATCH_ROWS)
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stop = asyncio.Event()
        self._lock = asyncio.Lock()
        self._db: aiosqlite.Connection | None = None
        self._inode = 0
        self._openings = 0
        self._task: asyncio.Task[None] | None = None
        self._trouble: StoreError | None = None
        self._trouble_since = 0.0
        self._is_trouble_said = False
        self._said_shed = 0
        self._said_trimmed = 0
        self._next_tick = time.monotonic() + TICK
        self._attempt_rows = 0
        self._waiters: list[asyncio.Future[None]] = []

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    async def open(cls, path: Path, **options: Unpack[Options]) -> Self:
        """Open the database, made if missing. Raises StoreError; a corrupt file is set aside first."""
        store = cls(path, **options)
        await store._connect()
        store._start()
        return store

    @classmethod
    async def open_or_wait(cls, path: Path, **options: Unpack[Options]) -> Self:
        """Do as ``open``, but let the writer task try again where a lock or a full disk may pass. Raises StoreError."""
        store = cls(path, **options)
        try:
            await store._connect()
        except StoreUnavailable as error:
            store._endure(error)
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
        return self._trouble is None and self._db is not None

    @property
    def waiting(self) -> int:
        """How many rows wait to be written."""
        return len(self._bans) + len(self._noise) + len(self._batch)

    async def flush(self) -> None:
        """Wait until everything put so far is committed. Raises StoreError if a try to write it failed."""
        if self._task is None or self._task.done():
            raise self._trouble or StoreError(f"The database {str(self.path)!r} is closed.")
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
            self._say(f"Not written to {str(self.path)!r} before the end: {self.waiting} rows. {self._trouble or ''}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._disconnect(), max(0.1, deadline - time.monotonic()))

    # ── putting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put_ban(self, ban: Ban, *, pbx: str, origin: str, is_enforced: bool, by: str = "") -> None:
        """
        Record a ban; the open one of the same network is closed as replaced.

        ``origin`` is ``rule``, ``manual`` or ``recovered``; ``is_enforced`` False means "would have banned"; ``by``
        is the person behind a ban by hand. Only enforced bans count for the network's place on the ladder.
        """
        self._put_ban(statements.BAN, ban, pbx, origin, is_enforced, by)

    def put_lift(self, network: IPNetwork, *, at: float, by: str, reason: str) -> None:
        """End the open ban of exactly this network before its time."""
        self._put_ban(statements.LIFT, network, at, by, reason)

    def put_counters(self, network: IPNetwork, *, packets: int, octets: int, at: float) -> None:
        """Record what the kernel's counter of a network says, for the sum of its ban. Safe to repeat."""
        self._put_ban(statements.COUNTERS, network, packets, octets, at)

    def put_pardon(self, network: IPNetwork) -> None:
        """Forget a network's place on the ladder, since its bans were a mistake; its history stays."""
        self._put_ban(statements.PARDON, network)

    def finish_request(self, request_id: int, outcome: str, is_done: bool) -> None:
        """Write what became of a request, at once. ``is_done`` False: it was refused or failed."""
        self._finished.append(request_id)
        self._put_ban(statements.FINISH, request_id, self._now(), outcome, is_done)
        self._hurry.set()

    def put_allow(self, entry: AllowEntry) -> None:
        """Add to the allowlist, or change the entry of the same target."""
        self._put_ban(statements.ALLOW, entry)

    def put_disallow(self, target: str) -> None:
        """Take out of the allowlist."""
        self._put_ban(statements.DISALLOW, target)

    def put_panic(self, panic: Panic) -> None:
        """Remember that nothing may be dropped, so that a restart doesn't forget it."""
        self._put_ban(statements.PANIC, panic)

    def put_resume(self) -> None:
        """Forget the panic."""
        self._put_ban(statements.RESUME)

    def put_trial(self, trial: Trial) -> None:
        """Remember a ban that must be confirmed, or change the one of the same network."""
        self._put_ban(statements.TRIAL, trial)

    def put_trial_end(self, network: IPNetwork) -> None:
        """Forget that a ban must be confirmed: it was, or its time is over."""
        self._put_ban(statements.TRIAL_END, network)

    def put_link(self, pbx: str, at: float, state: str, detail: str) -> None:
        """Record a change of an AMI link."""
        self._put_ban(statements.LINK, pbx, at, state, detail)

    def put_gap_begin(self, pbx: str, at: float, reason: str) -> None:
        """Begin a gap in which we hear nothing of a PBX; ignored while one is open."""
        self._put_ban(statements.GAP_BEGIN, pbx, at, reason)

    def put_gap_end(self, pbx: str, at: float) -> None:
        """End the open gap of a PBX, if there is one."""
        self._put_ban(statements.GAP_END, pbx, at)

    def put_attempts(self, counts: Iterable[AttemptCount]) -> None:
        """Add sums of attempts to their ten-minute rows."""
        for count in counts:
            self._put_noise(statements.ATTEMPT, count)

    def put_alert(self, alert: Alert, *, pbx: str) -> None:
        """Record an alert; the same kind, source and account within an hour is counted."""
        self._put_noise(statements.ALERT, alert, pbx)

    def put_tampered(self, pbx: str, at: float, sample: bytes) -> None:
        """Keep the begin of a refused block (``ami.wire`` struck its secrets out); only the latest blocks stay."""
        self._put_noise(statements.TAMPERED, pbx, at, sample)

    def put_trust(self, network: IPNetwork, account: str, since: float, until: float, last_at: float) -> None:
        """Record trust that a login earned, or extend it."""
        self._put_noise(statements.TRUST, network, account, since, until, last_at)

    def put_learned_port(self, port: LearnedPort) -> None:
        """Record a port of Asterisk, or that it was learned anew."""
        self._put_ban(statements.LEARNED_PORT, port)

    def put_switch(self, name: str, *, is_on: bool, at: float, by: str) -> None:
        """Record what a person switched on or off."""
        self._put_ban(statements.SWITCH, name, is_on, at, by)

    def put_status(self, status: Status) -> None:
        """Say how the daemon is; only the latest is written."""
        self._status = status
        self._wake.set()

    def _put_ban(self, statement: Statement, *arguments: Any) -> None:
        if len(self._bans) >= MAX_WAITING_BANS:
            self._lose(1, f"more than {MAX_WAITING_BANS} bans and outcomes wait to be written")
            return
        self._bans.append(_Put(statement, arguments))
        self._wake.set()
        if len(self._bans) >= BATCH_ROWS:
            self._hurry.set()

    def _put_noise(self, statement: Statement, *arguments: Any) -> None:
        if len(self._noise) >= self._max_waiting:
            self.shed += 1
            return
        self._noise.append(_Put(statement, arguments))
        self._wake.set()
        if len(self._noise) >= BATCH_ROWS:
            self._hurry.set()

    # ── reading, for the daemon ──────────────────────────────────────────────────────────────────────────────────────

    async def active_bans(self, now: float) -> list[StoredBan]:
        """Return the bans that have not ended (observed ones too), in any order. Raises StoreError."""
        return [ban async for chunk in self.active_ban_chunks(now) for ban in chunk]

    async def active_ban_chunks(self, now: float, *, rows: int = CHUNK_ROWS) -> AsyncIterator[list[StoredBan]]:
        """
        Yield the bans that have not ended, so many at a time: a million at once would take 700 MB.

        Raises StoreError. Where the file turns out to be damaged, it is replaced and the listing ends.
        """
        async for chunk in self._chunks(lambda reader: reader.stored_bans(now, rows)):
            yield chunk

    async def offenders(self, since: float = 0.0) -> list[StoredOffender]:
        """Return every network banned since then, with its rung. Raises StoreError."""
        return [offender async for chunk in self.offender_chunks(since) for offender in chunk]

    async def offender_chunks(
        self, since: float = 0.0, *, rows: int = CHUNK_ROWS
    ) -> AsyncIterator[list[StoredOffender]]:
        """Yield the same, so many at a time; see ``active_ban_chunks``."""

        def read(reader: Reader) -> Iterator[list[StoredOffender]]:
            found = reader.stored_offenders(since)
            return iter(lambda: list(islice(found, rows)), [])

        async for chunk in self._chunks(read):
            yield chunk

    async def _chunks(self, read: Callable[[Reader], Iterator[list[T]]]) -> AsyncIterator[list[T]]:
        self._connected()
        inode = self._inode
        try:
            with await asyncio.to_thread(Reader, self.path) as reader:
                chunks = read(reader)
                while chunk := await asyncio.to_thread(next, chunks, None):
                    yield chunk
        except StoreCorrupt as error:
            await self._begin_anew(error, inode)

    async def trust(self, now: float) -> list[StoredTrust]:
        """Return the trust that has not run out. Raises StoreError."""
        return await self._read(lambda reader: reader.stored_trust(now))

    async def allowlist(self, now: float) -> list[AllowEntry]:
        """Return the allowlist without what ran out. Raises StoreError."""
        return await self._read(lambda reader: list(reader.allowlist(now)))

    async def panic(self) -> Panic | None:
        """Return the panic that was not ended; its time may be over. Raises StoreError."""
        return await self._read(lambda reader: reader.panic())

    async def trials(self) -> list[Trial]:
        """Return the bans that were not confirmed; the time of some may be over. Raises StoreError."""
        return await self._read(lambda reader: reader.trials())

    async def learned_ports(self) -> list[LearnedPort]:
        """Return the ports of Asterisk that were learned. Raises StoreError."""
        return await self._read(lambda reader: list(reader.learned_ports()))

    async def switches(self) -> dict[str, bool]:
        """Return what a person switched on or off, by its name. Raises StoreError."""
        return await self._read(lambda reader: reader.switches())

    async def pending_requests(self) -> list[Request]:
        """Return the requests that nobody finished (nor this store was told to finish), oldest first. StoreError."""
        finished = set(self._finished)
        pending = await self._read(lambda reader: reader.pending_requests())
        return [request for request in pending if request.id not in finished]

    async def data_version(self) -> int:
        """
        Return a number that changes when another process has committed something (0.2 ms). Raises StoreError.

        It is the write connection that is asked, so our own commits do not change it. Opening the database anew does. 0
        while there is none.
        """
        if self._db is None:
            return 0
        with schema.translated(self.path):
            version = int(next(iter(await self._db.execute_fetchall("PRAGMA data_version")))[0])
        return (self._openings << 32) + version  # SQLite counts anew in each connection

    async def _read(self, question: Callable[[Reader], T]) -> T:
        self._connected()
        inode = self._inode
        try:
            return await asyncio.to_thread(self._ask, question)
        except StoreCorrupt as error:
            await self._begin_anew(error, inode)
            return await asyncio.to_thread(self._ask, question)

    def _ask(self, question: Callable[[Reader], T]) -> T:
        with Reader(self.path) as reader:
            return question(reader)

    # ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def forget(self, older_than: float) -> dict[str, int]:
        """
        Delete what ended before ``older_than``; return how many rows of each table. Raises StoreError; may be repeated.

        Open bans, waiting requests and gaps that last stay. It goes in steps, with other writes in between.
        """
        while await self._change(statements.EXPIRE.sql, (self._now(), STEP_ROWS)) == STEP_ROWS:
            pass
        counts = {}
        for table, sql in statements.FORGET.items():
            counts[table] = await self._delete(sql, {"before": older_than})
        await self._give_back_space()
        return counts

    async def forget_network(self, network: IPNetwork) -> dict[str, int]:
        """
        Delete everything about a network (for one person's address), and what lies inside it.

        A ban that is still open stays, with its evidence: its number is under ``kept``. An IPv6 address is taken as its
        /64, for that is how it is counted. Deleted bytes are overwritten. Returns rows per table; raises StoreError.
        """
        network = counted_network(network)
        parameters = statements.forget_parameters(network, self._now())
        await self._pragma("secure_delete = ON")
        counts = {}
        for table, sql in statements.FORGET_NETWORK.items():
            counts[table] = await self._delete(sql, parameters)
        counts["kept"] = await self._read(
            lambda reader: sum(1 for _ in reader.bans(open_at=self._now(), within=network))
        )
        await self._give_back_space()
        return counts

    async def _delete(self, sql: str, parameters: dict[str, object]) -> int:
        total = 0
        while deleted := await self._change(sql, {**parameters, "limit": STEP_ROWS}):
            total += deleted
        return total

    async def _change(self, sql: str, parameters: Any = ()) -> int:
        async with self._transaction() as db:
            cursor = await db.execute(sql, parameters)
            return cursor.rowcount

    async def _give_back_space(self) -> None:
        """Shrink the file in steps, and empty the write-ahead log, which still holds what was deleted."""
        async with self._lock:
            with schema.translated(self.path):
                (free,) = next(iter(await self._connected().execute_fetchall("PRAGMA freelist_count")))
        for _ in range(free // VACUUM_PAGES + 1):
            await self._pragma(f"incremental_vacuum({VACUUM_PAGES})")
        for pragma in ("secure_delete = FAST", "optimize", "wal_checkpoint(TRUNCATE)"):
            await self._pragma(pragma)

    async def _pragma(self, text: str) -> None:
        """Run a pragma between two transactions."""
        async with self._lock:
            db = self._connected()
            with schema.translated(self.path):
                # execute() takes one step, which frees one page; a script runs to its end.
                await db.executescript(f"PRAGMA {text}")

    # ── the writer task ──────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="store writer")
        self._task.add_done_callback(self._notice_end)

    def _notice_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble = StoreError(f"The store's writer ended by a fault of ours ({error!r}).")
            self._say(f"{self._trouble} Nothing is recorded any more: restart the daemon, and report it.")
            self._answer(self._waiters[:], self._trouble)

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while not (self._stop.is_set() and self._is_done()):
            await self._gather()
            try:
                await self._write()
            except StoreError as error:
                self._endure(error)
                self._answer(self._waiters[:], error)
                if self._stop.is_set():
                    return
                await _wait(self._stop, delay)
                delay = min(2 * delay, LAST_RETRY)
            else:
                delay = FIRST_RETRY
                self._recover()

    def _is_done(self) -> bool:
        return self.waiting == 0 and self._status is None and not self._waiters

    async def _gather(self) -> None:
        """Wait for work, then a moment for company."""
        if self._trouble is not None or self._batch:
            return
        await _wait(self._wake, TICK)
        if not self._waiters and not self._is_done():
            await _wait(self._hurry, BATCH_SECONDS)

    async def _write(self) -> None:
        self._tick()
        await self._ensure_open()
        self._take()
        inode = self._inode
        waiters = [] if self._bans or self._noise else self._waiters[:]
        try:
            await self._commit_batch()
        except StoreCorrupt as error:
            await self._begin_anew(error, inode)
            await self._commit_batch()
        await self._bound_attempts()
        self._answer(waiters, None)

    def _take(self) -> None:
        """Fill the batch: bans first, in their order; then the rest, sorted so that equal statements are together."""
        room = BATCH_ROWS - len(self._batch)
        self._batch += [self._bans.popleft() for _ in range(min(room, len(self._bans)))]
        room = BATCH_ROWS - len(self._batch)
        noise = [self._noise.popleft() for _ in range(min(room, len(self._noise)))]
        self._batch += sorted(noise, key=lambda put: put.statement.name)
        if self._status is not None:
            self._batch.append(_Put(statements.STATUS, (self._status,)))
            self._status = None
        if not self._bans and not self._noise:
            self._wake.clear()
        if len(self._bans) + len(self._noise) < BATCH_ROWS:
            self._hurry.clear()

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

    async def _commit(self, batch: Sequence[_Put]) -> None:
        if not batch:
            return
        async with self._transaction() as db:
            for statement, puts in groupby(batch, key=lambda put: put.statement):
                rows = [put.arguments for put in puts]
                if statement is statements.BAN:
                    await _insert_bans(db, rows)
                else:
                    await db.executemany(statement.sql, [statement.row(*row) for row in rows])
                if statement is statements.TAMPERED:
                    await db.execute(statements.TRIM_TAMPERED)
                self._attempt_rows += len(rows) if statement is statements.ATTEMPT else 0
        self.commits += 1

    async def _bound_attempts(self) -> None:
        """Delete one step of the oldest attempts if there are too many; the next batch goes on with it."""
        if self._attempt_rows <= self._max_attempt_rows:
            return
        rows = await self._read(lambda reader: reader.count("attempts"))
        if rows > self._max_attempt_rows:
            excess = rows - self._max_attempt_rows * 19 // 20
            deleted = await self._change(statements.TRIM_ATTEMPTS, (min(STEP_ROWS, excess),))
            rows -= deleted
            self.trimmed += deleted
        self._attempt_rows = rows

    def _tick(self) -> None:
        """Once a minute: close what ran out, and say what was shed."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK
        if self._trouble is None:
            self._batch.append(_Put(statements.EXPIRE, (self._now(), STEP_ROWS)))
        if self.shed > self._said_shed:
            self._say(
                f"{self.shed - self._said_shed} rows of attempts, alerts or trust were not stored: too many at once."
            )
        if self.trimmed > self._said_trimmed:
            self._say(
                f"The oldest {self.trimmed - self._said_trimmed} rows of attempts were deleted: the bound is "
                f"{self._max_attempt_rows} rows."
            )
        self._said_shed, self._said_trimmed = self.shed, self.trimmed

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        async with self._lock:
            db = self._connected()
            with schema.translated(self.path):
                try:
                    await db.execute("BEGIN IMMEDIATE")
                    yield db
                    await db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        await db.rollback()

    def _lose(self, rows: int, why: str) -> None:
        self.lost += rows
        if self.lost == rows or self.lost % BATCH_ROWS == 0:
            self._say(f"Not recorded: {why} ({self.lost} rows so far).")

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

    def _endure(self, error: StoreError) -> None:
        now = time.monotonic()
        if self._trouble is None:
            self._trouble_since = now
        self._trouble = error
        is_patient = schema.is_lock(error) and now - self._trouble_since < self._patience
        if not self._is_trouble_said and not is_patient:
            self._is_trouble_said = True
            self._say(f"{error} Bans go on; what is to be recorded waits and is tried again.")

    def _recover(self) -> None:
        if self._trouble is None:
            return
        self._trouble = None
        if self._is_trouble_said:
            self._is_trouble_said = False
            seconds = time.monotonic() - self._trouble_since
            self._say(
                f"The database {str(self.path)!r} takes writes again, after {seconds:.0f} s; nothing else is to do."
            )

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────

    def _connected(self) -> aiosqlite.Connection:
        if self._db is None:
            raise self._trouble or StoreUnavailable(f"The database {str(self.path)!r} is not open.")
        return self._db

    async def _ensure_open(self) -> None:
        """Open what could not be opened before, and notice a file that was removed or replaced under us."""
        if self._db is not None and _inode(self.path) == self._inode:
            return
        was_open = self._db is not None
        if was_open:
            self._say(f"{str(self.path)!r} was removed or replaced while in use: it is opened anew.")
        async with self._lock:
            await self._disconnect()
            is_new = await self._connect()
        if self._on_opened is not None:
            self._on_opened(is_new)

    async def _begin_anew(self, error: StoreCorrupt, inode: int) -> None:
        """Replace the corrupt file, unless another task did since ``inode`` was open."""
        async with self._lock:
            if inode != self._inode:
                return
            await self._disconnect()
            await self._put_aside(error)
            await self._connect()
        if self._on_opened is not None:
            self._on_opened(True)

    async def _connect(self) -> bool:
        """Open the database and tell whether it is a new one."""
        try:
            is_new = await asyncio.to_thread(schema.prepare, self.path)
        except StoreCorrupt as error:
            await self._put_aside(error)
            is_new = await asyncio.to_thread(schema.prepare, self.path)
        with schema.translated(self.path):
            db = await aiosqlite.connect(self.path, isolation_level=None, timeout=schema.BUSY_TIMEOUT / 1000)
            try:
                await db.executescript(schema.WRITE_PRAGMAS)
                self._attempt_rows = int(next(iter(await db.execute_fetchall("SELECT count(*) FROM attempts")))[0])
            except BaseException:
                await db.close()
                raise
        self._db, self._inode = db, _inode(self.path)
        self._openings += 1
        return is_new

    async def _put_aside(self, error: StoreCorrupt) -> None:
        aside = await asyncio.to_thread(schema.set_aside, self.path, self._now())
        self._say(f"{error} It was set aside as {str(aside)!r}; a new database is begun.")

    async def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is None:
            return
        try:
            if self._trouble is None:
                with suppress(sqlite3.Error):
                    await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            # Without it the thread of aiosqlite lives on, and the process with it.
            with suppress(sqlite3.Error):
                await db.close()


async def _insert_bans(db: aiosqlite.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert bans with their evidence, and count the enforced ones for the ladder. Ids are given here, for both."""
    last = int(next(iter(await db.execute_fetchall("SELECT coalesce(max(id), 0) FROM bans")))[0])
    numbered = list(enumerate(rows, start=last + 1))
    await db.executemany(statements.INSERT_BAN, [statements.ban_row(ban_id, *row) for ban_id, row in numbered])
    evidence = [statements.evidence_row(ban_id, row[0]) for ban_id, row in numbered if row[0].evidence]
    await db.executemany(statements.INSERT_EVIDENCE, evidence)
    enforced = [statements.offender_row(ban) for ban, _, _, is_enforced, _ in rows if is_enforced]
    await db.executemany(statements.COUNT_OFFENDER, enforced)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
