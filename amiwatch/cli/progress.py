"""How far a long replay is, on the terminal of whoever waits for it; nothing where nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from amiwatch.cli.text import local

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds without a word: most replays are over by then."""

PAUSE = 0.2
"""Seconds between two words."""

STRIDE = 256
"""Events between two looks at the clock, some ms."""

_CLEAR = "\r\x1b[K"


class Progress:
    """One line on standard error that is written again and again, and gone at the end."""

    def __init__(self, share: Callable[[float], float | None]) -> None:
        self._share = share
        """Instant of an event → what share of the work is done by then, 0 to 1; None where nobody knows."""
        self._is_shown = False

    def watch(self, events: Iterable[tuple[float, T]]) -> Iterator[tuple[float, T]]:
        """Yield the events, and say from time to time how far it is."""
        if not sys.stderr.isatty():
            yield from events
            return
        say_at = time.monotonic() + PATIENCE
        try:
            for number, (at, event) in enumerate(events, start=1):
                if not number % STRIDE and time.monotonic() >= say_at:
                    self._say(at, number)
                    say_at = time.monotonic() + PAUSE
                yield at, event
        finally:
            self.clear()

    def _say(self, at: float, number: int) -> None:
        share = self._share(at)
        much = "" if share is None else f"{min(1.0, max(0.0, share)):.0%}, "
        sys.stderr.write(f"{_CLEAR}judging {local(at)}, {much}{number:,} events")
        sys.stderr.flush()
        self._is_shown = True

    def clear(self) -> None:
        """Take the line away, so that another one can be printed."""
        if self._is_shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
            self._is_shown = False
