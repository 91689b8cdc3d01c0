"""A firewall that drops nothing: it keeps what it was told, as a kernel set would, and says so."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from amiwatch.errors import FirewallError
from amiwatch.firewall.base import DEFAULT_CAPACITY, MAX_TIMEOUT, Entry, SetState
from amiwatch.judgement.values import IPNetwork

log = logging.getLogger(__name__)


class DryRunFirewall:
    """
    In-memory sets with time-outs and a capacity for each family. See ``Firewall`` for the methods.

    ``now`` gives seconds that only grow. Nothing counts packets; ``references`` is 0, for no rule uses the sets.
    """

    name = "none"

    def __init__(self, capacity: int = DEFAULT_CAPACITY, now: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._now = now
        self._ends: dict[int, dict[IPNetwork, float]] = {}
        """For each set that exists: network to the instant at which it falls out."""

    async def open(self) -> None:
        for family in (4, 6):
            self._ends.setdefault(family, {})

    async def close(self) -> None:
        pass

    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        for entry in entries:
            if not entry.network.prefixlen:
                raise FirewallError(f"{entry.network} is every address there is: it can't be banned.")
        taken: list[Entry] = []
        rejected: list[Entry] = []
        for entry in entries:
            (taken if self._put(entry) else rejected).append(entry)
        if taken:
            log.info("would drop networks=%d first=%s", len(taken), taken[0].network)
        return rejected

    def add_now(self, entry: Entry) -> bool:
        return False

    async def remove(self, networks: Iterable[IPNetwork]) -> None:
        gone = [network for network in networks if self._ends.get(network.version, {}).pop(network, None) is not None]
        if gone:
            log.info("would no longer drop networks=%d first=%s", len(gone), gone[0])

    async def clear(self) -> None:
        for ends in self._ends.values():
            ends.clear()
        log.info("would drop nothing any more")

    async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
        now = self._now()
        for family in self._ends:
            take([Entry(network, _left(end - now)) for network, end in self._alive(family).items()])

    async def entries(self) -> list[Entry]:
        found: list[Entry] = []
        await self.walk(found.extend)
        return found

    async def has(self, network: IPNetwork) -> bool:
        return network in self._alive(network.version)

    async def entry(self, network: IPNetwork) -> Entry | None:
        return next((one for one in await self.entries() if one.network == network), None)

    async def states(self) -> list[SetState]:
        return [
            SetState(
                f"{self.name}{family}", family, count=len(self._alive(family)), capacity=self.capacity, references=0
            )
            for family in self._ends
        ]

    def _put(self, entry: Entry) -> bool:
        ends = self._ends.setdefault(entry.network.version, {})
        if entry.network not in ends and len(ends) >= self.capacity:
            ends = self._alive(entry.network.version)
            if len(ends) >= self.capacity:
                return False
        seconds = math.inf if entry.seconds is None else max(1, min(entry.seconds, MAX_TIMEOUT))
        ends[entry.network] = self._now() + seconds
        return True

    def _alive(self, family: int) -> dict[IPNetwork, float]:
        """Forget what ran out, as the kernel does by itself."""
        ends = self._ends.get(family, {})
        now = self._now()
        for network in [network for network, end in ends.items() if end <= now]:
            del ends[network]
        return ends


def _left(seconds: float) -> int | None:
    return None if math.isinf(seconds) else math.ceil(seconds)
