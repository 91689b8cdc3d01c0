"""A name server at the address that this machine asks, in the private network of the tests."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from pyroute2 import IPRoute

LOOPBACK = 1
PORT = 53
_A, _ANSWER, _NO_SUCH_NAME = 1, 0x8180, 0x8183
"""RFC 1035, 3.2.2 and 4.1.1."""


class NameServer:
    """Answers with one IPv4 address for each name, that there is no such name, or for ``silent`` names not at all."""

    def __init__(self, addresses: Mapping[str, str], *, silent: frozenset[str] = frozenset()) -> None:
        self.addresses = addresses
        self.silent = silent
        self.is_asked = threading.Event()
        """Somebody has asked for a silent name."""
        self._waiting: list[tuple[bytes, object]] = []
        self._lock = threading.Lock()
        """So that no question comes to wait after all that wait were answered."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._address = _server()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._put("add")
        self._socket.bind((self._address, PORT))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # says that nobody is connected, and wakes the thread all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._put("del")

    def speak(self) -> None:
        """Answer what was asked meanwhile, and everything from now on."""
        with self._lock:
            self.silent = frozenset()
        for question, asker in self._waiting:
            self._socket.sendto(self._answer(question), asker)  # type: ignore[arg-type]

    def _put(self, verb: str) -> None:
        def work() -> None:
            with IPRoute() as routes:
                routes.addr(verb, index=LOOPBACK, address=self._address, prefixlen=32)

        if not ip_address(self._address).is_loopback:
            with ThreadPoolExecutor(1) as aside:  # pyroute2 wants a thread without an event loop
                aside.submit(work).result()

    def _serve(self) -> None:
        while True:
            try:
                question, asker = self._socket.recvfrom(512)
            except OSError:
                return
            if not question:  # shut down
                return
            with self._lock:
                if is_silent := _name(question) in self.silent:
                    self._waiting.append((question, asker))
            if is_silent:
                self.is_asked.set()
            else:
                self._socket.sendto(self._answer(question), asker)

    def _answer(self, question: bytes) -> bytes:
        name, end = _name(question), question.index(0, 12) + 5
        address = self.addresses.get(name)
        (kind,) = struct.unpack_from(">H", question, end - 4)
        records = b""
        if address is not None and kind == _A:
            records = struct.pack(">HHHIH4s", 0xC00C, _A, 1, 0, 4, ip_address(address).packed)
        flags = _NO_SUCH_NAME if address is None else _ANSWER
        return question[:2] + struct.pack(">5H", flags, 1, bool(records), 0, 0) + question[12:end] + records


def _server() -> str:
    """Return whom the C library asks, of IPv4."""
    if "resolve" in _line("/etc/nsswitch.conf", r"^hosts:(.*)$"):
        pytest.skip("this machine asks systemd-resolved, which is no name server of the tests")
    return _line("/etc/resolv.conf", r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$") or "127.0.0.1"


def _line(path: str, pattern: str) -> str:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _name(question: bytes) -> str:
    at, labels = 12, []
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels).lower()
