"""
Sums of attempts, for whoever keeps them: one for each source, account, service, transport and outcome.

Rule 1: a flood of invented accounts or sources must not grow memory: what is beyond the bounds is summed up under the
account ``…``, then only counted.

Rule 2: what is kept is enough to judge the same attempts again (``history.py``): when each was, and how many of them
were answered with a password.
"""

from __future__ import annotations

from amiwatch.judgement.values import TEXT_LIMIT, IPAddress

MAX_SUMS = 20_000
"""Sums kept between two drains (10 MB): a drain comes every few seconds."""

MAX_ACCOUNTS = 50
"""Accounts told apart for one source between two drains."""

MAX_TIMES = 100
"""Attempts of one sum whose times are kept between two drains: as many as the judge remembers of a source."""

OTHERS = "…"
"""The account that stands for all further ones."""


class Sum:
    """So many attempts that look alike; instants as in ``values``. It grows until it is drained, and never after."""

    __slots__ = (
        "_times",
        "account",
        "answers",
        "attempts",
        "first_at",
        "last_at",
        "outcome",
        "pbx",
        "service",
        "source",
        "transport",
    )

    def __init__(
        self, pbx: str, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> None:
        self.pbx = pbx
        self.source = source
        self.account = account
        self.service = service
        self.transport = transport
        self.outcome = outcome
        self.attempts = 0
        self.first_at = self.last_at = at
        self._times: tuple[float, ...] = ()  # mostly empty: a list each would be a burden to the garbage collector
        self.answers = 0
        """How many of them were answered with a password later."""

    @property
    def times(self) -> tuple[float, ...]:
        """When the first ``MAX_TIMES`` of them were."""
        return self._times or ((self.first_at,) if self.attempts else ())

    def add(self, at: float) -> None:
        """Count one more attempt."""
        if not self.attempts and at == self.first_at:
            self.attempts = 1  # as nearly all are; it began with this one
            return
        if len(times := self.times) < MAX_TIMES:
            self._times = (*times, at)
        self.attempts += 1
        if at > self.last_at:
            self.last_at = at
        elif at < self.first_at:
            self.first_at = at


class Tally:
    """Adds attempts up until somebody drains it."""

    def __init__(self) -> None:
        self.pbx = ""
        """Name of the PBX whose events come in now."""
        self.shed = 0
        """Attempts that were only counted, because too many sums were kept."""
        self._sums: dict[tuple[str, int, str, str, str, str], Sum] = {}
        self._accounts: dict[int, int] = {}

    def add(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> None:
        """Count one attempt of the source whose ``source_key`` is ``key``."""
        found = self._sum(key, source, account[:TEXT_LIMIT], service, transport, outcome, at)
        if found is None:
            self.shed += 1
            return
        found.add(at)

    def answer(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> None:
        """Note that an attempt counted before was answered with a password."""
        found = self._sum(key, source, account[:TEXT_LIMIT], service, transport, outcome, at)
        if found is not None:
            found.answers += 1

    def _sum(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> Sum | None:
        """Return the sum of what looks like this; None if there is no room for one more."""
        name = (self.pbx, key, account, service, transport, outcome)
        found = self._sums.get(name)
        if found is not None:
            return found
        told_apart = self._accounts.get(key, 0)
        if told_apart >= MAX_ACCOUNTS and account != OTHERS:
            return self._sum(key, source, OTHERS, service, transport, outcome, at)
        if len(self._sums) >= MAX_SUMS:
            return None
        self._accounts[key] = told_apart + 1
        made = self._sums[name] = Sum(self.pbx, source, account, service, transport, outcome, at)
        return made

    def drain(self) -> list[Sum]:
        """Return the sums and begin anew."""
        sums, self._sums, self._accounts = self._sums, {}, {}
        return list(sums.values())
