"""
Bad neighbourhoods: a /24 with several banned addresses makes its others suspect sooner.

Rule 1: nobody is banned for his neighbours alone, and the /24 itself never is; only the limits of enumerations are
halved, and those of a trusted source are not. Bans that forged packets could have brought about halve only what needs
no proof: a stranger may not lower the limits of an office that nobody can forge.

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
        self._networks: OrderedDict[int, dict[int, tuple[float, bool]]] = OrderedDict()
        """/24 → its banned addresses → when each ban ends, and whether it is proven."""

    def __len__(self) -> int:
        return len(self._networks)

    def note(self, key: int, until: float, *, is_proven: bool) -> None:
        """Note a ban by a rule and its end; IPv6 sources, which are networks themselves, are passed over."""
        if not 0 <= key < 2**32:
            return
        hosts = self._networks.setdefault(key >> 8, {})
        self._networks.move_to_end(key >> 8)
        hosts.pop(key, None)
        hosts[key] = until, is_proven
        if len(hosts) > MAX_HOSTS:
            del hosts[next(iter(hosts))]
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)

    def forget(self, key: int) -> None:
        """Note that a ban was lifted."""
        self._networks.get(key >> 8, {}).pop(key, None)

    def are_bad(self, key: int, now: float, *, is_proven: bool) -> bool:
        """Tell whether the /24 of this source is bad, for evidence that is proven or not. On the hot path."""
        if key >> 8 not in self._networks:
            return False
        ends = self._networks[key >> 8].values()
        return sum(until > now and (sure or not is_proven) for until, sure in ends) >= NEIGHBOURS

    def count(self, key: int, now: float) -> int:
        """Return how many addresses of this source's /24 are banned; more than ``MAX_HOSTS`` are not counted."""
        return sum(until > now for until, _ in self._networks.get(key >> 8, {}).values())
