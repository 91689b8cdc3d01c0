"""
Is an address in one of these networks? One dictionary look-up for each prefix length in use.

Rule 1: keys are plain integers; hashing an ``ipaddress`` object costs ten times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar

from amiwatch.judgement.values import IPV6_PREFIX, IPAddress, IPNetwork

T = TypeVar("T")


class NetworkTable(Generic[T]):
    """A mapping of networks to something, asked by address."""

    def __init__(self) -> None:
        self._tables: dict[tuple[int, int], dict[int, tuple[IPNetwork, T]]] = {}
        """(version, bits behind the prefix) → leading bits → what is stored."""

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def __bool__(self) -> bool:
        return bool(self._tables)

    def __iter__(self) -> Iterator[tuple[IPNetwork, T]]:
        for table in self._tables.values():
            yield from table.values()

    def put(self, network: IPNetwork, value: T) -> None:
        shift = network.max_prefixlen - network.prefixlen
        key = int(network.network_address) >> shift
        self._tables.setdefault((network.version, shift), {})[key] = (network, value)

    def get(self, network: IPNetwork) -> T | None:
        """Return what is stored for exactly this network, or None."""
        shift = network.max_prefixlen - network.prefixlen
        found = self._tables.get((network.version, shift), {}).get(int(network.network_address) >> shift)
        return found[1] if found else None

    def pop(self, network: IPNetwork) -> T | None:
        """Take exactly this network out, and return what was stored, or None."""
        shift = network.max_prefixlen - network.prefixlen
        table = self._tables.get((network.version, shift), {})
        found = table.pop(int(network.network_address) >> shift, None)
        if not table:
            self._tables.pop((network.version, shift), None)
        return found[1] if found else None

    def covering(self, address: IPAddress) -> tuple[IPNetwork, T] | None:
        """Return a network that holds the address, with its value, or None."""
        return next(self.all_covering(address), None)

    def all_covering(self, address: IPAddress) -> Iterator[tuple[IPNetwork, T]]:
        """List the networks that hold the address, each with its value."""
        version, bits = address.version, int(address)
        for (family, shift), table in self._tables.items():
            if family == version and (found := table.get(bits >> shift)) is not None:
                yield found

    def overlapping(self, network: IPNetwork) -> tuple[IPNetwork, T] | None:
        """Return a network that shares an address with this one, with its value, or None."""
        around = self.covering(network.network_address)
        if around is not None:
            return around
        for other, value in self:
            if other.version == network.version and _is_inside(other, network):
                return other, value
        return None


def _is_inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def source_key(address: IPAddress) -> int:
    """Return a number that stands for a source: the address (IPv4, not negative), its /64 (IPv6, negative)."""
    if type(address) is IPv4Address:
        return int(address)
    return ~(int(address) >> 64)


WIDE = -(2**64)
"""Keys of IPv6 networks that are counted together lie below."""


def wide_key(key: int, prefix: int) -> int:
    """Return a number that stands for the IPv6 network of this width around a source; never that of a source."""
    shift = IPV6_PREFIX - prefix
    return ~(~key >> shift << shift | -WIDE)


def key_network(key: int) -> IPNetwork:
    """Return the network of a source's number: the inverse of ``source_key``."""
    return network4(key) if key >= 0 else network6(~key << 64)


_MASKS4 = [IPv4Network((0, prefix)).netmask for prefix in range(33)]
_MASKS6 = [IPv6Network((0, prefix)).netmask for prefix in range(129)]


def network4(number: int, prefix: int = 32) -> IPv4Network:
    """
    Return the IPv4 network round a number, for lists of a million.

    A third of the time that the constructor takes, which reads texts, too, and gives each its own ``hosts``.
    """
    network = object.__new__(IPv4Network)
    network.netmask = mask = _MASKS4[prefix]
    network.network_address = IPv4Address(number if prefix == 32 else number & int(mask))
    network._prefixlen = prefix  # type: ignore[attr-defined]
    return network


def network6(number: int, prefix: int = IPV6_PREFIX) -> IPv6Network:
    """Return the IPv6 network round a number, as ``network4`` does it."""
    network = object.__new__(IPv6Network)
    network.netmask = mask = _MASKS6[prefix]
    network.network_address = IPv6Address(number & int(mask))
    network._prefixlen = prefix  # type: ignore[attr-defined]
    return network
