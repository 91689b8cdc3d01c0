"""Many entries at once, in the real sets of both backends."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, IPv6Network

import pytest

from amiwatch.firewall.base import Entry
from tests.firewall.conftest import fresh_ipset, fresh_nftables, many, networks

pytestmark = pytest.mark.kernel

NUMBER = 20_000


@pytest.fixture(params=[fresh_ipset, fresh_nftables], ids=["ipset", "nftables"])
async def firewall(request):
    async with request.param(maxelem=NUMBER) as opened:
        yield opened


async def test_twenty_thousand_entries_come_back_as_they_went(firewall):
    wanted = many(NUMBER)
    assert await firewall.add([Entry(network, 3600) for network in wanted]) == []
    assert [state.count for state in await firewall.states()] == [NUMBER // 2] * 2

    listed = await firewall.entries()
    assert len(listed) == NUMBER
    assert {entry.network for entry in listed} == set(wanted)
    assert all(entry.seconds is not None and 3500 < entry.seconds <= 3600 for entry in listed)

    await firewall.remove(wanted[::2])
    assert await networks(firewall) == set(wanted[1::2])


async def test_a_list_is_handed_out_in_pieces_that_are_no_longer_than_a_turn_of_the_loop(firewall):
    await firewall.add([Entry(network, 3600) for network in many(NUMBER)])
    pieces = []
    await firewall.walk(pieces.append)
    assert sorted(entry.network for piece in pieces for entry in piece if entry.network.version == 4) == sorted(
        network for network in many(NUMBER) if network.version == 4
    )
    assert max(map(len, pieces)) <= 1000


class Late(ThreadPoolExecutor):
    """What the first thread did is told late, as on a busy machine."""

    is_late = True

    def submit(self, work, /, *arguments):
        def told_late():
            result = work(*arguments)
            if self.is_late:
                self.is_late = False
                time.sleep(0.2)
            return result

        return super().submit(told_late)


async def test_others_have_their_turn_between_two_pieces_of_a_list(firewall):
    await firewall.add([Entry(network, 3600) for network in many(NUMBER)])
    asyncio.get_running_loop().set_default_executor(Late())
    turns, pieces = 0, []

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(turn())
    await firewall.walk(lambda entries: pieces.append(turns) if entries else None)
    busy.cancel()
    assert len(pieces) == len(set(pieces)) > 10


async def test_the_event_loop_turns_while_a_large_batch_is_added_listed_and_removed(firewall):
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    wanted = many(NUMBER)
    async with asyncio.TaskGroup() as group:
        busy = group.create_task(turn(), name="busy")
        for work in (
            firewall.add([Entry(network, 600) for network in wanted]),
            firewall.entries(),
            firewall.remove(wanted),
        ):
            turns = 0
            await work
            assert turns >= NUMBER // 2100
        busy.cancel()


async def test_a_list_that_nobody_waits_for_any_more_confuses_nothing(firewall):
    wanted = many(NUMBER)
    await firewall.add([Entry(network, 600) for network in wanted])
    for turns in range(0, 60, 6):
        listing = asyncio.create_task(firewall.entries())
        for _ in range(turns):
            await asyncio.sleep(0)
        listing.cancel()
        await asyncio.gather(listing, return_exceptions=True)
    assert await networks(firewall) == set(wanted)
    assert await firewall.has(wanted[0])


async def test_single_bans_get_in_while_the_sets_are_listed(firewall):
    await firewall.add([Entry(network, 600) for network in many(NUMBER - 4)])
    listing = asyncio.create_task(firewall.entries())
    late = [IPv4Network("198.51.100.7/32"), IPv6Network("2001:db8:ffff:7::/64")]
    for network in late:
        if not firewall.add_now(Entry(network, 600)):
            await firewall.add([Entry(network, 600)])
    assert [await firewall.has(network) for network in late] == [True, True]
    assert len(await listing) >= NUMBER - 4
