"""
What only many sources together show: everybody failing at once.

Rule 1: nobody is banned because of what is here; it holds bans back or lifts them, and it says so.

Rule 2: memory is bounded whatever arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from math import ceil, inf
from typing import NamedTuple

from amiwatch.judgement.rules import HOUR, MINUTE, Policy
from amiwatch.judgement.values import UNKNOWN

CROWDS = ((1.0, float(MINUTE), 3), (0.6, 10.0, 4))
"""Such a share of ``mass_failure`` that begins to fail within so many seconds, nearly each with an account of its own,
is a mass failure if at least so many of them are more than a forged packet: proven, or trusted and with their own
account, or without trust and with an account that exists. Twelve phones of an office that try again every 30 s look
like a scanner after ten seconds; most dead databases are known by then."""

KNOWN = 2
"""Of such a crowd, so many must be trusted and fail over a proven transport or with an account of their own, or half of
those who are trusted if that is fewer: six bots over TCP are no mass failure where phones are known and go on working,
and nor is a forger who tries accounts that exist in the names of strangers."""

FIRST_TIME = HOUR
"""How long after the first failure that was heard of strangers alone may be a mass failure, in seconds, if nobody has
logged in so far: amiwatch came in the midst of it. Later they are bots."""

OWN_SHARE = 0.8
"""Share of such a crowd that has an account of its own, or one that Asterisk does not tell (FreePBX). Attackers share
their lists; phones do not."""

STORM_SHARE = 0.9
"""Share of the sources of a storm that are strangers on evidence that forged UDP packets could make, whatever the
accounts."""

MAX_CROWD = 1_000
"""Sources that a policy may ask for before it speaks of a mass failure, or of a storm."""

QUIET = 10 * MINUTE
"""How long a source must not have failed before it counts as one that begins to, in seconds: phones with an old
password, which fail all the time, are no mass."""

LOOK_PAUSE = 0.05
"""Seconds between two looks at who began to fail: a flood of newcomers must cost little."""

LINGER = 3 * MINUTE
"""How long the breaker stays open after the last minute in which it had a reason, in seconds."""

MAX_FAILING = 10_000
"""Sources told apart within one minute: beyond that, it is a mass in any case."""


class Failure(NamedTuple):
    """What a source that fails says about the crowd."""

    at: float
    account: str
    is_believed: bool
    """Whether it is more than a forged packet: see ``CROWDS``."""
    is_known: bool
    """Whether it is one of those that ``KNOWN`` asks for."""
    is_forgeable: bool
    """Whether a stranger could have sent it in this name, knowing all accounts."""


class Breaker:
    """Notices when many sources that were quiet fail together, and for how long."""

    def __init__(self, policy: Policy) -> None:
        self._onsets: deque[Failure] = deque()
        """Who began to fail."""
        self.adopt(policy)
        self.until = 0.0
        """While this lies ahead, the breaker is open."""
        self.is_storm = False
        """Whether forged packets alone could have opened it."""
        self._needed = 0
        """How many of a crowd must be known."""
        self._since = inf
        """When the first failure of all was heard."""
        self._opened_at = 0.0
        self._trusted = 0
        """How many sources were trusted when it was opened, as far as that was counted."""
        self._look_at = 0.0
        self._minute = 0.0
        self._failing: set[int] = set()
        self._believed: set[int] = set()
        """Those of them that were believed."""
        self._known: set[int] = set()
        """Those of them that are known."""
        self._peak = 0
        self._tries = 0
        """Attempts of those in ``_failing`` within this minute."""
        self._usual = 0.0
        """Attempts of one of them within the minute before, on average."""

    def adopt(self, policy: Policy) -> None:
        """Go by these numbers from now on."""
        self._mass, self._storm = policy.mass_failure, policy.storm
        self._sizes = tuple(
            (max(least, ceil(share * self._mass)), seconds, least) for share, seconds, least in CROWDS if self._mass
        )
        self._least = min([size for size, _, _ in self._sizes] + [self._storm or MAX_CROWD])
        self._onsets = deque(self._onsets, maxlen=max(self._mass, self._storm, 1))

    def begin(self, failure: Failure, *, known: int) -> bool:
        """Note that a source that was quiet fails, and how many are trusted; tell whether this opens the breaker."""
        onsets, now = self._onsets, failure.at
        onsets.append(failure)
        self._needed = min(KNOWN, (known + 1) // 2)
        self._since = min(self._since, now)
        if now < self._look_at or len(onsets) < self._least:
            return False
        self._look_at = now + LOOK_PAUSE
        is_mass = (known > 0 or now < self._since + FIRST_TIME) and any(
            self._is_crowd(size, now - seconds, least) for size, seconds, least in self._sizes
        )
        is_storm = not is_mass and self._is_storm(now - MINUTE)
        if not is_mass and not is_storm:
            return False
        is_new = now >= self.until or (self.is_storm and is_mass)
        self.is_storm = is_storm if is_new else self.is_storm and is_storm
        if is_new:
            self._peak, self._usual = 0, 0.0
            self._opened_at, self._trusted = now, known
            self._begin_minute(now)
        self.until = max(self.until, now + LINGER)
        return is_new

    def spares_stranger(self, since: float) -> bool:
        """
        Tell whether a source without trust, known since then, may be one of the phones that fail.

        It may while fewer are trusted than make a mass failure, so that most phones are strangers yet, and if it came
        when the others did.
        """
        return self._trusted < self._mass and since <= self._opened_at + LINGER

    def _is_crowd(self, size: int, begin: float, least: int) -> bool:
        """Tell whether the newest onsets are phones of many people, and not forged packets alone."""
        newest = list(islice(reversed(self._onsets), size))
        if len(newest) < size or newest[-1].at < begin:
            return False
        if sum(each.is_believed for each in newest) < least or sum(each.is_known for each in newest) < self._needed:
            return False
        names = [each.account for each in newest if each.account != UNKNOWN]
        return size - len(names) + len(set(names)) >= OWN_SHARE * size

    def _is_storm(self, begin: float) -> bool:
        newest = list(islice(reversed(self._onsets), self._storm))
        if not self._storm or len(newest) < self._storm or newest[-1].at < begin:
            return False
        return sum(each.is_forgeable for each in newest) >= STORM_SHARE * self._storm

    def begun(self, now: float) -> int:
        """Return how many began to fail within the last minute; more than make a storm are not counted."""
        return sum(each.at >= now - MINUTE for each in self._onsets)

    def go_on(self, key: int, now: float, failure: Failure | None = None) -> None:
        """
        Note that a source fails while the breaker is open; without ``failure`` it is a stranger in a storm.

        It stays open while half of them do. For a mass failure only those count that opened it: nobody keeps one alive
        with forged packets, or with bots when the phones work again.
        """
        failing = self._failing
        if len(failing) < MAX_FAILING or key in failing:
            failing.add(key)
            self._tries += 1
            if failure is not None and failure.is_believed:
                self._believed.add(key)
            if failure is not None and failure.is_known:
                self._known.add(key)
        if now < self._minute + MINUTE:
            return
        self._usual = self._tries / len(failing)
        number = len(failing if self.is_storm else self._believed)
        self._peak = max(self._peak, number)
        has_known = self.is_storm or len(self._known) >= self._needed
        if has_known and number >= max(self._mass, self._peak / 2):
            self.until = now + LINGER
        self._begin_minute(now)

    def learn(self, tries: Sequence[int]) -> None:
        """Take as usual what sources made that were banned before the storm was seen, if they are many of it."""
        if 3 * len(tries) >= self._storm:
            self._usual = sum(tries) / len(tries)

    def _begin_minute(self, now: float) -> None:
        self._minute, self._tries = now, 0
        for crowd in (self._failing, self._believed, self._known):
            crowd.clear()

    @property
    def usual(self) -> float:
        """Return how often a source fails within a minute on average, while the breaker is open."""
        return max(self._usual, self._tries / len(self._failing) if self._failing else 0.0)
