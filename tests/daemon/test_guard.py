"""Ports that are learned from events: closed with real packets, kept across a restart, and never ssh's."""

import asyncio
import socket
from pathlib import Path

import pytest

from amiwatch.daemon import guard, listening
from amiwatch.store.reader import Reader
from amiwatch.testing.builders import Case, attempt_bytes
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import PATIENCE, Start, Watched
from tests.daemon.test_end_to_end import ATTACKER, PHONE, arrives

MOVED = 38000


async def login(it: Watched, port: int, *, transport: str = "UDP") -> None:
    """Let a phone log in to Asterisk on this port."""
    local = f"IPV4/{transport}/192.0.2.1/{port}"
    await it.pbx.emit(attempt_bytes(Case.RIGHT_PASSWORD, source=PHONE, transport=transport, LocalAddress=local))


async def until_learned(it: Watched, *ports: int) -> None:
    """Wait until just these ports are known, and that of the manager interface, which our own login teaches."""
    async with asyncio.timeout(PATIENCE):
        while {port.number for port in it.daemon.guard.learned} != {*ports, it.pbx.port}:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


@pytest.mark.kernel
async def test_who_moved_asterisk_gets_the_new_port_closed_without_telling_us(
    guarded: Start, wire: Wire, tmp_path: Path
) -> None:
    async with guarded() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        assert arrives(wire, ATTACKER, port=MOVED)
        await login(it, MOVED)
        async with asyncio.timeout(PATIENCE):
            while arrives(wire, ATTACKER, port=MOVED):  # noqa: ASYNC110 - the daemon looks; nobody tells it
                await asyncio.sleep(0.1)
        assert arrives(wire, ATTACKER, port=MOVED + 1)
        await it.daemon.flush()
    with Reader(tmp_path / "amiwatch.db") as reader:
        assert ("udp", MOVED, "pbx") in [port[:3] for port in reader.learned_ports()]

    async with guarded() as it:  # the first look at the rule has it already
        assert not arrives(wire, ATTACKER, port=MOVED)


@pytest.mark.kernel
async def test_explicit_ports_are_what_was_said_and_nothing_is_learned(guarded: Start, wire: Wire) -> None:
    async with guarded(ports="5060") as it:
        await login(it, MOVED)
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        await it.daemon._reconcile()
        assert not it.daemon.guard.learned
        assert arrives(wire, ATTACKER, port=MOVED)


async def test_ssh_is_never_learned_wherever_it_listens(
    watched: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sshd_config").write_text("# Port 1\nPort 2222\nListenAddress 192.0.2.1:2022\nListenAddress ::1\n")
    (tmp_path / "sshd_config.d").mkdir()
    (tmp_path / "sshd_config.d" / "more.conf").write_text("port 2223\nPort none\n")
    monkeypatch.setattr(listening, "SSH_CONFIG", tmp_path)
    assert {22, 2222, 2223, 2022} <= listening.ssh_ports()
    assert not {1, 5060} & listening.ssh_ports()
    async with watched(FIREWALL="none") as it:
        for port in (22, 2222, 2223, 2022, MOVED):
            await login(it, port, transport="TCP" if port < 5000 else "UDP")
        await until_learned(it, MOVED)


def test_the_port_of_a_running_ssh_server_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    name = Path("/proc/self/comm").read_text().strip()
    monkeypatch.setattr(listening, "SSH_PROGRAMS", frozenset({name}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in listening.ssh_ports()


async def test_a_connection_that_asterisk_made_itself_teaches_no_port(watched: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listened = server.getsockname()[1]
        made = listened - 1 if listened - 1 > 32768 else listened + 1
        async with watched(FIREWALL="none") as it:
            await login(it, made, transport="TCP")
            await login(it, listened, transport="TCP")
            await until_learned(it, listened)


async def test_ports_are_bounded_and_more_are_said(watched: Start, caplog: pytest.LogCaptureFixture) -> None:
    numbers = range(7001, 7000 + guard.MAX_LEARNED)
    async with watched(FIREWALL="none") as it:
        for port in numbers:
            await login(it, port)
        await until_learned(it, *numbers)
        await login(it, 9000)
        async with asyncio.timeout(PATIENCE):
            while "name the ports" not in caplog.text:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert len(it.daemon.guard.learned) == guard.MAX_LEARNED
