"""Our nftables table, in the real kernel of a private network namespace."""

import asyncio
import json
import shutil
import subprocess
import sys
from ipaddress import IPv4Network, ip_network

import pytest

from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall import libnftables
from amiwatch.firewall import nftables_wire as messages
from amiwatch.firewall.base import Entry
from amiwatch.firewall.nftables import ROUNDS, NftablesFirewall
from amiwatch.firewall.nftables_rule import NftablesRule
from amiwatch.firewall.nftables_socket import NftablesSocket
from amiwatch.firewall.nftables_table import MAX_NETWORKS, Width
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.scope import EVERYTHING, VOIP_PORTS, Ports, Scope
from tests.firewall.conftest import SBIN, STRANGER, Pbx, ban, fresh_nftables, many, networks, run
from tests.firewall.test_contract import WITHOUT_RIGHTS

pytestmark = pytest.mark.kernel

HOST, OFFICE, SITE = ip_network("198.51.100.7"), ip_network("203.0.113.0/24"), ip_network("2001:db8:7::/64")


def nft(*arguments, text=None):
    """Do what an administrator does at a prompt; returns what it printed."""
    if not shutil.which("nft", path=SBIN):
        pytest.skip("nft is not installed")
    return run("nft", *arguments, text=text)


def of_others(table):
    """All that is in the kernel but our table, as it is printed."""
    found = [list(part.values()) for part in json.loads(nft("-j", "list", "ruleset"))["nftables"]]
    return json.dumps([one for [one] in found if table not in (one.get("table"), one.get("name"))])


@pytest.fixture
async def rule(nftables):
    placed = NftablesRule(nftables.prefix)
    yield placed
    await placed.remove()


# What is dropped.


async def test_a_banned_address_may_still_reach_other_ports_unless_all_are_closed(nftables, rule, wire):
    await nftables.add([ban(STRANGER[4])])
    other = Pbx(wire, 4, port=40000)
    try:
        await rule.install(Protection())
        assert other.arrived(STRANGER[4]) == [STRANGER[4]]
        await rule.install(Protection(EVERYTHING))
        assert other.arrived(STRANGER[4]) == []
        await rule.install(Protection())
        assert other.arrived(STRANGER[4]) == [STRANGER[4]]
    finally:
        other.socket.close()


async def test_what_others_accept_is_dropped_all_the_same(nftables, rule, pbx):
    nft("add", "table", "inet", "theirs")
    nft("add chain inet theirs first { type filter hook prerouting priority -400; policy accept; }")
    nft("add rule inet theirs first udp dport 5060 accept")
    try:
        await rule.install(Protection())
        await nftables.add([ban(STRANGER[pbx.family])])
        assert pbx.arrived(STRANGER[pbx.family]) == []
    finally:
        nft("delete", "table", "inet", "theirs")


# The rule.


async def test_installing_again_changes_nothing_and_another_scope_replaces_the_ports(nftables, rule):
    await rule.install(Protection())
    before = nft("-a", "list", "ruleset")
    await rule.install(Protection())
    assert nft("-a", "list", "ruleset") == before
    wider = Scope((*VOIP_PORTS, Ports("udp", 5080, 5080), Ports("tcp", 60000, 65535)))
    assert not (await rule.show()).covers(Protection(wider))

    await rule.install(Protection(wider))

    state = await rule.show()
    assert state.covers(Protection(wider))
    assert not state.covers(Protection())
    assert [drop.ports for drop in state.families[0].drops] == [
        "4569,5060:5061,5080",
        "5038,5060:5061,8088:8089,60000:65535",
    ]


async def test_many_ports_are_shown_as_they_were_asked_for(nftables, rule):
    crowd = Scope(tuple(Ports("udp", port, port + port % 2) for port in range(1000, 1100, 3)))
    await rule.install(Protection(crowd))
    assert (await rule.show()).covers(Protection(crowd))


async def test_a_rule_without_sets_is_refused_and_its_removal_is_no_error():
    lonely = NftablesRule("nobody")
    with pytest.raises(FirewallError, match="no sets yet"):
        await lonely.install(Protection())
    await lonely.remove()
    assert not (await lonely.show()).is_present
    assert "nobody" not in nft("list", "tables")


