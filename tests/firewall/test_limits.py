"""Rate tiers and signatures, in the real kernel, shown with packets."""

import asyncio
import shlex
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from amiwatch.errors import ConfigurationError, LimitsRefused
from amiwatch.firewall import connections, ipset_limits, nftables_limits
from amiwatch.firewall.base import Entry
from amiwatch.firewall.names import MAX_PREFIX
from amiwatch.firewall.protection import MAX_WINDOW, Protection, Tier, exempt_name, is_ours, windows
from amiwatch.firewall.rule import DropRule
from amiwatch.firewall.scope import EVERYTHING, Scope
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.judgement.values import source_network
from amiwatch.testing.netns import Wire
from tests.firewall.conftest import Guard, run
from tests.firewall.test_forwarding import Container

STRANGER = {4: "198.51.100.7", 6: "2001:db8:bad::7"}
NEIGHBOUR = {4: "198.51.100.8", 6: "2001:db8:bad::8"}
PHONE = {4: "203.0.113.20", 6: "2001:db8:cafe::20"}
TIERS = Tier.parse("3/60s,5/180s")
LIMITED = Protection(tiers=TIERS)
LAST = {4: "203.0.113.99", 6: "2001:db8:1a57::1"}
EVER = [ip_network(LAST[4]), ip_network(LAST[6])]
OFFICE = [*EVER, ip_network("203.0.113.0/24"), ip_network("2001:db8:cafe::/64")]


class Pbx:
    """A UDP port of ours that may answer, and callers who begin a connection with each packet."""

    def __init__(self, wire: Wire, family: int, port: int = 5060) -> None:
        self.wire, self.family, self.port = wire, family, port
        self.address = wire.here[family]
        self.socket = wire.receiver(port, family)

    def hears(self, sender: str, count: int = 1, payload: bytes = b"REGISTER") -> int:
        """Send so many packets, each from another port; return how many arrived."""
        for _ in range(count):
            with self.wire.far_socket(sender) as caller:
                caller.sendto(payload, (self.address, self.port))
        return self.arrived()

    def arrived(self) -> int:
        """Count what arrived so far: behind it goes a packet of somebody who is always exempt."""
        self.wire.send_from(LAST[self.family], self.port, b"the last")
        count = 0
        while self.socket.recv(2048) != b"the last":
            count += 1
        return count


@pytest.fixture(params=[4, 6])
def pbx(request, wire) -> Iterator[Pbx]:
    endpoint = Pbx(wire, request.param)
    yield endpoint
    endpoint.socket.close()


@pytest.fixture
def container(wire) -> Iterator[Container]:
    behind = Container(wire, 4)
    yield behind
    behind.close()


async def placed(guard: Guard, protection: Protection) -> None:
    # A port of the sender may come again, and what earlier tests answered there is established.
    connections.forget([ip_network("0.0.0.0/0"), ip_network("::/0")])
    await guard.rule.exempt(OFFICE)
    await guard.rule.install(protection)
    assert (await guard.rule.show()).covers(protection)


async def dropped(guard: Guard, family: int) -> dict[str, int]:
    """What each limit has dropped, without those that dropped nothing."""
    [state] = [one for one in (await guard.rule.show()).families if one.family == family]
    return {limit.name: limit.packets for limit in state.limits if limit.packets}


@pytest.mark.kernel
async def test_the_connections_of_a_stranger_beyond_a_tier_are_dropped_and_counted_apart(guard, pbx):
    stranger = STRANGER[pbx.family]
    await placed(guard, LIMITED)
    assert pbx.hears(stranger, 8) == 3
    assert await dropped(guard, pbx.family) == {"3 in 60 s": 5}
    assert (await guard.rule.show()).packets == 0
    assert await guard.firewall.entries() == []


@pytest.mark.kernel
async def test_every_tier_counts_what_the_narrower_ones_let_through(guard, pbx):
    stranger = STRANGER[pbx.family]
    await placed(guard, Protection(tiers=Tier.parse("4/1s,6/60s")))
    assert pbx.hears(stranger, 5) == 4
    heard = 0
    async with asyncio.timeout(5):
        while heard < 2:  # the window of a second ends by itself, and the kernel tells nobody
            heard += pbx.hears(stranger)
            await asyncio.sleep(0.05)
        while "6 in 60 s" not in await dropped(guard, pbx.family):
            assert not pbx.hears(stranger)


