"""Whatever the database suffers, bans enter the kernel, and are recorded when it works again."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.config import Settings
from amiwatch.daemon import watch
from amiwatch.daemon.lock import only_one
from amiwatch.daemon.watch import Daemon
from amiwatch.errors import AlreadyRunning, StoreError
from amiwatch.firewall.base import Entry
from amiwatch.judgement.values import Ban
from amiwatch.store import requests
from amiwatch.store.reader import Reader
from amiwatch.store.records import AllowEntry
from amiwatch.store.writer import Store
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.firewall import FakeFirewall
from tests.daemon.conftest import Start, Watched

ATTACKER, NEXT, OLD = "203.0.113.1", "203.0.113.2", "203.0.113.99"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "amiwatch.db"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after the database every tenth of a second."""
    monkeypatch.setattr(watch, "SAVE_TIME", 0.1)


def lock(path: Path) -> sqlite3.Connection:
    other = sqlite3.connect(path, isolation_level=None, timeout=5)
    other.execute("BEGIN EXCLUSIVE")
    return other


async def recorded(it: Watched, path: Path, *networks: str) -> None:
    """Wait until exactly these have an open ban, one each."""
    async with asyncio.timeout(15):
        while True:
            try:
                await it.daemon.flush()
                with Reader(path) as reader:
                    found = sorted(ban.network for ban in reader.bans(open_at=time.time()))
            except StoreError:
                found = []
            if found == sorted(networks):
                return
            await asyncio.sleep(0.05)


async def attacked(it: Watched, address: str) -> None:
    await it.attack(address)
    await it.watcher.until_banned(f"{address}/32")
    assert await it.daemon.firewall.has(ip_network(f"{address}/32"))


async def test_bans_go_on_while_the_database_is_locked_and_the_link_stays(watched: Start, path: Path) -> None:
    async with watched(FakeFirewall()) as it:
        with closing(lock(path)):
            await attacked(it, ATTACKER)
            await asyncio.sleep(1)  # longer than SQLite waits for a lock
            await attacked(it, NEXT)
        await recorded(it, path, f"{ATTACKER}/32", f"{NEXT}/32")
        assert it.watcher.links == ["connected", "hearing"]
        assert (it.pbx.counts["dropped"], it.daemon.faults) == (0, 0)


async def put(path: Path, *networks: str) -> None:
    """Leave what a daemon before us would have left."""
    async with await Store.open(path) as store:
        for network in networks:
            found = ip_network(network)
            ban = Ban(found, found.network_address, time.time() - 60, 86400, 1, "scan", "before")
            store.put_ban(ban, pbx="pbx", origin="rule", is_enforced=True)
        store.put_allow(AllowEntry("198.51.100.7/32", "", 0.0, None, "alice"))
        await store.flush()


@pytest.mark.usefixtures("hasty")
async def test_a_database_that_was_locked_at_the_start_is_learned_and_taught_later(watched: Start, path: Path) -> None:
    await put(path, f"{OLD}/32", "203.0.113.98/32")
    firewall = FakeFirewall()
    await firewall.open()
    strangers = [f"{OLD}/32", "203.0.113.77/32"]
    await firewall.add([Entry(ip_network(network), 600) for network in strangers])
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("PRAGMA locking_mode = EXCLUSIVE")
    held.execute("BEGIN EXCLUSIVE")
    held.execute("CREATE TABLE unrelated (x)")
    async with watched(firewall) as it:
        await attacked(it, ATTACKER)
        held.execute("ROLLBACK")
        held.close()
        known = [f"{OLD}/32", "203.0.113.77/32", "203.0.113.98/32", f"{ATTACKER}/32"]
        await recorded(it, path, *known)
        with Reader(path) as reader:
            assert {ban.network: ban.rule for ban in reader.bans()} == {
                f"{OLD}/32": "scan",
                "203.0.113.98/32": "scan",
                "203.0.113.77/32": "recovered",
                f"{ATTACKER}/32": it.watcher.bans[0][0].rule,
            }
            assert reader.count("bans") == 4
        await it.daemon.allowlist.refresh()
        assert ip_network("198.51.100.7/32") in it.daemon.allowlist.networks
        assert {network for network, _ in it.daemon.judge.ledger.wanted(it.daemon.now())} == set(map(ip_network, known))


async def test_a_moment_without_database_empties_no_allowlist(watched: Start, path: Path) -> None:
    await put(path)
    async with watched(FakeFirewall()) as it:
        allowed = ip_network("198.51.100.7/32")
        assert allowed in it.daemon.allowlist.networks
        path.rename(path.with_suffix(".away"))
        await it.daemon.allowlist.refresh()
        assert allowed in it.daemon.allowlist.networks
        path.with_suffix(".away").rename(path)


@pytest.mark.usefixtures("hasty")
async def test_a_database_that_is_damaged_while_running_is_begun_anew_with_all_that_is_known(
    watched: Start, path: Path
) -> None:
    async with watched(FakeFirewall()) as it:
        await attacked(it, ATTACKER)
        asked = await asyncio.to_thread(requests.ask, path, "allow", "198.51.100.7", by="alice")
        assert await asyncio.to_thread(requests.wait_outcome, path, asked, 5.0)
        await it.daemon.flush()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        await attacked(it, NEXT)
        await recorded(it, path, f"{ATTACKER}/32", f"{NEXT}/32")
        async with asyncio.timeout(10):
            while True:
                await it.daemon.flush()
                with Reader(path) as reader:
                    if [entry.target for entry in reader.allowlist()] == ["198.51.100.7/32"]:
                        break
        assert len(list(path.parent.glob("*.corrupt-*"))) >= 1
        assert it.daemon.faults == 0


