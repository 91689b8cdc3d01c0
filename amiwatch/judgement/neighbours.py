"""
Bad neighbourhoods: a /24 with several banned addresses makes its others suspect sooner.

Rule 1: nobody is banned for his neighbours alone, and the /24 itself never is; only the limits of enumerations are
halved, and those of a trusted source are not. Bans that forged packets could have brought about halve only what needs
no proof: a stranger may not lower the limits of an office that nobody can forge.

Rule 2: memory is bounded: the networks, and the addresses kept of each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf

MAX_HOSTS = 8
"""Banned addresses kept of one /24."""

MAX_NETWORKS = 10_000
"""Networks kept (5 MB), those with the newest bans."""


class Neighbours:
    """Which IPv4 addresses of each /24 are banned. Sources are ``source_key`` numbers."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._networks: OrderedDict[int, _Network] = OrderedDict()
        """By their /24."""

    def __len__(self) -> int:
        return len(self._networks)

    def adopt(self, limit: int) -> None:
        """Call a /24 bad from so many banned addresses on, up to ``MAX_HOSTS``; 0 for never."""
        if limit != self._limit:
            self._limit = limit
            for network in self._networks.values():
                network.reckon(limit)

    def note(self, key: int, until: float, *, is_proven: bool) -> None:
        """Note a ban by a rule and its end; IPv6 sources, which are networks themselves, are passed over."""
        if not 0 <= key < 2**32:
            return
        network = self._networks.get(key >> 8)
        if network is None:
            network = self._networks[key >> 8] = _Network()
        else:
            self._networks.move_to_end(key >> 8)
        hosts = network.hosts
        hosts.pop(key, None)
        hosts[key] = until, is_proven
        if len(hosts) > MAX_HOSTS:
            del hosts[next(iter(hosts))]
        network.reckon(self._limit)
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)

    def forget(self, key: int) -> None:
        """Note that a ban was lifted."""
        network = self._networks.get(key >> 8)
        if network is not None and network.hosts.pop(key, None) is not None:
            network.reckon(self._limit)

    def are_bad(self, key: int, now: float, *, is_proven: bool) -> bool:
        """Tell whether the /24 of this source is bad, for evidence that is proven or not. On the hot path."""
        network = self._networks.get(key >> 8)
        if network is None:
            return False
        return now < (network.surely_bad_until if is_proven else network.bad_until)

    def count(self, key: int, now: float) -> int:
        """Return how many addresses of this source's /24 are banned; more than ``MAX_HOSTS`` are not counted."""
        network = self._networks.get(key >> 8)
        return 0 if network is None else sum(until > now for until, _ in network.hosts.values())


class _Network:
    """One /24, and until when it is bad."""

    __slots__ = ("bad_until", "hosts", "surely_bad_until")

    def __init__(self) -> None:
        self.hosts: dict[int, tuple[float, bool]] = {}
        """Its banned addresses → when each ban ends, and whether it is proven."""
        self.bad_until = self.surely_bad_until = -inf

    def reckon(self, limit: int) -> None:
        """Find out anew until when so many of its addresses are banned: asked far more often than it changes."""
        ends = sorted(self.hosts.values(), reverse=True) if limit <= len(self.hosts) else []
        self.bad_until = _until(limit, [until for until, _ in ends])
        self.surely_bad_until = _until(limit, [until for until, is_proven in ends if is_proven])


def _until(limit: int, ends: Sequence[float]) -> float:
    return ends[limit - 1] if 0 < limit <= len(ends) else -inf
