"""The kernel's sets: what goes wrong with them, and what stays as it is."""

import asyncio
import os
import socket
from ipaddress import IPv4Network, ip_network

import pytest

from amiwatch.errors import ConfigurationError, FirewallError
from amiwatch.firewall.base import Entry
from amiwatch.firewall.ipset import BATCH, IpsetFirewall
from tests.firewall.conftest import fresh_ipset, many, networks, run

pytestmark = pytest.mark.kernel

HOST, OFFICE, SITE = ip_network("198.51.100.7"), ip_network("203.0.113.0/24"), ip_network("2001:db8:7::/64")


def program(*arguments):
    return run("ipset", *arguments)


def replace_socket(ipset, descriptor):
    """Put something else under our netlink socket."""
    os.dup2(descriptor, ipset._socket._netlink.socket.fileno())


async def test_the_ipset_program_sees_what_we_made(ipset):
    await ipset.add([Entry(HOST, 600), Entry(OFFICE, None), Entry(SITE, 600)])

    shown = program("save", f"{ipset.prefix}4") + program("save", f"{ipset.prefix}6")

    assert f"create {ipset.prefix}4 hash:net family inet" in shown
    assert f"create {ipset.prefix}6 hash:net family inet6" in shown
    assert shown.count("maxelem 1000 timeout 0 counters") == 2
    assert "198.51.100.7 timeout" in shown
    assert "203.0.113.0/24 timeout 0 packets 0" in shown
    assert "2001:db8:7::/64 timeout" in shown


async def test_we_see_what_the_ipset_program_made(ipset):
    program("add", f"{ipset.prefix}4", "192.0.2.0/25", "timeout", "300", "packets", "7", "bytes", "4242")
    program("add", f"{ipset.prefix}4", "192.0.2.200", "timeout", "0")
    program("add", f"{ipset.prefix}4", "192.0.2.64/26", "nomatch")
    program("add", f"{ipset.prefix}6", "2001:db8::5", "timeout", "300", "packets", "1", "bytes", "60")

    listed = {entry.network: entry for entry in await ipset.entries()}

    # An exception inside a network (nomatch) is nothing that is dropped.
    assert listed.keys() == {ip_network(text) for text in ("192.0.2.0/25", "192.0.2.200", "2001:db8::5")}
    assert listed[ip_network("192.0.2.0/25")].packets == 7
    assert listed[ip_network("192.0.2.0/25")].octets == 4242
    assert listed[ip_network("192.0.2.200")].seconds is None
    assert listed[ip_network("2001:db8::5")].packets == 1


async def test_a_set_that_somebody_destroyed_is_made_anew_by_the_next_ban(ipset):
    await ipset.add([Entry(HOST, 600), Entry(SITE, 600)])
    program("destroy", f"{ipset.prefix}4")

    assert [state.family for state in await ipset.states()] == [6]
    assert await networks(ipset) == {SITE}
    assert not await ipset.has(HOST)
    await ipset.remove([HOST])

    assert await ipset.add([Entry(OFFICE, 600)]) == []
    assert await networks(ipset) == {OFFICE, SITE}
    assert [state.capacity for state in await ipset.states()] == [1000, 1000]


async def test_a_set_that_somebody_flushed_is_seen_empty(ipset):
    await ipset.add([Entry(HOST, 600), Entry(SITE, 600)])
    program("flush", f"{ipset.prefix}4")

    assert [state.count for state in await ipset.states()] == [0, 1]
    assert await networks(ipset) == {SITE}


async def test_sets_that_are_missing_are_cleared_all_the_same_and_others_are_left_alone(ipset):
    program("create", "other", "hash:net")
    try:
        program("add", "other", "203.0.113.0/24")
        await ipset.add([Entry(HOST, 600), Entry(SITE, 600)])
        program("destroy", f"{ipset.prefix}4")
        await ipset.clear()
        assert [state.count for state in await ipset.states()] == [0]
        assert "203.0.113.0/24" in program("list", "other")
    finally:
        program("destroy", "other")


async def test_other_peoples_sets_are_never_touched(ipset):
    program("create", "office", "hash:net")
    program("create", f"{ipset.prefix}40", "hash:ip", "timeout", "60")
    program("create", "list", "list:set")
    try:
        program("add", "office", "198.51.100.0/24")
        program("add", "list", "office")
        theirs = [program("save", name) for name in ("office", f"{ipset.prefix}40", "list")]

        await ipset.add([Entry(HOST, 600)])
        assert await networks(ipset) == {HOST}
        await ipset.remove([ip_network("198.51.100.0/24")])
        await ipset.remove_sets()
        await ipset.open()

        assert [program("save", name) for name in ("office", f"{ipset.prefix}40", "list")] == theirs
    finally:
        for name in ("list", "office", f"{ipset.prefix}40"):
            program("destroy", name)


