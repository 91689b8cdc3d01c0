"""A firewall for tests, with knobs for what goes wrong with a real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from amiwatch.errors import FirewallError
from amiwatch.firewall.base import DEFAULT_CAPACITY, Entry, SetState
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.judgement.values import IPNetwork


class FakeFirewall(DryRunFirewall):
    """
    Passes the contract of every firewall, and misbehaves when told to.

    ``capacity`` is the room of each family's set and may be changed at any time. ``now`` is the clock under it, for
    example a ``Clock`` of this kit.
    """

    name = "fake"

    def __init__(self, capacity: int = DEFAULT_CAPACITY, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(capacity, now=self._turned)
        self._clock = now
        self._ahead = 0.0
        self._failures: list[FirewallError] = []

    def fail_next(self, error: FirewallError, times: int = 1) -> None:
        """Raise this from the next call, or the next ``times`` calls, of any method but ``close``."""
        self._failures += [error] * times

    def advance(self, seconds: float) -> None:
        """Let time pass for the entries."""
        self._ahead += seconds

    def flush(self) -> None:
        """Empty the sets, as somebody with ``ipset flush`` would."""
        for ends in self._ends.values():
            ends.clear()

    def destroy(self) -> None:
        """Take the sets away, as somebody with ``ipset destroy`` would."""
        self._ends.clear()

    async def open(self) -> None:
        self._stumble()
        await super().open()

    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        self._stumble()
        return await super().add(entries)

    async def remove(self, networks: Iterable[IPNetwork]) -> None:
        self._stumble()
        await super().remove(networks)

    async def clear(self) -> None:
        self._stumble()
        await super().clear()

    async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
        self._stumble()
        await super().walk(take)

    async def has(self, network: IPNetwork) -> bool:
        self._stumble()
        return await super().has(network)

    async def states(self) -> list[SetState]:
        self._stumble()
        return await super().states()

    def _stumble(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    def _turned(self) -> float:
        return self._clock() + self._ahead
