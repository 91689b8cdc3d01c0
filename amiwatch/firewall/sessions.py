"""
TCP sessions of banned sources, cut in the kernel: TLS and WebSocket are TCP, too.

A ban drops the packets of a session that stands already, but Asterisk keeps it open until its timers notice. The
kernel's sock_diag tells which sockets there are and ends them (SOCK_DESTROY): the program that has one open reads
ECONNABORTED, the peer gets a reset. Only sockets of this network namespace are seen.

Rule 1: never a UDP socket, which is Asterisk's own and everybody's; never one that listens.

Rule 2: only by local port and remote network together.

Constants and layouts are those of linux/inet_diag.h, linux/sock_diag.h and net/tcp_states.h. pyroute2 lists sockets,
but knows no way to end one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.attributes import attribute
from amiwatch.firewall.netlink import ACK, DUMP, Netlink
from amiwatch.firewall.scope import Scope
from amiwatch.judgement.values import IPNetwork

NETWORKS = 100
"""Networks asked for in one listing: the kernel compares each TCP socket with each of them."""

_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_BYTECODE = 1
_JUMP, _REMOTE = 1, 8
_ANY_PORT = -1

_STATES = sum(1 << state for state in (1, 3, 4, 5, 8, 9, 11))
"""Established, half-open and closing; not TIME_WAIT, which no program has any more, and not LISTEN."""

_REQUEST_HEAD = struct.Struct("=BBBBI")
_ID = struct.Struct(">HH16s16s12s")
"""Ports, addresses, and what only the kernel understands: the interface and its own number for the socket."""
_REPLY_HEAD = 4
_OPERATION = struct.Struct("=BBH")
_CONDITION = struct.Struct("=BBxxi")


class Session(NamedTuple):
    """One TCP socket; ``identity`` is what the kernel knows it by."""

    family: int
    local_port: int
    identity: bytes


class CutUnsupported(FirewallError):
    """The kernel lists sockets, but was built without a way to end them (CONFIG_INET_DIAG_DESTROY)."""


def cut(networks: Sequence[IPNetwork], scope: Scope, spared: Callable[[], Collection[int]] = tuple) -> int:
    """
    End the TCP sessions of these sources at the ports of a scope; return how many there were.

    ``spared`` names local ports at which none is ended; it is asked only where there is one to end. Blocks for as long
    as the kernel takes to walk over its TCP sockets: call it in a thread. Needs CAP_NET_ADMIN. Raises FirewallError,
    FirewallPermission, CutUnsupported.
    """
    try:
        with Netlink(_SOCK_DIAG) as netlink:
            parts = [networks[begin : begin + NETWORKS] for begin in range(0, len(networks), NETWORKS)]
            found = [session for part in parts for session in _listed(netlink, part)]
            closed = [session for session in found if scope.has("tcp", session.local_port)]
            kept = spared() if closed else ()
            return sum(_is_ended(netlink, session) for session in closed if session.local_port not in kept)
    except OSError as exc:
        raise _failure(exc.errno or errno.EIO) from exc


def _listed(netlink: Netlink, networks: Sequence[IPNetwork]) -> Iterator[Session]:
    code = attribute(_BYTECODE, _program(networks))
    for family in (socket.AF_INET, socket.AF_INET6):  # IPv4 sessions of a socket that listens on [::] are IPv6 ones
        head = _REQUEST_HEAD.pack(family, socket.IPPROTO_TCP, 0, 0, _STATES)
        for body in netlink.ask(_BY_FAMILY, DUMP, head + bytes(_ID.size) + code):
            identity = bytes(body[_REPLY_HEAD : _REPLY_HEAD + _ID.size])
            yield Session(family, _ID.unpack(identity)[0], identity)


def _is_ended(netlink: Netlink, session: Session) -> bool:
    head = _REQUEST_HEAD.pack(session.family, socket.IPPROTO_TCP, 0, 0, _STATES)
    try:
        list(netlink.ask(_DESTROY, ACK, head + session.identity))
    except FileNotFoundError:
        return False  # it ended by itself meanwhile
    return True


def _program(networks: Sequence[IPNetwork]) -> bytes:
    """Write what the kernel runs for each socket, to tell whether its remote address is in one of the networks."""
    program = b""
    for network in reversed(networks):
        if program:  # where the one before it holds the address, the rest is leapt over
            program = _OPERATION.pack(_JUMP, _OPERATION.size, _OPERATION.size + len(program)) + program
        program = _condition(network) + program
    return program


def _condition(network: IPNetwork) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    address = network.network_address.packed
    size = _OPERATION.size + _CONDITION.size + len(address)
    # If not, on behind the leap; for the last one that is past the end, which means no.
    operation = _OPERATION.pack(_REMOTE, size, size + _OPERATION.size)
    return operation + _CONDITION.pack(family, network.prefixlen, _ANY_PORT) + address


def _failure(code: int) -> FirewallError:
    if code == errno.EOPNOTSUPP:
        return CutUnsupported("The kernel can't end TCP sessions: it was built without CONFIG_INET_DIAG_DESTROY.")
    if code in (errno.EPERM, errno.EACCES):
        return FirewallPermission("The kernel refused to end TCP sessions: it needs CAP_NET_ADMIN.")
    return FirewallError(f"TCP sessions can't be listed or ended ({os.strerror(code)}).")
