"""
Bad neighbourhoods: a /24 with several banned addresses makes its others suspect sooner.

Rule 1: nobody is banned for his neighbours alone, and the /24 itself never is; only the limits of enumerations are
halved, and those of a trusted source are not.

Rule 2: memory is bounded: the networks, and the addresses kept of each.
"""

from __future__ import annotations

from collections import OrderedDict

NEIGHBOURS = 3
"""Banned addresses of a /24 from which on it is a bad one: in a network that is let to customers one by one, two of
them may be infected by chance."""

MAX_HOSTS = 8
"""Banned addresses kept of one /24."""

MAX_NETWORKS = 10_000
"""Networks kept (5 MB), those with the newest bans."""


class Neighbours:
    """Which IPv4 addresses of each /24 are banned. Sources are ``source_key`` numbers."""

    def __init__(self) -> None:
        self._networks: OrderedDict[int, dict[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._networks)

    def note(self, key: int, until: float) -> None:
        """Note a ban by a rule and its end; IPv6 sources, which are networks themselves, are passed over."""
        if not 0 <= key < 2**32:
            return
        hosts = self._networks.setdefault(key >> 8, {})
        self._networks.move_to_end(key >> 8)
        hosts.pop(key, None)
        hosts[key] = until
        if len(hosts) > MAX_HOSTS:
            del hosts[next(iter(hosts))]
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)

    def forget(self, key: int) -> None:
        """Note that a ban was lifted."""
        self._networks.get(key >> 8, {}).pop(key, None)

    def are_bad(self, key: int, now: float) -> bool:
        """Tell whether the /24 of this source has several banned addresses. On the hot path."""
        return key >> 8 in self._networks and self.count(key, now) >= NEIGHBOURS

    def count(self, key: int, now: float) -> int:
        """Return how many addresses of this source's /24 are banned; more than ``MAX_HOSTS`` are not counted."""
        return sum(until > now for until in self._networks.get(key >> 8, {}).values())
