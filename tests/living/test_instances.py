"""Two amiwatch with different names on one host: neither drops, sees, lifts or removes what is the other's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from amiwatch.config import Settings
from amiwatch.daemon.watch import Daemon
from amiwatch.firewall import leftovers
from amiwatch.store import requests
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import PATIENCE, Watched, Watcher
from tests.daemon.test_end_to_end import ATTACKER, arrives
from tests.living.conftest import PREFIX, Guarded, run, until_dropped

pytestmark = pytest.mark.kernel

SECOND = "living-2"
OTHER_ATTACKER = "198.51.100.99"


async def ask(path: Path, verb: str, target: str = "") -> str:
    number = await asyncio.to_thread(partial(requests.ask, path, verb, target, by="a test"))
    outcome = await asyncio.to_thread(requests.wait_outcome, path, number, PATIENCE)
    assert outcome is not None
    return outcome.text


@pytest.mark.parametrize("second_backend", ["ipset", "nftables"])
async def test_two_instances_do_not_meet(
    guarded: Guarded,
    wire: Wire,
    tmp_path: Path,
    settings_for: Callable[..., Settings],
    second_backend: str,
) -> None:
    async with guarded() as first, FakeAsterisk() as pbx:
        settings = settings_for(
            pbx, FIREWALL=second_backend, set_name=SECOND, database=str(tmp_path / "second.db"), ports="5060"
        )
        watcher = Watcher()
        daemon = Daemon(settings, listeners=[watcher])
        task = asyncio.create_task(daemon.run())
        try:
            second = Watched(daemon, watcher, pbx, task)
            await watcher.until(lambda: "hearing" in watcher.links)
            await second.attack(OTHER_ATTACKER)
            await watcher.until_banned(f"{OTHER_ATTACKER}/32")
            assert not arrives(wire, ATTACKER)
            assert not arrives(wire, OTHER_ATTACKER)
            assert [ban for ban, _ in first.watcher.bans if str(ban.address) == OTHER_ATTACKER] == []
            # Panic of one leaves the other at work.
            await ask(tmp_path / "second.db", "panic")
            assert arrives(wire, OTHER_ATTACKER)
            await until_dropped(wire)
            assert await ask(tmp_path / "second.db", "resume") == "1 ban in force again"
            assert not arrives(wire, OTHER_ATTACKER)
            await ask(tmp_path / "amiwatch.db", "unban-all")
            assert not arrives(wire, OTHER_ATTACKER)
            assert arrives(wire, ATTACKER)
        finally:
            daemon.stop()
            async with asyncio.timeout(PATIENCE):
                await task
        for kind in leftovers.RULES:
            await leftovers.remove(kind, SECOND)
        assert arrives(wire, OTHER_ATTACKER)
        everything = run("ipset", "list", "-n") + run("nft", "--stateless", "list", "ruleset")
        assert SECOND not in everything.lower()
        assert PREFIX in everything
        await ask(tmp_path / "amiwatch.db", "ban", ATTACKER)
        assert not arrives(wire, ATTACKER)
