"""Too much at once, odd rows, full disks, sudden death: what is put must wait, be said, and arrive."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from amiwatch.judgement.values import Alert
from amiwatch.store.reader import Reader
from amiwatch.store.requests import ask
from amiwatch.store.writer import Store

from .conftest import NOON, OFFICE, lock, make_attempt, make_attempts, make_ban


async def test_too_many_counts_are_shed_and_said_and_bans_are_not(path: Path, said: list[str]) -> None:
    async with await Store.open(path, on_trouble=said.append, max_waiting=100) as store:
        store.put_attempts(make_attempts(150))
        store.put_ban(make_ban(), **OFFICE)
        store.put_alert(Alert(NOON, "password_found", None, "100", "found"), pbx="office")
        assert store.shed == 50
        store._next_tick = 0.0
        await store.flush()
        assert len(await store.active_bans(NOON)) == 1
        with Reader(path) as reader:
            assert (reader.count("attempts"), reader.count("alerts")) == (100, 1)
    assert said == ["50 rows of attempts or trust were not stored: too many at once."]


async def test_a_thousand_rows_are_one_transaction(store: Store) -> None:
    store.put_attempts(make_attempts(1000))
    await store.flush()
    assert (store.written, store.commits) == (1000, 1)


async def test_a_row_that_sqlite_refuses_takes_no_other_with_it(store: Store, path: Path, said: list[str]) -> None:
    store.put_ban(make_ban(), **OFFICE)
    store.put_attempts([*make_attempts(3), make_attempt(count=2**70)])
    await store.flush()
    assert store.lost == 1
    assert "SQLite will not take attempt" in said[0]
    with Reader(path) as reader:
        assert (reader.count("bans"), reader.count("attempts")) == (1, 3)


async def test_a_put_that_makes_no_sense_does_not_end_the_writer(store: Store, said: list[str]) -> None:
    store.put_lift(None, at=NOON, by="alice", reason="")  # type: ignore[arg-type]
    store.put_ban(make_ban(), **OFFICE)
    await store.flush()
    assert (store.lost, len(await store.active_bans(NOON))) == (1, 1)
    assert "will not take lift" in said[0]


async def test_close_ends_in_time_when_the_database_is_locked_and_says_what_is_lost(
    path: Path, said: list[str]
) -> None:
    store = await Store.open(path, on_trouble=said.append)
    with closing(lock(path)):
        store.put_ban(make_ban(), **OFFICE)
        await store.close()
    assert store.lost == 1
    assert "before the end: 1 rows" in said[-1]


def run(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    program = [*prefix, sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


FULL_DISK = """
    import asyncio, json, subprocess, sys
    from pathlib import Path
    from amiwatch.errors import StoreError
    from amiwatch.store.writer import Store
    from tests.store.conftest import NOON, make_ban

    folder = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    ballast, path = folder / "ballast", folder / "amiwatch.db"
    report = {"said": [], "opened": []}

    def fill():
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    async def write_until_full(store):
        for number in range(1, 20000):
            store.put_ban(make_ban(f"198.51.{number // 256}.{number % 256}"), pbx="p", origin="rule", is_enforced=True)
            if number % 500 == 0:
                try:
                    await store.flush()
                except StoreError as error:
                    return number, str(error)

    async def main():
        fill()
        options = {"on_trouble": report["said"].append, "on_opened": report["opened"].append}
        async with await Store.open_or_wait(path, **options) as store:
            report["opens_when_full"] = store.is_working
            ballast.unlink()
            await store.flush()
            fill_at = ballast.open("wb")
            fill_at.truncate(0)
            number, report["error"] = await write_until_full(store)
            fill()
            report["still_read"] = len(await store.active_bans(NOON)) > 0
            report["working_when_full"] = store.is_working
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            await store.flush()
            report["missing"] = number - len(await store.active_bans(NOON))
            report["lost"] = store.lost

    asyncio.run(main())
    print(json.dumps(report))
"""


def test_a_full_disk_is_waited_out_and_no_ban_is_lost(tmp_path: Path) -> None:
    prefix = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no private mount namespace here")
    done = run(FULL_DISK, tmp_path, prefix=prefix)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["opens_when_full"] is False
    assert report["opened"] == [True]
    assert "No space left" in report["error"]
    assert (report["working_when_full"], report["still_read"]) == (False, True)
    assert (report["missing"], report["lost"]) == (0, 0)
    loud = [sentence.split(" ")[0] for sentence in report["said"]]
    assert len(loud) == 4, report["said"]  # full at start, recovered; full while running, recovered


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from amiwatch.store.writer import Store
    from tests.store.conftest import make_ban

    async def main():
        async with await Store.open(Path(sys.argv[1])) as store:
            start = int(sys.argv[2])
            for number in range(start, start + 100000):
                ban = make_ban(f"198.{number >> 16}.{number >> 8 & 255}.{number & 255}")
                store.put_ban(ban, pbx="p", origin="rule", is_enforced=True)
                if number % 7 == 0:
                    await store.flush()
                    print(number, flush=True)

    asyncio.run(main())
"""


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_kill_9_loses_no_ban_that_was_committed_and_leaves_a_clean_file(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    start = 1
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(start)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(chance.randrange(1, 60))]
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout.read().split()]
        writer.stdout.close()
        writer.wait()
        async with await Store.open(path) as store:
            known = {str(ban.network) for ban in await store.active_bans(NOON)}
        written = range(start, acknowledged[-1] + 1)
        assert {f"198.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in written} <= known
        start = acknowledged[-1] + 1000
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM bans WHERE id NOT IN (SELECT ban_id FROM evidence)").fetchone() == (0,)


ASKER = """
    import sys
    from pathlib import Path
    from amiwatch.store.requests import ask
    for number in range(100):
        ask(Path(sys.argv[1]), "ban", f"203.0.113.{number}/32", by=sys.argv[2])
"""


async def test_two_processes_ask_while_the_daemon_writes(store: Store, path: Path) -> None:
    askers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(ASKER), str(path), name]) for name in ("alice", "bob")
    ]
    bans = 0
    while any(asker.poll() is None for asker in askers):
        bans += 1
        store.put_ban(make_ban(f"198.51.{bans >> 8}.{bans & 255}"), **OFFICE)
        await store.flush()
    assert [asker.wait() for asker in askers] == [0, 0]
    requests = await store.pending_requests()
    assert [request.asked_by for request in requests].count("alice") == 100
    assert len(requests) == 200
    assert len(await store.active_bans(NOON)) == bans


async def test_a_reader_sees_whole_batches_while_the_daemon_writes(store: Store, path: Path) -> None:
    with Reader(path) as reader:
        listing = reader.bans()
        for number in range(3):
            store.put_ban(make_ban(f"203.0.113.{number}"), **OFFICE)
            await store.flush()
            assert reader.count("bans") == number + 1
        assert len(list(listing)) == 3
        ask(path, "reload", "", by="alice")
        assert len(await store.pending_requests()) == 1
