"""Real databases, and the real program to look at them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amiwatch.cli.main import app
from amiwatch.judgement.values import Alert, Ban, Evidence
from amiwatch.store.records import AttemptCount
from amiwatch.store.writer import Store

HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\n\u202e[bold]x[/bold]"
"""What a scanner may call itself: colours, a window title, a new line, bidi, rich's markup."""

Fill = Callable[[Store], Awaitable[None] | None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "amiwatch.db"


@pytest.fixture
def environ(path: Path, tmp_path: Path) -> dict[str, str]:
    """Settings of a dry run, and nothing of whoever runs the tests."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("AMIWATCH_", "SUDO_"))}
    ours = {"AMIWATCH_DATABASE": str(path), "AMIWATCH_FIREWALL": "none", "AMIWATCH_AMI__SECRET": "secret"}
    return {**kept, **ours, "TZ": "UTC", "HOME": str(tmp_path), "COLUMNS": "80", "TERMINAL_WIDTH": "80"}


@pytest.fixture
def call(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Call the program within this process; returns typer's result."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name not in environ]:
        monkeypatch.delenv(name)

    def call(*arguments: str, **more: str):
        return CliRunner().invoke(app, list(arguments), env={**environ, **more}, prog_name="amiwatch")

    return call


@pytest.fixture
def program(environ: dict[str, str], tmp_path: Path):
    """Run the program as a process of its own, as people do."""

    def run(*arguments: str, before: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, "-m", "amiwatch", *arguments]
        return subprocess.run(
            command,
            env={**environ, **more},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


@pytest.fixture
def fill(path: Path) -> Callable[[Fill], None]:
    """Put something into the database through the real store."""

    def fill(put: Fill) -> None:
        async def work() -> None:
            async with await Store.open(path) as store:
                done = put(store)
                if done is not None:
                    await done
                await store.flush()

        asyncio.run(work())

    return fill


def make_ban(
    text: str = "203.0.113.7",
    *,
    ago: float = 60.0,
    seconds: int | None = 3600,
    rule: str = "scan",
    reason: str = "5 unknown accounts in 41 s (limit 5 in 10 min)",
    account: str = "100",
) -> Ban:
    network = ip_network(text)
    at = time.time() - ago
    return Ban(
        network=network,
        address=network.network_address,
        at=at,
        seconds=seconds,
        level=1,
        rule=rule,
        reason=reason,
        service="PJSIP",
        is_proven=False,
        evidence=[Evidence(at, "InvalidAccountID", "PJSIP", account, "a@b", "UDP", str(network.network_address), 5060)],
    )


def make_attempts(
    text: str = "203.0.113.7", *, account: str = "100", count: int = 3, ago: float = 30.0, outcome: str = "unknown"
) -> AttemptCount:
    at = time.time() - ago
    return AttemptCount("pbx", ip_address(text), account, "PJSIP", "UDP", outcome, count, at, at)


def make_alert(
    text: str = "203.0.113.7", *, account: str = "100", reason: str = "a phone with an old password"
) -> Alert:
    return Alert(time.time() - 20, "phone", ip_address(text), account, reason)
