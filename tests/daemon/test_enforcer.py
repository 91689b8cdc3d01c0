"""The kernel's sets are kept like the ledger, whatever a firewall refuses and whoever else changes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address, ip_network
from math import inf
from time import perf_counter

import pytest

from amiwatch.daemon import enforcer as module
from amiwatch.daemon.enforcer import Done, Enforcer, Order
from amiwatch.errors import FirewallError, FirewallPermission
from amiwatch.firewall.base import MAX_TIMEOUT, Entry, Firewall
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.judgement.ledger import Ledger
from amiwatch.judgement.values import Ban, IPNetwork
from amiwatch.testing.clock import Clock
from amiwatch.testing.firewall import FakeFirewall

DAY = 86400
BUSY = FirewallError("The kernel is busy.")


class SlowFirewall(FakeFirewall):
    """One of its calls waits for a gate, and says when it does."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now=now)
        self.slow = ""
        """Name of the call that waits."""
        self.gate = asyncio.Event()
        self.is_waited_for = asyncio.Event()
        self.adds: list[list[IPNetwork]] = []
        self.walks = 0

    async def _pass(self, name: str) -> None:
        if name == self.slow:
            self.is_waited_for.set()
            await self.gate.wait()

    async def add(self, entries: Sequence[Entry]) -> list[Entry]:
        await self._pass("add")
        self.adds.append([entry.network for entry in entries])
        rejected = await super().add(entries)
        await self._pass("answer")
        return rejected

    async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
        self.walks += 1
        found: list[Entry] = []
        await super().walk(found.extend)  # as old as a kernel's answer may be when it arrives
        await self._pass("entries")
        take(found)


class Bench:
    """An enforcer, and everything that it tells."""

    def __init__(self, firewall: Firewall, clock: Clock, *, is_enforcing: bool = True) -> None:
        self.firewall, self.clock, self.ledger = firewall, clock, Ledger()
        self.done: list[Done] = []
        self.told: list[str] = []
        """Bans and evictions, in the order in which they were told."""
        self.adopted: list[str] = []
        self.safe = ip_network("192.0.2.0/24")
        self.enforcer = Enforcer(
            firewall,
            self.ledger,
            now=clock,
            done=self._take,
            adopted=self._adopt,
            evicted=lambda network: self.told.append(f"evicted {network}"),
            is_enforcing=is_enforcing,
        )

    def _take(self, done: list[Done]) -> None:
        self.done += done
        self.told += [f"banned {each.order.ban.network}" for each in done]

    async def _adopt(self, network: IPNetwork, seconds: int | None) -> bool:
        if network.version == 4 and network.subnet_of(self.safe):
            return False
        self.adopted.append(str(network))
        self.ledger.put(network, None if seconds is None else self.clock() + seconds)
        return True

    def order(self, network: str, seconds: int | None = 3600) -> None:
        ban = Ban(ip_network(network), ip_network(network).network_address, self.clock(), seconds, 1, "test", "")
        self.ledger.put(ban.network, None if seconds is None else self.clock() + seconds)
        self.enforcer.order(Order(ban, "pbx", perf_counter()))

    async def ban(self, network: str, seconds: int | None = 3600) -> None:
        self.order(network, seconds)
        await self.enforcer.settle()

    async def unban(self, network: str) -> None:
        self.ledger.drop(ip_network(network))
        self.enforcer.lift(ip_network(network))
        await self.enforcer.settle()

    async def kernel(self) -> dict[str, int | None]:
        return {str(entry.network): entry.seconds for entry in await self.firewall.entries()}


Running = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def running(clock: Clock) -> Running:
    @asynccontextmanager
    async def run(firewall: Firewall | None = None, **options: bool) -> AsyncIterator[Bench]:
        bench = Bench(firewall or FakeFirewall(now=clock), clock, **options)
        await bench.enforcer.begin()
        task = asyncio.create_task(bench.enforcer.run())
        yield bench
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    return run


def fake(bench: Bench) -> FakeFirewall:
    assert isinstance(bench.firewall, FakeFirewall)
    return bench.firewall


