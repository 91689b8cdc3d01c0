"""What other firewalls and people do beside us: our drop works again within 5 s, and nothing of theirs is touched."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from amiwatch.testing.netns import Wire
from tests.daemon.test_end_to_end import ATTACKER, ATTACKER6, PHONE, arrives
from tests.firewall.conftest import SBIN
from tests.living.conftest import Guarded, both, run, theirs, until_dropped

pytestmark = pytest.mark.kernel

TABLES = ("raw", "mangle", "nat", "filter")


def flush_iptables() -> None:
    for table in TABLES:
        both("-t", table, "-F")
        both("-t", table, "-X")


def restore_without_us() -> None:
    """Load a saved file that knows nothing of us, as netfilter-persistent does at its restart."""
    rules = "".join(f"*{table}\n-A {hook} -p tcp --dport 9 -j ACCEPT\nCOMMIT\n" for table, hook in HOOKS.items())
    both(text=rules, restore=True)


HOOKS = {"raw": "PREROUTING", "mangle": "FORWARD", "filter": "INPUT"}


def destroy_sets() -> None:
    """Destroy every set, which the kernel allows when no rule uses one any more."""
    for table in ("raw", "mangle", "filter"):
        both("-t", table, "-F")
    run("ipset", "destroy")


def accept_in_front() -> None:
    for table, hook in (("raw", "PREROUTING"), ("mangle", "INPUT"), ("filter", "INPUT")):
        both("-t", table, "-I", hook, "1", "-p", "udp", "-j", "ACCEPT")


def nft_accept_in_front() -> None:
    run("nft", "add table inet early")
    run("nft", "add chain inet early first { type filter hook prerouting priority -450; policy accept; }")
    run("nft", "add rule inet early first udp dport 5060 accept")


HARMS = {
    "iptables -F of every table": flush_iptables,
    "iptables-restore without our lines": restore_without_us,
    "nft flush ruleset": lambda: run("nft", "flush", "ruleset"),
    "ipset flush": lambda: run("ipset", "flush"),
    "ipset destroy": destroy_sets,
    "accept in front of us": accept_in_front,
    "nftables accept in front of us": nft_accept_in_front,
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
async def test_whatever_others_do_the_drop_works_again_and_nothing_of_theirs_is_touched(
    guarded: Guarded, wire: Wire, harm
) -> None:
    async with guarded():
        assert not arrives(wire, ATTACKER)
        assert not arrives(wire, ATTACKER6)
        before = theirs()
        assert before
        await asyncio.to_thread(harm)
        after = theirs()
        await until_dropped(wire)
        assert theirs() == after
        assert arrives(wire, "203.0.113.150")


async def test_what_we_place_and_take_away_leaves_everything_of_others_as_it_was(guarded: Guarded, wire: Wire) -> None:
    async with guarded():
        before = theirs()
        assert any(name.startswith("iptables") for name in before)
        assert "ipset theirs" in before
        assert not arrives(wire, ATTACKER)
    assert theirs() == before


@pytest.mark.parametrize("reconcile_time", ["1h"])
async def test_a_long_reconcile_time_delays_no_repair(guarded: Guarded, wire: Wire, reconcile_time: str) -> None:
    async with guarded(reconcile_time=reconcile_time):
        for harm in (lambda: run("ipset", "flush"), lambda: run("nft", "flush", "ruleset")):
            await asyncio.to_thread(harm)
            await until_dropped(wire)


@pytest.mark.parametrize("backend", ["ipset"])
async def test_with_the_older_iptables_which_the_kernel_tells_nobody_of(
    guarded: Guarded, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    legacy = shutil.which("xtables-legacy-multi", path=SBIN)
    if legacy is None or "PREROUTING" not in run("iptables-legacy", "-t", "raw", "-S", check=False):
        pytest.skip("there is no iptables-legacy")
    for program in ("iptables", "ip6tables"):
        for name in (program, f"{program}-restore"):
            (tmp_path / name).symlink_to(legacy)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with guarded():
        assert "LIVING" in run("iptables-legacy", "-t", "raw", "-S")
        for program in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("raw", "mangle", "filter"):
                run(program, "-t", table, "-F")
        assert arrives(wire, ATTACKER)
        await until_dropped(wire)


async def test_an_established_flow_of_the_banned_is_dropped_too(guarded: Guarded, wire: Wire) -> None:
    """A conntrack entry and an accept for it stand in filter: both come after us."""
    attacker = "198.51.100.77"
    async with guarded() as it:
        both("-I", "INPUT", "1", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
        with wire.receiver(5060) as sip, wire.far_socket(attacker, port=40000) as phone:
            phone.settimeout(5)
            phone.sendto(b"OPTIONS", (wire.here[4], 5060))
            _, sender = sip.recvfrom(100)
            sip.sendto(b"200 OK", sender)
            assert phone.recv(100) == b"200 OK"
            phone.sendto(b"OPTIONS again", (wire.here[4], 5060))
            assert sip.recv(100) == b"OPTIONS again"
            await it.attack(attacker)
            await it.watcher.until_banned(f"{attacker}/32")
            phone.sendto(b"OPTIONS once more", (wire.here[4], 5060))
            wire.send_from(PHONE, 5060, b"the phone")
            assert sip.recv(100) == b"the phone"
