"""
The ledger: the bans that we want now, whatever the kernel holds.

Rule 1: a ban ends by itself; ``expire`` only tells. No timers.

Rule 2: a million bans must be cheap: single sources are kept as numbers, other networks in a table.

Rule 3: nor may they stop anybody: a dictionary on its way to a million copies itself for 24 ms, so there are several.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from ipaddress import IPv4Network
from math import inf

from amiwatch.judgement.networks import NetworkTable, key_network, source_key
from amiwatch.judgement.values import IPV6_PREFIX, IPAddress, IPNetwork

PART = 170_000
"""Sources in one dictionary: with 174,763 it would copy itself, for 6 ms."""


class Ledger:
    """Networks that are to be dropped, each with its end (seconds since the epoch; infinity for no end)."""

    def __init__(self, part: int = PART) -> None:
        self._part = part
        self._sources: list[dict[int, float]] = [{}]
        """In parts, each source in one of them. Most hosts have one part."""
        self._networks: NetworkTable[float] = NetworkTable()
        self._has_networks = False
        self._ends: list[tuple[float, int, IPNetwork | None]] = []
        """Heap of ends, each with the key of a source or a number and a network. An entry that was lifted or prolonged
        since is skipped when it comes up."""
        self._serial = 0
        self.unproven: set[IPNetwork | int] = set()
        """Those that rest on unproven evidence: keys of sources, or networks."""

    def __len__(self) -> int:
        return sum(map(len, self._sources)) + len(self._networks)

    def __contains__(self, network: IPNetwork) -> bool:
        return self.until(network) is not None

    def put(self, network: IPNetwork, until: float | None, *, is_proven: bool = True) -> None:
        """Want this network dropped until then; None is for ever. A later call replaces an earlier one."""
        key = _single(network)
        if key is not None:
            self.put_source(key, until, is_proven=is_proven)
            return
        (self.unproven.discard if is_proven else self.unproven.add)(network)
        self._networks.put(network, inf if until is None else until)
        self._has_networks = True
        if until is not None:
            self._serial += 1
            heapq.heappush(self._ends, (until, self._serial, network))

    def put_source(self, key: int, until: float | None, *, is_proven: bool = True) -> None:
        """Do the same for one source by its ``source_key``."""
        (self.unproven.discard if is_proven else self.unproven.add)(key)
        self._part_for(key)[key] = inf if until is None else until
        if until is not None:
            heapq.heappush(self._ends, (until, key, None))

    def _part_for(self, key: int) -> dict[int, float]:
        """Return the part that has a source, or one that has room."""
        room = None
        for part in self._sources:
            if key in part:
                return part
            if len(part) < self._part:
                room = part
        if room is None:
            room = {}
            self._sources.append(room)
        return room

    def _end(self, key: int) -> float | None:
        for part in self._sources:
            end = part.get(key)
            if end is not None:
                return end
        return None

    def drop(self, network: IPNetwork) -> bool:
        """Want exactly this network no longer; tell whether it was there."""
        key = _single(network)
        self.unproven.discard(network if key is None else key)
        if key is None:
            found = self._networks.pop(network)
            self._has_networks = bool(self._networks)
            return found is not None
        return any(part.pop(key, None) is not None for part in self._sources)

    def until(self, network: IPNetwork) -> float | None:
        """Return the end of the ban of exactly this network (infinity: none), or None if it is not banned."""
        key = _single(network)
        return self._networks.get(network) if key is None else self._end(key)

    def is_banned(self, key: int, address: IPAddress, now: float) -> bool:
        """Tell whether a source is banned; ``key`` is its ``source_key``. On the hot path."""
        for part in self._sources:
            end = part.get(key)
            if end is not None and end > now:
                return True
        # A narrow ban that ended a moment ago must not hide a wider one.
        return self._has_networks and any(end > now for _, end in self._networks.all_covering(address))

    def covering(self, address: IPAddress, now: float) -> IPNetwork | None:
        """Return the banned network that holds this address, or None."""
        end = self._end(source_key(address))
        if end is not None and end > now:
            return key_network(source_key(address))
        return next((network for network, end in self._networks.all_covering(address) if end > now), None)

    def touching(self, network: IPNetwork) -> list[IPNetwork]:
        """List the banned networks that share an address with this one."""
        found = [other for other, _ in self._networks if other.version == network.version and other.overlaps(network)]
        key = _single(network)
        if key is None and network.version == 6 and network.prefixlen > IPV6_PREFIX:
            key = source_key(network.network_address)
        if key is not None:
            return found if self._end(key) is None else [*found, key_network(key)]
        first, last = sorted((source_key(network.network_address), source_key(network.broadcast_address)))
        return found + [key_network(each) for part in self._sources for each in part if first <= each <= last]

    def expire(self, now: float) -> list[IPNetwork]:
        """Forget the bans that ended and return their networks."""
        ended: list[IPNetwork] = []
        while self._ends and self._ends[0][0] <= now:
            end, key, other = heapq.heappop(self._ends)
            network = other or key_network(key)
            if self.until(network) == end:
                self.drop(network)
                ended.append(network)
        return ended

    def soonest(self, version: int) -> IPNetwork | None:
        """Return the network of this family whose ban ends first: what a full set gives up."""
        others = []
        found = None
        while self._ends and found is None:
            end, key, other = entry = heapq.heappop(self._ends)
            network = other or key_network(key)
            if self.until(network) != end:
                continue  # lifted or prolonged since
            others.append(entry)
            if network.version == version:
                found = network
        for entry in others:
            heapq.heappush(self._ends, entry)
        return found

    def wanted(self, now: float) -> Iterator[tuple[IPNetwork, float | None]]:
        """
        List what is to be in the kernel, with the seconds left; None has no end.

        Bans may come and go while somebody walks the list.
        """
        for part in list(self._sources):
            for key in list(part):
                end = part.get(key) or self._end(key)
                if end is not None and end > now:
                    yield key_network(key), None if end == inf else end - now
        for network, end in list(self._networks):
            if end > now:
                yield network, None if end == inf else end - now


def _single(network: IPNetwork) -> int | None:
    """Return the source key of a network that is just one source, else None."""
    width = 32 if type(network) is IPv4Network else IPV6_PREFIX
    return source_key(network.network_address) if network.prefixlen == width else None
