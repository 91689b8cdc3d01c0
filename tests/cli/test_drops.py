"""How far a ban works, told by ``why``: with rights over the kernel, and without."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator

import pytest

from amiwatch.firewall.base import Entry
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.store.records import Status
from amiwatch.testing.netns import Wire
from tests.cli.conftest import make_ban
from tests.firewall.conftest import settled

ADDRESS = "203.0.113.7"
NETWORK = make_ban(ADDRESS).network


def put_ban(store, packets: int = 40_000) -> None:
    ban = make_ban(ADDRESS)
    store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True)
    store.put_counters(ban.network, packets=packets, octets=packets * 100, at=ban.at + 5)


@pytest.fixture(params=["ipset", "nftables"])
def banned(request: pytest.FixtureRequest, environ: dict[str, str], fill) -> Iterator[str]:
    """A ban in the kernel that has dropped seven packets since the daemon looked last; it had counted none then."""
    environ |= {"AMIWATCH_FIREWALL": request.param, "AMIWATCH_SET_NAME": "drops"}
    asyncio.run(ban_for_real(request.param))
    fill(lambda store: put_ban(store))
    yield request.param
    asyncio.run(take_down(request.param))


async def ban_for_real(kind: str) -> None:
    firewall = make_firewall(kind, prefix="drops")
    await firewall.open()
    await make_rule(kind, "drops").install(Protection())
    await firewall.add([Entry(NETWORK, 3600)])
    await firewall.close()
    with Wire() as wire:
        for _ in range(7):
            wire.send_from(ADDRESS, 5060, b"REGISTER")
        settled(wire, 4)


async def take_down(kind: str) -> None:
    firewall = make_firewall(kind, prefix="drops")
    await make_rule(kind, "drops").remove()
    await firewall.remove_sets()
    await firewall.close()


@pytest.mark.kernel
def test_with_rights_the_kernel_adds_what_it_counted_since(call, banned: str) -> None:
    """The kernel's counter is less than it was when it was written down, so it began anew."""
    assert "It is in the kernel's set; 40,007 packets dropped since it was banned." in call("why", ADDRESS).stdout
    told = json.loads(call("why", ADDRESS, "--json").stdout)
    assert (told["packets_dropped"], told["is_in_kernel"], told["ban_not_working"]) == (40_007, True, None)


@pytest.mark.kernel
def test_what_was_written_down_is_not_added_twice(call, fill, banned: str) -> None:
    fill(lambda store: store.put_counters(NETWORK, packets=5, octets=500, at=time.time()))
    assert json.loads(call("why", ADDRESS, "--json").stdout)["packets_dropped"] == 40_007


@pytest.mark.kernel
def test_a_ban_that_is_missing_in_the_kernel_is_told(call, banned: str) -> None:
    async def unban() -> None:
        firewall = make_firewall(banned, prefix="drops")
        await firewall.remove([NETWORK])
        await firewall.close()

    asyncio.run(unban())
    assert "It is NOT in the kernel's set now" in call("why", ADDRESS).stdout
    assert json.loads(call("why", ADDRESS, "--json").stdout)["is_in_kernel"] is False


@pytest.mark.kernel
def test_without_rights_it_tells_what_the_daemon_wrote_down(program, banned: str) -> None:
    powerless = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--ambient-caps", "-net_admin")
    shown = program("why", ADDRESS, before=powerless).stdout
    assert "40,000 packets dropped since it was banned, as the daemon wrote it down last." in shown


@pytest.mark.kernel
def test_what_the_daemon_found_out_is_told_with_the_ban_and_in_status(call, fill, banned: str) -> None:
    counters = {"ban_not_working": "no rule looks into our set. Do this.", "links": "pbx hearing"}
    now = time.time()
    fill(lambda store: store.put_status(Status(os.getpid(), now - 60, now, "enforce", "1", banned, counters)))
    assert "Banned sources are still heard: no rule looks into our set. Do this." in call("why", ADDRESS).stdout
    assert "BANNED SOURCES ARE STILL HEARD: no rule looks into our set. Do this." in call("status").stdout


def test_a_dry_run_has_nothing_to_tell(call, fill) -> None:
    fill(lambda store: put_ban(store))
    told = json.loads(call("why", ADDRESS, "--json").stdout)
    assert (told["packets_dropped"], told["is_in_kernel"]) == (None, None)
