"""A panic on the real kernel: everybody gets through, however often somebody adds to our sets, until it is over."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.firewall.base import Entry
from amiwatch.firewall.table import make_firewall
from amiwatch.store import requests
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import Start
from tests.daemon.test_end_to_end import ATTACKER, ATTACKER6, arrives
from tests.living.conftest import PATIENCE, PREFIX, Guarded, theirs, until_dropped

pytestmark = pytest.mark.kernel


async def ask(path: Path, verb: str) -> str:
    number = await asyncio.to_thread(partial(requests.ask, path, verb, "", by="a test"))
    outcome = await asyncio.to_thread(requests.wait_outcome, path, number, PATIENCE)
    assert outcome is not None
    return outcome.text


async def test_everybody_gets_through_until_it_is_over_and_nothing_of_others_is_touched(
    guarded: Guarded, watched: Start, wire: Wire, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "amiwatch.db"
    async with guarded() as it:
        before = theirs()
        assert await ask(path, "panic") == "nothing is dropped until 'amiwatch resume'; 2 bans held"
        assert arrives(wire, ATTACKER)
        assert arrives(wire, ATTACKER6)
        assert theirs() == before
        other = make_firewall(backend, prefix=PREFIX)
        await other.add([Entry(ip_network(f"{ATTACKER}/32"), 600)])
        await other.close()
        assert not arrives(wire, ATTACKER)
        async with asyncio.timeout(PATIENCE):
            while not arrives(wire, ATTACKER):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.1)
        it.daemon.stop()
        await it.task
        async with watched(FIREWALL=backend, set_name=PREFIX):
            assert arrives(wire, ATTACKER)
            assert await ask(path, "resume") == "2 bans in force again"
            assert not arrives(wire, ATTACKER)
            await until_dropped(wire)
            assert theirs() == before


async def test_systemd_is_told(watched: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with watched(FIREWALL="none"):
            await ask(tmp_path / "amiwatch.db", "panic")
            said = ""
            while "PANIC" not in said:
                said = (await asyncio.to_thread(systemd.recv, 4096)).decode()
            assert said.startswith("STATUS=PANIC: nothing is dropped until 'amiwatch resume'; 0 bans held; ")
            await ask(tmp_path / "amiwatch.db", "resume")
            while "PANIC" in said:
                said = (await asyncio.to_thread(systemd.recv, 4096)).decode()