async def test_removing_the_sets_leaves_none_of_ours():
    before = program("list", "-n")
    async with fresh_ipset() as firewall:
        await firewall.add([Entry(HOST, 600)])
        await firewall.remove_sets()
        await firewall.remove_sets()
        assert program("list", "-n") == before


async def test_another_size_is_taken_over_without_losing_an_entry(ipset):
    kept = [*many(100), HOST]
    await ipset.add([Entry(network, 3600) for network in kept[:-1]] + [Entry(HOST, None)])

    larger = IpsetFirewall(ipset.prefix, maxelem=5000)
    await larger.open()
    try:
        assert [state.capacity for state in await larger.states()] == [5000, 5000]
        listed = {entry.network: entry.seconds for entry in await larger.entries()}
        assert listed.keys() == set(kept)
        assert listed[HOST] is None
        assert all(seconds is None or 3500 < seconds <= 3600 for seconds in listed.values())
        assert ".new" not in program("list", "-n")
    finally:
        await larger.close()


async def test_a_set_without_counters_gets_them(ipset):
    name = f"{ipset.prefix}4"
    await ipset.remove_sets()
    program("create", name, "hash:net", "timeout", "0", "maxelem", "1000")
    program("add", name, "198.51.100.7", "timeout", "600")
    program("add", name, "203.0.113.0/24")

    await ipset.open()

    assert "counters" in program("list", "-t", name)
    listed = {entry.network: entry.seconds for entry in await ipset.entries()}
    assert listed[OFFICE] is None
    assert listed[HOST] in range(595, 601)


async def test_what_a_crash_left_of_a_rebuilding_is_cleared_away(ipset):
    await ipset.add([Entry(HOST, 600)])
    program("create", f"{ipset.prefix}4.new", "hash:net", "timeout", "0")
    program("add", f"{ipset.prefix}4.new", "192.0.2.1")

    smaller = IpsetFirewall(ipset.prefix, maxelem=10)
    await smaller.open()
    try:
        assert await networks(smaller) == {HOST}
        assert ".new" not in program("list", "-n")
    finally:
        await smaller.close()


async def test_a_set_with_more_entries_than_wanted_room_is_left_alone(ipset):
    kept = [network for network in many(40) if network.version == 4]
    await ipset.add([Entry(network, 600) for network in kept])

    tiny = IpsetFirewall(ipset.prefix, maxelem=5)
    with pytest.raises(FirewallError, match="holds 20 entries"):
        await tiny.open()
    await tiny.close()

    assert await networks(ipset) == set(kept)


@pytest.mark.parametrize(
    "options",
    [
        ["hash:net", "family", "inet6", "timeout", "0"],
        ["hash:ip", "timeout", "0"],
        ["hash:net"],
        ["hash:net,port", "timeout", "0"],
        ["list:set"],
        ["bitmap:port", "range", "1-100"],
    ],
    ids=" ".join,
)
async def test_a_set_of_our_name_but_another_kind_is_an_error_that_says_what_to_do(ipset, options):
    name = f"{ipset.prefix}4"
    await ipset.remove_sets()
    program("create", name, *options)
    before = program("save", name)

    with pytest.raises(FirewallError, match=f"ipset destroy {name}"):
        await ipset.open()

    assert program("save", name) == before
    program("destroy", name)


async def test_a_rebuilt_set_is_still_the_one_that_rules_use(ipset, iptables_present):
    await ipset.add([Entry(HOST, 600)])
    rule = ["PREROUTING", "-m", "set", "--match-set", f"{ipset.prefix}4", "src", "-j", "DROP"]
    run("iptables", "-w", "-t", "raw", "-A", *rule)
    try:
        larger = IpsetFirewall(ipset.prefix, maxelem=5000)
        await larger.open()
        [four, _] = await larger.states()
        await larger.close()
        assert (four.references, four.count, four.capacity) == (1, 1, 5000)
    finally:
        run("iptables", "-w", "-t", "raw", "-D", *rule)


