"""The daemon's clock: it never jumps, whatever somebody does to the machine's."""

from __future__ import annotations

import time

STEP = 1.0
"""Difference, in seconds, from which on the machine's clock counts as set and not as drifting."""


class SteadyClock:
    """
    Seconds since the epoch that run with the monotonic clock (suspended time included).

    Windows and ends of bans use it, so a clock that NTP sets by years after boot ends no ban and opens no window.
    ``utc`` translates for the store, which people read.
    """

    def __init__(self) -> None:
        self._begin = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def __call__(self) -> float:
        return self._begin + time.clock_gettime(time.CLOCK_BOOTTIME)

    def utc(self, at: float) -> float:
        """Translate an instant of this clock to the machine's, as it is set now."""
        shift = time.time() - self()
        return at + shift if abs(shift) > STEP else at