@pytest.mark.kernel
async def test_who_is_exempt_is_never_counted_and_the_others_of_his_network_are(guard, pbx):
    await placed(guard, LIMITED)
    assert pbx.hears(PHONE[pbx.family], 12) == 12
    assert await dropped(guard, pbx.family) == {}
    await guard.rule.exempt([*EVER, source_network(ip_address(STRANGER[pbx.family]))])
    assert pbx.hears(STRANGER[pbx.family], 6) == 6
    assert pbx.hears(PHONE[pbx.family], 6) == 3


@pytest.mark.kernel
async def test_one_stranger_does_not_use_up_what_another_one_has(guard, pbx):
    await placed(guard, LIMITED)
    assert pbx.hears(STRANGER[pbx.family], 5) == 3
    # A /64 is one customer.
    assert pbx.hears(NEIGHBOUR[pbx.family], 5) == (3 if pbx.family == 4 else 0)


@pytest.mark.kernel
async def test_a_connection_that_was_answered_goes_on_whatever_the_tier_says(guard, pbx):
    """An established call: the first packet was answered, so what follows begins nothing."""
    stranger = STRANGER[pbx.family]
    await placed(guard, LIMITED)
    with pbx.wire.far_socket(stranger) as caller:
        caller.settimeout(5)
        caller.sendto(b"INVITE", (pbx.address, 5060))
        _, back = pbx.socket.recvfrom(2048)
        pbx.socket.sendto(b"100 Trying", back)
        assert caller.recv(2048) == b"100 Trying"
        assert pbx.hears(stranger, 5) == 2
        for number in range(20):
            caller.sendto(b"INFO %d" % number, (pbx.address, 5060))
            assert pbx.socket.recv(2048) == b"INFO %d" % number


@pytest.mark.kernel
async def test_a_packet_that_is_never_answered_counts_each_time(guard, pbx):
    """Malformed packets and floods that Asterisk drops raise no event and get no answer."""
    await placed(guard, LIMITED)
    with pbx.wire.far_socket(STRANGER[pbx.family]) as caller:
        for _ in range(6):
            caller.sendto(b"\x00garbage", (pbx.address, 5060))
    assert pbx.arrived() == 3


@pytest.mark.kernel
async def test_tcp_connections_are_counted_and_open_ones_go_on(guard, wire):
    await placed(guard, LIMITED)
    with socket.create_server((wire.here[4], 5060)) as server:
        server.settimeout(5)
        calls = []
        for _ in range(3):
            caller = wire.far_socket(STRANGER[4], socket.SOCK_STREAM)
            caller.settimeout(5)
            caller.connect((wire.here[4], 5060))
            calls.append((caller, server.accept()[0]))
        with wire.far_socket(STRANGER[4], socket.SOCK_STREAM) as refused:
            refused.settimeout(0.2)
            with pytest.raises(TimeoutError):
                refused.connect((wire.here[4], 5060))
        for caller, accepted in calls:
            caller.sendall(b"REGISTER")
            assert accepted.recv(2048) == b"REGISTER"
            caller.close()
            accepted.close()


@pytest.mark.kernel
async def test_other_ports_are_not_limited_even_where_everything_is_closed_to_the_banned(guard, wire):
    await placed(guard, Protection(EVERYTHING, tiers=TIERS))
    ssh, sip = Pbx(wire, 4, port=2222), Pbx(wire, 4)
    assert ssh.hears(STRANGER[4], 9) == 9
    assert sip.hears(STRANGER[4], 9) == 3
    await guard.firewall.add([Entry(source_network(ip_address(STRANGER[4])), 600)])
    assert ssh.hears(STRANGER[4], 2) == 0
    ssh.socket.close()
    sip.socket.close()


@pytest.mark.kernel
async def test_a_published_container_is_limited_by_the_port_that_asterisk_has(guard, container):
    container.publish(15060)
    await placed(guard, LIMITED)
    for _ in range(7):
        container.send(STRANGER[4], b"x", to=container.wire.here[4], port=15060)
    container.send(LAST[4], b"the last", to=container.wire.here[4], port=15060)
    heard = iter(lambda: container.pbx.recv(2048), b"the last")
    assert sum(1 for _ in heard) == 3
    assert await dropped(guard, 4) == {"3 in 60 s": 4}


