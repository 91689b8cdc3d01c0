"""
How the command line asks the daemon: a row in ``requests``, whose outcome the daemon writes into the same row.

::

    request_id = ask(path, "ban", "203.0.113.9/32", seconds=7200, comment="rang all night", by="alice")
    answer = wait_outcome(path, request_id, timeout=2.0)
    if answer is None:                                  # no daemon took it
        withdraw(path, request_id)                      # False: it was taken at the last moment, ask again

Where no daemon runs, the command line may open a ``Store`` and carry the request out itself.

Rule 1: synchronous; one short transaction per call. Every function raises StoreError.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from amiwatch.errors import StoreError
from amiwatch.store import schema
from amiwatch.store.reader import Reader
from amiwatch.store.records import MAX_REASON, VERBS, bounded

POLL = 0.02
"""Seconds between two looks for the outcome (a look takes 0.1 ms)."""

ASK_TIMEOUT = 3.0
"""Seconds to wait for the daemon's own commit (seen: 0.6 s at most)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, in a sentence."""

    is_done: bool
    text: str


def ask(
    path: Path,
    verb: str,
    target: str,
    *,
    seconds: int | None = None,
    comment: str = "",
    is_forced: bool = False,
    confirm: int | None = None,
    by: str,
) -> int:
    """Write a request (see ``Request``; ``verb`` is one of ``VERBS``) and return its id. Raises StoreError."""
    if verb not in VERBS:
        raise ValueError(f"no such verb: {verb!r}")
    said = (bounded(target, 255), seconds, bounded(comment, MAX_REASON), is_forced, confirm)
    sql = """
        INSERT INTO requests (at, asked_by, verb, target, seconds, comment, is_forced, confirm)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    """
    with _writing(path) as db:
        return int(db.execute(sql, (time.time(), bounded(by), verb, *said)).lastrowid or 0)


def wait_outcome(path: Path, request_id: int, timeout: float) -> Outcome | None:
    """Wait up to ``timeout`` seconds for the outcome; None if nobody finished the request. Raises StoreError."""
    deadline = time.monotonic() + timeout
    with Reader(path) as reader:
        while True:
            request = reader.request(request_id)
            if request is not None and request.finished_at is not None:
                return Outcome(is_done=bool(request.is_done), text=request.outcome or "")
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL)


def withdraw(path: Path, request_id: int, why: str = "withdrawn: no daemon answered") -> bool:
    """Finish a request that nobody took, so that none is carried out much later; False if it has an outcome."""
    with _writing(path) as db:
        sql = "UPDATE requests SET finished_at = ?, is_done = 0, outcome = ? WHERE id = ? AND finished_at IS NULL"
        return db.execute(sql, (time.time(), bounded(why, MAX_REASON), request_id)).rowcount == 1


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    if not schema.exists(path):
        raise StoreError(schema.NONE_YET.format(str(path)))
    with schema.translated(path), closing(sqlite3.connect(path, isolation_level=None, timeout=ASK_TIMEOUT)) as db:
        schema.require_version(db, path)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
