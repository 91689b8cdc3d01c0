"""
A panic that is left for the daemon beside the database, where that takes nothing (locked, full, broken).

Rule: whatever stands in that file means panic.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from amiwatch.store.records import Panic

LATEST = 32_503_680_000.0
"""The year 3000."""

NOTE_LIMIT = 4096
"""Bytes read of a note: one of ours has some hundred."""


def note_path(database: Path) -> Path:
    """Return the file in which a panic is left where the database takes none."""
    return Path(f"{database}.panic")


def leave_note(database: Path, panic: Panic) -> None:
    """Leave a panic for the daemon beside its database. Raises OSError."""
    path = note_path(database)
    beginning = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        beginning.write_text(json.dumps(asdict(panic)), encoding="utf-8")
        beginning.rename(path)
    except OSError:
        with suppress(OSError):
            beginning.unlink()
        raise


def read_note(database: Path) -> Panic | None:
    """Return the panic that was left beside a database, if there is one."""
    path = note_path(database)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = file.read(NOTE_LIMIT)
        at = path.stat().st_mtime
    except OSError:
        return None
    try:
        found = json.loads(text)
        until = None if found["until"] is None else _instant(found["until"])
        return Panic(_instant(found["at"]), until, str(found["asked_by"]), str(found["comment"]))
    except (ValueError, TypeError, LookupError, RecursionError):
        # Whatever stands in it: somebody made this file, which can only mean one thing.
        return Panic(at, None, "unknown", f"the file {path.name}")


def _instant(value: object) -> float:
    """Read a time. Raises ValueError, TypeError; JSON as Python reads it knows numbers that are none."""
    at = float(value)  # type: ignore[arg-type]
    if not 0 <= at < LATEST:
        raise ValueError(f"{value!r} is no time")
    return at
