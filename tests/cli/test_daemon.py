"""The program against a running daemon: a process of its own, a FakeAsterisk, a dry run."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import Case, attempt_bytes

PATIENCE = 15.0


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class House:
    """A daemon and whoever asks it."""

    def __init__(self, environ: dict[str, str], cwd: Path) -> None:
        self.environ, self.cwd = environ, cwd
        self.daemon: asyncio.subprocess.Process | None = None

    async def ask(self, *arguments: str) -> Ended:
        process = await self._start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        return Ended(process.returncode or 0, out.decode(), err.decode())

    async def begin(self) -> None:
        """Start the daemon, and wait until it says that it is ready and its sign of life is written."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(self.cwd / "notify"))
            ready.setblocking(False)
            self.environ["NOTIFY_SOCKET"] = str(self.cwd / "notify")
            self.daemon = await self._start("run")
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ready, 4096), PATIENCE)
            assert said.startswith(b"READY=1")
        async with asyncio.timeout(PATIENCE):
            while (await self.ask("status")).code:  # what people would do, too
                pass

    async def end(self) -> Ended:
        assert self.daemon is not None
        if self.daemon.returncode is None:
            self.daemon.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(self.daemon.communicate(), PATIENCE)
        return Ended(self.daemon.returncode or 0, out.decode(), err.decode())

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "amiwatch",
            *arguments,
            env=self.environ,
            cwd=self.cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@pytest.fixture
async def house(environ: dict[str, str], tmp_path: Path, fake_asterisk: FakeAsterisk) -> AsyncIterator[House]:
    environ["AMIWATCH_AMI__PORT"] = str(fake_asterisk.port)
    house = House(environ, tmp_path)
    await house.begin()
    yield house
    await house.end()


async def test_a_change_is_carried_out_by_the_daemon_and_answered(house: House):
    done = await house.ask("ban", "203.0.113.7", "--for", "2h", "-c", "rang all night")
    assert done == Ended(0, "203.0.113.7/32 banned for 2 h\n", "")
    assert (await house.ask("bans", "203.0.113.7")).code == 0
    assert await house.ask("unban", "203.0.113.7") == Ended(0, "203.0.113.7/32 unbanned\n", "")
    assert await house.ask("unban", "203.0.113.7") == Ended(1, "", "amiwatch: 203.0.113.7/32 was not banned\n")
    ended = await house.end()
    assert ended.code == 0
    assert "request verb=ban target='203.0.113.7/32'" in ended.err
    assert (await house.ask("status")).code == 1


async def test_a_daemon_that_has_said_nothing_of_itself_so_far_carries_changes_out(house: House, path: Path):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM daemon")
    assert await house.ask("ban", "203.0.113.7", "--for", "2h") == Ended(0, "203.0.113.7/32 banned for 2 h\n", "")


async def test_the_status_tells_whether_every_pbx_is_heard(house: House, fake_asterisk: FakeAsterisk):
    status = await house.ask("status", "--json")
    told = json.loads(status.out)
    assert status.code == 0
    assert (told["is_running"], told["is_hearing"], told["mode"], told["firewall"]) == (True, True, "enforce", "none")
    assert [(link["pbx"], link["state"]) for link in told["links"]] == [("pbx", "hearing")]
    assert "nothing is dropped" in (await house.ask("status")).out
    await fake_asterisk.stop()
    async with asyncio.timeout(PATIENCE):
        while (gone := await house.ask("status")).code == 0:
            pass
    assert gone.code == 69
    assert "amiwatch: not heard: pbx." in gone.err
    assert "lost" in gone.out
    assert "nothing heard of pbx since" in gone.out


async def test_an_attacker_is_listed_and_explained(house: House, fake_asterisk: FakeAsterisk):
    for number in range(12):
        await fake_asterisk.emit(
            attempt_bytes(Case.UNKNOWN_ACCOUNT, account=f"1{number}", source="198.51.100.7", at=time.time())
        )
    async with asyncio.timeout(PATIENCE):
        while (await house.ask("bans", "198.51.100.7")).code:
            pass
    story = await house.ask("why", "198.51.100.7")
    assert story.code == 0
    assert "unknown accounts" in story.out
    assert "InvalidAccountID PJSIP/UDP account '10'" in story.out


async def test_the_log_is_lines_of_a_phrase_and_values(house: House):
    lines = (await house.end()).err.splitlines()
    assert any(" INFO watching version=" in line for line in lines)
    assert any("banner='Asterisk Call Manager/11.0.0'" in line for line in lines)


async def test_a_daemon_that_can_not_start_says_why_in_one_sentence(environ: dict[str, str], tmp_path: Path):
    house = House(environ, tmp_path)
    del environ["AMIWATCH_AMI__SECRET"]
    done = await house.ask("run")
    assert done.code == 78
    assert "AMIWATCH_AMI__SECRET is missing" in done.err
    environ["AMIWATCH_AMI__SECRET"] = "secret"
    environ["AMIWATCH_DATABASE"] = str(tmp_path / "nowhere" / "amiwatch.db")
    done = await house.ask("run")
    assert done.code == 74
    assert done.err.startswith("amiwatch: The directory")
    assert "Traceback" not in done.err


async def test_for_the_journal_a_line_has_its_priority_and_no_time(environ: dict[str, str], tmp_path: Path):
    script = (
        "import os, sys\n"
        "found = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{found.st_dev}:{found.st_ino}'\n"
        "from amiwatch.cli.running import set_up_logging\n"
        "import logging\n"
        "set_up_logging('info')\n"
        "logging.getLogger('amiwatch.x').warning('one\\ntwo')\n"
        "logging.getLogger('amiwatch.x').debug('unheard')\n"
        "logging.getLogger('library').info('unheard')\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environ, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert err.decode() == "<4>one\n<4>two\n"
