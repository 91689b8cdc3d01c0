"""
One daemon for one database: ``<database>.lock``, locked for as long as the process lives.

Rule: the kernel drops the lock with the process, however it ends. The file stays, for removing it would be a race.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amiwatch.errors import AlreadyRunning

log = logging.getLogger(__name__)

MODE = 0o644
"""Whoever may read the file may lock it: a daemon waits for a command of root's, and the other way round."""

PAUSE = 0.05
"""Seconds between two tries."""


@contextmanager
def only_one(database: Path, *, patience: float = 0.0) -> Iterator[None]:
    """
    Hold the lock of a database; raise AlreadyRunning if another process keeps it for ``patience`` seconds. Blocks.

    Where there can be no lock file (a full disk, missing rights) it goes without: nothing may stop the banning.
    """
    path = Path(f"{database}.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    except OSError as error:
        if os.path.isdir(path.parent):  # noqa: PTH112 - Path.is_dir raises where nobody may look  # else the store says what is wrong
            log.warning("no lock against a second daemon path=%r reason=%s", str(path), error.strerror)
        yield
        return
    try:
        deadline = time.monotonic() + patience
        while not _is_locked(descriptor):
            if time.monotonic() >= deadline:
                raise AlreadyRunning(
                    f"Another amiwatch works with the database {str(database)!r}: end it, or name another file."
                )
            time.sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
