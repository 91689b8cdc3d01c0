"""
A conversation with the kernel's nf_tables: a netlink socket of the standard library, our bytes, every wait bounded.

Calls block, for microseconds (a ban) or for the time that the kernel needs to list; who has an event loop makes the
long ones in a thread.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall import nftables_wire as wire
from amiwatch.judgement.values import IPNetwork

ANSWER_TIMEOUT = 5.0
"""Longest wait for one answer of the kernel, in seconds: it takes microseconds, some ms for a piece of a long list."""

DATAGRAM = 1 << 18
"""Room for one datagram, in octets. The kernel lists in pieces of at most 32 KiB."""

ANSWERS = 1 << 20
"""Receive buffer that is asked for, in octets: a refusal costs about 1 KB of it, whatever it says."""

_NETFILTER = 12
_SOL_NETLINK, _CAP_ACK = 270, 10
"""linux/netlink.h. Without the latter, each refusal repeats our request."""

_WHAT_TO_DO = {
    errno.EPERM: "it needs CAP_NET_ADMIN: run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN",
    errno.EOPNOTSUPP: "the kernel knows no nftables: 'modprobe nf_tables', or AMIWATCH_FIREWALL=ipset",
    errno.ENOENT: "there is no such table or set: 'amiwatch firewall install' makes them",
    errno.ENOMEM: "the kernel has no memory for it: allow fewer entries (AMIWATCH_SET_SIZE)",
}
for _alias in (errno.EACCES,):
    _WHAT_TO_DO[_alias] = _WHAT_TO_DO[errno.EPERM]
for _alias in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
    _WHAT_TO_DO[_alias] = _WHAT_TO_DO[errno.EOPNOTSUPP]

T = TypeVar("T")


def refusal(code: int, what: str) -> FirewallError:
    """Say in one sentence what the kernel refused, and what to do about it."""
    why = _WHAT_TO_DO.get(code, f"{os.strerror(code)} (code {code})")
    kind = FirewallPermission if code in (errno.EPERM, errno.EACCES) else FirewallError
    return kind(f"The kernel refused to {what}: {why}.")


class NftablesSocket:
    """
    One socket for one table. Not for two threads at a time. Methods raise ``FirewallError``.

    After an error of the socket itself it is closed, for late answers would arrive at the next request; make a new one.
    """

    def __init__(self, table: str) -> None:
        self.table = table
        self._sequence = 1
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
        except OSError as exc:
            raise refusal(exc.errno or errno.EOPNOTSUPP, "open a netlink socket") from exc
        self._socket.settimeout(ANSWER_TIMEOUT)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ANSWERS)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        self._socket.close()

    @property
    def is_open(self) -> bool:
        """Tell whether it can still be used."""
        return self._socket.fileno() >= 0

    def change(self, changes: Sequence[wire.Change]) -> dict[int, int]:
        """
        Make all changes or none; return the error codes of those that were refused, by their place in ``changes``.

        An empty answer means that all were made.
        """
        begin = self._next(len(changes) + 2)
        self._send(wire.batch(self.table, changes, sequence=begin))
        refused: dict[int, int] = {}
        while True:
            for answer in self._received():
                place = answer.sequence - begin - 1
                if place == -1:
                    raise refusal(answer.code, f"change the table {self.table!r}")
                if answer.code:
                    refused[place] = answer.code
                if place == len(changes) - 1:
                    return refused

    def get(self, set_name: str, network: IPNetwork, read: Callable[[memoryview], T]) -> T | None:
        """Read one element; None if it, its set or the table is not there."""
        sequence = self._next(1)
        self._send(wire.question(self.table, set_name, network, sequence=sequence))
        found: T | None = None
        for answer in self._answers(sequence):
            if answer.code not in (0, errno.ENOENT):
                raise refusal(answer.code, f"look for {network} in the set {set_name!r}")
            if answer.kind == wire.ELEMENTS:
                found = read(answer.body)
        return found

    def listed(self, kind: int, set_name: str = "") -> Iterator[memoryview]:
        """List sets, rules or elements, piece by piece; nothing where the table or the set is missing."""
        sequence = self._next(1)
        self._send(wire.listing(kind, self.table, set_name, sequence=sequence))
        for answer in self._answers(sequence):
            if answer.code not in (0, errno.ENOENT):
                raise refusal(answer.code, f"list the table {self.table!r}")
            if not answer.is_last:
                yield answer.body

    def _next(self, number: int) -> int:
        """Reserve sequence numbers."""
        if self._sequence > 1 << 30:
            self._sequence = 1
        first, self._sequence = self._sequence, self._sequence + number
        return first

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except OSError as exc:
            raise self._broken(exc) from exc

    def _received(self) -> Iterator[wire.Answer]:
        try:
            return wire.answers(self._socket.recv(DATAGRAM))
        except OSError as exc:
            raise self._broken(exc) from exc

    def _answers(self, sequence: int) -> Iterator[wire.Answer]:
        is_done = False
        while not is_done:
            for answer in self._received():
                if answer.sequence == sequence:
                    yield answer
                    is_done = is_done or answer.is_last

    def _broken(self, exc: OSError) -> FirewallError:
        self.close()
        if isinstance(exc, TimeoutError):
            return FirewallError(f"The kernel's nf_tables did not answer within {ANSWER_TIMEOUT:g} s.")
        return refusal(exc.errno or 0, f"talk about the table {self.table!r}")
