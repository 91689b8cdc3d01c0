"""
The database file: made, checked, migrated, set aside.

Rule 1: this file is synchronous; whoever must not wait calls it in a thread.

Rule 2: a migration that was released is never edited. The number of its file is ``PRAGMA user_version`` after it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

from amiwatch.errors import StoreCorrupt, StoreError, StoreUnavailable

BUSY_TIMEOUT = 500
"""Milliseconds that SQLite waits for another writer: short, for our writer tries again and must stop in 0.8 s."""

MODE = 0o640
"""Rights of a new file: it holds personal data. SQLite gives -wal and -shm the same."""

CHECK_LIMIT = 32 * 1024 * 1024
"""Largest file in bytes that is checked page by page at start; damage in a larger one shows when it is touched."""

MAKING = 1.0
"""Seconds that a reader waits for a file that another process is making just now: it takes some 20 ms."""

WRITE_PRAGMAS = f"""
PRAGMA busy_timeout = {BUSY_TIMEOUT};
PRAGMA foreign_keys = ON;
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = {64 * 1024 * 1024};
"""
"""For each connection that writes. NORMAL in WAL: kill -9 loses nothing committed, a power cut the last commits."""

APPLICATION_ID = 0x616D6977
"""``PRAGMA application_id`` of our files ("amiw"; step 1 sets it): tables never go into another program's database."""

NONE_YET = "There is no database {!r} yet: start the daemon, or set AMIWATCH_DATABASE to its file."

NO_FILE = "{!r} is no file: name another one for the database."

SIDECARS = ("", "-wal", "-shm")


def prepare(path: Path) -> bool:
    """
    Make the database if it is missing, check it, bring it to our version, and tell whether it is a new one.

    Raises StoreError where nothing will help but a person (directory, rights, a newer amiwatch), StoreUnavailable where
    it may pass (lock, full disk), StoreCorrupt where the file is no database or a damaged one. Safe to repeat.
    """
    _make(path)
    with translated(path), closing(sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT / 1000)) as db:
        db.executescript(WRITE_PRAGMAS)
        if _version(db) == 0:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL").fetchone()
        _check(db, path)
        return migrate(db, path) == 0


def migrate(db: sqlite3.Connection, path: Path, *, target: int | None = None) -> int:
    """Apply the steps above the file's version, up to ``target`` (None: all), at once; return the version it had."""
    steps = migrations()
    db.execute("BEGIN IMMEDIATE")
    try:
        current = _version(db)
        _refuse_foreign(db, path)
        if current > len(steps):
            raise StoreError(_newer(path, current, len(steps)))
        for number, sql in enumerate(steps[current:target], start=current + 1):
            for statement in _statements(sql):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
        return current
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def exists(path: Path) -> bool:
    """Tell whether the file is there. Raises StoreError if its directory may not be searched."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StoreError(f"{str(path)!r} may not be opened ({exc.strerror}): check owner and rights.") from exc
    return True


def require_version(db: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError unless the file has exactly the tables that this program knows."""
    _refuse_foreign(db, path)
    current, ours = _made_version(db), len(migrations())
    if current > ours:
        raise StoreError(_newer(path, current, ours))
    if current < ours:
        raise StoreError(
            f"{str(path)!r} is of an older amiwatch (version {current}): start the daemon, or restart it: "
            f"it brings the file to {ours}."
        )


@cache
def migrations() -> list[str]:
    """Return the SQL of all steps; the first brings version 0 to 1."""
    folder = files("amiwatch.store") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def set_aside(path: Path, now: float) -> Path:
    """
    Rename a corrupt file, with its -wal and -shm, and return its new name. Nothing is ever deleted.

    Raises StoreError if it can't be renamed.
    """
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = _free_name(path, stamp)
    try:
        for suffix in SIDECARS:
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    except OSError as exc:
        raise StoreError(f"The corrupt {str(path)!r} can't be renamed ({exc.strerror}): move it away.") from exc
    return aside


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; those that one wrong row makes (constraints, types) pass through."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError):
        raise
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Return our error for one of SQLite's, in a sentence that says what to do."""
    name = str(path)
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return StoreUnavailable(f"No space left for the database {name!r}: free some on its disk.")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(f"Another program keeps the database {name!r} locked: end it (fuser {name!r}).")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_NOMEM:
            return StoreUnavailable(f"The database {name!r} could not be read or written ({error}): check its disk.")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(f"{name!r} is no database, or a damaged one ({error}).")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return StoreError(f"The database {name!r} may not be opened or written ({error}): check owner and rights.")
    return StoreError(f"SQLite refused something in {name!r}: {error}.")


def is_lock(error: StoreError) -> bool:
    """Tell whether another writer is all that is wrong."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _make(path: Path) -> None:
    """Create an empty file with our rights; one that root makes belongs to the owner of its directory."""
    folder = path.parent
    if not exists(folder):
        raise StoreError(
            f"The directory {str(folder)!r} of the database does not exist: make it, or name another file."
        )
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    except FileExistsError:
        if not path.is_file():
            raise StoreError(NO_FILE.format(str(path))) from None
        if not os.access(path, os.R_OK | os.W_OK) or not os.access(folder, os.W_OK):
            raise StoreError(f"{str(path)!r} or its directory may not be written: check owner and rights.") from None
        return
    except OSError as exc:
        raise StoreError(f"{str(path)!r} can't be made ({exc.strerror}): check the directory and its rights.") from exc
    with closing(os.fdopen(descriptor)):
        if os.geteuid() == 0:
            owner = folder.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _check(db: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size > CHECK_LIMIT:
        return
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreCorrupt(f"{str(path)!r} is damaged ({verdict}).")


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreError(f"{str(path)!r} is the database of another program: name another file.")


def _newer(path: Path, current: int, ours: int) -> str:
    return (
        f"{str(path)!r} was made by a newer amiwatch (version {current} of the database, this program knows {ours}): "
        "update this program, or name another file."
    )


def _made_version(db: sqlite3.Connection) -> int:
    deadline = time.monotonic() + MAKING
    while (version := _version(db)) == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    return version


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _statements(sql: str) -> Iterator[str]:
    """Split a script, for ``executescript`` would commit the transaction we are in."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _free_name(path: Path, stamp: str) -> Path:
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    return aside
