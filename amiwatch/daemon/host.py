"""
Addresses of this machine that must never be banned: its own, its gateways, its resolvers, sessions of administrators.

Rule 1: what can't be read is left out and said at DEBUG; the loopback and its like are safe without it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from amiwatch.judgement.values import IPAddress, IPNetwork

log = logging.getLogger(__name__)

RESOLVERS = Path("/etc/resolv.conf")
SESSIONS = Path("/run/utmp")
SESSIONS_LIMIT = 1024 * 1024
"""Bytes read of the list of sessions: some 2,700 of them."""

_SESSION = struct.Struct("<hxxi32s4s32s256shhiii16s20x")
"""``struct utmp`` of glibc on 64-bit machines: 384 bytes (utmp(5)). The last field but padding is ``ut_addr_v6``."""

_USER_PROCESS = 7
"""``ut_type`` of a session of somebody who is logged in."""

LOOKUP_TIMEOUT = 5.0
"""Seconds to wait for a name server."""


async def safe_networks() -> dict[IPNetwork, str]:
    """Return what must never be banned here, each with the words that say why."""
    found = await _routing()
    local = await asyncio.to_thread(lambda: [*_resolvers(), *_sessions()])
    return {ip_network(address): why for address, why in [*found, *local] if not address.is_unspecified}


async def resolve(name: str) -> list[IPAddress]:
    """Look a DNS name up; empty where it has no address now (or the name server does not answer)."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT):
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        log.warning("allowlist name not resolved name=%r reason=%s", name, error or "no answer")
        return []
    return list({ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found})


async def _routing() -> list[tuple[IPAddress, str]]:
    try:
        async with AsyncIPRoute() as ipr:
            addresses = [message async for message in await ipr.get_addr()]
            routes = [message async for message in await ipr.get_default_routes()]
    except (NetlinkError, OSError) as error:
        log.debug("own addresses not read reason=%s", error)
        return []
    own = [(message.get("local") or message.get("address"), "an address of this machine") for message in addresses]
    ways = [(message.get("gateway"), "a gateway of this machine") for message in routes]
    return [(ip_address(text), why) for text, why in [*own, *ways] if text]


def _resolvers() -> Iterator[tuple[IPAddress, str]]:
    try:
        lines = RESOLVERS.read_text(errors="replace").splitlines()
    except OSError as error:
        log.debug("resolvers not read reason=%s", error)
        return
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and (address := _parsed(words[1])) is not None:
            yield address, "a name server of this machine"


def _sessions() -> Iterator[tuple[IPAddress, str]]:
    """List from where people are logged in now."""
    try:
        with SESSIONS.open("rb") as file:
            data = file.read(SESSIONS_LIMIT)
    except OSError as error:
        log.debug("sessions not read reason=%s", error)
        return
    whole = len(data) - len(data) % _SESSION.size
    for kind, *_, packed in _SESSION.iter_unpack(data[:whole]):
        if kind == _USER_PROCESS and any(packed):
            yield (IPv6Address(packed) if any(packed[4:]) else IPv4Address(packed[:4])), "somebody logged in from there"


def _parsed(text: str) -> IPAddress | None:
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