async def test_a_file_that_is_no_database_at_the_start_ends_nothing(watched: Start, path: Path) -> None:
    path.write_bytes(b"no database at all " * 500)
    async with watched(FakeFirewall()) as it:
        await attacked(it, ATTACKER)
        await recorded(it, path, f"{ATTACKER}/32")
    assert len(list(path.parent.glob("*.corrupt-*"))) == 1


async def test_a_missing_directory_is_an_end_with_one_sentence(
    settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    pbx = FakeAsterisk()
    pbx.port = 5038
    settings = settings_for(pbx, database=str(tmp_path / "nowhere" / "amiwatch.db"))
    with pytest.raises(StoreError, match="does not exist") as raised:
        await Daemon(settings, firewall=FakeFirewall()).run()
    assert raised.value.exit_code == 74


@pytest.mark.usefixtures("hasty")
async def test_a_database_that_becomes_read_only_is_written_when_it_may_be_again(watched: Start, path: Path) -> None:
    async with watched(FakeFirewall()) as it:
        store = it.daemon.store
        assert store is not None
        await store._connection.pragma("query_only = ON")  # rights would not stop root, who may run these tests
        await attacked(it, ATTACKER)
        with pytest.raises(StoreError):
            await it.daemon.flush()
        await store._connection.pragma("query_only = OFF")
        await recorded(it, path, f"{ATTACKER}/32")


async def test_a_second_daemon_on_the_same_database_does_not_start(watched: Start, path: Path) -> None:
    async with watched(FakeFirewall()) as it:
        second = Daemon(it.daemon.settings, firewall=FakeFirewall())
        with pytest.raises(AlreadyRunning, match="Another amiwatch works with the database") as raised:
            await second.run()
        assert raised.value.exit_code == 75
        assert not it.task.done()
    async with watched(FakeFirewall()):
        pass  # the lock went with the first


def test_the_lock_goes_with_its_process_however_it_ends(path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom amiwatch.daemon.lock import only_one\n"
        "with only_one(Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(AlreadyRunning), only_one(path):
        pass
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with only_one(path, patience=1.0):
        pass


async def test_two_daemons_with_one_set_and_two_databases_lose_no_ban(watched: Start, tmp_path: Path) -> None:
    """Not meant to be, and harmless: each adopts what the other banned."""
    firewall = FakeFirewall()
    async with watched(firewall) as one, watched(firewall, database=str(tmp_path / "other.db")) as other:
        await attacked(one, ATTACKER)
        await attacked(other, NEXT)
        async with asyncio.timeout(10):
            while not len(one.daemon.judge.ledger) == len(other.daemon.judge.ledger) == 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert len(await firewall.entries()) == 2


FULL_DISK = """
    import asyncio, json, subprocess, sys
    from pathlib import Path
    from amiwatch.config import load
    from amiwatch.daemon.watch import Daemon
    from amiwatch.store.reader import Reader
    from amiwatch.testing.asterisk import FakeAsterisk
    from amiwatch.testing.builders import Case, attempt_bytes
    from amiwatch.testing.firewall import FakeFirewall
    from tests.daemon.conftest import Watcher

    folder = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    path, report = folder / "amiwatch.db", {}

    def fill():
        with (folder / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    async def main():
        fill()
        async with FakeAsterisk() as pbx:
            environ = {"AMIWATCH_AMI__PORT": str(pbx.port), "AMIWATCH_AMI__SECRET": "secret",
                       "AMIWATCH_DATABASE": str(path), "AMIWATCH_POLICY": "closed", "AMIWATCH_UNPROVEN_BANS": "100000"}
            settings = load(
                environ=environ, env_file=None, default_config=folder / "no", secrets_directory=folder / "no"
            )
            firewall, watcher = FakeFirewall(), Watcher()
            daemon = Daemon(settings, firewall=firewall, listeners=[watcher])
            task = asyncio.create_task(daemon.run())
            await watcher.until(lambda: "hearing" in watcher.links)
            for number in range(2000):
                source = f"198.18.{number // 250}.{number % 250}"
                await pbx.emit(attempt_bytes(Case.UNKNOWN_ACCOUNT, source=source, transport="TCP"))
            await watcher.until(lambda: len(watcher.bans) == 2000)
            report["in_kernel"] = len(await firewall.entries())
            report["works_when_full"] = daemon.store.is_working
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            async with asyncio.timeout(20):
                while True:
                    try:
                        await daemon.flush()
                        break
                    except Exception:
                        await asyncio.sleep(0.1)
            with Reader(path) as reader:
                report["recorded"] = reader.count("bans")
            report["links"], report["faults"] = watcher.links, daemon.faults
            daemon.stop()
            await task

    asyncio.run(main())
    print(json.dumps(report))
"""


def test_a_full_disk_delays_no_ban_and_loses_none(tmp_path: Path) -> None:
    prefix = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no private mount namespace here")
    command = [*prefix, sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "in_kernel": 2000,
        "works_when_full": False,
        "recorded": 2000,
        "links": ["connected", "hearing"],
        "faults": 0,
    }
