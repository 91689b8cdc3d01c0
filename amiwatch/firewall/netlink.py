"""A blocking netlink conversation in our own bytes, for what pyroute2 has no call for, or decodes too slowly."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Self

ANSWER_TIMEOUT = 5.0
"""Longest wait for one answer of the kernel, in seconds: it takes microseconds, and milliseconds for a long list."""

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
"""Flags of a request (linux/netlink.h)."""

_DATAGRAM = 1 << 18
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")


class Netlink:
    """One socket of a netlink family (linux/netlink.h). Everything raises OSError."""

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.settimeout(ANSWER_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> Iterator[memoryview]:
        """
        Send a request and return the bodies of what is answered, up to the end or an acknowledgement.

        Take all of them before the next request: the answers come on one socket.
        """
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, 1, 0) + body)
        while True:
            datagram = memoryview(self._socket.recv(_DATAGRAM))
            while len(datagram) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(datagram)
                answer, datagram = datagram[_HEADER.size : length], datagram[length + -length % 4 :]
                if kind in (_ERROR, _DONE):
                    code = -int(struct.unpack_from("=i", answer)[0]) if len(answer) >= 4 else 0
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield answer
