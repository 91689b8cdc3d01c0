"""How bans get into the kernel that the judge hands over in one call, with either firewall."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from time import perf_counter

import pytest

from amiwatch.daemon.watch import ALONE, Daemon
from amiwatch.judgement.values import Ban

from .conftest import Start

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(("number", "within"), [(1, 1), (ALONE, ALONE), (ALONE + 1, 0)])
async def test_few_bans_are_there_within_the_call_and_many_hold_nobody_up(
    guarded: Start, number: int, within: int
) -> None:
    async with guarded() as watched:
        daemon = watched.daemon
        bans = [ban(daemon, last) for last in range(number)]
        daemon.take(bans, "pbx", perf_counter())
        assert len(watched.watcher.bans) == within
        await daemon.settle()
        assert [one for one, _ in watched.watcher.bans] == bans
        assert all([await daemon.firewall.has(one.network) for one in bans])


def ban(daemon: Daemon, last: int) -> Ban:
    address = IPv4Address("203.0.113.0") + last
    daemon.judge.ledger.put(IPv4Network(address), daemon.now() + 60)
    return Ban(IPv4Network(address), address, daemon.now(), 60, 1, "test", "")
