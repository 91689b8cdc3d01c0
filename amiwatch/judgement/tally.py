"""
Sums of attempts, for whoever keeps them: one for each source, account, service, transport and outcome.

Rule 1: a flood of invented accounts or sources must not grow memory: what is beyond the bounds is summed up under the
account ``…``, then only counted.
"""

from __future__ import annotations

from typing import NamedTuple

from amiwatch.judgement.values import TEXT_LIMIT, IPAddress

MAX_SUMS = 20_000
"""Sums kept between two drains (10 MB): a drain comes every few seconds."""

MAX_ACCOUNTS = 50
"""Accounts told apart for one source between two drains."""

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


class Tally:
    """Adds attempts up until somebody drains it."""

    def __init__(self) -> None:
        self.pbx = ""
        """Name of the PBX whose events come in now."""
        self.shed = 0
        """Attempts that were only counted, because too many sums were kept."""
        self._sums: dict[tuple[str, int, str, str, str, str], tuple[IPAddress, int, float, float]] = {}
        self._accounts: dict[int, int] = {}

    def add(
        self, key: int, source: IPAddress, account: str, service: str, transport: str, outcome: str, at: float
    ) -> None:
        """Count one attempt of the source whose ``source_key`` is ``key``."""
        account = account[:TEXT_LIMIT]
        name = (self.pbx, key, account, service, transport, outcome)
        found = self._sums.get(name)
        if found is not None:
            self._sums[name] = (found[0], found[1] + 1, found[2], at)
            return
        told_apart = self._accounts.get(key, 0)
        if told_apart >= MAX_ACCOUNTS and account != OTHERS:
            self.add(key, source, OTHERS, service, transport, outcome, at)
        elif len(self._sums) >= MAX_SUMS:
            self.shed += 1
        else:
            self._accounts[key] = told_apart + 1
            self._sums[name] = (source, 1, at, at)

    def drain(self) -> list[Sum]:
        """Return the sums and begin anew."""
        sums, self._sums, self._accounts = self._sums, {}, {}
        return [
            Sum(source, account, service, transport, outcome, count, first, last, pbx)
            for (pbx, _, account, service, transport, outcome), (source, count, first, last) in sums.items()
        ]
