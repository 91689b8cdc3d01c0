"""
The one connection that writes: opened, watched for a file that vanishes, and begun anew where the file is corrupt.

Rule 1: a corrupt file is set aside as ``<name>.corrupt-<UTC>`` and a new one begun, at start and while running.

Rule 2: trouble that lasts is said once, and once more when it is over; a short lock is no trouble.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from amiwatch.errors import StoreCorrupt, StoreError, StoreUnavailable
from amiwatch.store import schema
from amiwatch.store.reader import Reader

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that a lock may last before it is called trouble: other programs may write now and then."""


class Connection:
    """
    The connection that writes, and the read-only ones beside it that notice damage, too.

    ``say`` gets one sentence when writing begins to fail or the file is replaced, and when it works again.
    ``on_opened`` is called when the database was opened later than by ``open()``: with True for a new, empty one.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float],
        say: Callable[[str], None],
        on_opened: Callable[[bool], None] | None,
        patience: float,
    ) -> None:
        self.path = path
        self.trouble: StoreError | None = None
        """Why the last try to write failed; None if it did not."""
        self.inode = 0
        """Of the file that is open; for ``begin_anew``."""
        self.attempt_rows = 0
        """Rows of ``attempts``: counted when the file is opened, kept up by whoever adds to them."""
        self._now = now
        self._say = say
        self._on_opened = on_opened
        self._patience = patience
        self._db: aiosqlite.Connection | None = None
        self._lock = asyncio.Lock()
        self._openings = 0
        self._trouble_since = 0.0
        self._is_trouble_said = False

    @property
    def is_open(self) -> bool:
        """Tell whether there is a database to write to."""
        return self._db is not None

    # ── opening and closing ──────────────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> bool:
        """Open the database and tell whether it is a new one. Raises StoreError; a corrupt file is set aside first."""
        try:
            is_new = await asyncio.to_thread(schema.prepare, self.path)
        except StoreCorrupt as error:
            await self._put_aside(error)
            is_new = await asyncio.to_thread(schema.prepare, self.path)
        with schema.translated(self.path):
            db = await aiosqlite.connect(self.path, isolation_level=None, timeout=schema.BUSY_TIMEOUT / 1000)
            try:
                await db.executescript(schema.WRITE_PRAGMAS)
                self.attempt_rows = int(next(iter(await db.execute_fetchall("SELECT count(*) FROM attempts")))[0])
            except BaseException:
                await db.close()
                raise
        self._db, self.inode = db, _inode(self.path)
        self._openings += 1
        return is_new

    async def ensure_open(self) -> None:
        """Open what could not be opened before, and notice a file that was removed or replaced under us."""
        if self._db is not None and _inode(self.path) == self.inode:
            return
        if self._db is not None:
            self._say(f"{str(self.path)!r} was removed or replaced while in use: it is opened anew.")
        async with self._lock:
            await self.close()
            is_new = await self.open()
        if self._on_opened is not None:
            self._on_opened(is_new)

    async def begin_anew(self, error: StoreCorrupt, inode: int) -> None:
        """Replace the corrupt file, unless another task did since ``inode`` was open."""
        async with self._lock:
            if inode != self.inode:
                return
            await self.close()
            await self._put_aside(error)
            await self.open()
        if self._on_opened is not None:
            self._on_opened(True)

    async def _put_aside(self, error: StoreCorrupt) -> None:
        aside = await asyncio.to_thread(schema.set_aside, self.path, self._now())
        self._say(f"{error} It was set aside as {str(aside)!r}; a new database is begun.")

    async def close(self) -> None:
        """Merge the write-ahead log, where nothing is wrong, and let go. May be called twice."""
        db, self._db = self._db, None
        if db is None:
            return
        try:
            if self.trouble is None:
                with suppress(sqlite3.Error):
                    await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            # Without it the thread of aiosqlite lives on, and the process with it.
            with suppress(sqlite3.Error):
                await db.close()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Commit what is done inside, or none of it. Raises StoreError."""
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

    async def change(self, sql: str, parameters: Any = ()) -> int:
        """Carry out one statement in a transaction of its own; return how many rows it changed. Raises StoreError."""
        async with self.transaction() as db:
            cursor = await db.execute(sql, parameters)
            return cursor.rowcount

    async def pragma(self, text: str) -> None:
        """Run a pragma between two transactions. Raises StoreError."""
        async with self._lock:
            db = self._connected()
            with schema.translated(self.path):
                # execute() takes one step, which frees one page; a script runs to its end.
                await db.executescript(f"PRAGMA {text}")

    async def number(self, pragma: str) -> int:
        """Return what a pragma says, between two transactions. Raises StoreError."""
        async with self._lock:
            db = self._connected()
            with schema.translated(self.path):
                return int(next(iter(await db.execute_fetchall(f"PRAGMA {pragma}")))[0])

    def _connected(self) -> aiosqlite.Connection:
        if self._db is None:
            raise self.trouble or StoreUnavailable(f"The database {str(self.path)!r} is not open.")
        return self._db

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, question: Callable[[Reader], T]) -> T:
        """Return the answer of a read-only connection, of a new file where this one is damaged. Raises StoreError."""
        self._connected()
        inode = self.inode
        try:
            return await asyncio.to_thread(self._ask, question)
        except StoreCorrupt as error:
            await self.begin_anew(error, inode)
            return await asyncio.to_thread(self._ask, question)

    def _ask(self, question: Callable[[Reader], T]) -> T:
        with Reader(self.path) as reader:
            return question(reader)

    async def chunks(self, read: Callable[[Reader], Iterator[list[T]]]) -> AsyncIterator[list[T]]:
        """Yield what a read-only connection lists; it ends where the file is damaged, and replaced. StoreError."""
        self._connected()
        inode = self.inode
        chunks = self._listed(read)
        # One thread of its own: a step that is cancelled runs on, and SQLite must not be closed meanwhile (it crashes).
        worker = ThreadPoolExecutor(max_workers=1)
        try:
            while chunk := await asyncio.get_running_loop().run_in_executor(worker, next, chunks, None):
                yield chunk
        except StoreCorrupt as error:
            await self.begin_anew(error, inode)
        finally:
            worker.submit(chunks.close)
            worker.shutdown(wait=False)

    def _listed(self, read: Callable[[Reader], Iterator[list[T]]]) -> Generator[list[T], None, None]:
        with Reader(self.path) as reader:
            yield from read(reader)

    async def data_version(self) -> int:
        """Return a number that changes with each commit of another process and each opening; 0 while none is open."""
        if self._db is None:
            return 0
        with schema.translated(self.path):
            version = int(next(iter(await self._db.execute_fetchall("PRAGMA data_version")))[0])
        return (self._openings << 32) + version  # SQLite counts anew in each connection

    # ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def endure(self, error: StoreError) -> None:
        """Take note that writing failed, and say so once."""
        now = time.monotonic()
        if self.trouble is None:
            self._trouble_since = now
        self.trouble = error
        is_patient = schema.is_lock(error) and now - self._trouble_since < self._patience
        if not self._is_trouble_said and not is_patient:
            self._is_trouble_said = True
            self._say(f"{error} Bans go on; what is to be recorded waits and is tried again.")

    def recover(self) -> None:
        """Take note that writing works, and say so where trouble was said. Safe to repeat."""
        if self.trouble is None:
            return
        self.trouble = None
        if self._is_trouble_said:
            self._is_trouble_said = False
            seconds = time.monotonic() - self._trouble_since
            self._say(
                f"The database {str(self.path)!r} takes writes again, after {seconds:.0f} s; nothing else is to do."
            )


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
