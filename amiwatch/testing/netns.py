"""
Private network namespaces: a kernel firewall of one's own, and packets that never leave the machine.

A namespace has its own interfaces, routes, kernel sets and iptables rules. ``enter()`` moves the whole process into a
new one; needs root, or a kernel that lets ordinary users make user namespaces. ``Wire`` joins it to a second one, from
whose addresses real packets come::

    enter()
    with Wire() as wire, wire.receiver(5060) as pbx:
        wire.send_from("198.51.100.7", 5060, b"OPTIONS sip:100@192.0.2.1 SIP/2.0")
        pbx.recv(2048)

Linux only. Works without threads, helpers and daemons; what was made vanishes with the process or with ``close()``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pyroute2 import IPRoute

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
"""linux/sched.h"""

_NETWORK_RIGHTS = (8, 10, 12, 13, 21)
"""CAP_SETPCAP (to give up some of these), NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_ADMIN (for setns)."""

_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2

_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41

_BIND_SECONDS = 2.0
"""A program that another thread is just starting holds a closed socket until its exec: the port is busy so long."""

T = TypeVar("T")


class NamespaceRefused(Exception):
    """The kernel lets this process make no network namespace. Its text says why."""


def enter() -> None:
    """
    Move this process into a new network namespace, with loopback up and every right over it.

    Root stays root. An ordinary user stays who he is, without rights over anything but this network; so do the
    programs that he starts.

    Call it before any thread is started; there is no way back. Where it raises ``NamespaceRefused``, nothing changed.
    """
    if threading.active_count() > 1:
        raise NamespaceRefused("threads run already, and the kernel moves processes with one thread only")
    _rehearse()
    _enter()


def _rehearse() -> None:
    """Try it in a child first: half of the way in (a user namespace without rights) there is no way back."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            _enter()
        except BaseException as exc:  # noqa: BLE001 - the child must end here, whatever happens
            os.write(writer, str(exc).encode()[:512])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a file descriptor, no path
        why = pipe.read().decode()
    os.waitpid(child, 0)
    if why:
        raise NamespaceRefused(f"the kernel allows no private network namespace here ({why})")


def _enter() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _unshare(CLONE_NEWNET)
    else:
        _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
        _keep_network_rights()
        # The lock of the older iptables belongs to the host's root; nobody else changes the tables of this namespace.
        os.environ.setdefault("XTABLES_LOCKFILE", os.devnull)
    _bring_up(b"lo")


def _keep_network_rights() -> None:
    """
    Give up all rights in the new namespaces but those over the network, and pass these on to programs.

    So a user stays who he is, with his own files and no others, and yet ipset and iptables work for him.
    """
    bits = sum(1 << right for right in _NETWORK_RIGHTS)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc().capset(header, struct.pack("=6I", bits, bits, bits, 0, 0, 0)))
    for right in _NETWORK_RIGHTS:
        arguments = (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, right, 0, 0)
        _checked(_libc().prctl(*map(ctypes.c_ulong, arguments)))


def _unshare(flags: int) -> None:
    _checked(_libc().unshare(flags))


