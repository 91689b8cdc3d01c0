"""
What the kernel's counters say of each ban, for the store: who has no rights over the kernel sees it there.

Rule 1: listing costs; it takes at most a hundredth of the time, however large the sets are.

Rule 2: the store sums up (migrations/0006). What is told twice changes nothing there, so nothing is remembered for it
over a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import nlargest
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

MANY = 5_000
"""Entries that are gone through in the event loop: some 2 ms."""

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
        begin = perf_counter()
        try:
            changed = await self._changed()
        except FirewallError:
            return  # said by the enforcer, which looks more often
        # In a thread where there are many, so that the event loop never waits for it.
        news = self._newest(changed) if len(changed) < MANY else await asyncio.to_thread(self._newest, changed)
        self._told.update((entry.network, entry.packets) for entry in news)
        for entry in news:
            store.put_counters(entry.network, packets=entry.packets, octets=entry.octets, at=at)
        self.pause = max(COUNT_TIME, COUNT_SHARE * (perf_counter() - begin))

    async def _changed(self) -> list[Entry]:
        """Return the entries with other counters than the store was told; forget those that are gone."""
        changed: list[Entry] = []
        seen: set[IPNetwork] = set()

        def compare(entries: Sequence[Entry]) -> None:
            for entry in entries:
                before = self._told.get(entry.network, 0)
                if before:
                    seen.add(entry.network)
                if entry.packets != before:
                    changed.append(entry)

        await self._firewall.walk(compare)
        for network in self._told.keys() - seen:
            del self._told[network]
        return changed

    def _newest(self, changed: Sequence[Entry]) -> list[Entry]:
        """Return the counters that the store is to be told of now."""
        return nlargest(COUNT_ROWS, changed, key=lambda entry: abs(entry.packets - self._told.get(entry.network, 0)))
