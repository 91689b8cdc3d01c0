"""
The ipsets beside those of bans: who is exempt from limits, and a window of counted sources for each tier.

::

    <prefix>4-safe, <prefix>6-safe      hash:net, whom no tier and no signature concerns
    <prefix>4-60s, <prefix>6-60s, …     hash:ip (IPv6: /64), the sources of new connections, each for 60 seconds

The kernel adds to the windows itself (the target SET) and counts there. An entry lives so long as its window, counted
from the first connection. That a window is full leaves further sources uncounted: an attacker who forges addresses
must not shut everybody out, as he could with ``hashlimit``, which drops what it has no room for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator

from amiwatch.errors import FirewallError
from amiwatch.firewall import ipset_wire as wire
from amiwatch.firewall.base import Entry, parts
from amiwatch.firewall.ipset_socket import IpsetSocket, refusal
from amiwatch.firewall.protection import MAX_EXEMPT, WINDOW_SOURCES, Tier, exempt_name, is_ours, windows
from amiwatch.judgement.values import IPV6_PREFIX, IPNetwork

BATCH = 1_000
"""Entries in one message; ``ipset.py`` says why."""


class IpsetLimits:
    """The sets of one prefix. Methods raise ``FirewallError``, and may be repeated. Opens a socket for each call."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    async def make(self, tiers: Collection[Tier]) -> None:
        """Make what is missing."""
        async with _opened() as socket:
            for family in wire.FAMILIES:
                await socket.create(exempt_name(self.prefix, family), family, maxelem=MAX_EXEMPT)
                for tier, name in windows(self.prefix, family, tiers).items():
                    await _make_window(socket, name, family, tier)

    async def exempt(self, networks: Collection[IPNetwork]) -> None:
        """Exempt these and nobody else, from one packet to the next, whatever is in the sets now."""
        async with _opened() as socket:
            for family in wire.FAMILIES:
                name, spare = exempt_name(self.prefix, family), f"{self.prefix}{family}-new"
                await socket.destroy(spare)  # left by a crash
                await socket.create(spare, family, maxelem=MAX_EXEMPT)
                await _change(socket, wire.ADD, spare, family, networks)
                await socket.create(name, family, maxelem=MAX_EXEMPT)
                await socket.swap(spare, name)
                await socket.destroy(spare)

    async def change(self, *, more: Collection[IPNetwork], fewer: Collection[IPNetwork]) -> None:
        """Exempt some more, and some no longer."""
        async with _opened() as socket:
            for family in wire.FAMILIES:
                await _change(socket, wire.ADD, exempt_name(self.prefix, family), family, more)
                await _change(socket, wire.DELETE, exempt_name(self.prefix, family), family, fewer)

    async def counts(self) -> dict[str, int]:
        """Count the entries of our sets, by name."""
        async with _opened() as socket:
            return {name: count for name, count in (await socket.headers()).items() if is_ours(self.prefix, name)}

    async def exempt_counts(self) -> dict[str, int]:
        """Count who is exempt, by the set's name."""
        names = {exempt_name(self.prefix, family) for family in wire.FAMILIES}
        return {name: count for name, count in (await self.counts()).items() if name in names}

    async def remove(self, keep: Collection[str] = ()) -> None:
        """Destroy our sets but these; no rule may use them."""
        async with _opened() as socket:
            for name in await socket.headers():
                if is_ours(self.prefix, name) and name not in keep:
                    await socket.destroy(name)


class _opened:  # noqa: N801 - read as a verb
    """A socket for the time of a call: what is asked here is asked seldom."""

    def __init__(self) -> None:
        self._socket = IpsetSocket()

    async def __aenter__(self) -> IpsetSocket:
        await self._socket.open()
        return self._socket

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()


async def _make_window(socket: IpsetSocket, name: str, family: int, tier: Tier) -> None:
    message = wire.window_creation(
        name,
        family,
        seconds=tier.seconds,
        maxelem=WINDOW_SOURCES,
        netmask=IPV6_PREFIX if family == 6 else None,
        protocol=socket.protocol,
    )
    answer = await socket.ask(message)
    if answer.code not in (0, wire.EXISTS):
        raise refusal(answer.code, f"create the set {name!r}")


async def _change(socket: IpsetSocket, command: int, name: str, family: int, networks: Collection[IPNetwork]) -> None:
    for part in parts(_entries(networks, family), BATCH):
        answer = await socket.ask(wire.change(command, name, family, part, protocol=socket.protocol))
        if answer.code == wire.FULL:
            raise FirewallError(f"The set {name!r} has no room for {len(networks)} networks that are exempt.")
        if answer.code:
            raise refusal(answer.code, f"change {part[answer.line].network} in the set {name!r}")
        await asyncio.sleep(0)


def _entries(networks: Iterable[IPNetwork], family: int) -> Iterator[Entry]:
    """Halve everything there is: the kernel takes no /0."""
    for network in networks:
        if network.version == family:
            yield from (Entry(half, None) for half in ([network] if network.prefixlen else network.subnets()))
