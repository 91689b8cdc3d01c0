"""
Passwords that somebody seems to have found: he guessed first, and then he logs in.

Rule 1: each of them is an alarm. How sure it is shows in its words: a phone whose password was corrected does the same,
over UDP the guesses may be a stranger's, and where many addresses guess, one that did not before may have it right.

Rule 2: whoever is so called earns no trust. Where it may be a victim, that ends after ``PROBATION``, whatever is forged
in its name meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from amiwatch.judgement.rules import DAY
from amiwatch.judgement.values import TEXT_LIMIT

PROBATION = DAY
"""How long a login after guesses that may be a phone's, or forged, earns no trust, in seconds: time for somebody who
heard the alarm to look, and short for a phone that is a victim."""

MAX_FINDS = 10_000
"""Sources and accounts for which that is remembered (2 MB); each of them has logged in, which nobody can forge."""


class Found(NamedTuple):
    """What was guessed before a login."""

    tried: int
    """Wrong passwords for the very account."""
    accounts: int
    """Accounts at which the source guessed."""
    is_phone: bool
    """Whether it failed at the steady pace of a phone."""
    is_proven: bool
    """Whether enough of it is no packets that a stranger may have forged."""
    addresses: int = 0
    """From how many addresses the account was guessed at, if that is all that speaks against this one."""


class Finds:
    """Who logged in after guesses, and since when."""

    def __init__(self) -> None:
        self._since: OrderedDict[tuple[int, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._since)

    def is_over(self, key: int, account: str, found: Found, now: float) -> bool:
        """Note that a source logs in after guesses; tell whether it has done so for long enough to earn trust."""
        name = (key, account[:TEXT_LIMIT])
        since = self._since.setdefault(name, now)
        if len(self._since) > MAX_FINDS:
            self._since.popitem(last=False)
        if (found.is_proven and not found.is_phone) or now < since + PROBATION:
            return False
        del self._since[name]
        return True
