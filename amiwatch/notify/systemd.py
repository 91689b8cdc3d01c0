"""
Tell systemd how we are: ready, alive, reloading, stopping (sd_notify(3), without a library).

Rule 1: nothing here raises. A service manager that can't be told is no reason to stop banning.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"

RULE_WANTED = "rule-wanted"
"""File in our runtime directory that amiwatch-rule.path looks at."""

STATUS_LIMIT = 200
"""Longest status line, in characters: it is one line of ``systemctl status``."""


def notify(message: str, environ: Mapping[str, str] = os.environ) -> bool:
    """
    Send a message to the service manager; return whether one took it.

    Several assignments are separated by line ends. False without ``NOTIFY_SOCKET``, thus not under systemd. Never
    blocks: a full socket counts as not taken.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract sockets: no file stands behind the name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(address)
            sock.send(message.encode(errors="replace"))
    except OSError:
        return False
    return True


def places_rule(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether systemd has root place the drop rule when we ask for it: the unit gave us a runtime directory."""
    return bool(environ.get("RUNTIME_DIRECTORY"))


def ask_for_rule(environ: Mapping[str, str] = os.environ) -> None:
    """Have root place the drop rule: systemd sees the file closed, and starts amiwatch-rule.service."""
    folder = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    with suppress(OSError):
        (Path(folder) / RULE_WANTED).write_bytes(b"")


def status(text: str) -> str:
    """Return the message that shows ``text`` in ``systemctl status``; line ends in it can't begin a message."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return f"STATUS={printable[:STATUS_LIMIT]}"


def reloading(monotonic: float) -> str:
    """Return the message that a reload begins at ``monotonic`` (``time.monotonic()``, seconds); READY ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={int(monotonic * 1_000_000)}"


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """
    Return how often ALIVE is due, in seconds; None where no watchdog waits for it.

    Half of systemd's limit, as sd_watchdog_enabled(3) advises. A watchdog meant for another process (``WATCHDOG_PID``)
    is none for us.
    """
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if pid not in ("", str(os.getpid())):
        return None
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000 / 2
