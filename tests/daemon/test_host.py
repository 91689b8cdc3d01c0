"""Who is never banned because of this machine, and a name server that does not answer."""

import asyncio
import logging
import os
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from amiwatch.daemon import allowlist, host
from amiwatch.testing.firewall import FakeFirewall
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import Start
from tests.nameserver import NameServer


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "RESOLVERS", tmp_path / "resolv.conf")
    monkeypatch.setattr(host, "SESSIONS", tmp_path / "utmp")
    monkeypatch.setattr(host, "LOGIND", tmp_path / "sessions")
    return tmp_path


@pytest.fixture
def silence() -> Iterator[None]:
    """Let every question hang, as a name server does that is unplugged: a real one keeps the C library 10 s."""
    yield
    host._lookups.clear()
    host._late.clear()


def session(address: bytes, kind: int = 7) -> bytes:
    return struct.pack("<hxxi32s4s32s256shhiii16s20x", kind, 1, b"pts/0", b"", b"alice", b"far", 0, 0, 1, 0, 0, address)


async def test_resolvers_are_safe_and_lines_that_make_no_sense_are_left_out(files: Path) -> None:
    text = (
        "search x\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver\nnameserver what?\nnameserver 0.0.0.0\n"
    )
    (files / "resolv.conf").write_bytes(text.encode() + b"\xff\xfe nameserver\n")
    safe = await host.safe_networks()
    assert safe[ip_network("192.0.2.53")] == "a name server of this machine"
    assert ip_network("fe80::1") in safe
    assert ip_network("0.0.0.0") not in safe


async def test_administrators_who_are_logged_in_are_safe(files: Path) -> None:
    four, six = ip_address("198.51.100.9"), ip_address("2001:db8::9")
    records = [session(four.packed), session(six.packed), session(ip_address("198.51.100.10").packed, kind=8)]
    (files / "utmp").write_bytes(b"".join([*records, session(b""), b"half a record"]))
    safe = await host.safe_networks()
    assert {ip_network(four), ip_network(six)} <= safe.keys()
    assert ip_network("198.51.100.10") not in safe


async def test_administrators_whom_only_logind_knows_are_safe_and_its_pipes_hang_nobody(files: Path) -> None:
    sessions = files / "sessions"
    sessions.mkdir()
    (sessions / "4").write_text("# private\nUID=0\nREMOTE=1\nREMOTE_HOST=198.51.100.9\nSERVICE=sshd\n")
    (sessions / "5").write_text("REMOTE_HOST=2001:db8::9%eth0\n")
    (sessions / "6").write_text("REMOTE_HOST=home.example\nREMOTE=1\n")
    (sessions / "7").write_bytes(b"\xff\xfe\0REMOTE_HOST")
    os.mkfifo(sessions / "4.ref")
    async with asyncio.timeout(5):
        safe = await host.safe_networks()
    assert {ip_network("198.51.100.9"), ip_network("2001:db8::9")} <= safe.keys()


async def test_missing_files_are_no_error(files: Path) -> None:
    assert isinstance(await host.safe_networks(), dict)


@pytest.mark.kernel
async def test_own_addresses_are_safe(files: Path) -> None:
    with Wire() as wire:
        safe = await host.safe_networks()
    for address in wire.here.values():
        assert safe[ip_network(address)] == "an address of this machine"


@pytest.mark.parametrize(
    "name", ["a" * 64 + ".example", "x..example", "nul\0.example", "\udcff.example", "", "ü" * 300]
)
async def test_a_name_that_no_name_server_can_be_asked_for_has_no_address(name: str) -> None:
    assert not await host.lookup(name)


async def test_an_address_needs_no_name_server() -> None:
    assert await host.lookup("192.0.2.1") == [ip_address("192.0.2.1")]
    assert ip_address("127.0.0.1") in await host.lookup("localhost")


@pytest.mark.usefixtures("silence")
async def test_a_silent_name_server_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def silent(*_: object, **__: object) -> list[object]:
        answer.wait()
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    monkeypatch.setattr(host, "LOOKUP_TIMEOUT", 0.1)
    names = [f"{number}.example" for number in range(2 * host.MAX_LOOKUPS)]
    found = await asyncio.gather(*map(host.lookup, names))
    assert found == [None] * len(names)
    assert len(host._lookups) == host.MAX_LOOKUPS
    assert await host.lookup(names[0]) is None
    async with asyncio.timeout(10):  # the event loop's own threads are free
        await asyncio.gather(*(asyncio.to_thread(int) for _ in range(20)))
    answer.set()


@pytest.mark.kernel
async def test_a_name_that_nobody_has_is_told_from_a_silent_name_server() -> None:
    with NameServer({"office.example": "198.51.100.1"}):
        assert await host.lookup("office.example") == [ip_address("198.51.100.1")]
        assert await host.lookup("nobody.example") == []
    assert await host.lookup("later.example") is None  # nobody is there any more


@pytest.mark.kernel
async def test_an_answer_that_comes_late_is_there_at_the_next_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LOOKUP_TIMEOUT", 0.2)
    with NameServer({"slow.example": "198.51.100.2"}, silent=frozenset({"slow.example"})) as server:
        assert await host.lookup("slow.example") is None
        server.speak()
        async with asyncio.timeout(10):
            while (found := await host.lookup("slow.example")) is None:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.05)
    assert found == [ip_address("198.51.100.2")]


@pytest.mark.kernel
async def test_a_daemon_asks_again_soon_for_whom_a_late_answer_protects(
    watched: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host, "LOOKUP_TIMEOUT", 0.2)
    monkeypatch.setattr(allowlist, "ASK_AGAIN", 0.1)
    caplog.set_level(logging.INFO)
    # A name of its own: the answer to another test's question may come while this one runs.
    with NameServer({"late.example": "203.0.113.9"}, silent=frozenset({"late.example"})) as server:
        async with watched(FakeFirewall(), allowlist="late.example") as it:
            assert ip_network("203.0.113.9") not in it.daemon.allowlist.networks
            server.speak()
            async with asyncio.timeout(40):  # a question that gets lost is asked again after five seconds, twice
                while ip_network("203.0.113.9") not in it.daemon.allowlist.networks:  # noqa: ASYNC110 - nobody is told
                    await asyncio.sleep(0.05)
    assert caplog.text.count("allowlist name not resolved name='late.example' reason=no name server answers") == 1
    assert caplog.text.count("allowlist name resolved name='late.example'") == 1