async def test_the_sets_know_that_the_rule_uses_them(nftables, rule):
    await rule.install(Protection())
    assert [state.references for state in await nftables.states()] == [6, 6]
    await rule.remove()
    assert [state.references for state in await nftables.states()] == [0, 0]


async def test_a_rule_of_the_administrator_in_our_table_counts_as_one(nftables, pbx):
    table = f"inet {nftables.prefix}"
    nft(f"add chain {table} mine {{ type filter hook prerouting priority -350; }}")
    nft(f"add rule {table} mine udp dport 5060 jump drop_any")
    await nftables.add([ban(STRANGER[pbx.family])])
    assert pbx.arrived(STRANGER[pbx.family]) == []
    assert [state.references for state in await nftables.states()] == [1, 1]


# Others.


async def test_other_peoples_tables_stay_as_they_are_byte_for_byte():
    nft("add table inet theirs; add set inet theirs s { type ipv4_addr; flags interval; elements = { 192.0.2.0/28 } }")
    nft("add chain inet theirs in { type filter hook input priority 0; policy accept; }")
    nft("add rule inet theirs in ip saddr @s counter accept")
    nft("add table ip amiwatch-like; add set ip amiwatch-like x4 { type ipv4_addr; }")
    before = of_others("ours")
    firewall, rule = NftablesFirewall("ours", maxelem=100), NftablesRule("ours")
    try:
        await firewall.open()
        await rule.install(Protection())
        await firewall.add([Entry(network, 600) for network in many(60)])
        await rule.install(Protection(EVERYTHING))
        await firewall.remove(many(30))
        larger = NftablesFirewall("ours", maxelem=200)
        await larger.open()
        await larger.close()
        await rule.remove()
        assert of_others("ours") == before
        await firewall.remove_sets()
        assert "ours" not in nft("list", "ruleset")
        assert of_others("ours") == before
    finally:
        await firewall.remove_sets()
        await firewall.close()
        nft("delete table inet theirs; delete table ip amiwatch-like")


async def test_two_instances_do_not_meet(nftables):
    async with fresh_nftables() as other:
        await nftables.add([Entry(HOST, 600)])
        assert await other.entries() == []
        await other.remove([HOST])
        await other.remove_sets()
        assert await nftables.has(HOST)
        await other.open()


async def test_a_table_of_our_name_with_other_sets_is_not_touched():
    nft("add table inet strange; add set inet strange strange4 { type inet_service; }")
    firewall = NftablesFirewall("strange")
    before = nft("list", "ruleset")
    try:
        for work in (firewall.open, firewall.remove_sets):
            with pytest.raises(FirewallError, match="not ours to use"):
                await work()
        assert nft("list", "ruleset") == before
        nft("delete set inet strange strange4")
        await firewall.remove_sets()
        assert "strange" in nft("list", "tables")
    finally:
        await firewall.close()
        nft("delete table inet strange")


async def test_the_nft_program_sees_what_we_made_and_we_what_it_made(nftables):
    await nftables.add([Entry(HOST, 600), Entry(OFFICE, None), Entry(SITE, 600)])
    shown = nft("list", "table", "inet", nftables.prefix)
    for text in ("198.51.100.7 counter packets 0 bytes 0 timeout 10m", "203.0.113.0 counter", "2001:db8:7::"):
        assert text in shown
    table = f"inet {nftables.prefix}"
    nft(f"add element {table} {nftables.prefix}4 {{ 192.0.2.9 timeout 300s }}")
    nft(f"add element {table} {nftables.prefix}6 {{ 2001:db8:9:: }}")
    listed = {str(entry.network): entry.seconds for entry in await nftables.entries()}
    assert listed["192.0.2.9/32"] in (299, 300)
    assert listed["2001:db8:9::/64"] is None


# Many, again, and full.


async def test_a_batch_of_known_and_new_ones_gives_all_their_time_and_keeps_the_counters(nftables, rule, wire):
    await rule.install(Protection())
    old = [Entry(IPv4Network(0xC6336400 + number), 100) for number in range(250)]
    await nftables.add(old)
    pbx = Pbx(wire, 4)
    assert pbx.arrived("198.51.100.7", "198.51.100.7") == []
    pbx.socket.close()

    new = [Entry(IPv4Network(0xC6336500 + number), 5000) for number in range(250)]
    longer = [Entry(entry.network, 5000) for entry in old]
    assert await nftables.add([*new[:100], *longer, *new[100:], new[3]]) == []

    listed = {entry.network: entry for entry in await nftables.entries()}
    assert len(listed) == 500
    assert all(entry.seconds in (4999, 5000) for entry in listed.values())
    assert listed[HOST].packets == 2
    assert listed[HOST].octets > 0


