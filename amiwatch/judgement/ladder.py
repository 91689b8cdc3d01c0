"""
The ban ladder: how long an offender stays out.

Rule 1: each offence climbs one rung; each quiet ``decay`` goes one down.

Rule 2: there is one memory and two ladders: a ban on unproven evidence is shorter on the same rung.
"""

from __future__ import annotations

from collections import OrderedDict
from random import Random

from amiwatch.judgement.rules import Policy


class Ladder:
    """The memory of old offences. Sources are ``source_key`` numbers."""

    def __init__(self, policy: Policy, random: Random) -> None:
        self.policy = policy
        self._random = random
        self._offenders: OrderedDict[int, tuple[int, float]] = OrderedDict()
        """Source → its rung and when the last ban ended (or was made), oldest first."""

    def __len__(self) -> int:
        return len(self._offenders)

    def level(self, key: int, now: float) -> int:
        """Return the rung on which a source stands now; 0 for one without offences."""
        level, last = self._offenders.get(key, (0, now))
        return max(0, level - int(max(0.0, now - last) // self.policy.decay))

    def climb(self, key: int, now: float, *, is_proven: bool = True) -> tuple[int, int]:
        """Put a source one rung up; return the rung and the seconds of its ban."""
        ladder, unproven = self.policy.ladder, self.policy.unproven_ladder
        level = min(self.level(key, now) + 1, max(len(ladder), len(unproven)))
        seconds = _rung(ladder, level) if is_proven else min(_rung(ladder, level), _rung(unproven, level))
        jitter = self.policy.jitter
        seconds = max(1, round(seconds * self._random.uniform(1 - jitter, 1 + jitter)))
        self.remember(key, level, now + seconds)
        return level, seconds

    def remember(self, key: int, level: int, last: float) -> None:
        """Put a source on a rung, as it was found in the store."""
        self._offenders.pop(key, None)
        self._offenders[key] = (level, last)
        if len(self._offenders) > self.policy.max_offenders:
            self._offenders.popitem(last=False)

    def forget(self, key: int) -> None:
        """Forget the offences of a source (an unban: somebody decided that it was none)."""
        self._offenders.pop(key, None)


def _rung(ladder: tuple[int, ...], level: int) -> int:
    return ladder[min(level, len(ladder)) - 1]
