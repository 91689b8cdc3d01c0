from ipaddress import ip_network

import pytest

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.base import Entry
from amiwatch.testing.firewall import FakeFirewall

HOST, OTHER = Entry(ip_network("198.51.100.7"), 60), Entry(ip_network("198.51.100.8"), 60)


@pytest.fixture
async def fake():
    firewall = FakeFirewall()
    await firewall.open()
    return firewall


async def test_it_fails_as_often_as_told_and_then_works(fake):
    fake.fail_next(FirewallError("no kernel today"), times=2)
    fake.fail_next(FirewallPermission("no rights"))

    with pytest.raises(FirewallError, match="today"):
        await fake.add([HOST])
    with pytest.raises(FirewallError, match="today"):
        await fake.states()
    with pytest.raises(FirewallPermission):
        await fake.open()

    assert await fake.entries() == []
    assert await fake.add([HOST]) == []


async def test_a_flushed_set_is_empty_and_a_destroyed_one_is_missing(fake):
    await fake.add([HOST])
    fake.flush()
    assert await fake.entries() == []
    assert [state.count for state in await fake.states()] == [0, 0]

    await fake.add([HOST])
    fake.destroy()
    assert await fake.states() == []
    assert not await fake.has(HOST.network)
    assert await fake.entries() == []
    await fake.remove([HOST.network])


async def test_a_destroyed_set_is_made_anew_by_the_next_ban(fake):
    fake.destroy()
    assert await fake.add([HOST]) == []
    assert [state.family for state in await fake.states()] == [4]
    await fake.open()
    assert [state.family for state in await fake.states()] == [4, 6]
    assert await fake.has(HOST.network)


async def test_time_passes_when_told(fake):
    await fake.add([HOST])
    fake.advance(60)
    assert await fake.entries() == []


async def test_its_room_can_be_changed(fake):
    fake.capacity = 1
    assert await fake.add([HOST, OTHER]) == [OTHER]
    fake.capacity = 2
    assert await fake.add([OTHER]) == []
