"""What keeps a ban from dropping, made for real in a network namespace, and found."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from ipaddress import ip_network

import pytest

from amiwatch.errors import FirewallError
from amiwatch.firewall.base import Entry, Firewall
from amiwatch.firewall.diagnosis import CAUSES, Cause, Suspect, diagnose
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import Rule
from amiwatch.firewall.scope import Scope
from amiwatch.firewall.table import make_rule
from amiwatch.testing.firewall import FakeFirewall
from amiwatch.testing.netns import Wire
from tests.firewall.conftest import SBIN, fresh_ipset, fresh_nftables, settled

kernel = pytest.mark.kernel

ATTACKER = ip_network("198.51.100.7/32")
SUSPECT = Suspect(ATTACKER, "udp", 5060)


@contextmanager
def listening(kind: int = socket.SOCK_DGRAM, port: int = 5060, family: int = socket.AF_INET) -> Iterator[None]:
    with socket.socket(family, kind) as asterisk:
        asterisk.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # another test's connections linger
        asterisk.bind(("", port))
        if kind == socket.SOCK_STREAM:
            asterisk.listen()
        yield


class Ground:
    """Sets, a rule and a ban that are as they ought to be."""

    def __init__(self, firewall: Firewall, rule: Rule) -> None:
        self.firewall, self.rule = firewall, rule

    async def asked(self, suspect: Suspect = SUSPECT, *, ports: str = "voip", dropped: int | None = 0) -> Cause:
        return await diagnose(suspect, self.firewall, self.rule, Protection(Scope.parse(ports)), dropped_before=dropped)


@pytest.fixture(params=[fresh_ipset, fresh_nftables], ids=["ipset", "nftables"])
async def ground(request: pytest.FixtureRequest, iptables_present: None) -> AsyncIterator[Ground]:
    async with request.param() as firewall:
        rule = make_rule(firewall.name, firewall.prefix)
        await rule.install(Protection())
        await firewall.add([Entry(ATTACKER, 600)])
        yield Ground(firewall, rule)
        await rule.remove()


@kernel
async def test_where_all_is_right_the_packets_carry_another_address(ground: Ground) -> None:
    with listening():
        assert (await ground.asked()).kind == "other_address"


@kernel
async def test_what_is_dropped_and_comes_all_the_same_comes_by_another_way(ground: Ground, wire: Wire) -> None:
    with listening():
        wire.send_from("198.51.100.7", 5060, b"OPTIONS")
        settled(wire, 4)
        cause = await ground.asked()
    assert cause.kind == "other_way"
    assert "tcpdump -ni any host 198.51.100.7" in cause.remedy


@kernel
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
async def test_an_asterisk_that_listens_nowhere_here_runs_elsewhere(ground: Ground, kind: int) -> None:
    protocol = "udp" if kind == socket.SOCK_DGRAM else "tcp"
    suspect = Suspect(ATTACKER, protocol, 5060)
    assert (await ground.asked(suspect)).kind == "elsewhere"
    for family in (socket.AF_INET, socket.AF_INET6):
        with listening(kind, family=family):
            assert (await ground.asked(suspect)).kind == "other_address"


@kernel
async def test_a_port_outside_the_scope_is_named_with_what_to_write(ground: Ground) -> None:
    cause = await ground.asked(Suspect(ATTACKER, "tcp", 38000))
    assert cause.kind == "other_port"
    assert "tcp port 38000" in cause.text
    assert "voip,38000/tcp" in cause.remedy


@kernel
async def test_a_missing_rule_is_noticed(ground: Ground) -> None:
    await ground.rule.remove()
    cause = await ground.asked()
    assert cause.kind == "no_rule"
    assert "amiwatch firewall install" in cause.remedy


@kernel
async def test_a_rule_for_other_ports_than_the_settings_say_is_noticed(ground: Ground) -> None:
    assert (await ground.asked(ports="voip,5080/udp")).kind == "wrong_rule"


@kernel
async def test_an_entry_that_somebody_took_out_is_noticed(ground: Ground) -> None:
    await ground.firewall.remove([ATTACKER])
    assert (await ground.asked()).kind == "not_in_set"


@kernel
async def test_a_set_that_somebody_destroyed_is_noticed(ground: Ground) -> None:
    await ground.rule.remove()
    await ground.firewall.remove_sets()
    assert (await ground.asked()).kind == "no_set"


@kernel
async def test_an_accept_before_our_rule_is_noticed(iptables_present: None) -> None:
    async with fresh_ipset() as firewall:
        rule = make_rule("ipset", firewall.prefix)
        await rule.install(Protection())
        await firewall.add([Entry(ATTACKER, 600)])
        line = ["PREROUTING", "-p", "udp", "-j", "ACCEPT"]
        run = {"check": True, "env": {**os.environ, "PATH": SBIN}}
        subprocess.run(["iptables", "-t", "raw", "-I", *line], **run)
        cause = await Ground(firewall, rule).asked()
        subprocess.run(["iptables", "-t", "raw", "-D", *line], **run)
        await rule.remove()
    assert cause.kind == "late_rule"
    assert "number 2 in raw PREROUTING" in cause.text


@kernel
async def test_a_rule_of_the_administrator_that_stands_too_late_is_told_so(ground: Ground) -> None:
    with listening():
        found = await diagnose(SUSPECT, ground.firewall, None, Protection(), dropped_before=0)
    assert found.kind == "own_rule"


async def test_a_dry_run_drops_nothing() -> None:
    assert (await diagnose(SUSPECT, DryRunFirewall(), None, Protection())).kind == "dry_run"


async def test_a_kernel_that_refuses_is_quoted() -> None:
    firewall = FakeFirewall()
    firewall.fail_next(FirewallError("The kernel is out of memory."))
    cause = await diagnose(SUSPECT, firewall, None, Protection())
    assert cause == Cause("refused", *[text.format("The kernel is out of memory") for text in CAUSES["refused"]])
