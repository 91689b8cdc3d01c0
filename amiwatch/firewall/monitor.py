"""
What the kernel tells of changes to nftables: whoever flushes or reorders rules is noticed within moments.

iptables of today works through nf_tables, and so is heard of, too. The older iptables and ipset tell nobody: what they
change must be looked for.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable

from amiwatch.errors import FirewallError
from amiwatch.firewall.nftables_socket import refusal

READS = 64
"""Datagrams taken in one turn of the event loop, each in a microsecond; the others wait for the next turn."""

DATAGRAM = 1 << 16
"""Room for one datagram, in octets; what is cut off has been noticed all the same."""

_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP = 7
"""NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h)."""

_SO_ATTACH_FILTER = 26
_ADDED_ELEMENT, _DELETED_ELEMENT, _GENERATION = 12, 14, 15
_SUBSYSTEM = 10 << 8
_LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x15, 0x06
_TYPE_OFFSET = 4
_EVERYTHING = 0xFFFF_FFFF


class Monitor:
    """
    Calls ``disturbed`` soon after anybody, we included, changed a table, a chain, a set or a rule.

    What is put into sets or taken out of them is not told of: a flood makes a lot of it, so the kernel throws it away
    before it wakes us. (It still writes it down for us, which makes 100,000 bans at once a fifth slower.)
    """

    def __init__(self, disturbed: Callable[[], None]) -> None:
        self._disturbed = disturbed
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Begin to listen, in the event loop that runs. Raises FirewallError (CAP_NET_ADMIN, no nf_tables)."""
        listener = None
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            listener = socket.socket(socket.AF_NETLINK, kind, _NETFILTER)
            _leave_out(listener, _ADDED_ELEMENT, _DELETED_ELEMENT, _GENERATION)
            listener.bind((0, 0))  # without a number of its own, it counts as the sender, and is told nothing
            listener.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError as exc:
            if listener is not None:
                listener.close()
            raise refusal(exc.errno or 0, "tell of changes to nftables") from exc
        asyncio.get_running_loop().add_reader(listener, self._read)
        self._socket = listener

    def close(self) -> None:
        """Listen no longer; safe to repeat."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._socket = None

    def _read(self) -> None:
        assert self._socket is not None
        try:
            for _ in range(READS):
                self._socket.recv(DATAGRAM)
        except BlockingIOError:
            pass
        except OSError:
            pass  # ENOBUFS: more than we could take, so there was something
        self._disturbed()


class _Program(ctypes.Structure):
    """``struct sock_fprog`` (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _leave_out(listener: socket.socket, *kinds: int) -> None:
    """Have the kernel throw datagrams away that begin with one of these messages (classic BPF)."""
    # The type is in the byte order of the machine, and BPF loads it as if it came from the network.
    types = [int.from_bytes(struct.pack("=H", _SUBSYSTEM | kind), "big") for kind in kinds]
    lines = [(_LOAD_HALF, 0, 0, _TYPE_OFFSET)]
    lines += [(_JUMP_IF_EQUAL, len(types) - place, 0, value) for place, value in enumerate(types)]
    lines += [(_RETURN, 0, 0, _EVERYTHING), (_RETURN, 0, 0, 0)]
    packed = b"".join(struct.pack("=HBBI", *line) for line in lines)
    program = _Program(len(lines), packed)
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))


def watch(disturbed: Callable[[], None]) -> Monitor | None:
    """Return a monitor that listens; None where the kernel tells nothing."""
    monitor = Monitor(disturbed)
    try:
        monitor.open()
    except FirewallError:
        return None
    return monitor
