"""How very many bans at once get into the kernel, by the judge or by hand, with either firewall."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from time import perf_counter

import pytest

from amiwatch.daemon.petitions import IN_ONE_GO
from amiwatch.daemon.watch import ALONE, Daemon
from amiwatch.judgement.values import Ban
from amiwatch.store import requests
from amiwatch.store.reader import Reader

from .conftest import PATIENCE, Start

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


async def test_very_many_requests_are_carried_out_in_their_order_and_all_answered(
    guarded: Start, tmp_path: Path
) -> None:
    crowd = [f"198.18.{number >> 8}.{number & 255}" for number in range(2 * IN_ONE_GO)]
    verbs = [("ban", target) for target in crowd[:70]]
    verbs += [("unban", crowd[3]), ("ban", "127.0.0.1"), ("ban", crowd[4]), ("unban", crowd[4]), ("ban", crowd[3])]
    verbs += [("ban", target) for target in crowd[70:]]
    async with guarded() as watched:
        ids = await asyncio.to_thread(asked, tmp_path / "amiwatch.db", verbs)
        wait = partial(requests.wait_outcome, tmp_path / "amiwatch.db", ids[-1], PATIENCE)
        assert await asyncio.to_thread(wait)
        with Reader(tmp_path / "amiwatch.db") as reader:
            assert reader.pending_requests() == []
        held = {str(entry.network.network_address) for entry in await watched.daemon.firewall.entries()}
        assert held == {*crowd} - {crowd[4]}
        told = [str(one.address) for one, _ in watched.watcher.bans]
        assert told == [target for verb, target in verbs if verb == "ban" and target in crowd]


def asked(path: Path, verbs: list[tuple[str, str]]) -> list[int]:
    sql = "INSERT INTO requests (at, asked_by, verb, target, seconds, comment) VALUES (0, 'alice', ?, ?, 600, '')"
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as db, db:
        return [db.execute(sql, row).lastrowid or 0 for row in verbs]
