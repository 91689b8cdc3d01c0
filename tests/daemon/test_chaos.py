"""The program as people run it, killed, told to stop, and told to read its settings again, in the middle of a flood."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from amiwatch.ami.client import LinkState
from amiwatch.firewall.ipset import IpsetFirewall
from amiwatch.firewall.rule import DropRule
from amiwatch.store.reader import Reader
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import Case, attempt_bytes

PATIENCE = 30.0
ENDING = 5.0
"""Seconds for a program to end on a busy machine; any wait for a link that is silent takes longer."""
PREFIX = "chaos"


class Program:
    """``python -m amiwatch run``, and how to end it."""

    def __init__(self, pbx: FakeAsterisk, folder: Path, **settings: str) -> None:
        self.pbx, self.folder, self.path = pbx, folder, folder / "amiwatch.db"
        self.process: asyncio.subprocess.Process | None = None
        kept = {name: text for name, text in os.environ.items() if not name.startswith("AMIWATCH_")}
        self.environ = {
            **kept,
            "AMIWATCH_AMI__PORT": str(pbx.port),
            "AMIWATCH_AMI__SECRET": "secret",
            "AMIWATCH_DATABASE": str(self.path),
            "AMIWATCH_SET_NAME": PREFIX,
            "AMIWATCH_UNPROVEN_BANS": "1000000",
            "NOTIFY_SOCKET": str(folder / "notify"),
            **{f"AMIWATCH_{name.upper()}": value for name, value in settings.items()},
        }
        self.log = folder / "log"
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(self.environ["NOTIFY_SOCKET"])
        self._told.setblocking(False)

    async def begin(self) -> None:
        logins = self.pbx.counts["login"]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "amiwatch", "run", env=self.environ, cwd=self.folder, stdout=log, stderr=log
            )
        await self.told(b"READY=1")
        await self.pbx.wait_for_login(logins + 1)

    async def told(self, what: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while not (await asyncio.get_running_loop().sock_recv(self._told, 4096)).startswith(what):
                pass

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self, patience: float = PATIENCE) -> int:
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), patience)

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self._told.close()


@pytest.fixture
async def pbx() -> AsyncIterator[FakeAsterisk]:
    async with FakeAsterisk() as pbx:
        yield pbx


@pytest.fixture
async def firewall() -> AsyncIterator[IpsetFirewall]:
    """Look into the kernel's sets of the program, and leave none behind."""
    firewall = IpsetFirewall(PREFIX)
    yield firewall
    with suppress(Exception):
        await DropRule(PREFIX).remove()
    await firewall.remove_sets()
    await firewall.close()


