"""Who is banned is not heard, and nobody beside him: the same for every way to drop, shown with packets."""

from ipaddress import ip_network

import pytest

from amiwatch.firewall.base import Entry
from amiwatch.firewall.protection import Protection
from tests.firewall.conftest import STRANGER, Pbx, ban

pytestmark = pytest.mark.kernel


async def test_a_banned_address_is_not_heard_until_it_is_unbanned(guard, pbx):
    stranger = STRANGER[pbx.family]
    await guard.rule.install(Protection())
    assert pbx.arrived(stranger) == [stranger]

    await guard.firewall.add([ban(stranger)])
    assert pbx.arrived(stranger, stranger, stranger) == []

    [entry] = await guard.firewall.entries()
    assert entry.packets == 3
    assert entry.octets > 3 * len(b"REGISTER 0")
    state = await guard.rule.show()
    assert {family.family: family.packets for family in state.families}[pbx.family] == state.packets == 3

    await guard.firewall.remove([entry.network])
    assert pbx.arrived(stranger) == [stranger]


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("198.51.100.0/24", ("198.51.100.1", "198.51.100.255"), ("198.51.101.1", "198.51.99.255")),
        ("198.51.100.64/27", ("198.51.100.64", "198.51.100.95"), ("198.51.100.63", "198.51.100.96")),
        ("128.0.0.0/1", ("198.51.100.1",), ()),
        ("2001:db8:bad::/48", ("2001:db8:bad:77::1",), ("2001:db8:bac:77::1",)),
        ("2001:db8:bad::7/128", ("2001:db8:bad::7",), ("2001:db8:bad::8",)),
    ],
)
async def test_a_network_of_any_width_is_dropped_and_no_address_beside_it(guard, wire, network, inside, outside):
    await guard.rule.install(Protection())
    pbx = Pbx(wire, ip_network(network).version)
    try:
        if network == "128.0.0.0/1":  # the phone that closes each round is in it, too
            await guard.firewall.add([Entry(ip_network(network), 600)])
            wire.send_from(inside[0], 5060, b"REGISTER")
            pbx.socket.settimeout(0.2)
            with pytest.raises(TimeoutError):
                pbx.socket.recv(100)
            return
        await guard.firewall.add([Entry(ip_network(network), 600)])
        assert pbx.arrived(*inside, *outside) == list(outside)
        assert [entry.packets for entry in await guard.firewall.entries()] == [len(inside)]
        await guard.firewall.remove([ip_network(network)])
        assert pbx.arrived(*inside) == list(inside)
    finally:
        pbx.socket.close()


async def test_without_the_rule_nothing_is_dropped(guard, pbx):
    stranger = STRANGER[pbx.family]
    await guard.firewall.add([ban(stranger)])
    assert pbx.arrived(stranger) == [stranger]
    await guard.rule.install(Protection())
    assert pbx.arrived(stranger) == []
    await guard.rule.remove()
    assert pbx.arrived(stranger) == [stranger]
