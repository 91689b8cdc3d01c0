"""Learned ports and switches."""

from pathlib import Path

from amiwatch.store.reader import Reader
from amiwatch.store.records import LearnedPort
from amiwatch.store.writer import Store

from .conftest import NOON


async def test_a_port_that_is_learned_anew_is_one_row_with_the_newest_time(store: Store, path: Path) -> None:
    store.put_learned_port(LearnedPort("udp", 38000, "office", NOON))
    store.put_learned_port(LearnedPort("tcp", 38000, "office", NOON))
    store.put_learned_port(LearnedPort("udp", 38000, "berlin", NOON + 60))
    await store.flush()
    newest = [LearnedPort("tcp", 38000, "office", NOON), LearnedPort("udp", 38000, "berlin", NOON + 60)]
    assert await store.learned_ports() == newest
    with Reader(path) as reader:
        assert list(reader.learned_ports()) == newest


async def test_a_port_that_was_not_seen_for_long_is_forgotten(store: Store) -> None:
    store.put_learned_port(LearnedPort("udp", 38000, "office", NOON))
    store.put_learned_port(LearnedPort("udp", 38001, "office", NOON + 60))
    await store.flush()
    await store.forget(NOON + 30)
    assert [port.port for port in await store.learned_ports()] == [38001]


async def test_a_switch_is_as_it_was_put_last(store: Store) -> None:
    assert await store.switches() == {}
    store.put_switch("tiers", is_on=True, at=NOON, by="alice")
    await store.flush()
    assert await store.switches() == {"tiers": True}
    store.put_switch("tiers", is_on=False, at=NOON + 1, by="bob")
    await store.flush()
    assert await store.switches() == {"tiers": False}
