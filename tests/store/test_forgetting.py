"""What is forgotten is gone from the file, and what is open stays."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path

from amiwatch.judgement.values import Alert
from amiwatch.store.reader import Reader
from amiwatch.store.records import AttemptCount
from amiwatch.store.requests import ask
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE, make_attempt, make_ban


async def test_forget_deletes_what_ended_and_keeps_what_is_open(store: Store, path: Path) -> None:
    old = NOON - 100 * 86400
    store.put_ban(make_ban("203.0.113.1", at=old), **OFFICE)
    store.put_ban(make_ban("203.0.113.2", at=old, seconds=None), **OFFICE)
    store.put_ban(make_ban("203.0.113.3"), **OFFICE)
    store.put_attempts([make_attempt(at=old), make_attempt()])
    store.put_alert(Alert(old, "old password", None, "100", ""), pbx="office")
    store.put_tampered("office", old, b"x")
    store.put_gap_begin("office", old, "deaf ever since")
    store.put_link("office", old, "connected", "")
    ask(path, "reload", "", by="alice")
    await store.flush()
    counts = await store.forget(NOON - 90 * 86400)
    assert {table: rows for table, rows in counts.items() if rows} == {
        "bans": 1, "offenders": 1, "attempts": 1, "alerts": 1, "tampered": 1, "links": 1,
    }  # fmt: skip
    with Reader(path) as reader:
        assert {ban.network for ban in reader.bans()} == {"203.0.113.2/32", "203.0.113.3/32"}
        assert (reader.count("gaps"), len(reader.pending_requests()), reader.count("evidence")) == (1, 1, 2)


async def test_forget_lets_a_ban_be_written_between_its_steps(store: Store, path: Path) -> None:
    store.put_attempts([make_attempt(account=str(n), at=NOON - 600 * (1 + n % 50)) for n in range(25_000)])
    await store.flush()
    forgetting = asyncio.create_task(store.forget(NOON))
    store.put_ban(make_ban(), **OFFICE)
    await store.flush()
    assert not forgetting.done()
    assert (await forgetting)["attempts"] == 25_000
    with Reader(path) as reader:
        assert (reader.count("attempts"), reader.count("bans")) == (0, 1)


async def test_forget_gives_space_back_to_the_disk(store: Store, path: Path) -> None:
    store.put_attempts([make_attempt(account="x" * 100 + str(n), at=NOON - 600) for n in range(25_000)])
    await store.flush()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    before = path.stat().st_size
    await store.forget(NOON)
    assert path.stat().st_size < before / 1.5


async def test_all_about_one_address_can_be_forgotten_but_not_its_ban(store: Store, path: Path) -> None:
    network = ip_network("203.0.113.7/32")
    store.put_ban(make_ban(at=NOON - 60, seconds=30), **OFFICE)
    store.put_ban(make_ban(at=NOON - 10), **OFFICE)
    store.put_ban(make_ban("203.0.113.8", at=NOON - 60, seconds=30), **OFFICE)
    store.put_attempts([make_attempt(), make_attempt("203.0.113.8")])
    store.put_alert(Alert(NOON, "old password", ip_address("203.0.113.7"), "100", ""), pbx="office")
    store.put_trust(network, "100", NOON, NOON + 60, NOON)
    store.put_tampered("office", NOON, b"RemoteAddress: IPV4/UDP/203.0.113.7/5060")
    store.finish_request(ask(path, "unban", "203.0.113.7/32", by="alice"), "done", True)
    await store.flush()
    counts = await store.forget_network(network)
    assert counts == {
        "bans": 1, "offenders": 0, "counters": 0, "attempts": 1, "alerts": 1, "trust": 1, "requests": 1, "tampered": 1,
        "kept": 1,
    }  # fmt: skip
    with Reader(path) as reader:
        assert [ban.at for ban in reader.history(network)] == [NOON - 10]
        assert reader.count("bans") == 2
        assert reader.count("attempts") == 1
    store.put_lift(network, at=NOON, by="alice", reason="")
    await store.flush()
    counts = await store.forget_network(network)
    assert (counts["bans"], counts["offenders"], counts["kept"]) == (1, 1, 0)
    await store.close()
    assert b"203.0.113.7" not in path.read_bytes()


async def test_an_ipv6_address_is_forgotten_as_its_64(store: Store, path: Path) -> None:
    store.put_attempts(
        [AttemptCount("office", ip_network("2001:db8::/64"), "100", "PJSIP", "UDP", "unknown account", 1, NOON, NOON)]
    )
    await store.flush()
    with Reader(path) as reader:
        assert len(list(reader.attempts(within=ip_network("2001:db8::7/128")))) == 1
    assert (await store.forget_network(ip_network("2001:db8::7/128")))["attempts"] == 1
