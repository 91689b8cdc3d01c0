"""
What only many sources together show: everybody failing at once.

Rule 1: nobody is banned because of what is here; it holds bans back or lifts them, and it says so.

Rule 2: memory is bounded whatever arrives.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from amiwatch.judgement.rules import MINUTE
from amiwatch.judgement.values import TEXT_LIMIT, UNKNOWN

CROWDS = ((10, float(MINUTE), 3), (6, 10.0, 4))
"""So many sources that begin to fail within so many seconds, nearly each with an account of its own, are a mass failure
if at least so many of them are more than a forged packet: proven, or trusted and with their own account, or without
trust and with an account that exists. The busiest honeypot network reported saw 366 attackers a day on 39 sensors: one
in four minutes. Twelve phones of an office that try again every 30 s look like a scanner after ten seconds; most dead
databases are known by then."""

OWN_SHARE = 0.8
"""Share of such a crowd that has an account of its own, or one that Asterisk does not tell (FreePBX). Attackers share
their lists; phones do not."""

STORM = 30
"""Sources that begin to fail within a minute, on evidence that forged UDP packets could make, whatever the accounts."""

QUIET = 10 * MINUTE
"""How long a source must not have failed before it counts as one that begins to, in seconds: phones with an old
password, which fail all the time, are no mass."""

LOOK_PAUSE = 0.05
"""Seconds between two looks at who began to fail: a flood of newcomers must cost little."""

LINGER = 3 * MINUTE
"""How long the breaker stays open after the last minute in which it had a reason, in seconds."""

MAX_FAILING = 10_000
"""Sources told apart within one minute: beyond that, it is a mass in any case."""


class Breaker:
    """Notices when many sources that were quiet fail together, and for how long."""

    def __init__(self) -> None:
        self.until = 0.0
        """While this lies ahead, the breaker is open."""
        self.is_storm = False
        """Whether forged packets alone could have opened it."""
        self._onsets: deque[tuple[float, str, bool]] = deque(maxlen=STORM)
        """Who began to fail: when, with which account, and whether a forged packet could have said so."""
        self._look_at = 0.0
        self._minute = 0.0
        self._failing: set[int] = set()
        self._peak = 0
        self._tries = 0
        """Attempts of those in ``_failing`` within this minute."""
        self._usual = 0.0
        """Attempts of one of them within the minute before, on average."""

    def begin(self, account: str, now: float, *, could_be_forged: bool) -> bool:
        """Note that a source that was quiet fails; tell whether this opens the breaker."""
        onsets = self._onsets
        onsets.append((now, account[:TEXT_LIMIT], could_be_forged))
        if now < self._look_at or len(onsets) < CROWDS[-1][0]:
            return False
        self._look_at = now + LOOK_PAUSE
        is_mass = any(self._is_crowd(size, now - seconds, least) for size, seconds, least in CROWDS)
        is_storm = not is_mass and self._is_storm(now - MINUTE)
        if not is_mass and not is_storm:
            return False
        is_new = now >= self.until
        self.is_storm = is_storm if is_new else self.is_storm and is_storm
        if is_new:
            self._minute, self._peak = now, 0
            self._tries, self._usual = 0, 0.0
            self._failing.clear()
        self.until = max(self.until, now + LINGER)
        return is_new

    def _is_crowd(self, size: int, begin: float, least: int) -> bool:
        """Tell whether the newest onsets are phones of many people, and not forged packets alone."""
        newest = list(islice(reversed(self._onsets), size))
        if len(newest) < size or newest[-1][0] < begin:
            return False
        believed = sum(not could_be_forged for _, _, could_be_forged in newest)
        names = [account for _, account, _ in newest if account != UNKNOWN]
        return believed >= least and size - len(names) + len(set(names)) >= OWN_SHARE * size

    def _is_storm(self, begin: float) -> bool:
        onsets = self._onsets
        return len(onsets) == STORM and onsets[0][0] >= begin and all(each[2] for each in islice(reversed(onsets), 10))

    def begun(self, now: float) -> int:
        """Return how many began to fail within the last minute; more than ``STORM`` are not counted."""
        return sum(at >= now - MINUTE for at, _, _ in self._onsets)

    def go_on(self, key: int, now: float) -> None:
        """Note that a source fails while the breaker is open; it stays open while half of them do."""
        failing = self._failing
        if len(failing) < MAX_FAILING or key in failing:
            failing.add(key)
            self._tries += 1
        if now < self._minute + MINUTE:
            return
        self._usual = self._tries / len(failing)
        self._tries = 0
        self._peak = max(self._peak, len(failing))
        if len(failing) >= max(CROWDS[0][0], self._peak / 2):
            self.until = now + LINGER
        self._minute = now
        failing.clear()

    @property
    def usual(self) -> float:
        """Return how often a source fails within a minute on average, while the breaker is open."""
        return max(self._usual, self._tries / len(self._failing) if self._failing else 0.0)