def _setns(descriptor: int) -> None:
    _checked(_libc().setns(descriptor, CLONE_NEWNET))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _bring_up(interface: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", interface, _IFF_UP_RUNNING))


class Namespace:
    """A second network namespace beside the one that this process is in. Lives until ``close()``."""

    def __init__(self) -> None:
        self.descriptor = _in_thread(self._make)

    def run(self, work: Callable[[], T]) -> T:
        """Call something inside: sockets it makes belong there for ever, wherever they are used."""

        def inside() -> T:
            _setns(self.descriptor)
            return work()

        return _in_thread(inside)

    def close(self) -> None:
        """Let it go; the kernel ends it with its last socket."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @staticmethod
    def _make() -> int:
        # unshare and setns of a network namespace move the calling thread only.
        _unshare(CLONE_NEWNET)
        _bring_up(b"lo")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that asked
            errors.append(exc)

    thread = threading.Thread(target=call, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Wire:
    """
    An Ethernet cable between this namespace (the PBX) and a second one (the world).

    This end has ``here`` and sends everything it has no other route for into the cable. The far end has whatever
    addresses are sent from; each is added when it is first used. Call it only after ``enter()``: it changes the
    interfaces and the default route of the namespace that the process is in.
    """

    def __init__(self, here: tuple[str, ...] = ("192.0.2.1", "2001:db8::1"), name: str = "wire") -> None:
        self.here: dict[int, str] = {ip_address(address).version: address for address in here}
        """Our address by family."""
        self.far = Namespace()
        self._name = name
        self._there: set[str] = set()
        self._senders: dict[str, socket.socket] = {}
        try:
            _in_thread(self._plug_here)
            self.far.run(self._plug_there)
        except BaseException:
            self.far.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unplug: both ends of the cable and the far addresses are gone afterwards."""
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        if self.far.descriptor >= 0:
            _in_thread(self._unplug)
            self.far.close()

    def receiver(self, port: int, family: int = 4, *, timeout: float = 5.0) -> socket.socket:
        """Bind a UDP socket to our address; ``recv`` raises ``TimeoutError`` after ``timeout`` seconds of silence."""
        endpoint = _bound(self.here[family], socket.SOCK_DGRAM, port)
        endpoint.settimeout(timeout)
        return endpoint

    def send_from(self, address: str, port: int, payload: bytes) -> None:
        """Send one UDP datagram from a far address to our ``port``."""
        if address not in self._senders:
            self._senders[address] = self.far_socket(address)
        self._senders[address].sendto(payload, (self.here[ip_address(address).version], port))

    def far_socket(self, address: str, kind: int = socket.SOCK_DGRAM, port: int = 0) -> socket.socket:
        """Make a socket at the far end, bound to ``address``; for TCP give ``SOCK_STREAM``. The caller closes it."""
        self.add_address(address)
        return self.far.run(lambda: _bound(address, kind, port))

    def add_address(self, address: str) -> None:
        """Give the far end an address; one that it has already is no error."""
        if address in self._there:
            return
        self.far.run(lambda: self._configure(f"{self._name}1", address))
        self._there.add(address)

    def _plug_here(self) -> None:
        near, far = f"{self._name}0", f"{self._name}1"
        with IPRoute() as routes:
            routes.link("add", ifname=near, kind="veth", peer={"ifname": far, "net_ns_fd": self.far.descriptor})
            index = routes.link_lookup(ifname=near)[0]
            routes.link("set", index=index, state="up")
        for family, address in self.here.items():
            self._configure(near, address)
            with IPRoute() as routes:
                routes.route("add", dst="default", oif=index, family=_af(family))

    def _plug_there(self) -> None:
        with IPRoute() as routes:
            index = routes.link_lookup(ifname=f"{self._name}1")[0]
            routes.link("set", index=index, state="up")
            for family, address in self.here.items():
                routes.route("add", dst=f"{address}/{_bits(family)}", oif=index, family=_af(family))

    def _unplug(self) -> None:
        with IPRoute() as routes:
            for index in routes.link_lookup(ifname=f"{self._name}0"):
                routes.link("del", index=index)

    @staticmethod
    def _configure(interface: str, address: str) -> None:
        family = ip_address(address).version
        # Without duplicate address detection (IFA_F_NODAD): it would keep an IPv6 address unusable for a second.
        flags = {"flags": 0x02} if family == 6 else {}
        with IPRoute() as routes:
            index = routes.link_lookup(ifname=interface)[0]
            routes.addr("add", index=index, address=address, prefixlen=_bits(family), family=_af(family), **flags)


def _bound(address: str, kind: int, port: int) -> socket.socket:
    endpoint = socket.socket(_af(ip_address(address).version), kind)
    give_up = time.monotonic() + _BIND_SECONDS
    while True:
        try:
            endpoint.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > give_up:
                endpoint.close()
                raise
            time.sleep(0.005)
        else:
            return endpoint


def _af(family: int) -> int:
    return socket.AF_INET if family == 4 else socket.AF_INET6


def _bits(family: int) -> int:
    return 32 if family == 4 else 128
