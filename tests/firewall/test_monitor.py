"""Whoever changes nftables is heard of, and a flood of bans is not."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from amiwatch.firewall.base import Entry
from amiwatch.firewall.monitor import Monitor
from tests.firewall.conftest import fresh_nftables, run

pytestmark = pytest.mark.kernel


class Heard:
    def __init__(self) -> None:
        self.times = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.times += 1
        self._event.set()

    async def anything(self) -> bool:
        """Tell whether anything is heard: the kernel tells within the change itself, so a moment is long enough."""
        try:
            async with asyncio.timeout(0.5):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    found = Heard()
    monitor = Monitor(found)
    monitor.open()
    yield found
    monitor.close()
    monitor.close()


@pytest.mark.parametrize(
    "change",
    [
        ("nft", "flush ruleset"),
        ("nft", "delete table inet theirs"),
        ("nft", "flush chain inet theirs input"),
        ("nft", "insert rule inet theirs input accept"),
        ("nft", "delete set inet theirs some"),
        ("iptables-nft", "-t", "raw", "-I", "PREROUTING", "-j", "ACCEPT"),
    ],
    ids=" ".join,
)
async def test_a_change_of_rules_is_heard(change: tuple[str, ...]) -> None:
    run("nft", "add table inet theirs; add chain inet theirs input { type filter hook input priority 0; }")
    run("nft", "add rule inet theirs input accept; add set inet theirs some { type ipv4_addr; }")
    run("nft", "add element inet theirs some { 192.0.2.1 }")
    found = Heard()
    monitor = Monitor(found)
    monitor.open()
    try:
        assert not await found.anything()
        run(*change)
        assert await found.anything()
    finally:
        monitor.close()
        run("nft", "flush ruleset")


async def test_a_flood_of_bans_wakes_nobody(heard: Heard) -> None:
    async with fresh_nftables(maxelem=20_000) as firewall:
        await heard.anything()
        heard.times = 0
        await firewall.add([Entry(ip_network((0x0B000000 + number, 32)), 600) for number in range(10_000)])
        assert firewall.add_now(Entry(ip_network("198.51.100.7"), 600))
        assert not await heard.anything()
        await firewall.remove([ip_network("198.51.100.7")])
        await firewall.clear()
        assert not await heard.anything()
        await firewall.remove_sets()
        assert await heard.anything()