@pytest.mark.kernel
async def test_limits_wait_until_somebody_is_exempt(guard, pbx):
    await guard.rule.install(LIMITED)
    state = await guard.rule.show()
    assert state.is_present
    assert not state.covers(LIMITED)
    assert pbx.hears(STRANGER[pbx.family], 6) == 6
    await placed(guard, LIMITED)
    assert pbx.hears(STRANGER[pbx.family], 6) == 3


@pytest.mark.kernel
async def test_installing_again_keeps_what_was_counted(guard, pbx):
    await placed(guard, LIMITED)
    assert pbx.hears(STRANGER[pbx.family], 5) == 3
    await guard.rule.exempt(OFFICE)
    await guard.rule.install(LIMITED)
    assert pbx.hears(STRANGER[pbx.family], 2) == 0
    assert await dropped(guard, pbx.family) == {"3 in 60 s": 4}


@pytest.mark.kernel
async def test_other_numbers_and_none_take_effect_and_leave_nothing(guard, pbx):
    stranger = STRANGER[pbx.family]
    await placed(guard, LIMITED)
    assert pbx.hears(stranger, 5) == 3
    await placed(guard, Protection(tiers=Tier.parse("5/60s")))
    await placed(guard, Protection(tiers=Tier.parse("2/30s,9/61s")))
    assert pbx.hears(stranger, 5) == 2
    await placed(guard, Protection())
    assert pbx.hears(stranger, 9) == 9
    assert [family.exempt for family in (await guard.rule.show()).families] == [0, 0]
    await placed(guard, LIMITED)
    await guard.rule.remove()
    await guard.rule.remove()
    assert pbx.hears(stranger, 9) == 9
    if isinstance(guard.rule, DropRule):
        assert not [name for name in run("ipset", "list", "-n").split() if is_ours(guard.firewall.prefix, name)]
        assert "-new" not in run("iptables", "-t", "mangle", "-S")
    else:
        left = run("nft", "list", "table", "inet", guard.firewall.prefix)
        assert "safe" not in left
        assert "hook" not in left
        assert "60s" not in left


@pytest.mark.kernel
async def test_sources_that_are_counted_are_shown(guard, pbx):
    await placed(guard, LIMITED)
    pbx.hears(STRANGER[pbx.family], 1)
    [state] = [one for one in (await guard.rule.show()).families if one.family == pbx.family]
    assert [(limit.name, limit.kind, limit.sources) for limit in state.limits] == [
        ("3 in 60 s", "tier", 1),
        ("5 in 180 s", "tier", 1),
    ]
    assert state.exempt > 0


@pytest.mark.parametrize(
    "text", ["3", "0/60s", "3/0s", f"3/{MAX_WINDOW + 1}s", "3/60s,4/60s", "x/60s", "99999/60s", "3/60s," * 9]
)
def test_tiers_that_the_kernel_could_not_hold_are_refused(text):
    with pytest.raises(ConfigurationError):
        Tier.parse(text)


def test_names_fit_what_the_kernel_takes():
    longest = "a" * 24
    names = [exempt_name(longest, 4), *windows(longest, 6, [Tier(1, MAX_WINDOW)]).values()]
    assert max(map(len, names)) <= 31
    assert all(is_ours(longest, name) for name in names)
    assert not is_ours("amiwatch", "amiwatch4")
    assert not is_ours("amiwatch", "amiwatch4-24")
    assert not is_ours("other", "amiwatch4-safe")


@pytest.mark.kernel
async def test_another_port_leaves_what_the_limits_have_counted(guard, pbx):
    await placed(guard, LIMITED)
    assert pbx.hears(STRANGER[pbx.family], 5) == 3
    await placed(guard, Protection(Scope.parse("voip,38000"), tiers=TIERS))
    assert await dropped(guard, pbx.family) == {"3 in 60 s": 2}
    assert pbx.hears(STRANGER[pbx.family], 2) == 0