async def test_a_ban_that_the_kernel_refused_gets_in_later(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as bench:
        fake(bench).fail_next(BUSY)
        await bench.ban("203.0.113.1/32")
        assert [each.seconds for each in bench.done] == [None]
        assert bench.enforcer.has_trouble
        await bench.enforcer.reconcile()
        assert list(await bench.kernel()) == ["203.0.113.1/32"]
        assert not bench.enforcer.has_trouble
    assert [text for text in caplog.messages if "not enforced" in text] == [
        "bans are not enforced now, trying again reason=The kernel is busy."
    ]


async def test_an_unban_that_the_kernel_refused_is_tried_again_and_never_adopted(running: Running) -> None:
    async with running() as bench:
        await bench.ban("203.0.113.1/32")
        fake(bench).fail_next(BUSY)
        await bench.unban("203.0.113.1/32")
        assert list(await bench.kernel()) == ["203.0.113.1/32"]
        await bench.enforcer.reconcile()
        await bench.enforcer.settle()
        assert (await bench.kernel(), bench.adopted, len(bench.ledger)) == ({}, [], 0)


async def test_a_failed_ban_beside_a_failed_unban_is_noticed_though_the_numbers_agree(running: Running) -> None:
    async with running() as bench:
        await bench.ban("203.0.113.1/32")
        fake(bench).fail_next(BUSY, times=2)
        bench.order("203.0.113.2/32")
        await bench.unban("203.0.113.1/32")
        assert list(await bench.kernel()) == ["203.0.113.1/32"]
        await bench.enforcer.reconcile()
        await bench.enforcer.settle()
        assert (list(await bench.kernel()), bench.adopted) == (["203.0.113.2/32"], [])


async def test_a_refused_unban_holds_no_ban_up(running: Running) -> None:
    class NoRemoval(FakeFirewall):
        async def remove(self, networks: Iterable[IPNetwork]) -> None:
            raise BUSY

    async with running(NoRemoval()) as bench:
        await bench.ban("203.0.113.1/32")
        bench.ledger.drop(ip_network("203.0.113.1/32"))
        bench.enforcer.lift(ip_network("203.0.113.1/32"))
        await bench.ban("203.0.113.2/32")
        assert "203.0.113.2/32" in await bench.kernel()


async def test_what_was_lifted_while_the_kernel_was_listed_is_not_adopted(running: Running, clock: Clock) -> None:
    firewall = SlowFirewall(clock)
    async with running(firewall) as bench:
        await bench.ban("203.0.113.1/32")
        firewall.slow = "entries"
        bench.enforcer._is_listing_due = True
        listing = asyncio.create_task(bench.enforcer.reconcile())
        await firewall.is_waited_for.wait()
        await bench.unban("203.0.113.1/32")
        firewall.gate.set()
        await listing
        assert (await bench.kernel(), bench.adopted, len(bench.ledger)) == ({}, [], 0)


async def test_what_was_lifted_while_it_was_put_back_stays_lifted(running: Running, clock: Clock) -> None:
    firewall = SlowFirewall(clock)
    async with running(firewall) as bench:
        await bench.ban("203.0.113.1/32")
        firewall.flush()
        firewall.slow = "add"
        putting_back = asyncio.create_task(bench.enforcer.reconcile())
        await firewall.is_waited_for.wait()
        await bench.unban("203.0.113.1/32")
        firewall.gate.set()
        await putting_back
        assert await bench.kernel() == {}


async def test_bans_that_come_while_many_are_compared_do_no_harm(running: Running) -> None:
    async with running() as bench:
        for number in range(3 * module.SLICE):
            bench.ledger.put(ip_network((0xC6120000 + number, 32)), bench.clock() + 3600)
        comparing = asyncio.create_task(bench.enforcer.reconcile())
        number = 0
        while not comparing.done():
            await bench.ban(f"203.0.113.{number}/32")
            await bench.unban(f"203.0.113.{number - 1}/32" if number else "203.0.113.255/32")
            number += 1
        await comparing
        assert number > 1
        await bench.enforcer.reconcile()
        assert len(await bench.kernel()) == len(bench.ledger) == 3 * module.SLICE + 1


@pytest.mark.parametrize("harm", ["flush", "destroy"])
async def test_what_somebody_took_away_is_back_after_one_look(running: Running, harm: str) -> None:
    async with running() as bench:
        for number in range(5):
            await bench.ban(f"203.0.113.{number}/32", None if number == 4 else 600)
        await bench.ban("2001:db8:1::/64")
        before = await bench.kernel()
        getattr(fake(bench), harm)()
        await bench.enforcer.reconcile()
        assert await bench.kernel() == before


async def test_a_full_set_gives_up_the_ban_that_ends_soonest_and_tells(running: Running) -> None:
    async with running() as bench:
        fake(bench).capacity = 2
        await bench.ban("203.0.113.1/32", 900)
        await bench.ban("203.0.113.2/32", 100)
        await bench.ban("203.0.113.3/32", 500)
        assert set(await bench.kernel()) == {"203.0.113.1/32", "203.0.113.3/32"}
        assert bench.told[-2:] == ["banned 203.0.113.3/32", "evicted 203.0.113.2/32"]
        assert len(bench.ledger) == 2


async def test_in_a_full_set_a_newcomer_that_ends_soonest_is_given_up_itself(running: Running) -> None:
    async with running() as bench:
        fake(bench).capacity = 2
        await bench.ban("203.0.113.1/32", None)
        await bench.ban("203.0.113.2/32", 900)
        await bench.ban("203.0.113.3/32", 50)
        assert set(await bench.kernel()) == {"203.0.113.1/32", "203.0.113.2/32"}
        assert bench.told[-2:] == ["banned 203.0.113.3/32", "evicted 203.0.113.3/32"]
        assert bench.done[-1].seconds is None
        await bench.ban("203.0.113.4/32", None)
        assert set(await bench.kernel()) == {"203.0.113.1/32", "203.0.113.4/32"}
        await bench.ban("203.0.113.5/32", None)
        assert bench.told[-1] == "evicted 203.0.113.5/32"
        assert len(bench.ledger) == 2


async def test_many_newcomers_at_once_in_a_full_set_leave_the_longest_bans(running: Running) -> None:
    async with running() as bench:
        fake(bench).capacity = 10
        for number in range(10):
            await bench.ban(f"203.0.113.{number}/32", 1000 + number)
        for number in range(10, 40):
            bench.order(f"203.0.113.{number}/32", 500 + 100 * number)
        await bench.enforcer.settle()
        assert set(await bench.kernel()) == {f"203.0.113.{number}/32" for number in range(30, 40)}
        assert len(bench.ledger) == 10
        assert not bench.enforcer.has_trouble


async def test_a_ban_longer_than_the_kernel_can_count_is_armed_again(running: Running, clock: Clock) -> None:
    async with running() as bench:
        await bench.ban("203.0.113.1/32", 60 * DAY)
        assert (await bench.kernel())["203.0.113.1/32"] == MAX_TIMEOUT
        for left in (48 * DAY, 36 * DAY, 24 * DAY, 12 * DAY):
            clock.advance(12 * DAY)
            bench.enforcer._listed_at = -inf
            await bench.enforcer.reconcile()
            assert (await bench.kernel())["203.0.113.1/32"] == min(left, MAX_TIMEOUT)


async def test_a_ban_for_ever_that_somebody_shortened_is_for_ever_again(running: Running) -> None:
    async with running() as bench:
        await bench.ban("203.0.113.0/24", None)
        await bench.firewall.add([Entry(ip_network("203.0.113.0/24"), 10)])
        bench.enforcer._listed_at = -inf
        await bench.enforcer.reconcile()
        assert await bench.kernel() == {"203.0.113.0/24": None}


async def test_unknown_entries_are_adopted_and_those_that_must_not_be_removed(running: Running) -> None:
    async with running() as bench:
        strangers = {"203.0.113.1/32": 600, "203.0.113.2/32": None, "192.0.2.7/32": 600, "203.0.113.3/32": 2}
        await bench.firewall.add([Entry(ip_network(network), left) for network, left in strangers.items()])
        await bench.enforcer.reconcile()
        assert bench.adopted == ["203.0.113.1/32", "203.0.113.2/32"]
        assert "192.0.2.7/32" not in await bench.kernel()


async def test_a_ban_that_just_ended_is_not_taken_for_a_stranger(running: Running, clock: Clock) -> None:
    """The kernel begins to count when it gets the ban, a moment after we did."""
    async with running() as bench:
        await bench.ban("203.0.113.1/32", 100)
        fake(bench).advance(-0.5)
        clock.advance(100)
        bench.ledger.expire(clock())
        bench.enforcer._listed_at = -inf
        await bench.enforcer.reconcile()
        assert (bench.adopted, len(bench.ledger)) == ([], 0)


async def test_whoever_waits_is_answered_while_others_go_on_attacking(running: Running, clock: Clock) -> None:
    firewall = SlowFirewall(clock)
    async with running(firewall) as bench:
        firewall.slow = "add"
        bench.order("203.0.113.1/32")
        waiting = asyncio.create_task(bench.enforcer.settle())
        await firewall.is_waited_for.wait()

        def never_idle() -> None:
            bench.order("203.0.113.2/32")
            if not waiting.done():
                asyncio.get_running_loop().call_soon(never_idle)

        never_idle()
        firewall.gate.set()
        async with asyncio.timeout(5):
            await waiting
        assert ip_network("203.0.113.1/32") in firewall.adds[0]


async def test_a_ban_that_was_lifted_before_its_turn_never_gets_in(running: Running) -> None:
    async with running() as bench:
        bench.order("203.0.113.1/32")
        await bench.unban("203.0.113.1/32")
        assert (await bench.kernel(), bench.done) == ({}, [])


async def test_observe_mode_empties_the_sets_and_tells_of_bans(running: Running) -> None:
    firewall = FakeFirewall()
    await firewall.open()
    await firewall.add([Entry(ip_network("203.0.113.9/32"), 600)])
    async with running(firewall, is_enforcing=False) as bench:
        await bench.ban("203.0.113.1/32")
        assert (await bench.kernel(), bench.told) == ({}, ["banned 203.0.113.1/32"])


@pytest.mark.parametrize("is_enforcing", [True, False])
async def test_sets_that_are_as_they_should_be_are_not_listed_again(running: Running, is_enforcing: bool) -> None:
    firewall = FakeFirewall()
    async with running(firewall, is_enforcing=is_enforcing) as bench:
        await bench.ban("203.0.113.1/32")
        listed_at = bench.enforcer._listed_at
        for _ in range(3):
            await bench.enforcer.reconcile()
        assert bench.enforcer._listed_at == listed_at
        assert not bench.enforcer._is_listing_due


async def test_bans_that_the_kernel_has_and_we_were_not_told_of_yet_start_no_comparison(
    running: Running, clock: Clock
) -> None:
    firewall = SlowFirewall(now=clock)
    async with running(firewall) as bench:
        await bench.enforcer.reconcile()
        firewall.walks, firewall.slow = 0, "answer"
        crowd = [f"203.0.113.{number}/32" for number in range(200)]
        crowd += [f"198.51.100.{number}/32" for number in range(200)]
        for network in crowd:
            bench.order(network)
        await firewall.is_waited_for.wait()
        for _ in range(3):
            await bench.enforcer.reconcile()
        assert 0 < len(firewall.adds[-1]) < len(crowd)
        assert firewall.walks == 0
        firewall.gate.set()
        await bench.enforcer.settle()
        for _ in range(3):
            await bench.enforcer.reconcile()
        assert firewall.walks == 0
        assert (await bench.kernel()).keys() == set(crowd)


async def test_missing_rights_while_running_are_no_end(running: Running) -> None:
    async with running() as bench:
        fake(bench).fail_next(FirewallPermission("no rights"), times=3)
        await bench.ban("203.0.113.1/32")
        await bench.enforcer.reconcile()
        await bench.enforcer.reconcile()
        await bench.enforcer.reconcile()
        assert list(await bench.kernel()) == ["203.0.113.1/32"]


@pytest.mark.kernel
async def test_20_000_bans_that_somebody_flushed_are_back_within_5_seconds(running: Running) -> None:
    count = 20_000
    firewall, other = IpsetFirewall("chaos-"), IpsetFirewall("chaos-")
    try:
        async with running(firewall) as bench:
            networks = [ip_network((ip_address("198.18.0.0") + number, 32)) for number in range(count)]
            for network in networks:
                bench.ledger.put(network, bench.clock() + 3600)
            await bench.enforcer.reconcile()
            assert sum(state.count for state in await firewall.states()) == count
            await other.remove(networks)
            assert sum(state.count for state in await firewall.states()) == 0
            async with asyncio.timeout(5):
                await bench.enforcer.reconcile()
            assert sum(state.count for state in await firewall.states()) == count
    finally:
        await other.remove_sets()
        await other.close()
        await firewall.close()
