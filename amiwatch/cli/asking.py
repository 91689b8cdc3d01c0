"""
How a command has something changed: the daemon does it; where none runs, the command does, if it may.

Rule: every change is a row of ``requests`` first, so the audit has it, whoever carries it out.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from amiwatch.cli.text import say_warnings, visible
from amiwatch.errors import AlreadyRunning, AmiwatchError, FirewallPermission, Refusal, StillWaiting
from amiwatch.store import requests, schema
from amiwatch.store.reader import Reader
from amiwatch.store.records import Status

if TYPE_CHECKING:
    from amiwatch.config import Settings

FRESH = 30.0
"""Seconds for which a daemon's sign of life counts; it gives one every ten."""

ANSWER_TIME = 5.0
"""Seconds to wait for the daemon: it looks every quarter of a second."""

PATIENT_TIME = 60.0
"""Seconds to wait for what may take long: deleting rows by the million."""


def carry_out(
    settings: Settings,
    verb: str,
    target: str = "",
    *,
    duration: int | None = None,
    comment: str = "",
    is_forced: bool = False,
    confirm: int | None = None,
    patience: float = ANSWER_TIME,
) -> None:
    """Have a request carried out, and print its outcome. Raises Refusal, StillWaiting and StoreError."""
    path = settings.database
    is_running = living(path) is not None
    if not is_running:
        schema.prepare(path)
    request_id = requests.ask(
        path,
        verb,
        target,
        seconds=duration,
        comment=visible(comment),
        is_forced=is_forced,
        confirm=confirm,
        by=asker(),
    )
    if not is_running and _does_it(settings, request_id):
        patience = 0.0
    outcome = requests.wait_outcome(path, request_id, timeout=patience)
    if outcome is None:
        raise StillWaiting(
            f"nobody has carried it out within {patience:g} s: request {request_id} waits for the daemon."
        )
    if not outcome.is_done:
        raise Refusal(outcome.text)
    typer.echo(visible(outcome.text))


def _does_it(settings: Settings, request_id: int) -> bool:
    """Carry a request out; False if a daemon has the database already, which has said nothing of itself so far."""
    from amiwatch.daemon.watch import Daemon

    say_warnings()
    try:
        asyncio.run(Daemon(settings).attend_once())
    except FirewallPermission:
        raise StillWaiting(
            f"no daemon runs, and you may not change the kernel's sets: request {request_id} waits for the daemon. "
            "Start it, or say it again as root."
        ) from None
    except AlreadyRunning:
        return False
    except AmiwatchError as error:
        requests.withdraw(settings.database, request_id, why=str(error))
        raise
    return True


def living(path: Path) -> Status | None:
    """Return what the running daemon says of itself, None if none runs. Raises StoreError."""
    if not schema.exists(path):
        return None
    with Reader(path) as reader:
        status = reader.status()
    return status if status is not None and is_alive(status) else None


def is_alive(status: Status) -> bool:
    """Tell whether the daemon that said this still runs: a fresh sign of life, and a process of that number."""
    return abs(time.time() - status.heartbeat_at) <= FRESH and has_process(status)


def has_process(status: Status) -> bool:
    """Tell whether there is a process of the daemon's number; after a while it may be anybody's."""
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def asker() -> str:
    """Name whoever asks, for the audit: ``alice (pts/3)``. Behind sudo, the person and not root."""
    uid = os.getuid()
    name = os.environ.get("SUDO_USER", "") if uid == 0 else ""
    if not name:
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = f"uid {uid}"
    with suppress(OSError):
        return f"{name} ({os.ttyname(sys.stdin.fileno()).removeprefix('/dev/')})"
    return name
