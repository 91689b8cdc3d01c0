"""
Attempts in plain words: what belongs together is one visit.

Rule: accounts were chosen by whoever sent them, and are written with ``repr``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from amiwatch.cli.text import counted
from amiwatch.judgement.history import PastAttempt
from amiwatch.judgement.reasons import duration
from amiwatch.judgement.rules import HOUR
from amiwatch.judgement.trouble import is_steady
from amiwatch.judgement.values import UNKNOWN

PAUSE = HOUR
"""Seconds without an attempt after which another visit begins."""

COARSER = 4
"""How many times longer this pause gets while there are too many visits to be read."""

NAMES_SHOWN = 5
"""Accounts named of one visit."""

NAME_LIMIT = 40
"""Characters shown of an account."""

PACE_SAMPLES = 5
"""Attempts from which on their pace is told."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Attempts of one source, or one network, with no long pause between them; not empty, the oldest first."""

    attempts: Sequence[PastAttempt]

    @property
    def begin(self) -> float:
        return self.attempts[0].at

    @property
    def end(self) -> float:
        return self.attempts[-1].at

    def words(self) -> str:
        """Say what came, as in ``9 accounts that don't exist ('0', '1' …), in 8 s, over UDP``."""
        took = f", in {duration(max(1.0, self.end - self.begin))}" if len(self.attempts) > 1 else ""
        how = f"{took}{self._pace()}{_over(self.attempts)}"
        phrases = outcome_words(self.attempts)
        if len(phrases) == 1:
            return phrases[0] + how
        return f"{counted(len(self.attempts), 'attempt')}{how}: {'; '.join(phrases)}"

    def _pace(self) -> str:
        times = [one.at for one in self.attempts]
        if len(times) < PACE_SAMPLES or not is_steady(times, pause=2.0):
            return ""
        return f", one every {duration(median(later - earlier for earlier, later in pairwise(times)))}"


def visits(attempts: Iterable[PastAttempt], most: int) -> list[Visit]:
    """Split attempts where a long pause is: an hour, or more where that would make more than ``most`` visits."""
    found = list(attempts)
    pause = float(PAUSE)
    parts = _split(found, pause)
    while len(parts) > most:
        pause *= COARSER
        parts = _split(found, pause)
    return parts


def _split(attempts: Sequence[PastAttempt], pause: float) -> list[Visit]:
    cuts = [n for n, (before, after) in enumerate(pairwise(attempts), start=1) if after.at > before.at + pause]
    bounds = [0, *cuts, len(attempts)]
    return [Visit(attempts[begin:end]) for begin, end in pairwise(bounds) if end > begin]


def outcome_words(attempts: Sequence[PastAttempt]) -> list[str]:
    """Say what became of attempts, one phrase for each outcome, the most frequent first."""
    return [
        _phrase(outcome, [one for one in attempts if one.outcome == outcome])
        for outcome, _ in Counter(one.outcome for one in attempts).most_common()
    ]


def _phrase(outcome: str, attempts: Sequence[PastAttempt]) -> str:
    accounts = list(dict.fromkeys(one.account for one in attempts))
    number, named = len(attempts), names(accounts)
    if outcome == "success":
        manager = " to the manager" if attempts[0].service == "AMI" else ""
        return f"{counted(number, 'login')}{manager} with the right password as {named}"
    if outcome == "guess":
        exist = (
            f"the account {named}, which exists"
            if len(accounts) == 1
            else f"{len(accounts)} accounts that exist ({named})"
        )
        return f"{counted(number, 'wrong password')} for {exist}"
    if outcome == "unknown":
        return _unknown(accounts, attempts)
    if outcome == "refused":
        return f"{number} refused by the ACL of {named}"
    if outcome == "unanswered" and accounts != [UNKNOWN]:
        return f"{counted(number, 'request')} as {named}, whose challenge nobody answered"
    if outcome == "unanswered":
        return f"{counted(number, 'request')} that matched no account, and whose challenge nobody answered"
    if outcome == "ami":
        return f"{counted(number, 'failed login')} to the manager as {named}"
    return f"{number} {outcome} as {named}"


def _unknown(accounts: Sequence[str], attempts: Sequence[PastAttempt]) -> str:
    number, answered = len(attempts), sum(one.is_answered for one in attempts)
    times = "" if number == len(accounts) else f", {number} times" if len(accounts) == 1 else f", in {number} attempts"
    password = "" if not answered else ", with a password" if answered == number else f", {answered} with a password"
    if len(accounts) == 1:
        return f"the account {names(accounts)}, which doesn't exist{times}{password}"
    return f"{len(accounts)} accounts that don't exist{times} ({names(accounts)}){password}"


def names(accounts: Sequence[str]) -> str:
    """Name some accounts, so that none can forge a sentence or colour a terminal."""
    more = f" and {len(accounts) - NAMES_SHOWN} more" if len(accounts) > NAMES_SHOWN else ""
    return ", ".join(repr(name[:NAME_LIMIT]) for name in accounts[:NAMES_SHOWN]) + more


def _over(attempts: Sequence[PastAttempt]) -> str:
    transports = dict.fromkeys(one.transport for one in attempts if one.transport)
    old = " (chan_sip)" if all(one.service == "SIP" for one in attempts) else ""
    return f", over {' and '.join(transports)}{old}" if transports else old
