"""Locked, damaged, foreign and vanished files: what is put waits, is said, and arrives in a whole one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.errors import StoreError, StoreUnavailable
from amiwatch.store.reader import Reader
from amiwatch.store.records import StoredBan
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE, lock, make_attempts, make_ban


async def test_a_locked_database_keeps_the_ban_waiting_until_it_is_free(path: Path, said: list[str]) -> None:
    async with await Store.open(path, on_trouble=said.append, patience=0.0) as store:
        with closing(lock(path)):
            store.put_ban(make_ban(), **OFFICE)
            with pytest.raises(StoreUnavailable, match="locked"):
                await store.flush()
            assert not store.is_working
            assert store.waiting == 1
        await store.flush()
        assert store.is_working
        assert len(await store.active_bans(NOON)) == 1
    assert len(said) == 2
    assert "locked" in said[0]
    assert "takes writes again" in said[1]


async def test_a_short_lock_is_not_called_trouble(path: Path, said: list[str]) -> None:
    async with await Store.open(path, on_trouble=said.append) as store:
        with closing(lock(path)):
            store.put_ban(make_ban(), **OFFICE)
            with pytest.raises(StoreUnavailable):
                await store.flush()
        await store.flush()
    assert said == []


async def test_a_database_that_is_locked_at_start_is_opened_later(path: Path, said: list[str]) -> None:
    await (await Store.open(path)).close()
    opened: list[bool] = []
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("PRAGMA locking_mode = EXCLUSIVE")
    held.execute("BEGIN EXCLUSIVE")
    held.execute("CREATE TABLE unrelated (x)")
    with pytest.raises(StoreUnavailable):
        await Store.open(path)
    async with await Store.open_or_wait(path, on_trouble=said.append, on_opened=opened.append, patience=0.0) as store:
        store.put_ban(make_ban(), **OFFICE)
        assert not store.is_working
        assert await store.data_version() == 0
        with pytest.raises(StoreUnavailable):
            await store.active_bans(NOON)
        held.execute("ROLLBACK")
        held.close()
        await store.flush()
        assert len(await store.active_bans(NOON)) == 1
    assert opened == [False]
    assert "takes writes again" in said[-1]


@pytest.mark.parametrize("content", [b"This is no database. " * 300, b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_set_aside_untouched(path: Path, said: list[str], content: bytes) -> None:
    path.write_bytes(content)
    async with await Store.open(path, now=lambda: NOON, on_trouble=said.append) as store:
        store.put_ban(make_ban(), **OFFICE)
        await store.flush()
        assert len(await store.active_bans(NOON)) == 1
    aside = path.with_name("amiwatch.db.corrupt-20231114T221320Z")
    assert aside.read_bytes() == content
    assert len(said) == 1
    assert aside.name in said[0]


async def filled(path: Path) -> None:
    async with await Store.open(path) as store:
        store.put_attempts(make_attempts(3000))
        store.put_ban(make_ban(), **OFFICE)


def damage(path: Path) -> None:
    """Overwrite every page but the first."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


async def test_a_damaged_database_is_set_aside_at_start(path: Path, said: list[str]) -> None:
    await filled(path)
    damage(path)
    async with await Store.open(path, on_trouble=said.append) as store:
        assert await store.active_bans(NOON) == []
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1
    assert "damaged" in said[0]


async def test_a_database_that_is_damaged_while_running_is_replaced_and_the_ban_recorded(
    path: Path, said: list[str]
) -> None:
    await filled(path)
    opened: list[bool] = []
    async with await Store.open(path, on_trouble=said.append, on_opened=opened.append) as store:
        damage(path)
        store.put_ban(make_ban("203.0.113.8"), **OFFICE)
        await store.flush()
        (ban,) = await store.active_bans(NOON)
    assert ban.network == ip_network("203.0.113.8/32")
    assert opened == [True]
    assert "set aside" in said[0]


async def test_damage_that_only_a_read_finds_is_handled_too(path: Path, said: list[str]) -> None:
    await filled(path)
    opened: list[bool] = []
    async with await Store.open(path, on_trouble=said.append, on_opened=opened.append) as store:
        damage(path)
        assert await store.active_bans(NOON) == []
        store.put_ban(make_ban(), **OFFICE)
        await store.flush()
        assert len(await store.active_bans(NOON)) == 1
    assert opened == [True]


async def test_a_database_that_somebody_removed_is_begun_anew(path: Path, said: list[str]) -> None:
    opened: list[bool] = []
    async with await Store.open(path, on_trouble=said.append, on_opened=opened.append) as store:
        version = await store.data_version()
        for file in path.parent.iterdir():
            file.unlink()
        store.put_ban(make_ban(), **OFFICE)
        await store.flush()
        assert len(await store.active_bans(NOON)) == 1
        assert await store.data_version() != version
    assert opened == [True]
    assert "removed" in said[0]


async def test_a_missing_directory_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"directory '.*/nowhere' of the database does not exist"):
        await Store.open_or_wait(tmp_path / "nowhere" / "amiwatch.db")


async def test_a_directory_in_place_of_the_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no file"):
        await Store.open_or_wait(tmp_path)


async def test_a_listing_that_is_cancelled_is_closed_behind_its_running_step(store: Store) -> None:
    """SQLite crashes where one thread closes what another one reads."""
    store.put_ban(make_ban(), **OFFICE)
    await store.flush()
    is_reading, may_read, is_closed = threading.Event(), threading.Event(), threading.Event()
    read: list[StoredBan] = []

    def slowly(reader: Reader) -> Iterator[list[StoredBan]]:
        try:
            is_reading.set()
            may_read.wait(5)
            for part in reader.stored_bans(NOON, 100):
                read.extend(part)
                yield part
        finally:
            is_closed.set()

    async def listing() -> None:
        async for _ in store._connection.chunks(slowly):
            pass

    task = asyncio.create_task(listing())
    await asyncio.to_thread(is_reading.wait, 5)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    may_read.set()
    assert await asyncio.to_thread(is_closed.wait, 5)
    assert len(read) == 1
