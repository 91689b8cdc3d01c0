"""A real database in ``tmp_path``, and bans to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from amiwatch.judgement.values import Ban, Evidence, source_network
from amiwatch.store.writer import Store

NOON = 1_700_000_000.0


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
