"""
When Python's collector of cycles stops everybody: among young objects for milliseconds, among all in calm moments only.

What events and bans make has no cycles, and many bans at once make millions of objects, over which a full collection
stops the event loop for most of a second.
"""

from __future__ import annotations

import gc
import sys
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType

YOUNG_OBJECTS = 10_000
"""Objects made before the youngest are looked through. With Python's own 700 it takes a fifth of the judgement
(measured: ``python -m bench.judgement active``) and finds nothing."""

YOUNG_ROUNDS = 1 if sys.version_info < (3, 14) else 10
"""Rounds after which those that outlived them are looked through, too: with ten it takes 12 ms, with one 2. From Python
3.14 on it is another number: the lower, the more old objects are looked at each time."""

NEVER = 2**31 - 1
"""Rounds after which Python itself would look through all."""

CALM_TIME = 600.0
"""Seconds between two looks through all: what has cycles (a lost link, an error with its traceback) is kilobytes."""

LONG = 0.02
"""A look through all that took so many seconds is not made again: what it left is never looked at any more."""


class Collector(AbstractContextManager["Collector"]):
    """The collector while a daemon lives; it rests until ``begin``. Afterwards it is as it was before."""

    def __enter__(self) -> Collector:
        # It would walk the growing ledger again and again, and find nothing (measured: half of the time of a start).
        self._thresholds = gc.get_threshold()
        gc.disable()
        return self

    def begin(self) -> None:
        """Look from now on, at what is made from now on."""
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, NEVER)
        gc.enable()

    def tidy(self) -> None:
        """Look through all, in a moment in which nobody waits."""
        began = perf_counter()
        gc.collect()
        if perf_counter() - began > LONG:
            gc.freeze()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.set_threshold(*self._thresholds)
        gc.enable()
        gc.unfreeze()
