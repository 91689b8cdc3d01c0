"""
What connection tracking remembers of banned sources, deleted.

Our rule drops before connection tracking, and needs nothing of it. But a rule of the administrator may stand behind an
"accept established", and a flow that the kernel forwards past all rules (a flowtable) lasts as long as its entry:
there a ban works once the entry is gone.

Constants are those of linux/netfilter/nfnetlink_conntrack.h. pyroute2 asks for one address at a time.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.attributes import attribute, attributes
from amiwatch.firewall.netlink import ACK, DUMP, Netlink
from amiwatch.judgement.values import IPNetwork

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _ZONE = 1, 18
_NESTED = 0x8000
_SOURCE = 16
"""Where the source address lies in each entry: behind the family and three heads (ctnetlink_fill_info begins with it).
Reading all attributes takes three times as long."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def are_tracked() -> bool:
    """Tell whether connection tracking remembers anything in this network namespace."""
    try:
        return int(_COUNT.read_text(encoding="ascii")) > 0
    except (OSError, ValueError):
        return False


def forget(networks: Sequence[IPNetwork]) -> int:
    """
    Delete the entries that these sources began; return how many there were.

    Reads the whole table: call it in a thread. Needs CAP_NET_ADMIN. Raises FirewallError, FirewallPermission.
    """
    count = 0
    try:
        with Netlink(_NETFILTER) as netlink:
            for version in {network.version for network in networks}:
                masks = _masks([network for network in networks if network.version == version])
                for entry in list(_begun_by(netlink, version, masks)):
                    count += _is_deleted(netlink, version, entry)
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EACCES):
            raise FirewallPermission("The kernel refused to show its connections: it needs CAP_NET_ADMIN.") from exc
        raise FirewallError(f"Tracked connections can't be listed or deleted ({exc.strerror}).") from exc
    return count


def _masks(networks: Sequence[IPNetwork]) -> dict[int, set[int]]:
    """Return netmasks, each with the networks of its width."""
    masks: dict[int, set[int]] = {}
    for network in networks:
        masks.setdefault(int(network.netmask), set()).add(int(network.network_address))
    return masks


def _begun_by(netlink: Netlink, version: int, masks: dict[int, set[int]]) -> Iterator[bytes]:
    """Return what names each entry of these sources."""
    size = 4 if version == 4 else 16
    for body in netlink.ask(_GET, DUMP, _family(version)):
        source = int.from_bytes(body[_SOURCE : _SOURCE + size], "big")
        if any(source & mask in networks for mask, networks in masks.items()):
            entry = dict(attributes(body[4:]))
            zone = attribute(_ZONE, bytes(entry[_ZONE])) if _ZONE in entry else b""
            yield attribute(_ORIGINAL | _NESTED, bytes(entry[_ORIGINAL])) + zone


def _is_deleted(netlink: Netlink, version: int, entry: bytes) -> bool:
    try:
        list(netlink.ask(_DELETE, ACK, _family(version) + entry))
    except FileNotFoundError:
        return False  # it ran out meanwhile
    return True


def _family(version: int) -> bytes:
    return struct.pack(">BBH", _FAMILIES[version], 0, 0)
