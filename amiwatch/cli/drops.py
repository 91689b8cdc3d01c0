"""What a ban drops: as the daemon wrote it down, and what the kernel has counted since, where it may be asked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from amiwatch.cli.asking import is_alive
from amiwatch.errors import FirewallError
from amiwatch.judgement.values import IPNetwork
from amiwatch.store.reader import Reader
from amiwatch.store.records import BanRecord

if TYPE_CHECKING:
    from amiwatch.config import Settings
    from amiwatch.firewall.base import Entry


@dataclass(frozen=True, slots=True)
class Drops:
    """How far an open ban works."""

    packets: int
    """Dropped since it began."""
    octets: int
    is_in_kernel: bool | None
    """None: the kernel may not be asked."""
    not_working: str | None
    """Why banned sources are still heard, as the daemon says; None if they are not."""


def drops(settings: Settings, ban: BanRecord, reader: Reader) -> Drops:
    """Sum up what an open ban dropped, and tell whether the kernel has it. Raises StoreError."""
    network = ip_network(ban.network)
    status = reader.status()
    fault = status.counters.get("ban_not_working") if status is not None and is_alive(status) else None
    not_working = fault if isinstance(fault, str) else None
    try:
        entry = asyncio.run(_entry(settings, network))
    except FirewallError:  # mostly: without the rights
        return Drops(ban.packets, ban.octets, None, not_working)
    if entry is None:
        return Drops(ban.packets, ban.octets, False, not_working)
    packets, octets = reader.counters(network).get(network, (0, 0))
    if entry.packets < packets:  # it began anew, after a flush or a reboot
        packets = octets = 0
    since = (entry.packets - packets, entry.octets - octets)
    return Drops(ban.packets + since[0], ban.octets + since[1], True, not_working)


async def _entry(settings: Settings, network: IPNetwork) -> Entry | None:
    from amiwatch.firewall.table import make_firewall

    firewall = make_firewall(settings.firewall, prefix=settings.set_name, maxelem=settings.set_size)
    try:
        return await firewall.entry(network)
    finally:
        await firewall.close()
