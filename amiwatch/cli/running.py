"""``amiwatch run``: the daemon in the foreground, its log on standard error."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from amiwatch.errors import AmiwatchError

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Levels as syslog counts them (sd-daemon(3)): ``journalctl -p warning`` shows what somebody must look at."""


USUAL_DATABASE = Path("/var/lib/amiwatch/amiwatch.db")
"""Where the database is if no setting says otherwise."""


def run(context: typer.Context) -> None:
    """
    Watch the PBXs and ban attackers.

    Until SIGTERM or Ctrl-C; SIGHUP reads the settings again.
    """
    settings = context.obj.read_settings()  # whose warnings the log has
    set_up_logging(settings.log_level)
    for warning in settings.warnings:
        logging.getLogger("amiwatch.config").warning("%s", warning)
    settings.require_complete()
    make_home(settings.database)
    from amiwatch.daemon.watch import Daemon

    try:
        asyncio.run(Daemon(settings, read_settings=context.obj.read_settings).run())
    except BaseExceptionGroup as group:
        raise cause_of(group) from group


def make_home(database: Path, usual: Path = USUAL_DATABASE) -> None:
    """Make the directory of the usual database, for a first start needs no more; another one may be a slip."""
    if database == usual:
        # Who may not is told so when the database is opened, as where it can't be made for another reason.
        with suppress(OSError):
            database.parent.mkdir(mode=0o750, exist_ok=True)


def cause_of(group: BaseExceptionGroup) -> BaseException:
    """Return the error that a task group ended by: one of ours if there is one, for it says what to do."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, AmiwatchError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def set_up_logging(level: str) -> None:
    """Log to standard error; for the journal without the time, which it has, and with the priority, which it wants."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_ForJournal() if _is_journal() else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Libraries are only heard when they warn: what they say at lower levels is about themselves.
    logging.basicConfig(level=logging.WARNING, handlers=[stream], force=True)
    logging.getLogger("amiwatch").setLevel(level.upper())


class _ForJournal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # Each line is an entry of its own there, and wants its own priority.
        mark = f"<{PRIORITIES.get(record.levelno, 6)}>"
        return mark + super().format(record).replace("\n", f"\n{mark}")


def _is_journal() -> bool:
    """Tell whether standard error is the journal's socket (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
