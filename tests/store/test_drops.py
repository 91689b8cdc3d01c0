"""The packets that a ban dropped are summed up from the kernel's counters, never lost and never taken twice."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.judgement.values import Ban
from amiwatch.store.reader import Reader
from amiwatch.store.records import BanRecord
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE

NETWORK = ip_network("203.0.113.7/32")


def history(path: Path) -> list[BanRecord]:
    with Reader(path) as reader:
        return reader.history(NETWORK)


async def count(store: Store, *packets: int) -> None:
    for number in packets:
        store.put_counters(NETWORK, packets=number, octets=number * 100, at=NOON + 5)
    await store.flush()


@pytest.mark.parametrize(
    ("counted", "dropped"),
    [
        ((7,), 7),
        ((7, 7, 7), 7),
        ((7, 12, 41_207), 41_207),
        ((7, 0, 5), 12),
        ((7, 3, 5), 12),
        ((0,), 0),
    ],
    ids=["once", "told again", "growing", "began anew and seen at 0", "began anew and seen later", "nothing"],
)
async def test_a_ban_sums_up_what_the_kernel_counts(
    store: Store, path: Path, ban: Callable[..., Ban], counted: tuple[int, ...], dropped: int
) -> None:
    store.put_ban(ban(), **OFFICE)
    await count(store, *counted)
    (found,) = history(path)
    assert (found.packets, found.octets) == (dropped, dropped * 100)


async def test_a_new_ban_of_the_same_source_begins_at_nothing(
    store: Store, path: Path, ban: Callable[..., Ban]
) -> None:
    store.put_ban(ban(at=NOON - 7200, seconds=3600), **OFFICE)
    await count(store, 50)
    store.put_ban(ban(), **OFFICE)
    await count(store, 60)
    newer, older = history(path)
    assert (newer.packets, older.packets) == (60, 50)


async def test_a_ban_that_replaces_a_living_one_counts_only_what_came_since(
    store: Store, path: Path, ban: Callable[..., Ban]
) -> None:
    store.put_ban(ban(at=NOON - 60), **OFFICE)
    await count(store, 50)
    store.put_ban(ban(seconds=None), **OFFICE)
    await count(store, 60)
    newer, older = history(path)
    assert (newer.packets, older.packets) == (10, 50)


async def test_what_was_counted_before_a_restart_is_not_counted_again(path: Path, ban: Callable[..., Ban]) -> None:
    for packets in (50, 50, 80):
        async with await Store.open(path, now=lambda: NOON) as store:
            if not history(path):
                store.put_ban(ban(), **OFFICE)
            await count(store, packets)
    assert history(path)[0].packets == 80


async def test_the_sum_of_all_bans_and_the_last_counters_can_be_read(
    store: Store, path: Path, ban: Callable[..., Ban]
) -> None:
    store.put_ban(ban(), **OFFICE)
    store.put_ban(ban("203.0.113.8"), **OFFICE)
    await count(store, 50)
    with Reader(path) as reader:
        assert reader.dropped() == (50, 1)
        assert reader.counters() == reader.counters(NETWORK) == {NETWORK: (50, 5000)}
        assert reader.counters(ip_network("203.0.113.8/32")) == {}


async def test_forgetting_an_address_forgets_its_counter(store: Store, path: Path, ban: Callable[..., Ban]) -> None:
    store.put_ban(ban(), **OFFICE)
    await count(store, 50)
    await store.forget_network(NETWORK)
    with Reader(path) as reader:
        assert reader.counters()
    store.put_lift(NETWORK, at=NOON + 9, by="alice", reason="forget her")
    await store.flush()
    await store.forget_network(NETWORK)
    with Reader(path) as reader:
        assert not reader.counters()
