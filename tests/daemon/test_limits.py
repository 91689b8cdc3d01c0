"""Limits of the real kernel, met by the daemon: each is survived, and said loudly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network
from math import inf
from pathlib import Path

import pytest

from amiwatch.firewall import leftovers, libnftables
from amiwatch.firewall.base import MAX_TIMEOUT, Entry
from amiwatch.firewall.table import make_firewall
from amiwatch.store import requests
from tests.daemon.conftest import PATIENCE, Start, Watched
from tests.firewall.conftest import run

pytestmark = pytest.mark.kernel

PREFIX = "limits"
DAY = 86400


class Site:
    """A daemon on a real kernel, and people who ask."""

    def __init__(self, it: Watched, path: Path) -> None:
        self.it, self.path = it, path

    async def ask(self, verb: str, target: str, seconds: int | None = None) -> requests.Outcome:
        asking = partial(requests.ask, self.path, verb, target, seconds=seconds, by="a test")
        number = await asyncio.to_thread(asking)
        found = await asyncio.to_thread(requests.wait_outcome, self.path, number, PATIENCE)
        assert found is not None
        return found

    async def kernel(self) -> dict[str, int | None]:
        return {str(entry.network): entry.seconds for entry in await self.it.daemon.firewall.entries()}

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not is_true():  # noqa: ASYNC110 - the daemon looks; nobody is told
                await asyncio.sleep(0.05)


@pytest.fixture(params=["ipset", "nftables"])
async def site(request: pytest.FixtureRequest, watched: Start, tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    if why := libnftables.missing():
        pytest.skip(why)

    @asynccontextmanager
    async def start(**settings: str) -> AsyncIterator[Site]:
        async with watched(FIREWALL=request.param, set_name=PREFIX, **settings) as it:
            yield Site(it, tmp_path / "amiwatch.db")

    yield start
    for kind in leftovers.RULES:
        await leftovers.remove(kind, PREFIX)


async def test_a_full_set_is_said_loudly_and_gives_up_what_ends_soonest(site, caplog: pytest.LogCaptureFixture) -> None:
    async with site(set_size="3") as it:
        for number, seconds in ((1, 500), (2, 100), (3, 900)):
            assert (await it.ask("ban", f"203.0.113.{number}", seconds)).is_done
        assert (await it.ask("ban", "203.0.113.4", 700)).is_done
        assert set(await it.kernel()) == {"203.0.113.1/32", "203.0.113.3/32", "203.0.113.4/32"}
        refused = await it.ask("ban", "203.0.113.5", 50)
        assert not refused.is_done
        assert "raise AMIWATCH_SET_SIZE" in refused.text
        assert [record.levelname for record in caplog.records if "raise AMIWATCH_SET_SIZE" in record.message] == [
            "ERROR",
            "ERROR",
        ]


async def test_a_ban_beyond_the_kernels_timeout_is_armed_again(site) -> None:
    async with site() as it:
        network = ip_network("203.0.113.1/32")
        await it.ask("ban", "203.0.113.1", 60 * DAY)
        left = (await it.kernel())[str(network)]
        assert left is not None
        assert MAX_TIMEOUT - 3 <= left <= MAX_TIMEOUT
        # Some 24 days later: the kernel's time is nearly over, ours is not.
        await it.it.daemon.firewall.add([Entry(network, 1000)])
        it.it.daemon._enforcer._listed_at = -inf
        await it.it.daemon._enforcer.reconcile()
        left = (await it.kernel())[str(network)]
        assert left is not None
        assert left > MAX_TIMEOUT - 60


async def test_a_ban_for_ever_has_no_end_in_the_kernel_and_none_after_a_restart(site) -> None:
    async with site() as it:
        await it.ask("ban", "203.0.113.0/24", 0)
        await it.ask("ban", "2001:db8:1::/64", 0)
        assert await it.kernel() == {"203.0.113.0/24": None, "2001:db8:1::/64": None}
    async with site() as it:
        assert await it.kernel() == {"203.0.113.0/24": None, "2001:db8:1::/64": None}
        await it.it.daemon.firewall.clear()
        await it.it.daemon._enforcer.reconcile()
        assert await it.kernel() == {"203.0.113.0/24": None, "2001:db8:1::/64": None}


@pytest.mark.parametrize("step", [-30 * DAY, 30 * DAY])
async def test_a_clock_that_is_set_while_it_runs_ends_no_ban_and_makes_none_longer(
    site, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site() as it:
        await it.ask("ban", "203.0.113.1", 2 * DAY)
        machine = time.time
        monkeypatch.setattr(time, "time", lambda: machine() + step)
        await it.ask("ban", "203.0.113.2", DAY)
        await it.it.daemon._reconcile()
        await it.it.daemon.firewall.clear()
        await it.it.daemon._enforcer.reconcile()
        found = await it.kernel()
        assert found["203.0.113.1/32"] in range(2 * DAY - 20, 2 * DAY + 1)
        assert found["203.0.113.2/32"] in range(DAY - 20, DAY + 1)


@pytest.mark.parametrize(("step", "left"), [(-30 * DAY, 2 * DAY), (DAY, DAY)])
async def test_a_clock_that_was_set_while_nobody_ran_makes_no_ban_longer(
    site, step: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site() as it:
        await it.ask("ban", "203.0.113.1", 2 * DAY)
    firewall = make_firewall(it.it.daemon.firewall.name, prefix=PREFIX)
    await firewall.clear()  # as a reboot would
    await firewall.close()
    machine = time.time
    monkeypatch.setattr(time, "time", lambda: machine() + step)
    async with site() as it:
        assert (await it.kernel())["203.0.113.1/32"] in range(left - 30, left + 1)


async def test_a_kernel_that_refuses_is_said_once_and_asked_until_it_gives_in(
    site, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody puts a set of another kind in the place of ours, and takes it away again."""
    async with site() as it:
        name = it.it.daemon.firewall.name
        await leftovers.remove(name, PREFIX)
        if name == "ipset":
            run("ipset", "create", f"{PREFIX}4", "hash:ip")
        else:
            run("nft", f"add table inet {PREFIX}; add set inet {PREFIX} {PREFIX}4 {{ type inet_service; }}")
        await it.until(lambda: it.it.daemon.has_firewall_trouble)
        answer = await it.ask("ban", "203.0.113.1", DAY)
        assert "the kernel refuses changes now" in answer.text
        await asyncio.sleep(3 * float(it.it.daemon.settings.reconcile_time))  # the time for more of the same words
        assert sum("bans are not enforced now" in text for text in caplog.messages) == 1
        assert any("is not ours to use" in text for text in caplog.messages)
        if name == "ipset":
            run("ipset", "destroy", f"{PREFIX}4")
        else:
            run("nft", f"delete table inet {PREFIX}")
        await it.until(lambda: not it.it.daemon.has_firewall_trouble)
        assert list(await it.kernel()) == ["203.0.113.1/32"]
        assert any("firewall works again" in text for text in caplog.messages)
