"""The daemon with the rights of its systemd unit, and ipset: root places a rule again that somebody threw away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from amiwatch.testing.netns import Wire
from tests.daemon.test_end_to_end import ATTACKER, PHONE, arrives
from tests.living.conftest import install_theirs, run, theirs
from tests.living.test_neighbours import accept_in_front, destroy_sets, flush_iptables, restore_without_us
from tests.living.unit import Unit, lone_daemon, rule_path, until_arriving

pytestmark = pytest.mark.kernel

HARMS = {
    "iptables -F of every table": flush_iptables,
    "iptables-restore without our lines": restore_without_us,
    "nft flush ruleset": lambda: run("nft", "flush", "ruleset"),
    "ipset destroy": destroy_sets,
    "accept in front of us": accept_in_front,
}


@pytest.fixture
async def unit(tmp_path: Path) -> AsyncIterator[Unit]:
    runtime = tmp_path / "run"
    runtime.mkdir()
    install_theirs()
    async with lone_daemon(tmp_path, runtime=runtime, FIREWALL="ipset") as it, rule_path(it, runtime):
        yield it


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
async def test_the_drop_is_back_within_five_seconds_and_nothing_of_theirs_is_touched(
    unit: Unit, wire: Wire, harm: Callable[[], object]
) -> None:
    await unit.ban(ATTACKER)
    await until_arriving(wire, ATTACKER, is_arriving=False)
    await asyncio.to_thread(harm)
    after = theirs()
    await until_arriving(wire, ATTACKER, is_arriving=False)
    assert theirs() == after
    assert arrives(wire, PHONE)


async def test_a_missing_rule_is_said_and_so_is_that_it_is_back(unit: Unit, wire: Wire) -> None:
    await asyncio.to_thread(flush_iptables)
    await unit.until_said("so nothing is dropped: systemd is asked for amiwatch-rule.service")
    await unit.until_said("a rule uses our sets again")


async def test_tiers_are_placed_by_root_too(unit: Unit) -> None:
    said = await unit.amiwatch("firewall", "tiers", "on")
    assert "not" not in said
    async with asyncio.timeout(20):
        while "tier 3 in 60 s" not in await unit.amiwatch("firewall", "show"):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.2)
