"""
How fast the store takes and gives back bans: ``python -m bench.store`` (a minute; ``--quick`` leaves out the million).

Run on the disk you mean: ``TMPDIR`` chooses it.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from amiwatch.judgement.values import Ban, Evidence
from amiwatch.store import schema, statements
from amiwatch.store.reader import Reader
from amiwatch.store.records import AttemptCount
from amiwatch.store.writer import Store

NOW = time.time()
BASE = int(IPv4Address("10.0.0.0"))


def ban(number: int) -> Ban:
    address = IPv4Address(BASE + number)
    event = Evidence(NOW, "InvalidAccountID", "PJSIP", "100", f"call-{number}", "UDP", str(address), 5060)
    return Ban(
        IPv4Network((int(address), 32)), address, NOW, 86400, 1, "unknown accounts", "5 unknown accounts in 10 minutes",
        "PJSIP", number % 2 == 1, (event,) * 5,  # half of a million is the ceiling of unproven bans
    )  # fmt: skip


def attempt(number: int) -> AttemptCount:
    return AttemptCount("office", IPv4Address(BASE + number), "100", "PJSIP", "UDP", "unknown account", 3, NOW, NOW)


def report(what: str, seconds: float, rows: int) -> None:
    print(f"{what:<58} {seconds:8.3f} s  {rows / seconds:12,.0f} rows/s")


async def puts(path: Path) -> None:
    async with await Store.open(path) as store:
        bans = [ban(number) for number in range(20_000)]
        begin = time.perf_counter()
        for one in bans:
            store.put_ban(one, pbx="office", origin="rule", is_enforced=True)
        report("put_ban, on the event loop", time.perf_counter() - begin, len(bans))
        await store.flush()
        report("put_ban until committed (5 events of evidence each)", time.perf_counter() - begin, len(bans))

        attempts = [attempt(number) for number in range(40_000)]
        begin = time.perf_counter()
        store.put_attempts(attempts)
        report("put_attempts, on the event loop", time.perf_counter() - begin, len(attempts))
        await store.flush()
        report("put_attempts until committed, new rows", time.perf_counter() - begin, len(attempts))
        begin = time.perf_counter()
        store.put_attempts(attempts)
        await store.flush()
        report("put_attempts until committed, rows that exist", time.perf_counter() - begin, len(attempts))

        begin = time.perf_counter()
        store.put_ban(ban(20_001), pbx="office", origin="rule", is_enforced=True)
        await store.flush()
        report("one ban until committed", time.perf_counter() - begin, 1)
        begin = time.perf_counter()
        for _ in range(1000):
            await store.data_version()
        report("data_version, 1,000 times", time.perf_counter() - begin, 1000)


def fill(path: Path, count: int) -> None:
    """Write as many bans as the store would have, without waiting for it."""
    schema.prepare(path)
    rows: Iterator[tuple[object, ...]] = (
        statements.ban_row(number + 1, ban(number), "office", "rule", True, "") for number in range(count)
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        db.executemany(statements.INSERT_BAN, rows)
        db.execute("INSERT INTO offenders SELECT sort_key, network, at, at, until, level, 1 FROM bans")
        db.execute("COMMIT")


async def reads(path: Path, count: int) -> None:
    fill(path, count)
    begin = time.perf_counter()
    store = await Store.open(path)
    size = (await asyncio.to_thread(path.stat)).st_size
    report(f"open, {count:,} bans ({size / 1e6:,.0f} MB)", time.perf_counter() - begin, count)
    async with store:
        begin = time.perf_counter()
        rows = 0
        async for chunk in store.active_ban_chunks(NOW):
            rows += len(chunk)
        report(f"active_ban_chunks, {count:,}", time.perf_counter() - begin, rows)
    with Reader(path) as reader:
        begin = time.perf_counter()
        rows = sum(1 for _ in reader.bans(open_at=NOW, limit=100_000))
        report("Reader.bans, 100,000 rows", time.perf_counter() - begin, rows)
        begin = time.perf_counter()
        for number in range(1000):
            reader.history(IPv4Network((BASE + number * 7, 32)))
        report("Reader.history of one address, 1,000 times", time.perf_counter() - begin, 1000)


def main() -> None:
    print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(puts(Path(folder) / "puts.db"))
        for count in (100_000,) if "--quick" in sys.argv else (100_000, 1_000_000):
            asyncio.run(reads(Path(folder) / f"{count}.db", count))
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