async def test_one_of_many_that_is_not_there_hinders_no_removal(nftables):
    entries = [Entry(network, 600) for network in many(600)]
    await nftables.add(entries[::2])
    await nftables.remove([entry.network for entry in entries[:500]])
    assert await networks(nftables) == {entry.network for entry in entries[500::2]}


async def test_more_room_keeps_the_entries_with_their_counters_and_less_is_refused_when_they_do_not_fit(
    nftables, rule, wire
):
    await rule.install(Protection())
    farm = ip_network("192.0.2.128/25")  # the phone that closes each round is in the office
    await nftables.add([Entry(HOST, 600), Entry(farm, None), Entry(SITE, 60)])
    pbx = Pbx(wire, 4)
    assert pbx.arrived(str(HOST.network_address)) == []
    larger = NftablesFirewall(nftables.prefix, maxelem=5000)
    await larger.open()
    assert [state.capacity for state in await larger.states()] == [5000, 5000]
    assert {e.network: e.packets for e in await larger.entries()} == {HOST: 1, farm: 0, SITE: 0}
    assert pbx.arrived(str(HOST.network_address)) == []
    pbx.socket.close()
    await larger.close()
    tiny = NftablesFirewall(nftables.prefix, maxelem=1)
    with pytest.raises(FirewallError, match="can't be cut to 1"):
        await tiny.open()
    assert len(await tiny.entries()) == 3
    await tiny.close()


async def test_networks_by_hand_have_a_limit_of_their_own(nftables):
    assert Width.of(OFFICE).size(1_000_000) == MAX_NETWORKS
    assert Width.of(HOST).size(1_000_000) == 1_000_000


async def test_no_set_of_bans_is_one_of_intervals_which_take_50_ms_for_one_more(nftables):
    await nftables.add(
        [Entry(network, 600) for network in (HOST, OFFICE, SITE, *map(ip_network, ("10.0.0.0/9", "2001:db8::/48")))]
    )
    listed = json.loads(nft("-j", "list", "sets", "table", "inet", nftables.prefix))["nftables"]
    sets = [part["set"] for part in listed if "set" in part]
    assert {each["name"].removeprefix(nftables.prefix) for each in sets} == {"4", "4-9", "4-24", "6", "6-48"}
    assert all(each["flags"] == ["timeout"] for each in sets)


async def test_networks_may_overlap(nftables):
    wide, narrow = ip_network("203.0.0.0/16"), ip_network("203.0.113.0/25")
    await nftables.add([Entry(OFFICE, 600)])
    await nftables.add([Entry(wide, 600), Entry(narrow, 600)])
    assert await networks(nftables) == {OFFICE, wide, narrow}
    await nftables.remove([OFFICE])
    assert await networks(nftables) == {wide, narrow}


async def test_several_tasks_may_use_it_at_once():
    async with fresh_nftables(maxelem=20_000) as firewall:
        entries = [Entry(network, 600) for network in many(8000)]
        await asyncio.gather(*(firewall.add(entries[part::8]) for part in range(8)), firewall.entries())
        assert await networks(firewall) == {entry.network for entry in entries}


# One, at once.


async def test_a_lone_ban_is_in_the_kernel_when_the_call_returns(nftables):
    assert nftables.add_now(Entry(HOST, 600))
    assert nftables.add_now(Entry(SITE, 600))
    assert await networks(nftables) == {HOST, SITE}


async def test_a_lone_ban_that_needs_more_is_left_to_add(nftables):
    assert not nftables.add_now(Entry(OFFICE, 600))
    await nftables.add([Entry(HOST, 600)])
    assert not nftables.add_now(Entry(HOST, 900))
    nft("delete", "table", "inet", nftables.prefix)
    assert not nftables.add_now(Entry(SITE, 900))
    await nftables.close()
    assert not nftables.add_now(Entry(SITE, 900))
    assert await nftables.add([Entry(HOST, 900), Entry(SITE, 900), Entry(OFFICE, 900)]) == []
    assert {entry.seconds for entry in await nftables.entries()} <= {899, 900}