async def test_after_a_broken_socket_the_next_call_opens_a_new_one(ipset):
    await ipset.add([Entry(HOST, 600)])
    reader, writer = os.pipe()
    replace_socket(ipset, reader)  # which is not for sending
    os.close(reader)
    os.close(writer)

    with pytest.raises(FirewallError):
        await ipset.add([Entry(OFFICE, 600)])

    assert await ipset.add([Entry(OFFICE, 600)]) == []
    assert await networks(ipset) == {HOST, OFFICE}


@pytest.mark.parametrize("asked", ["add", "entries", "states", "has"])
async def test_a_kernel_that_does_not_answer_is_an_error_and_the_next_call_works(ipset, monkeypatch, asked):
    calls = {
        "add": lambda: ipset.add([Entry(OFFICE, 600)]),
        "has": lambda: ipset.has(OFFICE),
        "entries": ipset.entries,
        "states": ipset.states,
    }
    await ipset.add([Entry(HOST, 600)])
    ours, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, silent:
        replace_socket(ipset, ours.fileno())
        monkeypatch.setattr("amiwatch.firewall.ipset_socket.NETLINK_TIMEOUT", 0.01)
        with pytest.raises(FirewallError, match="within"):
            await calls[asked]()
        assert silent.recv(4096)
    monkeypatch.undo()

    await calls[asked]()
    assert await ipset.has(HOST)


async def test_single_bans_get_in_while_the_sets_are_listed_and_loaded():
    crowd, others = many(20 * BATCH), [IPv4Network(0xC6336400 + i) for i in range(256)]
    async with fresh_ipset(maxelem=100_000) as firewall:
        async with asyncio.TaskGroup() as group:
            loading = group.create_task(firewall.add([Entry(network, 600) for network in crowd]), name="loading")
            listing = group.create_task(firewall.entries(), name="listing")
            for other in others:
                assert await firewall.add([Entry(other, 600)]) == []
                assert await firewall.has(other)
                await asyncio.sleep(0)
        assert loading.result() == []
        assert {entry.network for entry in listing.result()} <= {*crowd, *others}
        assert await networks(firewall) == {*crowd, *others}


async def test_several_listings_at_once_wait_for_each_other(ipset):
    await ipset.add([Entry(network, 600) for network in many(900)])
    listings = await asyncio.gather(*(ipset.entries() for _ in range(5)), ipset.states(), ipset.states())
    assert [len(listing) for listing in listings] == [900] * 5 + [2, 2]


async def test_two_tasks_may_open_at_once(ipset):
    twice = IpsetFirewall(ipset.prefix, maxelem=1000)
    await ipset.remove_sets()
    await asyncio.gather(twice.open(), twice.open(), ipset.open())
    assert [state.count for state in await twice.states()] == [0, 0]
    await twice.close()


async def test_a_cancelled_batch_does_not_confuse_the_next_call():
    async with fresh_ipset(maxelem=100_000) as firewall:
        crowd = [Entry(network, 600) for network in many(20 * BATCH)]
        for turns in range(1, 12, 2):
            adding = asyncio.create_task(firewall.add(crowd), name="adding")
            for _ in range(turns):
                await asyncio.sleep(0)
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
            assert await firewall.add([Entry(HOST, 600)]) == []
            assert await firewall.has(HOST)
            assert not await firewall.has(OFFICE)
        assert await firewall.add(crowd) == []
        assert len(await firewall.entries()) == len(crowd) + 1


@pytest.mark.parametrize("prefix", ["", "Amiwatch", "4you", "a b", "x" * 25, "prerouting", "drop", "a;b", "ä", "a\n"])
def test_a_name_that_the_kernel_would_stumble_over_is_refused(prefix):
    with pytest.raises(ConfigurationError, match="can't begin our sets"):
        IpsetFirewall(prefix)


async def test_the_longest_name_works():
    firewall = IpsetFirewall("x" * 24, maxelem=10)
    await firewall.open()
    await firewall.add([Entry(HOST, 600)])
    larger = IpsetFirewall("x" * 24, maxelem=20)
    await larger.open()
    assert await networks(larger) == {HOST}
    await larger.remove_sets()
    for opened in (firewall, larger):
        await opened.close()


@pytest.mark.parametrize("name", ["4", "6"])
async def test_a_set_of_our_name_that_is_not_ours_outlives_the_removal(name):
    program("create", f"strange{name}", "hash:ip")
    firewall = IpsetFirewall("strange")
    try:
        with pytest.raises(FirewallError, match="not ours"):
            await firewall.remove_sets()
        assert f"strange{name}" in program("list", "-n").split()
    finally:
        await firewall.close()
        program("destroy", f"strange{name}")
