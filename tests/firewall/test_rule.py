"""The drop rule, shown with packets."""

import re
import shutil
import socket
import sys

import pytest

from amiwatch.errors import FirewallError
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.rule import HOOKS, DropRule
from amiwatch.firewall.scope import EVERYTHING, VOIP_PORTS, Ports, Scope
from tests.firewall.conftest import SBIN, STRANGER, VARIANTS, Pbx, ban, run

pytestmark = pytest.mark.kernel

TABLES = ("raw", "mangle", "filter")


@pytest.fixture(params=VARIANTS)
def programs(request, monkeypatch):
    monkeypatch.setenv("PATH", SBIN)
    missing = [program for program in VARIANTS[request.param].values() if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return VARIANTS[request.param]


@pytest.fixture
async def rule(ipset, programs):
    placed = DropRule(ipset.prefix, programs)
    yield placed
    await placed.remove()


def saved(programs):
    """What iptables holds in the tables that matter, without the lines that carry the time of day."""
    shown = [run(f"{program}-save", "-t", table) for program in programs.values() for table in TABLES]
    return re.sub(r"^#.*\n", "", "".join(shown), flags=re.M)


def iptables(programs, *arguments):
    for program in programs.values():
        run(program, "-w", "5", *arguments)


async def test_a_banned_address_may_still_reach_other_ports(ipset, rule, wire):
    await rule.install(Protection())
    await ipset.add([ban(STRANGER[4])])
    with socket.create_server((wire.here[4], 2222)) as ours, wire.far_socket(STRANGER[4], socket.SOCK_STREAM) as theirs:
        ours.settimeout(5)
        theirs.settimeout(5)
        theirs.connect((wire.here[4], 2222))
        accepted, _ = ours.accept()
        accepted.close()


async def test_a_banned_address_gets_no_answer_on_a_voip_port_over_tcp(ipset, rule, wire):
    await rule.install(Protection())
    await ipset.add([ban(STRANGER[4])])
    with socket.create_server((wire.here[4], 5061)), wire.far_socket(STRANGER[4], socket.SOCK_STREAM) as theirs:
        theirs.settimeout(0.2)
        with pytest.raises(TimeoutError):
            theirs.connect((wire.here[4], 5061))


async def test_the_scope_of_everything_leaves_no_port_open(ipset, rule, wire):
    await rule.install(Protection(EVERYTHING))
    await ipset.add([ban(STRANGER[4])])
    other = Pbx(wire, 4, port=40000)
    try:
        assert other.arrived(STRANGER[4]) == []
    finally:
        other.socket.close()


async def test_installing_again_changes_nothing(rule, programs):
    await rule.install(Protection())
    before = saved(programs)
    await rule.install(Protection())
    assert saved(programs) == before
    assert before.count(f"-j {rule.chain}") == 6


async def test_another_scope_replaces_the_ports(rule):
    await rule.install(Protection())
    wider = Scope((*VOIP_PORTS, Ports("udp", 5080, 5080)))
    assert not (await rule.show()).covers(Protection(wider))

    await rule.install(Protection(wider))

    state = await rule.show()
    assert state.covers(Protection(wider))
    assert not state.covers(Protection())
    assert [drop.ports for drop in state.families[0].drops] == ["4569,5060:5061,5080", "5038,5060:5061,8088:8089"]


async def test_other_peoples_rules_stay_as_they_are(rule, programs):
    iptables(programs, "-t", "raw", "-N", "SOMEBODY")
    iptables(programs, "-t", "raw", "-A", "SOMEBODY", "-p", "udp", "--dport", "53", "-j", "ACCEPT")
    remark = f'it\'s "mine"; -j {rule.chain}'
    iptables(programs, "-t", "raw", "-A", "PREROUTING", "-m", "comment", "--comment", remark, "-j", "SOMEBODY")
    iptables(programs, "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "ACCEPT")
    iptables(programs, "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    theirs = saved(programs)
    try:
        await rule.install(Protection())
        with_ours = saved(programs)
        assert with_ours != theirs
        jump = f" -m comment --comment amiwatch -j {rule.chain}"
        ours = (
            f":{rule.chain} ",
            f"-A {rule.chain} ",
            *(f"-A {hook}{jump}" for hook in (*HOOKS["raw"], *HOOKS["mangle"])),
        )
        kept = [line for line in with_ours.splitlines() if not line.startswith(ours)]
        assert kept == theirs.splitlines()

        await rule.install(Protection(EVERYTHING))
        await rule.remove()
        await rule.remove()

        assert saved(programs) == theirs
    finally:
        for table in TABLES:
            iptables(programs, "-t", table, "-F")
        iptables(programs, "-t", "raw", "-X")


async def test_a_rule_that_slipped_down_is_seen_and_put_first_again(rule, programs):
    await rule.install(Protection())
    iptables(programs, "-t", "raw", "-I", "PREROUTING", "-p", "udp", "-j", "ACCEPT")
    try:
        assert [family.position for family in (await rule.show()).families] == [2, 2]

        await rule.install(Protection())

        state = await rule.show()
        assert [family.position for family in state.families] == [1, 1]
        assert state.covers(Protection())
    finally:
        iptables(programs, "-t", "raw", "-D", "PREROUTING", "-p", "udp", "-j", "ACCEPT")


async def test_what_is_missing_is_seen(rule, programs):
    assert [family.position for family in (await rule.show()).families] == [None, None]
    assert not (await rule.show()).is_present

    await rule.install(Protection())
    assert (await rule.show()).is_present

    iptables(programs, "-t", "raw", "-F", rule.chain)
    assert not (await rule.show()).is_present

    await rule.install(Protection())
    iptables(programs, "-t", "raw", "-F", "PREROUTING")
    state = await rule.show()
    assert not state.is_present
    assert state.families[0].drops

    await rule.install(Protection())
    assert (await rule.show()).covers(Protection())


async def test_a_jump_that_stands_twice_is_put_right(rule, programs):
    await rule.install(Protection())
    iptables(programs, "-t", "raw", "-A", "PREROUTING", "-j", rule.chain)

    await rule.install(Protection())

    assert saved(programs).count(f"-j {rule.chain}") == 6


async def test_the_set_knows_that_a_rule_uses_it(ipset, rule):
    await rule.install(Protection())
    assert [state.references for state in await ipset.states()] == [4, 4]
    with pytest.raises(FirewallError, match="firewall remove"):
        await ipset.remove_sets()

    await rule.remove()
    assert [state.references for state in await ipset.states()] == [0, 0]


async def test_a_rule_without_sets_is_refused_with_a_reason(programs):
    before = saved(programs)
    lonely = DropRule("nobody", programs)
    with pytest.raises(FirewallError, match="do not exist"):
        await lonely.install(Protection())
    await lonely.remove()
    assert "NOBODY" not in saved(programs)
    assert saved(programs).count("-A") == before.count("-A")


async def test_without_the_right_it_says_which_is_missing(programs):
    script = (
        "import asyncio; from amiwatch.firewall.rule import DropRule; from amiwatch.errors import *\n"
        f"try: asyncio.run(DropRule(programs={programs}).show())\n"
        "except FirewallPermission as exc: print(exc)"
    )
    without = ["setpriv", "--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw"]
    assert "CAP_NET_ADMIN" in run(*without, sys.executable, "-c", script)


async def test_a_missing_iptables_is_named():
    rule = DropRule(programs={4: "iptables-of-nobody", 6: "ip6tables"})
    for ask in (rule.show, rule.remove):
        with pytest.raises(FirewallError, match=r"'iptables-of-nobody'.*install"):
            await ask()
