"""From the kernel's counters to the sums that a command without rights shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest

from amiwatch.daemon.counting import COUNT_ROWS, COUNT_TIME, Counting
from amiwatch.firewall.base import Entry, Firewall
from amiwatch.firewall.dryrun import DryRunFirewall
from amiwatch.firewall.protection import Protection
from amiwatch.firewall.table import make_rule
from amiwatch.judgement.values import Ban
from amiwatch.store.reader import Reader
from amiwatch.store.writer import Store
from amiwatch.testing.netns import Wire
from tests.firewall.conftest import fresh_ipset, fresh_nftables, settled

NOON = 1_700_000_000.0
ATTACKER = ip_network("198.51.100.7/32")


def ban(network: IPv4Network = ATTACKER) -> Ban:
    return Ban(network, network.network_address, NOON, 3600, 1, "scan", "5 unknown accounts")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "amiwatch.db", now=lambda: NOON) as store:
        yield store


@pytest.fixture(params=[fresh_ipset, fresh_nftables], ids=["ipset", "nftables"])
async def firewall(request: pytest.FixtureRequest) -> AsyncIterator[Firewall]:
    async with request.param() as firewall:
        rule = make_rule(firewall.name, firewall.prefix)
        await rule.install(Protection())
        yield firewall
        await rule.remove()


async def dropped(store: Store) -> int:
    await store.flush()
    with Reader(store.path) as reader:
        return reader.history(ATTACKER)[0].packets


def send(wire: Wire, number: int) -> None:
    for _ in range(number):
        wire.send_from(str(ATTACKER.network_address), 5060, b"OPTIONS")
    settled(wire, 4)


@pytest.mark.kernel
async def test_the_sum_survives_a_restart_a_new_timeout_and_a_flush(
    firewall: Firewall, wire: Wire, store: Store
) -> None:
    store.put_ban(ban(), pbx="", origin="rule", is_enforced=True)
    await firewall.add([Entry(ATTACKER, 3600, is_new=True)])
    counting = Counting(firewall)
    send(wire, 7)
    for _ in range(2):
        await counting.look(store, NOON)
        assert await dropped(store) == 7
    send(wire, 2)
    await firewall.add([Entry(ATTACKER, 7200)])
    await counting.look(store, NOON)
    assert await dropped(store) == 9
    restarted = Counting(firewall)
    send(wire, 1)
    await restarted.look(store, NOON)
    assert await dropped(store) == 10
    await firewall.remove([ATTACKER])  # a flush, or a reboot
    await firewall.add([Entry(ATTACKER, 3000)])
    send(wire, 3)
    await restarted.look(store, NOON)
    assert await dropped(store) == 13
    assert restarted.pause == COUNT_TIME


@pytest.mark.kernel
async def test_a_ban_after_a_ban_has_a_sum_of_its_own(firewall: Firewall, wire: Wire, store: Store) -> None:
    counting = Counting(firewall)
    for number in (7, 7):
        store.put_ban(ban(), pbx="", origin="rule", is_enforced=True)
        await firewall.add([Entry(ATTACKER, 3600, is_new=True)])
        counting.begin(ATTACKER)
        send(wire, number)
        await counting.look(store, NOON)
        assert await dropped(store) == number
        store.put_lift(ATTACKER, at=NOON + 1, by="alice", reason="a test")
        await firewall.remove([ATTACKER])


async def test_those_that_grew_most_are_told_first_and_nobody_is_forgotten(store: Store) -> None:
    class Crowd(DryRunFirewall):
        """Sets in which every entry has dropped something."""

        name = "crowd"

        async def walk(self, take: Callable[[Sequence[Entry]], object]) -> None:
            first = int(ATTACKER.network_address)
            take([Entry(IPv4Network((first + n, 32)), 60, packets=n + 1, octets=n) for n in range(2 * COUNT_ROWS)])

    counting = Counting(Crowd())
    counted = []
    for _ in range(3):
        await counting.look(store, NOON)
        await store.flush()
        with Reader(store.path) as reader:
            counted.append({packets for packets, _ in reader.counters().values()})
    half, full = set(range(COUNT_ROWS + 1, 2 * COUNT_ROWS + 1)), set(range(1, 2 * COUNT_ROWS + 1))
    assert counted == [half, full, full]
