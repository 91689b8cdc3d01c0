import logging
from ipaddress import ip_network

from amiwatch.firewall.base import Entry
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.testing.clock import Clock

HOST, SITE = ip_network("198.51.100.7"), ip_network("2001:db8:7::/64")


async def test_entries_fall_out_when_their_time_is_over():
    clock = Clock(100.0)
    firewall = DryRunFirewall(now=clock)
    await firewall.open()
    await firewall.add([Entry(HOST, 60), Entry(SITE, None)])

    clock.advance(59.5)
    assert {entry.network: entry.seconds for entry in await firewall.entries()} == {HOST: 1, SITE: None}

    clock.advance(0.5)
    assert [entry.network for entry in await firewall.entries()] == [SITE]
    assert not await firewall.has(HOST)
    assert [state.count for state in await firewall.states()] == [0, 1]


async def test_a_full_set_takes_more_when_something_fell_out():
    clock = Clock(100.0)
    firewall = DryRunFirewall(capacity=1, now=clock)
    await firewall.open()
    await firewall.add([Entry(HOST, 60)])
    other = Entry(ip_network("198.51.100.8"), 60)
    assert await firewall.add([other]) == [other]

    clock.advance(60)

    assert await firewall.add([other]) == []


async def test_it_says_what_it_would_have_done(caplog):
    caplog.set_level(logging.INFO)
    firewall = DryRunFirewall(capacity=1)
    await firewall.open()
    await firewall.add([Entry(HOST, 60), Entry(ip_network("192.0.2.1"), 60), Entry(SITE, 60)])
    await firewall.remove([HOST, ip_network("192.0.2.1")])
    await firewall.remove([HOST])

    assert [record.getMessage() for record in caplog.records] == [
        "would drop networks=2 first=198.51.100.7/32",
        "would no longer drop networks=1 first=198.51.100.7/32",
    ]
