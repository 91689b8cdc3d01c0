"""
A veth pair into a network namespace of its own: packets that come from there as if from anywhere in the world.

Made for a live host. Both addresses and routes hang on our end of the pair, and the pair hangs on the other namespace,
which nobody but this process holds: whatever becomes of the process, the kernel takes all of it away.

Everything blocks, for milliseconds: call it in a thread.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.judgement.values import IPAddress

KEEP_ALIVE = b"\r\n\r\n"
"""What is sent: SIP's own keep-alive (RFC 5626 3.5.1), for an Asterisk that listens at the port gets it, too."""

PATIENCE = 1.0
"""Seconds until a packet is taken for lost: a veth pair passes it on within a millisecond."""

NEAR, FAR = "amiwatch-test0", "amiwatch-test1"
"""Interfaces, 15 characters at most; a pair of this name that is still there was left by another test."""

_NO_DAD = 0x02
"""IFA_F_NODAD: duplicate address detection would keep an IPv6 address unusable for a second."""

_PERMANENT = 0x80
"""NUD_PERMANENT (linux/neighbour.h): the host's settings for ARP and neighbour discovery don't matter."""

_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_KINDS = {"udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP), "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP)}
_BITS = {4: 32, 6: 128}

T = TypeVar("T")


class Elsewhere(Protocol):
    """Another network namespace (``amiwatch.testing.netns.Namespace``)."""

    descriptor: int

    def run(self, work: Callable[[], T]) -> T:
        """Call something inside."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Addresses of one family: ours at this end, and those from which packets come."""

    here: IPAddress
    there: tuple[IPAddress, ...]


class Cable:
    """Plugged between ``with`` and its end. Needs CAP_NET_ADMIN and CAP_NET_RAW here. Raises FirewallError."""

    def __init__(self, elsewhere: Elsewhere, ends: Sequence[Ends]) -> None:
        self._elsewhere = elsewhere
        self._ends = {each.here.version: each for each in ends}

    def __enter__(self) -> Self:
        with _translated():
            _unplug()
            try:
                self._plug()
            except BaseException:
                _unplug()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _translated():
            _unplug()

    def arriving(self, sources: Sequence[IPAddress], protocol: str, port: int) -> set[IPAddress]:
        """
        Send one packet from each source to a port of ours; return those that get past every firewall of this host.

        They go one behind the other, so that nothing is waited for behind the last one that arrives.
        """
        arrived: set[IPAddress] = set()
        with _translated(), self._watch(sources[0].version, protocol) as watch:
            for source in sources:
                self._send(source, protocol, port)
            deadline = time.monotonic() + PATIENCE
            while sources[-1] not in arrived and (left := deadline - time.monotonic()) > 0:
                watch.settimeout(left)
                with suppress(TimeoutError):
                    arrived |= {source for source in _senders(watch, sources[0].version, port) if source in sources}
        return arrived

    def _send(self, source: IPAddress, protocol: str, port: int) -> None:
        here = self._ends[source.version].here

        def send() -> None:
            with socket.socket(_AF[source.version], _KINDS[protocol][0]) as sender:
                sender.bind((str(source), 0))
                sender.setblocking(False)
                with suppress(BlockingIOError):  # TCP: the first packet has left
                    sender.connect((str(here), port))
                    sender.send(KEEP_ALIVE)

        self._elsewhere.run(send)

    @staticmethod
    @contextmanager
    def _watch(family: int, protocol: str) -> Iterator[socket.socket]:
        """See what the kernel hands to the programs of this host (a raw socket gets a copy) from the cable."""
        with socket.socket(_AF[family], socket.SOCK_RAW, _KINDS[protocol][1]) as watch:
            watch.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, NEAR.encode())
            yield watch

    def _plug(self) -> None:
        with IPRoute() as here:
            here.link("add", ifname=NEAR, kind="veth", peer={"ifname": FAR, "net_ns_fd": self._elsewhere.descriptor})
            index = here.link_lookup(ifname=NEAR)[0]
            here.link("set", index=index, state="up")
            hardware = here.get_links(index)[0].get("address")
            for ends in self._ends.values():
                _address(here, index, ends.here)
                for address in ends.there:  # the way back, or a strict reverse path filter refuses what comes
                    _route(here, index, address)
        self._elsewhere.run(lambda: self._plug_there(hardware))

    def _plug_there(self, hardware: str) -> None:
        with IPRoute() as there:
            index = there.link_lookup(ifname=FAR)[0]
            there.link("set", index=index, state="up")
            for ends in self._ends.values():
                for address in ends.there:
                    _address(there, index, address)
                _route(there, index, ends.here)
                there.neigh("add", dst=str(ends.here), lladdr=hardware, ifindex=index, state=_PERMANENT)


def has_ipv6() -> bool:
    """Tell whether new interfaces of this host get IPv6."""
    switches = [Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") for name in ("all", "default")]
    try:
        return all(switch.read_text(encoding="ascii").strip() == "0" for switch in switches)
    except OSError:
        return False


def own_addresses() -> set[str]:
    """Return the addresses of this host."""
    with _translated(), IPRoute() as routes:
        return {message.get("address") for message in routes.get_addr()}


def _unplug() -> None:
    with IPRoute() as here:
        for index in here.link_lookup(ifname=NEAR):
            here.link("del", index=index)


def _address(routes: IPRoute, index: int, address: IPAddress) -> None:
    flags = {"flags": _NO_DAD} if address.version == 6 else {}
    bits, family = _BITS[address.version], _AF[address.version]
    routes.addr("add", index=index, address=str(address), prefixlen=bits, family=family, **flags)


def _route(routes: IPRoute, index: int, address: IPAddress) -> None:
    routes.route("add", dst=f"{address}/{_BITS[address.version]}", oif=index, family=_AF[address.version])


def _senders(watch: socket.socket, family: int, port: int) -> Iterator[IPAddress]:
    """Take one packet; return its sender if it was for this port."""
    packet, (sender, *_) = watch.recvfrom(2048)
    begin = (packet[0] & 0x0F) * 4 if family == 4 else 0  # of IPv6, a raw socket shows no header
    if struct.unpack_from(">H", packet, begin + 2)[0] == port:
        yield ip_address(str(sender).partition("%")[0])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (NetlinkError, OSError) as exc:
        code = getattr(exc, "code", None) or getattr(exc, "errno", None)
        if code in (errno.EPERM, errno.EACCES):
            raise FirewallPermission("The kernel refused to make a veth pair: it needs root.") from exc
        raise FirewallError(f"The cable for the test can't be plugged ({exc}).") from exc
