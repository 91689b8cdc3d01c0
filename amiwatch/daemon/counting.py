"""
What the kernel's counters say of each ban, for the store: who has no rights over the kernel sees it there.

Rule 1: listing costs; it takes at most a hundredth of the time, however large the sets are.

Rule 2: the store sums up (migrations/0006). What is told twice changes nothing there, so nothing is remembered for it
over a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from itertools import islice
from time import perf_counter

from amiwatch.errors import FirewallError
from amiwatch.firewall.base import Entry, Firewall
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.writer import Store

COUNT_TIME = 5.0
"""Seconds between two looks at the counters, while that costs little: a person waits for figures."""

COUNT_SHARE = 100
"""A look comes at the earliest after so many times as long as the last one took: at 100,000 bans, some 30 s."""

COUNT_ROWS = 2_000
"""Counters told to the store after one look, those first that grew most; the others have their turn at the next."""

CROWDED = 10_000
"""Rows that wait for the disk from which on counters are not told: they may be told later."""


class Counting:
    """Looks at the counters now and then, and tells the store of those that changed."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self._told: dict[IPNetwork, int] = {}
        """Packets that the store was told of, for networks in the kernel that dropped any."""
        self.pause = COUNT_TIME
        """Seconds until the next look."""

    def begin(self, network: IPNetwork) -> None:
        """Note that this network's counter begins anew, with a new ban."""
        self._told.pop(network, None)

    def begin_all(self) -> None:
        """Note that the store knows nothing any more: it is another one."""
        self._told.clear()

    async def look(self, store: Store, at: float) -> None:
        """Tell the store what changed; ``at`` is the time in UTC. Where the kernel or the disk is busy, later."""
        if self._firewall.name == "none" or not store.is_working or store.waiting > CROWDED:
            return
        begin, counted = perf_counter(), list[Entry]()
        try:
            await self._firewall.walk(lambda piece: counted.extend(entry for entry in piece if entry.packets))
        except FirewallError:
            return  # said by the enforcer, which looks more often
        for network, packets, octets in self._news(counted):
            store.put_counters(network, packets=packets, octets=octets, at=at)
        self.pause = max(COUNT_TIME, COUNT_SHARE * (perf_counter() - begin))

    def _news(self, counted: Sequence[Entry]) -> list[tuple[IPNetwork, int, int]]:
        """Return the counters that the store is to be told of, and remember that it was."""
        gone = self._told.keys() - {entry.network for entry in counted}
        # Removed, or at 0 after a flush: it will begin anew.
        news = [(network, 0, 0) for network in islice(gone, COUNT_ROWS)]
        changed = [entry for entry in counted if entry.packets != self._told.get(entry.network)]
        most = nlargest(COUNT_ROWS - len(news), changed, key=self._growth)
        news += [(entry.network, entry.packets, entry.octets) for entry in most]
        for network, packets, _ in news:
            if packets:
                self._told[network] = packets
            else:
                del self._told[network]
        return news

    def _growth(self, entry: Entry) -> int:
        return abs(entry.packets - self._told.get(entry.network, 0))
