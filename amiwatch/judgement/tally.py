"""
Sums of attempts, for whoever keeps them: one for each source, account, service, transport and outcome.

Rule 1: a flood of invented accounts or sources must not grow memory: what is beyond the bounds is summed up under the
account ``…``, then only counted.

Rule 2: what is kept is enough to judge the same attempts again (``history.py``): when each was, and how many of them
were answered with a password.
"""

from __future__ import annotations

from typing import NamedTuple

from amiwatch.judgement.values import TEXT_LIMIT, IPAddress

MAX_SUMS = 20_000
"""Sums kept between two drains (10 MB): a drain comes every few seconds."""

MAX_ACCOUNTS = 50
"""Accounts told apart for one source between two drains."""

MAX_TIMES = 100
"""Attempts of one sum whose times are kept between two drains: as many as the judge remembers of a source."""

OTHERS = "…"
"""The account that stands for all further ones."""


class Sum(NamedTuple):
    """So many attempts that look alike; instants as in ``values``."""

    source: IPAddress
    account: str
    service: str
    transport: str
    outcome: str
    attempts: int
    first_at: float
    last_at: float
    pbx: str
    times: list[float]
    """When the first ``MAX_TIMES`` of them were."""
    answers: int
    """How many of them were answered with a password later."""


class _Running:
    """One sum that still grows."""

    __slots__ = ("answers", "attempts", "last_at", "source", "times")

    def __init__(self, source: IPAddress, at: float) -> None:
        self.source = source
        self.attempts = 0
        self.last_at = at
        self.times: list[float] = []
        self.answers = 0


class Tally:
    """Adds attempts up until somebody drains it."""

    def __init__(self) -> None:
        self.pbx = ""
        """Name of the PBX whose events come in now."""
        self.shed = 0
        """Attempts that were only counted, because too many sums were kept."""
        self._sums: dict[tuple[str, int, str, str, str, str], _Running] = {}
        self._accounts: dict[int, int] = {}

    def add(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> None:
        """Count one attempt of the source whose ``source_key`` is ``key``."""
        running = self._running(key, source, account[:TEXT_LIMIT], service, transport, outcome, at)
        if running is None:
            self.shed += 1
            return
        running.attempts += 1
        running.last_at = max(running.last_at, at)
        if len(running.times) < MAX_TIMES:
            running.times.append(at)

    def answer(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> None:
        """Note that an attempt counted before was answered with a password."""
        running = self._running(key, source, account[:TEXT_LIMIT], service, transport, outcome, at)
        if running is not None:
            running.answers += 1

    def _running(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> _Running | None:
        """Return the sum of what looks like this; None if there is no room for one more."""
        name = (self.pbx, key, account, service, transport, outcome)
        found = self._sums.get(name)
        if found is not None:
            return found
        told_apart = self._accounts.get(key, 0)
        if told_apart >= MAX_ACCOUNTS and account != OTHERS:
            return self._running(key, source, OTHERS, service, transport, outcome, at)
        if len(self._sums) >= MAX_SUMS:
            return None
        self._accounts[key] = told_apart + 1
        made = self._sums[name] = _Running(source, at)
        return made

    def drain(self) -> list[Sum]:
        """Return the sums and begin anew."""
        sums, self._sums, self._accounts = self._sums, {}, {}
        return [
            Sum(
                one.source,
                account,
                service,
                transport,
                outcome,
                one.attempts,
                min(one.times, default=one.last_at),
                one.last_at,
                pbx,
                one.times,
                one.answers,
            )
            for (pbx, _, account, service, transport, outcome), one in sums.items()
        ]
