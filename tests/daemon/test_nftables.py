"""What is so only with nftables, from an attack to a packet; what is so with either is in ``test_end_to_end.py``."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from amiwatch.firewall import libnftables
from amiwatch.firewall.nftables import NftablesFirewall
from amiwatch.firewall.nftables_rule import NftablesRule
from amiwatch.store import requests
from amiwatch.testing.netns import Wire
from tests.daemon.conftest import PATIENCE, Start
from tests.daemon.test_end_to_end import ATTACKER, arrives, outcome
from tests.firewall.conftest import SBIN

pytestmark = pytest.mark.kernel

PREFIX = "pbx"


def nft(*arguments: str) -> None:
    """Do what an administrator does at a prompt."""
    subprocess.run(["nft", *arguments], check=True, env={**os.environ, "PATH": SBIN})


@pytest.fixture
async def guarded(watched: Start) -> AsyncIterator[Start]:
    """Start a daemon with a table of its own, and leave nothing behind."""
    if why := libnftables.missing():
        pytest.skip(why)
    firewall = NftablesFirewall(PREFIX)
    await firewall.remove_sets()
    # In capitals it is the setting; ``firewall`` would be a firewall of our own instead.
    yield partial(watched, FIREWALL=firewall.name, set_name=PREFIX)
    await firewall.remove_sets()
    await firewall.close()


async def test_a_network_that_is_banned_by_hand_does_not_arrive(guarded: Start, wire: Wire, tmp_path: Path) -> None:
    async with guarded() as it:
        database = tmp_path / "amiwatch.db"
        asked = await asyncio.to_thread(requests.ask, database, "ban", "198.51.100.0/24", by="a test")
        assert (await outcome(database, asked)).is_done
        assert not arrives(wire, ATTACKER)
        assert not arrives(wire, "198.51.100.200")
        assert arrives(wire, "203.0.113.200")
        assert [str(entry.network) for entry in await it.daemon.firewall.entries()] == ["198.51.100.0/24"]


@pytest.mark.parametrize(
    "harm",
    [
        ("flush", "ruleset"),
        ("delete", "table", "inet", PREFIX),
        ("flush", "table", "inet", PREFIX),
        ("flush", "set", "inet", PREFIX, f"{PREFIX}4"),
        ("flush", "chain", "inet", PREFIX, "drop_udp"),
        ("flush", "set", "inet", PREFIX, "udp_ports"),
    ],
    ids=" ".join,
)
async def test_what_somebody_flushed_or_deleted_comes_back(guarded: Start, wire: Wire, harm: tuple[str, ...]) -> None:
    async with guarded() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        nft(*harm)
        assert arrives(wire, ATTACKER)
        async with asyncio.timeout(PATIENCE):
            while arrives(wire, ATTACKER):  # noqa: ASYNC110 - the daemon looks; nobody tells it
                await asyncio.sleep(0.2)


async def test_the_daemon_places_the_rule_itself(guarded: Start) -> None:
    async with guarded() as it:
        state = await NftablesRule(PREFIX).show()
        assert state.is_present
        assert [rule.place for rule in state.families] == [f"the table inet {PREFIX}"] * 2
        assert all(state.references == 6 for state in await it.daemon.firewall.states())
