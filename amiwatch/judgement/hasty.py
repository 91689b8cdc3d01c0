"""
Bans that may turn out to be hasty: given in the moments before it shows that everybody fails.

Rule 1: memory is bounded: bans are kept for a minute, and the newest ``MAX_HASTY`` only.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from amiwatch.judgement.crowds import QUIET
from amiwatch.judgement.rules import MINUTE, Measure, Rule
from amiwatch.judgement.sources import Source
from amiwatch.judgement.values import Ban

LIFT_TIME = MINUTE
"""How long before the crowd was seen a source may have begun to fail, in seconds: crowds are looked for as far back."""

MAX_HASTY = 256
"""Bans kept to be lifted; each keeps its source, some kB."""


class Hasty(NamedTuple):
    """A ban, with what was known of its source."""

    ban: Ban
    key: int
    source: Source
    rule: Rule
    is_trusted: bool


class HastyBans:
    """The bans of the last minute."""

    def __init__(self) -> None:
        self._bans: deque[Hasty] = deque(maxlen=MAX_HASTY)

    def __len__(self) -> int:
        return len(self._bans)

    def note(self, hasty: Hasty) -> None:
        """Keep one that was given just now, and forget those of older times."""
        self._bans.append(hasty)
        while self._bans[0].ban.at < hasty.ban.at - LIFT_TIME:
            self._bans.popleft()

    def take(self, now: float) -> list[Hasty]:
        """Return those whose sources began to fail within ``LIFT_TIME`` after they were quiet, and forget all."""
        bans, self._bans = self._bans, deque(maxlen=MAX_HASTY)
        begin = now - LIFT_TIME
        return [hasty for hasty in bans if hasty.ban.at >= begin and _was_quiet(hasty.source, begin)]


def _was_quiet(source: Source, begin: float) -> bool:
    times = source.times[Measure.ATTEMPTS] or []
    return not any(begin - QUIET <= at < begin for at in times)
