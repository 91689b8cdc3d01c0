"""What every firewall does, real or not."""

import sys
from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest

from amiwatch.errors import FirewallError
from amiwatch.firewall.base import MAX_TIMEOUT, Entry, Firewall
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.testing.firewall import FakeFirewall
from tests.firewall.conftest import fresh_ipset, fresh_nftables, many, networks, run

CAPACITY = 8
HOST, OFFICE, SITE = ip_network("198.51.100.7"), ip_network("203.0.113.0/24"), ip_network("2001:db8:7::/64")

REAL = {"ipset": fresh_ipset, "nftables": fresh_nftables}
WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw")


@pytest.fixture(params=["fake", "none", *(pytest.param(name, marks=pytest.mark.kernel) for name in REAL)])
async def firewall(request: pytest.FixtureRequest) -> AsyncIterator[Firewall]:
    if request.param in REAL:
        async with REAL[request.param](maxelem=CAPACITY) as real:
            yield real
        return
    pretended = {"fake": FakeFirewall, "none": DryRunFirewall}[request.param](capacity=CAPACITY)
    await pretended.open()
    yield pretended
    await pretended.close()


def hosts(number: int) -> list[Entry]:
    return [Entry(ip_network(f"192.0.2.{last}"), 600) for last in range(1, number + 1)]


async def test_what_was_added_is_there(firewall):
    assert await firewall.add([Entry(HOST, 600), Entry(OFFICE, None), Entry(SITE, 60)]) == []

    listed = {entry.network: entry.seconds for entry in await firewall.entries()}

    assert listed.keys() == {HOST, OFFICE, SITE}
    assert listed[OFFICE] is None
    assert listed[HOST] in (599, 600)
    assert listed[SITE] in (59, 60)


async def test_an_empty_firewall_lists_nothing(firewall):
    assert await firewall.entries() == []
    assert await firewall.add([]) == []
    await firewall.remove([])


async def test_a_network_is_asked_for_exactly(firewall):
    await firewall.add([Entry(OFFICE, 600), Entry(SITE, 600), Entry(HOST, 600)])

    assert [await firewall.has(network) for network in (OFFICE, SITE, HOST)] == [True, True, True]
    for stranger in ("203.0.113.9", "203.0.113.0/25", "203.0.112.0/23", "2001:db8:7::1", "2001:db8::/32", "192.0.2.1"):
        assert not await firewall.has(ip_network(stranger)), stranger


async def test_one_entry_is_read_exactly(firewall):
    await firewall.add([Entry(OFFICE, None), Entry(SITE, 600), Entry(HOST, 600)])

    assert await firewall.entry(OFFICE) == Entry(OFFICE, None)
    assert (await firewall.entry(SITE)).seconds in (599, 600)
    for stranger in ("203.0.113.9", "203.0.113.0/25", "2001:db8:7::1", "0.0.0.0/0", "::/0"):
        assert await firewall.entry(ip_network(stranger)) is None, stranger


async def test_an_address_and_the_network_around_it_are_two_entries(firewall):
    await firewall.add([Entry(OFFICE, 600), Entry(ip_network("203.0.113.9"), 600)])
    assert await firewall.has(ip_network("203.0.113.9"))

    await firewall.remove([ip_network("203.0.113.9")])

    assert not await firewall.has(ip_network("203.0.113.9"))
    assert await firewall.has(OFFICE)


async def test_what_was_removed_is_gone_and_may_be_removed_again(firewall):
    await firewall.add([Entry(HOST, 600), Entry(SITE, 600), Entry(OFFICE, 600)])

    await firewall.remove([ip_network("192.0.2.99"), HOST, ip_network("2001:db8:9::/64"), SITE])
    await firewall.remove(iter([HOST]))

    assert [entry.network for entry in await firewall.entries()] == [OFFICE]


async def test_everything_goes_at_once_and_the_sets_stay(firewall):
    await firewall.clear()
    await firewall.add([Entry(HOST, 600), Entry(OFFICE, None), Entry(SITE, 60)])

    await firewall.clear()

    assert await firewall.entries() == []
    assert [state.family for state in await firewall.states()] == [4, 6]
    assert await firewall.add([Entry(HOST, 600)]) == []
    assert await firewall.has(HOST)


async def test_adding_again_gives_the_new_time(firewall):
    await firewall.add([Entry(HOST, 600), Entry(SITE, 600), Entry(OFFICE, None)])
    await firewall.add([Entry(HOST, 9000), Entry(SITE, None), Entry(OFFICE, 30)])

    listed = {entry.network: entry.seconds for entry in await firewall.entries()}

    assert listed[HOST] in (8999, 9000)
    assert listed[SITE] is None
    assert listed[OFFICE] in (29, 30)


