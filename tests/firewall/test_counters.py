"""What the kernel counts for each ban: it goes on where the ban does, and begins at 0 with a new one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from amiwatch.firewall.base import Entry, Firewall
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.table import make_rule
from amiwatch.testing.netns import Wire
from tests.firewall.conftest import fresh_ipset, fresh_nftables, settled

pytestmark = pytest.mark.kernel

ATTACKER, ATTACKER6 = "198.51.100.7", "2001:db8:bad::7"
NETWORKS = {4: ip_network(ATTACKER), 6: ip_network("2001:db8:bad::/64")}


@pytest.fixture(params=[fresh_ipset, fresh_nftables], ids=["ipset", "nftables"])
async def firewall(request: pytest.FixtureRequest, iptables_present: None) -> AsyncIterator[Firewall]:
    async with request.param() as firewall:
        rule = make_rule(firewall.name, firewall.prefix)
        await rule.install(Protection())
        yield firewall
        await rule.remove()


def send(wire: Wire, number: int) -> None:
    for _ in range(number):
        wire.send_from(ATTACKER, 5060, b"OPTIONS")
        wire.send_from(ATTACKER6, 5060, b"OPTIONS")
    settled(wire, 4, 6)


async def counts(firewall: Firewall) -> dict[int, int]:
    return {entry.network.version: entry.packets for entry in await firewall.entries()}


async def test_a_new_timeout_neither_loses_nor_doubles_what_was_counted(firewall: Firewall, wire: Wire) -> None:
    await firewall.add([Entry(network, 600, is_new=True) for network in NETWORKS.values()])
    send(wire, 7)
    assert await counts(firewall) == {4: 7, 6: 7}
    await firewall.add([Entry(network, 3600) for network in NETWORKS.values()])
    send(wire, 2)
    assert await counts(firewall) == {4: 9, 6: 9}
    assert all((entry.seconds or 0) > 600 for entry in await firewall.entries())


async def test_a_ban_right_after_one_that_ran_out_counts_from_nothing(firewall: Firewall, wire: Wire) -> None:
    await firewall.add([Entry(network, 1, is_new=True) for network in NETWORKS.values()])
    send(wire, 7)
    async with asyncio.timeout(10):
        while any([await firewall.has(network) for network in NETWORKS.values()]):  # noqa: ASYNC110 - the kernel's clock
            await asyncio.sleep(0.05)
    for network in NETWORKS.values():
        entry = Entry(network, 600, is_new=True)
        if not firewall.add_now(entry):
            await firewall.add([entry])
    assert await counts(firewall) == {4: 0, 6: 0}
    send(wire, 2)
    assert await counts(firewall) == {4: 2, 6: 2}


async def test_a_new_ban_counts_from_nothing_even_if_the_old_one_is_still_there(firewall: Firewall, wire: Wire) -> None:
    for _ in range(2):
        await firewall.add([Entry(network, 600, is_new=True) for network in NETWORKS.values()])
        assert await counts(firewall) == {4: 0, 6: 0}
        send(wire, 3)
        assert await counts(firewall) == {4: 3, 6: 3}
