"""A real database in ``tmp_path``, and bans to put into it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from amiwatch.judgement.values import Ban, Evidence, source_network
from amiwatch.store.records import AttemptCount
from amiwatch.store.writer import Store

NOON = 1_700_000_000.0

OFFICE = {"pbx": "office", "origin": "rule", "is_enforced": True}
"""Where a ban comes from, for ``put_ban``."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "amiwatch.db"


@pytest.fixture
def said() -> list[str]:
    """What the store said loudly."""
    return []


@pytest.fixture
async def store(path: Path, said: list[str]) -> AsyncIterator[Store]:
    async with await Store.open(path, now=lambda: NOON, on_trouble=said.append) as store:
        yield store


@pytest.fixture
def ban() -> Callable[..., Ban]:
    return make_ban


def make_ban(
    text: str = "203.0.113.7", *, at: float = NOON, seconds: int | None = 3600, level: int = 1, account: str = "100"
) -> Ban:
    """Return a ban with one event of evidence."""
    address = ip_address(text)
    evidence = Evidence(at, "InvalidAccountID", "PJSIP", account, "call-1", "UDP", text, 5060)
    return Ban(
        network=source_network(address),
        address=address,
        at=at,
        seconds=seconds,
        level=level,
        rule="unknown accounts",
        reason="5 unknown accounts in 10 minutes",
        service="PJSIP",
        is_proven=False,
        evidence=(evidence,),
    )


def make_attempt(
    source: str = "203.0.113.7", *, account: str = "100", count: int = 1, at: float = NOON
) -> AttemptCount:
    """Return what one source did to one account."""
    return AttemptCount("office", ip_address(source), account, "PJSIP", "UDP", "unknown account", count, at, at + 1)


def make_attempts(number: int) -> list[AttemptCount]:
    """Return one attempt of as many sources."""
    return [make_attempt(str(ip_address(0xC6336400 + index))) for index in range(number)]


def lock(path: Path) -> sqlite3.Connection:
    """Keep everybody else from writing until the connection is closed."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other