async def flood(pbx: FakeAsterisk, begin: int, *, repeats: int = 5) -> None:
    """Let one attacker after the other come, without an end."""
    for number in range(begin, 1 << 17):
        source = ip_address("198.18.0.0") + number
        for _ in range(repeats):
            await pbx.emit(attempt_bytes(Case.UNKNOWN_ACCOUNT, source=source, transport="TCP"))
        if number % 20 == 0:
            await asyncio.sleep(0)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def check_database(path: Path) -> None:
    """Assert that the file is sound, and that nothing is banned twice."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        twice = "SELECT network FROM bans WHERE ended_at IS NULL GROUP BY network HAVING count(*) > 1"
        assert db.execute(twice).fetchall() == []
        # Within one life a source is banned once: it must have been recorded before it could be banned again.
        again = "SELECT network FROM bans WHERE rule <> 'recovered' GROUP BY network HAVING count(*) > 1"
        assert db.execute(again).fetchall() == []


@pytest.mark.kernel
@pytest.mark.parametrize("seed", [1, 2])
async def test_kill_9_in_a_flood_loses_no_ban_of_the_kernel(
    pbx: FakeAsterisk, firewall: IpsetFirewall, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    program = Program(pbx, tmp_path, policy="closed")
    seen: set[str] = set()
    try:
        for life in range(4):
            await program.begin()
            attack = asyncio.create_task(flood(pbx, life * 10_000))
            await asyncio.sleep(chance.uniform(0.02, 0.5))
            program.send(signal.SIGKILL)
            await program.ended()
            await stopped(attack)
            kernel = {str(entry.network) for entry in await firewall.entries()}
            assert seen <= kernel
            seen = kernel
        assert seen
        await program.begin()
        program.send(signal.SIGTERM)
        assert await program.ended() == 0
        assert {str(entry.network) for entry in await firewall.entries()} >= seen
        with Reader(program.path) as reader:
            assert {ban.network for ban in reader.bans(open_at=time.time())} >= seen
            assert {gap.reason for gap in reader.gaps()} >= {"amiwatch did not run"}
        check_database(program.path)
        assert list(tmp_path.glob("*.corrupt-*")) == []
    finally:
        await program.close()


@pytest.mark.kernel
async def test_sigterm_in_a_flood_ends_it_and_leaves_the_bans(
    pbx: FakeAsterisk, firewall: IpsetFirewall, tmp_path: Path
) -> None:
    program = Program(pbx, tmp_path, policy="closed")
    try:
        await program.begin()
        attack = asyncio.create_task(flood(pbx, 0))
        async with asyncio.timeout(PATIENCE):
            while sum(state.count for state in await firewall.states()) < 500:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.01)
        program.send(signal.SIGTERM)
        assert await program.ended() == 0
        await stopped(attack)
        kernel = {str(entry.network) for entry in await firewall.entries()}
        with Reader(program.path) as reader:
            assert {ban.network for ban in reader.bans(open_at=time.time())} == kernel
        check_database(program.path)
    finally:
        await program.close()


@pytest.mark.parametrize("trouble", ["nothing", "gone", "frozen", "refused", "slow"])
async def test_sigterm_waits_for_no_link_whatever_it_does(pbx: FakeAsterisk, tmp_path: Path, trouble: str) -> None:
    program = Program(pbx, tmp_path, firewall="none")
    try:
        await program.begin()
        if trouble == "gone":
            await pbx.stop()
        elif trouble == "frozen":
            pbx.freeze()
        elif trouble == "refused":
            pbx.users.clear()
            pbx.hang_up()
        elif trouble == "slow":
            pbx.answer_delay = 2 * PATIENCE
            pbx.hang_up()
        program.send(signal.SIGTERM)
        assert await program.ended(ENDING) == 0
    finally:
        pbx.thaw()
        await program.close()


async def banned(path: Path, network: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with Reader(path) as reader:
                if any(ban.network == network for ban in reader.bans()):
                    return
            await asyncio.sleep(0.05)


async def attempt(pbx: FakeAsterisk, source: str, *accounts: int) -> None:
    for account in accounts:
        await pbx.emit(
            attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"{account}", source=source, session=f"{account}@{source}")
        )


async def test_sighup_reads_allowlist_and_policy_and_forgets_no_half_way_offender(
    pbx: FakeAsterisk, tmp_path: Path
) -> None:
    settings = tmp_path / "amiwatch.toml"
    text = 'allowlist = ["192.0.2.0/24"]\n[rules.scan]\nlimit = {limit}\nfind_time = "10m"\n'
    rule = next(iter(rule for rule in _rules() if rule[1] == "accounts"))[0]
    text = text.replace("rules.scan", f'rules."{rule}"')
    settings.write_text(text.format(limit=9))
    program = Program(pbx, tmp_path, firewall="none", config=str(settings), trust_factor="1")
    try:
        await program.begin()
        await attempt(pbx, "203.0.113.1", *range(4))
        settings.write_text(text.format(limit="nine"))
        program.send(signal.SIGHUP)
        await program.told(b"RELOADING=1")
        await program.told(b"READY=1")
        assert "the old ones stay" in program.log.read_text()
        settings.write_text('mode = "observe"\n' + text.format(limit=6).replace("192.0.2", "198.51.100"))
        program.send(signal.SIGHUP)
        await program.told(b"RELOADING=1")
        await program.told(b"READY=1")
        assert "settings changed that need a restart names=mode" in program.log.read_text()
        await attempt(pbx, "198.51.100.7", *range(12))
        await attempt(pbx, "203.0.113.1", 4, 5)
        await banned(program.path, "203.0.113.1/32")
        with Reader(program.path) as reader:
            (ban,) = reader.bans()
            assert (ban.network, ban.is_enforced) == ("203.0.113.1/32", 1)
            assert [link.state for link in reader.links()].count(LinkState.HEARING) == 1
    finally:
        await program.close()


def _rules() -> list[tuple[str, str]]:
    from amiwatch.judgement.rules import POLICIES

    return [(rule.name, rule.measure.name.lower()) for rule in POLICIES["office"]]


async def test_a_second_program_on_the_same_database_ends_with_one_sentence(pbx: FakeAsterisk, tmp_path: Path) -> None:
    program = Program(pbx, tmp_path, firewall="none")
    try:
        await program.begin()
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "amiwatch", "run", env=program.environ, stderr=asyncio.subprocess.PIPE, cwd=tmp_path
        )
        _, said = await asyncio.wait_for(second.communicate(), PATIENCE)
        assert second.returncode == 75
        assert said.decode().splitlines()[-1].startswith("amiwatch: Another amiwatch works with the database")
        assert b"Traceback" not in said
        assert program.process is not None
        assert program.process.returncode is None
    finally:
        await program.close()


@pytest.mark.kernel
async def test_a_command_without_a_daemon_waits_for_the_one_before_it(
    pbx: FakeAsterisk, firewall: IpsetFirewall, tmp_path: Path
) -> None:
    program = Program(pbx, tmp_path, drop_rule="manual")
    try:
        commands = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "amiwatch", "ban", f"203.0.113.{number}", env=program.environ, cwd=tmp_path
            )
            for number in range(3)
        ]
        assert await asyncio.gather(*(command.wait() for command in commands)) == [0, 0, 0]
        for number in range(3):
            assert await firewall.has(ip_network(f"203.0.113.{number}/32"))
        check_database(program.path)
    finally:
        await program.close()
