"""What is left in the kernel after a change from one firewall to the other goes, and nothing else does."""

from ipaddress import ip_network

import pytest

from amiwatch.firewall import leftovers
from amiwatch.firewall.base import Entry
from amiwatch.firewall.protection import Protection, Tier
from amiwatch.firewall.table import make_firewall, make_rule
from tests.firewall.conftest import run

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("both_firewalls")]

PREFIX = "left"
HOST = ip_network("198.51.100.7")


def everything() -> str:
    """Return all that the kernel has, without what counts."""
    return run("ipset", "list", "-n") + run("nft", "--stateless", "list", "ruleset")


async def fill(kind: str) -> None:
    """Put everything there that amiwatch ever makes."""
    firewall, rule = make_firewall(kind, prefix=PREFIX), make_rule(kind, PREFIX)
    assert rule is not None
    await firewall.open()
    await firewall.add([Entry(HOST, 600)])
    await rule.exempt([ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("203.0.113.9")])
    await rule.install(Protection(tiers=Tier.parse("3/60s,5/180s"), signatures=("friendly-scanner",)))
    await firewall.close()


@pytest.mark.parametrize(("old", "new"), [("ipset", "nftables"), ("nftables", "ipset")])
async def test_the_new_firewall_takes_over_and_leaves_no_trace_of_the_old_one(old: str, new: str):
    run("ipset", "create", "leftover", "hash:ip")
    try:
        # The first rule that anybody places makes the tables of iptables, and they stay, empty.
        await fill("ipset")
        await leftovers.remove("ipset", PREFIX)
        await fill(new)
        before = everything()
        await fill(old)
        assert everything() != before
        assert [state.count for state in await leftovers.left_by(old, PREFIX)] == [1, 0]
        await leftovers.take_over(new, PREFIX)
        assert await leftovers.left_by(old, PREFIX) == []
        assert [state.count for state in await leftovers.left_by(new, PREFIX)] == [1, 0]
        assert everything() == before
        await leftovers.take_over(new, PREFIX)
        assert everything() == before
        await leftovers.remove(new, PREFIX)
        assert PREFIX not in everything().lower().replace("leftover", "")
    finally:
        await leftovers.remove("ipset", PREFIX)
        await leftovers.remove("nftables", PREFIX)
        run("ipset", "destroy", "leftover")


async def test_sets_that_somebodys_rule_uses_are_emptied_where_they_can_not_go():
    await fill("ipset")
    run("iptables", "-w", "-A", "INPUT", "-m", "set", "--match-set", f"{PREFIX}4", "src", "-j", "DROP")
    try:
        await leftovers.take_over("nftables", PREFIX)
        assert [state.count for state in await leftovers.left_by("ipset", PREFIX) if state.family == 4] == [0]
    finally:
        run("iptables", "-w", "-D", "INPUT", "-m", "set", "--match-set", f"{PREFIX}4", "src", "-j", "DROP")
        await leftovers.remove("ipset", PREFIX)


async def test_a_set_of_our_name_that_somebody_else_made_stays():
    run("ipset", "create", f"{PREFIX}4", "hash:ip")
    try:
        run("ipset", "add", f"{PREFIX}4", "203.0.113.7")
        await leftovers.take_over("nftables", PREFIX)
        assert "203.0.113.7" in run("ipset", "list", f"{PREFIX}4")
    finally:
        run("ipset", "destroy", f"{PREFIX}4")
