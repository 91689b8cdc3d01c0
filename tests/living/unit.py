"""The daemon with the rights that its systemd unit gives it: CAP_NET_ADMIN alone, what goes first done by root."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from amiwatch.notify.systemd import RULE_WANTED
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.netns import Wire
from tests.daemon.test_end_to_end import arrives
from tests.living.conftest import PATIENCE, PREFIX

NET_ADMIN_ALONE = ("setpriv", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin")

START_PATIENCE = 15.0
"""Seconds for a program to start and say something, on a machine that is busy with other tests."""


class Unit:
    """The daemon, and the command line as root uses it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.prepared = ""
        """What the step of root said before the start."""
        self._environ = environ
        self._daemon: Process | None = None
        self._said: list[str] = []

    async def start(self) -> None:
        self.prepared = await self.amiwatch("firewall", "install")
        self._daemon = await self._started(*NET_ADMIN_ALONE, sys.executable, "-m", "amiwatch", "run")
        await self.until_said("AMI link hears")

    async def stop(self) -> None:
        assert self._daemon is not None
        self._daemon.terminate()
        await self._daemon.communicate()

    async def amiwatch(self, *arguments: str) -> str:
        """Run a command as root; return all that it printed."""
        process = await self._started(sys.executable, "-m", "amiwatch", *arguments)
        return (await asyncio.wait_for(process.communicate(), START_PATIENCE))[0].decode()

    async def ban(self, address: str) -> None:
        assert "banned for" in (said := await self.amiwatch("ban", address)), said

    async def until_said(self, words: str) -> None:
        """Read on in the log until a line has these words."""
        assert self._daemon is not None
        assert self._daemon.stdout is not None
        async with asyncio.timeout(START_PATIENCE):
            while not any(words in line for line in self._said):
                line = await self._daemon.stdout.readline()
                assert line, f"the daemon has ended: {self._said}"
                self._said.append(line.decode())

    async def _started(self, *command: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *command, env=self._environ, stdin=DEVNULL, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
        )


@asynccontextmanager
async def rule_path(unit: Unit, folder: Path) -> AsyncIterator[None]:
    """Do what amiwatch-rule.path and amiwatch-rule.service do: whenever the file is written, root places the rule."""

    is_over = False

    async def serve() -> None:
        seen = 0
        while not is_over:  # systemd is told by inotify
            await asyncio.sleep(0.05)
            with suppress(FileNotFoundError):
                if (at := (folder / RULE_WANTED).stat().st_mtime_ns) != seen:
                    seen = at
                    await unit.amiwatch("firewall", "install")

    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        is_over = True
        await task


@asynccontextmanager
async def lone_daemon(folder: Path, *, runtime: Path | None = None, **settings: str) -> AsyncIterator[Unit]:
    """Start it beside a fake Asterisk; settings are in capitals, without their prefix."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("AMIWATCH_")}
    if runtime is not None:
        kept["RUNTIME_DIRECTORY"] = str(runtime)
    async with FakeAsterisk() as pbx:
        ours = {
            "AMI__HOST": pbx.host,
            "AMI__PORT": str(pbx.port),
            "AMI__SECRET": "secret",
            "DATABASE": str(folder / "unit.db"),
            "SET_NAME": PREFIX,
            **settings,
        }
        unit = Unit({**kept, **{f"AMIWATCH_{name}": text for name, text in ours.items()}, "COLUMNS": "300"})
        await unit.start()
        try:
            yield unit
        finally:
            await unit.stop()


async def until_arriving(wire: Wire, address: str, *, is_arriving: bool) -> None:
    """Wait until packets of an address arrive, or no longer do; fail after ``PATIENCE``."""
    async with asyncio.timeout(PATIENCE):
        while arrives(wire, address) != is_arriving:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.1)