# What goes wrong.


@pytest.mark.parametrize("harm", ["delete table inet {0}", "flush ruleset"])
async def test_what_vanished_is_made_anew_by_the_next_ban(nftables, harm):
    await nftables.add([Entry(HOST, 600), Entry(OFFICE, 600)])
    nft(harm.format(nftables.prefix))
    assert await nftables.states() == []
    assert await nftables.entries() == []
    assert not await nftables.has(HOST)
    await nftables.remove([HOST])

    assert await nftables.add([Entry(HOST, 600), Entry(OFFICE, 600), Entry(SITE, 600)]) == []

    assert await networks(nftables) == {HOST, OFFICE, SITE}
    assert len(await nftables.states()) == 2


async def test_rules_that_somebody_flushed_make_the_sets_count_as_missing_until_they_are_opened(nftables):
    await nftables.add([Entry(HOST, 600)])
    nft("flush", "table", "inet", nftables.prefix)
    assert await nftables.states() == []
    await nftables.open()
    assert len(await nftables.states()) == 2
    assert await nftables.has(HOST)


async def test_an_old_kernel_that_tells_no_count_is_counted(nftables, monkeypatch):
    await nftables.add([Entry(network, 600) for network in many(1500)][:900])
    monkeypatch.setattr(messages, "_SET_COUNT", 999)  # an attribute that no kernel sends
    assert sum(state.count for state in await nftables.states()) == 900


async def test_without_the_right_the_library_says_which_is_missing():
    script = (
        "from amiwatch.firewall import libnftables; from amiwatch.errors import *\n"
        "try: libnftables.run('add table inet x')\n"
        "except FirewallPermission as exc: print(exc)"
    )
    assert "CAP_NET_ADMIN" in run(*WITHOUT_RIGHTS, sys.executable, "-c", script)


async def test_cap_net_admin_is_all_that_sets_and_rule_need():
    script = (
        "import asyncio; from amiwatch.firewall.nftables import NftablesFirewall as F\n"
        "from amiwatch.firewall.nftables_rule import NftablesRule as R\n"
        "from amiwatch.firewall.protection import Protection\n"
        "async def main():\n"
        "    f = F('lone'); await f.open(); await R('lone').install(Protection())\n"
        "    print((await R('lone').show()).is_present); await R('lone').remove(); await f.remove_sets()\n"
        "asyncio.run(main())"
    )
    without = ["setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin"]
    done = subprocess.run([*without, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


async def test_a_name_that_is_a_word_of_nft_is_a_mistake_that_says_so():
    firewall = NftablesFirewall("counter")
    with pytest.raises(FirewallError, match="AMIWATCH_SET_NAME"):
        await firewall.open()
    await firewall.close()


def test_a_missing_library_is_named_with_its_package(monkeypatch):
    libnftables._library.cache_clear()
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables-of-nobody.so.1")
    try:
        assert "apt-get install libnftables1" in libnftables.missing()
        with pytest.raises(FirewallError, match="libnftables-of-nobody"):
            libnftables.run("list tables")
    finally:
        libnftables._library.cache_clear()


async def test_a_socket_that_broke_is_replaced(nftables):
    await nftables.add([Entry(HOST, 600)])
    nftables._socket.close()
    assert not nftables.add_now(Entry(SITE, 600))
    await nftables.add([Entry(SITE, 600)])
    assert await networks(nftables) == {HOST, SITE}


def test_all_changes_are_made_or_none(nftables):
    with NftablesSocket(nftables.prefix) as socket:
        name = f"{nftables.prefix}4"
        known, unknown = Entry(HOST, 600), Entry(ip_network("192.0.2.1"), 600)
        assert socket.change([messages.Change(messages.ADD, name, [known])]) == {}
        refused = socket.change(
            [
                messages.Change(messages.ADD, name, [unknown]),
                messages.Change(messages.ADD, name, [known]),
                messages.Change(messages.DELETE, name, [Entry(ip_network("192.0.2.2"), None)]),
            ]
        )
        assert refused.keys() == {1, 2}
        assert socket.get(name, unknown.network, len) is None
        assert socket.get("no-such-set", HOST, len) is None
    assert ROUNDS > 2
    assert issubclass(FirewallPermission, FirewallError)
