"""
Addresses of this machine that must never be banned: its own, its gateways, its resolvers, sessions of administrators.

Rule 1: what can't be read is left out and said at DEBUG; the loopback and its like are safe without it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from pathlib import Path

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from amiwatch.judgement.values import IPAddress, IPNetwork

log = logging.getLogger(__name__)

RESOLVERS = Path("/etc/resolv.conf")
SESSIONS = Path("/run/utmp")
LOGIND = Path("/run/systemd/sessions")
"""A file for each session, with ``REMOTE_HOST=`` in it: distributions of today write no utmp any more."""

MAX_SESSIONS = 1000
"""Files of sessions that are looked at."""

SESSION_LIMIT = 8192
"""Characters read of each: it has some five hundred."""

SESSIONS_LIMIT = 1024 * 1024
"""Bytes read of the list of sessions: some 2,700 of them."""

_SESSION = struct.Struct("<hxxi32s4s32s256shhiii16s20x")
"""``struct utmp`` of glibc on 64-bit machines: 384 bytes (utmp(5)). The last field but padding is ``ut_addr_v6``."""

_USER_PROCESS = 7
"""``ut_type`` of a session of somebody who is logged in."""

LOGGED_IN = "somebody logged in from there"

OWN = "an address of this machine"
"""Why our own addresses are safe: not even force bans them."""

LOOKUP_TIMEOUT = 2.0
"""Seconds to wait for name servers, who answer in milliseconds. The C library asks the second one only after five; what
comes later than we waited is there at the next lookup."""

ROUTING_TIMEOUT = 5.0
"""Seconds to wait for the kernel's answer about addresses and routes: it takes milliseconds."""

MAX_LOOKUPS = 32
"""Names looked up at once: each keeps a thread until the name server answers, or the C library gives up (10 s and
more)."""


async def safe_networks() -> dict[IPNetwork, str]:
    """Return what must never be banned here, each with the words that say why."""
    found = await _routing()
    local = await asyncio.to_thread(lambda: [*_resolvers(), *_sessions(), *_logind_sessions()])
    return {ip_network(address): why for address, why in [*found, *local] if not address.is_unspecified}


async def lookup(name: str) -> list[IPAddress] | None:
    """Look a DNS name up; empty where it has no address, None where no name server has answered yet."""
    with suppress(ValueError):
        return [ip_address(name)]
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT):
            found = await _looked_up(name)
    except TimeoutError:
        return None
    except (OSError, ValueError) as error:  # ValueError: what no name server can be asked for
        log.debug("name not resolved name=%r reason=%s", name, error)
        return None if getattr(error, "errno", None) in _NO_ANSWER else []
    return list({ip_address(text.partition("%")[0]) for text in found})


_NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_FAIL)
"""Codes of getaddrinfo(3) that say nothing about the name."""

_lookups: set[str] = set()
"""Names that are being looked up; one that a silent name server left behind is not asked for again meanwhile."""

_late: dict[str, list[str]] = {}
"""Answers for which nobody waited any more, until somebody asks again."""


async def _looked_up(name: str) -> list[str]:
    """
    Return the addresses of a name. Raises OSError, ValueError.

    In a thread of its own that nobody waits for: the event loop's threads, which the firewall and the store need, would
    all hang with the name server, and so would the end of the process.
    """
    if name in _late:
        return _late.pop(name)
    if name in _lookups:
        raise TimeoutError("the last question still has no answer")
    while len(_lookups) >= MAX_LOOKUPS:  # noqa: ASYNC110 - a thread can't set a loop's event, and nobody hurries
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def look_up() -> None:
        found: list[str] = []
        fault: Exception | None = None
        try:
            found = [str(address[0]) for *_, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
        except (OSError, ValueError) as error:
            fault = error
        _lookups.discard(name)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, found, fault)

    def tell(found: list[str], fault: Exception | None) -> None:
        if answer.done():
            if found:
                _late[name] = found
            return
        if fault is None:
            answer.set_result(found)
        else:
            answer.set_exception(fault)

    _lookups.add(name)
    threading.Thread(target=look_up, name="lookup", daemon=True).start()
    return await answer


async def _routing() -> list[tuple[IPAddress, str]]:
    try:
        async with asyncio.timeout(ROUTING_TIMEOUT), AsyncIPRoute() as ipr:
            addresses = [message async for message in await ipr.get_addr()]
            routes = [message async for message in await ipr.get_default_routes()]
    except (NetlinkError, OSError) as error:
        log.debug("own addresses not read reason=%s", error)
        return []
    own = [(message.get("local") or message.get("address"), OWN) for message in addresses]
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
            yield (IPv6Address(packed) if any(packed[4:]) else IPv4Address(packed[:4])), LOGGED_IN


def _logind_sessions() -> Iterator[tuple[IPAddress, str]]:
    """List from where people are logged in now, as logind keeps it."""
    with suppress(OSError):
        for path in islice(LOGIND.iterdir(), MAX_SESSIONS):
            if path.is_file():  # a pipe stands beside each
                yield from _remote_host(path)


def _remote_host(path: Path) -> Iterator[tuple[IPAddress, str]]:
    with suppress(OSError), path.open(errors="replace") as file:
        for line in file.read(SESSION_LIMIT).splitlines():
            name, _, text = line.partition("=")
            if name == "REMOTE_HOST" and (address := _parsed(text)) is not None:
                yield address, LOGGED_IN


def _parsed(text: str) -> IPAddress | None:
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
