"""What follows a ban, with the whole daemon: sums in the database, and sessions that end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.daemon.watch import Daemon
from amiwatch.store import requests, schema
from amiwatch.store.reader import Reader
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import event_bytes
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import PREFIX, Start
from tests.firewall.conftest import SBIN, settled, talk

pytestmark = pytest.mark.kernel

ATTACKER = "198.51.100.20"
NETWORK = ip_network(f"{ATTACKER}/32")


async def test_the_packets_of_a_ban_are_summed_up_over_a_restart(guarded: Start, wire: Wire, tmp_path: Path) -> None:
    async def dropped() -> int:
        settled(wire, 4)
        store = it.daemon.store
        await it.daemon.counting.look(store, it.daemon.now.utc(it.daemon.now()))
        await it.daemon.flush()
        with Reader(tmp_path / "amiwatch.db") as reader:
            return reader.history(NETWORK)[0].packets

    async with guarded() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(str(NETWORK))
        for _ in range(41):
            wire.send_from(ATTACKER, 5060, b"REGISTER")
        assert await dropped() == 41
    wire.send_from(ATTACKER, 5060, b"REGISTER")
    async with guarded() as it:
        wire.send_from(ATTACKER, 5060, b"REGISTER")
        assert await dropped() == 43
        assert await dropped() == 43


async def test_the_session_of_an_attacker_ends_with_his_ban(guarded: Start, wire: Wire) -> None:
    began, ended, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def asterisk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began.set()
        try:
            await reader.read()
        except ConnectionAbortedError:
            ended.set()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        closed.set()

    loop = asyncio.get_running_loop()
    async with guarded() as it, await asyncio.start_server(asterisk, wire.here[4], 5061):
        with wire.far_socket(ATTACKER, socket.SOCK_STREAM) as far:
            far.setblocking(False)
            await loop.sock_connect(far, (wire.here[4], 5061))
            await began.wait()
            await it.attack(ATTACKER, transport="TLS")
            async with asyncio.timeout(10):
                await ended.wait()
            await closed.wait()
            await it.daemon.aftermath.settle()
        assert it.daemon.books.status().counters["sessions_cut"] == 1


@pytest.mark.parametrize("guarded", ["ipset"], indirect=True)
async def test_a_ban_that_drops_nothing_is_told_loudly(guarded: Start, tmp_path: Path) -> None:
    async with guarded(ports="5080/udp") as it:  # a list without "voip", to which nothing is added
        await it.attack(ATTACKER)
        await it.watcher.until_banned(str(NETWORK))
        now = time.time()
        for number in range(20):
            if it.watcher.alerts:
                break
            data = event_bytes("InvalidAccountID", source=ATTACKER, at=now + 3600 + number, session=str(number))
            await it.pbx.emit(data)
            await asyncio.sleep(1)  # as time goes by for a real one
        await it.watcher.until(lambda: bool(it.watcher.alerts))
        await it.daemon.flush()
    (alert,) = it.watcher.alerts
    assert alert.kind == "ban_not_working"
    assert "it comes to udp port 5060, which is not among the ports that are closed" in alert.reason
    assert alert.reason.endswith("Add the port to AMIWATCH_PORTS, as in voip,5060/udp.")
    with Reader(tmp_path / "amiwatch.db") as reader:
        assert "port 5060" in reader.status().counters["ban_not_working"]
        (stored,) = [one for one in reader.alerts() if one.kind == "ban_not_working"]
        assert stored.address == ATTACKER


@pytest.mark.parametrize("guarded", ["ipset"], indirect=True)
async def test_a_ban_by_hand_cuts_sessions_without_a_daemon_too(
    guarded: Start, wire: Wire, settings_for, tmp_path: Path
) -> None:
    with wire.far_socket(ATTACKER, socket.SOCK_STREAM) as far, socket.create_server((wire.here[4], 5061)) as server:
        far.connect((wire.here[4], 5061))
        near, _ = server.accept()
        with near:
            async with FakeAsterisk() as pbx:
                settings = settings_for(pbx, firewall="ipset", set_name=PREFIX)
            schema.prepare(settings.database)
            requests.ask(settings.database, "ban", ATTACKER, by="alice")
            await Daemon(settings).attend_once()
            with pytest.raises(ConnectionAbortedError):
                near.recv(1)


@pytest.mark.parametrize("guarded", ["ipset"], indirect=True)
async def test_a_rule_behind_an_accept_of_the_established_drops_an_attacker_all_the_same(
    guarded: Start, wire: Wire
) -> None:
    accepting = ["INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]
    dropping = ["INPUT", "-m", "set", "--match-set", f"{PREFIX}4", "src", "-j", "DROP"]

    def iptables(*arguments: str) -> None:
        subprocess.run(["iptables", *arguments], check=True, env={**os.environ, "PATH": SBIN})

    async with guarded(drop_rule="manual") as it:
        iptables("-A", *accepting)
        iptables("-A", *dropping)
        try:
            assert talk(wire, ATTACKER, 4)
            await it.attack(ATTACKER)
            await it.watcher.until_banned(str(NETWORK))
            await it.daemon.aftermath.settle()
            assert it.daemon.aftermath.connections == 1
            assert not talk(wire, ATTACKER, 4)
        finally:
            iptables("-D", *accepting)
            iptables("-D", *dropping)
