"""The proof beside a daemon that runs: it takes nothing from it, and leaves nothing with it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest

from amiwatch.cli.asking import living
from amiwatch.firewall import leftovers
from amiwatch.firewall.table import make_firewall, make_rule
from amiwatch.store.reader import Reader
from tests.daemon.conftest import Start

pytestmark = pytest.mark.kernel

ATTACKER = "198.51.100.20"


@pytest.mark.parametrize("kind", ["ipset", "nftables"])
async def test_a_proof_is_no_ban_for_the_daemon(kind: str, watched: Start, tmp_path: Path) -> None:
    database = tmp_path / "amiwatch.db"
    environ = {name: text for name, text in os.environ.items() if not name.startswith("AMIWATCH_")} | {
        "AMIWATCH_DATABASE": str(database),
        "AMIWATCH_FIREWALL": kind,
        "AMIWATCH_SET_NAME": "beside",
        "AMIWATCH_AMI__SECRET": "secret",
    }
    async with partial(watched, FIREWALL=kind, set_name="beside")() as it:
        await it.attack(ATTACKER)
        await it.watcher.until_banned(f"{ATTACKER}/32")
        for _ in range(3):  # the daemon compares ledger and kernel meanwhile, and sees entries that nobody knows
            program = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "amiwatch", "firewall", "test", env=environ, cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await program.communicate()
            assert program.returncode == 0, said.decode()
        assert [str(ban.network) for ban, _ in it.watcher.bans] == [f"{ATTACKER}/32"]
        assert [entry.network for entry in await it.daemon.firewall.entries()] == [ip_network(f"{ATTACKER}/32")]
        await it.daemon.flush()
    with Reader(database) as reader:
        assert [ban.network for ban in reader.bans()] == [f"{ATTACKER}/32"]
    firewall = make_firewall(kind, prefix="beside")
    await make_rule(kind, "beside").remove()
    await firewall.remove_sets()
    await firewall.close()


@pytest.mark.parametrize("kind", ["ipset", "nftables"])
async def test_a_proof_beside_an_observing_daemon_touches_nothing_of_its(
    kind: str, watched: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("AMIWATCH_")} | {
        "AMIWATCH_DATABASE": str(tmp_path / "amiwatch.db"),
        "AMIWATCH_FIREWALL": kind,
        "AMIWATCH_SET_NAME": "beside",
        "AMIWATCH_AMI__SECRET": "secret",
    }
    async with partial(watched, FIREWALL=kind, set_name="beside", mode="observe")() as it:
        await it.daemon.flush()
        await asyncio.to_thread(_until_alive, tmp_path / "amiwatch.db")
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "amiwatch", "firewall", "test", env=environ, cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await program.communicate()
        assert program.returncode == 0, said.decode()
        assert "In observe mode nothing is put into the live sets" in said.decode()
        assert "taken out of the kernel" not in caplog.text
    await leftovers.remove(kind, "beside")


def _until_alive(path: Path) -> None:
    """Wait until the database knows that the daemon runs: only then does the program know that it observes."""
    while living(path) is None:
        time.sleep(0.05)
