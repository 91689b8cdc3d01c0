"""
Words for a person's terminal, and for machines.

Rule 1: whatever an attacker chose goes through ``visible`` before it reaches a terminal.

Rule 2: people see local time, machines ISO 8601 in UTC.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
import time
from functools import lru_cache

import typer


def visible(text: str) -> str:
    """Write what a terminal would obey or hide (control characters, line ends, bidi marks) as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def iso(at: float | None) -> str | None:
    """Write an instant for machines, as in ``2026-11-22T10:07:31.450Z``; None stays None."""
    if at is None:
        return None
    second = int(at)
    return f"{_to_the_second(second)}.{int((at - second) * 1000):03}Z"


@lru_cache(maxsize=4096)
def _to_the_second(at: int) -> str:
    # Rows come in the order of time: a hundred thousand of a flood have few different seconds.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


def local(at: float) -> str:
    """Write an instant in the time zone of whoever looks, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def short(at: float, now: float) -> str:
    """Write an instant for a table: month, day, hour and minute, or the day if it was another year."""
    there, here = time.localtime(at), time.localtime(now)
    return time.strftime("%m-%d %H:%M" if there.tm_year == here.tm_year else "%Y-%m-%d", there)


def compact(seconds: float) -> str:
    """Write a duration for a table: ``23h59m``, two units at most."""
    rest = max(0, round(seconds))
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if rest >= size:
            part = rest % size // smaller
            return f"{rest // size}{unit}{part}{small}" if part else f"{rest // size}{unit}"
    return f"{rest}s"


def counted(count: int, one: str, many: str = "") -> str:
    """``1 ban``, ``2 bans``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def strong(text: str, colour: str | None = None) -> str:
    """Make a text of ours stand out, where somebody looks at it and wants colours."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return typer.style(text, fg=colour, bold=True)


def wrapped(text: str, *, head: str = "", indent: int = 0) -> str:
    """Break a text at the width of the terminal; ``head`` stands before it. In a pipe it stays one line."""
    if not sys.stdout.isatty():
        return head + text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True
    )


def alert_page(kind: str) -> str:
    """Name the page that explains a kind of alert."""
    return f"docs/alerts.md#{kind}"


def complain(sentence: str) -> None:
    """Say on standard error what went wrong, one line for each line of it."""
    for line in sentence.splitlines():
        typer.echo(f"amiwatch: {visible(line)}", err=True)


def say_warnings() -> None:
    """Let the warnings of what a command calls be seen, in the form of its own sentences."""
    logging.basicConfig(level=logging.WARNING, format="amiwatch: %(message)s")
