"""Whoever is banned loses the session that he had, while the daemon goes on."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Network, ip_network

import pytest

from amiwatch.daemon.aftermath import MAX_WAITING, Aftermath
from amiwatch.firewall.scope import Scope
from amiwatch.testing.netns import Wire

pytestmark = pytest.mark.kernel

ATTACKER = "198.51.100.7"


@asynccontextmanager
async def running(after: Aftermath) -> AsyncIterator[Aftermath]:
    task = asyncio.create_task(after.run())
    try:
        yield after
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Asterisk:
    """Reads from whoever connects, and notices how that ends."""

    def __init__(self) -> None:
        self.began, self.ended, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.began.set()
        try:
            await reader.read()
        except ConnectionAbortedError:
            self.ended.set()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.closed.set()


@asynccontextmanager
async def session(wire: Wire) -> AsyncIterator[tuple[Asterisk, socket.socket]]:
    asterisk, loop = Asterisk(), asyncio.get_running_loop()
    async with asyncio.timeout(10), await asyncio.start_server(asterisk.hear, wire.here[4], 8089):
        with wire.far_socket(ATTACKER, socket.SOCK_STREAM) as far:
            far.setblocking(False)
            await loop.sock_connect(far, (wire.here[4], 8089))
            await asterisk.began.wait()
            yield asterisk, far
        await asterisk.closed.wait()


async def test_a_session_ends_at_both_sides_once_its_source_is_banned(wire: Wire) -> None:
    async with session(wire) as (asterisk, far), running(Aftermath(Scope, forgets=False)) as after:
        after.cut_off(ip_network(f"{ATTACKER}/32"))
        await asterisk.ended.wait()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(far, 1)
        await after.settle()
    assert after.sessions == 1


async def test_a_flood_of_bans_gives_up_the_oldest_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    after = Aftermath(Scope, forgets=False)
    for number in range(MAX_WAITING + 3):
        after.cut_off(IPv4Network((0xC6336400 + number, 32)))
    assert after.skipped == 3
    assert [record.args for record in caplog.records] == [(1,), (2,)]


def give_up_rights() -> None:
    """Let this thread, and no other, have no rights at all."""
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    assert not ctypes.CDLL(None).capset(header, none)


async def test_without_rights_it_says_so_once_and_goes_on(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with ThreadPoolExecutor(initializer=give_up_rights) as powerless:
        asyncio.get_running_loop().set_default_executor(powerless)
        async with session(wire) as (asterisk, far), running(Aftermath(Scope, forgets=False)) as after:
            for _ in range(3):
                after.cut_off(ip_network(f"{ATTACKER}/32"))
                await after.settle()
            far.send(b"still here")
            assert not asterisk.ended.is_set()
    assert [record.args[0].args[0] for record in caplog.records] == [
        "The kernel refused to end TCP sessions: it needs CAP_NET_ADMIN."
    ]
