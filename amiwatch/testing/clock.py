"""A clock to turn by hand, for code that takes ``now`` from a callable."""

from __future__ import annotations

START = 1_795_345_200.0
"""Where a clock begins unless told: 2026-11-22T11:00:00Z, inside our recordings."""


class Clock:
    """
    A callable that returns the same instant until it is turned.

    >>> clock = Clock(100.0)
    >>> clock.advance(2.5)
    102.5
    >>> clock()
    102.5
    """

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return f"Clock({self.now!r})"

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` pass and return the new instant. Time never runs backwards: raises ValueError."""
        if seconds < 0:
            raise ValueError(f"a clock is turned forwards only, not by {seconds!r} s")
        self.now += seconds
        return self.now