async def test_times_beyond_the_kernels_limit_are_cut_and_never_endless(firewall):
    await firewall.add([Entry(HOST, MAX_TIMEOUT + 1), Entry(SITE, 10 * MAX_TIMEOUT), Entry(OFFICE, 2**32)])

    for entry in await firewall.entries():
        assert entry.seconds is not None
        assert MAX_TIMEOUT - 2 <= entry.seconds <= MAX_TIMEOUT


async def test_a_ban_without_time_left_is_short_and_not_for_ever(firewall):
    await firewall.add([Entry(HOST, 0), Entry(SITE, -5)])

    assert all(entry.seconds == 1 for entry in await firewall.entries())


async def test_a_full_set_hands_back_what_it_had_no_room_for(firewall):
    crowd = hosts(CAPACITY + 3)

    rejected = await firewall.add([*crowd, Entry(SITE, 600)])

    assert rejected == crowd[CAPACITY:]
    assert await firewall.has(SITE)
    assert {entry.network for entry in await firewall.entries()} == {e.network for e in crowd[:CAPACITY]} | {SITE}


async def test_a_full_set_still_gives_known_entries_a_new_time(firewall):
    crowd = hosts(CAPACITY)
    await firewall.add(crowd)

    rejected = await firewall.add([Entry(HOST, 600), Entry(crowd[3].network, None), Entry(OFFICE, 600), *crowd[:2]])

    assert [entry.network for entry in rejected] == [HOST, OFFICE]
    listed = {entry.network: entry.seconds for entry in await firewall.entries()}
    assert listed[crowd[3].network] is None


async def test_a_full_set_takes_one_more_when_one_was_removed(firewall):
    crowd = hosts(CAPACITY)
    await firewall.add(crowd)
    await firewall.remove([crowd[0].network])

    assert await firewall.add([Entry(HOST, 600)]) == []


async def test_states_count_each_family_and_name_the_capacity(firewall):
    await firewall.add([Entry(HOST, 600), Entry(OFFICE, 600), Entry(SITE, 600)])

    states = await firewall.states()

    assert [(state.family, state.count, state.capacity, state.references) for state in states] == [
        (4, 2, CAPACITY, 0),
        (6, 1, CAPACITY, 0),
    ]
    assert len({state.name for state in states}) == 2


async def test_nobody_can_ban_everybody(firewall):
    for everybody in ("0.0.0.0/0", "::/0"):
        with pytest.raises(FirewallError, match="every address"):
            await firewall.add([Entry(HOST, 600), Entry(ip_network(everybody), 600)])
        assert not await firewall.has(ip_network(everybody))
        await firewall.remove([ip_network(everybody)])

    assert await firewall.entries() == []


async def test_half_of_all_addresses_is_a_network_like_any_other(firewall):
    await firewall.add(
        [Entry(ip_network("128.0.0.0/1"), 5), Entry(ip_network("8000::/1"), 5), Entry(ip_network("2001:db8::1"), 5)]
    )

    assert await firewall.has(ip_network("128.0.0.0/1"))
    assert await firewall.has(ip_network("8000::/1"))
    assert await firewall.has(ip_network("2001:db8::1"))


async def test_opening_again_keeps_the_entries(firewall):
    await firewall.add([Entry(HOST, 600)])

    await firewall.open()
    await firewall.close()
    await firewall.close()
    await firewall.open()

    assert await firewall.has(HOST)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", REAL)
def test_without_the_right_it_says_which_is_missing(kind):
    script = (
        "import asyncio; from amiwatch.firewall.table import make_firewall; from amiwatch.errors import *\n"
        f"try: asyncio.run(make_firewall({kind!r}).open())\n"
        "except FirewallPermission as exc: print(exc)"
    )
    assert "CAP_NET_ADMIN" in run(*WITHOUT_RIGHTS, sys.executable, "-c", script)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", REAL)
async def test_a_large_batch_that_meets_a_full_set_is_taken_as_far_as_there_is_room(kind):
    crowd = [Entry(network, 600) for network in many(4800)]
    hosts = [entry for entry in crowd if entry.network.prefixlen in (32, 64)]
    room = 1017  # in the midst of a message that is not the first, of either
    async with REAL[kind](maxelem=room) as firewall:
        rejected = await firewall.add(hosts)

        assert [state.count for state in await firewall.states()] == [room, room]
        assert {entry.network for entry in rejected}.isdisjoint(await networks(firewall))
        assert len(rejected) == len(hosts) - 2 * room
