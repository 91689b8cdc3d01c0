"""A daemon that runs in the test's own event loop, beside a fake Asterisk, with a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from amiwatch.config import Settings, load
from amiwatch.daemon.watch import Daemon
from amiwatch.firewall import leftovers, libnftables
from amiwatch.firewall.base import Firewall
from amiwatch.judgement.values import Alert, Ban, IPNetwork
from amiwatch.testing.asterisk import FakeAsterisk
from amiwatch.testing.builders import Case, attempt_bytes

PATIENCE = 20.0
"""Seconds until a test fails instead of waiting for ever; a busy machine is no fault."""


class Watcher:
    """A listener that a test can wait with."""

    def __init__(self) -> None:
        self.bans: list[tuple[Ban, float | None]] = []
        self.alerts: list[Alert] = []
        self.lifts: list[IPNetwork] = []
        self.links: list[str] = []
        self._changed = asyncio.Event()

    def banned(self, ban: Ban, pbx: str, seconds: float | None) -> None:
        self.bans.append((ban, seconds))
        self._changed.set()

    def lifted(self, network: IPNetwork) -> None:
        self.lifts.append(network)
        self._changed.set()

    def alerted(self, alert: Alert, pbx: str) -> None:
        self.alerts.append(alert)
        self._changed.set()

    def link_changed(self, pbx: str, state: str, detail: str) -> None:
        self.links.append(state)
        self._changed.set()

    async def until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    async def until_banned(self, *networks: str) -> None:
        await self.until(lambda: set(networks) <= {str(ban.network) for ban, _ in self.bans})


class Watched:
    """The daemon, what it tells, and its Asterisk."""

    def __init__(self, daemon: Daemon, watcher: Watcher, pbx: FakeAsterisk, task: asyncio.Task[None]) -> None:
        self.daemon, self.watcher, self.pbx, self.task = daemon, watcher, pbx, task

    async def attack(self, address: str, *, count: int = 12, transport: str = "UDP") -> None:
        """Let a scanner try so many unknown accounts."""
        for number in range(count):
            data = attempt_bytes(
                Case.UNKNOWN_ACCOUNT,
                account=f"10{number}",
                source=address,
                transport=transport,
                session=f"{number}@{address}",
            )
            await self.pbx.emit(data)


Start = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest.fixture
def settings_for(tmp_path: Path) -> Callable[..., Settings]:
    def make(pbx: FakeAsterisk, **more: str) -> Settings:
        environ = {
            "AMIWATCH_AMI__HOST": pbx.host,
            "AMIWATCH_AMI__PORT": str(pbx.port),
            "AMIWATCH_AMI__SECRET": "secret",
            "AMIWATCH_DATABASE": str(tmp_path / "amiwatch.db"),
            "AMIWATCH_RECONCILE_TIME": "1s",
            **{f"AMIWATCH_{name.upper()}": value for name, value in more.items()},
        }
        return load(
            environ=environ, env_file=None, default_config=tmp_path / "none.toml", secrets_directory=tmp_path / "none"
        )

    return make


@pytest.fixture
def watched(settings_for: Callable[..., Settings]) -> Start:
    """Start a daemon and its Asterisk; back when it hears. Settings are keywords."""

    @asynccontextmanager
    async def start(firewall: Firewall | None = None, **settings: str) -> AsyncIterator[Watched]:
        async with FakeAsterisk() as pbx:
            watcher = Watcher()
            daemon = Daemon(settings_for(pbx, **settings), firewall=firewall, listeners=[watcher])
            task = asyncio.create_task(daemon.run())
            try:
                await asyncio.wait(
                    {task, asyncio.create_task(watcher.until(lambda: "hearing" in watcher.links))},
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if task.done():
                    task.result()
                yield Watched(daemon, watcher, pbx, task)
            finally:
                daemon.stop()
                async with asyncio.timeout(PATIENCE):
                    await task

    return start


PREFIX = "guarded"


@pytest.fixture(params=["ipset", "nftables"])
async def guarded(request: pytest.FixtureRequest, watched: Start) -> AsyncIterator[Start]:
    """Start a daemon with a firewall of its own, named ``PREFIX``, and leave nothing of it behind."""
    if request.param == "nftables" and (why := libnftables.missing()):
        pytest.skip(why)
    # In capitals it is the setting; ``firewall`` would be a firewall of our own instead.
    yield partial(watched, FIREWALL=request.param, set_name=PREFIX)
    await leftovers.remove(request.param, PREFIX)
