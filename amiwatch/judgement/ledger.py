"""
The ledger: the bans that we want now, whatever the kernel holds.

Rule 1: a ban ends by itself; ``expire`` only tells. No timers.

Rule 2: a million bans must be cheap: single sources are kept as numbers, other networks in a table.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from ipaddress import IPv4Network
from math import inf

from amiwatch.judgement.networks import NetworkTable, key_network, source_key
from amiwatch.judgement.values import IPV6_PREFIX, IPAddress, IPNetwork


class Ledger:
    """Networks that are to be dropped, each with its end (seconds since the epoch; infinity for no end)."""

    def __init__(self) -> None:
        self._sources: dict[int, float] = {}
        self._networks: NetworkTable[float] = NetworkTable()
        self._ends: list[tuple[float, int, IPNetwork | None]] = []
        """Heap of ends, each with the key of a source or a number and a network. An entry that was lifted or prolonged
        since is skipped when it comes up."""
        self._serial = 0
        self.unproven: set[IPNetwork | int] = set()
        """Those that rest on unproven evidence: keys of sources, or networks."""

    def __len__(self) -> int:
        return len(self._sources) + len(self._networks)

    def __contains__(self, network: IPNetwork) -> bool:
        return self.until(network) is not None

    def put(self, network: IPNetwork, until: float | None, *, is_proven: bool = True) -> None:
        """Want this network dropped until then; None is for ever. A later call replaces an earlier one."""
        end = inf if until is None else until
        key = _single(network)
        (self.unproven.discard if is_proven else self.unproven.add)(network if key is None else key)
        if key is None:
            self._networks.put(network, end)
        else:
            self._sources[key] = end
        if end < inf:
            self._serial += 1
            heapq.heappush(self._ends, (end, self._serial, network) if key is None else (end, key, None))

    def drop(self, network: IPNetwork) -> bool:
        """Want exactly this network no longer; tell whether it was there."""
        key = _single(network)
        self.unproven.discard(network if key is None else key)
        if key is None:
            return self._networks.pop(network) is not None
        return self._sources.pop(key, None) is not None

    def until(self, network: IPNetwork) -> float | None:
        """Return the end of the ban of exactly this network (infinity: none), or None if it is not banned."""
        key = _single(network)
        if key is not None:
            return self._sources.get(key)
        return self._networks.get(network)

    def is_banned(self, key: int, address: IPAddress, now: float) -> bool:
        """Tell whether a source is banned; ``key`` is its ``source_key``. On the hot path."""
        end = self._sources.get(key)
        if end is not None and end > now:
            return True
        # A narrow ban that ended a moment ago must not hide a wider one.
        return bool(self._networks) and any(end > now for _, end in self._networks.all_covering(address))

    def covering(self, address: IPAddress, now: float) -> IPNetwork | None:
        """Return the banned network that holds this address, or None."""
        end = self._sources.get(source_key(address))
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
            return [*found, key_network(key)] if key in self._sources else found
        first, last = sorted((source_key(network.network_address), source_key(network.broadcast_address)))
        return found + [key_network(each) for each in self._sources if first <= each <= last]

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
        for key in list(self._sources):
            end = self._sources.get(key, 0.0)
            if end > now:
                yield key_network(key), None if end == inf else end - now
        for network, end in list(self._networks):
            if end > now:
                yield network, None if end == inf else end - now


def _single(network: IPNetwork) -> int | None:
    """Return the source key of a network that is just one source, else None."""
    width = 32 if type(network) is IPv4Network else IPV6_PREFIX
    return source_key(network.network_address) if network.prefixlen == width else None