@pytest.mark.kernel
async def test_the_longest_names_work(guard):
    prefix = "a" + "mi-watch-of-the-office"[: MAX_PREFIX - 1]
    firewall = make_firewall(guard.firewall.name, prefix=prefix.ljust(MAX_PREFIX, "x"))
    rule = make_rule(guard.firewall.name, prefix.ljust(MAX_PREFIX, "x"))
    assert rule is not None
    try:
        await firewall.open()
        await placed(Guard(firewall, rule), Protection(tiers=(Tier(3, MAX_WINDOW),)))
    finally:
        await rule.remove()
        await firewall.remove_sets()
        await firewall.close()


@pytest.mark.kernel
async def test_a_limit_that_nobody_is_led_to_is_seen(guard):
    await placed(guard, LIMITED)
    if isinstance(guard.rule, DropRule):
        program, chain = guard.rule._programs[4], guard.rule.chain
        rules = [
            line for line in run(program, "-t", "mangle", "-S", chain).splitlines() if guard.rule.strangers in line
        ]
        for line in rules:
            run(program, "-t", "mangle", "-D", *shlex.split(line)[1:])
    else:
        run("nft", "flush", "chain", "inet", guard.firewall.prefix, "input")
    assert not (await guard.rule.show()).covers(LIMITED)
    await placed(guard, LIMITED)


@pytest.mark.kernel
async def test_a_full_window_lets_further_sources_pass_and_holds_those_it_has(guard, wire, monkeypatch):
    """A flood of forged addresses must not shut everybody out."""
    monkeypatch.setattr(ipset_limits, "WINDOW_SOURCES", 4)
    monkeypatch.setattr(nftables_limits, "WINDOW_SOURCES", 4)
    await placed(guard, LIMITED)
    sip = Pbx(wire, 4)
    crowd = [f"198.51.100.{number}" for number in range(40)]
    assert [sip.hears(address) for address in crowd] == [1] * len(crowd)
    heard = [sip.hears(address, 6) for address in crowd]
    assert sorted(heard)[:4] == [2] * 4  # one came before
    assert sorted(heard)[4:] == [6] * (len(crowd) - 4)
    sip.socket.close()


@pytest.mark.kernel
async def test_a_packet_that_nobody_tracks_is_not_limited_and_one_that_is_dropped_leaves_no_trace(guard, wire):
    await placed(guard, LIMITED)
    sip = Pbx(wire, 4)
    count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    assert sip.hears(STRANGER[4], 3) == 3
    before = int(count.read_text())
    assert sip.hears(STRANGER[4], 50) == 0
    assert int(count.read_text()) <= before + 1
    untracked = ("PREROUTING", "-t", "raw", "-p", "udp", "-j", "NOTRACK")
    run("iptables", "-A", *untracked)
    try:
        assert sip.hears(STRANGER[4], 5) == 5
    finally:
        run("iptables", "-D", *untracked)
        sip.socket.close()


@pytest.mark.kernel
async def test_two_instances_do_not_meet(guard, pbx):
    kind = guard.firewall.name
    firewall, rule = (
        make_firewall(kind, prefix=f"{guard.firewall.prefix}2"),
        make_rule(kind, f"{guard.firewall.prefix}2"),
    )
    other = Guard(firewall, rule)
    try:
        await firewall.open()
        await placed(guard, Protection(tiers=Tier.parse("5/60s")))
        await placed(other, LIMITED)
        assert pbx.hears(STRANGER[pbx.family], 9) == 3
        await other.rule.remove()
        assert (await guard.rule.show()).covers(Protection(tiers=Tier.parse("5/60s")))
        assert pbx.hears({4: "192.0.2.77", 6: "2001:db8:77::1"}[pbx.family], 9) == 5
    finally:
        await rule.remove()
        await firewall.remove_sets()
        await firewall.close()


@pytest.mark.kernel
async def test_limits_that_the_kernel_refuses_leave_the_bans_in_force(guard, wire):
    too_much = Protection(tiers=(Tier(2**70, 60),))
    for _ in range(2):
        await guard.rule.exempt(OFFICE)
        with pytest.raises(LimitsRefused, match="Bans are dropped, but"):
            await guard.rule.install(too_much)
    assert (await guard.rule.show()).covers(Protection())
    await guard.firewall.add([Entry(source_network(ip_address(STRANGER[4])), 600)])
    sip = Pbx(wire, 4)
    assert sip.hears(STRANGER[4]) == 0
    sip.socket.close()
    await placed(guard, LIMITED)
